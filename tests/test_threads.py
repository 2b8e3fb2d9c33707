"""Calls from many Python threads at once, and in processes that were forked after use."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

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


# In a process of its own: the first question is about threads that have never started, and torch refuses gradients in
# forked processes once other tests have set up devices.
PROCESS = """
import os, signal, sys, torch
from torch.utils.data import DataLoader
from hqfkernels import ansatz
from tests.test_threads import layers, step

torch.set_num_threads(2)
linux = os.path.exists("/proc/self/task")

def started_by(samples):
    before = len(os.listdir("/proc/self/task"))
    for layer, shape in layers()[:2]:
        step(layer, (samples, 4))
    return len(os.listdir("/proc/self/task")) - before

print("started", [started_by(64), started_by(4096)] if linux else "unknown")
wanted = [step(*pair) for pair in layers()]
torch.randn(1000000).sin()  # torch's threads have started, in any case

def agree(results, count):
    pairs = zip(results, wanted[:count], strict=True)
    return all(torch.equal(a, b) for found, expected in pairs for a, b in zip(found, expected, strict=True))

sys.stdout.flush()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for ever; torch itself spreads no tensors as small as these
    os._exit(0 if agree((step(*pair) for pair in layers()[:2]), 2) else 3)
print("child", os.waitpid(child, 0)[1])

class Encoded(torch.utils.data.Dataset):
    def __len__(self):
        return len(wanted)

    def __getitem__(self, k):
        return step(*layers()[k])

loader = DataLoader(Encoded(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
print("workers", agree(loader, len(wanted)))
"""


@pytest.fixture(scope="module")
def process() -> dict[str, str]:
    done = subprocess.run([sys.executable, "-c", PROCESS], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def test_small_batches_wake_no_thread(process):
    """It would take longer than to compute them; far longer where other programs keep the cores busy."""
    if process["started"] == "unknown":
        pytest.skip("threads are counted as Linux shows them")
    assert process["started"] == "[0, 1]"


def test_kernels_run_in_a_forked_process(process):
    """Where threads of OpenMP were running before, none are left in the child, and waiting for them would not end."""
    assert process["child"] == "0"


def test_workers_of_a_data_loader_run_layers(process):
    """They are forked after the layers have run, on several threads."""
    assert process["workers"] == "True"
