"""The table of what can be said of the GPU kernels without a GPU, on the smallest kernel."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_static
from bench.gpu_static import Row

pytestmark = pytest.mark.skipif(gpu_static.find_nvcc() is None, reason="no nvcc")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [*gpu_static.circuit_rows("float_2", "90"), *gpu_static.weight_rows("90")]


def test_the_smallest_kernels_compile_without_spills(rows):
    assert {(r.kernel, r.direction) for r in rows} == {
        ("circuits float_2 real", "forward"),
        ("circuits float_2 real", "backward"),
        ("circuits float_2 complex", "forward"),
        ("circuits float_2 complex", "backward"),
        ("weights upload", "both"),
        ("weights prepare float", "both"),
        ("weights prepare double", "both"),
        ("weights sum_columns", "backward"),
        ("weights differentiate", "backward"),
    }
    assert gpu_static.spilling(rows) == []
    for row in rows:
        assert 16 <= row.registers <= 255
    backward = next(r for r in rows if r.kernel == "circuits float_2 complex" and r.direction == "backward")
    assert backward.bytes_per_circuit == 4 * 6
    assert isinstance(backward.operations_per_circuit, int)
    assert backward.operations_per_circuit > 100
    assert backward.ffma == "" or backward.ffma > 50


def test_tritons_kernels_compile_without_spills():
    pytest.importorskip("triton")
    code = (
        "from bench import gpu_static as g\n"
        "rows = [*g.contraction_rows('90', [(4, 2)]), *g.helper_rows('90')]\n"
        "assert not g.spilling(rows)\n"
        "print(*(f'{r.kernel}, {r.direction}, {r.floor_ns_per_circuit}' for r in rows), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "contraction written, forward, 0.00744",
        "contraction written, backward, 0.0112",
        "prepare, both, ",
        "collect, backward, ",
        "propagate, both, ",
        "propagate_back, backward, ",
    ]


def test_spills_are_noticed():
    table = [Row("a", "forward", "sm_90", spill_bytes=0), Row("b", "backward", "sm_90", spill_bytes=8)]
    assert gpu_static.spilling(table) == ["b backward sm_90: 8 bytes"]
    report = (
        "ptxas info    : Compiling entry function '_Zab' for 'sm_90'\n"
        "ptxas info    : Function properties for _Zab\n"
        "    88 bytes stack frame, 132 bytes spill stores, 172 bytes spill loads\n"
        "ptxas info    : Used 128 registers, used 1 barriers, 88 bytes cumulative stack size, 32 bytes smem\n"
    )
    (compiled,) = gpu_static._read_report(report, {})
    assert (compiled.registers, compiled.spills, compiled.stack, compiled.shared) == (128, 304, 88, 32)


def test_the_committed_table_is_of_these_kernels():
    with Path(gpu_static.TABLE).open() as file:
        table = list(csv.DictReader(file))
    kernels = {row["kernel"] for row in table}
    for kernel in gpu_static.CIRCUITS:
        assert f"circuits {kernel} complex" in kernels
        assert f"circuits {kernel} real" in kernels
    for n, layers in gpu_static.CONTRACTIONS:
        assert f"n={n} L={layers}" in {row["size"] for row in table if row["kernel"].startswith("contraction")}
    assert {row["architecture"] for row in table} == {f"sm_{a}" for a in gpu_static.ARCHITECTURES}
    assert all(row["spill_bytes"] == "0" for row in table)
