"""The kernels for GPUs on a GPU against the plain-torch reference: ``pytest -m gpu``.

The operators are called directly, so that nothing but these kernels can have computed the results. Tests named small
are the ones that bench/gpu_run.sh repeats under compute-sanitizer.
"""

import math

import pytest
import torch

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.backends import cuda, custatevec
from hqfkernels.backends import triton as triton_backend
from hqfkernels.blocks import Blocks
from hqfkernels.program import Measurement, Program, lower
from hqfkernels.reference import rotations
from tests.test_gate_engine import layered, parameters, random_circuit
from tests.test_gpu_emulated import with_every_z

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    available, reason = cuda.cuda_status()
    assert available, reason


def run(text: str, inputs: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor | None = None):
    """Values and, for a slope, gradients in inputs and weights."""
    values = torch.ops.hqfkernels.gate_forward(inputs, weights, text, 1, [])
    if slope is None:
        return [values]
    return [values, *torch.ops.hqfkernels.gate_backward(slope, inputs, weights, text, 1, [])]


def assert_agrees(circuit, inputs, weights, measurement: Measurement = "expval", tolerance=None):
    text = lower(circuit.text, measurement)
    program = Program.from_text(text)
    compute = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    limit = tolerance or (1e-10 if compute == torch.float64 else 2e-5)
    slope = None
    if measurement != "state":
        slope = torch.randn(*inputs.shape[:-1], program.n_outputs, generator=torch.Generator().manual_seed(1))
    actual = run(text, inputs.cuda(), weights.cuda(), None if slope is None else slope.cuda())

    wide, wide_weights = inputs.double(), weights.double()
    if weights.dim() > 1:
        wide_weights = wide_weights.expand(*inputs.shape[:-1], -1)
    expected = [rotations.forward(program, wide, wide_weights)]
    if slope is not None:
        grad_inputs, grad_weights = rotations.backward(program, slope.double(), wide, wide_weights)
        expected += [grad_inputs, grad_weights.sum_to_size(weights.shape)]
    for a, e, dtype in zip(actual, expected, (compute, inputs.dtype, weights.dtype), strict=False):
        assert a.dtype == dtype
        stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}.get(dtype, 0.0)
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.cpu().double(), e, atol=(limit + stored) * scale, rtol=0)


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_qubits", range(1, 13))
def test_small_layered_circuits(n_qubits, dtype):
    circuit = layered(n_qubits, 2)
    assert_agrees(circuit, *parameters(circuit, (37 if n_qubits < 9 else 3,), dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measurement", ["expval", "probs", "state"])
@pytest.mark.parametrize("n_qubits", range(1, 9))
def test_random_circuits(n_qubits, measurement, dtype):
    for seed in range(3):
        circuit = with_every_z(random_circuit(10 * n_qubits + seed, n_qubits, n_observables=6))
        assert_agrees(circuit, *parameters(circuit, (33,), dtype=dtype), measurement)


@pytest.mark.parametrize("n_qubits", [9, 10, 11, 12, 13])
def test_large_random_circuits(n_qubits):
    circuit = with_every_z(random_circuit(n_qubits, n_qubits, 60, n_observables=8))
    assert_agrees(circuit, *parameters(circuit, (3,), dtype=torch.float32))


@pytest.mark.parametrize("measurement", ["expval", "probs"])
def test_small_amplitude_encoding(measurement):
    for seed, n_qubits in enumerate((1, 3, 5, 7, 10)):
        circuit = random_circuit(seed, n_qubits, amplitudes=True)
        assert_agrees(circuit, *parameters(circuit, (18,)), measurement)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 36), (torch.float64, 300)])
@pytest.mark.parametrize("n_qubits", [2, 7, 11])
def test_small_amplitudes_of_any_length(n_qubits, dtype, digits):
    circuit = with_every_z(random_circuit(n_qubits, n_qubits, n_inputs=0, amplitudes=True))
    text = lower(circuit.text, "expval")
    inputs, weights = (t.cuda() for t in parameters(circuit, (3,), dtype=dtype))
    slope = inputs.new_ones(3, len(circuit.observables))

    def results(length: float) -> tuple[torch.Tensor, ...]:
        values, grad_inputs, grad_weights = run(text, length * inputs, weights, slope)
        return values, grad_inputs * length, grad_weights

    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    for length in (10.0**-digits, 10.0**-20, 10.0**20, 10.0**digits):
        for actual, expected in zip(results(length), results(1.0), strict=True):
            torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("n_qubits", [4, 7])
