"""Adapters for tests of `bench.peers`: the benchmark circuit in numpy, right and wrong in several ways."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from bench.peers.adapters import Step, signs

SLOW = 0.002
"""Seconds that a circuit of `slow` takes."""


def expectations(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """All <Z_k>, (batch, n)."""
    batch, n = inputs.shape
    state = np.zeros((batch, *[2] * n), dtype=complex)
    state.reshape(batch, -1)[:, 0] = 1

    def ry(state: np.ndarray, q: int, angle: np.ndarray) -> np.ndarray:
        zero, one = np.moveaxis(state, q + 1, -1)[..., 0], np.moveaxis(state, q + 1, -1)[..., 1]
        c, s = (f(angle / 2).reshape(-1, *[1] * (n - 1)) for f in (np.cos, np.sin))
        return np.moveaxis(np.stack([c * zero - s * one, s * zero + c * one], -1), -1, q + 1)

    for q in range(n):
        state = ry(state, q, inputs[:, q])
    for layer in weights:
        for q in range(n):
            phases = np.exp(np.array([-0.5j, 0.5j]) * layer[q, 1])
            state = np.moveaxis(np.moveaxis(ry(state, q, layer[q, 0]), q + 1, -1) * phases, -1, q + 1)
        for q in range(n):
            axes = np.moveaxis(state, [q + 1, (q + 1) % n + 1], [0, 1])
            axes[1] = axes[1, ::-1].copy()
    return (np.abs(state.reshape(batch, -1)) ** 2) @ signs(n)


def right(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """Gradients by parameter shift, and a line on standard output from every step."""
    inputs, weights = inputs.astype(np.float64), weights.astype(np.float64)

    def shifted(function: Callable[[np.ndarray], np.ndarray], angles: np.ndarray, entry: tuple) -> np.ndarray:
        values = []
        for shift in (np.pi / 2, -np.pi / 2):
            moved = angles.copy()
            moved[entry] += shift
            values.append(function(moved))
        return (values[0] - values[1]) / 2

    def step() -> tuple[np.ndarray, ...]:
        print("a library that talks")
        y = expectations(inputs, weights)
        columns = [(slice(None), q) for q in range(inputs.shape[1])]
        by_input = [shifted(lambda x: expectations(x, weights), inputs, entry) for entry in columns]
        by_weight = [shifted(lambda w: expectations(inputs, w), weights, entry) for entry in np.ndindex(weights.shape)]
        input_grads = np.stack([(2 * y * d).sum(1) for d in by_input], 1)
        weight_grads = np.reshape([(2 * y * d).sum() for d in by_weight], weights.shape)
        return y, input_grads, weight_grads

    return {"parameter shift": step}


def wrong_weight_gradients(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    (step,) = right(inputs, weights).values()

    def wrong() -> tuple[np.ndarray, ...]:
        y, input_grads, weight_grads = step()
        return y, input_grads, weight_grads * [1, 1.001]

    return {"wrong": wrong}


def one_value_for_all(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """Would be right if shapes were broadcast."""
    (step,) = right(inputs, weights).values()
    return {"short": lambda: (step()[0][:1], *step()[1:])}


def refuses(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    raise NotImplementedError(f"no circuits on {inputs.shape[1]} qubits")


def ends(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    return {"end": lambda: os._exit(7)}


def ends_later(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """Survives the check and the first reading."""
    (step,) = right(inputs, weights).values()
    calls: list[None] = []

    def once() -> tuple[np.ndarray, ...]:
        calls.append(None)
        if len(calls) > 4:
            os.abort()
        time.sleep(0.03)  # so that one step is a reading
        return step()

    return {"once": once}


def sleeps(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    def sleep() -> tuple[np.ndarray, ...]:
        time.sleep(60)
        return ()

    return {"sleep": sleep}


def slow(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """Takes its time for each circuit."""
    (step,) = right(inputs, weights).values()

    def late() -> tuple[np.ndarray, ...]:
        time.sleep(SLOW * len(inputs))
        return step()

    return {"loop": late}


def several(inputs: np.ndarray, weights: np.ndarray) -> dict[str, Step]:
    """A form that raises, a slow one, a fast one, and one that ends the process."""

    def raises() -> tuple[np.ndarray, ...]:
        raise RuntimeError("no compiler")

    (fast,) = right(inputs, weights).values()
    return {"compiled": raises, **slow(inputs, weights), "fast": fast, **ends(inputs, weights)}
