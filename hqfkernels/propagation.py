"""Pauli propagation: the coefficients of a circuit's trigonometric polynomials, symbolically prepared.

In the Heisenberg picture an observable walks back through the circuit. A rotation ``exp(-i t Q / 2)`` leaves Pauli
strings alone that commute with Q and turns every other P by

    P -> cos(t) P + sin(t) (i Q P),

so P and its partner i Q P are turned like a plane (a Givens rotation). If t is an input, cos(t) and sin(t) are
features of the polynomial: strings are tracked together with the product of features that they carry. At the
start, on |0...0>, strings with only Z have the value 1 and all others 0. Which strings and products can occur does not
depend on any angle, so it is found once: `propagate` returns what is left to compute, a short list of sums.

It is also where sparsity comes from: products of features that no string carries have no coefficient. (Rall et al.,
arXiv 1901.09070, and Begušić et al., arXiv 2306.04797, propagate Pauli strings through circuits, for estimates; here
nothing is cut off.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from hqfkernels.circuit import MAX_INDEX, Angle
from hqfkernels.program import Program, Rotation
from hqfkernels.series import Axis, Polynomials, balanced_split, centred, halves
from hqfkernels.words import Words

MAX_NUMBERS = 1 << 24
"""Propagations with more numbers, those before and after each collection counted, are given up: gradients keep all."""


Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Turn:
    """Turns pairs of numbers by a shared angle: ``(p, q) -> (cos p - sin q, cos q + sin p)``, sin with the pair's sign.

    Attributes:
        angle: of weights and constants.
        pairs: (P, 3), a row for each pair: index of p, index of q, sign.
    """

    angle: Angle
    pairs: Integers


@dataclass(frozen=True, eq=False)
class Collect:
    """A new list of numbers, each a sum of factors times old ones.

    Attributes:
        size: how many.
        entries: (E, 2), index of the new number and of the old one, sorted.
        factors: (E,), of the old ones.
    """

    size: int
    entries: Integers
    factors: Reals


@dataclass(frozen=True, eq=False)
class Propagation:
    """How to compute the parameters of a circuit's polynomials from its weights.

    Attributes:
        n_weights: of the circuit.
        initial: the numbers to begin with; the steps act on them in turn and leave the coefficients.
        steps: `Turn` and `Collect`.
        shifts: the shift of each axis, to come after the coefficients.
    """

    n_weights: int
    initial: tuple[float, ...]
    steps: tuple[Turn | Collect, ...]
    shifts: tuple[Angle, ...]

    @property
    def n_pairs(self) -> int:
        """Pairs to turn, which is what it costs."""
        return sum(len(step.pairs) for step in self.steps if isinstance(step, Turn))

    @cached_property
    def text(self) -> str:
        """The propagation as words separated by white space, for the operators; see `from_text`."""
        parts = [_text("propagation1", self.n_weights, len(self.initial), *self.initial), _text(len(self.steps))]
        for step in self.steps:  # each as a text at once: there may be millions of words
            if isinstance(step, Turn):
                parts.append(_text("turn", *_angle_words(step.angle), len(step.pairs), *step.pairs.ravel().tolist()))
            else:
                rows = zip(step.entries.tolist(), step.factors.tolist(), strict=True)
                words = (word for (new, old), factor in rows for word in (new, old, factor))
                parts.append(_text("collect", step.size, len(step.entries), *words))
        parts.append(_text(len(self.shifts), *(word for angle in self.shifts for word in _angle_words(angle))))
        return " ".join(parts)

    @staticmethod
    @lru_cache(maxsize=256)
    def from_text(text: str) -> Propagation:
        """Reads `text` back; raises ValueError for other texts."""
        words = Words(text, "propagation", "propagation1")
        n_weights = words.number(0, MAX_INDEX)

        def angle() -> Angle:
            constant = words.real()
            return Angle(
                constant, (), tuple((words.number(0, n_weights - 1), words.real()) for _ in range(words.length()))
            )

        initial = tuple(words.real() for _ in range(words.length()))
        size = total = len(initial)
        steps: list[Turn | Collect] = []
        for _ in range(words.length()):
            kind = words.word()
            if kind == "turn":
                turned = angle()
                pairs = [
                    (words.number(0, size - 1), words.number(0, size - 1), words.number(-1, 1))
                    for _ in range(words.length())
                ]
                steps.append(Turn(turned, np.array(pairs, np.int64).reshape(-1, 3)))
            elif kind == "collect":
                before, size = size, words.number(0, MAX_NUMBERS)
                total += size
                if total > MAX_NUMBERS:
                    raise ValueError("propagation: too many numbers")
                entries, factors = [], []
                for _ in range(words.length()):
                    entries.append((words.number(0, size - 1), words.number(0, before - 1)))
                    factors.append(words.real())
                steps.append(Collect(size, np.array(entries, np.int64).reshape(-1, 2), np.array(factors)))
            else:
                raise ValueError(f"propagation: unknown step {kind[:40]!r}")
        shifts = tuple(angle() for _ in range(words.length()))
        words.finish()
        return Propagation(n_weights, initial, tuple(steps), shifts)


def _text(*words: str | float) -> str:
    return " ".join(map(str, words))


def _angle_words(angle: Angle) -> Iterator[float]:
    yield angle.constant
    yield len(angle.weights)
    for weight in angle.weights:
        yield from weight


# --- preparing one ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Pauli strings of outputs, and before each a sum of factors times numbers, as columns.

    A row is a number times a factor; rows with the same string at the same place add up.

    Attributes:
        strings: z masks in the low ``n_qubits`` bits, x masks above them.
        places: output times the number of all products of features, plus the product that the string carries.
        numbers: which number.
        factors: what it is multiplied by.
    """

    strings: Integers
    places: Integers
    numbers: Integers
    factors: Reals

    def __len__(self) -> int:
        return len(self.strings)

    def where(self, rows: NDArray[np.bool_] | Integers) -> _Sums:
        """Some of the rows."""
        return _Sums(self.strings[rows], self.places[rows], self.numbers[rows], self.factors[rows])


