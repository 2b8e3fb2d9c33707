"""TensorCircuit-NG: the state of one sample, vectorised and compiled by jax or torch, then probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorcircuit as tc

from bench.peers.adapters import Step, signs, torch_step


def _state(x: Any, w: Any) -> Any:
    """Amplitudes (2**n,) for the inputs (n,) of one sample."""
    n = len(x)
    circuit = tc.Circuit(n)
    for q in range(n):
        circuit.ry(q, theta=x[q])
    for layer in w:
        for q in range(n):
            circuit.ry(q, theta=layer[q, 0])
            circuit.rz(q, theta=layer[q, 1])
        for q in range(n):
            circuit.cnot(q, (q + 1) % n)
    return circuit.state()


def jax_jit(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """jax.vmap over the samples, jax.jit around the whole step."""
    import jax

    tc.set_backend("jax")
    matrix = signs(inputs.shape[1])

    def expectations(x: jax.Array, w: jax.Array) -> jax.Array:
        state = _state(x, w)
        return (state.real**2 + state.imag**2) @ matrix

    def loss(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.vmap(expectations, (0, None))(x, w)
        return (y**2).sum(), y

    @jax.jit
    def step(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        (_, y), (input_grads, weight_grads) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)
        return y, input_grads, weight_grads

    x, w = jax.numpy.asarray(inputs), jax.numpy.asarray(weights)
    return {"vmap": lambda: jax.block_until_ready(step(x, w))}


def torch_vmap(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """torch.func.vmap over the samples, as it is and through torch.compile."""
    import torch

    tc.set_backend("pytorch")
    matrix = torch.from_numpy(signs(inputs.shape[1]))

    def expectations(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        state = _state(x, w)
        return (state.real**2 + state.imag**2) @ matrix

    form = torch.func.vmap(expectations, (0, None))
    return {
        "vmap": torch_step(form, inputs, weights),
        "vmap, compiled": torch_step(torch.compile(form, dynamic=False), inputs, weights),
    }
