"""Reading texts of words separated by white space, in which programs reach the operators."""

from __future__ import annotations

import math


class Words:
    """The words of a text, read one by one.

    Every reader raises ValueError, naming the word, for a text that is not what it should be.

    Args:
        text: the text; its first word tells the format.
        kind: what the text describes, for messages: "program", "series", ...
        form: the first word that is expected.
    """

    def __init__(self, text: str, kind: str, form: str) -> None:
        self._words = text.split()
        self._next = 0
        self._kind = kind
        if self.word() != form:
            raise ValueError(f"{kind}: unknown format, expected {form}")

    def word(self) -> str:
        """The next word."""
        if self._next == len(self._words):
            raise ValueError(f"{self._kind}: text ends too early")
        self._next += 1
        return self._words[self._next - 1]

    def number(self, low: int, high: int) -> int:
        """The next word as an integer between two others, both included."""
        word = self.word()
        # No more digits than any number here has: int() would take seconds over millions of them.
        if len(word) <= 20 and word.isascii() and word.removeprefix("-").isdigit() and low <= int(word) <= high:
            return int(word)
        raise ValueError(f"{self._kind}: unexpected word {word[:40]!r}, expected an integer in {low}..{high}")

    def real(self) -> float:
        """The next word as a finite number."""
        word = self.word()
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self._kind}: unexpected word {word[:40]!r}, expected a finite number")
        return value

    def length(self) -> int:
        """How many items follow; never more than words are left."""
        return self.number(0, len(self._words) - self._next - 1)

    def finish(self) -> None:
        """Checks that all words are read."""
        if self._next < len(self._words):
            raise ValueError(f"{self._kind}: text goes on after its end")
