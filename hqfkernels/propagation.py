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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from hqfkernels.circuit import Angle
from hqfkernels.program import MAX_INDEX, Program, Rotation
from hqfkernels.series import Axis, Polynomials, balanced_split, centred, halves
from hqfkernels.words import Words

MAX_PAIRS = 100_000
"""Propagations with more pairs of strings to turn are given up: preparing them would take seconds."""

MAX_NUMBERS = 1 << 24
"""Propagations with more numbers, those before and after each collection counted, are given up: gradients keep all."""


@dataclass(frozen=True)
class Turn:
    """Turns pairs of numbers by a shared angle: ``(p, q) -> (cos p - sin q, cos q + sin p)``, sin with the pair's sign.

    Attributes:
        angle: of weights and constants.
        pairs: (index of p, index of q, sign).
    """

    angle: Angle
    pairs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Collect:
    """A new list of numbers, each a sum of factors times old ones.

    Attributes:
        size: how many.
        entries: (new index, old index, factor), sorted.
    """

    size: int
    entries: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
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
        words: list[object] = ["propagation1", self.n_weights, len(self.initial), *map(repr, self.initial)]
        words.append(len(self.steps))
        for step in self.steps:
            if isinstance(step, Turn):
                words += ["turn", *_angle_words(step.angle), len(step.pairs)]
                words += [word for pair in step.pairs for word in pair]
            else:
                words += ["collect", step.size, len(step.entries)]
                words += [word for new, old, factor in step.entries for word in (new, old, repr(factor))]
        words.append(len(self.shifts))
        words += [word for angle in self.shifts for word in _angle_words(angle)]
        return " ".join(map(str, words))

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
                pairs = tuple(
                    (words.number(0, size - 1), words.number(0, size - 1), words.number(-1, 1))
                    for _ in range(words.length())
                )
                steps.append(Turn(turned, pairs))
            elif kind == "collect":
                before, size = size, words.number(0, MAX_NUMBERS)
                total += size
                if total > MAX_NUMBERS:
                    raise ValueError("propagation: too many numbers")
                entries = tuple(
                    (words.number(0, size - 1), words.number(0, before - 1), words.real())
                    for _ in range(words.length())
                )
                steps.append(Collect(size, entries))
            else:
                raise ValueError(f"propagation: unknown step {kind[:40]!r}")
        shifts = tuple(angle() for _ in range(words.length()))
        words.finish()
        return Propagation(n_weights, initial, tuple(steps), shifts)


def _angle_words(angle: Angle) -> Iterator[object]:
    yield repr(angle.constant)
    yield len(angle.weights)
    for k, factor in angle.weights:
        yield from (k, repr(factor))


_Key = tuple[int, int, int, int]  # output, x, z, product of features
_Sums = dict[_Key, dict[int, float]]  # each a sum of factors times numbers


def propagate(program: Program, axes: tuple[Axis, ...]) -> tuple[Polynomials, Propagation] | None:
    """The polynomials of a program and how to compute their parameters; None if that takes too many steps.

    Args:
        program: lowered, with expectation values or probabilities as its measurement.
        axes: what `hqfkernels.series.axes_of` says of it.
    """
    plain, shifts = centred(program)
    places = {axis.input: k for k, axis in enumerate(axes)}
    strides = [math.prod(axis.size for axis in axes[k + 1 :]) for k in range(len(axes))]
    is_live = _liveness(plain.rotations)

    start = _observables(plain)
    sums: _Sums = {key: {k: 1.0} for k, key in enumerate(start)}
    numbers = [len(start)]  # how many there are, at the beginning and after each collection
    plain_numbers = True  # whether every sum is one of the numbers
    steps: list[Turn | Collect] = []
    n_pairs = 0
    for position in reversed(range(len(plain.rotations))):
        rotation = plain.rotations[position]
        shared = Angle(rotation.angle.constant, (), rotation.angle.weights)
        if shared != Angle():
            if not plain_numbers:
                steps.append(_collect(sums.values()))
                numbers.append(len(sums))
                sums = {key: {k: 1.0} for k, key in enumerate(sums)}
                plain_numbers = True
            index = {key: next(iter(total)) for key, total in sums.items()}
            pairs, numbers[-1] = _turn(index, rotation, numbers[-1])
            steps.append(Turn(shared, pairs))
            n_pairs += len(pairs)
            sums = {key: {k: 1.0} for key, k in index.items()}
        for k, factor in rotation.angle.inputs:
            axis = axes[places[k]]
            sums = _encode(sums, rotation, round(factor / axis.unit), axis.size, strides[places[k]])
            plain_numbers = False
        sums = {key: total for key, total in sums.items() if is_live(position, key[1], key[2])}
        if max(n_pairs, len(sums)) > MAX_PAIRS or sum(numbers) > MAX_NUMBERS:
            return None

    terms: dict[tuple[int, int], dict[int, float]] = {}
    for (output, x, _, product), total in sums.items():
        if x:  # left over where there are no rotations; |0...0> makes it 0, and strings of Z alone 1
            continue
        term = terms.setdefault((output, product), {})
        for k, factor in total.items():
            term[k] = term.get(k, 0.0) + factor
    terms = {key: total for key in sorted(terms) if any((total := terms[key]).values())}
    steps.append(_collect(terms.values()))
    numbers.append(len(terms))

    split, (_, size_b) = balanced_split(axes), halves(axes)
    by_output: list[list[tuple[int, int]]] = [[] for _ in range(program.n_outputs)]
    for output, product in terms:
        by_output[output].append(divmod(product, size_b))
    polynomials = Polynomials(axes, split, tuple(map(tuple, by_output)))
    initial = (*start.values(), *(0.0,) * (numbers[0] - len(start)))
    return polynomials, Propagation(
        program.n_weights,
        initial,
        _needed(steps, numbers[1:]),
        tuple(shifts[axis.input] * axis.unit for axis in axes),
    )


