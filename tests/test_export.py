"""Layers as plain torch: the same numbers, with torch.export and ONNX, and without this package."""

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.nn import CircuitBank, CircuitLayer, LocalCircuit2d, PatchCircuit2d, PolynomialLayer
from tests.test_nn import CHANNELS_LAST, GATHERS, patch_circuit

pytestmark = pytest.mark.usefixtures("threads")

CIRCUITS = {
    "local": ansatz.local_circuit((2, 2), 2),
    "global": ansatz.global_circuit(4, 2),
    "entangling": ansatz.strongly_entangling(5, 3),
    "uploaded again": Circuit(2)
    .ry(Input(0), 0).rx(Input(1), 1).cx(0, 1).ry(Weight(0), 0)
    .ry(2 * Input(0) + Weight(1), 0).rx(Input(1) - Input(0), 1).cx(1, 0).ry(Weight(2), 1).rz(0.3 + Weight(3), 0)
    .ry(-3 * Input(0), 0).measure("ZI", "XY", "IZ"),
    "half units": Circuit(3)
    .h(0).ry(0.4, 1).crx(Input(0), 0, 1).ry(Weight(0), 0).cry(Input(1), 1, 2).crz(Input(0) + Weight(1), 2, 0).h(2),
    "thirds": Circuit(1).ry(Input(0) / 3, 0).rx(Weight(0), 0).ry(Input(0) / 2, 0),
    "unseen inputs": ansatz.angle_encoding(6).cx(0, 1).rx(Weight(0), 2).measure("ZIIIII", "IIZIII", "IIIIII"),
    "constant": Circuit(2).ry(Input(0), 0).ry(Weight(0), 0).measure("IX", "IZ"),
    "no weights": ansatz.angle_encoding(3).cx(0, 1).measure("ZZX", "IXI"),
    "no inputs": Circuit(2).ry(Weight(0), 0).cx(0, 1).rx(Weight(1), 1),
    "one input": Circuit(1).ry(Input(0), 0).rx(Weight(0), 0).measure("Z", "X", "Y"),
    "grid": ansatz.strongly_entangling(4, 12),  # too many strings to propagate
}  # fmt: skip


def randomised(layer: Any) -> Any:
    torch.manual_seed(0)
    for weights in layer.parameters():
        nn.init.normal_(weights)
    return layer


def assert_equal(actual: Tensor, wanted: Tensor) -> None:
    assert actual.dtype == wanted.dtype
    tolerance = 1e-12 if wanted.dtype == torch.float64 else 5e-6
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(actual, wanted.detach(), atol=tolerance * scale, rtol=0)


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CIRCUITS)
def test_circuits(name, dtype):
    layer = randomised(CircuitLayer(CIRCUITS[name])).to(dtype)
    exported = layer.export()
    assert isinstance(exported, PolynomialLayer)
    inputs = torch.randn(3, 7, layer.circuit.n_inputs, dtype=dtype)
    assert_equal(exported(inputs), layer(inputs))
    assert_equal(exported(inputs), hqf.expval(layer.circuit, inputs, layer.weights, backend="reference"))
    assert exported(inputs[:0]).shape == layer(inputs[:0]).shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_banks(dtype):
    circuits = [CIRCUITS["local"], patch_circuit(4, 3), CIRCUITS["global"], ansatz.angle_encoding(4)]
    bank = randomised(CircuitBank(circuits)).to(dtype)
    inputs = torch.randn(3, 5, 4, dtype=dtype)
    assert_equal(bank.export()(inputs), bank(inputs))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("output", ["pixels", "channels"])
@pytest.mark.parametrize("gather", GATHERS)
def test_patches(gather, output, groups, memory_format):
    layer = randomised(PatchCircuit2d(4, patch_circuit(4), 2, gather, groups, output))
    for size in ((8, 4), (5, 7)):
        for dtype in (torch.float32, torch.float64):
            maps = torch.randn(2, 4, *size, dtype=dtype).contiguous(memory_format=memory_format)
            assert_equal(layer.to(dtype).export()(maps), layer(maps))


