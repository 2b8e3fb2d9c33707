"""Small problems that exercise one kernel each, and a worker that runs them on request: ``python -m bench.kernels``.

`bench.regress` starts workers with different builds of hqfkernels. A worker reads a request from each line of standard
input and answers with a line of JSON:

    {"prepare": KERNEL}   makes tensors, takes a step, answers {"repeats": how many steps a reading takes}
    {"time": KERNEL, "repeats": k}   answers {"ns": processor time of a step, the mean of k}
    {"count": KERNEL}   a step under callgrind; answers {}
    {"where": true}   answers {"file": where hqfkernels was imported from}

What fails answers {"error": message}: an older build may not know an engine.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hqfkernels as hqf
from bench.cases import Case

READING = 0.02
"""Seconds that a reading lasts at least."""
CALLGRIND_SHIM = "HQF_CALLGRIND_SHIM"
"""Environment variable: the library that switches callgrind on and off, made by `bench.regress`."""

Step = Callable[[], object]


def _circuit(engine: str, n: int, layers: int, batch: int, dtype: torch.dtype = torch.float32) -> Step:
    """Forward and backward of the benchmark circuit by an engine."""
    case = Case(n, layers, batch)
    circuit = case.circuit()
    inputs, weights = (tensor.detach().to(dtype).requires_grad_() for tensor in case.tensors())
    grad = torch.ones(batch, n, dtype=dtype)

    def step() -> object:
        return torch.autograd.grad(hqf.expval(circuit, inputs, weights, engine=engine), (inputs, weights), grad)

    return step


def _patches() -> Step:
    """Forward and backward of a layer on a feature map."""
    torch.manual_seed(0)
    layer = hqf.nn.LocalCircuit2d(channels=8, depth=2)
    maps = torch.rand(2, 8, 64, 64, requires_grad=True)
    parameters = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(maps).sum(), [maps, *parameters])


KERNELS: dict[str, Callable[[], Step]] = {
    "gate n=2 L=2 B=16384": lambda: _circuit("gate", 2, 2, 16384),
    "gate n=4 L=2 B=16384": lambda: _circuit("gate", 4, 2, 16384),
    "gate n=6 L=2 B=4096": lambda: _circuit("gate", 6, 2, 4096),
    "gate n=6 L=2 B=4096 float64": lambda: _circuit("gate", 6, 2, 4096, torch.float64),
    "gate n=8 L=6 B=512": lambda: _circuit("gate", 8, 6, 512),
    "gate n=10 L=3 B=256": lambda: _circuit("gate", 10, 3, 256),
    "gate n=13 L=2 B=16": lambda: _circuit("gate", 13, 2, 16),
    "fourier n=4 L=2 B=65536": lambda: _circuit("fourier", 4, 2, 65536),
    "fourier n=4 L=6 B=16384": lambda: _circuit("fourier", 4, 6, 16384),
    "fourier n=6 L=2 B=16384": lambda: _circuit("fourier", 6, 2, 16384),
    "fourier n=8 L=2 B=4096": lambda: _circuit("fourier", 8, 2, 4096),
    "fourier n=8 L=2 B=4096 float64": lambda: _circuit("fourier", 8, 2, 4096, torch.float64),
    "propagation n=8 L=2 B=16": lambda: _circuit("fourier", 8, 2, 16),
    "unitary n=6 L=12 B=2048": lambda: _circuit("unitary", 6, 12, 2048),
    "patches 2 x 8 x 64 x 64": _patches,
}
"""By name; a step takes a few milliseconds, so that it can be counted as well as timed."""


def seconds(step: Step, repeats: int) -> float:
    """Processor time of a step, the mean of ``repeats``."""
    start = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - start) / repeats


def answer(request: dict[str, Any], steps: dict[str, Step]) -> dict[str, Any]:
    """Does what the request asks; see the module."""
    if "where" in request:
        return {"file": hqf.__file__}
    if "prepare" in request:
        step = steps[request["prepare"]] = KERNELS[request["prepare"]]()
        step()
        return {"repeats": max(1, math.ceil(READING / max(seconds(step, 1), 1e-6)))}
    if "time" in request:
        return {"ns": seconds(steps[request["time"]], request["repeats"]) * 1e9}
    callgrind = ctypes.CDLL(os.environ[CALLGRIND_SHIM])
    callgrind.hqf_start()
    steps[request["count"]]()
    callgrind.hqf_stop(request["count"].encode())
    return {}


def main() -> None:
    torch.set_num_threads(1)
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), steps)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
