"""How many tokens a prompt must have, from its text and the sizes of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, AutoProcessor

from vllm_script.budget import num_kept
from vllm_script.models import family_of, pruned_name


class Expected:
    """Token counts of a model's prompts."""

    def __init__(self, model: str) -> None:
        """`model`: folder or repository of the checkpoint."""
        self.config = AutoConfig.from_pretrained(model)
        self._family = family_of(pruned_name(self.config.architectures[0]))
        processor = AutoProcessor.from_pretrained(model)
        self.tokenizer = processor.tokenizer
        self._template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template

    def visual_tokens(self, width: int, height: int, keep_ratio: float | None) -> int:
        """Those of a picture, width and height in pixels; without a ratio: stock's."""
        return self.before_and_after(width, height, keep_ratio=keep_ratio or 1.0)[1]

    def before_and_after(self, width: int, height: int, **amount: Any) -> tuple[int, int]:
        """Visual tokens of a picture without and with pruning; `amount`: as `num_kept` has it."""
        layout = self._family.layout_of(self.config, height, width)
        before = layout.num_placeholders
        return before, num_kept(*layout.counts, **amount) or before

    def text_tokens(self, text: str) -> int:
        """Those of the chat template around `text` and a picture, without the visual ones."""
        content = [{"type": "text", "text": text}, {"type": "image_url"}]
        return self.tokens_beside_pictures([{"role": "user", "content": content}])

    def tokens_beside_pictures(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Those of a chat, without the visual ones."""
        shown = [{**message, "content": _as_template_reads(message)} for message in messages]
        rendered = self.tokenizer.apply_chat_template(
            shown, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        token_ids = self.tokenizer(rendered, add_special_tokens=False).input_ids
        return len(token_ids) - token_ids.count(self.config.image_token_index)


def _as_template_reads(message: Mapping[str, Any]) -> Any:
    content = message["content"]
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": "image"} for part in content]
