"""The GPU's gate engine on an emulated group of lanes, compiled for the host from csrc/tests/emulated.cpp.

It is the source that runs on the GPU, with a policy in which the lanes of a circuit are the entries of an array: what
is tested is the schedule, the layouts and their exchanges, the arithmetic and the gradients, not threads and launches.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]  # as hqf::DType


class _View(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )


def _view(tensor: torch.Tensor) -> _View:
    dims = ctypes.c_int64 * tensor.dim()
    return _View(
        tensor.data_ptr(), DTYPES.index(tensor.dtype), tensor.dim(), dims(*tensor.shape), dims(*tensor.stride())
    )


@dataclass(frozen=True)
class Emulation:
    """The compiled library."""

    library: ctypes.CDLL

    @staticmethod
    @cache
    def build() -> Emulation:
        """Compiles it, once in a process; FileNotFoundError without a C++ compiler."""
        compiler = os.environ.get("CXX", "c++").split()[0]
        sources = ["csrc/tests/emulated.cpp", *(f"csrc/common/{name}.cpp" for name in ("plan", "program", "schedule"))]
        # Neither inlined nor unrolled: it compiles in seconds, and lanes in arrays are too large for one stack frame.
        flags = ["-std=c++20", "-O0", "-fPIC", "-shared", "-Icsrc/include", "-DHQF_ARCH=emulated"]
        flags += ["-DHQF_INLINE=inline", "-DHQF_UNROLL="]
        if sanitizers := os.environ.get("HQF_SANITIZE"):
            flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS", "-g1"]
        with tempfile.TemporaryDirectory() as folder:
            target = f"{folder}/emulated.so"
            subprocess.run([compiler, *flags, *sources, "-o", target], cwd=ROOT, check=True)
            library = ctypes.CDLL(target)
        library.hqf_message.restype = ctypes.c_char_p
        return Emulation(library)

    def _run(self, text: str, register_bits: int, feature_dims: int, *tensors: torch.Tensor | None) -> bool:
        views = [None if t is None else ctypes.byref(_view(t)) for t in tensors]
        inputs, weights, *others = views
        done = self.library.hqf_emulate(text.encode(), register_bits, inputs, feature_dims, weights, *others)
        if done < 0:
            raise ValueError(self.library.hqf_message().decode())
        return done == 0

    def forward(
        self, text: str, register_bits: int, inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor
    ) -> bool:
        """Fills ``output``, with ``register_bits`` bits of the state in registers (0: as on the GPU).

        Returns:
            Whether all exchanges were free of bank conflicts.
        """
        return self._run(text, register_bits, 1, inputs, weights, output, None, None)

    def backward(
        self,
        text: str,
        register_bits: int,
        grad: torch.Tensor,
        inputs: torch.Tensor,
        weights: torch.Tensor,
        grad_inputs: torch.Tensor,
        grad_weights: torch.Tensor,
    ) -> bool:
        """Fills ``grad_inputs`` and ``grad_weights``; tells what `forward` tells."""
        return self._run(text, register_bits, 1, inputs, weights, grad, grad_inputs, grad_weights)

    def counts(self) -> tuple[int, int]:
        """Additions and multiplications, and numbers written to and read from exchange memory, since the last call."""
        numbers = (ctypes.c_int64 * 2)()
        self.library.hqf_counts(numbers)
        return numbers[0], numbers[1]
