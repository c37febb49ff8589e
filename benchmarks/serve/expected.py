"""How many tokens a prompt must have, from the size of its picture: what servers are checked on."""

from __future__ import annotations

from transformers import AutoConfig, AutoProcessor

from vllm_script.config import ScriptConfig
from vllm_script.models import family_of, pruned_name
from vllm_script.plan import make_plan


class Expected:
    """Token counts of a model's prompts with one picture."""

    def __init__(self, model: str) -> None:
        """`model`: folder or repository of the checkpoint."""
        self.config = AutoConfig.from_pretrained(model)
        self._family = family_of(pruned_name(self.config.architectures[0]))
        processor = AutoProcessor.from_pretrained(model)
        self.tokenizer = processor.tokenizer
        self._template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template

    def visual_tokens(self, width: int, height: int, keep_ratio: float | None) -> int:
        """Those of a picture, width and height in pixels; without a ratio: stock's."""
        layout = self._family.layout_of(self.config, height, width)
        plan = make_plan(ScriptConfig(keep_ratio=keep_ratio or 1.0), ())
        kept = plan.num_kept(*layout.counts)
        return layout.num_placeholders if kept is None else kept

    def text_tokens(self, text: str) -> int:
        """Those of the chat template around `text` and a picture, without the visual ones."""
        content = [{"type": "text", "text": text}, {"type": "image"}]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        token_ids = self.tokenizer(rendered, add_special_tokens=False).input_ids
        return len(token_ids) - 1  # one stands for the picture
