"""What things cost: nanoseconds, forward and backward together in float32.

A cost is a sum of counts times constants, for a call, for each set of weights in it and for each sample. The constants
for CPUs, of one core, are fitted to measurements by ``python -m bench.planner`` on a machine with AVX-512
(docs/benchmarks.md). Those for GPUs are counted, not measured: bytes, instructions and exchanges of the compiled
kernels (bench/results/gpu_static.csv) at the rates of an H200. Only ratios matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from hqfkernels.program import Program
from hqfkernels.propagation import Collect, Propagation
from hqfkernels.series import Axis, Polynomials

CONSTANTS: dict[str, float] = {
    "gate call": 1.9e5,
    "gate number": 3.5,  # an input or output of a sample, read and written
    "gate amplitude": 1.0,  # growing, phases and measuring
    "gate rotation": 3.5,  # starting one
    "gate pair": 0.29,  # of real numbers, turned by a shared angle
    "gate own pair": 0.5,  # turned by an angle of the sample's own
    "weight": 28.0,  # reading a weight, and its gradient
    "fourier call": 2.8e5,
    "fourier number": 1.3,
    "fourier wave": 1.8,  # sine and cosine of an input
    "fourier product": 0.34,  # of features
    "fourier run": 0.11,  # terms of an output with a factor in common
    "fourier term": 0.12,
    "parameter": 10.0,  # reading one, and its gradient
    "propagation pair": 4.7,  # of strings
    "propagation entry": 4.0,  # of a collection
    "character": 0.92,  # of the texts that go with a call
    "grid call": 2.7e5,
    "unitary call": 1.2e6,
    "unitary amplitude": 7.9,  # of the states, in memory
    "unitary product": 0.029,  # multiply-add of matrices
    "double": 2.0,  # how much longer a circuit takes in double precision
}

PAIR_CHARACTERS = 15
"""How much of a propagation's text a pair of strings takes."""

LANES = 16
"""Samples that the gate engine simulates together, or as many places that stay empty."""
DOUBLE_LANES = 8
"""Likewise in double precision."""
TILE = 128
"""Samples that the contraction of the Fourier engine takes at a time, or as many places that stay empty."""

GPU_CONSTANTS: dict[str, float] = {
    "gate call": 5e4,
    "gate number": 2.8e-3,  # 12 bytes at 4.3 TB/s: read twice and its gradient written, or an output's
    "gate amplitude": 1e-3,
    "gate rotation": 1e-3,
    "gate pair": 3e-4,
    "gate own pair": 5e-4,
    "weight": 1.0,
    "fourier call": 1.2e5,
    "fourier number": 2.8e-3,
    "fourier wave": 2e-3,  # 60 instructions of the 3e13 a second
    "fourier product": 2e-4,
    "fourier run": 1e-4,
    "fourier term": 2e-4,
    "parameter": 1.0,
    "propagation pair": 10.0,  # by one block of threads
    "propagation entry": 10.0,
    "character": 0.0,
    "grid call": 2e5,
    "double": 2.0,
}
"""On a GPU as a whole; the unitary engine, which has no kernels there, has no price."""

Counts = dict[str, float]


class Prices(NamedTuple):
    """Nanoseconds for a call, for a set of weights, for a sample.

    Attributes:
        call, weight_set, sample: the prices.
        fewest: samples that a call is charged at least.
        fewest_of_set: samples that each set of weights is charged at least.
    """

    call: float
    weight_set: float
    sample: float
    fewest: int = 0
    fewest_of_set: int = 0


