"""The layers: against the reference on patches taken out by unfolding and by explicit indexing."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.nn import CircuitLayer, DirectionalCircuit2d, GlobalCircuit2d, LocalCircuit2d, PatchCircuit2d

pytestmark = pytest.mark.usefixtures("threads")

GATHERS = ("block", "grid", "rows", "columns")
CHANNELS_LAST = torch.channels_last


def patch_circuit(n_qubits: int, n_observables: int | None = None) -> Circuit:
    """Entangles all qubits; measures as many strings as asked for, by default one for each qubit."""
    circuit = ansatz.angle_encoding(n_qubits)
    for q in range(n_qubits):
        circuit.ry(Weight(2 * q), q).rz(Weight(2 * q + 1), q)
    for q in range(n_qubits - 1):
        circuit.cx(q, q + 1).ry(Weight(q), q + 1)
    if n_observables is not None:
        circuit.measure(*("".join("XYZI"[(k + q) % 4] for q in range(n_qubits)) for k in range(n_observables)))
    return circuit


def expected(layer: PatchCircuit2d, maps: torch.Tensor) -> torch.Tensor:
    """What the layer documents, with patches as explicit lists of pixels and the reference in float64."""
    rows, columns = layer.grid.patch
    batch, channels, height, width = maps.shape
    size = rows * columns
    side_h, side_w = {"rows": (1, size), "columns": (size, 1)}.get(layer.grid.gather, (rows, columns))
    padded = F.pad(maps.double(), (0, -width % side_w, 0, -height % side_h))
    h, w = padded.shape[2] // side_h, padded.shape[3] // side_w

    def pixel(a: int, b: int, i: int, j: int) -> tuple[int, int]:
        """Where pixel (i, j) of patch (a, b) lies."""
        return (i * h + a, j * w + b) if layer.grid.gather == "grid" else (a * side_h + i, b * side_w + j)

    places = torch.tensor(
        [
            [pixel(a, b, i, j) for i in range(side_h) for j in range(side_w)]
            for a, b in itertools.product(range(h), range(w))
        ]
    )  # (patches, pixels, 2)
    inputs = padded[:, :, places[..., 0], places[..., 1]]
    weights = layer.weights.double().repeat_interleave(channels // layer.grid.weight_groups, 0)[:, None]
    values = hqf.expval(layer.circuit, inputs, weights, backend="reference")
    if layer.output == "channels":
        return values.movedim(-1, 2).reshape(batch, -1, h, w)
    result = torch.zeros_like(padded)
    result[:, :, places[..., 0], places[..., 1]] = values
    return result[:, :, :height, :width]


def assert_layer_is_right(layer: PatchCircuit2d, maps: torch.Tensor) -> torch.Tensor:
    """Values, gradients of maps and of weights."""
    tolerance = 1e-10 if maps.dtype == torch.float64 else 2e-5
    results = []
    for function in (layer, lambda m: expected(layer, m)):
        leaf = maps.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        value = function(leaf)
        slope = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape)
        grads = torch.autograd.grad((value.double() * slope).sum(), (leaf, layer.weights))
        results.append([value.detach(), *grads])
    for actual, wanted in zip(*results, strict=True):
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(actual.double(), wanted.double(), atol=tolerance * scale, rtol=0)
    return results[0][0]


# --- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("gather", GATHERS)
def test_gathers_and_outputs(gather, output, groups, memory_format):
    torch.manual_seed(0)
    layer = PatchCircuit2d(4, patch_circuit(4), 2, gather, groups, output).double()
    nn.init.normal_(layer.weights)
    maps = torch.randn(2, 4, 8, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    result = assert_layer_is_right(layer, maps)
    if output == "pixels":
        assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("n_observables", [1, 3, 7])
@pytest.mark.parametrize("gather", GATHERS)
def test_numbers_of_observables(gather, n_observables):
    layer = PatchCircuit2d(2, patch_circuit(4, n_observables), 2, gather, 2, "channels").double()
    nn.init.normal_(layer.weights)
    result = assert_layer_is_right(layer, torch.randn(3, 2, 4, 8, dtype=torch.float64))
    assert result.shape[1] == 2 * n_observables


@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("patch", [1, (1, 2), (2, 1), (2, 4), 3, (1, 5)])
@pytest.mark.parametrize("gather", GATHERS)
def test_shapes_of_patches(patch, gather, output):
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    layer = PatchCircuit2d(2, patch_circuit(rows * columns), patch, gather, 2, output)
    nn.init.normal_(layer.weights)
    n = rows * columns
    side_h, side_w = {"rows": (1, n), "columns": (n, 1)}.get(gather, (rows, columns))
    maps = torch.randn(2, 2, 2 * side_h, 3 * side_w)
    result = assert_layer_is_right(layer, maps)
    assert result.shape == (maps.shape if output == "pixels" else (2, 2 * n, 2, 3))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 3), (3, 8), (2, 1)])
@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("gather", GATHERS)
def test_odd_sizes_are_padded(gather, output, size, memory_format):
    layer = PatchCircuit2d(3, patch_circuit(4), 2, gather, output=output).double()
    maps = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    result = assert_layer_is_right(layer, maps)
    if output == "pixels":
        assert result.shape == maps.shape


def test_blocks_are_those_of_unfold():
    """Independent of the indexing above: torch's own patches."""
    layer = PatchCircuit2d(3, patch_circuit(6), (2, 3)).double()
    maps = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    columns = F.unfold(maps.flatten(0, 1)[:, None], (2, 3), stride=(2, 3)).mT  # (maps, patches, pixels)
    values = hqf.expval(layer.circuit, columns, layer.weights[0], backend="reference")
    joined = F.fold(values.mT, (4, 9), (2, 3), stride=(2, 3)).view(maps.shape)
    torch.testing.assert_close(layer(maps), joined, atol=1e-12, rtol=0)


