"""Quantum circuits inside neural networks: huge batches of small circuits as torch operators and modules."""

from hqfkernels import ansatz, backends, nn, ops
from hqfkernels.circuit import Angle, Circuit, Gate, Input, Weight
from hqfkernels.functional import explain, expval, probs, statevector
from hqfkernels.planner import Plan

__version__ = "0.1.0"

__all__ = [
    "Angle",
    "Circuit",
    "Gate",
    "Input",
    "Plan",
    "Weight",
    "ansatz",
    "backends",
    "explain",
    "expval",
    "nn",
    "ops",
    "probs",
    "statevector",
]

backends.load_native()