@dataclass(frozen=True)
class Cost:
    """Counts of what `CONSTANTS` prices: in a call, for a set of weights, for a sample; the rest as in `Prices`."""

    call: Counts = field(default_factory=dict)
    weight_set: Counts = field(default_factory=dict)
    sample: Counts = field(default_factory=dict)
    fewest: int = 0
    fewest_of_set: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _sum(self.call, other.call),
            _sum(self.weight_set, other.weight_set),
            _sum(self.sample, other.sample),
            max(self.fewest, other.fewest),
            max(self.fewest_of_set, other.fewest_of_set),
        )

    def samples_to_set(self, count: float) -> Cost:
        """What ``count`` samples cost, as part of a set of weights."""
        return Cost(weight_set={name: number * count for name, number in self.sample.items()})

    @property
    def prices(self) -> Prices:
        """On CPUs."""
        return Prices(*self._priced(CONSTANTS), self.fewest, self.fewest_of_set)

    @property
    def gpu_prices(self) -> Prices:
        """On a GPU, whose threads take what samples there are."""
        return Prices(*self._priced(GPU_CONSTANTS))

    def _priced(self, constants: dict[str, float]) -> tuple[float, float, float]:
        call, weight_set, sample = (
            sum(constants[name] * number for name, number in counts.items())
            for counts in (self.call, self.weight_set, self.sample)
        )
        return call, weight_set, sample


def _sum(first: Counts, second: Counts) -> Counts:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def charged(prices: Prices, samples: int, sets: int) -> int:
    """Samples that a call with ``samples`` samples under ``sets`` sets of weights is charged."""
    return max(samples, prices.fewest, prices.fewest_of_set * sets)


def total(prices: Prices, samples: int, sets: int) -> float:
    """Nanoseconds for ``samples`` samples under ``sets`` sets of weights."""
    return prices.call + prices.weight_set * max(sets, 1) + prices.sample * charged(prices, samples, sets)


def gate(program: Program) -> Cost:
    """The gate engine."""
    bits, shared, lanes = 0, 0, 0
    for rotation in program.rotations:
        if rotation.x >> bits:
            bits += 1  # this one grows the state
        elif rotation.x:
            shared += rotation.shared
            lanes += not rotation.shared
    if program.amplitudes is not None:
        bits = program.n_qubits
    pairs = 2**bits / 2 * (1 if program.is_real else 2)
    return Cost(
        {"gate call": 1},
        {"weight": program.n_weights},
        {
            "gate number": program.n_inputs + program.n_outputs,
            "gate amplitude": 2**bits,
            "gate rotation": shared + lanes,
            "gate pair": pairs * shared,
            "gate own pair": pairs * lanes,
        },
        LANES,
    )


def contraction(polynomials: Polynomials) -> Cost:
    """The Fourier engine, without where its parameters come from."""
    return Cost(
        {"fourier call": 1, "character": 10 * polynomials.n_terms},
        {"parameter": polynomials.n_parameters},
        {
            "fourier number": len(polynomials.axes) + len(polynomials.terms),
            "fourier wave": len(polynomials.axes),
            "fourier product": sum(polynomials.n_products),
            "fourier run": sum(len({a for a, _ in terms}) for terms in polynomials.terms),
            "fourier term": polynomials.n_terms,
        },
        fewest_of_set=TILE,
    )


def propagation(recipe: Propagation) -> Cost:
    """Parameters by Pauli propagation."""
    entries = sum(len(step.entries) for step in recipe.steps if isinstance(step, Collect))
    return Cost(
        {"character": len(recipe.text)},
        {"propagation pair": recipe.n_pairs, "propagation entry": entries, "weight": recipe.n_weights},
    )


def affordable_pairs(program: Program, samples: int) -> int:
    """Pairs of strings whose propagation costs as much as simulating ``samples`` samples."""
    price = CONSTANTS["propagation pair"] + PAIR_CHARACTERS * CONSTANTS["character"]
    return int(samples * gate(program).prices.sample / price)


def grid(program: Program, axes: tuple[Axis, ...]) -> Cost:
    """Parameters from the values on a grid."""
    points = math.ceil(math.prod(axis.size for axis in axes) / DOUBLE_LANES) * DOUBLE_LANES
    return Cost({"grid call": 1}) + gate(program).samples_to_set(CONSTANTS["double"] * points)


def unitary(before: Program | None, behind: Program) -> Cost:
    """The unitary engine; without a circuit before, the inputs are the state."""
    size = 2**behind.n_qubits
    planes = 1 if before is None or before.is_real else 2
    encoding = Cost() if before is None else Cost(sample=gate(before).sample, fewest=LANES)
    products = Cost({"unitary call": 1}, {}, {"unitary amplitude": size, "unitary product": 6 * planes * size**2})
    return encoding + products + gate(behind).samples_to_set(size)
