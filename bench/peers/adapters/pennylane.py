"""PennyLane: default.qubit with a broadcast batch, through torch and through jax; lightning.qubit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pennylane as qml

from bench.peers.adapters import Step, signs, torch_step

CHUNK = 2**16
"""Amplitudes of the batch in work at a time that stay in a core's cache, for the chunked form."""


def _gates(inputs: Any, weights: Any) -> None:
    """The circuit on a broadcast batch, (batch, n)."""
    n = inputs.shape[1]
    for q in range(n):
        qml.RY(inputs[:, q], wires=q)
    for layer in weights:
        for q in range(n):
            qml.RY(layer[q, 0], wires=q)
            qml.RZ(layer[q, 1], wires=q)
        for q in range(n):
            qml.CNOT([q, (q + 1) % n])


def _probabilities(n: int, interface: str) -> qml.QNode:
    """All probabilities, measured once: one matrix of signs makes every <Z_k> of them."""

    @qml.qnode(qml.device("default.qubit", wires=n), interface=interface, diff_method="backprop")
    def probabilities(inputs: Any, weights: Any) -> Any:
        _gates(inputs, weights)
        return qml.probs(wires=range(n))

    return probabilities


def torch_backprop(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """default.qubit, backpropagation by torch."""
    import torch

    n = inputs.shape[1]
    probabilities, matrix = _probabilities(n, "torch"), torch.from_numpy(signs(n))

    def form(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        p = probabilities(x, w)
        return p @ matrix.to(p.dtype)

    return {"broadcast": torch_step(form, inputs, weights)}


def jax_jit(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """default.qubit, jax.jit around the whole step; the batch at once, or in chunks that stay in the cache."""
    import jax

    batch, n = inputs.shape
    probabilities, matrix = _probabilities(n, "jax"), signs(n)

    def loss(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = probabilities(x, w) @ matrix
        return (y**2).sum(), y

    step = jax.value_and_grad(loss, (0, 1), has_aux=True)

    def whole(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        (_, y), (input_grads, weight_grads) = step(x, w)
        return y, input_grads, weight_grads

    def chunked(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        chunks = x.reshape(-1, math.gcd(batch, CHUNK >> n), n)
        y, input_grads, weight_grads = jax.lax.map(lambda chunk: whole(chunk, w), chunks)
        return y.reshape(batch, n), input_grads.reshape(batch, n), weight_grads.sum(0)

    x, w = jax.numpy.asarray(inputs), jax.numpy.asarray(weights)
    forms = {"whole batch": jax.jit(whole)}
    if batch << n > CHUNK:
        forms["chunks"] = jax.jit(chunked)
    return {name: partial(lambda form: jax.block_until_ready(form(x, w)), form) for name, form in forms.items()}


def lightning_adjoint(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """lightning.qubit through torch: each sample of the batch is a circuit of its own, differentiated by adjoints."""
    import torch

    n = inputs.shape[1]

    @qml.qnode(qml.device("lightning.qubit", wires=n), interface="torch", diff_method="adjoint")
    def expectations(x: Any, w: Any) -> Any:
        _gates(x, w)
        return [qml.expval(qml.Z(q)) for q in range(n)]

    return {"broadcast": torch_step(lambda x, w: torch.stack(expectations(x, w), -1).float(), inputs, weights)}
