"""Replace a function of vLLM by one of ours that calls it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes the original function, returns what is called in its place."""


def wrap(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Replace `owner.name` by `wrapper(original)`, once in the life of the process.

    Args:
        owner: a class or a module. A classmethod or staticmethod stays one; `original` is the
            plain function in it, which takes the class where it is a classmethod.
    """
    original = inspect.getattr_static(owner, name)
    function = getattr(original, "__func__", original)
    if getattr(function, "wrapped_by_script", False):
        return
    wrapped: Any = functools.wraps(function)(wrapper(function))
    wrapped.wrapped_by_script = True
    kind = type(original) if function is not original else lambda f: f
    setattr(owner, name, kind(wrapped))
