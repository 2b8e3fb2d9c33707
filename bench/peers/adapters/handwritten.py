"""The hand-written torch forms of `bench.handwritten`."""

from __future__ import annotations

import numpy as np

from bench.cases import COMPILED, LOW_RANK, OURS, Case, implementations
from bench.handwritten import Form
from bench.peers.adapters import Step, torch_step


def _steps(inputs: np.ndarray, weights: np.ndarray, compiled: bool, low_rank: bool) -> dict[str, Step]:
    def step(form: Form) -> Step:
        return torch_step(lambda x, w: form(x, w.flatten()), inputs, weights)

    forms = implementations(Case(inputs.shape[1], len(weights), len(inputs)), compiled)
    return {
        name: step(form)
        for name, form in forms.items()
        if name != OURS and (LOW_RANK in name) == low_rank and (low_rank or (COMPILED in name) == compiled)
    }


def eager(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """State vectors, operator by operator."""
    return _steps(inputs, weights, compiled=False, low_rank=False)


def compiled(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """State vectors, through torch.compile."""
    return _steps(inputs, weights, compiled=True, low_rank=False)


def low_rank(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """No state vectors, for two layers only; as it is and through torch.compile."""
    if len(weights) != 2 or inputs.shape[1] < 6:
        raise ValueError(f"for two layers on at least 6 qubits, got {len(weights)} on {inputs.shape[1]}")
    return _steps(inputs, weights, compiled=True, low_rank=True)
