"""The renderer's part: note each image's text while the messages are still messages.

Runs in every process that turns requests into prompts, so it covers chat completions, responses,
`LLM.chat` and batches alike. What it notes travels with the prompt to processor.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import ChatTemplateResolutionError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams

from ..config import ScriptConfig
from ..setting import SettingError
from .queries import item_queries, materialize
from .raw_prompt import MARKS, Scaffolding, learn_scaffolding, raw_item_queries
from .refusal import refusal
from .request import REQUEST_KEY, Inquiry, ScriptRequest

_NOTE = "_script"


def build_renderer(config: Any, tokenizer: Any) -> HfRenderer:
    """vLLM's own renderer, or ours where the engine's configuration asks for pruning."""
    pruning = getattr(config.model_config.hf_config, "vllm_script", None) is not None
    return (ScriptRenderer if pruning else HfRenderer)(config, tokenizer)


@dataclass(frozen=True)
class _Note:
    """What the messages said, kept beside the prompt until its images are processed."""

    inquiry: Inquiry
    queries: Mapping[str, Sequence[str]]


class ScriptRenderer(HfRenderer):
    """`HfRenderer` that hands each image's conditioning text to the multimodal processor."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self._script_config = ScriptConfig.of(config.model_config.hf_config)

    def render_messages(self, messages: Any, params: Any) -> Any:
        messages, params, note = _take_note(messages, params)
        conversation, prompt = super().render_messages(messages, params)
        return conversation, {**prompt, _NOTE: note}

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        messages, params, note = _take_note(messages, params)
        conversation, prompt = await super().render_messages_async(messages, params)
        return conversation, {**prompt, _NOTE: note}

    def clear_mm_cache(self) -> None:
        super().clear_mm_cache()
        if self.mm_processor is not None:
            self.mm_processor.pixel_cache.clear()

    def _process_mm_uuids(
        self, mm_data: Any, mm_data_items: Any, mm_uuid_items: Any, mm_req_id: str
    ) -> Any:
        """vLLM numbers images instead of hashing them where it keeps none; our caches do keep."""
        if self._script_config.cache_gb == 0:
            return super()._process_mm_uuids(mm_data, mm_data_items, mm_uuid_items, mm_req_id)
        self._validate_mm_uuids(mm_data, mm_data_items, mm_uuid_items)
        return mm_uuid_items

    def _process_tokens(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        return super()._process_tokens(self._with_request(prompt), skip_mm_cache=skip_mm_cache)

    async def _process_tokens_async(self, prompt: Any, *, skip_mm_cache: bool = False) -> Any:
        prompt = self._with_request(prompt)
        return await super()._process_tokens_async(prompt, skip_mm_cache=skip_mm_cache)

    def _with_request(self, prompt: Any) -> Any:
        """The prompt with a `ScriptRequest` among its processor arguments."""
        prompt = dict(prompt)
        note = prompt.pop(_NOTE, None)
        kwargs = dict(prompt.get("mm_processor_kwargs") or {})
        inquiry = note.inquiry if note else Inquiry(None)
        overrides = inquiry.overrides
        if overrides is None:  # the offline interface has them here, with or without messages
            overrides = kwargs.pop(REQUEST_KEY, None)
        try:
            config, query = self._script_config.for_request(overrides)
        except SettingError as error:
            raise refusal(error.setting, str(error)) from None
        if prompt.get("multi_modal_data"):
            queries = query or (note.queries if note else self._raw_queries(prompt))
            kwargs[REQUEST_KEY] = ScriptRequest(
                config, queries, asked=bool(overrides), explained=inquiry.explained
            )
            prompt["mm_processor_kwargs"] = kwargs
        return prompt

    def _raw_queries(self, prompt: Any) -> Mapping[str, Sequence[str]]:
        """Conditioning texts in a prompt that came as text or token ids."""
        text = prompt.get("prompt")
        if not isinstance(text, str):
            text = self.get_tokenizer().decode(prompt["prompt_token_ids"])
        return raw_item_queries(self._bare(text), self._tokens, self._scaffolding)

    @cached_property
    def _tokens(self) -> dict[str, str]:
        """What stands for an item in a prompt, by modality."""
        processor: Any = self.get_mm_processor()
        return {modality: processor.token(modality) for modality in processor.modalities}

    def _bare(self, text: str) -> str:
        """The prompt without what the chat template writes around those tokens."""
        processor: Any = self.get_mm_processor()
        for modality, token in self._tokens.items():
            text = text.replace(processor.placeholder(modality), token)
        return text

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


def _take_note(messages: Any, params: Any) -> tuple[Any, Any, _Note]:
    messages = materialize(messages)
    template_kwargs = dict(params.chat_template_kwargs)
    asked = template_kwargs.pop(REQUEST_KEY, None)
    inquiry = asked if isinstance(asked, Inquiry) else Inquiry(asked)
    note = _Note(inquiry, item_queries(messages))
    return messages, replace(params, chat_template_kwargs=template_kwargs), note
