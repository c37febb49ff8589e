"""How many tokens a prompt must have, of any model: stock vLLM's count, shortened by the budget.

Nothing here is asked of a server. vLLM's own template and processor, run in this process, say what
a prompt and an item of a size cost; the plugin's layout says how few of its visual tokens may stay,
and `num_kept` how many do. A layout that has another number of them than vLLM is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vllm_script.budget import num_kept
from vllm_script.layout import Layout

from ..common import data_url
from .cells import Arm
from .own_pruning import own_num_kept
from .requests import Request, Size


class Expected:
    """Token counts of a model's prompts."""

    def __init__(self, model: str) -> None:
        """`model`: folder or repository of the checkpoint."""
        self.model = model
        self._stock = _processor(model)
        self._pruning = _processor(model, {"relevance": "none", "cache_gb": 0})
        self._model_config = self._stock.info.ctx.model_config
        self._items: dict[Size, tuple[Layout, int]] = {}
        self.config = self._stock.info.get_hf_config()
        self.tokenizer = self._stock.info.get_tokenizer()
        self.modalities = tuple(self._pruning.family.modalities)
        """What of the model the plugin prunes: image, video."""
        self.has_thin_tower = self._pruning.family.tower_layer is not None
        """Whether the plugin can thin the model's vision tower."""
        self.own_methods = tuple(self._model_config._model_info.supported_video_pruning_methods)
        """What vLLM itself can prune the model's videos with, as --video-pruning-method has it."""

    def kept_by(self, arm: Arm, size: Size) -> int:
        """Visual tokens that an item has on the server of an arm."""
        if arm.keep_ratio is not None and arm.server in self.own_methods:
            return own_num_kept(arm.server, self._item(size)[0], arm.keep_ratio)
        return self.before_and_after(size, keep_ratio=arm.keep_ratio or 1.0)[1]

    def before_and_after(self, size: Size, **amount: Any) -> tuple[int, int]:
        """Visual tokens of an item without and with pruning; `amount`: as `num_kept` has it."""
        layout, _ = self._item(size)
        before = layout.num_placeholders
        return before, num_kept(*layout.counts, **amount) or before

    def text_tokens(self, request: Request) -> int:
        """Tokens of a prompt without the visual ones: chat template, text, time stamps."""
        return self.tokens_beside([request.message], [request.size])

    def tokens_beside(self, messages: Sequence[Mapping[str, Any]], sizes: Iterable[Size]) -> int:
        """Tokens of a chat with items of these sizes, without the visual ones."""
        return len(self._rendered(messages)[0]) + sum(self._item(size)[1] for size in sizes)

    def _item(self, size: Size) -> tuple[Layout, int]:
        """Layout of an item of that size, and the tokens that come with its visual ones.

        The latter, such as time stamps, less what they replace.

        Raises:
            RuntimeError: vLLM and the plugin's layout disagree.
        """
        if size not in self._items:
            self._items[size] = self._processed(size)
        return self._items[size]

    def _processed(self, size: Size) -> tuple[Layout, int]:
        """Process a black item of that size as stock vLLM does, and return what `_item` says."""
        shape = (size.frames or 1, size.height, size.width, 3)
        frames = np.zeros(shape, dtype=np.uint8)
        request = Request("", size, data_url(frames if size.frames else frames[0]))
        token_ids, data = self._rendered([request.message])
        processed = self._stock(token_ids, self._stock.info.parse_mm_data(data))
        (span,) = processed["mm_placeholders"][size.modality]
        if size.frames is None:
            info = self._pruning.info
            layout = self._pruning.family.image_layout(info, size.height, size.width, {})
        else:
            (item,) = processed["mm_kwargs"]["video"]
            fields = {name: field.data for name, field in item.items()}
            hf_config = self._pruning.info.get_hf_config()
            layout = self._pruning.family.item_layout(hf_config, "video", fields)
        visual = span.get_num_embeds()
        if visual != layout.num_placeholders:
            raise RuntimeError(
                f"vLLM gives a {size.modality} of {size} {visual} visual tokens, the plugin's "
                f"layout {layout.num_placeholders}"
            )
        return layout, len(processed["prompt_token_ids"]) - visual - len(token_ids)

    def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], Any]:
        """The chat before its items are put in, and the items, as vLLM's server reads them."""
        from vllm.renderers.chat_utils import parse_chat_messages
        from vllm.renderers.hf import resolve_chat_template_content_format as resolve_format
        from vllm.renderers.hf import safe_apply_chat_template

        about = {"tokenizer": self.tokenizer, "model_config": self._model_config}
        format = resolve_format(chat_template=None, tools=None, given_format="auto", **about)
        conversation, data, _ = parse_chat_messages(list(messages), self._model_config, format)
        text = safe_apply_chat_template(
            **about, conversation=conversation, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False).input_ids, data


def _processor(model: str, script: dict[str, Any] | None = None) -> Any:
    """vLLM's processor of the model, or the plugin's with these settings."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    args = EngineArgs(model, additional_config={} if script is None else {"script": script})
    return MULTIMODAL_REGISTRY.create_processor(args.create_model_config())