def propagate(program: Program, axes: tuple[Axis, ...], max_pairs: int) -> tuple[Polynomials, Propagation] | None:
    """The polynomials of a program and how to compute their parameters; None if that takes too many steps.

    Args:
        program: lowered, with expectation values or probabilities as its measurement.
        axes: what `hqfkernels.series.axes_of` says of it.
        max_pairs: as many pairs of strings are turned, and strings tracked, at most.
    """
    plain, shifts = centred(program)
    index = {axis.input: k for k, axis in enumerate(axes)}
    strides = [math.prod(axis.size for axis in axes[k + 1 :]) for k in range(len(axes))]
    n_products = math.prod(axis.size for axis in axes)
    n_start = program.n_outputs * (1 if program.measurement == "expval" else 2**program.n_qubits)
    if n_start > max_pairs or program.n_outputs * n_products >= 1 << 63:
        return None
    is_live = _liveness(plain.rotations, program.n_qubits)

    initial, sums = _observables(plain, n_products)
    sizes: list[int] = [len(initial)]  # how many numbers there are, at the beginning and after each collection
    steps: list[Turn | Collect] = []
    n_pairs = 0
    is_plain = True  # whether every sum is one of the numbers
    for position in reversed(range(len(plain.rotations))):
        rotation = plain.rotations[position]
        shared = Angle(rotation.angle.constant, (), rotation.angle.weights)
        if shared != Angle():
            if not is_plain:
                sums, collection = _renumbered(sums)
                steps.append(collection)
                sizes.append(collection.size)
                is_plain = True
            sums, pairs = _turn(sums, rotation, program.n_qubits, sizes[-1])
            sizes[-1] = max(sizes[-1], 1 + int(pairs[:, :2].max(initial=-1)))
            steps.append(Turn(shared, pairs))
            n_pairs += len(pairs)
        for k, factor in rotation.angle.inputs:
            axis, stride = axes[index[k]], strides[index[k]]
            sums = _encode(sums, rotation, program.n_qubits, round(factor / axis.unit), axis.size, stride)
            is_plain = False
        sums = sums.where(is_live(position, sums.strings))
        n_sums = int(np.count_nonzero(_first(sums.places, sums.strings)))
        if max(n_pairs, n_sums) > max_pairs or sum(sizes) > MAX_NUMBERS:
            return None

    # Strings with X are left over where there are no rotations; |0...0> makes them 0, and strings of Z alone 1.
    sums = sums.where(sums.strings >> program.n_qubits == 0)
    sums, collection = _renumbered(_merged(replace(sums, strings=np.zeros_like(sums.strings))))

    outputs, products = np.divmod(sums.places, n_products)
    terms = np.stack(np.divmod(products, halves(axes)[1]), -1)
    by_output = np.split(terms, np.searchsorted(outputs, np.arange(1, program.n_outputs)))
    rows = tuple(tuple((a, b) for a, b in own.tolist()) for own in by_output)
    return Polynomials(axes, balanced_split(axes), rows), Propagation(
        program.n_weights,
        (*initial, *(0.0,) * (sizes[0] - len(initial))),
        _needed([*steps, collection], [*sizes, collection.size]),
        tuple(shifts[axis.input] * axis.unit for axis in axes),
    )


