"""What things cost: nanoseconds of one core, forward and backward together in float32.

The constants are fitted to measurements of the benchmark circuits on a machine with AVX-512 (`bench.planner` makes
them, bench/results/ keeps them); only their ratios matter.
"""

from __future__ import annotations

import math

from hqfkernels.program import Program
from hqfkernels.propagation import Propagation
from hqfkernels.series import Axis, Polynomials, halves

SAMPLE = 20.0  # reading and writing a sample of the gate engine
AMPLITUDE = 0.53  # growing, phases and measuring, per amplitude
ROTATION = 4.5  # starting one
PAIR = 0.287  # a shared rotation, per pair of real numbers
LANE_PAIR = 0.5  # one with an angle per sample
SERIES_SAMPLE = 4.0  # reading and writing a sample of the Fourier engine
FEATURE = 0.3  # a product of features
TERM = 0.08  # a term of a polynomial
PARAMETER = 10.0  # reading one and its gradient, per set of weights
CALL = 3e4  # of the operator that computes coefficients
GRID_CALL = 3e5  # the same on a grid
TURN = 5.0  # a pair of strings in a propagation
DOUBLE = 2.0  # the grid is computed in double precision
UNITARY_CALL = 5e5  # of everything that the unitary engine asks of torch
STATE = 4.0  # an amplitude in memory
MAC = 0.025  # a multiply-add in a product of matrices


def gate(program: Program) -> float:
    """A sample, by the gate engine."""
    bits, shared, lanes = 0, 0, 0
    for rotation in program.rotations:
        if rotation.x >> bits:
            bits += 1  # this one grows the state
        elif rotation.x:
            shared += rotation.shared
            lanes += not rotation.shared
    planes = 1 if program.is_real else 2
    pairs = 2.0**bits / 2 * planes
    mixing = ROTATION * (shared + lanes) + pairs * (PAIR * shared + LANE_PAIR * lanes)
    return SAMPLE + 2.0**bits * AMPLITUDE + mixing


def contraction(polynomials: Polynomials) -> float:
    """A sample, by the Fourier engine."""
    return SERIES_SAMPLE + FEATURE * sum(halves(polynomials.axes)) + TERM * polynomials.n_terms


def propagation(recipe: Propagation) -> float:
    """A set of weights: parameters by Pauli propagation."""
    return CALL + TURN * recipe.n_pairs


def grid(program: Program, axes: tuple[Axis, ...]) -> float:
    """A set of weights: parameters from the values on a grid."""
    return GRID_CALL + DOUBLE * math.prod(axis.size for axis in axes) * gate(program)


def unitary(before: Program | None, behind: Program) -> tuple[float, float]:
    """A sample and a set of weights, by the unitary engine; without a circuit before, the inputs are the state."""
    size = 2**behind.n_qubits
    planes = 1 if before is None or before.is_real else 2
    encoding = 0.0 if before is None else gate(before)
    return encoding + STATE * size + 3 * MAC * 2 * planes * size**2, UNITARY_CALL + size * gate(behind)
