"""Weights replaced by torch's own means, or of unusual kinds: forward, eval mode and export see those in force."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrizations, parametrize, prune

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.nn import CircuitBank, CircuitLayer, LocalCircuit2d, PatchBank2d, PatchCircuit2d, PolynomialLayer
from tests.test_bank import patches_one_by_one
from tests.test_nn import expected, patch_circuit

pytestmark = pytest.mark.usefixtures("threads")

EXPERTS = [ansatz.local_circuit((2, 2), 2), patch_circuit(4)]
LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "circuit": (lambda: CircuitLayer(EXPERTS[0]), (7, 4)),
    "circuit, fourier": (lambda: CircuitLayer(EXPERTS[0], "fourier"), (7, 4)),
    "bank": (lambda: CircuitBank(EXPERTS), (7, 4)),
    "patches": (lambda: PatchCircuit2d(2, EXPERTS[0], weight_groups=2), (2, 2, 4, 6)),
    "large patches": (lambda: PatchCircuit2d(2, EXPERTS[0], weight_groups=2), (2, 2, 64, 64)),
    "bank of patches": (lambda: PatchBank2d(2, EXPERTS, weight_groups=2), (2, 2, 4, 6)),
}


def plain(layer: Any, weights: list[Tensor], inputs: Tensor) -> Tensor:
    """What a layer is to compute with these weights, by the reference in float64."""
    if isinstance(layer, PatchBank2d):
        twin = PatchBank2d(2, EXPERTS, weight_groups=2)
        twin.load_state_dict({f"weights.{k}": w for k, w in enumerate(weights)})
        return patches_one_by_one(twin, inputs).detach()
    if isinstance(layer, PatchCircuit2d):
        patches = PatchCircuit2d(2, EXPERTS[0], weight_groups=2)
        patches.load_state_dict({"weights": weights[0]})
        return expected(patches, inputs).detach()
    circuits = layer.circuits if isinstance(layer, CircuitBank) else [layer.circuit]
    pairs = zip(circuits, weights, strict=True)
    return torch.cat([hqf.expval(c, inputs.double(), w.double(), backend="reference") for c, w in pairs], -1).detach()


def target(layer: Any) -> tuple[nn.Module, str]:
    """The module that holds a weight, and the weight's name: of a bank, its second one."""
    return (layer.weights, "1") if isinstance(layer, (CircuitBank, PatchBank2d)) else (layer, "weights")


def make(name: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    layer, inputs = LAYERS[name][0](), torch.randn(LAYERS[name][1])
    for weights in layer.parameters():
        nn.init.normal_(weights)
    return layer, inputs


class Doubled(nn.Module):
    def forward(self, weights: Tensor) -> Tensor:
        return 2 * weights


def pruned(module: nn.Module, name: str) -> None:
    prune.random_unstructured(module, name, 0.4)


def pruned_twice(module: nn.Module, name: str) -> None:
    prune.l1_unstructured(module, name, 0.2)
    prune.random_unstructured(module, name, 0.3)


def old_weight_norm(module: nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module, name)


def old_spectral_norm(module: nn.Module, name: str) -> None:
    nn.utils.spectral_norm(module.eval(), name)


def new_spectral_norm(module: nn.Module, name: str) -> None:
    parametrizations.spectral_norm(module.eval(), name)


def doubled(module: nn.Module, name: str) -> None:
    parametrize.register_parametrization(module, name, Doubled())


def orthogonal(module: nn.Module, name: str) -> None:
    """Of vectors, which have no orthogonal form, the other norm."""
    if getattr(module, name).dim() > 1:
        parametrizations.orthogonal(module, name)
    else:
        parametrizations.weight_norm(module, name)


WAYS = [
    *(pruned, pruned_twice, old_weight_norm, old_spectral_norm, parametrizations.weight_norm),
    *(new_spectral_norm, doubled, orthogonal),
]


def in_force(layer: Any) -> list[Tensor]:
    """The weights that torch's means say are in force."""
    module: Any
    module, name = target(layer)
    for hook in module._forward_pre_hooks.values():
        hook(module, ())
    every = [getattr(module, str(k)) for k in range(2)] if name == "1" else [module.weights]
    return [w.detach().clone() for w in every]


def change(layer: nn.Module) -> None:
    """All that the weights are made of, as a step of an optimizer does."""
    with torch.no_grad():
        for weights in layer.parameters():
            weights.add_(torch.randn_like(weights))


def assert_in_force(layer: Any, inputs: Tensor) -> None:
    """Forward alone, as two calls in eval mode, and export before any call: each right after a change."""

    def check(values: Tensor, weights: list[Tensor]) -> None:
        torch.testing.assert_close(values.double(), plain(layer, weights, inputs), atol=2e-5, rtol=0)

    if not isinstance(layer, PatchBank2d):
        change(layer)
        exported = layer.export()
        check(exported(inputs), in_force(layer))
    for _ in range(2):
        change(layer)
        value = layer(inputs)
        check(value.detach(), in_force(layer))
        value.sum().backward()  # once for each forward pass, whatever was made before it
    layer.eval()
    for _ in range(2):
        change(layer)
        with torch.no_grad():
            check(layer(inputs), in_force(layer))
            check(layer(inputs), in_force(layer))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_weights_in_force(name, way):
    layer, inputs = make(name)
    way(*target(layer))
    assert_in_force(layer, inputs)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["circuit", "bank", "patches"])
