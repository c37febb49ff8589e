"""The settings: what the operator chose, and what one request changes of it.

`additional_config["script"]` carries them in vLLM's configuration; the flags in server/flags.py are
sugar that folds into it. Knows nothing of vLLM: errors are ValueErrors, whoever asked turns them
into a usage error, an exception or an HTTP 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .pruning import MODES, PruningParams

DEFAULT_KEEP_RATIO = 0.11
RELEVANCE_SOURCES = ("auto", "clip", "embedding", "none")
MAX_VISUAL_TOKEN_BUDGET = 65_536
MAX_QUERY_CHARS = 8_192
MAX_CACHE_GB = 1_024
REQUEST_KEYS = ("keep_ratio", "visual_token_budget", "mode", "relevance", "query")


class SettingError(ValueError):
    """A setting is wrong; `setting` is its key, or "unknown"."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@dataclass(frozen=True)
class ScriptConfig:
    """Settings in force, for the server or (see `for_request`) for one request."""

    keep_ratio: float | None = None
    """Part of an image's placeholders to keep, in (0, 1]. 1.0 is stock vLLM. Default 0.11."""

    visual_token_budget: int | None = None
    """Tokens to keep of every image, instead of a ratio; an image with no more is left whole."""

    mode: str = "script"
    """Which tokens: a key of `vllm_script.pruning.MODES`."""

    relevance: str = "auto"
    """Source of relevance: `clip`, `embedding`, `none`, or `auto`: `clip` where the text side of
    the vision tower is found, else `embedding`. relevance/source.py decides at start-up."""

    clip_model: str | None = None
    """CLIP checkpoint that the vision tower came from, a folder or repository; loaded if set."""

    min_keep_ratio: float = 0.01
    """Smallest keep_ratio a request may ask for, in (0, 1]."""

    max_keep_ratio: float = 1.0
    """Largest part of an image that a request may keep, in (0, 1]; memory is profiled for it."""

    cache_gb: float = 1.0
    """Size in GiB, in [0, 1024], of each of two caches: of features before pruning, allocated at
    start-up on every worker, and of preprocessed pixels, in every API process as it fills. 0: none.
    At 672x672 LLaVA-NeXT-7B in 16 bits has 28 MiB of features and 3 MiB of pixels an image."""

    explain: bool = False
    """Whether the server answers at /v1/script/explain and /v1/script/stats."""

    shadow: float | None = None
    """Share of chat requests, in (0, 1], of which a copy is pruned while answers are not; None:
    answers are pruned. Needs a max_keep_ratio of 1."""

    params: PruningParams = field(default_factory=PruningParams)
    """Parameters of the modes. Written beside the other keys: {"mode": "gsp", "tau": 0.2}."""

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and self.visual_token_budget is not None:
            raise SettingError("keep_ratio", "give keep_ratio or visual_token_budget, not both")
        _check_ratio("min_keep_ratio", self.min_keep_ratio)
        _check_ratio("max_keep_ratio", self.max_keep_ratio, self.min_keep_ratio)
        if self.keep_ratio is None and self.visual_token_budget is None:
            default = min(max(DEFAULT_KEEP_RATIO, self.min_keep_ratio), self.max_keep_ratio)
            object.__setattr__(self, "keep_ratio", default)
        if self.keep_ratio is not None:
            _check_ratio("keep_ratio", self.keep_ratio, self.min_keep_ratio, self.max_keep_ratio)
        if self.visual_token_budget is not None:
            _check_budget(self.visual_token_budget)
        _check_cache(self.cache_gb)
        if not isinstance(self.explain, bool):
            raise SettingError("explain", f"explain must be true or false, got {self.explain!r}")
        _check_shadow(self.shadow, self.max_keep_ratio)
        _check_choice("mode", self.mode, MODES)
        _check_choice("relevance", self.relevance, RELEVANCE_SOURCES)
        if self.clip_model is not None and not isinstance(self.clip_model, str):
            raise ValueError(
                f"clip_model must be a folder or repository, got {_shown(self.clip_model)}"
            )

    @property
    def amount(self) -> dict[str, Any]:
        """How much is kept, as a request would ask for it."""
        if self.keep_ratio is None:
            return {"visual_token_budget": self.visual_token_budget}
        return {"keep_ratio": self.keep_ratio}

    @classmethod
    def from_dict(cls, raw: object) -> ScriptConfig:
        """Check and build the settings from `additional_config["script"]`."""
        param_names = [f.name for f in fields(PruningParams)]
        own_names = [f.name for f in fields(cls) if f.name != "params"]
        values = _as_dict(raw, [*own_names, *param_names])
        params = {name: values.pop(name) for name in param_names if name in values}
        return cls(**values, params=PruningParams(**params))

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`: plain values, without the ones that are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "params"}
        values |= {f.name: getattr(self.params, f.name) for f in fields(self.params)}
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
        if query is not None:
            _check_query(query)
        if changes.get("relevance") == "auto":
            changes["relevance"] = "clip" if self.clip_model else "embedding"
        if changes.get("relevance") == "clip" and not self.clip_model:
            raise SettingError(
                "relevance",
                "relevance clip is not available on this server, embedding and none are; it needs "
                "a start with --script-clip-model",
            )
        if "keep_ratio" in changes:
            changes.setdefault("visual_token_budget", None)
        elif "visual_token_budget" in changes:
            changes["keep_ratio"] = None
        return replace(self, **changes), query


def _as_dict(raw: object, valid_keys: Iterable[str]) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise SettingError(
            "unknown",
            f'script must be a dictionary such as {{"keep_ratio": {DEFAULT_KEEP_RATIO}}}, '
            f"got {_shown(raw)}",
        )
    valid = list(valid_keys)
    for key in raw:
        if key not in valid:
            raise SettingError(
                "unknown", f"unknown key {_shown(key)} in script, valid are: {', '.join(valid)}"
            )
    return dict(raw)


def _check_ratio(name: str, value: object, low: float = 0.0, high: float = 1.0) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value > 0 and low <= value <= high:  # type: ignore[operator]
        return
    limits = f"in [{low:g}, {high:g}]" if low > 0 else f"in (0, {high:g}]"
    raise SettingError(
        name,
        f"{name} must be a number {limits}, got {_shown(value)}; it is the part of the visual "
        "tokens to keep, 1.0 keeps them all",
    )


def _check_budget(value: object) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or not 1 <= value <= MAX_VISUAL_TOKEN_BUDGET:  # type: ignore[operator]
        raise SettingError(
            "visual_token_budget",
            f"visual_token_budget must be an integer in [1, {MAX_VISUAL_TOKEN_BUDGET}], got "
            f"{_shown(value)}; it is the number of visual tokens to keep of an image",
        )


def _check_cache(value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_CACHE_GB:  # type: ignore[operator]
        raise SettingError(
            "cache_gb",
            f"cache_gb must be a number in [0, {MAX_CACHE_GB}], got {_shown(value)}; it is the "
            "size in GiB of the features and of the pixels that are kept, 0 keeps none",
        )


def _check_shadow(value: object, max_keep_ratio: float) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:  # type: ignore[operator]
        raise SettingError(
            "shadow",
            f"shadow must be a number in (0, 1], got {_shown(value)}; it is the share of chat "
            "requests that are also run pruned, while answers are not",
        )
    if max_keep_ratio != 1:
        raise SettingError(
            "shadow",
            f"shadow leaves answers unpruned, which max_keep_ratio {max_keep_ratio:g} does not "
            "allow; leave one of the two out",
        )


def _check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise SettingError(name, f"{name} must be one of {', '.join(choices)}, got {_shown(value)}")


def _check_query(value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise SettingError("query", f"query must be a text that is not empty, got {_shown(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise SettingError(
            "query", "query must be text, got half of a surrogate pair; send whole characters"
        )
    if len(value) > MAX_QUERY_CHARS:
        raise SettingError(
            "query",
            f"query must have at most {MAX_QUERY_CHARS} characters, got {len(value)}; "
            "shorten it to what to look for in the image",
        )


def _shown(value: object) -> str:
    """`value` for an error message, which must stay short whatever the client sent."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
