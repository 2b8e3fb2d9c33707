"""Qulacs: a loop over the samples, in as many processes as there are threads; complex128, as it always computes.

A sample: `update_quantum_state`, y from the amplitudes, then `backprop_inner_product` with 2 O |psi>, O = sum 2 y_k Z_k
being the observable whose gradients are those of sum(y**2).
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

THREADS = int(os.environ["OMP_NUM_THREADS"])
os.environ["OMP_NUM_THREADS"] = "1"  # of each process; read when the library is loaded
import qulacs  # noqa: E402

from bench.peers.adapters import Step, signs  # noqa: E402


class _Share:
    """A part of the samples."""

    def __init__(self, inputs: np.ndarray, weights: np.ndarray) -> None:
        self.inputs, self.weights = inputs.astype(np.float64), weights.astype(np.float64)
        n = inputs.shape[1]
        self.circuit = qulacs.ParametricQuantumCircuit(n)
        for q in range(n):
            self.circuit.add_parametric_RY_gate(q, 0.0)
        for layer in self.weights:  # its rotations are exp(+i t P / 2)
            for q in range(n):
                self.circuit.add_parametric_RY_gate(q, -layer[q, 0])
                self.circuit.add_parametric_RZ_gate(q, -layer[q, 1])
            for q in range(n):
                self.circuit.add_CNOT_gate(q, (q + 1) % n)
        self.signs = signs(n)[:, ::-1].astype(np.float64)  # its qubit 0 is the least significant bit

    def run(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and input gradients (samples, n), and the sum of the weight gradients (layers, n, 2)."""
        n = self.inputs.shape[1]
        state, adjoint = qulacs.QuantumState(n), qulacs.QuantumState(n)
        values = np.empty_like(self.inputs)
        grads = np.empty((len(self.inputs), self.circuit.get_parameter_count()))
        for i, sample in enumerate(self.inputs.tolist()):
            for q, angle in enumerate(sample):
                self.circuit.set_parameter(q, -angle)
            state.set_zero_state()
            self.circuit.update_quantum_state(state)
            amplitudes = state.get_vector()
            y = (amplitudes.real**2 + amplitudes.imag**2) @ self.signs
            adjoint.load(amplitudes * (self.signs @ (4 * y)))
            grads[i] = self.circuit.backprop_inner_product(adjoint)
            values[i] = y
        return values, -grads[:, :n], -grads[:, n:].sum(0).reshape(self.weights.shape)


_shares: list[_Share] = []
"""Filled before the processes are forked, which have their own copies of them."""


def _run(share: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _shares[share].run()


def backprop(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    _shares[:] = [_Share(part, weights) for part in np.array_split(inputs, THREADS)]
    pool = ProcessPoolExecutor(THREADS, multiprocessing.get_context("fork"))

    def step() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, input_grads, weight_grads = zip(*pool.map(_run, range(THREADS)), strict=True)
        return np.concatenate(values), np.concatenate(input_grads), np.sum(weight_grads, 0)

    return {"loop": step}
