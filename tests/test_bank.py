"""Several circuits on the same inputs: `CircuitBank` and `PatchBank2d` against one circuit after the other."""

import copy
import io
import math
import pickle
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.nn import CircuitBank, PatchBank2d, PatchCircuit2d, patch
from hqfkernels.planner import choose, scheduled
from tests.test_nn import CHANNELS_LAST, GATHERS, expected, patch_circuit

pytestmark = pytest.mark.usefixtures("threads")


def experts() -> list[Circuit]:
    """Different in everything but their inputs and the number of observables."""
    return [
        ansatz.local_circuit((2, 2), 2),
        patch_circuit(4, 4),
        ansatz.angle_encoding(4),  # without weights
        Circuit(3)
        .ry(2 * Input(0), 0)
        .crx(Input(3), 0, 1)
        .rx(Weight(0), 2)
        .cx(1, 2)
        .measure("ZII", "XXI", "IIZ", "YZX"),
    ]


def without_polynomials(depth: int = 1) -> list[Circuit]:
    """One of them is no trigonometric polynomial."""
    amplitudes = Circuit(4).amplitudes(0, 4)
    for gate in ansatz.strongly_entangling(4, depth).gates[4:]:  # without its encoding
        amplitudes.append(gate.name, gate.angles, gate.qubits)
    return [patch_circuit(4), amplitudes]


def randomised(layer: Any) -> Any:
    torch.manual_seed(0)
    for weights in layer.weights:
        nn.init.normal_(weights)
    return layer


RUNS = {engine: f"hqfkernels.{engine}_forward" for engine in ("gate", "fourier")} | {
    "unitary": "hqfkernels.born_forward"
}


def samples_for(circuits: list[Circuit], engine: str, sets: int = 1) -> int:
    """A number of samples for each set of weights for which the planner takes an engine."""
    schedule = choose(tuple(c.text for c in circuits), "expval", ("cpu", None, False), "auto", "auto")
    return next(2**k for k in range(20) if scheduled(schedule, 2**k * sets, sets).engine == engine)


def assert_same(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2}
    for a, w in zip(actual, wanted, strict=True):
        scale = max(1.0, w.abs().max().item()) if w.numel() else 1.0
        limit = (tolerance + stored.get(a.dtype, 0.0)) * scale
        torch.testing.assert_close(a.double(), w.double(), atol=limit, rtol=0)


