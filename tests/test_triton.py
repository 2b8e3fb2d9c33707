"""Triton's kernels in Triton's interpreter, on CPU tensors, against the plain-torch implementations."""

import gc
import linecache

import pytest
import torch

import hqfkernels as hqf
from bench.cases import Case
from hqfkernels import ops
from hqfkernels.backends import triton as backend
from hqfkernels.engines.fourier import recipe, series
from hqfkernels.program import lower
from hqfkernels.propagation import Propagation
from tests.conftest import TRITON_INTERPRETED

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not TRITON_INTERPRETED, reason="a machine with a GPU compiles the kernels: test_gpu.py")

from hqfkernels.backends.triton import contraction, propagation, source  # noqa: E402
from hqfkernels.backends.triton.layout import layout_of  # noqa: E402


def few_terms():
    """Written out; one input not used, one output constant, one input twice, one in a controlled rotation."""
    c = hqf.Circuit(4)
    c.ry(hqf.Input(0), 0).rx(hqf.Input(1) * 2 + 0.3, 1).cx(0, 1).ry(hqf.Weight(0), 1).crx(hqf.Input(3), 1, 2)
    c.ry(hqf.Input(0) + hqf.Weight(1), 0).cx(2, 0)
    return c.measure("ZIII", "IXII", "IIZI", "IIIZ", "ZZII")


def layered(n, layers):
    return Case(n, layers, 1).circuit()


def random_call(circuits, batch, groups=(), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = series(tuple(c.text for c in circuits), "expval")
    inputs = torch.randn(*batch, found.n_inputs, generator=generator, dtype=torch.float64).mul(2).to(dtype)
    parameters = torch.randn(*groups, found.n_parameters, generator=generator, dtype=torch.float64)
    return found, inputs, parameters


def agree(found, inputs, parameters, feature_dims=1, order=()):
    """Forward and backward against the reference, in shapes, strides, dtypes and values."""
    text = found.text
    got = backend._forward(inputs, parameters, text, feature_dims, order)
    want = ops.PLAIN["fourier_forward"](inputs, parameters, text, feature_dims, order)
    tolerance = 1e-12 if inputs.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance, check_stride=True)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(got.dtype)
    own = ops.input_order(inputs, feature_dims, order)
    grads = backend._backward(grad, inputs, parameters, text, feature_dims, own)
    wanted = ops.PLAIN["fourier_backward"](grad, inputs, parameters, text, feature_dims, own)
    for one, other in zip(grads, wanted, strict=True):
        scale = max(other.abs().max().item(), 1) if other.numel() else 1
        exact = torch.finfo(other.dtype).eps * 4 if other.dtype in (torch.float16, torch.bfloat16) else tolerance
        torch.testing.assert_close(one, other, atol=exact * scale, rtol=exact, check_stride=True)


def dense(found, forward=False):
    return [piece.dense for piece in source.pieces(found, forward)]


def test_terms_written_out():
    found, *call = random_call([few_terms()], (150,))
    assert dense(found) == [False]
    agree(found, *call)


def test_terms_written_out_in_several_pieces(monkeypatch):
    monkeypatch.setattr(source, "MAX_SLOPES", 20)
    found, *call = random_call([few_terms()], (7,), dtype=torch.float64)
    assert len(source.pieces(found, forward=False)) > 1
    agree(found, *call)


@pytest.mark.parametrize(("n", "layers", "dtype"), [(4, 3, torch.float32), (5, 3, torch.float64)])
def test_matrix_products(n, layers, dtype):
    found, *call = random_call([layered(n, layers)], (70 if n == 4 else 20,), dtype=dtype)
    assert dense(found) == [True]
    agree(found, *call)


def test_matrix_products_of_an_input_uploaded_twice(monkeypatch):
    monkeypatch.setattr(source, "_written", lambda member: False)
    c = hqf.Circuit(2)
    for k in range(2):
        c.ry(hqf.Input(0), 0).ry(hqf.Weight(2 * k), 0).cx(0, 1).rx(hqf.Input(1), 1).ry(hqf.Weight(2 * k + 1), 1)
    found, *call = random_call([c.measure("ZI", "YX", "XX")], (40,))
    assert found.members[0].axes[0].degree == 2
    assert dense(found) == [True]
    agree(found, *call)


def test_few_of_the_products_of_many_inputs():
    found, *call = random_call([hqf.ansatz.basic_entangler(16, 1)], (9,))
    assert dense(found) == [False]
    agree(found, *call)