@pytest.mark.parametrize("n_observables", [1, 7])
def test_patches_with_other_numbers_of_observables(n_observables):
    layer = randomised(PatchCircuit2d(2, patch_circuit(6, n_observables), (2, 3), "block", 2, "channels"))
    maps = torch.randn(2, 2, 4, 9)
    assert_equal(layer.export()(maps), layer(maps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype):
    """Inputs and weights; computed in single precision as by the layer."""
    layer = randomised(CircuitLayer(CIRCUITS["local"]))
    inputs = torch.randn(9, 4).to(dtype)
    assert_equal(layer.export()(inputs), layer(inputs))
    assert_equal(layer.to(dtype).export()(inputs), layer(inputs))


def test_double_afterwards():
    """Inputs keep their precision; coefficients have that of the weights."""
    layer = randomised(CircuitLayer(CIRCUITS["local"]))
    inputs = 1000 + torch.randn(9, 4, dtype=torch.float64)
    exported = layer.export().double()
    torch.testing.assert_close(exported(inputs), layer(inputs).detach(), atol=1e-6, rtol=0)


def test_it_is_a_snapshot():
    layer = randomised(CircuitLayer(CIRCUITS["local"]))
    inputs = torch.randn(5, 4)
    exported, before = layer.export(), layer(inputs).detach()
    assert not list(exported.parameters())
    with torch.no_grad():
        layer.weights.add_(1)
    assert_equal(exported(inputs), before)
    assert not exported(inputs).requires_grad
    other = CircuitLayer(CIRCUITS["local"]).export()
    other.load_state_dict(exported.state_dict())
    assert torch.equal(copy.deepcopy(other)(inputs), exported(inputs))


def test_gradients_of_inputs():
    layer = randomised(CircuitLayer(CIRCUITS["half units"])).double()
    inputs = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    one, other = (torch.autograd.grad(f(inputs).square().sum(), inputs)[0] for f in (layer.export(), layer))
    assert_equal(one, other)


def test_a_bad_sample_touches_no_other():
    exported = randomised(CircuitLayer(CIRCUITS["local"])).export()
    inputs = torch.randn(9, 4)
    clean = exported(inputs)
    inputs[4, 0] = torch.nan
    assert exported(inputs)[4].isnan().any()
    others = [k for k in range(9) if k != 4]
    assert torch.equal(exported(inputs)[others], clean[others])


REFUSED = {
    "amplitude encoding": (Circuit(2).amplitudes().ry(Weight(0), 0), "amplitude encoding is not trigonometric"),
    "no common unit": (Circuit(1).ry(Input(0), 0).rx(Weight(0), 0).ry(2**0.5 * Input(0), 0), "no common unit"),
    "too many terms": (ansatz.strongly_entangling(10, 4), "590490 terms, more than 65536"),
    "too many features": (ansatz.basic_entangler(16, 1), "6561 products of features, more than 4096"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    circuit, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        CircuitLayer(circuit).export()


def test_refusals_of_other_layers():
    circuit, reason = REFUSED["amplitude encoding"]
    for layer in (CircuitBank([patch_circuit(4), circuit]), PatchCircuit2d(2, circuit, output="channels")):
        with pytest.raises(ValueError, match=reason):
            layer.export()


# --- torch.export -----------------------------------------------------------------------------------------------------


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target).partition(".")[0] for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(
    ("name", "strict"),
    [("half units", True), ("uploaded again", False), ("unseen inputs", False), ("constant", False)],
)
def test_torch_export_with_any_batch(name, strict):
    layer = randomised(CircuitLayer(CIRCUITS[name]))
    n_inputs = layer.circuit.n_inputs
    shapes = ({0: Dim("batch"), 1: Dim("length")},)
    program = torch.export.export(layer.export(), (torch.randn(3, 5, n_inputs),), dynamic_shapes=shapes, strict=strict)
    assert operators(program) <= {"aten", "<built-in function getitem>", "<built-in function mul>"}
    for batch in ((3, 5), (1, 1), (20, 2)):
        inputs = torch.randn(*batch, n_inputs)
        assert_equal(program.module()(inputs), layer(inputs))


@pytest.mark.parametrize(("gather", "output"), [("block", "pixels"), ("columns", "pixels"), ("grid", "channels")])
def test_torch_export_with_any_map(gather, output):
    """Of any size that needs no padding and has several rows and columns of patches."""
    if gather == "columns" and torch.__version__.startswith("2.10."):
        pytest.skip("this torch cannot prove that a width w is min(w, 4 w)")
    layer = randomised(PatchCircuit2d(2, ansatz.local_circuit(), 2, gather, 2, output))
    height, width = {"rows": 1, "columns": 4}.get(gather, 2), {"rows": 4, "columns": 1}.get(gather, 2)
    shapes = ({0: Dim("batch"), 2: height * Dim("rows"), 3: width * Dim("columns")},)
    program = torch.export.export(layer.export(), (torch.randn(3, 2, 8, 12),), dynamic_shapes=shapes)
    for size in ((3, 2, 8, 12), (2 if gather == "columns" else 1, 2, 16, 8), (2, 2, 12, 20)):
        maps = torch.randn(size)
        assert_equal(program.module()(maps), layer(maps))


@pytest.mark.parametrize("engine", ["auto", "gate", "fourier", "unitary"])
def test_torch_export_of_a_layer_itself(engine):
    layer = randomised(CircuitLayer(CIRCUITS["local"], engine))
    program = torch.export.export(layer, (torch.randn(5, 4),), dynamic_shapes=({0: Dim("batch")},))
    inputs = torch.randn(9, 4)
    chosen = CircuitLayer(
        CIRCUITS["local"], "fourier" if engine == "auto" else engine
    )  # by auto for thousands of samples
    chosen.load_state_dict(layer.state_dict())
    assert torch.equal(program.module()(inputs), chosen(inputs))


def test_torch_export_of_padded_maps():
    """Of one size, any number of them."""
    layer = randomised(PatchCircuit2d(2, ansatz.local_circuit(), 2, "grid"))
    program = torch.export.export(layer.export(), (torch.randn(3, 2, 5, 7),), dynamic_shapes=({0: Dim("batch")},))
    for batch in (1, 3, 4):
        maps = torch.randn(batch, 2, 5, 7)
        assert_equal(program.module()(maps), layer(maps))


def test_compile():
    layer = randomised(LocalCircuit2d(2, depth=2, weight_groups=2))
    torch._dynamo.reset()
    compiled = torch.compile(layer.export(), fullgraph=True, backend="aot_eager")
    maps = torch.randn(2, 2, 6, 4)
    assert_equal(compiled(maps), layer(maps))
    torch._dynamo.reset()


WITHOUT_THE_PACKAGE = """
import sys

sys.modules["hqfkernels"] = None  # importing it raises
import torch

try:
    import hqfkernels
except ImportError:
    pass
else:
    raise SystemExit("it can still be imported")
folder = sys.argv[1]
for name in ("circuit", "patches"):
    module = torch.export.load(f"{folder}/{name}.pt2").module()
    torch.save(module(torch.load(f"{folder}/{name}-inputs.pt")), f"{folder}/{name}-outputs.pt")
assert not [name for name in sys.modules if name.startswith("hqfkernels.")]
assert not hasattr(torch.ops.hqfkernels, "fourier_forward")
"""


def test_it_runs_without_the_package(tmp_path):
    layers: dict[str, tuple[Any, Tensor]] = {
        "circuit": (CircuitLayer(CIRCUITS["uploaded again"]), torch.randn(11, 2)),
        "patches": (PatchCircuit2d(2, ansatz.local_circuit(), gather="grid", weight_groups=2), torch.randn(2, 2, 6, 8)),
    }
    for name, (layer, inputs) in layers.items():
        shapes = ({0: Dim("batch")},)
        example = torch.cat([inputs, inputs])
        program = torch.export.export(randomised(layer).export(), (example,), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / f"{name}.pt2")
        torch.save(inputs, tmp_path / f"{name}-inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path)],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, (layer, inputs) in layers.items():
        assert_equal(torch.load(tmp_path / f"{name}-outputs.pt"), layer(inputs))


# --- ONNX -------------------------------------------------------------------------------------------------------------


def in_onnxruntime(module: nn.Module, example: Tensor, shapes: Any, inputs: list[Tensor], folder: Any) -> list[Tensor]:
    """What a module computes after a way through a file."""
    pytest.importorskip("onnxscript")
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = str(folder / "module.onnx")
    program = torch.onnx.export(module.eval(), (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(path)
    assert {node.domain for node in onnx.load(path).graph.node} <= {""}  # nothing but standard operators
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]
    return [torch.from_numpy(session.run(None, {name: each.numpy()})[0]) for each in inputs]


@pytest.mark.parametrize(("name", "dtype"), [("uploaded again", torch.float64), ("half units", torch.float32)])
def test_onnx(name, dtype, tmp_path):
    layer = randomised(CircuitLayer(CIRCUITS[name])).to(dtype)
    inputs = [torch.randn(batch, layer.circuit.n_inputs, dtype=dtype) for batch in (3, 1, 50)]
    shapes = ({0: Dim("batch")},)
    for value, own in zip(in_onnxruntime(layer.export(), inputs[0], shapes, inputs, tmp_path), inputs, strict=True):
        assert_equal(value, layer(own))


def test_onnx_of_patches(tmp_path):
    layer = randomised(PatchCircuit2d(2, ansatz.local_circuit(), weight_groups=2))
    inputs = [torch.randn(size) for size in ((3, 2, 8, 12), (1, 2, 16, 8))]
    shapes = ({0: Dim("batch"), 2: 2 * Dim("rows"), 3: 2 * Dim("columns")},)
    for value, own in zip(in_onnxruntime(layer.export(), inputs[0], shapes, inputs, tmp_path), inputs, strict=True):
        assert_equal(value, layer(own))


def test_onnx_within_a_model(tmp_path):
    torch.manual_seed(0)
    layer = randomised(LocalCircuit2d(2))
    bank = randomised(CircuitBank([ansatz.angle_encoding(5), ansatz.basic_entangler(5, 1)]))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh(), layer, bank).eval()
    exported = nn.Sequential(*model[:2], layer.export(), bank.export()).eval()
    images = torch.randn(2, 3, 7, 5)
    (value,) = in_onnxruntime(exported, images, None, [images], tmp_path)
    assert_equal(value, model(images))
