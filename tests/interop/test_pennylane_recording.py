"""What a QNode computes with its arguments: affine by construction, and then right anywhere, or refused by name."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

qml = pytest.importorskip("pennylane")
from hqfkernels.interop.pennylane import TorchLayer  # noqa: E402

MATRIX = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
ONES = torch.ones(3, dtype=torch.float64)
MASK = torch.tensor([True, False, True])
FAR = ([9.0, -13.0, 4.0], [-20.0, 8.5, -3.0], [1e-9, 0.0, -0.3], [100.0, 50.25, -77.0])
"""Points beyond where a circuit is read, on both sides of every threshold below."""


def layers(function, shapes, wires=3):
    """PennyLane's layer and ours for the same function, with the same weights."""
    torch.manual_seed(3)
    theirs = qml.qnn.TorchLayer(qml.QNode(function, qml.device("default.qubit", wires=wires)), shapes).double()
    ours = TorchLayer(qml.QNode(function, qml.device("default.qubit", wires=wires)), shapes).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def node_of(step):
    """A function that puts ``step`` of its inputs and weights, scaled, into angles."""

    def function(inputs, w):
        angles = step(inputs, w)
        for k in range(3):
            qml.RY(0.1 * angles[..., k], k)
        qml.CNOT([0, 1])
        qml.RX(0.3 * angles[..., 1] + w[0], 0)
        return [qml.expval(qml.Z(k)) for k in range(3)]

    return function