def gradients(function: Callable[..., Tensor], weights: Any, *tensors: Tensor | None) -> list[Tensor]:
    """The value, and gradients of a weighted sum of it in the arguments and in all weights."""
    leaves = [t if t is None else t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    variables = [t.requires_grad_() for t in leaves if t is not None]
    value = function(*leaves)
    slope = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view(value.shape)
    grads = torch.autograd.grad((value.double() * slope).sum(), [*variables, *weights], materialize_grads=True)
    return [value.detach(), *grads]


# --- on the last dimension --------------------------------------------------------------------------------------------


def one_by_one(bank: CircuitBank, inputs: Tensor, routing: Tensor | None = None) -> Tensor:
    pairs = zip(bank.circuits, bank.weights, strict=True)
    values = [hqf.expval(c, inputs.double(), w.double(), backend="reference") for c, w in pairs]
    if routing is None:
        return torch.cat(values, -1)
    return torch.stack([routing[..., k : k + 1].double() * value for k, value in enumerate(values)]).sum(0)


def assert_bank_is_right(bank: CircuitBank, inputs: Tensor, routed: bool) -> list[Tensor]:
    routing = torch.randn(*inputs.shape[:-1], len(bank.circuits)).to(inputs.dtype) if routed else None
    actual = gradients(bank, bank.weights, inputs, routing)
    wanted = gradients(lambda i, r: one_by_one(bank, i, r), bank.weights, inputs, routing)
    assert_same(actual, wanted, 1e-10 if inputs.dtype == torch.float64 else 2e-5)
    return actual


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("engine", ["auto", "gate", "fourier"])
def test_circuits_run_as_one_by_one(engine, routed, dtype):
    bank = randomised(CircuitBank(experts(), engine))
    inputs = torch.randn(5, 7, 4).to(dtype)
    values = assert_bank_is_right(bank.double() if dtype == torch.float64 else bank, inputs, routed)[0]
    assert values.shape == (5, 7, 4 if routed else 16)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("routed", [False, True])
def test_the_unitary_engine(routed, recorder):
    bank = randomised(CircuitBank(without_polynomials(3), "unitary")).double()
    inputs = torch.randn(9, 4, dtype=torch.float64)
    with recorder:
        bank(inputs)
    assert recorder.names.count(RUNS["unitary"]) == 2
    assert_bank_is_right(bank, inputs, routed)


def test_members_may_differ_in_their_observables():
    bank = randomised(CircuitBank([patch_circuit(4, 3), ansatz.global_circuit(4), patch_circuit(4, 1)], "fourier"))
    assert assert_bank_is_right(bank, torch.randn(6, 4), routed=False)[0].shape == (6, 8)


def test_a_bank_of_one_is_a_layer():
    bank = randomised(CircuitBank(experts()[:1]))
    inputs = torch.randn(3, 4)
    assert torch.equal(bank(inputs), hqf.expval(bank.circuits[0], inputs, bank.weights[0]))
    assert torch.equal(bank(inputs, torch.ones(3, 1)), bank(inputs))


def test_the_reference_runs_a_bank():
    bank = randomised(CircuitBank(experts(), backend="reference")).double()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    assert_bank_is_right(bank, inputs, routed=True)
    assert torch.autograd.gradgradcheck(lambda x: bank(x), inputs[:1].requires_grad_(), atol=1e-6)


def test_large_batches_are_one_contraction(recorder):
    circuits = experts()
    bank = randomised(CircuitBank(circuits))
    for engine, calls in (("gate", 4), ("fourier", 1)):
        inputs = torch.randn(samples_for(circuits, engine), 4)
        recorder.names.clear()
        with recorder:
            bank(inputs)
        counts = {other: recorder.names.count(name) for other, name in RUNS.items()}
        assert counts == {**dict.fromkeys(RUNS, 0), engine: calls}
        assert_bank_is_right(bank, inputs, routed=True)


@pytest.mark.parametrize("routed", [False, True])
def test_a_member_without_polynomials_takes_the_others_along(routed, recorder):
    circuits = without_polynomials()
    bank, samples = randomised(CircuitBank(circuits)).double(), samples_for(circuits[:1], "fourier")
    inputs = torch.rand(samples, 4, dtype=torch.float64) + 0.5
    with recorder:
        bank(inputs)
    assert RUNS["fourier"] not in recorder.names
    assert_bank_is_right(bank, inputs, routed)
    with pytest.raises(ValueError, match="engine 'fourier' refuses the circuit: amplitude encoding"):
        CircuitBank(circuits, "fourier")(torch.rand(40, 4))


@pytest.mark.parametrize("engine", ["gate", "fourier"])
def test_strided_inputs(engine):
    bank = randomised(CircuitBank(experts(), engine)).double()
    inputs = torch.randn(4, 2, 14, 3, dtype=torch.float64)[:, 1, ::2].permute(2, 1, 0)  # (3, 7, 4), no dimension dense
    assert torch.equal(bank(inputs), bank(inputs.contiguous()))
    assert_bank_is_right(bank, inputs, routed=True)


@pytest.mark.parametrize("engine", ["gate", "fourier"])
@pytest.mark.parametrize("routed", [False, True])
def test_empty_batches(engine, routed):
    bank = CircuitBank(experts(), engine)
    results = assert_bank_is_right(bank, torch.zeros(3, 0, 4), routed)
    assert results[0].shape == (3, 0, 4 if routed else 16)
    assert all(not grad.any() for grad in results[1:])


@pytest.mark.parametrize("engine", ["gate", "fourier"])
def test_a_bad_sample_or_share_touches_no_other(engine):
    bank = randomised(CircuitBank(experts(), engine))
    inputs, routing = torch.randn(20, 4), torch.rand(20, 4)
    clean = bank(inputs, routing)
    inputs[3, 1] = routing[7, 2] = torch.nan
    mixed = bank(inputs, routing)
    assert mixed[[3, 7]].isnan().any(-1).all()
    others = [k for k in range(20) if k not in (3, 7)]
    assert torch.equal(mixed[others], clean[others])


@pytest.mark.parametrize(
    ("circuits", "error", "message"),
    [
        ([], TypeError, r"circuits: expected a sequence of hqfkernels.Circuit, got \[\]"),
        (patch_circuit(4), TypeError, "circuits: expected a sequence of hqfkernels.Circuit, got "),
        (None, TypeError, "circuits: .*None"),
        ([patch_circuit(4), "ry"], TypeError, r"circuits\[1\]: expected a hqfkernels.Circuit, got str"),
        ([patch_circuit(4), patch_circuit(3)], ValueError, r"circuits\[0\] takes 4 and circuits\[1\] takes 3"),
    ],
    ids=["none", "one circuit", "nothing", "text", "other inputs"],
)
@pytest.mark.parametrize("make", [CircuitBank, lambda circuits: PatchBank2d(2, circuits)], ids=["bank", "patches"])
def test_bad_circuits(make, circuits, error, message):
    with pytest.raises(error, match=message):
        make(circuits)


@pytest.mark.parametrize("arguments", [{"engine": "magic"}, {"backend": "tpu"}], ids=str)
def test_bad_names(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: must be one of"):
        CircuitBank(experts(), **arguments)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(5, 3), ValueError, r"inputs: expected shape \(..., 4\), got \(5, 3\)"),
        (torch.zeros(5, 4, dtype=torch.int32), TypeError, "inputs: .*int32"),
        ([0.0] * 4, TypeError, "inputs: .*list"),
        (torch.zeros(5, 4, device="meta"), ValueError, "weights: expected on meta like the inputs, got cpu"),
    ],
    ids=["shape", "dtype", "list", "device"],
)
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        CircuitBank(experts())(inputs)


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (4,), (1, 4), (5, 4, 1), (5, 4, 4), ()])
def test_bad_routing(shape):
    bank = CircuitBank(experts())
    with pytest.raises(ValueError, match=re.escape(f"routing: expected shape (5, 4), got {shape}")):
        bank(torch.zeros(5, 4), torch.zeros(shape))


