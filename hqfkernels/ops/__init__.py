"""The torch operators: one schema each, declared here, with a plain-torch implementation for every device.

Native libraries register faster implementations of the same schemas (`hqfkernels.backends`). Arguments are taken as
checked: `hqfkernels.functional` does that.

``gate_forward(inputs, weights, program, feature_dims, output_order)``
    inputs (*batch, *features) with ``feature_dims`` trailing feature dimensions, float64/32/16 or bfloat16, any
    strides; weights (*g, n_weights), g broadcastable against batch; program the text of a
    `hqfkernels.program.Program`. Returns (*batch, n_outputs), or (*batch, *features) if ``output_order`` names as many
    dimensions as ``inputs`` has. ``output_order`` lists the result's dimensions from the outermost to the innermost in
    memory; empty means contiguous. Float64 for float64 inputs, else float32.
``gate_backward(grad, inputs, weights, program, feature_dims, input_order)``
    The gradients of ``(grad * gate_forward(...)).sum()``, by the adjoint method, with the dtypes of inputs and weights;
    the first with its dimensions in memory as ``input_order`` says.

Autocast needs no rule: half-precision inputs are computed in float32 whatever the autocast state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hqfkernels.program import Program
from hqfkernels.reference import rotations

torch.library.define(
    "hqfkernels::gate_forward",
    "(Tensor inputs, Tensor weights, str program, int feature_dims, int[] output_order) -> Tensor",
)
torch.library.define(
    "hqfkernels::gate_backward",
    "(Tensor grad, Tensor inputs, Tensor weights, str program, int feature_dims, int[] input_order)"
    " -> (Tensor, Tensor)",
)


def _compute_dtype(inputs: Tensor) -> torch.dtype:
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def _empty_ordered(like: Tensor, shape: Sequence[int], order: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor of ``shape`` whose dimensions lie in memory in ``order``, outermost first."""
    if not order:
        return like.new_empty(shape, dtype=dtype)
    inverse = sorted(range(len(order)), key=lambda position: order[position])
    return like.new_empty([shape[d] for d in order], dtype=dtype).permute(inverse)


def _output(inputs: Tensor, program: str, feature_dims: int, order: Sequence[int]) -> Tensor:
    shaped_as_inputs = len(order) == inputs.dim()
    batch = inputs.shape[: inputs.dim() - feature_dims]
    shape = inputs.shape if shaped_as_inputs else (*batch, Program.from_text(program).n_outputs)
    return _empty_ordered(inputs, shape, order, _compute_dtype(inputs))


@torch.library.register_fake("hqfkernels::gate_forward")
def _gate_forward_fake(
    inputs: Tensor, weights: Tensor, program: str, feature_dims: int, output_order: Sequence[int]
) -> Tensor:
    return _output(inputs, program, feature_dims, output_order)


@torch.library.impl("hqfkernels::gate_forward", "CompositeExplicitAutograd")
def _gate_forward(
    inputs: Tensor, weights: Tensor, program: str, feature_dims: int, output_order: Sequence[int]
) -> Tensor:
    dtype = _compute_dtype(inputs)
    flat = inputs.to(dtype).flatten(inputs.dim() - feature_dims)
    result = _output(inputs, program, feature_dims, output_order)
    values = rotations.forward(Program.from_text(program), flat, weights.to(dtype))
    return result.copy_(values.view(result.shape))


@torch.library.register_fake("hqfkernels::gate_backward")
def _gate_backward_fake(
    grad: Tensor, inputs: Tensor, weights: Tensor, program: str, feature_dims: int, input_order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    grad_inputs = _empty_ordered(inputs, inputs.shape, input_order, inputs.dtype)
    return grad_inputs, weights.new_empty(weights.shape)


@torch.library.impl("hqfkernels::gate_backward", "CompositeExplicitAutograd")
def _gate_backward(
    grad: Tensor, inputs: Tensor, weights: Tensor, program: str, feature_dims: int, input_order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    dtype = _compute_dtype(inputs)
    batch_dims = inputs.dim() - feature_dims
    flat = inputs.to(dtype).flatten(batch_dims)
    slope = grad.to(dtype).flatten(batch_dims)
    values, grad_weights = rotations.backward(Program.from_text(program), slope, flat, weights.to(dtype))
    grad_inputs = _empty_ordered(inputs, inputs.shape, input_order, inputs.dtype)
    return grad_inputs.copy_(values.view(inputs.shape)), grad_weights.to(weights.dtype)


# --- autograd -------------------------------------------------------------------------------------------------------


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensor, weights, ctx.program, ctx.feature_dims, order = inputs
    ctx.save_for_backward(tensor, weights)
    # A result shaped as the inputs lies in memory as its input does (that is what the order is for); so does the
    # gradient. Otherwise the gradient is contiguous.
    ctx.order = order if len(order) == tensor.dim() else []


def _forward_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    inputs, weights = ctx.saved_tensors
    grad_inputs, grad_weights = torch.ops.hqfkernels.gate_backward(
        grad, inputs, weights, ctx.program, ctx.feature_dims, ctx.order
    )
    return grad_inputs, grad_weights, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    pass


def _no_double_backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    raise NotImplementedError(
        "the gate engine has no second derivatives; call expval or probs with backend='reference' to get them"
    )


torch.library.register_autograd("hqfkernels::gate_forward", _forward_gradient, setup_context=_setup_forward)
torch.library.register_autograd("hqfkernels::gate_backward", _no_double_backward, setup_context=_setup_backward)


# --- vmap -----------------------------------------------------------------------------------------------------------


def _lead(tensor: Tensor, in_dim: int | None, size: int) -> Tensor:
    """``tensor`` with the mapped dimension first, expanded if it was not mapped."""
    return tensor.expand(size, *tensor.shape) if in_dim is None else tensor.movedim(in_dim, 0)


def _lead_weights(weights: Tensor, in_dim: int | None, size: int, batch_dims: int) -> Tensor:
    """As `_lead`, with singleton dimensions so that the mapped one meets the first of ``batch_dims``."""
    weights = _lead(weights, in_dim, size)
    return weights.reshape(size, *(1,) * (batch_dims - weights.dim() + 1), *weights.shape[1:])


@torch.library.register_vmap("hqfkernels::gate_forward")
def _gate_forward_vmap(
    info: Any, in_dims: tuple[Any, ...], inputs: Tensor, weights: Tensor, program: str, feature_dims: int, order: Any
) -> tuple[Tensor, int]:
    inputs = _lead(inputs, in_dims[0], info.batch_size)
    if in_dims[1] is not None:
        weights = _lead_weights(weights, in_dims[1], info.batch_size, inputs.dim() - feature_dims)
    order = [0, *(d + 1 for d in order)] if order else []
    return torch.ops.hqfkernels.gate_forward(inputs, weights, program, feature_dims, order), 0


@torch.library.register_vmap("hqfkernels::gate_backward")
def _gate_backward_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    grad: Tensor,
    inputs: Tensor,
    weights: Tensor,
    program: str,
    feature_dims: int,
    order: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    grad = _lead(grad, in_dims[0], info.batch_size)
    inputs = _lead(inputs, in_dims[1], info.batch_size)
    shape = (info.batch_size, *(weights if in_dims[2] is None else weights.movedim(in_dims[2], 0)[0]).shape)
    weights = _lead_weights(weights, in_dims[2], info.batch_size, inputs.dim() - feature_dims)
    order = [0, *(d + 1 for d in order)] if order else []
    grads = torch.ops.hqfkernels.gate_backward(grad, inputs, weights, program, feature_dims, order)
    return (grads[0], grads[1].reshape(shape)), (0, 0)
