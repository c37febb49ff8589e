"""Ask a server the questions of a benchmark: in which order, what is kept, what is a failure.

- Questions about one picture are asked one after the other, so that the server's caches know it.
- Every answer goes to a file at once. A run that was stopped goes on where it was.
- A question that the server refuses (HTTP 400, 413, 422) has failed: its answer is empty, and the
  file says why. Any other error, after retries, ends the run, for no score comes from a part.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
from tqdm import tqdm

from .crops import num_crops
from .messages import Messages, chat_messages, media_of, picture_key, sizes_of_pictures

REFUSED = (400, 413, 422)
"""HTTP statuses that say that the server will never answer this question."""
MAX_NEW_TOKENS = 1024
"""Where a task does not say, as in lmms-eval."""


@dataclass(frozen=True)
class Question:
    """One request of lmms-eval's."""

    task: str
    doc: int
    messages: Callable[[], Messages]
    """Reads pictures, so it is called when the question is asked, and not before."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """The task's generation_kwargs."""

    @property
    def name(self) -> tuple[str, int]:
        """What its answer is kept under."""
        return self.task, self.doc


@dataclass(frozen=True)
class Answer:
    """What became of a question."""

    task: str
    doc: int
    text: str
    prompt_tokens: int = 0
    visual_tokens: int | None = None
    """Of pictures and videos in the prompt; None where the server does not show its prompts."""
    output_tokens: int = 0
    refused: str | None = None
    """Why the server does not answer it."""


class Server:
    """A vLLM server and how it is asked.

    Args:
        url: its OpenAI-compatible endpoint, with /v1.
        model: the name of the model there.
        script: the `script` field of every request; None sends none, and asks stock vLLM.
        tokens_per_crop: a budget for LLaVA-NeXT instead of one in `script`: visual tokens of each
            crop of a picture.
        media_root: see `chat_messages`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        script: Mapping[str, Any] | None = None,
        tokens_per_crop: int | None = None,
        media_root: Path | None = None,
        api_key: str = "none",
        max_retries: int = 5,
    ) -> None:
        self.client = openai.OpenAI(
            base_url=url, api_key=api_key, max_retries=max_retries, timeout=1200
        )
        self.tokenize_url = url.rstrip("/").removesuffix("/v1") + "/tokenize"
        self.model, self.script, self.tokens_per_crop = model, script, tokens_per_crop
        self.media_root = media_root
        self._placeholders: dict[str, int | None] = {}
        """image or video -> the token id that stands for it in prompts."""
        self._learning = threading.Lock()

    def request(self, messages: Messages, generation: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completions request.

        Sampling is greedy unless the task says `do_sample`. Stop texts (`until`) are left out, as
        lmms-eval's models for LLaVA and for OpenAI do: most are a default that nobody chose.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": chat_messages(messages, self.media_root),
            "max_tokens": generation.get("max_new_tokens", MAX_NEW_TOKENS),
            "temperature": 0,
            "extra_body": {"return_token_ids": True},
        }
        if generation.get("do_sample"):
            body["temperature"] = generation.get("temperature", 1)
            body["top_p"] = generation.get("top_p", 1)
        if self.script is not None or self.tokens_per_crop is not None:
            body["extra_body"]["script"] = {**(self.script or {}), **self._budget(messages)}
        return body

    def ask(self, question: Question) -> Answer:
        """The server's answer.

        Raises:
            openai.OpenAIError: it did not come, and asking again may help.
        """
        messages = question.messages()
        request = self.request(messages, question.generation)
        try:
            reply = self.client.chat.completions.create(**request)
        except openai.APIStatusError as error:
            if error.status_code in REFUSED:
                return Answer(*question.name, "", refused=error.message)
            raise
        ids = (reply.model_extra or {}).get("prompt_token_ids") or []
        known = self._placeholders_of(messages, request["messages"])
        return Answer(
            *question.name,
            text=reply.choices[0].message.content or "",
            prompt_tokens=reply.usage.prompt_tokens if reply.usage else 0,
            visual_tokens=sum(id in known for id in ids) if ids and None not in known else None,
            output_tokens=reply.usage.completion_tokens if reply.usage else 0,
        )

    def _budget(self, messages: Messages) -> dict[str, int]:
        """A budget by crops; a request has one for all its pictures, so it is their mean."""
        sizes = list(sizes_of_pictures(messages))
        if self.tokens_per_crop is None or not sizes:
            return {}
        crops = sum(num_crops(*size) for size in sizes)
        return {"visual_token_budget": round(self.tokens_per_crop * crops / len(sizes))}

    def _placeholders_of(self, messages: Messages, chat: Sequence[Any]) -> set[int | None]:
        """The token ids that stand for pictures and for videos in prompts; None: nobody knows.

        Each is the commonest id of a prompt with one that is not pruned, for which the server is
        asked once (`/tokenize`). One that has no such route does without.
        """
        kinds = {kind for kind, _ in media_of(messages)}
        with self._learning:
            if new := kinds - self._placeholders.keys():
                body: dict[str, Any] = {"model": self.model, "messages": chat}
                if self.script is not None or self.tokens_per_crop is not None:
                    body["script"] = {"keep_ratio": 1.0}
                headers = {"Authorization": f"Bearer {self.client.api_key}"}
                reply = httpx.post(self.tokenize_url, json=body, headers=headers, timeout=600)
                ids = reply.json()["tokens"] if reply.status_code == 200 else []
                common = Counter(ids).most_common(1)
                self._placeholders |= dict.fromkeys(new, common[0][0] if common else None)
            return {self._placeholders[kind] for kind in kinds}


def in_order(questions: Sequence[Question]) -> list[Question]:
    """The questions with those about one picture beside each other, pictures as they came."""
    places: dict[str, int] = {}
    keys = []
    for question in tqdm(questions, desc="pictures", mininterval=1):
        keys.append(places.setdefault(picture_key(question.messages()), len(places)))
    return [q for _, q in sorted(zip(keys, questions, strict=True), key=lambda pair: pair[0])]


def read_answers(path: Path) -> dict[tuple[str, int], Answer]:
    """Answers of an earlier run; a line that was cut short, and a refused question, ask again."""
    answers = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            answer = Answer(**json.loads(line))
        except ValueError:
            continue
        answers[answer.task, answer.doc] = answer
    return {name: answer for name, answer in answers.items() if answer.refused is None}


def ask_all(
    server: Server, questions: Sequence[Question], path: Path, concurrency: int
) -> list[Answer]:
    """Ask what the file at `path` has no answer to, add it there, and return all in order.

    Raises:
        openai.OpenAIError: an answer did not come; those before it are in the file.
        ValueError: every question was refused, so the fault is not the question's.
    """
    answers = read_answers(path)
    left = in_order([question for question in questions if question.name not in answers])
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as out,
        tqdm(total=len(questions), initial=len(questions) - len(left), unit="answer") as bar,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        print(file=out)  # ends a line that was cut short
        futures = [pool.submit(server.ask, question) for question in left]
        try:
            for future in as_completed(futures):
                answer = future.result()
                answers[answer.task, answer.doc] = answer
                print(json.dumps(asdict(answer)), file=out, flush=True)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = [answers[question.name] for question in questions]
    if found and all(answer.refused for answer in found):
        raise ValueError(f"the server refused every question, the first with: {found[0].refused}")
    return found