def test_the_grid_takes_a_pixel_of_each_window():
    layer = PatchCircuit2d(1, ansatz.angle_encoding(4).measure("ZZII", "IZZI", "IIZZ", "ZIIZ"), gather="grid").double()
    maps = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    result = layer(maps)[0, 0]
    c = maps[0, 0].cos()
    for y, x in itertools.product(range(3), range(2)):
        corners = c[y, x], c[y, x + 2], c[y + 3, x], c[y + 3, x + 2]
        assert result[y, x].item() == pytest.approx((corners[0] * corners[1]).item())
        assert result[y, x + 2].item() == pytest.approx((corners[1] * corners[2]).item())
        assert result[y + 3, x].item() == pytest.approx((corners[2] * corners[3]).item())
        assert result[y + 3, x + 2].item() == pytest.approx((corners[0] * corners[3]).item())


@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("gather", GATHERS)
def test_maps_are_read_in_place(gather, output, recorder):
    """No copy of the map, whatever its strides: the kernel is all that runs, apart from views."""
    layer = PatchCircuit2d(4, patch_circuit(4), 2, gather, 2, output)
    whole = torch.randn(2, 8, 8, 16)
    for maps in (whole[:, 2:6], whole[:, ::2, :, ::2], whole[:, :4].contiguous(memory_format=CHANNELS_LAST)):
        layer(maps)  # constants are prepared once, on a first call
        with recorder, torch.no_grad():
            layer(maps)
        wanted = expected(layer, maps)
        torch.testing.assert_close(layer(maps).double(), wanted.detach(), atol=2e-5, rtol=0)
    views = {"aten.view", "aten.permute", "aten._unsafe_view", "aten.unsqueeze", "aten.expand", "aten.alias"}
    assert {n for n in recorder.names if not n.startswith("hqfkernels.")} <= views
    assert recorder.names.count("hqfkernels.gate_forward") + recorder.names.count("hqfkernels.fourier_forward") == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps(dtype):
    layer = PatchCircuit2d(2, patch_circuit(4))
    maps = torch.randn(1, 2, 4, 4).to(dtype)
    result = layer(maps)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected(layer, maps).detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 2, 0, 4), (1, 2, 4, 0)])
@pytest.mark.parametrize("output", ["pixels", "channels"])
def test_empty_maps(shape, output):
    layer = LocalCircuit2d(2, output=output)
    maps = torch.zeros(shape, requires_grad=True)
    result = layer(maps)
    assert result.numel() == 0
    result.sum().backward()
    assert layer.weights.grad is not None
    assert torch.equal(layer.weights.grad, torch.zeros_like(layer.weights))


