"""What the class ids of a mask mean: names, colours, and the ids that do not count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any

IGNORE_INDEX = 255
"""Target value of pixels that neither train nor score."""

_COLOURS = (
    "#4E79A7", "#F28E2B", "#59A14F", "#E15759", "#76B7B2", "#EDC948", "#B07AA1", "#9C755F", "#FF9DA7", "#BAB0AC",
)  # fmt: skip


@dataclass(frozen=True)
class ClassList:
    """Classes 0, 1, ... of a data set.

    Attributes:
        names: one per class.
        colours: "#RRGGBB", one per class.
        ignore_ids: ids in the masks that are neither trained nor scored.

    Raises:
        ValueError: the lists differ in length, two names are the same, a colour cannot be read, or an ignored id is
            no 8-bit id or a class.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    ignore_ids: tuple[int, ...] = field(default=(IGNORE_INDEX,))

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(self.names) > IGNORE_INDEX:
            raise ValueError(f"names: expected 2 to {IGNORE_INDEX} classes, got {len(self.names)}")
        if doubled := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"names: expected different names, got {', '.join(map(repr, doubled))} more than once")
        if len(self.colours) != len(self.names):
            raise ValueError(f"colours: got {len(self.colours)} for {len(self.names)} classes")
        for colour in self.colours:
            _rgb(colour)
        if not all(isinstance(i, Integral) and not isinstance(i, bool) and 0 <= i <= 255 for i in self.ignore_ids):
            raise ValueError(f"ignore_ids: expected ids in 0..255, got {list(self.ignore_ids)}")
        both = [i for i in self.ignore_ids if i < len(self.names)]
        if both:
            raise ValueError(f"ignore_ids: {both} are also classes ({len(self.names)} classes from 0 on)")

    @classmethod
    def numbered(cls, count: int, ignore_ids: Sequence[int] = (IGNORE_INDEX,)) -> ClassList:
        """``count`` classes named "class 0", "class 1", ..., in default colours."""
        names = tuple(f"class {k}" for k in range(count))
        return cls(names, tuple(_COLOURS[k % len(_COLOURS)] for k in range(count)), tuple(ignore_ids))

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours as (red, green, blue) in 0..255."""
        return [_rgb(colour) for colour in self.colours]

    def __len__(self) -> int:
        return len(self.names)


def load_classes(source: str | Path) -> ClassList:
    """Reads a class file, or the shipped one of that name ("dubai").

    The file is JSON; ``ignore_ids`` may be missing and is then [255], and a text ``source`` may say where it is from::

        {
          "classes": [
            {"name": "building", "colour": "#C8453B"},
            {"name": "land", "colour": "#E3C98F"}
          ],
          "ignore_ids": [5, 255]
        }

    Raises:
        ValueError: there is no such file, or it does not have this form, keys that are not known included.
    """
    shipped = resources.files("hqfnet") / "configs" / "classes" / f"{source}.json"
    path = Path(source)
    if not path.is_file() and not shipped.is_file():
        raise ValueError(f"classes: '{source}' is neither a file nor the name of a shipped class list")
    try:
        content = json.loads((path if path.is_file() else shipped).read_text("utf-8-sig"))
        _check_keys(content, {"source", "classes", "ignore_ids"})
        for entry in content["classes"]:
            _check_keys(entry, {"name", "colour"})
        names = tuple(str(entry["name"]) for entry in content["classes"])
        colours = tuple(str(entry["colour"]) for entry in content["classes"])
        ignore_ids = content.get("ignore_ids", [IGNORE_INDEX])
        if not isinstance(ignore_ids, list):
            raise TypeError(f"ignore_ids: expected a list of ids, got {ignore_ids!r:.80}")
        return ClassList(names, colours, tuple(ignore_ids))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"classes: '{source}' is not a class file: {type(error).__name__}: {error}") from error


def _check_keys(content: Any, known: set[str]) -> None:
    if not isinstance(content, dict):
        raise TypeError(f"expected an object with {', '.join(sorted(known))}, got {content!r:.80}")
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"{', '.join(map(repr, unknown))} is not known; known are {', '.join(sorted(known))}")


def _rgb(colour: str) -> tuple[int, int, int]:
    digits = colour.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"colours: expected '#RRGGBB', got '{colour}'") from None
    return red, green, blue
