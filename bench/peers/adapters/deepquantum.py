"""DeepQuantum: `QubitCircuit` with its inputs as encoders, which it vectorises itself; as it is and compiled."""

from __future__ import annotations

from typing import Any

import deepquantum as dq
import numpy as np
import torch

from bench.peers.adapters import Step, signs


def forward(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    n, layers = inputs.shape[1], len(weights)
    circuit = dq.QubitCircuit(n)
    for q in range(n):
        circuit.ry(q, encode=True)
    for _ in range(layers):
        for q in range(n):
            circuit.ry(q)  # with a parameter of its own, unlike one that is given an angle
            circuit.rz(q)
        for q in range(n):
            circuit.cnot(q, (q + 1) % n)
    parameters = list(circuit.parameters())
    for parameter, weight in zip(parameters, weights.flatten(), strict=True):
        torch.nn.init.constant_(parameter, weight)
    x, matrix = torch.from_numpy(inputs).requires_grad_(), torch.from_numpy(signs(n))

    def step(run: Any) -> Step:
        def once() -> tuple[Any, ...]:
            state = run(x).squeeze(-1)
            y = (state.real**2 + state.imag**2) @ matrix
            input_grads, *grads = torch.autograd.grad(y.square().sum(), (x, *parameters))
            return y.detach(), input_grads, torch.stack(grads).view(layers, n, 2)

        return once

    return {"vmap": step(circuit), "vmap, compiled": step(torch.compile(circuit, dynamic=False))}
