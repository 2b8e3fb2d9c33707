"""hqfkernels: `expval`, with whatever engine the planner picks."""

from __future__ import annotations

import numpy as np

import hqfkernels as hqf
from bench.cases import Case
from bench.peers.adapters import Step, torch_step


def expval(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    circuit = Case(inputs.shape[1], len(weights), len(inputs)).circuit()
    return {"expval": torch_step(lambda x, w: hqf.expval(circuit, x, w.flatten()), inputs, weights)}
