"""The Triton backend: the Fourier engine on GPUs.

Triton is imported when the first call wants it, and not before. Modules: ``layout`` says where samples lie, ``source``
writes the kernels of contractions, ``device`` has what all of them share, ``contraction`` launches them;
``propagation`` computes the parameters of polynomials.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

import torch
from torch import Tensor

from hqfkernels import ops
from hqfkernels.backends import load
from hqfkernels.backends.triton import source
from hqfkernels.series import Series

_logger = logging.getLogger("hqfkernels")

MAX_GROUPS = 65535
"""Sets of parameters that a grid of programs can count."""
MIN_CAPABILITY = (8, 0)
"""Matrix products in three products of TensorFloat-32 need it."""


@functools.cache
def load_triton() -> tuple[ModuleType | None, str]:
    """Imports the kernels and registers them for CUDA tensors.

    Returns:
        `hqfkernels.backends.triton.contraction` (None if it cannot be used) and the reason, as
        `hqfkernels.backends.load_native` has it.
    """
    if os.environ.get("HQF_DISABLE_NATIVE", "0") not in ("", "0"):
        return None, "HQF_DISABLE_NATIVE is set"
    contraction, reason = load("hqfkernels.backends.triton.contraction")
    if contraction is None:
        return None, f"Triton's kernels cannot be loaded ({reason})"
    from hqfkernels.backends.triton import propagation

    torch.library.impl("hqfkernels::fourier_forward", "CUDA")(_forward)
    torch.library.impl("hqfkernels::fourier_backward", "CUDA")(_backward)
    torch.library.impl("hqfkernels::propagation_forward", "CUDA")(propagation.forward)
    torch.library.impl("hqfkernels::propagation_backward", "CUDA")(propagation.backward)
    return contraction, f"Triton {version('triton')}"


@functools.cache
def triton_status(index: int | None = None) -> tuple[bool, str]:
    """Tells whether Triton's kernels run on device ``index`` (None: the current one), and the reason.

    The first refusal on a machine with a GPU is logged as a warning.
    """
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        reason = f"it needs compute capability 8.0, the device has {capability[0]}.{capability[1]}"
    else:
        module, reason = load_triton()
        if module is None:
            pass
        elif error := module.trial(torch.device("cuda", torch.cuda.current_device() if index is None else index)):
            reason = f"a first kernel failed ({error})"
        else:
            return True, reason
    _logger.warning("hqfkernels has no Fourier kernels on this GPU: %s", reason)
    return False, reason


@functools.lru_cache(maxsize=1024)
def series_refusal(text: str) -> str | None:
    """Why the kernels cannot take the series with this text; None if they can."""
    try:
        source.pieces(Series.from_text(text), forward=True)
    except ValueError as error:
        return f"the polynomials have {error}"
    return None


def _forward(inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, output_order: Sequence[int]) -> Tensor:
    module, _ = load_triton()
    if module is None or series_refusal(text) or parameters.shape[:-1].numel() > MAX_GROUPS:
        return ops.PLAIN["fourier_forward"](inputs, parameters, text, feature_dims, output_order)
    shape = ops.output_shape(inputs, Series.from_text(text).n_outputs, feature_dims, output_order)
    result = ops.empty_ordered(inputs, shape, output_order, ops.compute_dtype(inputs))
    with torch.cuda.device_of(inputs):  # Triton launches on the current device
        module.forward(inputs, parameters, result, text, feature_dims)
    return result


def _backward(
    grad: Tensor, inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, input_order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    module, _ = load_triton()
    if module is None or series_refusal(text) or parameters.shape[:-1].numel() > MAX_GROUPS:
        return ops.PLAIN["fourier_backward"](grad, inputs, parameters, text, feature_dims, input_order)
    grad_inputs = ops.empty_ordered(inputs, inputs.shape, input_order, inputs.dtype)
    grad_parameters = parameters.new_empty(parameters.shape)
    with torch.cuda.device_of(inputs):
        module.backward(grad, inputs, parameters, grad_inputs, grad_parameters, text, feature_dims)
    return grad_inputs, grad_parameters
