"""TorchQuantum-NG: its functional gates on a `QuantumDevice`, applied by bmm or by einsum."""

from __future__ import annotations

import numpy as np
import torch
import torchquantum as tq
import torchquantum.functional as tqf

from bench.peers.adapters import Step, signs, torch_step


def functional(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    batch, n = inputs.shape
    matrix = torch.from_numpy(signs(n))

    def step(method: str) -> Step:
        def form(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            device = tq.QuantumDevice(n_wires=n, bsz=batch)
            for q in range(n):
                tqf.ry(device, q, params=x[:, q : q + 1], comp_method=method)
            for layer in w:
                for q in range(n):
                    tqf.ry(device, q, params=layer[q, 0].view(1, 1), comp_method=method)
                    tqf.rz(device, q, params=layer[q, 1].view(1, 1), comp_method=method)
                for q in range(n):
                    tqf.cnot(device, [q, (q + 1) % n], comp_method=method)
            state = device.get_states_1d()
            return (state.real**2 + state.imag**2) @ matrix

        return torch_step(form, inputs, weights)

    return {method: step(method) for method in ("bmm", "einsum")}
