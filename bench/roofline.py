"""How much of the machine the kernels use: ``python -m bench.roofline``.

For circuits of `bench.cases` in batches that leave the caches, on one thread: the operations counted (`operations`)
over the processor time of a forward and backward pass, as a share of what a loop of fused multiply-adds reaches
(bench/peak.cpp), and the bytes of inputs, outputs and their gradients, as a share of what copying a large tensor
reaches. Both peaks are measured between the passes, in the same rounds.

An operation is an addition, a multiplication or a fused multiply-add of single numbers: each takes one place in the
same units. Not counted are comparisons, selections and sign flips, what is done once for the whole batch, and calls.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cases import Case
from bench.compare import SHORTEST, describe, number, progress, result_path, stamp, table
from bench.scaling import Point, step_of
from hqfkernels.engines.fourier import recipe
from hqfkernels.program import Program, lower
from hqfkernels.series import Polynomials

CASES = [
    Case(4, 2, 2**20),
    Case(4, 6, 2**20),
    Case(6, 2, 2**18),
    Case(8, 2, 2**16),
    Case(8, 6, 2**13),
    Case(10, 3, 2**12),
    Case(12, 2, 2**10),
    Case(14, 2, 2**7),
]
COPIED = 2**28
"""Bytes of the tensor whose copying gives the bandwidth: more than caches hold."""
SINE_AND_COSINE = 17
"""Operations for both of one angle (csrc/include/hqf/trig.hpp, simd.hpp)."""


def _products(polynomials: Polynomials) -> int:
    """Products of features that are computed: those of at least two axes, each from one with fewer axes."""
    sizes = [axis.size for axis in polynomials.axes]
    split, found = polynomials.split, set()
    for half, position in ((range(split), 0), (range(split, len(sizes)), 1)):
        for index in {term[position] for terms in polynomials.terms for term in terms}:
            digits: tuple[tuple[int, int], ...] = ()
            rest = index
            for axis in reversed(half):
                rest, digit = divmod(rest, sizes[axis])
                if digit:
                    digits = ((axis, digit), *digits)
                    found.add(digits)
    return sum(len(digits) > 1 for digits in found)


def fourier_operations(polynomials: Polynomials) -> int:
    """Of the contraction of one sample, forward and backward (csrc/cpu/fourier.cpp)."""
    axes = len(polynomials.axes)
    harmonics = sum(axis.degree - 1 for axis in polynomials.axes)
    runs = sum(len({a for a, _ in terms}) for terms in polynomials.terms)
    features = 2 * (axes * (1 + SINE_AND_COSINE + 4) + 4 * harmonics + _products(polynomials))  # in both directions
    forward = polynomials.n_terms + runs
    backward = 3 * polynomials.n_terms + 2 * runs + 2 * _products(polynomials) + axes * 5 + 3 * harmonics
    return features + forward + backward


def gate_operations(program: Program) -> int:
    """Of the simulation of one sample, forward and backward, the state recomputed (csrc/include/hqf/kernels.hpp)."""
    forward = adjoint = 0
    bits, is_complex, in_table = 0, False, False
    for rotation in program.rotations:
        size, planes = 2**bits, 2 if is_complex else 1
        is_real = (rotation.x & rotation.z).bit_count() % 2 == 1
        if not rotation.shared:
            forward += SINE_AND_COSINE + 6  # reduced before
        if rotation.x == 0 and rotation.shared:
            if not in_table:  # phases that stand together are one multiplication
                forward += size * (4 if is_complex else 2)
                adjoint += size * (10 if is_complex else 7)
            in_table, is_complex = True, True
            continue
        in_table = False
        if rotation.x == 0:
            forward += 4 * size
            adjoint += 11 * size
        elif rotation.x >> bits == 0:  # turns pairs of the state's amplitudes
            pairs = size // 2
            if is_real:
                forward += pairs * planes * (2 if rotation.shared else 4)
                adjoint += pairs * planes * (6 if rotation.shared else 10)
            else:
                forward += pairs * 8
                adjoint += pairs * 20
        else:  # doubles the state
            forward += size * (2 * planes if is_real else 4)
            adjoint += size * (7 * planes if is_real else 13)
            bits += 1
        is_complex |= rotation.x == 0 or not is_real
    size, planes = 2**bits, 2 if is_complex else 1
    measure = size * planes + 3 * size
    start = size * 2 + size * planes
    return 2 * forward + measure + start + adjoint


def operations(case: Case, engine: str) -> int:
    """Of one circuit, forward and backward; for the engines gate and fourier."""
    text = lower(case.circuit().text, "expval")
    if engine == "fourier":
        return fourier_operations(recipe(text).polynomials)
    if engine == "gate":
        return gate_operations(Program.from_text(text))
    raise ValueError(f"engine: operations are counted for gate and fourier, got {engine!r}")


def traffic(case: Case) -> int:
    """Bytes of one circuit in float32: inputs read twice, outputs written, their gradients read and written."""
    return 4 * (2 * case.n + case.n + case.n + case.n)


def multiply_adds() -> Callable[[], int]:
    """Compiles bench/peak.cpp; calling the result runs a loop and tells its multiply-adds.

    Raises:
        FileNotFoundError, subprocess.CalledProcessError: without a C++ compiler, or if it fails.
    """
    compiler = os.environ.get("CXX", "c++").split()[0]
    flags = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "peak.so"
        subprocess.run([compiler, *flags, Path(__file__).with_name("peak.cpp"), "-o", target], check=True)
        run = ctypes.CDLL(str(target)).hqf_multiply_adds
    run.restype = ctypes.c_int64
    run.argtypes = (ctypes.c_int64, ctypes.c_float, ctypes.c_float)
    repeats = 10_000
    return lambda: repeats * run(repeats, 0.999, 0.001)


def measure(cases: list[Case], rounds: int) -> dict[str, Any]:
    """Peaks and cases for the result: readings of every round, taken in turns."""
    loop = multiply_adds()
    source, target = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
    points = [Point(case) for case in cases]
    steps: list[Callable[[], object]] = [loop, lambda: target.copy_(source), *(step_of(point) for point in points)]
    repeats = []
    for step in steps:
        step()  # prepares what is kept
        start = time.process_time()
        step()
        repeats.append(max(1, math.ceil(SHORTEST / (time.process_time() - start))))
    readings: list[list[float]] = [[] for _ in steps]
    for r in range(rounds):
        progress(f"round {r + 1} of {rounds}")
        for step, repeat, values in zip(steps, repeats, readings, strict=True):
            start = time.process_time()
            for _ in range(repeat):
                step()
            values.append((time.process_time() - start) / repeat * 1e9)
    progress("")
    rows = [
        point.sizes()
        | {
            "engine": point.engine(),
            "nanoseconds": [value / point.case.batch for value in values],
            "operations": operations(point.case, point.engine()),
            "bytes": traffic(point.case),
        }
        for point, values in zip(points, readings[2:], strict=True)
    ]
    peaks = {
        "operations_per_ns": [loop() / value for value in readings[0]],
        "bytes_per_ns": [2 * COPIED / value for value in readings[1]],
    }
    return {"peaks": peaks, "cases": rows}


def shares(run: dict[str, Any], case: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Of the peak of operations, and of the bandwidth, in each round."""
    rounds = zip(case["nanoseconds"], run["peaks"]["operations_per_ns"], run["peaks"]["bytes_per_ns"], strict=True)
    pairs = [(case["operations"] / ns / fma, case["bytes"] / ns / bandwidth) for ns, fma, bandwidth in rounds]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def summary(run: dict[str, Any]) -> str:
    """Every case: counts, time and shares of the peaks."""
    rows = []
    for case in run["cases"]:
        of_units, of_bandwidth = shares(run, case)
        low, high = np.percentile(of_units, [25, 75])
        rows.append(
            [
                f"n={case['qubits']} L={case['depth']} B={case['batch']}",
                case["engine"],
                str(case["operations"]),
                str(case["bytes"]),
                number(statistics.median(case["nanoseconds"])),
                f"**{statistics.median(of_units):.0%}**",
                f"{low:.0%} .. {high:.0%}",
                f"{statistics.median(of_bandwidth):.1%}",
            ]
        )
    head = ["per circuit", "engine", "operations", "bytes", "ns", "of multiply-adds", "quartiles", "of bandwidth"]
    return table(head, rows)


def report(run: dict[str, Any]) -> str:
    """A run, as read from its JSON, in Markdown."""
    fma, bandwidth = (statistics.median(run["peaks"][name]) for name in ("operations_per_ns", "bytes_per_ns"))
    return f"{describe(run)}; peaks: {number(fma)} multiply-adds and {number(bandwidth)} bytes per ns\n\n{summary(run)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help="readings of each case (15; with --quick 3)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--report", type=Path, help="print the table of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    rounds = (3 if options.quick else 15) if options.rounds is None else options.rounds
    if rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {rounds}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    torch.set_num_threads(1)
    run = stamp()
    path = result_path(parser, options.json, run, "roofline-")
    run |= measure(CASES, rounds)
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{report(run)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
