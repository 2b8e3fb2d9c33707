"""The torch operators: one schema for each engine and direction, with a plain-torch implementation for every device.

Native libraries register faster implementations of the same schemas (`hqfkernels.backends`). Arguments are taken as
checked: `hqfkernels.functional` does that. An engine maps inputs, and parameters that the batch shares, to outputs:

- ``gate``: ``text`` is that of a `hqfkernels.program.Program`, the parameters are the weights;
- ``fourier``: ``text`` is that of a `hqfkernels.series.Series`, whose parameters they are;
- ``custatevec``, the gate engine for registers that its kernels on GPUs cannot hold: ``text`` is that of
  `hqfkernels.blocks.Blocks`, the parameters are the weights. Implemented by cuStateVec alone: it refuses other devices.

``<engine>_forward(inputs, parameters, text, feature_dims, output_order)``
    inputs (*batch, *features) with ``feature_dims`` trailing feature dimensions, float64/32/16 or bfloat16, any
    strides; parameters (*g, n_parameters), g broadcastable against batch. Returns (*batch, n_outputs), float64 for
    float64 inputs, else float32. ``output_order`` lists the result's dimensions from the outermost to the innermost in
    memory; empty means contiguous. If it names more than those dimensions, the result's shape is (*batch, *features)
    or, with one dimension more, (*batch, n_outputs / n_features, *features).
``<engine>_backward(grad, inputs, parameters, text, feature_dims, input_order)``
    The gradients of ``(grad * <engine>_forward(...)).sum()``, with the dtypes of inputs and parameters; the first with
    its dimensions in memory as ``input_order`` says.

``propagation_forward(weights, text)``, ``propagation_backward(grad, weights, text)``
    Parameters of a series (*g, n) from weights (*g, n_weights), ``text`` being that of a
    `hqfkernels.propagation.Propagation`; the gradient in the weights. Contiguous float64; not differentiable, as
    `hqfkernels.engines.fourier` makes one differentiable operator of all ways to parameters.

``product(left, right)``
    The product of matrices (m, k) and (k, n), contiguous, float32 or float64. On the CPU every entry is summed in one
    order, whatever the number of threads, which BLAS libraries do not promise. Not differentiable.

Engines run them by `derivatives.call`. All raise RuntimeError, under every version of torch, for arguments that they
cannot take. Autocast needs no rule: half-precision inputs are computed in float32 whatever the autocast state. Second
derivatives and forward-mode derivatives raise; `hqfkernels.reference` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from hqfkernels.backends.custatevec import gate as custatevec
from hqfkernels.blocks import Blocks
from hqfkernels.ops import derivatives
from hqfkernels.program import Program
from hqfkernels.propagation import Propagation
from hqfkernels.reference import propagation, rotations, series
from hqfkernels.series import Series

_Recipe = TypeVar("_Recipe", Program, Series, Blocks)
_Read = TypeVar("_Read")


class _Reference(Protocol):
    """A plain-torch engine: see `hqfkernels.reference.rotations`."""

    def forward(self, recipe: Any, inputs: Tensor, parameters: Tensor, /) -> Tensor:
        """Outputs."""

    def backward(self, recipe: Any, grad: Tensor, inputs: Tensor, parameters: Tensor, /) -> tuple[Tensor, Tensor]:
        """Gradients in inputs and parameters."""


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What inputs, parameters and gradients may be."""

PLAIN: dict[str, Callable[..., Any]] = {}
"""The plain-torch implementations by operator, for a backend that cannot take every call."""


def compute_dtype(inputs: Tensor) -> torch.dtype:
    """In what a call computes: float64 for float64 inputs, else float32."""
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def exact(like: Tensor) -> AbstractContextManager[Any]:
    """Lets no autocast lower the precision of what is computed on the device of ``like``."""
    return torch.autocast(like.device.type, enabled=False)


def read(reader: Callable[[str], _Read], text: str) -> _Read:
    """What ``text`` says to ``reader``; as in compiled operators, RuntimeError if it refuses the text."""
    try:
        return reader(text)
    except ValueError as error:
        raise RuntimeError(str(error)) from None


def _check_call(recipe: Any, inputs: Tensor, parameters: Tensor, feature_dims: int) -> None:
    """Raises RuntimeError, as compiled operators do, for tensors that are not what the recipe takes."""
    for dtype in (inputs.dtype, parameters.dtype):
        if dtype not in DTYPES:
            raise RuntimeError(f"engine: expected float64, float32, float16 or bfloat16, got {dtype}")
    batch_dims = inputs.dim() - feature_dims
    if feature_dims < 1 or batch_dims < 0 or not 1 <= parameters.dim() <= batch_dims + 1:
        raise RuntimeError("engine: ranks of inputs and parameters do not fit")
    n_parameters = recipe.n_parameters if isinstance(recipe, Series) else recipe.n_weights
    if inputs.shape[batch_dims:].numel() != recipe.n_inputs or parameters.shape[-1] != n_parameters:
        raise RuntimeError("engine: inputs or parameters do not have the sizes that the text tells")


