"""Questions about many pictures at once: Ray Data brings them to engines that prune.

    import ray
    from vllm_script.server.deploy.ray_data import answered

    pictures = ray.data.read_binary_files("s3://bucket/pictures", include_paths=True)
    asked = pictures.map(lambda row: row | {"question": "What does the sign say?"})
    answered(asked, "llava-hf/llava-v1.6-vicuna-7b-hf", {"keep_ratio": 0.11}).write_json("answers")

An engine belongs to a worker of Ray's, and is given batch after batch. (`ray.data.llm` has engines
of its own, for the one vLLM release that Ray names.)
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.data import ActorPoolStrategy, Dataset
from vllm import LLM, SamplingParams

Batch = dict[str, np.ndarray]


def answered(
    asked: Dataset,
    model: str,
    script: Mapping[str, Any],
    *,
    engines: int = 1,
    gpus: float = 1,
    batch_size: int = 128,
    max_tokens: int = 64,
    **options: Any,
) -> Dataset:
    """Answer a question about each picture, greedily.

    Args:
        asked: rows with `bytes`, a picture's file, and `question`.
        model: a folder or repository.
        script: the plugin's settings, such as {"keep_ratio": 0.11}.
        engines: that run at a time.
        gpus: that Ray reserves for each of them.
        batch_size: rows that an engine is given at a time.
        max_tokens: of an answer.
        options: further ones of `vllm.LLM`.

    Returns:
        the same rows, with `answer` and `prompt_tokens` in the place of `bytes`.
    """
    settings = {"model": model, "additional_config": {"script": dict(script)}, **options}
    return asked.map_batches(
        Engine,
        fn_constructor_args=(settings, max_tokens),
        compute=ActorPoolStrategy(size=engines),
        num_gpus=gpus,
        batch_size=batch_size,
    )


class Engine:
    """What a worker keeps: vLLM's engine.

    Args:
        settings: of `vllm.LLM`.
        max_tokens: of an answer.
    """

    def __init__(self, settings: Mapping[str, Any], max_tokens: int) -> None:
        self._llm = LLM(**settings)
        self._sampling = SamplingParams(temperature=0, max_tokens=max_tokens)

    def __call__(self, batch: Batch) -> Batch:
        rows = zip(batch.pop("bytes"), batch["question"], strict=True)
        chats: list[Any] = [[_message(picture, question)] for picture, question in rows]
        outputs = self._llm.chat(chats, self._sampling, use_tqdm=False)
        batch["answer"] = np.array([output.outputs[0].text.strip() for output in outputs])
        batch["prompt_tokens"] = np.array([len(output.prompt_token_ids) for output in outputs])
        return batch


def _message(picture: bytes, question: str) -> dict[str, Any]:
    """A user's message; vLLM finds out by itself what kind of file the picture is."""
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"role": "user", "content": parts}