def test_routing_that_cannot_be():
    for routing, got in (([1.0], "list"), (torch.zeros(5, 4) + 0j, "torch.complex64")):
        with pytest.raises(TypeError, match=rf"routing: expected a real tensor of shape \(5, 4\), got {got}"):
            CircuitBank(experts())(torch.zeros(5, 4), routing)
    bank = CircuitBank([patch_circuit(4, 3), patch_circuit(4, 2)])
    with pytest.raises(ValueError, match=r"routing: .*as many observables each, they have \[3, 2\]"):
        bank(torch.zeros(5, 4), torch.zeros(5, 2))


# --- on patches -------------------------------------------------------------------------------------------------------


def patches_one_by_one(bank: PatchBank2d, maps: Tensor, routing: Tensor | None = None) -> Tensor:
    """(B, n_circuits, C, H, W), or mixed by shares that are given to pixels by explicit indexing."""
    values = torch.stack(
        [
            expected(SimpleNamespace(circuit=c, weights=w, grid=bank.grid, output="pixels"), maps)  # type: ignore[arg-type]
            for c, w in zip(bank.circuits, bank.weights, strict=True)
        ],
        1,
    )
    if routing is None:
        return values
    rows, columns = bank.grid.patch
    side_h, side_w = {"rows": (1, rows * columns), "columns": (rows * columns, 1)}.get(
        bank.grid.gather, (rows, columns)
    )
    y, x = torch.arange(maps.shape[2])[:, None], torch.arange(maps.shape[3])
    if bank.grid.gather == "grid":
        shares = routing[:, :, y % routing.shape[2], x % routing.shape[3]]
    else:
        shares = routing[:, :, y // side_h, x // side_w]
    return (values * shares[:, :, None].double()).sum(1)


def patch_counts(bank: PatchBank2d, maps: Tensor) -> tuple[int, int]:
    rows, columns = bank.grid.patch
    side_h, side_w = {"rows": (1, rows * columns), "columns": (rows * columns, 1)}.get(
        bank.grid.gather, (rows, columns)
    )
    return -(-maps.shape[2] // side_h), -(-maps.shape[3] // side_w)


def assert_patches_are_right(bank: PatchBank2d, maps: Tensor, routed: bool) -> Tensor:
    shape = (maps.shape[0], len(bank.circuits), *patch_counts(bank, maps))
    routing = torch.randn(shape).to(maps.dtype) if routed else None
    actual = gradients(bank, bank.weights, maps, routing)
    wanted = gradients(lambda m, r: patches_one_by_one(bank, m, r), bank.weights, maps, routing)
    assert_same(actual, wanted, 1e-10 if maps.dtype == torch.float64 else 2e-5)
    return actual[0]


def patch_experts(n: int) -> list[Circuit]:
    return [patch_circuit(n), ansatz.angle_encoding(n), ansatz.local_circuit((1, n), 1)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("gather", GATHERS)
def test_gathers(gather, routed, groups, memory_format):
    bank = randomised(PatchBank2d(4, patch_experts(4), 2, gather, groups)).double()
    maps = torch.randn(2, 4, 8, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    result = assert_patches_are_right(bank, maps, routed)
    assert result.shape == (maps.shape if routed else (2, 3, 4, 8, 4))


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("sides", [1, (1, 2), (2, 1), 3])
@pytest.mark.parametrize("gather", GATHERS)
def test_patches(sides, gather, routed):
    rows, columns = (sides, sides) if isinstance(sides, int) else sides
    bank = randomised(
        PatchBank2d(2, [patch_circuit(rows * columns), ansatz.angle_encoding(rows * columns)], sides, gather, 2)
    )
    n = rows * columns
    side_h, side_w = {"rows": (1, n), "columns": (n, 1)}.get(gather, (rows, columns))
    assert_patches_are_right(bank, torch.randn(2, 2, 2 * side_h, 3 * side_w), routed)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 3), (2, 1)])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("gather", GATHERS)
def test_odd_sizes_are_padded(gather, routed, size, memory_format):
    bank = randomised(PatchBank2d(3, patch_experts(4), 2, gather)).double()
    maps = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    assert assert_patches_are_right(bank, maps, routed).shape[-2:] == size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("routed", [False, True])
def test_dtypes_of_maps(routed, dtype):
    bank = randomised(PatchBank2d(2, patch_experts(4), weight_groups=2))
    assert assert_patches_are_right(bank, torch.randn(2, 2, 4, 6).to(dtype), routed).dtype == torch.float32


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("gather", GATHERS)
def test_large_maps_are_one_contraction(gather, routed, memory_format, recorder):
    circuits = patch_experts(4)
    bank = randomised(PatchBank2d(2, circuits, 2, gather, 2))
    side = math.isqrt(samples_for(circuits, "fourier", 2)) // 2 * 4 + 4
    maps = torch.randn(1, 2, side, side).contiguous(memory_format=memory_format)
    with recorder:
        result = bank(maps)
    assert [name for name in recorder.names if name.startswith("hqfkernels.")] == [
        *["hqfkernels.fourier_parameters"] * 3,
        "hqfkernels.fourier_forward",
    ]
    assert all(own.is_contiguous(memory_format=memory_format) for own in result.unbind(1))
    assert_patches_are_right(bank, maps, routed)


@pytest.mark.parametrize("engine", ["gate", "unitary"])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("gather", ["block", "rows"])
def test_patches_without_polynomials(gather, routed, engine, recorder, monkeypatch):
    circuits = without_polynomials()
    bank = randomised(PatchBank2d(2, circuits, 2, gather, 2)).double()
    forced = choose(tuple(c.text for c in circuits), "expval", ("cpu", None, False), engine, "auto")
    monkeypatch.setattr(patch, "choose", lambda *facts: forced)
    maps = torch.rand(2, 2, 6, 8, dtype=torch.float64) + 0.5
    with recorder:
        bank(maps)
    assert RUNS["fourier"] not in recorder.names
    assert (RUNS["unitary"] in recorder.names) == (engine == "unitary")
    assert_patches_are_right(bank, maps, routed)


def test_each_member_is_a_patch_circuit():
    circuits = patch_experts(4)
    bank = randomised(PatchBank2d(4, circuits, gather="grid", weight_groups=2))
    maps = torch.randn(2, 4, 6, 8)
    for k, circuit in enumerate(circuits):
        layer = PatchCircuit2d(4, circuit, gather="grid", weight_groups=2)
        layer.load_state_dict({"weights": bank.weights[k]})
        torch.testing.assert_close(bank(maps)[:, k], layer(maps), atol=1e-5, rtol=0)
        shares = torch.zeros(2, 3, 3, 4)
        shares[:, k] = 1
        torch.testing.assert_close(bank(maps, shares), layer(maps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 2, 0, 4), (1, 2, 4, 0)])
