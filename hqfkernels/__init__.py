"""Quantum circuits inside neural networks: huge batches of small circuits as torch operators and modules."""

import sys

try:
    from hqfkernels import ansatz, backends, nn, ops
    from hqfkernels.circuit import Angle, Circuit, Gate, Input, Weight
    from hqfkernels.functional import explain, expval, probs, statevector
    from hqfkernels.planner import Plan

    backends.load_native()
except Exception:
    # Python imports this package before it runs a module of it, and the report is for installations that are broken.
    if sys.orig_argv[-2:] != ["-m", "hqfkernels.env_report"]:
        raise

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