def test_small_angles_of_samples(n_qubits):
    circuit = ansatz.angle_encoding(n_qubits)
    for layer in range(3):
        for q in range(n_qubits):
            circuit.rz(Input(q), q).rzz(2 * Input(q) + Weight(layer), q, (q + 1) % n_qubits)
        for q in range(n_qubits):
            circuit.rx(Weight(n_qubits * layer + q), q).ry(Input(q) - Weight(q), q)
    assert_agrees(circuit, *parameters(circuit, (33,)))


@pytest.mark.parametrize("batch", [1, 31, 129, 70_001])
def test_batch_sizes(batch):
    circuit = layered(4, 2)
    assert_agrees(circuit, *parameters(circuit, (batch,)))


def test_slots_and_numbers_too_many_for_shared_memory():
    """A long script in many chunks, slots of 60 tables, and hundreds of angles of its own for every circuit."""
    deep = layered(8, 60)
    assert_agrees(deep, *parameters(deep, (300,)), tolerance=1e-8)
    uploads = Circuit(4)
    for layer in range(300):
        for q in range(4):
            uploads.ry(Input(q) * (layer % 3 + 1), q).cx(q, (q + 1) % 4)
    assert_agrees(uploads, *parameters(uploads, (300,)), tolerance=1e-8)


@pytest.mark.parametrize("groups", [(), (3,), (40, 1), (40, 3)])
def test_small_weight_groups(groups):
    circuit = with_every_z(random_circuit(8, 6))
    assert_agrees(circuit, *parameters(circuit, (40, 3), groups))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    circuit = layered(6, 2)
    assert_agrees(circuit, *parameters(circuit, (40,), dtype=dtype, weight_dtype=torch.float32))


