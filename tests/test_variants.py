"""The same numbers without the compiled library, and by each variant of its kernels that the CPU runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hqfkernels import backends
from tests import test_fourier, test_gate_engine, test_ops, test_unitary

LIMITS = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 2e-5}

pytestmark = pytest.mark.usefixtures("threads")


def everything() -> dict[str, list[Tensor]]:
    """Results that this process holds against the reference in other tests; without the library, there is no more."""
    modules = [test_fourier, test_ops, test_unitary, *([test_gate_engine] if backends.native_status()[0] else [])]
    return {module.__name__: module.everything() for module in modules}


@pytest.fixture(scope="module")
def here() -> dict[str, list[Tensor]]:
    return everything()


def variants() -> list[str]:
    module, _ = backends.load_native()
    return module.build_info()["cpu_variants"] if module else []


@pytest.mark.parametrize("variant", ["no-library", *variants()])
def test_the_same_numbers(variant: str, here: dict[str, list[Tensor]], native: None, tmp_path: Path) -> None:
    _, status = backends.native_status()
    if status.endswith(f" {variant}"):
        pytest.skip("what the other tests run on")
    chosen = {"HQF_DISABLE_NATIVE": "1"} if variant == "no-library" else {"HQF_CPU_CAPABILITY": variant}
    code = "import sys, torch; from tests import test_variants as t; torch.set_num_threads(1); "
    done = subprocess.run(
        [sys.executable, "-c", code + "torch.save(t.everything(), sys.argv[1])", str(tmp_path / "there.pt")],
        env={**os.environ, **chosen}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "can run only" in done.stderr:
        pytest.skip(f"the CPU has no {variant}")
    assert done.returncode == 0, done.stderr
    there = torch.load(tmp_path / "there.pt")
    assert len(there) >= 2
    for name, results in there.items():
        for actual, expected in zip(results, here[name], strict=True):
            assert actual.dtype == expected.dtype
            assert actual.stride() == expected.stride()
            finite = expected[expected.isfinite()].abs()
            limit = LIMITS.get(expected.dtype, 1e-10) * max(1.0, *finite.flatten().tolist(), 0.0)
            torch.testing.assert_close(actual, expected, atol=limit, rtol=0, equal_nan=True)
