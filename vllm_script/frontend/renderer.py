"""The renderer's part: note each image's text while the messages are still messages.

Runs in every process that turns requests into prompts, so it covers chat completions, responses,
`LLM.chat` and batches alike. What it notes travels with the prompt to processor.py.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import ChatTemplateResolutionError, HfRenderer
from vllm.renderers.mistral import MistralRenderer
from vllm.renderers.params import ChatParams

from ..config import ScriptConfig
from ..setting import SettingError
from .peers import Peers
from .phrases import ANSWER_PHRASES, AnswerPhrases
from .queries import (
    MARKS,
    Reader,
    Scaffolding,
    item_queries,
    learn_scaffolding,
    materialize,
    raw_item_queries,
)
from .request import REQUEST_KEY, ScriptRequest, refusal

NOTE_KEY = "_script"
"""Key of a rendered prompt under which a `ScriptRequest` lies until the prompt's items are
processed; its settings are not merged yet."""


def build_hf_renderer(config: Any, tokenizer: Any) -> HfRenderer:
    """vLLM's own renderer, or ours where the engine's configuration asks for pruning."""
    return (ScriptRenderer if _asked(config) else HfRenderer)(config, tokenizer)


def build_mistral_renderer(config: Any, tokenizer: Any) -> MistralRenderer:
    """The same for models whose prompts Mistral's tokenizer lays out."""
    return (ScriptMistralRenderer if _asked(config) else MistralRenderer)(config, tokenizer)


def _asked(config: Any) -> bool:
    """Whether an engine's configuration asks for pruning."""
    return getattr(config.model_config, "vllm_script", None) is not None