def check_equal(theirs, ours, points=FAR):
    """Values and gradients of both layers, sample by sample."""
    for point in points:
        results = []
        for layer in (theirs, ours):
            layer.zero_grad()
            inputs = torch.tensor(point, dtype=torch.float64, requires_grad=True)
            y = layer(inputs)
            (y * torch.arange(1.0, len(y) + 1)).sum().backward()
            found = torch.zeros_like(inputs) if inputs.grad is None else inputs.grad
            results.append((y.detach(), found, *(p.grad for p in layer.parameters())))
        for actual, expected in zip(*reversed(results), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def written(x, w):
    buffer = torch.zeros(5, dtype=x.dtype)
    buffer[1:4] = x
    buffer[0] = 2.0
    return buffer[:3]


def in_place(x, w):
    x = x.clone()
    x[0] = 2 * x[1]
    x += 1
    x[2] -= w[0]
    return x.mul_(0.5)


AFFINE = {
    "arithmetic": lambda x, w: 2 * x - 0.5 + w / 3 - (1 - x),
    "numbers of NumPy": lambda x, w: np.pi * x + np.float64(2) * w,
    "indexing": lambda x, w: torch.stack([x[2], x[[1]][0], x[MASK][0]]),
    "shape": lambda x, w: x.reshape(1, 3).T.squeeze(-1).unsqueeze(0).expand(2, 3)[1] * x.shape[-1] * len(x),
    "parts": lambda x, w: torch.cat([*x.split(2)[::-1], *w.chunk(3)])[:3],
    "order": lambda x, w: x.flip(0).roll(1) + w[torch.tensor([2, 0, 1])],
    "sums": lambda x, w: x - x.mean() + x.sum() + x.cumsum(0) + w.diff(prepend=w[:1]),
    "matrices": lambda x, w: x @ MATRIX + MATRIX @ w + torch.einsum("i,ij->j", x, MATRIX) + x.dot(ONES),
    "outer": lambda x, w: torch.outer(x, ONES)[:, 0] + torch.kron(x[:1], ONES),
    "layer": lambda x, w: functional.linear(x, MATRIX, ONES),
    "convolution": lambda x, w: functional.conv1d(x[None, None], ONES[None, None], padding=1)[0, 0],
    "pooling": lambda x, w: functional.avg_pool1d(x[None], 3)[0].expand(3),
    "padding": lambda x, w: functional.pad(x[:2], (0, 1), value=0.3),
    "constant choice": lambda x, w: torch.where(MASK, x, w).masked_fill(~MASK, 0.7),
    "written into a tensor": written,
    "in place": in_place,
    "scattered": lambda x, w: (
        torch.zeros(3).to(x).scatter(0, torch.tensor([1, 0, 2]), x).index_add(0, torch.arange(3), w)
    ),
    "float to float": lambda x, w: x.double().type_as(ONES) + w.to(torch.float64),
    "complex": lambda x, w: (x * (2 + 1j)).imag + (1j * w).conj().imag,
    "power of one": lambda x, w: x**1,
    "mapped": lambda x, w: torch.vmap(lambda one: 2 * one)(x),
    "no dropout": lambda x, w: functional.dropout(x, 0.5, training=False),
    "PennyLane's functions": lambda x, w: qml.math.stack([qml.math.sum(x), qml.math.dot(w, np.ones(3)), x[0]]),
    "seeded": lambda x, w: (torch.manual_seed(1), x * torch.rand(3, dtype=torch.float64))[1],
    "tensors of float32": lambda x, w: x.float() @ torch.eye(3),
}


@pytest.mark.parametrize("step", AFFINE.values(), ids=AFFINE)
def test_affine_by_construction(step):
    check_equal(*layers(node_of(step), {"w": 3}))


class Reversed(torch.autograd.Function):
    """The identity with another gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


def without_gradients(x, w):
    with torch.no_grad():
        return 2 * x


def overwritten(x, w):
    y = 2 * x
    y.data[0] = 0.3
    return y


def hooked(x, w):
    y = 2 * x
    y.register_hook(lambda grad: -grad)
    return y


def caught(x, w):
    try:
        return 2 * x if x[0] > 8 else x
    except ValueError:
        return x


def drops_some(x, w):
    return functional.dropout(x, 0.01)


SCALE = torch.ones(3, dtype=torch.float64, requires_grad=True)
REFUSED = {
    "clamp": (lambda x, w: torch.clamp(x, -math.pi, math.pi), "clamp"),
    "relu": (lambda x, w: torch.relu(x + 2), "relu"),
    "hardtanh": (lambda x, w: functional.hardtanh(x, -9, 9), "hardtanh"),
    "comparison": (lambda x, w: x + (x > 8), "gt"),
    "comparison of weights": (lambda x, w: x + (w > 8), "gt"),
    "comparison, cast": (lambda x, w: x * (x <= 8).to(x.dtype), "le"),
    "choice": (lambda x, w: torch.where(x > 8, x, -x), "gt"),
    "choice by PennyLane": (lambda x, w: qml.math.where(x > 8, x, -x), "gt"),
    "masked": (lambda x, w: x.masked_fill(x > 8, 0.7), "gt"),
    "round": (lambda x, w: x.round(), "round"),
    "floor": (lambda x, w: x // 1, "floor"),
    "quotient": (lambda x, w: torch.div(x, 2, rounding_mode="floor"), "div"),
    "remainder": (lambda x, w: x % 20, "remainder"),
    "abs": (lambda x, w: abs(x + 9), "abs"),
    "sign": (lambda x, w: torch.sign(x), "sign"),
    "maximum": (lambda x, w: x - x.max(), "max"),
    "sort": (lambda x, w: x.sort().values, "sort"),
    "sine": (lambda x, w: torch.sin(x), "sin"),
    "square": (lambda x, w: x**2, "pow"),
    "product of inputs": (lambda x, w: x * x[0], "mul"),
    "product with weights": (lambda x, w: x @ w * ONES, "matmul"),
    "inverse": (lambda x, w: 1 / x, "div"),
    "not a number": (lambda x, w: torch.nan_to_num(x), "nan_to_num"),
    "integers": (lambda x, w: x.long().to(x), r"long \(torch.int64\)"),
    "integers of PennyLane": (lambda x, w: 1.0 * qml.math.cast(x, "int64"), r"\(torch.int64\)"),
    "half": (lambda x, w: x.half().to(x), r"half \(torch.float16\)"),
    "written as integers": (lambda x, w: 1.0 * torch.zeros(3, dtype=torch.int64).copy_(x), r"copy_? \(torch.int64\)"),
    "bits": (lambda x, w: x.view(torch.int64).view(torch.float64), "view"),
    "detach": (lambda x, w: x + x.detach(), "detach"),
    "data": (lambda x, w: (2 * x).data, "data"),
    "data overwritten": (overwritten, "data"),
    "without gradients": (without_gradients, "mul without gradients"),
    "gradient of its own": (lambda x, w: Reversed.apply(x), "without gradients"),
    "hook": (hooked, "register_hook"),
    "if": (lambda x, w: 2 * x if x[0] > 8 else x, "gt.*depends on the data"),
    "if, caught": (caught, "gt.*depends on the data"),
    "closeness": (lambda x, w: 2 * x if qml.math.allclose(x, 8) else x, "depends on the data"),
    "equality": (lambda x, w: 2 * x if torch.equal(x, w) else x, "equal.*depends on the data"),
    "membership": (lambda x, w: 2 * x if 8.0 in x else x, "depends on the data"),
    "chosen elements": (lambda x, w: x * len(x[x > 8]), "gt.*depends on the data"),
    "float": (lambda x, w: x * float(x[0]), "float.*depends on the data"),
    "text": (lambda x, w: x * float(f"{x[0]:.3f}"), "could not convert"),
    "list": (lambda x, w: torch.tensor(x.tolist()), "tolist.*leaves torch"),
    "tensor of elements": (lambda x, w: torch.tensor([x[0], x[1], x[2]]), "tensor.*leaves torch"),
    "tensor of a tensor": (lambda x, w: x.new_tensor(x), "new_tensor"),
    "NumPy": (lambda x, w: np.sin(x), "array.*leaves torch"),
    "NumPy, detached": (lambda x, w: torch.as_tensor(x.detach().numpy()), "detach.*leaves torch"),
    "NumPy, forced": (lambda x, w: x * x.numpy(force=True)[0], "numpy.*leaves torch"),
    "DLPack": (lambda x, w: torch.utils.dlpack.from_dlpack(x.detach()), "detach"),
    "copied": (lambda x, w: copy.deepcopy(x), "deepcopy.*leaves torch"),
    "a tensor from elsewhere": (lambda x, w: x * SCALE, r"shape \(3,\).*gradient would be lost"),
    "an angle from elsewhere": (lambda x, w: 1 * SCALE, r"shape \(\).*gradient would be lost"),
    "dropout": (drops_some, "random numbers"),
    "random numbers": (lambda x, w: x + random.randint(0, 1000), "random numbers"),
}


@pytest.mark.parametrize(("step", "message"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_by_name(step, message):
    _, ours = layers(node_of(step), {"w": 3})
    with pytest.raises(ValueError, match=f"qnode: .*{message}"):
        ours(torch.zeros(3, dtype=torch.float64))


def test_what_reaches_no_angle_is_free():
    def step(x, w):
        assert torch.sin(x).shape == (3,)
        assert f"{x}"
        assert (x[:, None] / x.norm()).shape == (3, 1)
        return x / 2

    check_equal(*layers(node_of(step), {"w": 3}))


STEPS = {
    "scale": lambda x, w, c: c * x,
    "shift": lambda x, w, c: x + c,
    "weights": lambda x, w, c: x - c * w,
    "mix": lambda x, w, c: torch.stack([x[0] + x[1], x[1] - c * x[2], x[2]]),
    "roll": lambda x, w, c: x.roll(1),
    "matrix": lambda x, w, c: x @ MATRIX,
    "centre": lambda x, w, c: x - x.mean(),
    "choose": lambda x, w, c: torch.where(MASK, x, c),
    "write": lambda x, w, c: written(x, w),
    "in place": lambda x, w, c: in_place(x, w),
    "clamp": lambda x, w, c: x.clamp(-9 * c, 9 * c),
    "relu": lambda x, w, c: torch.relu(x + 9 * c),
    "step": lambda x, w, c: x + (x > 8 * c),
    "gate": lambda x, w, c: x * (x < 30).to(x),
    "switch": lambda x, w, c: torch.where(x.sum() > 40 * c, x, 2 * x),
    "round": lambda x, w, c: torch.round(c * x, decimals=1),
    "wrap": lambda x, w, c: (x + 60) % 120 - 60,
    "abs": lambda x, w, c: (x + 9).abs() - 9,
    "largest": lambda x, w, c: x - x.max(),
    "part of it": lambda x, w, c: x + c * x[0].detach(),
    "product": lambda x, w, c: x + c * x[0] * w,
    "read": lambda x, w, c: c * x if x[0] < 8 else x,
    "sine": lambda x, w, c: x + 0.1 * torch.sin(c * x),
}
COUNT_AFFINE = 10
"""The first steps are affine."""


def test_random_programs_are_refused_or_right():
    rng = np.random.default_rng(11)
    read = 0
    for trial in range(60):
        chosen = rng.choice(COUNT_AFFINE if trial % 3 else len(STEPS), rng.integers(1, 5))
        constants = rng.choice([0.5, 1.0, 1.25], len(chosen))
        steps = list(STEPS.values())

        def step(x, w, chosen=chosen, constants=constants, steps=steps):
            for k, c in zip(chosen, constants, strict=True):
                x = steps[k](x, w, float(c))
            return x

        names = [list(STEPS)[k] for k in chosen]
        theirs, ours = layers(node_of(step), {"w": 3})
        if max(chosen) >= COUNT_AFFINE:
            with pytest.raises(ValueError, match="qnode: "):
                print(names, ours(torch.zeros(3, dtype=torch.float64)))
            continue
        check_equal(theirs, ours, rng.normal(scale=30, size=(1, 3)).tolist())
        read += 1
    assert 25 < read < 55, "both kinds must occur"
