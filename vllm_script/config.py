"""The settings: what the operator chose, and what one request changes of it.

A setting is one field, here or in PruningParams: its flag with the help, its row in the docs and
its check are made from that (setting.py). `additional_config["script"]` carries the settings in
vLLM's configuration; the flags in server/flags.py are sugar that folds into it. Knows nothing of
vLLM: errors are SettingErrors, whoever asked turns them into a usage error, an exception or an
HTTP 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from .kernels import Backend
from .pruning import MODES, PruningParams
from .setting import (
    Choice,
    Lines,
    Name,
    Number,
    Prose,
    Setting,
    SettingError,
    Switch,
    setting,
    settings_of,
    shown,
)

DEFAULT_KEEP_RATIO = 0.11
DEFAULT_CACHE_GB = 1.0
AMOUNTS = ("keep_ratio", "visual_token_budget")  # how much is kept: at most one of them is given
MAX_QUERY_CHARS = 8_192
MAX_QUESTIONS = 8  # of a conversation, that condition one image
RELEVANCE_SOURCES = ("auto", "clip", "embedding", "lm-attention", "none")
CONVERSATIONS = ("latest", "turn", "all")


@dataclass(frozen=True)
class ScriptConfig:
    """Settings in force, for the server or (see `for_request`) for one request."""

    keep_ratio: float | None = setting(
        None,
        Number(0, 1, above_low=True),
        "The part of an image's visual tokens to keep; 1.0 keeps them all.",
        flag="--keep-ratio RATIO",
        unset=f"{DEFAULT_KEEP_RATIO}",
        per_request=True,
    )
    visual_token_budget: int | None = setting(
        None,
        Number(1, 65_536, integer=True),
        "The number of visual tokens to keep of every image, instead of a ratio. An image that "
        "has no more is left whole.",
        flag="--visual-token-budget TOKENS",
        per_request=True,
    )
    mode: str = setting(
        "script",
        Choice(MODES),
        "The method that chooses the tokens. The paper's is script, gsp and cdpruner are its two "
        "halves. coverage keeps what stands for the rest, mmr weighs relevance against likeness, "
        "divprune reads no question, and uniform and random are there to compare with.",
        flag="--script-mode MODE",
        per_request=True,
    )
    relevance: str = setting(
        "auto",
        Choice(RELEVANCE_SOURCES),
        "The source of relevance to the question. The source clip is the CLIP that the vision "
        "tower came from, embedding is the language model's input embeddings, lm-attention is the "
        "queries and keys of its first layer, for which the server must be started, and none makes "
        "one selection for all questions; auto takes clip where its text side is found, else "
        "none.",
        flag="--script-relevance SOURCE",
        per_request=True,
    )
    conversation: str = setting(
        "latest",
        Choice(CONVERSATIONS),
        "The questions of a conversation that an image is conditioned on. The policy latest takes "
        "the newest; turn takes that of the image's own turn, for ever; all takes the image's "
        f"own and what was asked since, the newest {MAX_QUESTIONS - 1} at most. With latest and "
        "all a new question selects anew: the image is not encoded again, and from the first "
        "image on the pruned prompt is computed again. With turn it is not, and later questions "
        "about something else are answered worse.",
        flag="--script-conversation POLICY",
        per_request=True,
    )
    system_prompt: bool = setting(
        False,
        Switch(),
        "Whether system prompts are part of every question, as where they say what to read from "
        "documents.",
        flag="--script-system-prompt",
    )
    answer_phrases: Sequence[str] | None = setting(
        None,
        Lines(),
        "The phrases that say how to answer, and not what to look for, one a line. They are left "
        "out of questions, whatever their case.",
        flag="--script-answer-phrases FILE",
        unset="a short list, see vllm_script/frontend/phrases.py; an empty file leaves nothing out",
    )
    clip_model: str | None = setting(
        None,
        Name(),
        "The CLIP checkpoint that the vision tower came from, a folder or repository.",
        flag="--script-clip-model MODEL",
        unset="a folder `clip` in the model, or the checkpoint that is known for the tower",
    )
    tower_keep: float = setting(
        1.0,
        Number(0, 1, above_low=True),
        "The share of an image's patches that the vision tower computes to its end; the most "
        "redundant others are dropped after an early layer of it, by GSP, whatever the question, "
        "and what is kept is chosen among those that are left. An image of which more is kept "
        "than is left has the whole tower.",
        flag="--script-tower-keep SHARE",
        per_request=True,
    )
    tower_layer: float | None = setting(
        None,
        Number(0, 1, above_low=True),
        "The share of the vision tower's layers that see all patches, where tower_keep is below 1.",
        flag="--script-tower-layer SHARE",
        unset="the model family's, 0.25",
    )
    min_keep_ratio: float = setting(
        0.01,
        Number(0, 1, above_low=True),
        "The smallest keep ratio that a request may ask for.",
        flag="--min-keep-ratio RATIO",
    )
    max_keep_ratio: float = setting(
        1.0,
        Number(0, 1, above_low=True),
        "The largest part of an image that a request may keep. Memory is profiled for it.",
        flag="--max-keep-ratio RATIO",
    )
    max_item_tokens: int | None = setting(
        None,
        Number(1, 2**24, integer=True),
        "The most visual tokens that one image or video may have before pruning. Larger ones are "
        "refused. It can be raised for videos, and memory for encoding and selecting one of that "
        "size is then set aside at start-up.",
        flag="--script-max-item-tokens TOKENS",
        unset="as stock vLLM: the largest item that it profiles for the model at its context, or "
        "--max-num-batched-tokens if that is more",
    )
    # At 672x672 LLaVA-NeXT-7B in 16 bits has 28 MiB of features and 3 MiB of pixels an image.
    cache_gb: float | None = setting(
        None,
        Number(0, 1_024),
        "The size in GiB of the caches that make another question about an image cheap; 0 keeps "
        "none. Encoder features before pruning take this much on every worker (of the GPU's "
        "memory, allocated at start-up), preprocessed pixels up to this much in every API server.",
        flag="--script-cache-gb GIB",
        unset=f"{DEFAULT_CACHE_GB:g}; features at most 2 % of the GPU",
    )
    kernels: Backend = setting(
        "auto",
        Choice(get_args(Backend)),
        "The code that computes selections. The kernels of triton need an NVIDIA GPU, torch is "
        "plain PyTorch, slower there, and auto takes triton on an NVIDIA GPU and torch elsewhere.",
        flag="--script-kernels BACKEND",
    )
    explain: bool = setting(
        False,
        Switch(),
        "Whether the server answers at /script, a page to look at what is kept of one's own "
        "pictures and videos; at /v1/script/explain, which draws what is kept of those in a chat "
        "request and names the text that this depends on; and at /v1/script/stats.",
        flag="--script-explain",
    )
    shadow: float | None = setting(
        None,
        Number(0, 1, above_low=True),
        "The share of the chat requests that are also run pruned, while answers are left "
        "unpruned. How the first token would change is reported on /metrics. It needs a "
        "max_keep_ratio of 1.",
        flag="--script-shadow SHARE",
        unset="answers are pruned",
    )
    params: PruningParams = field(default_factory=PruningParams)
    """Parameters of the modes. Written beside the other keys: {"mode": "gsp", "tau": 0.2}."""
    clip_digest: str | None = None
    """Digest of the CLIP checkpoint `clip_model`, by which plans name it. No setting: plugin.py
    finds it out, see relevance/checkpoint.py. None where `clip_model` is."""

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and self.visual_token_budget is not None:
            raise SettingError("keep_ratio", "give keep_ratio or visual_token_budget, not both")
        own = {each.key: each for each in settings_of(ScriptConfig)}
        for key, each in own.items():
            if key != "keep_ratio":  # its limits are settings too
                each.check(getattr(self, key))
        own["max_keep_ratio"].check(self.max_keep_ratio, Number(self.min_keep_ratio, 1))
        if self.keep_ratio is None and self.visual_token_budget is None:
            default = min(max(DEFAULT_KEEP_RATIO, self.min_keep_ratio), self.max_keep_ratio)
            object.__setattr__(self, "keep_ratio", default)
        allowed = Number(self.min_keep_ratio, self.max_keep_ratio)
        own["keep_ratio"].check(self.keep_ratio, allowed)
        if self.shadow is not None and self.max_keep_ratio != 1:
            raise SettingError(
                "shadow",
                f"shadow leaves answers unpruned, which max_keep_ratio {self.max_keep_ratio:g} "
                "does not allow; leave one of the two out",
            )

    @property
    def amount(self) -> dict[str, Any]:
        """How much is kept, as a request would ask for it."""
        if self.keep_ratio is None:
            return {"visual_token_budget": self.visual_token_budget}
        return {"keep_ratio": self.keep_ratio}

    @classmethod
    def of(cls, model_config: Any) -> ScriptConfig:
        """The settings of a model that is served, which plugin.py put into its `ModelConfig`."""
        values = dict(model_config.vllm_script)
        digest = values.pop("clip_digest", None)
        return replace(cls.from_dict(values), clip_digest=digest)

    @classmethod
    def from_dict(cls, raw: object) -> ScriptConfig:
        """Check and build the settings from `additional_config["script"]`."""
        values = _as_dict(raw, [each.key for each in SETTINGS])
        params = PruningParams(**_params_in(values))
        return cls(**values, params=params)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `of`: plain values, without the ones that are None."""
        values = {each.key: getattr(self, each.key) for each in settings_of(ScriptConfig)}
        values |= {each.key: getattr(self.params, each.key) for each in settings_of(PruningParams)}
        values["clip_digest"] = self.clip_digest
        return {name: value for name, value in values.items() if value is not None}

    def for_request(self, raw: object) -> tuple[ScriptConfig, str | None]:
        """Settings for one request, and the text it gave to condition its images on, if any.

        Args:
            raw: the request's `script` field: a dict with some of REQUEST_KEYS, or None.

        Raises:
            SettingError: names the key, the value and the limit.
        """
        if self.shadow is not None and (raw is None or raw == {}):
            return replace(self, keep_ratio=1.0, visual_token_budget=None), None
        if raw is None:
            return self, None
        changes = {k: v for k, v in _as_dict(raw, REQUEST_KEYS).items() if v is not None}
        query = changes.pop("query", None)
        QUERY.check(query)
        if changes.get("relevance") == "auto":
            changes["relevance"] = "clip" if self.clip_model else "none"
        self._check_source(changes.get("relevance"))
        self._check_tower(changes.get("tower_keep"))
        if "keep_ratio" in changes:
            changes.setdefault("visual_token_budget", None)
        elif "visual_token_budget" in changes:
            changes["keep_ratio"] = None
        params = replace(self.params, **_params_in(changes))
        config = replace(self, **changes, params=params)
        would_read = config.keep_ratio != 1 and MODES[config.mode].reads_query
        if query is not None and would_read and config.relevance == "none":
            raise SettingError(
                "query",
                "query has no say with relevance none, one selection for all questions; "
                "ask for another source too, as in 'relevance': 'embedding', or leave it out",
            )
        return config, query

    def _check_source(self, asked: str | None) -> None:
        """Raise SettingError where a request asks for relevance that workers do not have."""
        missing = {}
        if not self.clip_model:
            missing["clip"] = "--script-clip-model"
        if self.relevance != "lm-attention":
            missing["lm-attention"] = "--script-relevance lm-attention"
        if asked in missing:
            *first, last = (s for s in RELEVANCE_SOURCES if s != "auto" and s not in missing)
            raise SettingError(
                "relevance",
                f"relevance {asked} is not available on this server, {', '.join(first)} and {last} "
                f"are; it needs a start with {missing[asked]}",
            )

    def _check_tower(self, asked: object) -> None:
        """Raise SettingError where a request asks for less of the tower than the server computes.

        The operator's share is what its loss of accuracy was accepted for.
        """
        if asked is not None:
            own = {each.key: each for each in settings_of(ScriptConfig)}
            own["tower_keep"].check(asked, Number(self.tower_keep, 1))