def _observables(program: Program, n_products: int) -> tuple[tuple[float, ...], _Sums]:
    """What is measured, as numbers before Pauli strings."""
    if program.measurement == "expval":
        strings = np.array([x << program.n_qubits | z for x, z, _ in program.observables], np.int64)
        outputs = np.arange(len(strings), dtype=np.int64)
        initial = np.array([sign for _, _, sign in program.observables], np.float64)
    else:  # |b><b| is the mean over all strings of Z, with signs
        offset, *columns = program.frame
        every = np.arange(2**program.n_qubits, dtype=np.int64)
        places = np.full_like(every, offset)
        for k, column in enumerate(columns):
            places ^= column * (every >> k & 1)
        outputs, strings = np.repeat(every, len(every)), np.tile(every, len(every))
        initial = (1 - 2 * (_bit_count(places[outputs] & strings) & 1)) / len(every)
    numbers = np.arange(len(strings), dtype=np.int64)
    return tuple(initial.tolist()), _Sums(strings, outputs * n_products, numbers, np.ones(len(strings)))


def _bit_count(values: Integers) -> Integers:
    """How many bits of each value are set, by sums of pairs, of fours, of bytes, of all bytes."""
    values = values - (values >> 1 & 0x5555555555555555)
    values = (values & 0x3333333333333333) + (values >> 2 & 0x3333333333333333)
    values = values + (values >> 4) & 0x0F0F0F0F0F0F0F0F
    return values * 0x0101010101010101 >> 56


def _anticommute(strings: Integers, rotation: Rotation, n_qubits: int) -> NDArray[np.bool_]:
    """Which strings do not commute with the rotation."""
    return _bit_count(strings & (rotation.z << n_qubits | rotation.x)) & 1 == 1


def _partners(strings: Integers, rotation: Rotation, n_qubits: int) -> tuple[Integers, Integers]:
    """I Q P as strings and signs, for strings P that do not commute with the rotation's Q."""
    partners = strings ^ (rotation.x << n_qubits | rotation.z)
    y, new_y = (_bit_count(s >> n_qubits & s & (1 << n_qubits) - 1) for s in (strings, partners))
    own_y = (rotation.x & rotation.z).bit_count()
    power = 1 + own_y + y + 2 * _bit_count(strings & rotation.z << n_qubits) - new_y
    return partners, 1 - power % 4


def _first(*columns: Integers) -> NDArray[np.bool_]:
    """Which rows differ from those before them."""
    result = np.ones(len(columns[0]), np.bool_)
    result[1:] = np.any([column[1:] != column[:-1] for column in columns], 0)
    return result


def _concatenated(parts: list[_Sums]) -> _Sums:
    """The rows of all parts."""
    return _Sums(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(_Sums)))


def _merged(sums: _Sums) -> _Sums:
    """The rows in order, those that add up as one, and none of those that cancel."""
    sums = sums.where(np.lexsort((sums.numbers, sums.strings, sums.places)))
    first = _first(sums.places, sums.strings, sums.numbers)
    sums = replace(sums.where(first), factors=np.add.reduceat(sums.factors, np.flatnonzero(first)))
    return sums.where(sums.factors != 0)


def _renumbered(sums: _Sums) -> tuple[_Sums, Collect]:
    """Sums whose rows are in order as a number each, and how these are made, before others join them."""
    first = _first(sums.places, sums.strings)
    count = int(np.count_nonzero(first))
    result = _Sums(sums.strings[first], sums.places[first], np.arange(count, dtype=np.int64), np.ones(count))
    return result, Collect(count, np.column_stack([np.cumsum(first) - 1, sums.numbers]), sums.factors)


def _turn(sums: _Sums, rotation: Rotation, n_qubits: int, count: int) -> tuple[_Sums, Integers]:
    """Turns sums that are one number each, of which there are ``count``; returns the pairs as rows, too."""
    turned = sums.where(_anticommute(sums.strings, rotation, n_qubits))
    own = rotation.x << n_qubits | rotation.z
    is_second = (turned.strings & (own & -own) != 0).astype(np.int64)  # of two partners, one has that bit
    strings = turned.strings ^ is_second * own
    order = np.lexsort((strings, turned.places))
    first = _first(turned.places[order], strings[order])
    pair = np.empty_like(order)
    pair[order] = np.cumsum(first) - 1
    rows = order[first]
    strings, places = strings[rows], turned.places[rows]
    partners, signs = _partners(strings, rotation, n_qubits)
    numbers = np.full((len(rows), 2), -1, np.int64)
    numbers[pair, is_second] = turned.numbers
    fresh = numbers < 0
    numbers[fresh] = np.arange(count, count + np.count_nonzero(fresh))
    added = _Sums(
        np.stack([strings, partners], -1)[fresh],
        np.stack([places, places], -1)[fresh],
        numbers[fresh],
        np.ones(np.count_nonzero(fresh)),
    )
    return _concatenated([sums, added]), np.column_stack([numbers, signs])


