"""Static facts: what torch.compile may take as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def static(function: _F) -> _F:
    """Marks a function of static facts whose result torch.compile takes as a constant, without tracing into it.

    It is what torch.compiler.assume_constant_result does, without the seconds that importing the compiler takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
