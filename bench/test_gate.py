"""The same cases under pytest-benchmark: ``pytest bench --benchmark-enable --benchmark-only``, grouped by case.

The implementations of a group run one after the other here; for ratios on a busy machine use `bench.compare`, which
alternates them.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import CASES, Case, Step, implementations
from bench.handwritten import Form


@lru_cache(maxsize=1)
def prepared(case: Case) -> tuple[Step, dict[str, Form]]:
    return Step.of(case), implementations(case, compiled=False)


PARAMETERS = [
    pytest.param(case, name, id=f"n{case.n}-L{case.layers}-B{case.batch}-{name.replace(' ', '-')}")
    for case in CASES
    for name in implementations(case, compiled=False)
]


@pytest.mark.parametrize(("case", "name"), PARAMETERS)
def test_forward_and_backward(benchmark: BenchmarkFixture, case: Case, name: str) -> None:
    step, forms = prepared(case)
    step.check(name, forms[name])
    benchmark.group = str(case)
    benchmark(step.run, forms[name])