def test_small_strided_inputs():
    circuit = with_every_z(random_circuit(4, 6))
    inputs, weights = parameters(circuit, (6, 5))
    text = lower(circuit.text, "expval")
    expected = run(text, inputs.cuda(), weights.cuda(), torch.ones(6, 5, circuit.n_observables).cuda())
    strided = torch.stack([inputs.cuda().transpose(0, 1), inputs.cuda().transpose(0, 1)], -1)[..., 0].transpose(0, 1)
    assert not strided.is_contiguous()
    slope = torch.ones((), device="cuda").expand(6, 5, circuit.n_observables)
    for a, e in zip(run(text, strided, weights.cuda(), slope), expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("size", [1e4, 1.01e5, 1e8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_angles(dtype, size):
    circuit = layered(3, 2).rz(Input(1), 1).rx(Input(2), 1)
    inputs, weights = parameters(circuit, (20,), dtype=dtype)
    assert_agrees(circuit, size * inputs, size * weights, tolerance=1e-7 if dtype == torch.float64 else None)


@pytest.mark.parametrize("n_qubits", [4, 6])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_touches_no_other(bad, n_qubits):
    circuit = random_circuit(3, n_qubits)
    inputs, weights = parameters(circuit, (200,))
    text = lower(circuit.text, "expval")
    slope = torch.ones(200, circuit.n_observables).cuda()
    clean = run(text, inputs.cuda(), weights.cuda(), slope)
    sick = [5, 16, 199]
    inputs[sick, 1] = bad
    mixed = run(text, inputs.cuda(), weights.cuda(), slope)
    others = [b for b in range(200) if b not in sick]
    assert mixed[0][sick].isnan().any(-1).all()
    for before, after in zip(clean[:2], mixed[:2], strict=True):
        assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("batch", [(0,), (3, 0)])
def test_empty_batches(batch):
    circuit = random_circuit(8, 3)
    inputs, weights = parameters(circuit, batch)
    text = lower(circuit.text, "expval")
    values, grad_inputs, grad_weights = run(text, inputs.cuda(), weights.cuda(), torch.ones(*batch, 4).cuda())
    assert values.shape == (*batch, 4)
    assert grad_inputs.shape == inputs.shape
    assert torch.equal(grad_weights.cpu(), torch.zeros_like(weights))


# --- torch ------------------------------------------------------------------------------------------------------------


def test_results_are_bitwise_reproducible():
    circuit = layered(8, 2)
    inputs, weights = (t.cuda() for t in parameters(circuit, (5000,), dtype=torch.float32))
    text = lower(circuit.text, "expval")
    slope = torch.ones(5000, 8, device="cuda")
    first = run(text, inputs, weights, slope)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(text, inputs, weights, slope), strict=True))


def test_autograd():
    circuit = layered(6, 2)
    inputs, weights = (t.cuda().requires_grad_() for t in parameters(circuit, (40,)))
    text = lower(circuit.text, "expval")
    values = torch.ops.hqfkernels.gate_forward(inputs, weights, text, 1, [])
    grads = torch.autograd.grad(values.square().sum(), (inputs, weights))
    expected = run(text, inputs.detach(), weights.detach(), 2 * values.detach())
    assert all(torch.equal(a, e) for a, e in zip(grads, expected[1:], strict=True))


def test_another_stream():
    """Inputs that a stream is still computing: the kernels wait for them on that stream, and on no other."""
    circuit = layered(6, 2)
    inputs, weights = (t.cuda() for t in parameters(circuit, (4000,)))
    text = lower(circuit.text, "expval")
    expected = run(text, inputs + 1, weights)[0]
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        values = run(text, inputs + 1, weights)[0]
    side.synchronize()
    assert torch.equal(values, expected)


def test_nothing_waits_for_the_device():
    circuit = layered(8, 2)
    inputs, weights = (t.cuda() for t in parameters(circuit, (400,)))
    text = lower(circuit.text, "expval")
    slope = torch.ones(400, 8, device="cuda")
    run(text, inputs, weights, slope)
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)
    run(text, inputs, weights, slope)
    assert not torch.cuda.current_stream().query()


