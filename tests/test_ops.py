"""The operators inside torch: registration, autograd, compile, vmap, autocast, memory layout."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz, ops
from hqfkernels.program import lower
from hqfkernels.reference import circuit as plain
from tests import oracles

pytestmark = pytest.mark.usefixtures("threads")

expval = partial(hqf.expval, engine="gate")
reference = partial(hqf.expval, backend="reference")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def random_circuit(n_qubits: int = 3, **options) -> Circuit:
    return oracles.random_circuit(np.random.default_rng(3), n_qubits, 20, 3, 4, **options)


def parameters(circuit: Circuit, *batch: int, groups=(), dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(*batch, circuit.n_inputs, dtype=dtype), torch.randn(*groups, circuit.n_weights, dtype=dtype)


def gradients(function, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Value of ``function`` and the gradients of a weighted sum of it."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = function(*leaves)
    slope = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return [value.detach(), *torch.autograd.grad((value * slope).sum(), leaves, allow_unused=True)]


def assert_same(actual, expected, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# --- direct calls -----------------------------------------------------------------------------------------------------


def op_samples(dtype: torch.dtype) -> dict[str, tuple]:
    """Arguments of gate_forward: (inputs, weights, program, feature_dims, output_order)."""
    torch.manual_seed(0)
    circuit = ansatz.local_circuit((2, 2), 2)
    few = ansatz.local_circuit((2, 2), 2).measure("ZIII", "XYIZ")
    program, few_program = (lower(c.text, "expval") for c in (circuit, few))
    weights = torch.randn(2, circuit.n_weights, dtype=dtype)
    maps = torch.randn(3, 6, 4, 8, dtype=dtype)

    def blocks(maps: torch.Tensor) -> torch.Tensor:
        """(batch, group, channel, h, w, p, q)."""
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (2, -1)).permute(0, 1, 2, 3, 5, 4, 6)

    patch_weights = weights.view(2, 1, 1, 1, -1)
    as_maps, channels_last = [0, 1, 2, 3, 5, 4, 6], [0, 3, 5, 4, 6, 1, 2]
    last = maps.contiguous(memory_format=torch.channels_last)
    return {
        "one set": (torch.randn(5, 4, dtype=dtype), weights[0], program, 1, []),
        "no batch": (torch.randn(4, dtype=dtype), weights[0], program, 1, []),
        "empty": (torch.randn(0, 4, dtype=dtype), weights[0], program, 1, []),
        "groups": (torch.randn(9, 2, 4, dtype=dtype), weights, program, 1, []),
        "probabilities": (torch.randn(5, 4, dtype=dtype), weights[0], lower(circuit.text, "probs"), 1, []),
        "blocks": (blocks(maps), patch_weights, program, 2, []),
        "blocks as maps": (blocks(maps), patch_weights, program, 2, as_maps),
        "channels last": (blocks(last), patch_weights, program, 2, channels_last),
        "few observables": (blocks(maps), patch_weights, few_program, 2, [0, 1, 2, 5, 3, 4]),
    }


SAMPLES = list(op_samples(torch.float32))


def backward_arguments(sample: tuple) -> tuple:
    inputs, weights, program, feature_dims, order = sample
    value = torch.ops.hqfkernels.gate_forward(*sample)
    return torch.randn_like(value), inputs, weights, program, feature_dims, order if len(order) == inputs.dim() else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name, dtype):
    sample = op_samples(dtype)[name]
    torch.library.opcheck(torch.ops.hqfkernels.gate_backward.default, backward_arguments(sample))
    differentiable = (sample[0].requires_grad_(), sample[1].requires_grad_(), *sample[2:])
    torch.library.opcheck(torch.ops.hqfkernels.gate_forward.default, differentiable)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SAMPLES)
def test_fake_results_have_the_layout_of_real_ones(name, dtype):
    sample = op_samples(dtype)[name]
    backward = backward_arguments(sample)
    real = [torch.ops.hqfkernels.gate_forward(*sample), *torch.ops.hqfkernels.gate_backward(*backward)]
    with FakeTensorMode() as mode:

        def faked(arguments: tuple) -> list:
            return [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]

        fake = [
            torch.ops.hqfkernels.gate_forward(*faked(sample)),
            *torch.ops.hqfkernels.gate_backward(*faked(backward)),
        ]
    assert [(r.shape, r.stride(), r.dtype) for r in real] == [(f.shape, f.stride(), f.dtype) for f in fake]


@pytest.mark.parametrize("name", SAMPLES)
def test_results_may_be_changed_in_place(name):
    """As by nn.ReLU(inplace=True), which autograd refuses of views that were made inside an operator."""
    inputs, *others = op_samples(torch.float32)[name]
    leaf, grads = inputs.clone().requires_grad_(), []
    for change in (torch.relu_, torch.relu):
        grads += torch.autograd.grad(change(torch.ops.hqfkernels.gate_forward(leaf, *others)).sum(), leaf)
    assert torch.equal(*grads)
    assert not ops.PLAIN["gate_forward"](inputs, *others)._is_view()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_element_of_a_result_is_written(name):
    """New memory is filled with NaN, so that what no kernel writes shows."""
    sample = op_samples(torch.float64)[name]
    backward = backward_arguments(sample)
    expected = [torch.ops.hqfkernels.gate_forward(*sample), *torch.ops.hqfkernels.gate_backward(*backward)]
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        assert torch.empty_permuted((2, 3), (1, 0)).isnan().all()
        actual = [torch.ops.hqfkernels.gate_forward(*sample), *torch.ops.hqfkernels.gate_backward(*backward)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert not any(a.isnan().any() for a in actual)


def test_unused_inputs_and_weights_have_zero_gradients():
    circuit = Circuit(2).ry(Input(0), 0).rz(Input(1), 0).ry(Weight(1), 1).rx(Weight(3), 0).measure("IZ")
    inputs, weights = parameters(circuit, 5)
    torch.use_deterministic_algorithms(True)
    try:
        _, grad_inputs, grad_weights = gradients(partial(expval, circuit), inputs, weights)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(grad_inputs, torch.zeros_like(inputs))
    assert grad_weights[[0, 2, 3]].tolist() == [0, 0, 0]
    assert grad_weights[1] != 0


def test_results_do_not_alias_the_inputs():
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    before = inputs.clone(), weights.clone()
    value = expval(circuit, inputs, weights)
    value.fill_(7)
    assert torch.equal(inputs, before[0])
    assert torch.equal(weights, before[1])


# --- autograd ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [hqf.expval, hqf.probs])
@pytest.mark.parametrize("groups", [(), (2,), (12, 1)])
def test_gradcheck(function, groups):
    circuit = random_circuit()
    inputs, weights = (p.requires_grad_() for p in parameters(circuit, 12, 2, groups=groups))
    call = partial(function, circuit, engine="gate")
    assert torch.autograd.gradcheck(call, (inputs, weights), fast_mode=True)


def test_gradcheck_of_amplitudes():
    circuit = random_circuit(2, amplitudes=True)
    inputs, weights = (p.requires_grad_() for p in parameters(circuit, 5))
    assert torch.autograd.gradcheck(partial(expval, circuit), (inputs, weights))


@pytest.mark.parametrize("name", ["blocks as maps", "channels last", "few observables"])
def test_gradcheck_of_blocks(name):
    inputs, weights, *rest = op_samples(torch.float64)[name]
    leaves = (inputs[:1, ..., :1, :, :].detach().requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: torch.ops.hqfkernels.gate_forward(x, w, *rest), leaves, fast_mode=True)


@pytest.mark.parametrize("wanted", ["inputs", "weights"])
def test_gradients_of_one_argument_alone(wanted):
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    _, *both = gradients(partial(expval, circuit), inputs, weights)
    leaf = (inputs if wanted == "inputs" else weights).requires_grad_()
    value = expval(circuit, inputs, weights)
    slope = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    (grad,) = torch.autograd.grad((value * slope).sum(), leaf)
    assert torch.equal(grad, both[0 if wanted == "inputs" else 1])


@pytest.mark.parametrize("first", ["inputs", "weights"])
@pytest.mark.parametrize("second", ["inputs", "weights", "slope"])
def test_double_backward_of_the_gate_engine_is_refused(first, second):
    circuit = random_circuit()
    inputs, weights = (p.requires_grad_() for p in parameters(circuit, 5))
    slope = torch.ones(5, circuit.n_observables, dtype=torch.float64, requires_grad=True)
    leaves = {"inputs": inputs, "weights": weights, "slope": slope}
    value = (expval(circuit, inputs, weights) * slope).sum()
    (grad,) = torch.autograd.grad(value, leaves[first], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(grad.sum(), leaves[second])


def test_double_backward_through_the_reference():
    circuit = random_circuit()
    inputs, weights = (p.requires_grad_() for p in parameters(circuit, 2))
    assert torch.autograd.gradgradcheck(partial(reference, circuit), (inputs, weights), fast_mode=True)


@pytest.mark.parametrize("leaf_requires_grad", [False, True])
def test_forward_mode_is_right_or_refused(leaf_requires_grad):
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    tangent = torch.randn_like(inputs)
    expected = torch.func.jvp(lambda x: plain.expval(circuit, x, weights), (inputs,), (tangent,))[1]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(inputs.clone().requires_grad_(leaf_requires_grad), tangent)
        try:
            actual = forward_ad.unpack_dual(expval(circuit, dual, weights)).tangent
        except RuntimeError:
            return
    assert actual is not None, "the tangent was lost"
    assert_same(actual, expected)


def test_jvp_is_right_or_refused():
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    tangents = torch.randn_like(inputs), torch.randn_like(weights)
    expected = torch.func.jvp(partial(plain.expval, circuit), (inputs, weights), tangents)[1]
    try:
        actual = torch.func.jvp(partial(expval, circuit), (inputs, weights), tangents)[1]
    except RuntimeError:
        return
    assert_same(actual, expected)


def test_jvp_through_the_reference():
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    tangents = torch.randn_like(inputs), torch.randn_like(weights)
    expected = torch.func.jvp(partial(plain.expval, circuit), (inputs, weights), tangents)[1]
    assert torch.equal(torch.func.jvp(partial(reference, circuit), (inputs, weights), tangents)[1], expected)


# --- torch.func -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_dims", [(0, None), (1, None), (None, 0), (None, 1), (0, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("function", [hqf.expval, hqf.probs])
def test_vmap(function, in_dims):
    circuit = random_circuit()
    torch.manual_seed(1)
    inputs, weights = parameters(circuit, 5)
    if in_dims[0] is not None:
        inputs = torch.randn(6, 5, circuit.n_inputs, dtype=torch.float64).movedim(0, in_dims[0])
    if in_dims[1] is not None:
        weights = torch.randn(6, circuit.n_weights, dtype=torch.float64).movedim(0, in_dims[1])
    native, expected = (
        torch.func.vmap(partial(function, circuit, backend=backend), in_dims=in_dims)
        for backend in ("auto", "reference")
    )
    assert_same(gradients(native, inputs, weights), gradients(expected, inputs, weights))


@pytest.mark.parametrize("engine", ["gate", "fourier", "unitary"])
def test_vmap_over_nothing(engine):
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = torch.randn(0, 5, 4), torch.randn(0, circuit.n_weights)
    value, *slopes = gradients(torch.func.vmap(partial(hqf.expval, circuit, engine=engine)), inputs, weights)
    assert value.shape == (0, 5, 4)
    assert [slope.shape for slope in slopes] == [inputs.shape, weights.shape]


def test_vmap_with_groups_of_weights():
    circuit = random_circuit()
    inputs, weights = torch.randn(4, 9, 2, 3, dtype=torch.float64), torch.randn(4, 2, 4, dtype=torch.float64)
    native, expected = (torch.func.vmap(partial(f, circuit)) for f in (expval, reference))
    assert_same(gradients(native, inputs, weights), gradients(expected, inputs, weights))


def test_nested_vmap():
    circuit = random_circuit()
    inputs, weights = torch.randn(4, 5, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)

    def table(function):
        over_weights = torch.func.vmap(partial(function, circuit), in_dims=(None, 0))
        return torch.func.vmap(torch.func.vmap(over_weights, in_dims=(0, None)), in_dims=(0, None))

    assert_same(gradients(table(expval), inputs, weights), gradients(table(reference), inputs, weights))


@pytest.mark.parametrize("channels_last", [False, True])
def test_vmap_over_a_patch_layer(channels_last):
    layer = hqf.nn.LocalCircuit2d(4, weight_groups=2).double()
    maps = torch.randn(3, 2, 4, 6, 4, dtype=torch.float64)
    if channels_last:
        maps = maps.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    assert_same(torch.func.vmap(layer)(maps), torch.stack([layer(m) for m in maps]))
    weights = torch.randn(3, 2, layer.circuit.n_weights, dtype=torch.float64)
    actual = torch.func.vmap(lambda w: torch.func.functional_call(layer, {"weights": w}, maps[0]))(weights)
    for w, value in zip(weights, actual, strict=True):
        assert_same(value, torch.func.functional_call(layer, {"weights": w}, maps[0]))


def test_batched_gradients():
    """A whole Jacobian in one backward, which maps gate_backward over its gradients alone."""
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)

    def jacobian(function):
        leaves = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
        value = function(circuit, *leaves)
        units = torch.eye(value.numel(), dtype=value.dtype).view(-1, *value.shape)
        return torch.autograd.grad(value, leaves, units, is_grads_batched=True)

    assert_same(jacobian(expval), jacobian(reference))


@pytest.mark.parametrize("transform", ["grad", "vmap of grad", "grad of vmap", "jacrev"])
@pytest.mark.parametrize("engine", ["gate", "fourier", "unitary"])
def test_functional_derivatives(engine, transform):
    circuit = ansatz.strongly_entangling(3, 2)
    inputs, weights = parameters(circuit, 5)

    def derivative(function):
        def total(x, w):
            return function(circuit, x, w).square().sum()

        def total_of_vmap(x, w):
            return torch.func.vmap(partial(function, circuit), (0, None))(x, w).square().sum()

        return {
            "grad": torch.func.grad(total, (0, 1)),
            "vmap of grad": torch.func.vmap(torch.func.grad(total, (0, 1)), (0, None)),
            "grad of vmap": torch.func.grad(total_of_vmap, (0, 1)),
            "jacrev": torch.func.jacrev(partial(function, circuit), (0, 1)),
        }[transform](inputs, weights)

    assert_same(derivative(partial(hqf.expval, engine=engine)), derivative(reference))


@pytest.mark.parametrize("engine", ["gate", "fourier", "unitary"])
def test_what_functional_derivatives_there_are_not(engine):
    circuit = ansatz.strongly_entangling(3, 2)
    inputs, weights = parameters(circuit)

    def function(x):
        return hqf.expval(circuit, x, weights, engine)

    for transform, missing in (
        (torch.func.jacrev(torch.func.jacrev(function)), "second derivatives"),
        (torch.func.hessian(function), "forward-mode"),
        (torch.func.jacfwd(function), "forward-mode"),
    ):
        with pytest.raises(NotImplementedError, match=f"no {missing}.*backend='reference'"):
            transform(inputs)


def test_gradients_of_each_sample():
    layer = hqf.nn.LocalCircuit2d(2, weight_groups=2).double()
    maps = torch.randn(3, 2, 4, 6, dtype=torch.float64)

    def loss(weights, one):
        return torch.func.functional_call(layer, {"weights": weights}, one[None]).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.weights.detach(), maps)
    for one, slope in zip(maps, actual, strict=True):
        assert_same(slope, torch.autograd.grad(layer(one[None]).square().sum(), layer.weights)[0])


# --- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (2,), (12, 1)])
@pytest.mark.parametrize("function", [hqf.expval, hqf.probs])
def test_compile_keeps_values_and_gradients(function, groups):
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 12, 2, groups=groups)

    def scaled(x, w):
        return 2 * function(circuit, x.sin(), w) + 1

    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    assert_same(gradients(compiled, inputs, weights), gradients(scaled, inputs, weights))


def test_compile_by_inductor():
    layer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1),
        hqf.nn.LocalCircuit2d(4, weight_groups=2),
        hqf.nn.GlobalCircuit2d(4, output="channels"),
        torch.nn.Flatten(2),
        hqf.nn.CircuitLayer(ansatz.strongly_entangling(4)),
    )
    maps = torch.randn(2, 3, 4, 4)
    compiled = torch.compile(layer, fullgraph=True)
    parameters = [maps, *layer.parameters()]

    def run(module):
        for p in layer.parameters():
            p.grad = None
        leaf = maps.clone().requires_grad_()
        value = module(leaf)
        value.square().sum().backward()
        return [value.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    assert len(run(layer)) == len(parameters) + 1
    assert_same(run(compiled), run(layer), 1e-5)


@pytest.mark.parametrize("gather", ["block", "grid", "rows", "columns"])
@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compile_of_patch_layers(gather, output, memory_format):
    layer = hqf.nn.PatchCircuit2d(4, ansatz.local_circuit(), gather=gather, weight_groups=2, output=output).double()
    maps = torch.randn(2, 4, 8, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    actual, expected = gradients(compiled, maps), gradients(layer, maps)
    assert_same(actual, expected)
    assert actual[0].stride() == expected[0].stride()


def test_no_recompilation_for_another_batch_size():
    circuit = random_circuit()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, w: expval(circuit, x, w), fullgraph=True, dynamic=True, backend=counter)
    for batch in (5, 2, 33, 100, 7):
        inputs, weights = parameters(circuit, batch)
        assert_same(gradients(compiled, inputs, weights), gradients(partial(expval, circuit), inputs, weights))
    assert counter.frame_count == 1


def test_layers_are_compiled_once_and_once_more_for_dynamic_batches():
    layers = {
        "circuit": (hqf.nn.CircuitLayer(ansatz.local_circuit()), lambda b: torch.randn(b, 4)),
        "patch": (hqf.nn.LocalCircuit2d(2), lambda b: torch.randn(b, 2, 4, 6)),
        "patch, channels": (hqf.nn.GlobalCircuit2d(2, output="channels"), lambda b: torch.randn(b, 2, 4, 6)),
    }
    for name, (layer, batch_of) in layers.items():
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for batch in (5, 6, 33, 7, 12):
            inputs = batch_of(batch)
            assert_same(compiled(inputs), layer(inputs), 1e-6)
        assert counter.frame_count <= 2, name  # once for 5, once for any other


def test_a_circuit_that_changes_is_compiled_anew():
    circuit = Circuit(1).ry(Input(0), 0)
    inputs = torch.randn(5, 1)
    compiled = torch.compile(lambda x: expval(circuit, x), fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs), inputs.cos(), 1e-6)
    circuit.ry(0.5, 0)
    assert_same(compiled(inputs), (inputs + 0.5).cos(), 1e-6)


def test_compile_of_the_reference():
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    compiled = torch.compile(partial(reference, circuit), fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs, weights), reference(circuit, inputs, weights))


def test_compiled_states():
    circuit = random_circuit()
    inputs, weights = parameters(circuit, 5)
    call = partial(hqf.statevector, circuit, engine="gate")
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs, weights), call(inputs, weights))


OPEN_BATCHES = {"per sample": ((16,), (16,)), "per row": ((16, 3), (16, 1)), "per column": ((16, 3), (3,))}


@pytest.mark.parametrize("batch", OPEN_BATCHES)
@pytest.mark.parametrize("engine", ["auto", "gate", "fourier", "unitary"])
def test_sets_of_weights_with_a_batch_of_any_size(engine, batch):
    """Compiled, with every way to say that the batch is open, and exported."""
    circuit = ansatz.local_circuit((2, 2), 1)
    call = partial(hqf.expval, circuit, engine=engine)
    shape, groups = OPEN_BATCHES[batch]

    def arguments(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        own = (samples, *groups[1:]) if groups[0] == 16 else groups
        return torch.randn(samples, *shape[1:], circuit.n_inputs), torch.randn(*own, circuit.n_weights)

    for how in ("dynamic", "automatic", "marked"):
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, backend="eager", dynamic=True if how == "dynamic" else None)
        for samples in (16, 7, 300):
            inputs, weights = arguments(samples)
            if how == "marked":
                torch._dynamo.mark_dynamic(inputs, 0)
                if groups[0] == 16:
                    torch._dynamo.mark_dynamic(weights, 0)
            assert_same(compiled(inputs, weights), call(inputs, weights), 1e-5)

    class Model(torch.nn.Module):
        def forward(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return call(inputs, weights)

    size = torch.export.Dim("samples", min=2)
    open_sizes = ({0: size}, {0: size} if groups[0] == 16 else None)
    for strict in (True, False) if engine == "gate" else (False,):
        program = torch.export.export(Model(), arguments(16), dynamic_shapes=open_sizes, strict=strict).module()
        for samples in (2, 16, 300):
            inputs, weights = arguments(samples)
            assert_same(program(inputs, weights), call(inputs, weights), 1e-5)


# --- autocast ---------------------------------------------------------------------------------------------------------


def test_autocast():
    torch.manual_seed(0)
    layer = hqf.nn.CircuitLayer(ansatz.local_circuit())
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), layer, torch.nn.Linear(4, 2))
    inputs = torch.randn(7, 6)
    seen = []
    layer.register_forward_hook(lambda module, args, result: seen.append((args[0], result)))
    with torch.autocast("cpu", torch.bfloat16):
        model(inputs).float().square().sum().backward()
    angles, values = seen[0]
    assert angles.dtype == torch.bfloat16
    assert values.dtype == torch.float32
    # Rounded on the way in, but computed in float32.
    assert_same(values, reference(layer.circuit, angles.float(), layer.weights), 2e-6)
    rounded = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model(inputs).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(rounded[name], p.grad, atol=0.05, rtol=0.05)


# --- for the reference and other instruction sets (test_variants.py) --------------------------------------------------


def everything() -> list[torch.Tensor]:
    """Values and gradients of all that goes through the operators."""
    circuit = random_circuit()
    results = []
    for function in (hqf.expval, hqf.probs):
        for groups in ((), (2,), (12, 1)):
            inputs, weights = parameters(circuit, 12, 2, groups=groups)
            results += gradients(partial(function, circuit), inputs, weights)
    results.append(hqf.statevector(circuit, inputs, weights))
    amplitudes = random_circuit(amplitudes=True)
    results += gradients(partial(expval, amplitudes), *parameters(amplitudes, 5))
    for dtype in (torch.float64, torch.float32):
        for name, sample in op_samples(dtype).items():
            if name == "empty":
                continue
            torch.manual_seed(2)
            results.append(torch.ops.hqfkernels.gate_forward(*sample))
            results += torch.ops.hqfkernels.gate_backward(*backward_arguments(sample))
    return results


# --- plain-torch implementations refuse what compiled ones refuse ---------------------------------------------------

UNFIT = {
    "complex inputs": ((3, 2), torch.complex64, (1,), torch.float32, 1, []),
    "whole numbers": ((3, 2), torch.int64, (1,), torch.float32, 1, []),
    "complex parameters": ((3, 2), torch.float32, (1,), torch.complex64, 1, []),
    "too many inputs": ((3, 5), torch.float32, (1,), torch.float32, 1, []),
    "too many parameters": ((3, 2), torch.float32, (7,), torch.float32, 1, []),
    "more groups than samples": ((3, 2), torch.float32, (2, 3, 1), torch.float32, 1, []),
    "groups that do not fit": ((3, 2), torch.float32, (5, 1), torch.float32, 1, []),
    "no features": ((3, 2), torch.float32, (1,), torch.float32, 0, []),
    "fewer features than none": ((3, 2), torch.float32, (1,), torch.float32, -1, []),
    "more features than dimensions": ((3, 2), torch.float32, (1,), torch.float32, 9, []),
    "no dimensions": ((), torch.float32, (1,), torch.float32, 1, []),
    "an order of too few": ((3, 2), torch.float32, (1,), torch.float32, 1, [0]),
    "an order with one twice": ((3, 2), torch.float32, (1,), torch.float32, 1, [0, 0]),
    "an order of others": ((3, 2), torch.float32, (1,), torch.float32, 1, [0, 5]),
}
TWO_INPUTS = Circuit(2).ry(Input(0), 0).rx(Input(1), 1).cx(0, 1).ry(Weight(0), 0)


def implementation(kind: str, name: str):
    return ops.PLAIN[name] if kind == "plain" else getattr(torch.ops.hqfkernels, name)


@pytest.mark.parametrize("kind", ["plain", "compiled"])
@pytest.mark.parametrize("case", UNFIT)
def test_operators_refuse_what_does_not_fit(case, kind, native):
    shape, dtype, own_shape, own_dtype, feature_dims, order = UNFIT[case]
    inputs, weights = torch.ones(shape, dtype=dtype), torch.ones(own_shape, dtype=own_dtype)
    text = lower(TWO_INPUTS.text, "expval")
    with pytest.raises(RuntimeError):
        implementation(kind, "gate_forward")(inputs, weights, text, feature_dims, order)
    with pytest.raises(RuntimeError):
        implementation(kind, "gate_backward")(torch.ones(3, 2), inputs, weights, text, feature_dims, order)


@pytest.mark.parametrize("grad", [torch.ones(3, 5), torch.ones(4, 2), torch.ones(3, 2, dtype=torch.cfloat)])
@pytest.mark.parametrize("kind", ["plain", "compiled"])
def test_operators_refuse_gradients_of_other_results(grad, kind, native):
    text = lower(TWO_INPUTS.text, "expval")
    with pytest.raises(RuntimeError, match="gradient" if kind == "plain" else ""):
        implementation(kind, "gate_backward")(grad, torch.ones(3, 2), torch.ones(1), text, 1, [])


def test_parameters_of_what_has_none():
    amplitudes = lower(Circuit(1).amplitudes().ry(Weight(0), 0).text, "expval")
    for text, reason in (("x", "unknown format"), (amplitudes, "amplitude encoding")):
        with pytest.raises(RuntimeError, match=reason):
            torch.ops.hqfkernels.fourier_parameters(torch.ones(1), text)
        with pytest.raises(RuntimeError, match=reason):
            torch.ops.hqfkernels.fourier_parameters_backward(torch.ones(1), torch.ones(1), text)