@pytest.mark.parametrize("routed", [False, True])
def test_empty_maps(shape, routed):
    bank = PatchBank2d(2, patch_experts(4))
    maps = torch.zeros(shape)
    routing = torch.zeros(shape[0], 3, *patch_counts(bank, maps)) if routed else None
    value, *grads = gradients(bank, bank.weights, maps, routing)
    assert value.shape == (shape if routed else (shape[0], 3, *shape[1:]))
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patch": 3}, ValueError, "circuit: a patch of 3 x 3 pixels needs 9 inputs, the circuit has 4"),
        ({"circuits": [patch_circuit(4), patch_circuit(4, 3)]}, ValueError, "circuit: .*needs 4 observables.*has 3"),
        ({"gather": "spiral"}, ValueError, "gather: must be one of block, grid, rows, columns, got 'spiral'"),
        ({"weight_groups": 3}, ValueError, "weight_groups: must divide the 4 channels, got 3"),
        ({"channels": 0}, ValueError, "channels: "),
    ],
    ids=str,
)
def test_bad_patch_banks(arguments, error, message):
    with pytest.raises(error, match=message):
        PatchBank2d(**{"channels": 4, "circuits": patch_experts(4), **arguments})


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (torch.zeros(2, 3, 4), ValueError, r"maps: expected shape \(B, 3, H, W\), got \(2, 3, 4\)"),
        (torch.zeros(2, 4, 4, 4), ValueError, r"maps: expected shape \(B, 3, H, W\), got \(2, 4, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "maps: .*int64"),
        ([[0.0]], TypeError, "maps: .*list"),
        (torch.zeros(2, 3, 4, 4, device="meta"), ValueError, "maps: expected on cpu like the weights, got meta"),
    ],
    ids=["dimensions", "channels", "dtype", "list", "device"],
)
def test_bad_maps(maps, error, message):
    with pytest.raises(error, match=message):
        PatchBank2d(3, patch_experts(4))(maps)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 2, 2, 3), (1, 3, 2, 3), (2, 3), (2, 3, 3, 2), (2, 3, 2, 3, 1), ()])
