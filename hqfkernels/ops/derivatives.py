"""Derivatives of the operators: by autograd, and by torch.func, which sees nothing of what torch.library registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack

Save = Callable[[Any, tuple[Any, ...], Any], None]
Differentiate = Callable[..., tuple[Any, ...]]

NO_FORWARD_MODE = "the engines have no forward-mode derivatives; backend='reference' has them"

_RULES: dict[str, tuple[Save, Differentiate, str]] = {}


def register(operator: str, save: Save, differentiate: Differentiate, no_forward_mode: str = NO_FORWARD_MODE) -> None:
    """Gives ``operator`` a backward pass; the functions are as `torch.library.register_autograd` takes them.

    Forward mode raises, and says ``no_forward_mode``.
    """
    torch.library.register_autograd(f"hqfkernels::{operator}", differentiate, setup_context=save)
    _RULES[operator] = save, differentiate, no_forward_mode


def refuse(operator: str, engine: str) -> None:
    """Makes derivatives of ``operator`` raise, and say which ``engine`` lacks them, rather than vanish."""

    def save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    def raise_error(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            f"the {engine} engine has no second derivatives; call expval or probs with backend='reference' to get them"
        )

    register(operator, save_nothing, raise_error)


def call(operator: str, *arguments: Any) -> Any:
    """Runs an operator so that whatever is in force may differentiate it."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        transforms = {level.key() for level in get_interpreter_stack() or ()}
        if transforms & {TransformType.Grad, TransformType.Jvp}:
            return _Transformed.apply(operator, *arguments)
    return getattr(torch.ops.hqfkernels, operator)(*arguments)


class _Transformed(torch.autograd.Function):
    """An operator with its rules, as torch.func.grad, vjp and jacrev want them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: str, *arguments: Any) -> Any:
        return getattr(torch.ops.hqfkernels, operator)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        operator, *arguments = inputs
        save, ctx.differentiate, ctx.no_forward_mode = _RULES[operator]
        save(ctx, tuple(arguments), output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *ctx.differentiate(ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(ctx.no_forward_mode)
