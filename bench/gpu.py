"""Times the CUDA kernels on a GPU: ``python -m bench.gpu``. One JSON file, stamped with device, driver and versions.

Rounds alternate: our step, the hand-written torch forms of `bench.handwritten`, and a device copy of as many bytes as
the step has to read and write. A step is forward and backward of sum(y**2), as in `bench.cases`; readings are times
between events, of CUDA graphs for our steps and the copy, of plain calls for the others. Registers too large for the
kernels are those of cuStateVec, if there is one: plain calls, and the copy is one pass over all states.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from bench.compare import stamp
from bench.handwritten import Form, Halves, Unitary
from hqfkernels.backends import cuda, custatevec, triton
from hqfkernels.blocks import Blocks
from hqfkernels.engines import fourier
from hqfkernels.program import lower

CASES = tuple(
    Case(*sizes)
    for sizes in (
        (4, 2, 1 << 22),
        (4, 2, 4096),
        (4, 6, 1 << 22),
        (6, 2, 1 << 20),
        (8, 2, 1 << 18),
        (8, 6, 1 << 17),
        (10, 3, 1 << 15),
    )
)
MAX_POLYNOMIALS = 6
"""Qubits up to which the Fourier engine is timed too: above, Triton compiles for minutes."""
LARGE_CASES = tuple(Case(*sizes) for sizes in ((14, 2, 256), (16, 2, 64), (18, 2, 16)))
"""For cuStateVec: 2**22 amplitudes each."""
Step = Callable[[], object]


def gate(case: Case) -> Form:
    """The operator itself, without planner and layers."""
    text = lower(case.circuit().text, "expval")
    return lambda inputs, weights: torch.ops.hqfkernels.gate_forward(inputs, weights, text, 1, [])


def polynomials(case: Case) -> Form:
    """The Fourier engine, by Triton's kernels."""
    circuit = case.circuit()
    return lambda inputs, weights: fourier.contract((circuit,), inputs, fourier.parameters((circuit,), (weights,)))


def large(case: Case) -> Form:
    """As `gate`, for cuStateVec."""
    text = Blocks.text_of(case.circuit().text, "expval")
    return lambda inputs, weights: torch.ops.hqfkernels.custatevec_forward(inputs, weights, text, 1, [])


def step(form: Form, inputs: Tensor, weights: Tensor) -> Step:
    def run() -> tuple[Tensor, ...]:
        y = form(inputs, weights)
        return torch.autograd.grad(y, (inputs, weights), 2 * y.detach())

    return run


def captured(run: Step) -> Step:
    """``run`` as a replay of a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def microseconds(run: Step, repeats: int) -> float:
    """Device time of one call, the mean of ``repeats``."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / repeats


def steps_of(case: Case) -> tuple[dict[str, Step], dict[str, str]]:
    """What is timed for a case, by name, and why a form is missing."""
    inputs, weights = (t.detach().cuda().requires_grad_() for t in case.tensors())
    forward_inputs = inputs.detach()
    if case in LARGE_CASES:
        form = large(case)
        bytes_moved = 2 * 8 * case.batch * 2**case.n  # a pass over states of complex64: read and written
        candidates: dict[str, Callable[[], Step]] = {
            "custatevec": lambda: step(form, inputs, weights),
            "custatevec forward": lambda: lambda: form(forward_inputs, weights.detach()),
        }
    else:
        form = gate(case)
        bytes_moved = 5 * inputs.nbytes  # inputs twice, outputs, their gradient, the inputs' gradient
        candidates = {
            "gate": lambda: captured(step(form, inputs, weights)),
            "gate, no graph": lambda: step(form, inputs, weights),
            "gate forward": lambda: captured(lambda: form(forward_inputs, weights.detach())),
        }
        if case.n <= MAX_POLYNOMIALS and triton.triton_status()[0]:
            own = polynomials(case)
            candidates["fourier"] = lambda: captured(step(own, inputs, weights))
            candidates["fourier, no graph"] = lambda: step(own, inputs, weights)
            candidates["fourier forward"] = lambda: captured(lambda: own(forward_inputs, weights.detach()))
    source = torch.empty(bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    candidates["copy"] = lambda: captured(lambda: target.copy_(source))
    with torch.device("cuda"):
        handwritten: dict[str, Form] = {"halves": Halves(case.n, case.layers)}
        if 2**case.n <= case.batch:
            handwritten["unitary"] = Unitary(case.n, case.layers)

    def on_gpu(other: Form) -> Step:
        def run(x: Tensor, w: Tensor) -> Tensor:
            with torch.device("cuda"):
                return other(x, w)

        return step(run, inputs, weights)

    for name, other in handwritten.items():
        candidates[name] = lambda other=other: on_gpu(other)  # type: ignore[misc]
    steps, missing = {}, {}
    for name, make in candidates.items():
        try:
            steps[name] = make()
            steps[name]()
            torch.cuda.synchronize()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            steps.pop(name, None)
            missing[name] = str(error).splitlines()[0]
            torch.cuda.empty_cache()
    return steps, missing


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """One reading of everything per round."""
    steps, missing = steps_of(case)
    repeats = {name: max(1, int(2e4 / max(microseconds(run, 2), 1))) for name, run in steps.items()}
    readings: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            readings[name].append(microseconds(run, repeats[name]))
    return {"n": case.n, "layers": case.layers, "batch": case.batch, "microseconds": readings, "missing": missing}


def device() -> dict[str, Any]:
    """The GPU and its driver."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        driver = ""
    return {
        "gpu": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=150.0, help="no further case is begun after so long")
    arguments = parser.parse_args()
    module, reason = cuda.load_cuda()
    available, reason = cuda.cuda_status()
    if module is None or not available:
        raise SystemExit(f"no CUDA kernels to time: {reason}")
    large_too, reason = custatevec.status()
    result = stamp() | {"gpu": device(), "library": module.build_info(), "cases": [], "skipped": []}
    result["custatevec"] = reason
    result["triton"] = triton.triton_status()[1]
    began = time.monotonic()
    for case in CASES + (LARGE_CASES if large_too else ()):
        if time.monotonic() - began > arguments.seconds:
            result["skipped"].append(str(case))
            continue
        measured = measure(case, arguments.rounds)
        result["cases"].append(measured)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        medians = {name: statistics.median(times) for name, times in measured["microseconds"].items()}
        print(case, {name: f"{time:.4g} us" for name, time in medians.items()}, measured["missing"], flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
