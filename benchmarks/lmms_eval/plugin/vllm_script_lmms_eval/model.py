"""The class that lmms-eval makes of `--model vllm_script --model_args url=...,model=...`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from .asking import Question, Server, ask_all


class VllmScript(lmms):
    """A vLLM server as a model of lmms-eval's.

    Args:
        answers: the file that keeps the answers; a later run of the same setting reads it.
        script: the `script` field of every request, as JSON.
        concurrency: requests at once.
        The others are those of `Server`; lmms-eval's own model arguments mean nothing here.
    """

    is_simple = False

    def __init__(
        self,
        url: str,
        model: str,
        answers: str,
        script: str | None = None,
        tokens_per_crop: int | None = None,
        media_root: str | None = None,
        concurrency: int = 32,
        **_lmms_eval: Any,
    ) -> None:
        super().__init__()
        root = Path(media_root) if media_root else None
        key = os.environ.get("OPENAI_API_KEY", "none")
        fields = None if script is None else json.loads(script)
        self.server = Server(url, model, fields, tokens_per_crop, root, key)
        self.answers, self.concurrency = Path(answers), concurrency

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers to the requests, in their order."""
        questions = [self._question(request) for request in requests]
        found = ask_all(self.server, questions, self.answers, self.concurrency)
        return [
            GenerationResult(
                answer.text, TokenCounts(answer.prompt_tokens, answer.output_tokens, None)
            )
            for answer in found
        ]

    def _question(self, request: Instance) -> Question:
        _context, to_messages, generation, doc, task, split = request.args
        messages = partial(_messages, to_messages, self.task_dict[task][split], doc)
        return Question(task, doc, messages, generation)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Raise, as chat completions do not score a text that the client gives."""
        raise NotImplementedError(
            "a chat server generates answers and cannot say how likely a given one is, which this "
            "task asks for; take a task whose output_type is generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raise: papers on pruning report no task of several rounds, so none is compared here."""
        raise NotImplementedError(
            "a task of several rounds is not supported, since the papers that results are set "
            "beside report none; take a task whose output_type is generate_until"
        )


def _messages(to_messages: Any, docs: Any, doc: int) -> Any:
    """What a task asks about one of its documents; reads the document's pictures."""
    return to_messages(docs[doc])