def _observables(program: Program) -> dict[_Key, float]:
    """What is measured, as Pauli strings with factors."""
    if program.measurement == "expval":
        return {(k, x, z, 0): float(sign) for k, (x, z, sign) in enumerate(program.observables)}
    offset, *columns = program.frame
    result = {}
    for bits in range(2**program.n_qubits):  # |b><b| is the mean over all strings of Z, with signs
        index = offset
        for k, column in enumerate(columns):
            index ^= column * (bits >> k & 1)
        for z in range(2**program.n_qubits):
            result[bits, 0, z, 0] = (-1.0) ** (index & z).bit_count() / 2**program.n_qubits
    return result


def _partner(x: int, z: int, rotation: Rotation) -> tuple[int, int, int] | None:
    """I Q P as (x, z, sign) for the string P = (x, z) and the rotation's Q; None if they commute."""
    qx, qz = rotation.x, rotation.z
    if not ((x & qz).bit_count() + (z & qx).bit_count()) % 2:
        return None
    new_x, new_z = x ^ qx, z ^ qz
    power = 1 + (qx & qz).bit_count() + (x & z).bit_count() + 2 * (qz & x).bit_count() - (new_x & new_z).bit_count()
    return new_x, new_z, 1 - power % 4


def _turn(index: dict[_Key, int], rotation: Rotation, count: int) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """The pairs that a shared rotation turns; ``index`` gets new strings with numbers from ``count`` on."""
    pairs = []
    done: set[_Key] = set()
    for key in list(index):
        output, x, z, product = key
        if key in done or (partner := _partner(x, z, rotation)) is None:
            continue
        other = (output, partner[0], partner[1], product)
        if other not in index:
            index[other] = count
            count += 1
        pairs.append((index[key], index[other], partner[2]))
        done.add(other)
    return tuple(pairs), count


def _encode(sums: _Sums, rotation: Rotation, multiple: int, size: int, stride: int) -> _Sums:
    """Turns by ``multiple`` times the variable of an axis, whose features have ``size`` and ``stride`` in a product."""
    result: _Sums = {}

    def add(key: _Key, total: dict[int, float], factor: float) -> None:
        into = result.setdefault(key, {})
        for k, value in total.items():
            into[k] = into.get(k, 0.0) + factor * value

    for key, total in sums.items():
        output, x, z, product = key
        partner = _partner(x, z, rotation)
        if partner is None:
            add(key, total, 1.0)
            continue
        feature = product // stride % size
        along_cos, along_sin = _times_waves(feature, abs(multiple))
        for new, factor in along_cos:
            add((output, x, z, product + (new - feature) * stride), total, factor)
        for new, factor in along_sin:
            factor *= partner[2] * (1 if multiple > 0 else -1)
            add((output, partner[0], partner[1], product + (new - feature) * stride), total, factor)
    return result


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


def _liveness(rotations: tuple[Rotation, ...]) -> Callable[[int, int, int], bool]:
    """A test whether a string can still become one of Z alone under the first rotations; it may err on that side.

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

    def is_live(position: int, x: int, z: int) -> bool:
        return not x >> highest[position] and all(
            _partner(x, z, rotation) is not None for rotation in settled[position] if x & rotation.x
        )

    return is_live


def _collect(sums: Iterable[dict[int, float]]) -> Collect:
    entries = [(new, old, factor) for new, total in enumerate(sums) for old, factor in total.items() if factor]
    return Collect(0, tuple(entries))


def _needed(steps: list[Turn | Collect], sizes: list[int]) -> tuple[Turn | Collect, ...]:
    """The steps without what does not reach the result, collections with their sizes filled in."""
    result: list[Turn | Collect] = []
    sizes = list(sizes)
    needed = set(range(sizes[-1]))
    for step in reversed(steps):
        if isinstance(step, Collect):
            entries = tuple(entry for entry in step.entries if entry[0] in needed)
            needed = {old for _, old, _ in entries}
            result.append(Collect(sizes.pop(), entries))
        else:
            pairs = tuple(pair for pair in step.pairs if pair[0] in needed or pair[1] in needed)
            needed.update(k for pair in pairs for k in pair[:2])
            if pairs:
                result.append(Turn(step.angle, pairs))
    return tuple(reversed(result))