def test_copies_of_such_layers(name, way):
    layer, inputs = make(name)
    way(*target(layer))
    with torch.no_grad():
        layer(inputs)  # torch copies what its older utilities made only if it carries no gradients
    twin = copy.deepcopy(layer)
    change(twin)
    before = [w.clone() for w in in_force(layer)]
    torch.testing.assert_close(twin.export()(inputs).double(), plain(layer, in_force(twin), inputs), atol=2e-5, rtol=0)
    assert_in_force(twin, inputs)
    assert all(torch.equal(a, b) for a, b in zip(in_force(layer), before, strict=True))


def replica(module: Any) -> Any:
    """As DataParallel makes them: parameters are plain attributes, computed from the original's."""
    twin = module._replicate_for_data_parallel()
    twin._former_parameters = {}
    for key, child in module._modules.items():
        twin._modules[key] = replica(child)
    for key, own in module._parameters.items():
        setattr(twin, key, own * 1.0)
        twin._former_parameters[key] = getattr(twin, key)
    return twin


@pytest.mark.parametrize("name", LAYERS)
def test_replicas(name):
    layer, inputs = make(name)
    value = replica(layer)(inputs)
    assert torch.equal(value, layer(inputs))
    value.sum().backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in layer.parameters())
    layer.eval()
    for _ in range(2):
        change(layer)
        with torch.no_grad():
            assert torch.equal(replica(layer)(inputs), layer(inputs))
    if not isinstance(layer, PatchBank2d):
        assert torch.equal(replica(layer).export()(inputs), layer.export()(inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_pruning_made_permanent(name):
    layer, inputs = make(name)
    pruned(*target(layer))
    change(layer)
    prune.remove(*target(layer))
    assert_in_force(layer, inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_a_random_parametrization_is_drawn_once_in_a_call(name):
    layer, inputs = make(name)
    parametrize.register_parametrization(*target(layer), nn.Dropout(0.5))
    for _ in range(3):
        torch.manual_seed(1)
        value = layer(inputs).detach()
        torch.manual_seed(1)
        torch.testing.assert_close(value.double(), plain(layer, in_force(layer), inputs), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["circuit", "bank", "patches"])
def test_ensembles_of_pruned_layers(name):
    """Stacked, in one vmap: the masks are buffers and go along."""
    layers, inputs = [], make(name)[1]
    for _ in range(3):
        layer = make(name)[0]
        pruned(*target(layer))
        change(layer)
        layers.append(layer)
    parameters, buffers = stack_module_state(layers)
    values = torch.func.vmap(lambda p, b: functional_call(layers[0], (p, b), (inputs,)))(parameters, buffers)
    wanted = torch.stack([plain(layer, in_force(layer), inputs) for layer in layers])
    torch.testing.assert_close(values.double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["circuit", "bank", "patches"])
def test_compiled_layers_see_the_weights_in_force(name):
    layer, inputs = make(name)
    pruned(*target(layer))
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=name == "bank")  # the list's hooks are traced
    for _ in range(2):
        change(layer)
        compiled(inputs).sum().backward()
        torch.testing.assert_close(
            compiled(inputs).detach().double(), plain(layer, in_force(layer), inputs), atol=2e-5, rtol=0
        )
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["bank", "bank of patches"])
def test_another_list_of_weights(name):
    layer, inputs = make(name)
    layer.weights = nn.ParameterList(torch.randn_like(w) for w in layer.weights)
    assert_in_force(layer, inputs)
    layer.weights.append(torch.zeros(3))
    with pytest.raises(ValueError, match="weights: expected 2 tensors, one for each circuit, got 3"):
        layer(inputs)


# --- hooks and export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circuit", "bank", "patches"])
def test_export_runs_the_hooks_of_a_call(name):
    layer, inputs = make(name)
    shapes = []

    def with_names(module: nn.Module, args: Any, kwargs: Any) -> None:
        shapes.append((args[0].shape, kwargs))

    def shift(module: Any, args: Any) -> None:
        with torch.no_grad():
            weights = module.weights[0] if name == "bank" else module.weights
            weights.add_(1)

    layer.register_forward_pre_hook(with_names, with_kwargs=True)
    layer.register_forward_pre_hook(shift)
    exported, wanted = layer.export(), copy.deepcopy(list(layer.parameters()))
    assert shapes == [((0, *inputs.shape[1:-2], *([0, 0] if inputs.dim() == 4 else [4])), {})]
    torch.testing.assert_close(exported(inputs).double(), plain(layer, wanted, inputs), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["circuit", "bank", "patches"])
def test_hooks_that_change_inputs_cannot_be_exported(name):
    layer, inputs = make(name)
    handle = layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(ValueError, match="a hook before forward changes the inputs"):
        layer.export()
    handle.remove()
    torch.testing.assert_close(layer.export()(inputs), layer(inputs).detach(), atol=2e-5, rtol=0)


# --- weights that cannot be -------------------------------------------------------------------------------------------

UNUSUAL = {
    "complex": (lambda w: w.to(torch.cfloat), TypeError, "weights: expected float64, .*complex64"),
    "complex double": (lambda w: w.to(torch.cdouble), TypeError, "weights: .*complex128"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), TypeError, "weights: .*float8_e4m3fn"),
    "int": (lambda w: w.long(), TypeError, "weights: .*int64"),
    "bool": (lambda w: w > 0, TypeError, "weights: .*bool"),
    "sparse": (lambda w: w.to_sparse(), TypeError, "weights: expected a dense tensor"),
    "device": (lambda w: w.to("meta"), ValueError, "(weights|maps): expected on .*meta"),
    "too long": (lambda w: torch.cat([w, w], -1), ValueError, "weights: expected shape"),
    "too many": (lambda w: torch.stack([w] * 4), ValueError, "weights: (expected shape|group shape)"),
    "no dimension": (lambda w: w.sum(), ValueError, "weights: expected shape"),
}


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.parametrize("name", LAYERS)
def test_unusual_weights_are_refused_by_name(name, case):
    layer, inputs = make(name)
    turn, error, message = UNUSUAL[case]
    module, key = target(layer)
    with pytest.raises(error, match=message):
        functional_call(layer, {("weights." if module is not layer else "") + key: turn(getattr(module, key))}, inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_complex_layers_are_refused(name):
    layer, inputs = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.to(torch.cfloat)
    with pytest.raises(TypeError, match="weights: expected float64, float32, float16 or bfloat16, got torch.complex64"):
        layer(inputs)
    if not isinstance(layer, PatchBank2d):
        with pytest.raises(TypeError, match="weights: .*complex64"):
            layer.export()


@pytest.mark.parametrize("case", ["complex", "int", "sparse", "too long", "too many", "no dimension"])
def test_polynomials_of_unusual_weights(case):
    turn, error, message = UNUSUAL[case]
    with pytest.raises(error, match=message.replace("group shape", "expected")):
        PolynomialLayer(EXPERTS[:1], [turn(torch.zeros(EXPERTS[0].n_weights))])


@pytest.mark.parametrize(
    ("circuits", "weights", "error", "message"),
    [
        ([], [], TypeError, "circuits: expected a sequence of hqfkernels.Circuit"),
        ([EXPERTS[0], "ry"], [torch.zeros(8)] * 2, TypeError, r"circuits\[1\]: expected a hqfkernels.Circuit, got str"),
        (EXPERTS, [torch.zeros(8)], ValueError, "weights: expected 2 tensors, one for each circuit, got 1"),
        ([EXPERTS[0], patch_circuit(3)], [torch.zeros(8)] * 2, ValueError, "circuits: all must take the same inputs"),
    ],
    ids=["none", "text", "too few weights", "other inputs"],
)
def test_bad_polynomials(circuits, weights, error, message):
    with pytest.raises(error, match=message):
        PolynomialLayer(circuits, weights)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"inputs: expected shape \(\.\.\., 4\), got \(3, 5\)"),
        (torch.zeros(3, 3), ValueError, r"inputs: expected shape \(\.\.\., 4\), got \(3, 3\)"),
        (torch.tensor(0.0), ValueError, "inputs: expected shape"),
        (torch.zeros(3, 4) + 1j, TypeError, "inputs: expected real numbers, got torch.complex64"),
    ],
    ids=["too many", "too few", "no dimension", "complex"],
)
def test_exported_layers_refuse_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        make("circuit")[0].export()(inputs)


