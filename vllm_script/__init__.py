"""Query-conditioned visual-token pruning for vLLM. Importing this does not import vLLM."""

from .pruning import select_visual_tokens

__all__ = ["__version__", "select_visual_tokens"]

__version__ = "0.1.0"
