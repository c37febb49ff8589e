"""Short names of models, as one types them: `vllm serve llava-next --plugin script`."""

from __future__ import annotations

import pathlib

ALIASES = {
    "llava-next": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava-next-mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-1.5": "llava-hf/llava-1.5-7b-hf",
}


def repository_of(model: str) -> str | None:
    """The repository that a short name stands for; None for other names and for local folders.

    Raises:
        ValueError: the repository is neither in the local cache nor can it be reached.
    """
    repository = ALIASES.get(model)
    if repository is None or pathlib.Path(model).exists():
        return None
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(repository, "config.json")
    except OSError as error:  # the hub's errors, a refused connection and offline mode all are
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{model} stands for {repository}, which is neither in the local cache nor can it be "
            f"reached ({reason}). Give the folder of a checkpoint instead, connect once, or see "
            f"another model at work with `make demo`. Short names: {', '.join(ALIASES)}"
        ) from None
    return repository


def served_names(model: str, repository: str, chosen: list[str] | str | None) -> list[str] | str:
    """Both names, unless the operator chose others."""
    return chosen or [model, repository]
