"""What docs/reproducibility.md promises."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.nn import CircuitBank, CircuitLayer, DirectionalCircuit2d, LocalCircuit2d, PatchBank2d, PatchCircuit2d

CIRCUIT = ansatz.local_circuit((2, 2), 2).measure("ZIII", "XXII", "IIZZ")
EXACT = {
    "gate": ("gate", CIRCUIT),
    "fourier": ("fourier", CIRCUIT),
    "fourier on a grid": ("fourier", ansatz.strongly_entangling(5, 3)),
    "unitary": ("unitary", ansatz.local_circuit((2, 2), 2)),
    "unitary of many states": ("unitary", ansatz.strongly_entangling(7, 1)),
}


def outcome(
    name: str,
    dtype: torch.dtype,
    batch: tuple[int, ...] = (2000, 3),
    groups: tuple[int, ...] = (),
    function=hqf.expval,
) -> list[Tensor]:
    """Values and the gradients of a weighted sum of them."""
    engine, circuit = EXACT[name]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*batch, circuit.n_inputs, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weights = torch.randn(*groups, circuit.n_weights, generator=generator, dtype=torch.float64).requires_grad_()
    values = function(circuit, inputs, weights, engine=engine)
    slope = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view(values.shape).to(values.dtype)
    return [values.detach(), *torch.autograd.grad((values * slope).sum(), (inputs, weights))]


def assert_equal(actual: list[Tensor], wanted: list[Tensor]) -> None:
    for a, w in zip(actual, wanted, strict=True):
        assert torch.equal(a, w)


@pytest.mark.parametrize("groups", [(), (3,)], ids=["one set of weights", "a set per group"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EXACT)
def test_threads_change_no_bit(name, dtype, groups, threads):
    batch = (300, 3) if "many states" in name else (2000, 3)
    for function in (hqf.expval, hqf.probs):
        torch.set_num_threads(1)
        once = outcome(name, dtype, batch, groups=groups, function=function)
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            assert_equal(outcome(name, dtype, batch, groups=groups, function=function), once)


def digest() -> str:
    """Of results of all engines."""
    dtypes = (torch.float64, torch.float32)
    tensors = [t for name in EXACT for dtype in dtypes for t in outcome(name, dtype, (100, 3))]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def test_processes_change_no_bit(native):
    """Another one, with another number of threads and another order of sets and dictionaries."""
    code = "from tests.test_reproducibility import digest; print(digest())"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", ["gate", "fourier", "unitary"])
def test_the_place_in_a_batch_changes_no_bit(engine, dtype, threads):
    """Equal samples get equal results, in whichever lane and whichever vector of a tile they are."""
    circuit = Circuit(3).ry(Input(0), 0).ry(Input(1), 1).ry(Input(2), 2).rx(Weight(0), 0).cx(0, 1).rx(0.3, 1)
    circuit.cx(1, 2).ry(Input(1), 0).rx(0.4, 2).crx(2 * Input(0), 0, 1)
    circuit.measure(*(["ZZZ", "IZI"] if engine == "unitary" else ["ZZZ", "XXX", "ZIZ", "IYI"]))
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(1, dtype=dtype)
    for _ in range(10):
        one = torch.randn(1, 3, generator=generator, dtype=torch.float64).to(dtype)
        inputs = one.expand(150, 3).contiguous().requires_grad_()
        values = hqf.expval(circuit, inputs, weights, engine=engine)
        (grads,) = torch.autograd.grad(values.square().sum(), inputs)
        assert torch.equal(values, values[:1].expand_as(values))
        assert torch.equal(grads, grads[:1].expand_as(grads))


@pytest.mark.parametrize("engine", ["gate", "fourier", "unitary"])
def test_cuts_change_the_gradients_of_weights_by_rounding_only(engine, threads):
    circuit = ansatz.local_circuit((2, 2), 2)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(700, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(circuit.n_weights, generator=generator, dtype=torch.float64).requires_grad_()

    def results(part: Tensor) -> list[Tensor]:
        values = hqf.expval(circuit, part, weights, engine=engine)
        return [values.detach(), *torch.autograd.grad(values.square().sum(), weights)]

    whole, parts = results(inputs), [results(part) for part in inputs.split([1, 8, 91, 600])]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), whole[0], atol=1e-14, rtol=0)
    torch.testing.assert_close(sum(p[1] for p in parts), whole[1], atol=1e-11, rtol=0)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Torch refuses operators whose results vary, and fills memory that nothing was written to with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


LAYERS = {
    "auto": lambda: CircuitLayer(CIRCUIT),
    "gate": lambda: CircuitLayer(CIRCUIT, "gate"),
    "fourier": lambda: CircuitLayer(CIRCUIT, "fourier"),
    "unitary": lambda: CircuitLayer(ansatz.local_circuit((2, 2), 2), "unitary"),
    "reference": lambda: CircuitLayer(CIRCUIT, backend="reference"),
    "fourier on a grid": lambda: CircuitLayer(ansatz.strongly_entangling(4, 4), "fourier"),
    "amplitudes": lambda: CircuitLayer(Circuit(2).amplitudes().ry(Weight(0), 0).cx(0, 1)),
    "bank": lambda: CircuitBank([CIRCUIT, ansatz.strongly_entangling(4, 1).measure("ZIII", "IIIZ", "XYZI")]),
    "patches": lambda: LocalCircuit2d(4, depth=1),
    "patches of groups": lambda: PatchCircuit2d(4, CIRCUIT, gather="grid", weight_groups=2, output="channels"),
    "directional patches": lambda: DirectionalCircuit2d(4, depth=1),
    "bank of patches": lambda: PatchBank2d(4, [ansatz.local_circuit((2, 2), 1), ansatz.angle_encoding(4)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_deterministic_algorithms_are_all_that_runs(name, deterministic, threads):
    torch.manual_seed(0)
    layer: nn.Module = LAYERS[name]()
    inputs = torch.randn(2, 4, 6, 5) if "patches" in name else torch.randn(50, 4)

    def step() -> list[Tensor]:
        leaf = inputs.clone().requires_grad_()
        value = layer(leaf)
        return [value.detach(), *torch.autograd.grad(value.square().sum(), [leaf, *layer.parameters()])]

    first = step()
    assert all(t.isfinite().all() for t in first)
    for _ in range(3):
        assert_equal(step(), first)