SETTINGS = (*settings_of(ScriptConfig), *settings_of(PruningParams))
"""All settings of a server."""

QUERY = Setting(
    "query",
    None,
    Prose(MAX_QUERY_CHARS),
    "The text that says what to look for in the request's images, instead of the chat's questions.",
    per_request=True,
)
"""The one setting that only a request has."""

REQUEST_KEYS = tuple(each.key for each in (*SETTINGS, QUERY) if each.per_request)


def _params_in(values: dict[str, Any]) -> dict[str, Any]:
    """Take the parameters of the modes out of settings, and return them."""
    names = [each.key for each in settings_of(PruningParams)]
    return {name: values.pop(name) for name in names if name in values}


def _as_dict(raw: object, valid_keys: Iterable[str]) -> dict[str, Any]:
    """`raw` itself, if it is a dictionary that has none but valid keys."""
    if not isinstance(raw, Mapping):
        raise SettingError(
            "unknown",
            f'script must be a dictionary such as {{"keep_ratio": {DEFAULT_KEEP_RATIO}}}, '
            f"got {shown(raw)}",
        )
    valid = list(valid_keys)
    for key in raw:
        if key not in valid:
            raise SettingError(
                "unknown", f"unknown key {shown(key)} in script, valid are: {', '.join(valid)}"
            )
    return dict(raw)
