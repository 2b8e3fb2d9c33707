"""Whole training steps of HQF-Net and of its classical twin under pytest-benchmark.

The two run one after the other here; for their ratio use `bench.step`, which alternates them.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hqfnet.timing import TrainingStep

SIZE, IMAGES = 128, 2


@pytest.mark.parametrize("quantum", [True, False], ids=["circuits", "twin"])
@pytest.mark.parametrize("model", ["hqfnet_tiny", "hq_unet"])
def test_training_step(benchmark: BenchmarkFixture, model: str, quantum: bool) -> None:
    step = TrainingStep(model, quantum, SIZE, IMAGES)
    benchmark.group = f"training step, {model}, {IMAGES} x {SIZE} x {SIZE} pixels"
    benchmark(step.run)