def _check_order(order: Sequence[int], ranks: Sequence[int]) -> None:
    """Raises RuntimeError if ``order`` does not list all dimensions of a tensor of one of these ranks."""
    if order and (len(order) not in ranks or sorted(order) != list(range(len(order)))):
        raise RuntimeError(f"engine: {list(order)} is no order of a result's dimensions")


def empty_ordered(like: Tensor, shape: Sequence[int], order: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor of ``shape`` whose dimensions lie in memory in ``order``, outermost first.

    It is no view of another one, which autograd would not let anyone change in place.
    """
    if not order:
        return like.new_empty(shape, dtype=dtype)
    strides: list[int | torch.SymInt] = [0] * len(order)
    step: int | torch.SymInt = 1
    for d in reversed(order):
        strides[d] = step
        step *= torch.sym_max(shape[d], 1)
    return like.new_empty_strided(shape, strides, dtype=dtype)


def output_shape(inputs: Tensor, n_outputs: int, feature_dims: int, order: Sequence[int]) -> tuple[int, ...]:
    """The shape of a result; see the module."""
    batch_dims = inputs.dim() - feature_dims
    batch, features = inputs.shape[:batch_dims], inputs.shape[batch_dims:]
    if len(order) <= batch_dims + 1:
        return *batch, n_outputs
    return (*batch, *features) if len(order) == inputs.dim() else (*batch, n_outputs // features.numel(), *features)


def input_order(inputs: Tensor, feature_dims: int, order: Sequence[int]) -> list[int]:
    """The part of a result's ``order`` that is about the inputs' dimensions; empty if it does not have them."""
    batch_dims = inputs.dim() - feature_dims
    if len(order) <= batch_dims + 1:
        return []
    if len(order) == inputs.dim():
        return list(order)
    return [d - (d > batch_dims) for d in order if d != batch_dims]


def lead(tensor: Tensor, in_dim: int | None, size: int) -> Tensor:
    """``tensor`` with the mapped dimension first, expanded if it was not mapped."""
    return tensor.expand(size, *tensor.shape) if in_dim is None else tensor.movedim(in_dim, 0)


def _lead_parameters(parameters: Tensor, in_dim: int | None, size: int, batch_dims: int) -> Tensor:
    """As `lead`, with singleton dimensions so that the mapped one meets the first of ``batch_dims``."""
    parameters = lead(parameters, in_dim, size)
    return parameters.reshape(size, *(1,) * (batch_dims - parameters.dim() + 1), *parameters.shape[1:])


def _lead_order(order: Sequence[int]) -> list[int]:
    """``order`` with the mapped dimension outermost; empty stays empty."""
    return [0, *(d + 1 for d in order)] if order else []


def _declare(engine: str, recipe_type: type[_Recipe], reference: _Reference) -> None:
    """Declares ``<engine>_forward`` and ``<engine>_backward`` with everything that torch asks of an operator."""
    forward, backward = f"hqfkernels::{engine}_forward", f"hqfkernels::{engine}_backward"
    torch.library.define(
        forward, "(Tensor inputs, Tensor parameters, str text, int feature_dims, int[] output_order) -> Tensor"
    )
    torch.library.define(
        backward,
        "(Tensor grad, Tensor inputs, Tensor parameters, str text, int feature_dims, int[] input_order)"
        " -> (Tensor, Tensor)",
    )
    run_forward = getattr(torch.ops.hqfkernels, f"{engine}_forward")
    run_backward = getattr(torch.ops.hqfkernels, f"{engine}_backward")

    @torch.library.register_fake(forward)
    def output(inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, order: Sequence[int]) -> Tensor:
        recipe: Any = read(recipe_type.from_text, text)
        shape = output_shape(inputs, recipe.n_outputs, feature_dims, order)
        return empty_ordered(inputs, shape, order, compute_dtype(inputs))

    def plain_forward(inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, order: Sequence[int]) -> Tensor:
        recipe: Any = read(recipe_type.from_text, text)
        dtype = compute_dtype(inputs)
        _check_call(recipe, inputs, parameters, feature_dims)
        batch_dims = inputs.dim() - feature_dims
        _check_order(order, (batch_dims + 1, inputs.dim(), inputs.dim() + 1))
        flat = inputs.to(dtype).flatten(batch_dims)
        result = output(inputs, parameters, text, feature_dims, order)
        with exact(inputs):
            values = reference.forward(recipe, flat, parameters.to(dtype))
        return result.copy_(values.view(result.shape))

    @torch.library.register_fake(backward)
    def gradients(
        grad: Tensor, inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        grad_inputs = empty_ordered(inputs, inputs.shape, order, inputs.dtype)
        return grad_inputs, parameters.new_empty(parameters.shape)

    def plain_backward(
        grad: Tensor, inputs: Tensor, parameters: Tensor, text: str, feature_dims: int, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        recipe: Any = read(recipe_type.from_text, text)
        dtype = compute_dtype(inputs)
        _check_call(recipe, inputs, parameters, feature_dims)
        _check_order(order, (inputs.dim(),))
        batch_dims = inputs.dim() - feature_dims
        batch, outputs = grad.shape[:batch_dims], grad.shape[batch_dims:]
        if grad.dtype not in DTYPES or batch != inputs.shape[:batch_dims] or outputs.numel() != recipe.n_outputs:
            raise RuntimeError(f"engine: a gradient {tuple(grad.shape)}, {grad.dtype}, does not fit the result")
        flat, slope = inputs.to(dtype).flatten(batch_dims), grad.to(dtype).flatten(batch_dims)
        with exact(inputs):
            along_inputs, along_parameters = reference.backward(recipe, slope, flat, parameters.to(dtype))
        grad_inputs, grad_parameters = gradients(grad, inputs, parameters, text, feature_dims, order)
        return grad_inputs.copy_(along_inputs.view(inputs.shape)), grad_parameters.copy_(along_parameters)

    for name, plain in ((f"{engine}_forward", plain_forward), (f"{engine}_backward", plain_backward)):
        torch.library.impl(f"hqfkernels::{name}", "CompositeExplicitAutograd")(plain)
        PLAIN[name] = plain

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensor, parameters, ctx.text, ctx.feature_dims, order = inputs
        ctx.save_for_backward(tensor, parameters)
        ctx.order = input_order(tensor, ctx.feature_dims, order)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        arguments: list[Any] = [grad, *ctx.saved_tensors, ctx.text, ctx.feature_dims, ctx.order]
        return *derivatives.call(f"{engine}_backward", *arguments), None, None, None

    derivatives.register(f"{engine}_forward", save, differentiate)
    derivatives.refuse(f"{engine}_backward", engine)

    @torch.library.register_vmap(forward)
    def map_forward(
        info: Any,
        in_dims: tuple[Any, ...],
        inputs: Tensor,
        parameters: Tensor,
        text: str,
        feature_dims: int,
        order: Any,
    ) -> tuple[Tensor, int]:
        inputs = lead(inputs, in_dims[0], info.batch_size)
        if in_dims[1] is not None:
            parameters = _lead_parameters(parameters, in_dims[1], info.batch_size, inputs.dim() - feature_dims)
        return run_forward(inputs, parameters, text, feature_dims, _lead_order(order)), 0

    @torch.library.register_vmap(backward)
    def map_backward(
        info: Any,
        in_dims: tuple[Any, ...],
        grad: Tensor,
        inputs: Tensor,
        parameters: Tensor,
        text: str,
        feature_dims: int,
        order: Any,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        grad = lead(grad, in_dims[0], info.batch_size)
        inputs = lead(inputs, in_dims[1], info.batch_size)
        own_shape = parameters.shape if in_dims[2] is None else parameters.movedim(in_dims[2], 0).shape[1:]
        parameters = _lead_parameters(parameters, in_dims[2], info.batch_size, inputs.dim() - feature_dims)
        grads = run_backward(grad, inputs, parameters, text, feature_dims, _lead_order(order))
        return (grads[0], grads[1].reshape(info.batch_size, *own_shape)), (0, 0)


_declare("gate", Program, rotations)
_declare("fourier", Series, series)
_declare("custatevec", Blocks, custatevec)

torch.library.define("hqfkernels::product", "(Tensor left, Tensor right) -> Tensor")


@torch.library.impl("hqfkernels::product", "CompositeExplicitAutograd")
def _product(left: Tensor, right: Tensor) -> Tensor:
    with exact(left):
        return left @ right


torch.library.define("hqfkernels::propagation_forward", "(Tensor weights, str text) -> Tensor")
torch.library.define("hqfkernels::propagation_backward", "(Tensor grad, Tensor weights, str text) -> Tensor")


@torch.library.impl("hqfkernels::propagation_forward", "CompositeExplicitAutograd")
def _propagate(weights: Tensor, text: str) -> Tensor:
    return propagation.forward(read(Propagation.from_text, text), weights)


@torch.library.impl("hqfkernels::propagation_backward", "CompositeExplicitAutograd")
def _propagate_back(grad: Tensor, weights: Tensor, text: str) -> Tensor:
    return propagation.backward(read(Propagation.from_text, text), grad, weights)