def test_bad_routing_of_patches(shape):
    bank = PatchBank2d(1, patch_experts(4))
    with pytest.raises(ValueError, match=re.escape(f"routing: expected shape (2, 3, 2, 3), got {shape}")):
        bank(torch.zeros(2, 1, 3, 6), torch.zeros(shape))
    with pytest.raises(TypeError, match=r"routing: expected a real tensor of shape \(2, 3, 2, 3\), got float"):
        bank(torch.zeros(2, 1, 3, 6), 1.0)


# --- as modules -------------------------------------------------------------------------------------------------------

BANKS: dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[int, ...]]] = {
    "gate": (lambda: CircuitBank(experts(), "gate"), (5, 4), (5, 4)),
    "fourier": (lambda: CircuitBank(experts(), "fourier"), (5, 4), (5, 4)),
    "patches": (lambda: PatchBank2d(4, patch_experts(4), weight_groups=2), (2, 4, 4, 6), (2, 3, 2, 3)),
}


@pytest.mark.parametrize("name", BANKS)
def test_compile(name):
    make, shape, shares = BANKS[name]
    bank = randomised(make())
    inputs, routing = torch.randn(shape), torch.rand(shares)
    torch._dynamo.reset()
    compiled = torch.compile(bank, fullgraph=True, backend="aot_eager")
    for arguments in ((inputs, None), (inputs, routing)):
        assert_same(gradients(compiled, bank.weights, *arguments), gradients(bank, bank.weights, *arguments), 1e-6)
    bank.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs, routing), bank(inputs, routing), atol=1e-6, rtol=0)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", BANKS)
