"""Peak memory of one forward and backward pass over a million circuits: ``python -m bench.memory NAME`` prints JSON.

Runs in a process of its own. The peak is the kernel's high-water mark of resident memory above what the process held
before the tensors were made, so that every thread's scratch memory counts, and the libraries do not.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from bench.cases import Case, implementations
from bench.handwritten import Form
from bench.resident import reset_peak, resident

CASE = Case(4, 2, 1_000_000)


def give_back() -> None:
    """Returns memory that is free but still held, so that using it again is seen (where the C library is glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak(form: Form, make_tensors: Callable[[], tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """Bytes at the peak, and bytes of inputs, outputs and their gradients; inputs and weights are made for it."""
    warm = torch.rand(256, 256, requires_grad=True)
    (warm @ warm).sin().sum().backward()  # starts torch's threads; what the form itself keeps is counted
    give_back()
    reset_peak()
    before = resident("VmRSS")
    inputs, weights = make_tensors()
    outputs = form(inputs, weights)
    grad = torch.ones_like(outputs)
    grads = torch.autograd.grad(outputs, (inputs, weights), grad)
    return resident("VmHWM") - before, sum(t.nbytes for t in (inputs, outputs, grad, grads[0]))


if __name__ == "__main__":
    name = sys.argv[1]
    total, tensors = peak(implementations(CASE, compiled=False)[name], CASE.tensors)
    print(json.dumps({"name": name, "case": vars(CASE), "peak": total, "tensors": tensors}))