def _encode(sums: _Sums, rotation: Rotation, n_qubits: int, multiple: int, size: int, stride: int) -> _Sums:
    """Turns by ``multiple`` times the variable of an axis, whose features have ``size`` and ``stride`` in a product."""
    turns = _anticommute(sums.strings, rotation, n_qubits)
    turned = sums.where(turns)
    partners, signs = _partners(turned.strings, rotation, n_qubits)
    features = turned.places // stride % size
    parts = [sums.where(~turns)]
    along = (turned.strings, np.ones_like(signs)), (partners, signs if multiple > 0 else -signs)
    for (strings, sign), (new, factors) in zip(along, _wave_tables(size, abs(multiple)), strict=True):
        for k in range(2):
            places = turned.places + (new[features, k] - features) * stride
            parts.append(_Sums(strings, places, turned.numbers, turned.factors * factors[features, k] * sign))
    return _merged(_concatenated(parts))


@lru_cache(maxsize=256)
def _wave_tables(size: int, m: int) -> tuple[tuple[Integers, Reals], tuple[Integers, Reals]]:
    """`_times_waves` for all features, for cosine and sine: (size, 2) features and their factors, 0 for none."""
    result = []
    for wave in range(2):
        new, factors = np.zeros((size, 2), np.int64), np.zeros((size, 2))
        for feature in range(size):
            for k, (to, factor) in enumerate(_times_waves(feature, m)[wave]):
                new[feature, k], factors[feature, k] = to, factor
        result.append((new, factors))
    return result[0], result[1]


@lru_cache(maxsize=1024)
def _times_waves(feature: int, m: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """A feature (0: 1, 2h - 1: cos(h u), 2h: sin(h u)) times cos(m u) and times sin(m u), as (feature, factor)."""

    def cos(h: int) -> int:
        return max(2 * abs(h) - 1, 0)

    def sin(h: int, factor: float) -> tuple[tuple[int, float], ...]:
        return ((2 * abs(h), factor if h > 0 else -factor),) if h else ()

    if feature == 0:
        return ((cos(m), 1.0),), sin(m, 1.0)
    h = (feature + 1) // 2
    if feature % 2:
        return ((cos(h - m), 0.5), (cos(h + m), 0.5)), (*sin(m + h, 0.5), *sin(m - h, 0.5))
    return (*sin(h + m, 0.5), *sin(h - m, 0.5)), ((cos(h - m), 0.5), (cos(h + m), -0.5))


def _liveness(rotations: tuple[Rotation, ...], n_qubits: int) -> Callable[[int, Integers], NDArray[np.bool_]]:
    """A test which strings can still become ones of Z alone under the first rotations; it may err on that side.

    Only rotations change x, each by its own, and in lowered programs the first ones fill the bits of x from the lowest
    (`hqfkernels.program.relabel`). Often they start with a layer that commutes, one rotation for each bit: there a
    string loses a bit of x only by anticommuting with the rotation of that bit. Whether it does is settled as soon as
    no rotation between that layer and the position can change the bit or that property.
    """
    layer = 0
    while (
        layer < len(rotations)
        and rotations[layer].x == 1 << layer
        and all(rotations[layer].commutes(other) for other in rotations[:layer])
    ):
        layer += 1
    highest, settled = [0], [tuple(rotations[:layer])]
    for k, rotation in enumerate(rotations):
        highest.append(max(highest[-1], rotation.x.bit_length()))
        if k < layer:
            settled.append(settled[0])
        else:
            settled.append(tuple(r for r in settled[-1] if not rotation.x & r.x and rotation.commutes(r)))

    def is_live(position: int, strings: Integers) -> NDArray[np.bool_]:
        result = strings >> n_qubits + highest[position] == 0
        for rotation in settled[position]:
            result &= (strings & rotation.x << n_qubits == 0) | _anticommute(strings, rotation, n_qubits)
        return result

    return is_live


def _needed(steps: list[Turn | Collect], sizes: list[int]) -> tuple[Turn | Collect, ...]:
    """The steps without what does not reach the result, collections with ``sizes`` behind them.

    The first of the sizes is that at the beginning.
    """
    result: list[Turn | Collect] = []
    sizes = list(sizes)
    needed = np.ones(sizes[-1], np.bool_)
    for step in reversed(steps):
        if isinstance(step, Collect):
            kept = needed[step.entries[:, 0]]
            entries = step.entries[kept]
            result.append(Collect(sizes.pop(), entries, step.factors[kept]))
            needed = np.zeros(sizes[-1], np.bool_)
            needed[entries[:, 1]] = True
        else:
            pairs = step.pairs[needed[step.pairs[:, :2]].any(1)]
            needed[pairs[:, :2]] = True
            if len(pairs):
                result.append(Turn(step.angle, pairs))
    return tuple(reversed(result))