def test_exported_patches_refuse_other_maps():
    """Six channels would fall into two groups as well as the four of the layer."""
    exported = PatchCircuit2d(4, EXPERTS[0], weight_groups=2).export()
    for shape in ((1, 6, 4, 4), (4, 4, 4)):
        with pytest.raises(ValueError, match=r"maps: expected shape \(B, 4, H, W\)"):
            exported(torch.zeros(shape))
    with pytest.raises(TypeError, match="expected real numbers, got torch.complex64"):
        exported(torch.zeros(1, 4, 4, 4) + 1j)


def test_exported_layers_take_whole_numbers():
    layer, inputs = make("circuit")
    for own in (layer, layer.half()):
        exported, whole = own.export(), inputs.round()
        torch.testing.assert_close(exported(whole.long()), exported(whole))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.ry(hqf.Input(9), 0), "circuit: a patch of 2 x 2 pixels needs 4 inputs, the circuit has 10"),
        (lambda c: c.ry(hqf.Weight(50), 0), r"weights: expected shape \(2, 51\)"),
        (lambda c: c.measure("ZZZZ"), "circuit: .*needs 4 observables.*has 1"),
    ],
    ids=["inputs", "weights", "observables"],
)
@pytest.mark.parametrize("name", ["patches", "bank of patches"])
def test_circuits_that_no_longer_fit_their_layer(name, edit, message):
    layer, inputs = make(name)
    edit(layer.circuits[1] if name == "bank of patches" else layer.circuit)
    with pytest.raises(ValueError, match=message):
        layer(inputs)


