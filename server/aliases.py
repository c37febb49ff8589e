"""Short names of models, as one types them: `vllm serve llava-next --plugin script`."""

from __future__ import annotations

import importlib.resources
import pathlib
import re

SCRIPT_DEMO = "script-demo"
"""A small LLaVA-NeXT, trained on synthetic scenes, that comes with the package."""

ALIASES = {
    "llava-next": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava-next-mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-1.5": "llava-hf/llava-1.5-7b-hf",
}


def repository_of(model: str) -> str | None:
    """The repository or folder that a short name stands for; None for other names and for folders.

    Raises:
        ValueError: the repository is neither in the local cache nor can it be reached.
    """
    if pathlib.Path(model).exists():
        return None
    if model == SCRIPT_DEMO:
        return str(importlib.resources.files("vllm_script") / "script_demo")
    repository = ALIASES.get(model)
    if repository is None:
        return None
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(repository, "config.json")
    except OSError as error:  # the hub's errors, a refused connection and offline mode all are
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{model} stands for {repository}, which is neither in the local cache nor can it be "
            f"reached ({reason}). Give the folder of a checkpoint instead, connect once, or try "
            f"{SCRIPT_DEMO}, which comes with the package. Short names: {', '.join(ALIASES)}"
        ) from None
    return repository


def check_known(model: str) -> None:
    """Raise ValueError for what is no folder, no short name, and no repository's name or URL."""
    known = pathlib.Path(model).exists() or model in (SCRIPT_DEMO, *ALIASES)
    if not known and re.fullmatch(r"\w[\w.-]*/[\w.-]+|\w+://\S+", model) is None:
        raise ValueError(
            f"the model {pathlib.Path(model).name} is not known; give a folder, a repository such "
            f"as org/name, or one of {SCRIPT_DEMO}, {', '.join(ALIASES)}"
        )


def served_names(model: str, repository: str, chosen: list[str] | str | None) -> list[str] | str:
    """Both names, unless the operator chose others; of a folder in the package the short one."""
    return chosen or ([model] if model == SCRIPT_DEMO else [model, repository])
