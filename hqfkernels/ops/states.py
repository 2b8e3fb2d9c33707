"""States in a graph: usable by everything that follows, and derivatives through them raise rather than vanish.

States are computed apart from autograd. `derivatives.call("states_forward", states, inputs, weights)` puts them back
behind the tensors that they come from; its backward pass is an operator too, so that a compiler may trace it and the
error comes when it runs. A gradient of zero passes, as a compiled graph has one for a state that no loss uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqfkernels.ops import derivatives

REFUSAL = "statevector has no derivatives: differentiate expval or probs, or call it under torch.no_grad()"

torch.library.define("hqfkernels::states_forward", "(Tensor states, Tensor inputs, Tensor weights) -> Tensor")
torch.library.define("hqfkernels::states_backward", "(Tensor grad, Tensor inputs, Tensor weights) -> (Tensor, Tensor)")


@torch.library.impl("hqfkernels::states_forward", "CompositeExplicitAutograd")
@torch.library.register_fake("hqfkernels::states_forward")
def _states(states: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    return states.clone()


@torch.library.impl("hqfkernels::states_backward", "CompositeExplicitAutograd")
def _refuse(grad: Tensor, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    if grad.any():
        raise NotImplementedError(REFUSAL)
    return _zeros(grad, inputs, weights)


@torch.library.register_fake("hqfkernels::states_backward")
def _zeros(grad: Tensor, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(inputs), torch.zeros_like(weights)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
    return None, *derivatives.call("states_backward", grad, *ctx.saved_tensors)


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
    raise NotImplementedError(REFUSAL)


derivatives.register("states_forward", _save, _differentiate, REFUSAL)
derivatives.register("states_backward", _save, _differentiate_again, REFUSAL)


@torch.library.register_vmap("hqfkernels::states_forward")
def _states_vmap(info: Any, in_dims: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, int | None]:
    return torch.ops.hqfkernels.states_forward(*tensors), in_dims[0]


@torch.library.register_vmap("hqfkernels::states_backward")
def _refuse_vmap(
    info: Any, in_dims: tuple[Any, ...], *tensors: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    return torch.ops.hqfkernels.states_backward(*tensors), in_dims[1:]
