"""What a QNode computes with its arguments: every operation of torch is seen, and is affine by construction or is not.

Nothing here decides by a value. An operation either stands in `AFFINE`, and then its result is an affine function of
its arguments whatever these hold, or its result is marked with the operation's name. A marked value may be computed,
but not become an angle (`Recorder.refusal`). No value leaves torch, marked or not, unless its derivatives are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_LINEAR = """
    _adaptive_avg_pool2d _conj _conj_physical _fft_c2c _fft_c2r _fft_r2c _neg_view _to_copy _unsafe_index _unsafe_view
    alias as_strided avg_pool2d avg_pool3d channel_shuffle clone conj_physical constant_pad_nd cumsum deg2rad diag_embed
    diagonal expand flip gather im2col imag index index_select lift_fresh masked_select mean neg permute pixel_shuffle
    rad2deg real reflection_pad1d reflection_pad2d repeat replication_pad1d replication_pad2d roll select slice split
    split_with_sizes squeeze sum t take trace transpose tril triu unbind unfold unsafe_split unsqueeze
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d view view_as_complex view_as_real zero
"""
AFFINE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(_LINEAR.split(), (("self",),)),
    **dict.fromkeys(("_stack", "cat", "stack"), (("tensors",),)),
    **dict.fromkeys(("add", "sub", "rsub"), (("self", "other"),)),
    **dict.fromkeys(("mul", "linalg_cross", "matmul", "vdot"), (("self",), ("other",))),
    "outer": (("self",), ("vec2",)),
    **dict.fromkeys(("mm", "bmm"), (("self",), ("mat2",))),
    "dot": (("self",), ("tensor",)),
    "mv": (("self",), ("vec",)),
    "addmm": (("self", "mat1"), ("self", "mat2")),
    "addmv": (("self", "mat"), ("self", "vec")),
    "addr": (("self", "vec1"), ("self", "vec2")),
    **dict.fromkeys(("addbmm", "baddbmm"), (("self", "batch1"), ("self", "batch2"))),
    "addcmul": (("self", "tensor1"), ("self", "tensor2")),
    "addcdiv": (("self", "tensor1"),),
    **dict.fromkeys(("linear", "convolution"), (("input", "bias"), ("weight", "bias"))),
    "div": (("self",),),
    "pow": (("self",),),
    "lerp": (("self", "end"),),
    "complex": (("real", "imag"),),
    "where": (("self", "other"),),
    "embedding": (("weight",),),
    **dict.fromkeys(("fill", "index_fill", "masked_fill"), (("self", "value"),)),
    **dict.fromkeys(("copy", "scatter_add", "select_scatter", "slice_scatter"), (("self", "src"),)),
    "scatter": (("self", "src", "value"),),
    **dict.fromkeys(("index_put", "_index_put_impl"), (("self", "values"),)),
    **dict.fromkeys(("index_add", "index_copy", "masked_scatter", "put"), (("self", "source"),)),
}
"""Operator, also in place -> sets of arguments: where all that depends on the data is in one of the sets, the result is
affine in it. `_is_affine` adds what the numbers among the other arguments must be."""

_SHAPES = """
    _has_compatible_shallow_copy_type empty_like full_like is_pinned is_same_size new_empty new_empty_strided new_full
    new_ones new_zeros ones_like rand_like randint_like randn_like size stride zeros_like
"""
SHAPE_ONLY = frozenset(_SHAPES.split())
"""Operators that ask for shapes, dtypes and devices alone."""

_NUMBERS = """
    __get__ __hash__ __len__ dim dim_order element_size get_device is_complex is_conj is_contiguous is_floating_point
    is_inference is_neg is_pinned is_same_size is_signed ndimension nelement numel size storage_offset stride type
