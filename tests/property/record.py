"""What the property tests compared: distinct circuits, and the worst errors."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch


class Record:
    """Counts and worst errors by engine and dtype of the inputs."""

    def __init__(self) -> None:
        self._circuits: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._comparisons: dict[tuple[str, str], int] = defaultdict(int)
        self._worst: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)

    def add(self, engine: str, dtype: torch.dtype, circuit: str, errors: dict[str, float], numbers: int) -> None:
        """Notes a comparison.

        Args:
            engine: the engine compared, or "reference".
            dtype: of the inputs.
            circuit: its text.
            errors: "values" and "gradients", the largest of each.
            numbers: how many values were compared; none, and only their shape was.
        """
        if not numbers:
            return
        key = engine, str(dtype).removeprefix("torch.")
        self._circuits[key].add(circuit)
        self._comparisons[key] += 1
        for kind, error in errors.items():
            self._worst[key][kind] = max(self._worst[key].get(kind, 0.0), error)

    def content(self) -> list[dict[str, Any]]:
        """A row for each engine and dtype."""
        return [
            {
                "engine": engine,
                "dtype": dtype,
                "circuits": len(self._circuits[engine, dtype]),
                "comparisons": self._comparisons[engine, dtype],
                **self._worst[engine, dtype],
            }
            for engine, dtype in sorted(self._circuits)
        ]

    def lines(self) -> list[str]:
        """The content, to print."""
        return [
            f"{row['engine']:>9} {row['dtype']:>8}: {row['circuits']} circuits, worst error of values "
            f"{row['values']:.1e}, of gradients {row.get('gradients', 0):.1e}"
            for row in self.content()
        ]


RECORD = Record()