def test_vmap(name):
    make, shape, shares = BANKS[name]
    bank = randomised(make())
    inputs, routing = torch.randn(3, *shape), torch.rand(3, *shares)
    for arguments in ((inputs,), (inputs, routing)):
        wanted = torch.stack([bank(*each) for each in zip(*arguments, strict=True)])
        torch.testing.assert_close(torch.func.vmap(bank)(*arguments), wanted, atol=1e-5, rtol=0)
    stacked = {key: torch.randn(3, *value.shape) for key, value in bank.state_dict().items()}

    def run(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(bank, weights, (inputs[0], routing[0]))

    wanted = torch.stack([run({key: value[k] for key, value in stacked.items()}) for k in range(3)])
    torch.testing.assert_close(torch.func.vmap(run)(stacked), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BANKS)
def test_autocast_changes_nothing(name, dtype):
    make, shape, shares = BANKS[name]
    bank = randomised(make())
    inputs, routing = torch.randn(shape).to(dtype), torch.rand(shares).to(dtype)
    for arguments in ((inputs, None), (inputs, routing)):
        wanted = gradients(bank, bank.weights, *arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = gradients(bank, bank.weights, *arguments)
        assert all(a.dtype == w.dtype and torch.equal(a, w) for a, w in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("name", BANKS)
def test_state_is_plain_tensors(name):
    make, shape, _ = BANKS[name]
    bank, other = randomised(make()), make()
    assert list(bank.state_dict()) == [f"weights.{k}" for k in range(len(bank.circuits))]
    assert all(type(value) is Tensor for value in bank.state_dict().values())
    buffer = io.BytesIO()
    torch.save(bank.state_dict(), buffer)
    buffer.seek(0)
    inputs = torch.randn(shape)
    assert not torch.equal(other(inputs), bank(inputs))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(inputs), bank(inputs))


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_independent(name, duplicate):
    make, shape, _ = BANKS[name]
    bank = make()
    twin = duplicate(bank)
    inputs = torch.randn(shape)
    before = bank(inputs).detach()
    assert torch.equal(twin(inputs), before)
    with torch.no_grad():
        twin.weights[0].add_(1)
    assert not torch.equal(twin(inputs), before)
    assert torch.equal(bank(inputs), before)


def test_banks_keep_their_circuits():
    circuits = patch_experts(4)
    banks = CircuitBank(circuits), PatchBank2d(2, circuits)
    circuits[0].ry(Input(7), 0).ry(Weight(99), 1)
    circuits.pop()
    assert all(bank.circuits == tuple(patch_experts(4)) for bank in banks)


@pytest.mark.parametrize("name", BANKS)
def test_weights_start_near_the_identity(name):
    bank = BANKS[name][0]()
    for circuit, weights in zip(bank.circuits, bank.weights, strict=True):
        assert weights.shape[-1] == circuit.n_weights
        assert weights.requires_grad
        assert not weights.numel() or 0 < weights.abs().max() <= 0.1


def test_forward_mode_through_a_bank_is_refused():
    """The operators would lose the tangents silently."""
    bank, inputs = CircuitBank(experts()), torch.rand(3, 4)
    with torch.no_grad(), pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(bank, (inputs,), (torch.ones_like(inputs),))
