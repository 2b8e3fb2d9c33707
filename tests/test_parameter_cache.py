"""Layers in eval mode keep what depends on weights alone: that they do, and never for too long."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import hqfkernels as hqf
from hqfkernels import ansatz
from hqfkernels.engines import fourier
from hqfkernels.functional import ParameterCache
from hqfkernels.nn import CircuitBank, CircuitLayer, PatchBank2d, PatchCircuit2d
from tests.conftest import Recorder

pytestmark = pytest.mark.usefixtures("threads")

LOCAL, DIAGONAL = ansatz.local_circuit((2, 2), 2), ansatz.directional_circuit((2, 2), "diagonal", 2)
LAYERS: dict[
    str, tuple[Callable[[], Any], tuple[int, ...], int]
] = {  # with an input's shape and the number of circuits
    "circuit": (lambda: CircuitLayer(LOCAL, "fourier"), (5, 4), 1),
    "bank": (lambda: CircuitBank([LOCAL, DIAGONAL], "fourier"), (5, 4), 2),
    "patches": (lambda: PatchCircuit2d(2, LOCAL, weight_groups=2), (2, 2, 64, 64), 1),
    "bank on patches": (lambda: PatchBank2d(2, [LOCAL, DIAGONAL], weight_groups=2), (2, 2, 64, 64), 2),
}
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def warm(name: str) -> tuple[Any, Tensor]:
    """A layer in eval mode that has been called, and the input."""
    make, shape, _ = LAYERS[name]
    torch.manual_seed(0)
    layer, inputs = make().eval(), torch.randn(shape)
    with torch.no_grad():
        for weights in layer.parameters():
            nn.init.normal_(weights)
        layer(inputs)
    return layer, inputs


def count(layer: Any, *arguments: Tensor) -> int:
    """How often parameters are computed in a call."""
    with Recorder() as recorder:
        layer(*arguments)
    assert recorder.names.count("hqfkernels.fourier_forward") == 1
    return recorder.names.count("hqfkernels.fourier_parameters")


def uncached(layer: Any, *arguments: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(layer).train()(*arguments)


def first(layer: Any) -> nn.Parameter:
    return next(layer.parameters())


# --- when it is used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_computed_once_in_eval_mode(name, mode):
    make, shape, n_circuits = LAYERS[name]
    layer = make().eval()
    with MODES[mode]():
        for expected in (n_circuits, 0, 0):
            inputs = torch.randn(shape)
            assert count(layer, inputs) == expected
            assert torch.equal(layer(inputs), uncached(layer, inputs))


@pytest.mark.parametrize(("training", "grad"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", LAYERS)
def test_never_in_training_or_with_gradients(name, training, grad):
    layer, inputs = warm(name)
    layer.train(training)
    with torch.set_grad_enabled(grad):
        assert [count(layer, inputs) for _ in range(3)] == [LAYERS[name][2]] * 3
        value = layer(inputs)
    assert value.requires_grad == grad
    if grad:
        own = torch.autograd.grad(value.square().sum(), list(layer.parameters()))
        twin = copy.deepcopy(layer).train()
        fresh = torch.autograd.grad(twin(inputs).square().sum(), list(twin.parameters()))
        assert all(torch.equal(a, b) and a.any() for a, b in zip(own, fresh, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_what_one_mode_kept_serves_the_other(name):
    make, shape, n_circuits = LAYERS[name]
    layer, inputs = make().eval(), torch.randn(shape)
    with torch.inference_mode():
        assert count(layer, inputs) == n_circuits
    with torch.no_grad():
        assert count(layer, inputs) == 0
        kept = layer(inputs.clone().requires_grad_())
    assert not kept.is_inference()
    value = layer(inputs)
    value.sum().backward()
    assert torch.equal(value, kept)
    assert all(weights.grad is not None for weights in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_inputs_in_double(name):
    """After a call with inputs in single precision."""
    layer, inputs = warm(name)
    with torch.no_grad():
        assert count(layer, inputs.double()) == 0
        assert torch.equal(layer(inputs.double()), uncached(layer, inputs.double()))


# --- how it might be fooled -------------------------------------------------------------------------------------------


def step(layer: nn.Module) -> None:
    for weights in layer.parameters():
        weights.grad = torch.ones_like(weights)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


def fused_step(layer: nn.Module) -> None:
    for weights in layer.parameters():
        weights.grad = torch.ones_like(weights)
    torch.optim.Adam(layer.parameters(), lr=0.1, fused=True).step()


def in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        first(layer).add_(0.5)


def in_place_while_inferring(layer: nn.Module) -> None:
    with torch.inference_mode():
        first(layer).mul_(-1)


def one_entry(layer: nn.Module) -> None:
    """By the least that can be."""
    weights = list(layer.parameters())[-1].data.view(-1)
    weights[0] = torch.nextafter(weights[0], torch.tensor(9.0))


def through_data(layer: nn.Module) -> None:
    first(layer).data.add_(0.5)


def new_data(layer: nn.Module) -> None:
    first(layer).data = first(layer).data + 0.5


def permuted(layer: nn.Module) -> None:
    first(layer).data = first(layer).data.flip(-1)


def behind_the_back(layer: nn.Module) -> None:
    """Torch counts no version for this."""
    first(layer).detach().numpy()[...] += 1


def exchanged(layer: nn.Module) -> None:
    torch.utils.swap_tensors(first(layer), nn.Parameter(first(layer).detach() + 1))


def loaded(layer: nn.Module) -> None:
    layer.load_state_dict({key: value + 0.5 for key, value in layer.state_dict().items()})


def assigned(layer: nn.Module) -> None:
    layer.load_state_dict({key: value + 0.5 for key, value in layer.state_dict().items()}, assign=True)


def replaced(layer: Any) -> None:
    if isinstance(layer.weights, nn.Parameter):
        layer.weights = nn.Parameter(layer.weights.detach() + 1)
    else:
        layer.weights[1] = nn.Parameter(layer.weights[1].detach() + 1)


def double_and_more(layer: nn.Module) -> None:
    """Equal in single precision, but not in double."""
    first(layer.double()).data.add_(1e-9)


CHANGES = [
    *(step, fused_step, in_place, in_place_while_inferring, one_entry, through_data, new_data, permuted),
    *(behind_the_back, exchanged, loaded, assigned, replaced, double_and_more),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_changed_weights_are_seen(name, change):
    layer, inputs = warm(name)
    inputs = inputs.double()
    with torch.no_grad():
        before = layer(inputs)
    change(layer)
    with torch.no_grad():
        assert count(layer, inputs) == LAYERS[name][2]
        assert not torch.equal(layer(inputs), before)
        assert torch.equal(layer(inputs), uncached(layer, inputs))
        assert count(layer, inputs) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_another_dtype(name, dtype):
    layer, inputs = warm(name)
    layer.to(dtype)
    with torch.no_grad():
        assert torch.equal(layer(inputs), uncached(layer, inputs))
        layer.float()
        assert torch.equal(layer(inputs), uncached(layer, inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_back_and_forth(name):
    layer, inputs = warm(name)
    with torch.no_grad():
        before = layer(inputs)
        for _ in range(3):
            first(layer).neg_()
            assert not torch.equal(layer(inputs), before)
            first(layer).neg_()
            assert torch.equal(layer(inputs), before)


@pytest.mark.parametrize("name", LAYERS)
def test_functional_calls(name):
    layer, inputs = warm(name)
    own = layer.state_dict()
    other = {key: torch.randn_like(value) for key, value in own.items()}
    with torch.no_grad():
        wanted = [functional_call(copy.deepcopy(layer).train(), weights, (inputs,)) for weights in (own, other)]
        for k in (0, 1, 1, 0):
            assert torch.equal(functional_call(layer, (own, other)[k], (inputs,)), wanted[k])
        assert torch.equal(layer(inputs), wanted[0])


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_stacked_weights(name):
    """Also if only the last ones of a bank are stacked."""
    layer, inputs = warm(name)
    own = layer.state_dict()
    stacked = {key: torch.randn(3, *value.shape) for key, value in own.items()}
    last = list(own)[-1]
    with torch.no_grad():
        for mapped in (stacked, {last: stacked[last]}):
            actual = torch.func.vmap(lambda weights: functional_call(layer, weights, (inputs,)))(mapped)
            wanted = [
                functional_call(copy.deepcopy(layer).train(), own | {key: v[k] for key, v in mapped.items()}, (inputs,))
                for k in range(3)
            ]
            torch.testing.assert_close(actual, torch.stack(wanted), atol=1e-5, rtol=0)
        assert count(layer, inputs) == 0  # what was kept is as it was
        assert torch.equal(layer(inputs), uncached(layer, inputs))


@pytest.mark.parametrize("name", ["circuit", "bank"])
def test_vmap_over_inputs(name):
    layer, inputs = warm(name)
    several = torch.stack([inputs, 2 * inputs])
    with torch.no_grad():
        actual = torch.func.vmap(layer)(several)
        torch.testing.assert_close(actual, torch.stack([layer(one) for one in several]), atol=1e-6, rtol=0)


def test_layers_that_share_a_parameter():
    (one, inputs), (other, _) = warm("circuit"), warm("circuit")
    other.weights = one.weights
    third = CircuitLayer(DIAGONAL, "fourier").eval()
    third.weights = one.weights
    layers = one, other, third
    with torch.no_grad():
        for _ in range(3):
            for layer in layers:
                assert torch.equal(layer(inputs), uncached(layer, inputs))
            other.weights.add_(1)
        step(one)
        assert all(torch.equal(layer(inputs), uncached(layer, inputs)) for layer in layers)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_are_no_numbers(name):
    layer, inputs = warm(name)
    with torch.no_grad():
        clean = layer(inputs)
        kept = first(layer).clone()
        first(layer).fill_(torch.nan)
        for _ in range(2):
            assert layer(inputs).isnan().any()
        first(layer).copy_(kept)
        assert torch.equal(layer(inputs), clean)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", LAYERS)
def test_copies_keep_for_themselves(name, duplicate):
    layer, inputs = warm(name)
    twin = duplicate(layer)
    assert not twin.training
    with torch.no_grad():
        before = layer(inputs)
        assert count(twin, inputs) == LAYERS[name][2]
        assert count(layer, inputs) == 0
        for weights in twin.parameters():
            weights.data = weights + 1
        changed = twin(inputs)
        assert torch.equal(changed, uncached(twin, inputs))
        if duplicate is not copy.copy:  # which shares the weights
            assert torch.equal(layer(inputs), before)
        assert not torch.equal(changed, before)
        assert torch.equal(layer(inputs), uncached(layer, inputs))


def test_the_cache_is_not_saved():
    layer, inputs = warm("circuit")
    assert list(layer.state_dict()) == ["weights"]
    fresh = pickle.dumps(copy.deepcopy(layer))
    with torch.no_grad():
        layer(inputs)
    assert len(pickle.dumps(layer)) == len(fresh)


def test_another_circuit():
    layer, inputs = warm("circuit")
    assert LOCAL.n_weights == DIAGONAL.n_weights
    with torch.no_grad():
        layer.circuit = DIAGONAL
        assert torch.equal(layer(inputs), uncached(layer, inputs))
        layer.circuit = DIAGONAL.copy().measure("XXXX")
        assert layer(inputs).shape == (5, 1)


# --- while something traces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_traces_hold_weights_not_what_was_kept(name):
    layer, inputs = warm(name)
    wanted = "hqfkernels.fourier_parameters.default"

    def call(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(layer, weights, (inputs,))

    with torch.no_grad():
        for tracing_mode in ("real", "fake", "symbolic"):
            graph = make_fx(call, tracing_mode=tracing_mode)(dict(layer.state_dict()), inputs)
            assert [str(node.target) for node in graph.graph.nodes].count(wanted) == LAYERS[name][2]
        program = torch.export.export(layer, (inputs,))
        assert [str(node.target) for node in program.graph.nodes].count(wanted) == LAYERS[name][2]
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        compiled(inputs)
        first(layer).add_(1)
        other = {key: value + 1 for key, value in layer.state_dict().items()}
        assert torch.equal(program.module()(inputs), uncached(layer, inputs))
        assert torch.equal(compiled(inputs), uncached(layer, inputs))
        assert torch.equal(graph(other, inputs), functional_call(layer, other, (inputs,)))
        torch._dynamo.reset()


def test_fake_tensors():
    with FakeTensorMode(), torch.no_grad():
        layer, inputs = warm("circuit")
        assert layer(inputs).shape == layer(2 * inputs).shape == (5, 4)
    layer, _ = warm("circuit")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert layer(mode.from_tensor(torch.randn(7, 4))).shape == (7, 4)


def test_meta_tensors():
    layer, inputs = warm("circuit")
    layer.to("meta")
    with torch.no_grad():
        assert all(layer(inputs.to("meta")).shape == (5, 4) for _ in range(2))


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [1.0, -1.0])
def test_weights_that_change_while_they_are_read(before, monkeypatch):
    """By another thread, right before and after the computation; in one case the second change undoes the first."""
    layer, inputs = warm("circuit")
    compute = fourier.parameters

    def interrupted(circuits, weights, *rest):
        layer.weights.data.mul_(before)
        result = compute(circuits, weights, *rest)
        layer.weights.data.mul_(-1)
        return result

    with torch.no_grad():
        layer.weights.add_(1)
        monkeypatch.setattr(fourier, "parameters", interrupted)
        layer(inputs)
        monkeypatch.undo()
        assert torch.equal(layer(inputs), uncached(layer, inputs))


def test_a_cache_that_is_asked_while_it_computes(monkeypatch):
    """By another thread, for other weights: each gets what it asked for, then and later."""
    cache, compute = ParameterCache(), fourier.parameters
    sets = [torch.randn(LOCAL.n_weights) for _ in range(2)]
    wanted = [compute([LOCAL], [own]) for own in sets]
    inner = []

    def interrupted(circuits, weights, *rest):
        monkeypatch.undo()
        inner.append(cache.get([LOCAL], [sets[1]]))
        return compute(circuits, weights, *rest)

    monkeypatch.setattr(fourier, "parameters", interrupted)
    assert torch.equal(cache.get([LOCAL], [sets[0]]), wanted[0])
    assert torch.equal(inner[0], wanted[1])
    for k in (1, 0, 0, 1):
        assert torch.equal(cache.get([LOCAL], [sets[k]]), wanted[k])


@pytest.mark.parametrize("name", ["circuit", "bank"])
def test_threads_call_one_layer(name):
    """While a third edits the weights between their calls."""
    layer, inputs = warm(name)
    twin = copy.deepcopy(layer).train()
    rounds, callers = 40, 2
    turn = threading.Barrier(callers + 1, timeout=60)
    results: list[list[Tensor]] = [[] for _ in range(callers)]

    def call(own: list[Tensor]) -> None:
        with torch.no_grad():
            for _ in range(rounds):
                turn.wait()
                own += [layer(inputs), layer(inputs)]
                turn.wait()

    threads = [threading.Thread(target=call, args=(own,)) for own in results]
    for thread in threads:
        thread.start()
    wanted = []
    with torch.no_grad():
        for k in range(rounds):
            for weights in layer.parameters():
                weights.data.add_(0.1 * (k % 3))  # in some rounds nothing changes
            turn.wait()
            turn.wait()
            twin.load_state_dict(layer.state_dict())
            wanted += [twin(inputs)] * 2
    for thread in threads:
        thread.join()
    for own in results:
        assert len(own) == 2 * rounds
        assert all(torch.equal(a, w) for a, w in zip(own, wanted, strict=True))


def test_threads_ask_one_cache_for_different_weights():
    cache = ParameterCache()
    sets = [torch.randn(LOCAL.n_weights) for _ in range(3)]
    wanted = [fourier.parameters([LOCAL], [own]) for own in sets]
    wrong: list[int] = []

    def ask(k: int) -> None:
        wrong.extend(k for _ in range(200) if not torch.equal(cache.get([LOCAL], [sets[k]]), wanted[k]))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_caches_agree_with_the_reference():
    layer, inputs = warm("bank")
    with torch.no_grad():
        pairs = zip(layer.circuits, layer.weights, strict=True)
        wanted = torch.cat([hqf.expval(c, inputs, w, backend="reference") for c, w in pairs], -1)
        torch.testing.assert_close(layer(inputs), wanted, atol=1e-5, rtol=0)
