"""qandle: its strongly entangling layers on product states written in torch.

Its own encodings build a 2**n x 2**n matrix for every sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import qandle
import torch

from bench.peers.adapters import Step, signs


def layers(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    n = inputs.shape[1]
    circuit = qandle.Circuit(
        [
            qandle.StronglyEntanglingLayer(
                list(range(n)),
                num_qubits_total=n,
                rotations=["ry", "rz"],
                q_params=torch.from_numpy(layer)[None],
                remapping=None,
            )
            for layer in weights  # one at a time: a second layer in one would skip a qubit in its CNOTs
        ],
        num_qubits=n,
    )
    parameters = list(circuit.parameters())
    x, matrix = torch.from_numpy(inputs).requires_grad_(), torch.from_numpy(signs(n))

    def step() -> tuple[Any, ...]:
        factors = torch.stack([(x / 2).cos(), (x / 2).sin()], -1)
        state = factors[:, 0]
        for q in range(1, n):
            state = (state[:, :, None] * factors[:, q, None]).flatten(1)
        state = circuit(state.to(torch.complex64))
        y = (state.real**2 + state.imag**2) @ matrix
        input_grads, *grads = torch.autograd.grad(y.square().sum(), (x, *parameters))
        return y.detach(), input_grads, torch.stack(grads).view(weights.shape)

    return {"layers": step}