class PruningRenderer(BaseRenderer):
    """Hands each image's conditioning text to the multimodal processor.

    It goes before one of vLLM's renderers in the bases of a subclass.
    """

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        settings = self._script_config = ScriptConfig.of(config.model_config)
        self._peers = Peers(config)
        phrases = settings.answer_phrases
        self._reader = Reader(
            AnswerPhrases(ANSWER_PHRASES if phrases is None else phrases), settings.system_prompt
        )

    def render_messages(self, messages: Any, params: Any) -> Any:
        messages, params, request = _take_request(messages, params, self._reader)
        conversation, prompt = super().render_messages(messages, params)
        return conversation, {**prompt, NOTE_KEY: request}

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        messages, params, request = _take_request(messages, params, self._reader)
        conversation, prompt = await super().render_messages_async(messages, params)
        return conversation, {**prompt, NOTE_KEY: request}

    def clear_mm_cache(self) -> None:
        super().clear_mm_cache()
        if self.mm_processor is not None:
            self.mm_processor.pixel_cache.clear()

    def _process_mm_uuids(
        self, mm_data: Any, mm_data_items: Any, mm_uuid_items: Any, mm_req_id: str
    ) -> Any:
        """vLLM numbers images instead of hashing them where it keeps none.

        Our caches do keep, and so do other servers. There a number would stand for many images.
        """
        shares = self.config.ec_transfer_config or self.config.kv_transfer_config
        if self._script_config.cache_gb == 0 and shares is None:
            return super()._process_mm_uuids(mm_data, mm_data_items, mm_uuid_items, mm_req_id)
        self._validate_mm_uuids(mm_data, mm_data_items, mm_uuid_items)
        return mm_uuid_items

    def _process_tokens(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        prompt = self._with_request(prompt)
        if prompt.get("multi_modal_data"):
            self._peers.check()
        return super()._process_tokens(prompt, skip_mm_cache=skip_mm_cache)

    async def _process_tokens_async(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        prompt = self._with_request(prompt)
        if self._peers.are_there and prompt.get("multi_modal_data"):
            await asyncio.to_thread(self._peers.check)  # a network folder may take its time
        return await super()._process_tokens_async(prompt, skip_mm_cache=skip_mm_cache)

    def _with_request(self, prompt: Any) -> Any:
        """The prompt with a `ScriptRequest` among its processor arguments."""
        prompt = dict(prompt)
        noted = prompt.pop(NOTE_KEY, None)
        request = noted or ScriptRequest()
        kwargs = dict(prompt.get("mm_processor_kwargs") or {})
        if request.overrides is None:  # the offline interface has them here
            request = replace(request, overrides=kwargs.pop(REQUEST_KEY, None))
        try:
            config, query = self._script_config.for_request(request.overrides)
        except SettingError as error:
            raise refusal(error.setting, str(error)) from None
        if request.accepted is not None:
            request.accepted()
        if prompt.get("multi_modal_data"):
            found = noted.queries if noted else self._raw_queries(prompt)
            kwargs[REQUEST_KEY] = replace(
                request,
                config=config,
                queries=query or found,
                num_placeholders={modality: len(each) for modality, each in found.items()},
                encoder_cache_size=self.config.scheduler_config.encoder_cache_size,
            )
            prompt["mm_processor_kwargs"] = kwargs
        return prompt

    def _raw_queries(self, prompt: Any) -> Mapping[str, Sequence[Sequence[str]]]:
        """Questions in a prompt that came as text or token ids."""
        text = prompt.get("prompt")
        if not isinstance(text, str):
            text = self.get_tokenizer().decode(prompt["prompt_token_ids"])
        return raw_item_queries(self._bare(text), self._tokens, self._scaffolding, self._reader)

    @cached_property
    def _tokens(self) -> dict[str, str]:
        """What stands for an item in a prompt, by modality."""
        processor: Any = self.get_mm_processor()
        family = processor.family
        return {modality: family.token(processor.info, modality) for modality in family.modalities}

    def _bare(self, text: str) -> str:
        """The prompt without what the chat template writes around those tokens."""
        processor: Any = self.get_mm_processor()
        for modality, token in self._tokens.items():
            text = text.replace(processor.family.placeholder(processor.info, modality), token)
        return text

    @property
    @abstractmethod
    def _scaffolding(self) -> Scaffolding:
        """The words that open turns in a prompt."""


class ScriptRenderer(PruningRenderer, HfRenderer):
    """`HfRenderer` that notes questions: the chat template tells where turns begin."""

    @cached_property
    def _scaffolding(self) -> Scaffolding:
        """The default chat template's words around turns; none where it has no template."""
        question, answer, next_question = MARKS
        modality, token = next(iter(self._tokens.items()))
        item = {"type": f"{modality}_url", f"{modality}_url": None, "uuid": "not sent"}
        messages = [
            {"role": "user", "content": [item, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": next_question},
        ]
        params = ChatParams(chat_template_kwargs={"tokenize": False})
        try:
            _, prompt = super().render_messages(messages, params)
        except (ChatTemplateResolutionError, VLLMValidationError):
            return Scaffolding("", "")
        return learn_scaffolding(self._bare(prompt["prompt"]), token)


class ScriptMistralRenderer(PruningRenderer, MistralRenderer):
    """`MistralRenderer` that notes questions: its tokenizer has the marks of turns built in."""

    @property
    def _scaffolding(self) -> Scaffolding:
        return Scaffolding("[INST]", "[/INST]")

    def _bare(self, text: str) -> str:
        """The prompt with one token an image, which has rows of them here."""
        return re.sub(r"(\[IMG\]|\[IMG_BREAK\])+\[IMG_END\]", "[IMG]", text)


def _take_request(messages: Any, params: Any, reader: Reader) -> tuple[Any, Any, ScriptRequest]:
    """Messages that can be read twice, what the chat template may see, and the request in them."""
    messages = materialize(messages)
    template_kwargs = dict(params.chat_template_kwargs)
    asked = template_kwargs.pop(REQUEST_KEY, None)
    request = asked if isinstance(asked, ScriptRequest) else ScriptRequest(asked)
    request = replace(request, queries=item_queries(messages, reader))
    return messages, replace(params, chat_template_kwargs=template_kwargs), request