def test_cuda_graphs():
    circuit = layered(6, 2)
    inputs, weights = (t.cuda() for t in parameters(circuit, (400,)))
    text = lower(circuit.text, "expval")
    slope = torch.ones(400, 6, device="cuda", dtype=torch.float64)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(text, inputs, weights, slope)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(text, inputs, weights, slope)
    inputs.add_(0.5), weights.mul_(0.5)
    graph.replay()
    expected = run(text, inputs, weights, slope)
    assert all(torch.equal(a, e) for a, e in zip(captured, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu():
    circuit = layered(4, 2)
    inputs, weights = parameters(circuit, (40,))
    text = lower(circuit.text, "expval")
    first, second = (run(text, inputs.to(d), weights.to(d))[0] for d in ("cuda:0", "cuda:1"))
    assert second.device.index == 1
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(first.cpu(), second.cpu())


def test_bad_input_is_refused_and_the_context_stays_usable():
    circuit = layered(3, 2)
    inputs, weights = parameters(circuit, (40,))
    text = lower(circuit.text, "expval")
    with pytest.raises(RuntimeError, match=r"weights must be on the device of the inputs.*not on a GPU"):
        torch.ops.hqfkernels.gate_forward(inputs.cuda(), weights, text, 1, [])
    large = ansatz.angle_encoding(14)
    with pytest.raises(RuntimeError, match="too large"):
        run(lower(large.text, "expval"), torch.zeros(2, 14).cuda(), torch.zeros(0).cuda())
    with pytest.raises(RuntimeError):
        run(text, inputs.cuda()[:, :2], weights.cuda())
    with pytest.raises(RuntimeError):  # no device has 2^57 bytes
        run(text, torch.zeros(1, 3).cuda().expand(1 << 54, 3), weights.cuda().float())
    assert_agrees(circuit, inputs, weights)


# --- cuStateVec -------------------------------------------------------------------------------------------------------


@pytest.fixture
def library() -> None:
    if custatevec.load()[0] is None:
        pytest.skip(custatevec.load()[1])
    available, reason = custatevec.status()
    assert available, reason


def run_large(circuit, inputs, weights, measurement: Measurement = "expval", device="cuda"):
    """Values and the gradients of their sum with fixed slopes, on the CPU in float64; with the dtypes they had."""
    inputs, weights = (t.detach().to(device).requires_grad_() for t in (inputs, weights))
    if device == "cpu":
        compute = hqf.expval if measurement == "expval" else hqf.probs
        values = compute(circuit, inputs, weights, backend="reference")
    else:
        text = Blocks.text_of(circuit.text, measurement)
        values = torch.ops.hqfkernels.custatevec_forward(inputs, weights, text, 1, [])
    slope = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad((values * slope.to(values)).sum(), (inputs, weights), materialize_grads=True)
    return [t.detach().cpu().double() for t in (values, *grads)]


def assert_large_agrees(circuit, inputs, weights, measurement: Measurement = "expval"):
    actual = run_large(circuit, inputs, weights, measurement)
    expected = run_large(circuit, inputs.double(), weights.double(), measurement, "cpu")
    limit = 1e-10 if inputs.dtype == torch.float64 else 2e-5
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=limit * max(1.0, e.abs().max().item()), rtol=0)


@pytest.mark.usefixtures("library")
class TestCuStateVec:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("measurement", ["expval", "probs"])
    @pytest.mark.parametrize("n_qubits", [4, 5, 8])
    def test_random_circuits(self, n_qubits, measurement, dtype):
        for seed in range(3):
            circuit = with_every_z(random_circuit(10 * n_qubits + seed, n_qubits, 60, n_observables=8))
            assert_large_agrees(circuit, *parameters(circuit, (9,), dtype=dtype), measurement)

    @pytest.mark.parametrize(("n_qubits", "dtype"), [(13, torch.float64), (14, torch.float32), (17, torch.float32)])
    def test_large_registers(self, n_qubits, dtype):
        circuit = layered(n_qubits, 2).measure("Z" * n_qubits, "XYZ" + "I" * (n_qubits - 4) + "Y")
        for q in range(n_qubits):
            circuit.measure("I" * q + "Z" + "I" * (n_qubits - 1 - q))
        assert_large_agrees(circuit, *parameters(circuit, (3,), dtype=dtype))

    @pytest.mark.parametrize("groups", [(), (3,), (4, 1), (4, 3)])
    def test_weight_groups(self, groups):
        circuit = with_every_z(random_circuit(8, 6))
        assert_large_agrees(circuit, *parameters(circuit, (4, 3), groups))

    @pytest.mark.parametrize("measurement", ["expval", "probs"])
    def test_amplitude_encoding(self, measurement):
        circuit = random_circuit(3, 5, amplitudes=True)
        assert_large_agrees(circuit, *parameters(circuit, (7,)), measurement)

    def test_through_the_planner(self):
        circuit = layered(14, 1)
        inputs, weights = (t.cuda() for t in parameters(circuit, (4,), dtype=torch.float32))
        assert hqf.explain(circuit, inputs, weights, engine="gate").backend == "custatevec"
        expected = hqf.statevector(circuit, inputs.cpu(), weights.cpu(), backend="reference")
        torch.testing.assert_close(hqf.statevector(circuit, inputs, weights).cpu(), expected, atol=1e-6, rtol=0)

    def test_chunks_of_the_batch(self, monkeypatch):
        circuit = with_every_z(random_circuit(9, 8))
        inputs, weights = parameters(circuit, (7,))
        whole = run_large(circuit, inputs, weights)
        monkeypatch.setattr(custatevec.Session, "free_memory", lambda self: 0)
        for part, one in zip(run_large(circuit, inputs, weights), whole, strict=True):
            torch.testing.assert_close(part, one, atol=1e-12, rtol=0)

    def test_results_are_reproducible(self):
        circuit = layered(14, 2)
        inputs, weights = parameters(circuit, (40,), dtype=torch.float32)
        first = run_large(circuit, inputs, weights)
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(first, run_large(circuit, inputs, weights), strict=True))

    def test_another_stream(self):
        circuit = layered(14, 2)
        inputs, weights = (t.cuda() for t in parameters(circuit, (16,), dtype=torch.float32))
        text = Blocks.text_of(circuit.text, "expval")
        expected = torch.ops.hqfkernels.custatevec_forward(inputs + 1, weights, text, 1, [])
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)
            values = torch.ops.hqfkernels.custatevec_forward(inputs + 1, weights, text, 1, [])
        side.synchronize()
        assert torch.equal(values, expected)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_the_second_gpu(self):
        circuit = layered(14, 1)
        inputs, weights = parameters(circuit, (4,), dtype=torch.float32)
        text = Blocks.text_of(circuit.text, "expval")
        first, second = (
            torch.ops.hqfkernels.custatevec_forward(inputs.to(d), weights.to(d), text, 1, []).cpu()
            for d in ("cuda:0", "cuda:1")
        )
        torch.testing.assert_close(first, second)
        assert torch.cuda.current_device() == 0

    def test_the_context_outlives_a_lack_of_memory(self):
        circuit = ansatz.angle_encoding(30)
        free, _ = torch.cuda.mem_get_info()
        held = torch.empty(max(0, free - 2**33), dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            run_large(circuit, *parameters(circuit, (1,), dtype=torch.float64))
        del held
        small = with_every_z(random_circuit(8, 6))
        assert_large_agrees(small, *parameters(small, (3,)))


class TestTriton:
    """The Fourier engine's kernels; the tests in Triton's interpreter cover more (tests/test_triton.py)."""

    @pytest.fixture(autouse=True)
    def available(self) -> None:
        available, reason = triton_backend.triton_status()
        assert available, reason

    @pytest.mark.parametrize("layers", [2, 3], ids=["written", "products"])
    def test_values_and_gradients(self, layers):
        circuit = layered(4, layers)
        inputs, weights = parameters(circuit, (5003,), dtype=torch.float32)
        values = []
        for device, backend in (("cuda", "triton"), ("cpu", "reference")):
            wide = torch.float64 if device == "cpu" else torch.float32
            x, w = (t.detach().to(device, wide).requires_grad_() for t in (inputs, weights))
            y = hqf.expval(circuit, x, w, backend=backend)
            y.sin().sum().backward()
            assert x.grad is not None
            assert w.grad is not None
            values.append([t.detach().cpu().double() for t in (y, x.grad, w.grad)])
        for actual, expected in zip(*values, strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5 * max(1.0, expected.abs().max().item()))

    def test_strided_inputs_and_groups_of_weights(self):
        circuit = layered(4, 2)
        inputs, weights = parameters(circuit, (40, 3), (3,))
        expected = hqf.expval(circuit, inputs, weights, backend="reference").float()
        strided = inputs.float().cuda().permute(2, 1, 0).contiguous().permute(2, 1, 0)
        actual = hqf.expval(circuit, strided, weights.float().cuda(), backend="triton")
        torch.testing.assert_close(actual.cpu(), expected, atol=1e-5, rtol=0)

    def test_a_cuda_graph_replays_a_step(self):
        circuit = layered(4, 2)
        inputs, weights = (t.float().cuda().requires_grad_() for t in parameters(circuit, (4096,)))

        def step() -> tuple[torch.Tensor, ...]:
            y = hqf.expval(circuit, inputs, weights, engine="fourier")
            return torch.autograd.grad(y.square().sum(), (inputs, weights))

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            expected = [t.clone() for t in step()]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = step()
        graph.replay()
        torch.cuda.synchronize()
        for actual, wanted in zip(got, expected, strict=True):
            assert torch.equal(actual, wanted)

    def test_results_are_reproducible(self):
        circuit = layered(4, 3)
        inputs, weights = (t.float().cuda() for t in parameters(circuit, (100_003,)))
        first, second = (gradients(circuit, inputs, weights) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)


def gradients(circuit: Circuit, inputs: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Values and gradients by Triton's kernels."""
    x, w = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
    y = hqf.expval(circuit, x, w, backend="triton")
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), (x, w))]
