"""Fixtures that several test files share."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hqfkernels import backends, planner

TRITON_INTERPRETED = not torch.cuda.is_available()
"""Whether Triton's kernels run in its interpreter, which it decides when it is imported."""
if TRITON_INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def native() -> None:
    """For tests of the compiled kernels themselves: skips where there are none."""
    available, reason = backends.native_status()
    if not available and os.environ.get("HQF_DISABLE_NATIVE"):
        pytest.skip(reason)
    assert available, reason


@pytest.fixture
def threads() -> Iterator[None]:
    """One thread, for tensors too small to share; a test may set other numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_choices() -> Iterator[None]:
    """The planner forgets what it chose, before and after: for tests that change what there is to choose from."""
    planner._choose.cache_clear()
    yield
    planner._choose.cache_clear()


class Recorder(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func).removesuffix(".default"))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def recorder() -> Recorder:
    """A context in which operators are noted in ``names``."""
    return Recorder()
