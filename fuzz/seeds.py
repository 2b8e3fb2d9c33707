"""Writes the seeds of ``texts.cpp`` into a folder: ``python -m fuzz.seeds FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from fuzz.targets import seeds

KINDS = {"p": "program", "g": "program", "s": "series"}
"""First byte of an input, and what its rest is; that of a propagation is its number of weights."""


def main() -> None:
    folder = Path(sys.argv[1])
    inputs = [letter.encode() + text for letter, name in KINDS.items() for text in seeds(name)]
    inputs += [text.split()[1] + text for text in seeds("propagation")]
    for k, content in enumerate(inputs):
        (folder / f"seed-{k}").write_bytes(content)


if __name__ == "__main__":
    main()
