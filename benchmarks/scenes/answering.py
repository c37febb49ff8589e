"""Answer a question about a picture with an exported folder, through transformers alone."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration

from .tiling import cut, rows_of
from .words import IMAGE

MAX_ANSWER = 6


class Answerer:
    """A loaded model and its tokenizer; tiling.py cuts the pictures, so torchvision is no need."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model: Any = model.eval()

    def inputs(self, picture: np.ndarray, question: str) -> dict[str, torch.Tensor]:
        """Return the model's inputs for a question about a [height, width, 3] uint8 picture."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        height, width = picture.shape[:2]
        prompt = prompt.replace(IMAGE, IMAGE * len(rows_of(height, width)))
        tiles = torch.from_numpy(cut(picture)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return {
            **self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False),
            "pixel_values": tiles[None],
            "image_sizes": torch.tensor([[height, width]]),
        }

    @torch.no_grad()
    def answer(self, picture: np.ndarray, question: str) -> str:
        """Return the greedy answer."""
        inputs = self.inputs(picture, question)
        ids = self.model.generate(**inputs, max_new_tokens=MAX_ANSWER, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        answer: str = self.tokenizer.decode(new, skip_special_tokens=True)
        return answer.strip()
