"""Calls from many Python threads at once, and in processes that were forked after use."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.nn import CircuitBank, CircuitLayer, LocalCircuit2d

ROOT = Path(__file__).resolve().parents[1]
LOCAL, DIAGONAL = ansatz.local_circuit((2, 2), 2), ansatz.directional_circuit((2, 2), "diagonal", 2)
AMPLITUDES = ansatz.amplitude_encoding(3).ry(hqf.Weight(0), 0).cx(0, 1).rx(hqf.Weight(1), 2)


@cache
def layers() -> list[tuple[torch.nn.Module, tuple[int, ...]]]:
    """Layers over all engines, with the shapes of an input."""
    torch.manual_seed(0)
    return [
        (CircuitLayer(LOCAL, "gate"), (3001, 4)),
        (CircuitLayer(LOCAL, "fourier"), (3001, 4)),
        (CircuitLayer(AMPLITUDES, "unitary"), (3001, 8)),
        (CircuitBank([LOCAL, DIAGONAL]), (3001, 4)),
        (LocalCircuit2d(channels=2), (1, 2, 64, 64)),
    ]


def step(layer: torch.nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    """Value, gradients in input and weights, and a value without gradients."""
    inputs = torch.linspace(-3, 3, torch.Size(shape).numel()).view(shape).requires_grad_()
    value = layer(inputs)
    grads = torch.autograd.grad(value.square().sum(), (inputs, *layer.parameters()))
    with torch.no_grad():
        return [value.detach(), *grads, layer(inputs)]


@pytest.mark.parametrize("cores", [1, 2])
def test_threads_get_what_one_thread_gets(cores, threads):
    """Eight callers over all layers, each starting at another, so that some share a layer and others do not."""
    torch.set_num_threads(1)
    wanted = [step(*pair) for pair in layers()]
    hqf.engines.fourier.recipe.cache_clear()  # texts are lowered by several threads at once, too
    torch.set_num_threads(cores)

    def call(caller: int) -> list[tuple[int, list[Tensor]]]:
        order = [(caller + k) % len(wanted) for k in range(4 * len(wanted))]
        return [(k, step(*layers()[k])) for k in order]

    with ThreadPoolExecutor(8) as pool:
        results = [pair for own in pool.map(call, range(8)) for pair in own]
    assert len(results) == 8 * 4 * len(wanted)
    for k, found in results:
        assert all(map(torch.equal, found, wanted[k])), layers()[k][0]


class Encoded(Dataset):
    """Samples that a layer has computed in the worker."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> list[Tensor]:
        return step(*layers()[k % len(layers())])


def test_workers_of_a_data_loader_run_layers(native, threads):
    """They are forked after the layers have run, on several threads, in this process."""
    torch.set_num_threads(2)
    wanted = [Encoded()[k] for k in range(len(Encoded()))]
    loader = DataLoader(Encoded(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for found, expected in zip(loader, wanted, strict=True):
        assert all(map(torch.equal, found, expected))


FORK = """
import os, signal, sys, torch
from hqfkernels import ansatz, nn
torch.set_num_threads(2)
torch.manual_seed(0)
circuit, inputs = ansatz.local_circuit((2, 2), 2), torch.randn(2000, 4)
layers = [nn.CircuitLayer(circuit, engine) for engine in ("gate", "fourier")]

def step(layer):
    value = layer(inputs)
    return [value.detach(), *torch.autograd.grad(value.square().mean(), tuple(layer.parameters()))]

wanted = [step(layer) for layer in layers]
torch.randn(1000000).sin()  # torch's threads have started, in any case
sys.stdout.flush()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for ever; torch itself spreads no tensors as small as these
    equal = all(torch.equal(a, b) for layer, own in zip(layers, wanted) for a, b in zip(step(layer), own))
    os._exit(0 if equal else 3)
print("child ended with", os.waitpid(child, 0)[1])
"""


def test_kernels_run_in_a_forked_process(native):
    """Where threads of OpenMP were running before, none are left in the child, and waiting for them would not end."""
    done = subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "child ended with 0", done.stderr


STARTED = """
import os, torch
from hqfkernels import ansatz, nn
torch.set_num_threads(2)
layers = [nn.CircuitLayer(ansatz.local_circuit((2, 2), 2), engine) for engine in ("gate", "fourier")]

def started_by(samples):
    before = len(os.listdir("/proc/self/task"))
    for layer in layers:
        torch.autograd.grad(layer(torch.zeros(samples, 4)).sum(), tuple(layer.parameters()))
    return len(os.listdir("/proc/self/task")) - before

print(started_by(64), started_by(4096))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_small_batches_wake_no_thread(native):
    """It would take longer than to compute them; far longer where other programs keep the cores busy."""
    done = subprocess.run([sys.executable, "-c", STARTED], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["0", "1"], done.stdout + done.stderr
