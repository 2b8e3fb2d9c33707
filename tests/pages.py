"""Runs what a page of the documentation shows, from its first example to its last."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def text_of(page: str) -> str:
    """The page, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language ("" for those without one)."""
    return [code for found, code, _ in _fences(text_of(page)) if found == language]


def run(
    page: str,
    smaller: Mapping[str, str] | None = None,
    names: dict[str, Any] | None = None,
    shell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Runs the Python blocks of a page in one namespace, in order, and returns the namespace.

    Args:
        page: path in the repository.
        smaller: texts in the examples -> what stands for them here; every one of them has to occur.
        names: what the page takes for granted.
        shell: what to do with shell blocks; by default nothing.
    """
    scope = {} if names is None else names
    unused = dict(smaller or {})
    for language, code, line in _fences(text_of(page)):
        for long, short in (smaller or {}).items():
            if long in code:
                code = code.replace(long, short)
                unused.pop(long, None)
        if language == "python":
            exec(compile("\n" * line + code, str(ROOT / page), "exec"), scope)
        elif language == "bash" and shell is not None:
            shell(code)
    assert not unused, f"{page} does not show {list(unused)}"
    return scope


def _fences(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, content and line of each fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield found[1], found[2], text.count("\n", 0, found.start(2))
