"""Trigonometric polynomials: what a circuit with shared weights is as a function of its inputs.

If input x_j enters through Pauli rotations whose angles hold it c_j1, c_j2, ... times, all multiples of a unit u_j, an
expectation value is a trigonometric polynomial of degree ``d_j = sum_i |c_ji| / u_j`` in ``u_j x_j`` (Schuld, Sweke,
Meyer, arXiv 2008.08605), exactly:

    y_o(x) = sum_k C[k, o] prod_j phi_{k_j}(u_j x_j),   phi = (1, cos x, sin x, cos 2x, sin 2x, ...)

Its coefficients depend on the weights alone and follow from the circuit's values on the grid
``u_j x_j in {2 pi t / (2 d_j + 1)}`` ("classical surrogates", Schreiber, Eisert, Meyer, arXiv 2206.11740).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from hqfkernels.program import Program

MAX_GRID = 4096
"""Polynomials with more terms are refused: their contraction costs more than simulating the circuit."""


@dataclass(frozen=True)
class Axis:
    """How a polynomial depends on one input.

    Attributes:
        input: index of the input.
        unit: u, the lowest frequency, in cycles per 2 pi radians.
        degree: d, the highest frequency over the lowest.
    """

    input: int
    unit: float
    degree: int

    @property
    def size(self) -> int:
        """Number of features: 1 and a cosine and a sine for each frequency."""
        return 2 * self.degree + 1


@dataclass(frozen=True)
class Series:
    """The terms of a trigonometric polynomial.

    Attributes:
        n_inputs: length of a sample.
        n_outputs: number of polynomials that share the terms.
        axes: the inputs that matter, in order.
        split: the first ``split`` axes form the index a of a term, the others the index b, the last axis of each
            running fastest: contraction by halves.
        rows: (a, b) of the terms that can be other than zero, sorted. The coefficients are (rows, outputs).
    """

    n_inputs: int
    n_outputs: int
    axes: tuple[Axis, ...]
    split: int
    rows: tuple[tuple[int, int], ...]

    @property
    def row_indices(self) -> tuple[list[int], list[int]]:
        """The a of all rows and the b of all rows."""
        return [a for a, _ in self.rows], [b for _, b in self.rows]

    @cached_property
    def text(self) -> str:
        """The series as words separated by white space, for the operators; see `from_text`."""
        words: list[object] = ["series1", self.n_inputs, self.n_outputs, len(self.axes), self.split]
        words += [word for axis in self.axes for word in (axis.input, repr(axis.unit), axis.degree)]
        words += [len(self.rows), *(word for row in self.rows for word in row)]
        return " ".join(map(str, words))

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_text(text: str) -> Series:
        """Reads `text` back."""
        words = iter(text.split())
        if next(words) != "series1":
            raise ValueError("series: unknown format, expected series1")
        n_inputs, n_outputs, n_axes, split = (int(next(words)) for _ in range(4))
        axes = tuple(Axis(int(next(words)), float(next(words)), int(next(words))) for _ in range(n_axes))
        rows = tuple((int(next(words)), int(next(words))) for _ in range(int(next(words))))
        return Series(n_inputs, n_outputs, axes, split, rows)


def axes_of(program: Program) -> tuple[Axis, ...]:
    """The axes of the polynomials that a program computes.

    Raises:
        ValueError: if it has no such polynomials, or too many terms; the message says why.
    """
    if program.measurement == "state":
        raise ValueError("amplitudes are no real polynomials of the inputs")
    if program.amplitudes is not None:
        raise ValueError("amplitude encoding is not trigonometric in the inputs")
    multiples: dict[int, list[float]] = {}
    for rotation in program.rotations:
        for k, factor in rotation.angle.inputs:
            multiples.setdefault(k, []).append(abs(factor))
    axes = []
    for k, factors in sorted(multiples.items()):
        unit = _common_unit(factors)
        if unit is None:
            raise ValueError(f"input {k} enters {', '.join(f'{f:g}' for f in factors)} times: no common unit")
        axes.append(Axis(k, unit, round(sum(factors) / unit)))
    grid = math.prod(axis.size for axis in axes)
    if grid > MAX_GRID:
        raise ValueError(f"its polynomials have {grid} terms, more than {MAX_GRID}")
    return tuple(axes)


def _common_unit(factors: list[float]) -> float | None:
    """The largest u of which all factors are whole multiples, if there is one among the smallest factor over 1..8."""
    for divisor in range(1, 9):
        unit = min(factors) / divisor
        if all(abs(f / unit - round(f / unit)) < 1e-9 for f in factors):
            return unit
    return None


def balanced_split(axes: tuple[Axis, ...]) -> int:
    """Where to cut the axes so that both halves have about as many features."""
    sizes = [axis.size for axis in axes]
    return min(range(len(axes) + 1), key=lambda k: math.prod(sizes[:k]) + math.prod(sizes[k:]))
