"""Trigonometric polynomials: what a circuit with shared weights is as a function of its inputs.

If input x_j enters a circuit through Pauli rotations whose angles hold it c_j1, c_j2, ... times, all multiples of a
unit v_j, an expectation value is a trigonometric polynomial of degree ``d_j = sum_i |c_ji| / v_j`` in ``v_j x_j``
(Schuld, Sweke, Meyer, arXiv 2008.08605), exactly:

    y_o(x) = sum_k C[k, o] prod_j phi_{k_j}(u_j),   phi = (1, cos u, sin u, cos 2u, sin 2u, ...),   u_j = v_j x_j + s_j

Its coefficients C depend on the weights alone. So do the shifts s_j: a shared angle that is added to the first use of
an input moves into the variable, where it costs nothing, while in C it would fill up terms that are otherwise zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from hqfkernels.circuit import MAX_INDEX, Angle
from hqfkernels.program import Program
from hqfkernels.words import Words

MAX_FEATURES = 4096
"""Products of features of half the inputs that terms are made of; with more, circuits are refused: they would leave the
cache."""

MAX_PRODUCTS = 1 << 24
"""Products of features of half the inputs that there are, needed or not: as many the kernels can number."""

MAX_DEGREE = 1024
"""The highest degree of a polynomial in one input."""


@dataclass(frozen=True)
class Axis:
    """How a polynomial depends on one input.

    Attributes:
        input: index of the input.
        unit: v, the lowest frequency, in cycles per 2 pi radians.
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
class Polynomials:
    """The terms of the polynomials of one circuit.

    Attributes:
        axes: the inputs that matter, in order.
        split: the first ``split`` axes form the index a of a term, the others the index b, the last axis of each
            running fastest: contraction by halves.
        terms: for each output the (a, b) of the terms that can be other than zero, sorted.
    """

    axes: tuple[Axis, ...]
    split: int
    terms: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def n_terms(self) -> int:
        """Number of coefficients."""
        return sum(map(len, self.terms))

    @property
    def n_parameters(self) -> int:
        """Number of coefficients and shifts."""
        return self.n_terms + len(self.axes)

    @property
    def n_products(self) -> tuple[int, int]:
        """Number of products of features of each half that terms are made of."""
        return len({a for terms in self.terms for a, _ in terms}), len({b for terms in self.terms for _, b in terms})


@dataclass(frozen=True)
class Series:
    """The polynomials of several circuits on the same inputs, their outputs one after the other.

    The parameters of each circuit are its coefficients, output by output, then the shifts of its axes in radians; those
    of the circuits follow each other.
    """

    n_inputs: int
    members: tuple[Polynomials, ...]

    @property
    def n_outputs(self) -> int:
        """Outputs of all circuits."""
        return sum(len(member.terms) for member in self.members)

    @property
    def n_parameters(self) -> int:
        """Parameters of all circuits."""
        return sum(member.n_parameters for member in self.members)

    @cached_property
    def text(self) -> str:
        """The series as words separated by white space, for the operators; see `from_text`."""
        words: list[object] = ["series2", self.n_inputs, len(self.members)]
        for member in self.members:
            words += [len(member.axes), member.split]
            words += [word for axis in member.axes for word in (axis.input, repr(axis.unit), axis.degree)]
            words.append(len(member.terms))
            for terms in member.terms:
                words += [len(terms), *(word for term in terms for word in term)]
        return " ".join(map(str, words))

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_text(text: str) -> Series:
        """Reads `text` back; raises ValueError for other texts."""
        words = Words(text, "series", "series2")
        n_inputs = words.number(0, MAX_INDEX)
        members = []
        for _ in range(words.length()):
            n_axes = words.length()
            split = words.number(0, n_axes)
            axes = tuple(
                Axis(words.number(0, n_inputs - 1), words.real(), words.number(1, MAX_DEGREE)) for _ in range(n_axes)
            )
            sizes = [math.prod(axis.size for axis in part) for part in (axes[:split], axes[split:])]
            terms = tuple(
                tuple((words.number(0, sizes[0] - 1), words.number(0, sizes[1] - 1)) for _ in range(words.length()))
                for _ in range(words.length())
            )
            members.append(Polynomials(axes, split, terms))
        words.finish()
        if not any(member.terms for member in members):
            raise ValueError("series: there are no outputs")
        return Series(n_inputs, tuple(members))


def axes_of(program: Program) -> tuple[Axis, ...]:
    """The axes of the polynomials that a program computes.

    Raises:
        ValueError: if it has no such polynomials, or they have too many products of features; the message says why.
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
        axes.append(Axis(k, unit, sum(round(factor / unit) for factor in factors)))
        if axes[-1].degree > MAX_DEGREE:
            raise ValueError(f"the circuit's polynomials have a degree of more than {MAX_DEGREE} in input {k}")
    if max(products := halves(tuple(axes))) > MAX_PRODUCTS:
        raise ValueError(
            f"half of the circuit's inputs have {max(products)} products of features, more than {MAX_PRODUCTS}"
        )
    return tuple(axes)


def _common_unit(factors: list[float]) -> float | None:
    """The largest u of which all factors are whole multiples, if there is one among the smallest factor over 1..8."""
    for divisor in range(1, 9):
        unit = min(factors) / divisor
        if not unit or math.isinf(max(factors) / unit):  # beyond what floats can hold
            return None
        if all(abs(f / unit - round(f / unit)) < 1e-9 for f in factors):
            return unit
    return None


def balanced_split(axes: tuple[Axis, ...]) -> int:
    """Where to cut the axes so that both halves have about as many features."""
    sizes = [axis.size for axis in axes]
    return min(range(len(axes) + 1), key=lambda k: math.prod(sizes[:k]) + math.prod(sizes[k:]))


def halves(axes: tuple[Axis, ...]) -> tuple[int, int]:
    """Lengths of the indices a and b."""
    split = balanced_split(axes)
    return math.prod(axis.size for axis in axes[:split]), math.prod(axis.size for axis in axes[split:])


def centred(program: Program) -> tuple[Program, dict[int, Angle]]:
    """The program in the variables ``X_j = x_j + shift_j``, and the shifts, angles of weights and constants alone.

    The first rotation that holds an input loses its shared angle to the input's shift; later ones make up for it.
    """
    shifts: dict[int, Angle] = {}
    rotations = []
    for rotation in program.rotations:
        angle = rotation.angle
        shared = Angle(angle.constant, (), angle.weights)
        for k, factor in angle.inputs:
            if k in shifts:
                shared += shifts[k] * -factor
        fresh = [(k, factor) for k, factor in angle.inputs if k not in shifts]
        if fresh and shared != Angle():
            k, factor = fresh[0]
            shifts[k] = shared * (1 / factor)
            shared = Angle()
        rotations.append(replace(rotation, angle=Angle(shared.constant, angle.inputs, shared.weights)))
        shifts |= {k: shifts.get(k, Angle()) for k, _ in angle.inputs}
    return replace(program, rotations=tuple(rotations)), shifts