@pytest.mark.parametrize(("name", "shape"), [("bank", (7, 2)), ("bank of patches", (2, 2, 2, 3))])
def test_routing_on_another_device(name, shape):
    layer, inputs = make(name)
    with pytest.raises(ValueError, match="routing: expected on cpu like the inputs, got meta"):
        layer(inputs, torch.zeros(shape, device="meta"))


# --- half precision ---------------------------------------------------------------------------------------------------

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", LAYERS)
def test_half_weights_give_the_dtype_of_the_inputs(name, dtype):
    """Computed in single precision all the same, and rounded at the end."""
    layer, inputs = make(name)
    layer.to(dtype)
    weights = [w.detach().float() for w in layer.parameters()]
    modules = [layer, copy.deepcopy(layer).eval()]
    if not isinstance(layer, PatchBank2d):
        modules += [layer.export(), copy.deepcopy(layer).export().to(torch.float32)]
    for inputs_dtype in (torch.float64, torch.float32, *HALVES):
        own = inputs.to(inputs_dtype)
        wanted = plain(layer, weights, own).to(torch.promote_types(inputs_dtype, torch.float32))
        for module in modules:
            for mode in (torch.enable_grad, torch.no_grad):
                with mode():
                    values = module(own).detach()
                assert values.dtype == inputs_dtype
                rounded = torch.finfo(inputs_dtype).eps if inputs_dtype in HALVES else 2e-5
                torch.testing.assert_close(values.to(wanted.dtype), wanted, atol=rounded, rtol=0)


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["bank", "bank of patches"])
def test_routing_in_half_precision(name, dtype, routed):
    layer, inputs = make(name)
    shape = (7, 2) if name == "bank" else (2, 2, 2, 3)
    routing = torch.rand(shape).to(dtype) if routed else None
    layer.to(dtype)
    single = copy.deepcopy(layer).float()
    wanted = single(inputs.to(dtype), routing)
    assert wanted.dtype == torch.float32  # as ever, with weights in single precision
    values = layer(inputs.to(dtype), routing)
    assert values.dtype == dtype
    assert torch.equal(values, wanted.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("circuit", [EXPERTS[0], ansatz.angle_encoding(4)], ids=["weights", "no weights"])
def test_a_network_in_half_precision(circuit, dtype):
    torch.manual_seed(0)
    circuit_layer = CircuitLayer(circuit)
    network = nn.Sequential(nn.Linear(3, 4), circuit_layer, nn.Linear(4, 2))
    exported: nn.Module = nn.Sequential(network[0], circuit_layer.export(), network[2])
    inputs = torch.randn(9, 3)
    wanted = network(inputs)
    network, exported = network.to(dtype), copy.deepcopy(exported).to(dtype)
    value = network(inputs.to(dtype))
    assert value.dtype == dtype
    torch.testing.assert_close(value.float(), wanted, atol=3e-2, rtol=0)
    torch.testing.assert_close(exported(inputs.to(dtype)).float(), wanted, atol=3e-2, rtol=0)
    value.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_network_of_patches_in_half_precision(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), LocalCircuit2d(2, output="channels"), nn.Conv2d(8, 2, 1)).to(dtype)
    images = torch.randn(2, 3, 5, 7).to(dtype)
    value = network(images)
    assert value.dtype == dtype
    value.sum().backward()
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(network, backend="aot_eager")(images), value)
    torch._dynamo.reset()


def test_single_weights_give_single_results_in_any_context():
    layer, inputs = make("circuit")
    assert layer(inputs.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.float32
        assert layer(inputs.bfloat16()).dtype == torch.float32


def test_saved_layers_keep_their_dtypes():
    layer, inputs = make("bank")
    exported = layer.half().export()
    for module in (layer, exported):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
        assert torch.equal(twin(inputs.half()), module(inputs.half()))
        assert twin(inputs.half()).dtype == torch.float16