def test_groups_of_parameters_and_several_circuits():
    circuits = [layered(4, 2), layered(4, 3), layered(4, 1)]
    found, *call = random_call(circuits, (2, 3, 21), groups=(3, 1))
    assert dense(found) == [False, True, False]
    agree(found, *call)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    found, *call = random_call([layered(2, 2), few_terms()], (9,), dtype=dtype)
    agree(found, *call)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4, 3, 5, 1], [0, 1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_patches_are_read_and_written_through_strides(order, memory_format):
    found, _, parameters = random_call([layered(4, 2)], (1,), groups=(3, 1, 1))
    maps = torch.randn(2, 3, 6, 8).contiguous(memory_format=memory_format)
    patches = maps.unflatten(3, (4, 2)).unflatten(2, (3, 2)).permute(0, 1, 2, 4, 3, 5)
    agree(found, patches, parameters, 2, order)


def test_rows_that_are_not_aligned():
    found, inputs, parameters = random_call([layered(4, 2)], (11,))
    apart = torch.zeros(11, 7)[:, 1:5].copy_(inputs)
    aligned = torch.zeros(11, 8)[:, :4].copy_(inputs)
    assert layout_of((11,), (), (apart,) * 3).widths == (1, 1, 1)
    assert layout_of((11,), (), (aligned,) * 3).widths == (4, 4, 4)
    agree(found, apart, parameters)
    agree(found, aligned, parameters)
    agree(found, inputs[:1].expand(5, 4), parameters)


def test_samples_beyond_32_bits_are_numbered_by_64(monkeypatch):
    found, *call = random_call([few_terms()], (30,))
    monkeypatch.setattr(contraction, "MAX_NARROW", 10)
    agree(found, *call)


@pytest.mark.parametrize("circuit", [layered(4, 2), layered(4, 3)], ids=["written", "products"])
def test_large_angles(circuit):
    found, inputs, parameters = random_call([circuit], (70,))
    inputs[3, 1] = 12345.678
    inputs[60] *= 1e8
    text = found.text
    got = backend._forward(inputs, parameters, text, 1, [])
    want = ops.PLAIN["fourier_forward"](inputs.double(), parameters, text, 1, [])
    assert (got - want).abs().max() < 1e-4
    inputs[5] = 3e38
    assert torch.isfinite(backend._forward(inputs, parameters, text, 1, [])).all()


@pytest.mark.parametrize("circuit", [layered(4, 2), layered(4, 3)], ids=["written", "products"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_sample_touches_no_other(circuit, bad):
    found, inputs, parameters = random_call([circuit], (70,))
    clean = backend._forward(inputs, parameters, found.text, 1, [])
    grad = torch.ones_like(clean)
    clean_grad, _ = backend._backward(grad, inputs, parameters, found.text, 1, [])
    inputs[17, 2] = bad
    got = backend._forward(inputs, parameters, found.text, 1, [])
    got_grad, _ = backend._backward(grad, inputs, parameters, found.text, 1, [])
    others = torch.arange(70) != 17
    assert got[17].isnan().any()
    torch.testing.assert_close(got[others], clean[others])
    torch.testing.assert_close(got_grad[others], clean_grad[others])


def test_an_empty_batch():
    found, *call = random_call([few_terms()], (0,))
    agree(found, *call)


def test_a_series_that_is_too_large_is_refused_and_computed_all_the_same():
    found, *call = random_call([deep()], (3,))
    reason = backend.series_refusal(found.text)
    assert reason is not None
    assert "at most 1024" in reason
    assert "at most 32" in reason
    agree(found, *call)


def deep():
    """Seven inputs, all terms."""
    c = hqf.Circuit(2)
    for k in range(7):
        c.ry(hqf.Input(k), k % 2).rx(hqf.Weight(3 * k), 0).rz(hqf.Weight(3 * k + 1), 1).cx(k % 2, 1 - k % 2)
        c.ry(hqf.Weight(3 * k + 2), 1)
    return c


def test_a_source_is_kept_as_long_as_its_kernel():
    text = "@triton.jit\ndef kernel(x):\n    tl.store(x, 1.0)\n"
    first = contraction.compiled.__wrapped__(text)
    (name,) = (name for name, entry in linecache.cache.items() if len(entry) == 4 and "".join(entry[2]) == text)
    assert linecache.getline(name, 2) == "def kernel(x):\n"
    second = contraction.compiled.__wrapped__(text)
    del first
    gc.collect()
    assert name in linecache.cache  # the second kernel's
    del second
    gc.collect()
    assert name not in linecache.cache


def test_precision_is_float32_unless_torch_was_told_otherwise():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert contraction.precision() == "tf32x3"
        torch.set_float32_matmul_precision("high")
        assert contraction.precision() == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def propagation_of(circuit):
    found = recipe(lower(circuit.text, "expval")).source
    assert isinstance(found, Propagation)
    return found.text


@pytest.mark.parametrize("n", [2, 3])
def test_propagation(n):
    text = propagation_of(layered(n, 2))
    weights = torch.randn(2, 3, Propagation.from_text(text).n_weights, dtype=torch.float64)
    got = propagation.forward(weights, text)
    torch.testing.assert_close(got, torch.ops.hqfkernels.propagation_forward(weights, text), atol=1e-13, rtol=1e-13)
    grad = torch.randn_like(got)
    want = torch.ops.hqfkernels.propagation_backward(grad, weights, text)
    torch.testing.assert_close(propagation.backward(grad, weights, text), want, atol=1e-12, rtol=1e-12)


def test_propagation_that_collects():
    c = hqf.Circuit(3)
    for k in range(3):
        c.ry(hqf.Input(k % 2), k).ry(hqf.Weight(2 * k), k).cx(k, (k + 1) % 3).rz(hqf.Weight(2 * k + 1), k)
    text = propagation_of(c)
    assert "collect" in text
    weights = torch.randn(2, Propagation.from_text(text).n_weights, dtype=torch.float64)
    got = propagation.forward(weights, text)
    torch.testing.assert_close(got, torch.ops.hqfkernels.propagation_forward(weights, text), atol=1e-13, rtol=1e-13)
    grad = torch.randn_like(got)
    want = torch.ops.hqfkernels.propagation_backward(grad, weights, text)
    torch.testing.assert_close(propagation.backward(grad, weights, text), want, atol=1e-12, rtol=1e-12)
