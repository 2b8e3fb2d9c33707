"""Memory: none is left behind by calls, caches have bounds, and addresses are computed in 64 bits."""

import ctypes
import gc
import importlib
import os
import pkgutil
import statistics
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.engines import fourier
from hqfkernels.nn import CircuitBank, CircuitLayer, LocalCircuit2d
from hqfkernels.program import lower

pytestmark = pytest.mark.usefixtures("native", "threads")

LOCAL = ansatz.local_circuit((2, 2), 2)
NIGHTLY = os.environ.get("HQF_NIGHTLY", "0") not in ("", "0")


# --- growth ---------------------------------------------------------------------------------------------------------


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    ))  # fmt: skip


def allocated() -> tuple[int, int]:
    """Bytes that malloc has given out, and blocks that Python has."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    gc.collect()
    info = mallinfo2()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks()


def calls() -> Iterator[None]:
    """Goes round all engines, forward and backward, training and eval, for ever."""
    bank = CircuitBank([LOCAL, ansatz.directional_circuit((2, 2), "diagonal", 2)])
    encoder = ansatz.amplitude_encoding(2).ry(hqf.Weight(0), 0).cx(0, 1)
    layers = [
        (CircuitLayer(LOCAL, "gate"), torch.randn(20, 4)),
        (CircuitLayer(LOCAL, "fourier"), torch.randn(20, 4)),
        (CircuitLayer(encoder, "unitary"), torch.randn(20, 4)),
        (bank, torch.randn(20, 4)),
        (LocalCircuit2d(channels=1), torch.randn(1, 1, 4, 4)),
    ]
    while True:
        for layer, inputs in layers:
            layer.train()
            layer(inputs.requires_grad_()).square().sum().backward()
            yield
            layer.eval()
            with torch.no_grad():
                layer(inputs)
            yield


@pytest.fixture
def frozen() -> Iterator[None]:
    """Collections pass over what other tests have left, which they would take most of their time for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library does not tell what is allocated")
def test_calls_leave_no_memory_behind(frozen):
    """A leak of one object a call shows in every window of calls; what is kept for later use does not."""
    turns, window = calls(), 10_000 if NIGHTLY else 300
    for _ in range(window):  # warms up
        next(turns)
    growths = []
    for _ in range(10):
        before = allocated()
        for _ in range(window):
            next(turns)
        growths.append([after - earlier for after, earlier in zip(allocated(), before, strict=True)])
    for kind in zip(*growths, strict=True):
        assert statistics.median(kind) < window / 2, f"bytes and blocks in each window of {window} calls: {growths}"


def test_caches_have_bounds():
    """Every cache of a function either has a limit or can only ever hold a few entries."""
    # No arguments, or one entry for each device.
    few = {"load_native", "load_cuda", "cuda_status", "load_triton", "triton_status", "load", "status", "_session"}
    bounded: set[str] = set()
    unbounded: set[str] = set()
    for module in pkgutil.walk_packages(hqf.__path__, "hqfkernels."):
        if module.name.startswith("hqfkernels._"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ModuleNotFoundError:  # an optional library is missing
            continue
        owners = [loaded, *(value for value in vars(loaded).values() if isinstance(value, type))]
        for owner in owners:
            for name, value in vars(owner).items():
                function = getattr(value, "__func__", value)  # of a static or class method
                if hasattr(function, "cache_parameters"):
                    (unbounded if function.cache_parameters()["maxsize"] is None else bounded).add(name)
    assert {"recipe", "lower", "from_text"} <= bounded
    assert unbounded == few


# --- large tensors --------------------------------------------------------------------------------------------------


def spread(values: Tensor, *strides: int) -> Tensor:
    """``values`` in a tensor of these strides. Only the pages that are touched take memory."""
    count = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    try:
        storage = torch.empty(count, dtype=values.dtype)
    except RuntimeError:
        pytest.skip(f"the system does not map {count * values.element_size() >> 30} GiB")
    return storage.as_strided(values.shape, strides).copy_(values)


FAR = {  # name: shape, strides of inputs; each reaches beyond 2^32 elements or, in steps, beyond 2^31
    "batch": ((2, 4), (2**32 + 3, 1)),
    "run of samples": ((40, 4), (2**26 + 1, 1)),
    "features": ((5, 4), (1, 2**30 + 5)),
    "two dimensions": ((3, 5, 4), (2**30 + 7, 4, 1)),
}


@pytest.mark.parametrize("engine", ["gate", "fourier"])
@pytest.mark.parametrize("name", FAR)
def test_inputs_beyond_32_bits(engine, name):
    shape, strides = FAR[name]
    torch.manual_seed(0)
    near = torch.randn(shape).half()
    far = spread(near, *strides)
    weights = torch.randn(LOCAL.n_weights)
    results = []
    for inputs in (near, far):
        leaf, own = inputs.detach().requires_grad_(), weights.clone().requires_grad_()
        value = hqf.expval(LOCAL, leaf, own, engine=engine)
        results.append([value, *torch.autograd.grad(value.square().sum(), (leaf, own))])
    assert far.data_ptr() != near.data_ptr()
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("engine", ["gate", "fourier"])
def test_weights_and_gradients_beyond_32_bits(engine):
    torch.manual_seed(0)
    if engine == "gate":
        text, parameters = lower(LOCAL.text, "expval"), torch.randn(2, LOCAL.n_weights).half()
    else:
        text = fourier.series((LOCAL.text,), "expval").text
        parameters = fourier.parameters((LOCAL,), (torch.randn(2, LOCAL.n_weights),)).half()
    forward = getattr(torch.ops.hqfkernels, f"{engine}_forward")
    backward = getattr(torch.ops.hqfkernels, f"{engine}_backward")
    inputs, grad = torch.randn(3, 2, 4), torch.randn(3, 2, 4).half()
    far, far_grad = spread(parameters, 2**32 + 3, 1), spread(grad, 2**31 + 1, 4, 1)
    assert torch.equal(forward(inputs, far, text, 1, []), forward(inputs, parameters, text, 1, []))
    # Their own gradient is written as a contiguous tensor, so only one of them lies far away.
    found = backward(far_grad, inputs, parameters, text, 1, [])
    assert all(map(torch.equal, found, backward(grad, inputs, parameters, text, 1, [])))
    found = backward(grad, inputs, far, text, 1, [])
    assert all(map(torch.equal, found, backward(grad, inputs, parameters, text, 1, [])))


@pytest.mark.skipif(not NIGHTLY, reason="takes 10 GiB and a minute; HQF_NIGHTLY=1 runs it")
@pytest.mark.parametrize("engine", ["gate", "fourier"])
def test_more_results_than_32_bits_can_count(engine):
    samples = 2**29 + 5  # of four outputs each
    numbers = torch.rand(samples + 3).half()
    inputs, weights = numbers.unfold(0, 4, 1), torch.rand(LOCAL.n_weights)
    try:
        value = hqf.expval(LOCAL, inputs, weights, engine=engine)
    except RuntimeError:
        pytest.skip("not enough memory")
    assert value.numel() > 2**31
    for at in (0, samples // 2, samples - 100):
        part = hqf.expval(LOCAL, inputs[at : at + 100], weights, engine=engine)
        assert torch.equal(value[at : at + 100], part)
