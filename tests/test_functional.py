"""Arguments of the functions: what is refused and how, what comes back, what `explain` tells."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz, planner
from hqfkernels.engines.gate import MAX_NATIVE_QUBITS

pytestmark = pytest.mark.usefixtures("threads")

FUNCTIONS = (hqf.expval, hqf.probs, hqf.statevector, hqf.explain)


def two_qubits() -> Circuit:
    """Three inputs, two weights."""
    circuit = Circuit(2).ry(Input(0), 0).rx(Input(1) + Input(2), 1).cx(0, 1).ry(Weight(0), 0).rz(Weight(1), 1)
    return circuit.measure("ZI", "XX", "IY")


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (0,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_shapes_and_dtypes(batch, dtype, result, backend):
    inputs, weights = torch.zeros(*batch, 3, dtype=dtype), torch.zeros(2)
    values = hqf.expval(two_qubits(), inputs, weights, backend=backend)
    assert (values.shape, values.dtype) == ((*batch, 3), result)
    probabilities = hqf.probs(two_qubits(), inputs, weights, backend=backend)
    assert (probabilities.shape, probabilities.dtype) == ((*batch, 4), result)
    state = hqf.statevector(two_qubits(), inputs, weights, backend=backend)
    assert (state.shape, state.dtype) == ((*batch, 4), result.to_complex())
    # All angles are zero: the state is |00>.
    assert torch.equal(probabilities[..., 0], torch.ones(batch, dtype=result))


@pytest.mark.parametrize("engine", ["auto", "gate"])
def test_the_functions_agree_with_each_other(engine):
    inputs, weights = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    state = hqf.statevector(two_qubits(), inputs, weights, engine=engine)
    probabilities = hqf.probs(two_qubits(), inputs, weights, engine=engine)
    torch.testing.assert_close(state.abs().square(), probabilities)
    values = hqf.expval(two_qubits(), inputs, weights, engine=engine)
    torch.testing.assert_close(probabilities[:, :2].sum(-1) - probabilities[:, 2:].sum(-1), values[:, 0])


# --- states are not differentiated ------------------------------------------------------------------------------------


def total(states: torch.Tensor) -> torch.Tensor:
    """A real number that depends on them."""
    return states[..., 0].abs().square().sum()


DERIVATIVES: dict[str, Callable[[Callable[..., torch.Tensor], torch.Tensor], Any]] = {
    "backward": lambda f, t: total(f(t.clone().requires_grad_())).backward(),
    "autograd.grad": lambda f, t: torch.autograd.grad(total(f(leaf := t.clone().requires_grad_())), leaf),
    "jacobian": lambda f, t: torch.autograd.functional.jacobian(lambda t: f(t).real, t),
    "vectorized jacobian": lambda f, t: torch.autograd.functional.jacobian(lambda t: f(t).imag, t, vectorize=True),
    "grad": lambda f, t: torch.func.grad(lambda t: total(f(t)))(t),
    "jacrev": lambda f, t: torch.func.jacrev(lambda t: f(t).real)(t),
    "vjp": lambda f, t: torch.func.vjp(f, t)[1](torch.ones_like(f(t))),
    "jvp": lambda f, t: torch.func.jvp(f, (t,), (torch.ones_like(t),)),
    "jacfwd": lambda f, t: torch.func.jacfwd(lambda t: f(t).real)(t),
    "hessian": lambda f, t: torch.func.hessian(lambda t: total(f(t)))(t),
    "jvp of vmap": lambda f, t: torch.func.jvp(torch.func.vmap(f), (torch.stack([t, t]),), (torch.stack([t, t]),)),
    "dual numbers": lambda f, t: dual(f, t),
    "vmap of grad": lambda f, t: torch.func.vmap(torch.func.grad(lambda t: total(f(t))))(torch.stack([t, t])),
    "grad of vmap": lambda f, t: torch.func.grad(lambda t: total(torch.func.vmap(f)(t)))(torch.stack([t, t])),
    "backward of vmap": lambda f, t: total(torch.func.vmap(f)(torch.stack([t, t]).requires_grad_())).backward(),
    "second derivatives": lambda f, t: second(f, t),
}


def dual(f: Callable[..., torch.Tensor], t: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(t, torch.ones_like(t)))


def second(f: Callable[..., torch.Tensor], t: torch.Tensor) -> Any:
    """Behind a gradient that happens to be zero."""
    leaf, factor = t.clone().requires_grad_(), torch.zeros((), dtype=t.dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(factor * total(f(leaf)), leaf, create_graph=True)
    return torch.autograd.grad(slope.sum(), factor)


@pytest.mark.parametrize("how", [{}, {"engine": "gate"}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_derivatives_of_states_raise(derivative, how):
    inputs, weights = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    for f, t in (
        (lambda w: hqf.statevector(two_qubits(), inputs, w, **how), weights),
        (lambda x: hqf.statevector(two_qubits(), x, weights, **how), inputs),
        (lambda x: hqf.statevector(ansatz.angle_encoding(3), x, **how), inputs),
    ):
        with pytest.raises(NotImplementedError, match="derivatives"):
            DERIVATIVES[derivative](f, t)


@pytest.mark.parametrize("how", [{}, {"backend": "reference"}], ids=str)
def test_states_may_be_used_beside_what_is_differentiated(how):
    inputs, weights = torch.randn(5, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    states, values = (f(two_qubits(), inputs, weights, **how) for f in (hqf.statevector, hqf.expval))
    plain = hqf.statevector(two_qubits(), inputs.detach(), weights.detach(), **how)
    assert states.requires_grad
    assert torch.equal(states.detach(), plain)
    (grad,) = torch.autograd.grad(values.sum() + total(states.detach()), weights)
    assert torch.equal(grad, torch.autograd.grad(hqf.expval(two_qubits(), inputs, weights, **how).sum(), weights)[0])
    with torch.no_grad():
        assert not hqf.statevector(two_qubits(), inputs, weights, **how).requires_grad
    with torch.inference_mode():
        assert hqf.statevector(two_qubits(), inputs, weights, **how).is_inference()
    assert not plain.requires_grad
    mapped = torch.func.vmap(lambda x: hqf.statevector(two_qubits(), x, weights, **how))(inputs)
    torch.testing.assert_close(mapped.detach(), plain)


@pytest.mark.parametrize(("backend", "how"), [("eager", {"backend": "reference"}), ("aot_eager", {"engine": "gate"})])
def test_compiled_states(backend, how):
    """They are computed, beside what is differentiated too; differentiating through them raises."""

    def both(inputs: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return hqf.statevector(circuit, inputs, weights, **how), hqf.expval(circuit, inputs, weights, **how)

    circuit, inputs, weights = two_qubits(), torch.randn(5, 3), torch.randn(2, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend=backend)
    states, values = compiled(inputs, weights)
    wanted = both(inputs, weights)
    torch.testing.assert_close(states, wanted[0])
    (grad,) = torch.autograd.grad(values.sum(), weights)
    torch.testing.assert_close(grad, torch.autograd.grad(wanted[1].sum(), weights)[0])
    with pytest.raises(NotImplementedError, match="statevector has no derivatives"):
        total(compiled(inputs, weights)[0]).backward()
    torch._dynamo.reset()


def test_operators_of_states_are_as_torch_wants_them():
    states, weights = torch.randn(3, 4, dtype=torch.complex64), torch.randn(2, requires_grad=True)
    for operator, first in (("states_forward", states), ("states_backward", 0 * states)):
        torch.library.opcheck(
            getattr(torch.ops.hqfkernels, operator).default,
            (first, torch.randn(3, 3), weights),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_transforms_of_states_within_a_compiled_function_raise(transform):
    circuit, inputs, weights = two_qubits(), torch.randn(5, 3), torch.randn(2)

    def value(weights: torch.Tensor) -> torch.Tensor:
        return total(hqf.statevector(circuit, inputs, weights))

    def derivative(weights: torch.Tensor) -> Any:
        if transform == "grad":
            return torch.func.grad(value)(weights)
        return torch.func.jvp(value, (weights,), (weights,))

    torch._dynamo.reset()
    assert torch.compile(value, backend="eager", fullgraph=True)(weights).isfinite()
    with pytest.raises((RuntimeError, NotImplementedError)):  # of torch's compiler
        torch.compile(derivative, backend="eager", fullgraph=True)(weights)
    torch._dynamo.reset()


def test_forward_mode_within_a_compiled_function_is_not_lost():
    circuit, inputs, weights = Circuit(2).ry(Input(0), 0).cx(0, 1).ry(Weight(0), 0), torch.randn(5, 1), torch.randn(1)

    def tangent(weights: torch.Tensor, **how: str) -> torch.Tensor:
        return torch.func.jvp(lambda w: hqf.expval(circuit, inputs, w, **how), (weights,), (weights,))[1]

    for engine in ("gate", "fourier"):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(tangent, backend="eager", fullgraph=True)(weights, engine=engine)
    compiled = torch.compile(tangent, backend="eager", fullgraph=True)(weights, backend="reference")
    torch.testing.assert_close(compiled, tangent(weights, backend="reference"))
    torch._dynamo.reset()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_may_be_left_out_if_there_are_none():
    circuit = ansatz.angle_encoding(3)
    inputs = torch.randn(4, 3)
    torch.testing.assert_close(hqf.expval(circuit, inputs), inputs.cos())
    torch.testing.assert_close(hqf.expval(circuit, inputs, torch.empty(0)), inputs.cos())


@pytest.mark.parametrize("engine", ["auto", "gate"])
@pytest.mark.parametrize("groups", [(0,), (1,), ()])
def test_an_empty_batch_gives_an_empty_result(engine, groups):
    amplitudes = Circuit(2).amplitudes().ry(Weight(0), 0)
    for circuit, n_inputs, n_weights in ((amplitudes, 4, 1), (two_qubits(), 3, 2)):
        inputs = torch.zeros(0, n_inputs, requires_grad=True)
        weights = torch.zeros(*groups, n_weights, requires_grad=True)
        values = hqf.expval(circuit, inputs, weights, engine=engine)
        assert values.shape == (0, circuit.n_observables)
        values.sum().backward()
        assert weights.grad is not None
        assert torch.equal(weights.grad, torch.zeros_like(weights))


# --- refusals ---------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"circuit": two_qubits(), "inputs": torch.zeros(4, 3), "weights": torch.zeros(2)}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "circuit by name": ({"circuit": "ry 0"}, TypeError, "circuit: expected a hqfkernels.Circuit, got str"),
    "no circuit": ({"circuit": None}, TypeError, "circuit: .*NoneType"),
    "empty circuit": ({"circuit": Circuit(2)}, ValueError, "circuit: .*no gates"),
    "empty circuit with observables": ({"circuit": Circuit(2).measure("ZZ")}, ValueError, "circuit: .*no gates"),
    "list of inputs": ({"inputs": [[0.0] * 3]}, TypeError, "inputs: expected a torch.Tensor, got list"),
    "array of inputs": ({"inputs": torch.zeros(4, 3).numpy()}, TypeError, "inputs: .*ndarray"),
    "whole inputs": ({"inputs": torch.zeros(4, 3, dtype=torch.int64)}, TypeError, "inputs: expected float64.*int64"),
    "complex inputs": ({"inputs": torch.zeros(4, 3) + 0j}, TypeError, "inputs: .*complex64"),
    "boolean inputs": ({"inputs": torch.zeros(4, 3) > 0}, TypeError, "inputs: .*bool"),
    "sparse inputs": ({"inputs": torch.zeros(4, 3).to_sparse()}, TypeError, "inputs: expected a dense .*sparse_coo"),
    "nested inputs": (
        {"inputs": torch.nested.nested_tensor([torch.zeros(4, 3)], layout=torch.jagged)},
        TypeError,
        "inputs: expected a dense tensor, got a nested tensor",
    ),
    "sparse weights": ({"weights": torch.zeros(2).to_sparse()}, TypeError, "weights: expected a dense tensor"),
    "too few inputs": (
        {"inputs": torch.zeros(4, 2)},
        ValueError,
        r"inputs: expected shape \(\.{3}, 3\), got \(4, 2\)",
    ),
    "too many inputs": ({"inputs": torch.zeros(4, 4)}, ValueError, r"inputs: .*\(4, 4\)"),
    "inputs without dimensions": ({"inputs": torch.zeros(())}, ValueError, r"inputs: .*got \(\)"),
    "no weights": ({"weights": None}, ValueError, "weights: the circuit has 2, none were given"),
    "list of weights": ({"weights": [0.0, 0.0]}, TypeError, "weights: expected a torch.Tensor, got list"),
    "whole weights": ({"weights": torch.zeros(2, dtype=torch.int32)}, TypeError, "weights: .*int32"),
    "too few weights": (
        {"weights": torch.zeros(1)},
        ValueError,
        r"weights: expected shape \(\*groups, 2\), got \(1,\)",
    ),
    "weights without dimensions": ({"weights": torch.zeros(())}, ValueError, "weights: "),
    "groups that do not fit": ({"weights": torch.zeros(3, 2)}, ValueError, r"weights: group shape \(3,\).*\(4,\)"),
    "more groups than samples": ({"weights": torch.zeros(5, 4, 2)}, ValueError, r"weights: group shape \(5, 4\)"),
    "groups that would widen the batch": (
        {"inputs": torch.zeros(1, 3), "weights": torch.zeros(4, 2)},
        ValueError,
        r"weights: group shape \(4,\).*\(1,\)",
    ),
    "weights on another device": ({"weights": torch.zeros(2, device="meta")}, ValueError, "weights: .*cpu.*meta"),
    "unknown engine": ({"engine": "magic"}, ValueError, "engine: must be one of auto, gate.*'magic'"),
    "no engine": ({"engine": None}, ValueError, "engine: "),
    "unknown backend": (
        {"backend": "tpu"},
        ValueError,
        "backend: must be one of auto, cpu, cuda, triton, custatevec, reference, got",
    ),
    "backend off its device": (
        {"inputs": torch.zeros(4, 3, device="meta"), "weights": torch.zeros(2, device="meta"), "backend": "cpu"},
        RuntimeError,
        "backend 'cpu' refuses: .*meta",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_arguments_are_refused_by_name(function, case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        function(**{**GOOD, **arguments})


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_checks_come_before_the_choice_of_a_backend(function, backend):
    with pytest.raises(ValueError, match="inputs: "):
        function(two_qubits(), torch.zeros(4, 2), torch.zeros(2), backend=backend)


def test_too_many_qubits_for_the_kernels():
    circuit = Circuit(MAX_NATIVE_QUBITS + 1).ry(Input(0), 0)
    with pytest.raises(RuntimeError, match=f"backend 'cpu' refuses: .*{MAX_NATIVE_QUBITS} qubits.*{circuit.n_qubits}"):
        hqf.expval(circuit, torch.zeros(1, 1), engine="gate", backend="cpu")
    with pytest.raises(RuntimeError, match="backend 'cpu' refuses: "):
        hqf.statevector(circuit, torch.zeros(1, 1), backend="cpu")
    assert hqf.explain(circuit, torch.zeros(1, 1), engine="gate").backend == "reference"


def test_large_registers_that_need_no_states(native):
    circuit = Circuit(30)
    for q in range(30):
        circuit.ry(Input(q), q)
    circuit.cx(0, 29)
    inputs = torch.randn(5, 30)
    plan = hqf.explain(circuit, inputs)
    assert (plan.engine, plan.backend) == ("fourier", "cpu")
    assert "at most 20 qubits" in dict(plan.reasons)["gate"]
    wanted = inputs.cos()
    wanted[:, 29] *= wanted[:, 0]
    torch.testing.assert_close(hqf.expval(circuit, inputs), wanted)
    deep = hqf.ansatz.strongly_entangling(21, 6)
    assert hqf.explain(deep, torch.zeros(1, 21), torch.zeros(deep.n_weights)).backend == "reference"


@pytest.mark.parametrize("factors", [(5e-324, 1.0), (1e-300, 1e300), (1e308, 1.0), (1e-310, 1e-310)])
@pytest.mark.parametrize("function", [hqf.expval, hqf.probs])
def test_factors_beyond_all_polynomials_are_simulated(function, factors):
    circuit = Circuit(1).rx(factors[0] * Input(0) + Weight(0), 0).ry(factors[1] * Input(0), 0)
    circuit.rx(factors[0] * Input(0), 0)
    inputs, weights = torch.rand(3, 1, dtype=torch.float64), torch.rand(1, dtype=torch.float64)
    wanted = function(circuit, inputs, weights, engine="gate")
    torch.testing.assert_close(function(circuit, inputs, weights), wanted)
    assert hqf.explain(circuit, inputs, weights).engine == "gate"
    with pytest.raises(ValueError, match="engine 'fourier' refuses the circuit: "):
        function(circuit, inputs, weights, engine="fourier")


def test_without_kernels_large_registers_need_no_states_either():
    code = (
        "import torch, hqfkernels as hqf\n"
        "circuit = hqf.ansatz.angle_encoding(30)\n"
        "inputs = torch.randn(5, 30)\n"
        "print(hqf.explain(circuit, inputs))\n"
        "torch.testing.assert_close(hqf.expval(circuit, inputs), inputs.cos())\n"
    )
    environment = {**os.environ, "HQF_DISABLE_NATIVE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("engine fourier, backend reference\n")
    assert "not gate: fourier is cheaper" in done.stdout


def test_a_backend_that_is_not_there_is_refused():
    code = (
        "import torch, hqfkernels as hqf\n"
        "circuit = hqf.ansatz.angle_encoding(2)\n"
        "print(hqf.explain(circuit, torch.zeros(1, 2)))\n"
        "hqf.expval(circuit, torch.zeros(1, 2), backend='cpu')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HQF_DISABLE_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "RuntimeError: backend 'cpu' refuses: HQF_DISABLE_NATIVE is set" in done.stderr
    assert "backend reference" in done.stdout
    assert "microseconds" not in done.stdout
    assert "not cpu: HQF_DISABLE_NATIVE is set" in done.stdout


# --- other devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_shapes_without_data(backend):
    inputs, weights = torch.zeros(4, 3, device="meta"), torch.zeros(2, device="meta")
    values = hqf.expval(two_qubits(), inputs, weights, backend=backend)
    assert (values.shape, values.device.type) == ((4, 3), "meta")


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_names_what_runs_and_why_the_rest_does_not(native):
    plan = hqf.explain(two_qubits(), torch.zeros(4, 3), torch.zeros(2))
    assert (plan.engine, plan.backend) == ("gate", "cpu")
    assert str(plan).startswith("engine gate, backend cpu")
    assert "reference" in dict(plan.reasons)
    asked = hqf.explain(two_qubits(), torch.zeros(4, 3), torch.zeros(2), backend="reference")
    assert asked.backend == "reference"
    assert dict(asked.reasons)["cpu"] == "reference was asked for"
    assert not asked.costs, "what plain torch takes is not known"
    elsewhere = hqf.explain(two_qubits(), torch.zeros(4, 3, device="meta"), torch.zeros(2, device="meta"))
    assert elsewhere.backend == "reference"
    assert "meta" in dict(elsewhere.reasons)["cpu"]


@pytest.mark.parametrize("name", ["auto", "gate", "fourier"])
def test_an_engine_asked_for_by_name_runs(native, recorder, name):
    inputs, weights = torch.zeros(4, 3), torch.zeros(2)
    plan = hqf.explain(two_qubits(), inputs, weights, engine=name)
    assert name in ("auto", plan.engine)
    hqf.expval(two_qubits(), inputs, weights, engine=name)  # constants are prepared once, on a first call
    with recorder:
        hqf.expval(two_qubits(), inputs, weights, engine=name)
    ran = {call for call in recorder.names if call.endswith("_forward") and call.startswith("hqfkernels.")}
    assert f"hqfkernels.{plan.engine}_forward" in ran
    if plan.engine == "gate":
        assert ran == {"hqfkernels.gate_forward"}


def test_the_reference_backend_runs_no_kernel(recorder):
    with recorder:
        hqf.expval(two_qubits(), torch.zeros(4, 3), torch.zeros(2), backend="reference")
    assert not any(name.startswith("hqfkernels.") for name in recorder.names)


@pytest.mark.parametrize("engine", ["gate", "unitary"])
def test_an_engine_asked_for_by_name_is_the_only_one_prepared(native, engine, monkeypatch):
    """The polynomials of a deep circuit take seconds."""
    prepared: list[str] = []
    monkeypatch.setattr(planner, "recipe", prepared.append)
    circuit = Circuit(2).ry(Input(0), 0).cx(0, 1).rx(Weight(0) + 0.123, 0)  # no other test has it prepared
    hqf.expval(circuit, torch.zeros(1, 1), torch.zeros(1), engine=engine)
    assert not prepared


def test_the_reference_does_not_stand_in_for_the_fourier_engine():
    inputs, weights = torch.zeros(4, 3), torch.zeros(2)
    with pytest.raises(RuntimeError, match="backend 'reference' refuses: it carries the gate engine, 'fourier' was"):
        hqf.expval(two_qubits(), inputs, weights, engine="fourier", backend="reference")
    plan = hqf.explain(
        two_qubits(), torch.empty(1 << 22, 3, device="meta"), torch.zeros(2, device="meta"), backend="reference"
    )
    assert (plan.engine, plan.backend) == ("gate", "reference")


@pytest.mark.parametrize("how", [{"engine": "gate"}, {"engine": "unitary"}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 36), (torch.bfloat16, 36), (torch.float64, 300)])
def test_amplitudes_may_have_any_length(how, dtype, digits):
    """Neither values nor gradients suffer where squares of the amplitudes would be zero or infinite."""
    circuit = Circuit(2).amplitudes().ry(Weight(0), 0).cx(0, 1)
    weights = torch.tensor([0.4], dtype=torch.float64)
    amplitudes = torch.tensor([[0.1, -0.2, 0.3, 0.4]], dtype=dtype)

    def results(inputs: torch.Tensor) -> list[torch.Tensor]:
        leaf = inputs.detach().requires_grad_()
        values = hqf.expval(circuit, leaf, weights, **how)
        (grad,) = torch.autograd.grad(values.sum(), leaf)
        return [values.detach(), grad.double() * inputs.abs().max().double()]

    expected = results(amplitudes)
    for scale in (10.0**-digits, 10.0**-25, 10.0**25, 10.0**digits):
        for actual, wanted in zip(results(scale * amplitudes), expected, strict=True):
            torch.testing.assert_close(actual, wanted, atol=1e-12 if dtype == torch.float64 else 2e-2, rtol=0)
    assert results(0 * amplitudes)[0].isnan().all()