def test_a_bad_pixel_stays_in_its_patch():
    layer = LocalCircuit2d(2, depth=2)
    maps = torch.randn(2, 2, 8, 8)
    clean = layer(maps)
    maps[1, 0, 3, 4] = torch.nan
    mixed = layer(maps)
    inside = torch.zeros_like(maps, dtype=torch.bool)
    inside[1, 0, 2:4, 4:6] = True
    assert mixed[inside].isnan().any()
    assert torch.equal(mixed[~inside], clean[~inside])


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"circuit": "ry"}, TypeError, "circuit: expected a hqfkernels.Circuit, got str"),
        ({"channels": 0}, ValueError, "channels: "),
        ({"channels": 2.5}, TypeError, "channels: "),
        ({"channels": "2"}, TypeError, "channels: "),
        ({"patch": 0}, ValueError, "patch: "),
        ({"patch": (2, -1)}, ValueError, "patch: "),
        ({"patch": 2.0}, (TypeError, ValueError), "patch: "),
        ({"patch": (2.0, 2)}, TypeError, "patch: "),
        ({"patch": (2, 2, 2)}, ValueError, "patch: "),
        ({"patch": True}, (TypeError, ValueError), "patch: "),
        ({"patch": 3}, ValueError, "circuit: a patch of 3 x 3 pixels needs 9 inputs, the circuit has 4"),
        ({"gather": "spiral"}, ValueError, "gather: must be one of block, grid, rows, columns, got 'spiral'"),
        ({"gather": ["block"]}, ValueError, "gather: must be one of"),
        ({"output": "sum"}, ValueError, "output: "),
        ({"weight_groups": 3}, ValueError, "weight_groups: must divide the 4 channels, got 3"),
        ({"weight_groups": 0}, ValueError, "weight_groups: "),
        ({"weight_groups": 1.5}, TypeError, "weight_groups: "),
        ({"circuit": patch_circuit(4, 3)}, ValueError, "circuit: .*needs 4 observables.*has 3"),
    ],
    ids=str,
)
def test_bad_patch_layers(arguments, error, message):
    with pytest.raises(error, match=message):
        PatchCircuit2d(**{"channels": 4, "circuit": patch_circuit(4), **arguments})


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (torch.zeros(2, 3, 4), ValueError, r"maps: expected shape \(B, 3, H, W\), got \(2, 3, 4\)"),
        (torch.zeros(2, 4, 4, 4), ValueError, r"maps: expected shape \(B, 3, H, W\), got \(2, 4, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "maps: .*int64"),
        ([[0.0]], TypeError, "maps: .*list"),
        (torch.zeros(2, 3, 4, 4, device="meta"), ValueError, "maps: expected on cpu like the weights, got meta"),
    ],
    ids=str,
)
def test_bad_maps(maps, error, message):
    with pytest.raises(error, match=message):
        LocalCircuit2d(3)(maps)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"circuit": None}, TypeError, "circuit: "),
        ({"engine": "magic"}, ValueError, "engine: "),
        ({"backend": "tpu"}, ValueError, "backend: "),
    ],
    ids=str,
)
def test_bad_circuit_layers(arguments, error, message):
    with pytest.raises(error, match=message):
        CircuitLayer(**{"circuit": patch_circuit(2), **arguments})


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [2, (2, 4), 3])
def test_presets(patch):
    sides = (patch, patch) if isinstance(patch, int) else patch
    n = sides[0] * sides[1]
    presets = [
        (LocalCircuit2d(2, patch, 2, 2), ansatz.local_circuit(sides, 2), "block"),
        (GlobalCircuit2d(2, patch, 2, 2), ansatz.global_circuit(n, 2), "grid"),
        *(
            (DirectionalCircuit2d(2, d, patch, 2, 2), ansatz.directional_circuit(sides, d, 2), "block")
            for d in ("horizontal", "vertical", "diagonal", "antidiagonal")
        ),
    ]
    for layer, circuit, gather in presets:
        assert (layer.circuit, layer.grid.gather, layer.grid.patch) == (circuit, gather, sides)
        assert layer.weights.shape == (2, circuit.n_weights)
    maps = torch.randn(1, 2, 2 * sides[0], 2 * sides[1], dtype=torch.float64)
    assert_layer_is_right(presets[0][0].double(), maps)


def test_presets_refuse_bad_depths_and_directions():
    with pytest.raises(ValueError, match="depth: "):
        LocalCircuit2d(2, depth=0)
    with pytest.raises(ValueError, match="direction: "):
        DirectionalCircuit2d(2, "sideways")  # type: ignore[arg-type]


# --- as modules -------------------------------------------------------------------------------------------------------

MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "circuit": (lambda: CircuitLayer(patch_circuit(4)), (5, 4)),
    "patch": (lambda: PatchCircuit2d(4, patch_circuit(4), weight_groups=2), (2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_state_is_plain_tensors(name):
    make, shape = MODULES[name]
    layer = make()
    assert list(layer.state_dict()) == ["weights"]
    assert type(layer.state_dict()["weights"]) is torch.Tensor
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = make()
    inputs = torch.randn(shape)
    assert not torch.equal(other(inputs), layer(inputs))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(inputs), layer(inputs))


def test_weights_are_made_where_and_as_asked_for():
    layers = [
        CircuitLayer(patch_circuit(4), device="meta", dtype=torch.float64),
        hqf.nn.CircuitBank([patch_circuit(4)], device="meta", dtype=torch.float64),
        PatchCircuit2d(2, patch_circuit(4), device="meta", dtype=torch.float64),
        hqf.nn.PatchBank2d(2, [patch_circuit(4)], device="meta", dtype=torch.float64),
        *(preset(2, device="meta", dtype=torch.float64) for preset in (LocalCircuit2d, GlobalCircuit2d)),
        DirectionalCircuit2d(2, device="meta", dtype=torch.float64),
    ]
    for layer in layers:
        assert [(w.device.type, w.dtype) for w in layer.parameters()] == [("meta", torch.float64)]
        (weights,) = layer.to_empty(device="cpu").parameters()
        with torch.no_grad():
            weights.fill_(torch.nan)
        layer.reset_parameters()
        assert 0 < weights.abs().max() <= 0.1


@pytest.mark.parametrize("name", MODULES)
def test_results_may_be_changed_in_place(name):
    make, shape = MODULES[name]
    layer, inputs, grads = make(), torch.randn(shape), []
    for inplace in (True, False):
        grads += torch.autograd.grad(torch.nn.ReLU(inplace)(layer(inputs)).sum(), layer.weights)
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", MODULES)
def test_weights_start_near_the_identity(name):
    torch.manual_seed(0)
    layer = MODULES[name][0]()
    assert layer.weights.abs().min() > 0
    assert 0.03 < layer.weights.abs().max() <= 0.1
    assert layer.weights.requires_grad
    torch.manual_seed(0)
    assert torch.equal(MODULES[name][0]().weights, layer.weights)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_independent(name, duplicate):
    make, shape = MODULES[name]
    layer = make()
    twin = duplicate(layer)
    inputs = torch.randn(shape)
    before = layer(inputs).detach()
    assert torch.equal(twin(inputs), before)
    with torch.no_grad():
        twin.weights += 1
    assert not torch.equal(twin(inputs), before)
    assert torch.equal(layer(inputs), before)


def test_a_layer_keeps_its_circuit():
    circuit = patch_circuit(4)
    layers = CircuitLayer(circuit), PatchCircuit2d(2, circuit)
    circuit.ry(Input(7), 0).ry(Weight(99), 1).measure("ZZZZ")
    assert all(layer.circuit == patch_circuit(4) for layer in layers)
    assert layers[0](torch.randn(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("name", MODULES)
def test_double(name):
    make, shape = MODULES[name]
    layer = make().double()
    inputs = torch.randn(shape, dtype=torch.float64)
    assert layer(inputs).dtype == torch.float64
    torch.testing.assert_close(layer.float()(inputs.float()).double(), layer.double()(inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODULES)
def test_repr_tells_the_circuit(name):
    assert "4 qubits" in repr(MODULES[name][0]())


def test_circuit_layer_is_expval():
    layer = CircuitLayer(patch_circuit(3))
    inputs = torch.randn(2, 5, 3)
    assert torch.equal(layer(inputs), hqf.expval(layer.circuit, inputs, layer.weights))
    plain = CircuitLayer(patch_circuit(3), backend="reference")
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(plain(inputs), layer(inputs), atol=1e-5, rtol=0)


def test_a_circuit_without_weights_is_a_layer():
    layer = CircuitLayer(ansatz.angle_encoding(3))
    assert layer.weights.shape == (0,)
    torch.testing.assert_close(layer(torch.zeros(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("name", MODULES)
def test_training_lowers_a_loss(name):
    make, shape = MODULES[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Tanh(), make())
    inputs = torch.randn(shape)
    target = make()
    nn.init.normal_(target.weights, std=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (model(inputs) - target(inputs.tanh()).detach()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(b < a for a, b in itertools.pairwise(losses))


def test_forward_mode_through_a_layer_is_refused():
    """The operators would lose the tangents silently."""
    layer, maps = LocalCircuit2d(1), torch.rand(1, 1, 4, 4)
    with torch.no_grad(), pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(layer, (maps,), (torch.ones_like(maps),))