"""
METADATA = frozenset(_NUMBERS.split())
"""Functions of Python whose results, numbers or texts, do not tell what a tensor holds."""

LIKE = ("expand_as", "reshape_as", "to", "type_as", "view_as")
"""Functions of Python that take shape, dtype or device from all arguments but the first."""

EXACT = (torch.float32, torch.float64, torch.complex64, torch.complex128)
"""Dtypes that angles may pass through; a cast to any other one rounds."""


class Refused(ValueError):
    """A QNode computes what no circuit can express."""


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


class Recorder:
    """A context in which every operation of torch on ``leaves``, and on what is computed from them, is seen.

    Args:
        leaves: the inputs and the weights; they require gradients.
    """

    def __init__(self, *leaves: Tensor) -> None:
        self._leaves = leaves
        # By storage: views are the same memory, and what is written into a part of it is seen by all.
        self._storages: dict[int, tuple[Any, str]] = {}
        # Vectors (each with the count of writes into it) and their norms, and the quotients of both.
        self._norms: list[tuple[tuple[Tensor, int], Tensor]] = []
        self._directions: list[tuple[tuple[Tensor, int], tuple[Tensor, int]]] = []
        self._refused: Refused | None = None
        self._function = ""  # of Python, that is being called
        self._saw = False  # whether an operator took something of ours since that call began,
        self._told = False  # and whether it told a constant
        self._modes = (_Operators(self), _Functions(self))
        for leaf in leaves:
            self._mark(leaf, "")

    def __enter__(self) -> Recorder:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if self._refused and not isinstance(error, Refused):  # somebody caught it and went on
            raise self._refused

    def depends(self, value: Any) -> bool:
        """Whether the value depends on inputs or weights."""
        with torch._C.DisableTorchFunction():
            return (
                isinstance(value, Tensor) and value.layout == torch.strided and _storage(value)._cdata in self._storages
            )

    def refusal(self, value: Any) -> str:
        """The operation that makes the value no affine function of inputs and weights; "" if it is one."""
        if not self.depends(value):
            return ""
        with torch._C.DisableTorchFunction():
            return self._storages[_storage(value)._cdata][1]

    def is_norm(self, value: Any) -> bool:
        """Whether the value is the norm of an affine vector, or of one that has been divided by its norm."""
        with torch._C.DisableTorchFunction():
            return isinstance(value, Tensor) and any(_same(value, norm) for _, norm in self._norms)

    def _is_constant(self, value: Tensor) -> bool:
        """Whether the data cancel out, as in the real part of ``1j * inputs``."""
        if self.refusal(value) or not value.requires_grad:
            return False
        for one in (1, 1j) if value.is_complex() else (1,):
            start = torch.full_like(value, one)
            slopes = torch.autograd.grad(value, self._leaves, start, retain_graph=True, allow_unused=True)
            if any(slope is not None and torch.any(slope) for slope in slopes):
                return False
        return True

    def direction(self, value: Any) -> Tensor | None:
        """The affine vector (or batch) that ``value`` is after a division by its norm; None if it is none."""
        with torch._C.DisableTorchFunction():
            for (vector, version), (unit, unit_version) in self._directions:
                current = vector._version == version and unit._version == unit_version
                if current and isinstance(value, Tensor) and _same(value, unit):
                    return vector
        return None

    def _note_norms(self, name: str, arguments: dict[str, Any], result: Any) -> None:
        vector: Any = arguments.get("self")
        if name == "linalg_vector_norm" and (not self.refusal(vector) or self.direction(vector) is not None):
            dims = arguments.get("dim") or range(vector.dim())
            if arguments.get("ord", 2) == 2 and len(dims) == 1 and dims[0] in (-1, vector.dim() - 1):
                self._norms.append(((vector, vector._version), result))
        elif name == "div" and isinstance(arguments["other"], Tensor):
            for (of, version), norm in self._norms:
                if not _same(vector, of) or of._version != version or result.shape != of.shape:
                    continue
                column = norm.reshape(*of.shape[:-1], 1).expand_as(of)
                if _same(arguments["other"].expand_as(of), column):
                    before = self.direction(of)
                    affine = of if before is None else before
                    self._directions.append(((affine, affine._version), (result, result._version)))

    def _mark(self, value: Tensor, refusal: str) -> None:
        storage = _storage(value)
        known = self._storages.get(storage._cdata, (storage, ""))
        self._storages[storage._cdata] = (storage, known[1] or refusal)

    def _refuse(self, message: str) -> Refused:
        self._refused = self._refused or Refused(message)
        return self._refused

    def _leaves_torch(self, values: list[Tensor]) -> Refused:
        how = self._first_refusal(values) or self._function
        return self._refuse(
            f"qnode: it reads a value that depends on inputs or weights ({how}), so its structure depends on the data "
            "(if, while, float() or .item()) or the value leaves torch; make one circuit for each case, or compute the "
            "value before the circuit and pass it in as an input"
        )

    def _first_refusal(self, values: list[Tensor]) -> str:
        return next((reason for reason in map(self.refusal, values) if reason), "")

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operator of torch and marks its results."""
        given = list(_tensors((args, kwargs)))
        ours = [t for t in given if self.depends(t)]
        if not ours:
            return func(*args, **kwargs)
        self._saw = True
        name = func.overloadpacket.__name__
        name = name if name.startswith("__") else name.rstrip("_")
        if name in SHAPE_ONLY:
            return func(*args, **kwargs)
        for t in given:
            if t.requires_grad and not self.depends(t):
                raise self._refuse(lost_gradient(t))
        arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        varying = {k for k, v in arguments.items() if any(map(self.depends, _tensors(v)))}
        what = self._function or name
        refusal = self._first_refusal(ours)
        if not torch.is_grad_enabled():
            refusal = refusal or f"{what} without gradients"
        elif not _is_affine(func, name, varying, arguments):
            refusal = refusal or what
        if name == "_local_scalar_dense" and self._is_constant(*args):
            self._told = True
            return func(*args)
        if torch.Tag.dynamic_output_shape in func.tags and not (name in AFFINE and varying == {"self"}):
            raise self._leaves_torch(ours)
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if refusal:  # the values are made up, and may be none that the operator takes
                raise self._leaves_torch(ours) from error
            raise
        written = [arguments.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        outputs = list(_tensors([result, written]))
        is_number = not isinstance(result, (Tensor, tuple, list, type(None)))
        if is_number or any(t.layout != torch.strided for t in outputs):
            raise self._leaves_torch(ours)
        self._note_norms(name, arguments, result)
        for t in outputs:
            self._mark(t, refusal or ("" if t.dtype in EXACT else f"{what} ({t.dtype})"))
        return result

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a function of Python on tensors, which must not read any of ours behind the operators' back."""
        outer = self._function, self._saw, self._told
        name = getattr(func, "__name__", "")
        owner = func.__self__ if name in ("__get__", "__set__") else func
        self._function, self._saw = getattr(owner, "__name__", name).strip("_"), False
        self._told = False
        try:
            ours = [t for t in _tensors(args[:1] if name in LIKE else (args, kwargs)) if self.depends(t)]
            if ours and name in ("__array__", "__deepcopy__", "numpy"):
                raise self._leaves_torch(ours)
            if ours and name in ("__format__", "__repr__", "__str__"):  # of messages; without the values
                return f"tensor(..., size={tuple(ours[0].shape)})"
            result = func(*args, **kwargs)
            if ours and not self._is_seen(result, name):
                raise self._leaves_torch(ours)
            return result
        finally:
            self._function, self._saw, self._told = outer[0], outer[1] or self._saw, outer[2]

    def _is_seen(self, result: Any, name: str) -> bool:
        if isinstance(result, Tensor):
            return self._saw or self.depends(result)
        if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
            return all(self._is_seen(part, name) for part in result)
        harmless = (torch.Size, torch.dtype, torch.device, torch.layout, type(None), type(NotImplemented))
        return self._told or isinstance(result, harmless) or name in METADATA


def _storage(value: Tensor) -> Any:
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value.untyped_storage()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def lost_gradient(value: Tensor) -> str:
    """What is wrong with a tensor from elsewhere that requires gradients."""
    return (
        f"qnode: it uses a tensor of shape {tuple(value.shape)} that requires gradients and is none of its arguments; "
        "its gradient would be lost: make it a weight, or detach it"
    )


def _is_affine(func: Any, name: str, varying: set[str], arguments: dict[str, Any]) -> bool:
    """Whether an operator is affine in the arguments ``varying``, with the others as they are."""
    if func.namespace != "aten":
        return False
    if name == "div" and arguments.get("rounding_mode") is not None:
        return False
    if name == "pow" and not (isinstance(arguments["exponent"], (int, float)) and arguments["exponent"] == 1):
        return False
    if func is torch.ops.aten.view.dtype or arguments.get("reduce") is not None:  # other bits; scatter's products
        return False
    return any(varying <= set(together) for together in AFFINE.get(name, ()))


class _Operators(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._recorder.operate(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.call(func, args, kwargs or {})
