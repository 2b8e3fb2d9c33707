"""The blocks of the network: fusion, skip connections, experts, classical twin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import hqfkernels as hqf
from hqfnet.fusion import DMCAF, deformable_sample
from hqfnet.layers import AngleEncoder, BatchNorm2d
from hqfnet.qmoe import QMoE, load_balance_loss
from hqfnet.qskip import QSkip
from hqfnet.twin import PatchTwin2d, TwinBank, patch_experts, patch_mixer


def unmoved_after(steps: int, module: torch.nn.Module, run: Callable[[], Tensor]) -> list[str]:
    """Names of the parameters that stochastic gradient descent has not moved."""
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = {name: p.clone() for name, p in module.named_parameters()}
    for _ in range(steps):
        result = run()
        optimizer.zero_grad()
        (result * torch.randn_like(result)).sum().backward()
        optimizer.step()
    return [name for name, p in module.named_parameters() if torch.equal(p, before[name])]


def sample_by_loops(values: list[Tensor], offsets: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sample` one bilinear sample at a time."""
    batch, heads, levels, points, _, height, width = offsets.shape
    per_head = values[0].shape[1] // heads
    rows = []
    for b, h, i, j in itertools.product(range(batch), range(heads), range(height), range(width)):
        total = torch.zeros(per_head, dtype=offsets.dtype)
        for level, k in itertools.product(range(levels), range(points)):
            value = values[level][b, h * per_head : (h + 1) * per_head]
            rows_here, columns_here = value.shape[1:]
            x = (j + 0.5) / width * columns_here + offsets[b, h, level, k, 0, i, j] - 0.5
            y = (i + 0.5) / height * rows_here + offsets[b, h, level, k, 1, i, j] - 0.5
            x, y = x.clamp(0, columns_here - 1), y.clamp(0, rows_here - 1)
            left, top = int(x.detach()), int(y.detach())
            right, bottom = min(left + 1, columns_here - 1), min(top + 1, rows_here - 1)
            upper = value[:, top, left] * (1 - (x - left)) + value[:, top, right] * (x - left)
            lower = value[:, bottom, left] * (1 - (x - left)) + value[:, bottom, right] * (x - left)
            total = total + weights[b, h, level, k, i, j] * (upper * (1 - (y - top)) + lower * (y - top))
        rows.append(total)
    return torch.stack(rows).view(batch, heads, height, width, per_head).permute(0, 1, 4, 2, 3).flatten(1, 2)


def test_deformable_sampling_agrees_with_loops() -> None:
    torch.manual_seed(0)
    batch, heads, points, height, width = 2, 2, 3, 3, 4
    values = [torch.randn(batch, 6, *size, dtype=torch.float64, requires_grad=True) for size in ((5, 4), (2, 3))]
    offsets = (1.5 * torch.randn(batch, heads, 2, points, 2, height, width, dtype=torch.float64)).requires_grad_()
    weights = torch.rand(batch, heads, 2, points, height, width, dtype=torch.float64, requires_grad=True)
    fast = deformable_sample(values, offsets, weights)
    slow = sample_by_loops(values, offsets, weights)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    direction = torch.randn_like(fast)
    inputs = [*values, offsets, weights]
    for one, other in zip(
        torch.autograd.grad(fast, inputs, direction), torch.autograd.grad(slow, inputs, direction), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_deformable_sampling_keeps_its_places_in_half_precision() -> None:
    """In bfloat16, columns 128 and 129 are the same number."""
    ramp = torch.arange(256.0).expand(1, 1, 1, 256)
    offsets = torch.zeros(1, 1, 1, 1, 2, 1, 256, dtype=torch.bfloat16)
    sampled = deformable_sample([ramp], offsets, torch.ones(1, 1, 1, 1, 1, 256))
    torch.testing.assert_close(sampled, ramp, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_deformable_sampling_at_places_that_are_none(dtype: torch.dtype) -> None:
    """NaN offsets spoil their query alone; infinite and huge ones are on the border. Maps large enough for vectors."""
    torch.manual_seed(0)
    values = [torch.randn(2, 6, *size, dtype=dtype, requires_grad=True) for size in ((5, 4), (16, 20))]
    offsets = torch.randn(2, 2, 2, 3, 2, 9, 7, dtype=dtype)
    weights = torch.rand(2, 2, 2, 3, 9, 7, dtype=dtype, requires_grad=True)
    border = offsets.clone()
    border[1, 0, :, 0, 0, 2, 3], border[1, 1, 1, 2, :, 8, 6] = -100, 100
    far = border.clone()
    far[1, 0, :, 0, 0, 2, 3], far[1, 1, 1, 2, :, 8, 6] = -torch.inf, torch.finfo(dtype).max
    spoilt = far.clone()
    spoilt[0, 1, 0, 2, 0, 4, 5] = spoilt[0, 0, 1, 1, :, 0, 0] = torch.nan

    results, gradients = [], []
    for moved in (border, far, spoilt):
        moved.requires_grad_()
        results.append(deformable_sample(values, moved, weights))
        gradients.append(torch.autograd.grad(results[-1].sum(), [moved, weights, *values]))
    assert torch.equal(results[1], results[0])
    for one, other in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(one, other)

    result, (to_offsets, to_weights, *to_values) = results[2], gradients[2]
    assert result.isnan().nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]] + [
        [0, channel, 4, 5] for channel in (3, 4, 5)
    ]
    assert torch.equal(result[result.isfinite()], results[1][result.isfinite()])
    spoilt_samples = torch.zeros(weights.shape, dtype=torch.bool)
    spoilt_samples[0, 1, 0, 2, 4, 5] = spoilt_samples[0, 0, 1, 1, 0, 0] = True
    assert torch.equal(to_weights.isnan(), spoilt_samples)
    assert torch.equal(to_offsets.isnan(), spoilt_samples.unsqueeze(4).expand_as(to_offsets))
    assert all(gradient.isfinite().all() for gradient in to_values)


def test_fusion_of_a_spoilt_map_does_not_crash() -> None:
    """Whatever a training has come to: everything is NaN."""
    fusion = DMCAF(8, 6, levels=2, heads=4, points=2)
    x = torch.full((2, 8, 20, 30), torch.nan, requires_grad=True)
    maps = [torch.randn(2, 6, 12, 14, requires_grad=True) for _ in range(2)]
    result = fusion(x, maps)
    result.sum().backward()
    assert result.isnan().all()


def test_normalisation_of_a_single_value() -> None:
    """One pixel of one sample has no variance: the statistics so far hold, and stay."""
    norm = BatchNorm2d(3)
    norm(torch.randn(4, 3, 2, 2) + 1)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    result = norm(x)
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
    assert torch.equal(result, norm.eval()(x))


def test_fusion_starts_as_identity_and_learns() -> None:
    torch.manual_seed(0)
    fusion = DMCAF(8, 6, levels=2, heads=4, points=2)
    x, maps = torch.randn(2, 8, 6, 10), [torch.randn(2, 6, 3, 5) for _ in range(2)]
    assert torch.equal(fusion(x, maps), x)
    # The gate moves first, then what it lets through, at last the query (offsets and weights start independent of it).
    assert not unmoved_after(3, fusion, lambda: fusion(x, maps))
    # Heads start in evenly spread directions, points at distances 1 and 2.
    rings = DMCAF(8, 6, levels=2, heads=4, points=2).offsets.bias
    assert rings is not None
    rings = rings.detach().view(4, 2, 2, 2)
    torch.testing.assert_close(rings.norm(dim=-1), torch.tensor([1.0, 2.0]).expand(4, 2, 2))
    torch.testing.assert_close(rings.sum(dim=0), torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="channels: 6 is not divisible by heads=4"):
        DMCAF(6, 6)


def test_angles_stay_within_a_quarter_turn_and_use_it() -> None:
    torch.manual_seed(0)
    angles = AngleEncoder(16, 4)(100 * torch.randn(4, 16, 32, 32))
    assert angles.abs().max() < math.pi / 2
    assert angles.std() > 0.4


@pytest.mark.parametrize("quantum", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_blocks_start_as_identity_and_learn(quantum: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, *size)
    for block in (QSkip(12, quantum=quantum), QMoE(12, quantum=quantum)):

        def run(block: torch.nn.Module = block) -> Tensor:
            result = block(x)
            return result[0] if isinstance(result, tuple) else result

        assert torch.equal(run(), x)
        assert not unmoved_after(2, block, run)  # the first step moves the gate, the second the circuit behind it


def test_experts_are_one_bank() -> None:
    moe = QMoE(12, angles=8)
    assert isinstance(moe.experts, hqf.nn.PatchBank2d)
    assert [w.numel() for w in moe.experts.weights] == [16, 28, 64]  # four directions, two layers each
    assert isinstance(QMoE(12, quantum=False).experts, TwinBank)
    for quantum in (True, False):
        with pytest.raises(ValueError, match="experts: expected some of local, global, directional, got"):
            QMoE(12, experts=("vertical",), quantum=quantum)  # type: ignore[arg-type]


def expert_outputs(moe: QMoE, angles: Tensor) -> Tensor:
    """What each expert makes of the angles, (B, experts, angles, H, W)."""
    if isinstance(moe.experts, TwinBank):
        return torch.stack([twin(angles) for twin in moe.experts.twins], 1)
    outputs: Tensor = moe.experts(angles)
    return outputs


@pytest.mark.parametrize("quantum", [True, False])
def test_router_mixes_per_patch(quantum: bool) -> None:
    """With a router that always chooses the second expert, only that expert counts."""
    torch.manual_seed(0)
    moe = QMoE(12, angles=4, quantum=quantum).eval()
    with torch.no_grad():
        moe.gate.gate.fill_(1.0)
        moe.router.weight.zero_()
        moe.router.bias = torch.nn.Parameter(torch.tensor([0.0, 100.0, 0.0]))
    x = torch.randn(1, 12, 7, 6)
    expected = x + moe.expand(expert_outputs(moe, moe.encode(x))[:, 1])
    torch.testing.assert_close(moe(x)[0], expected)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_router_leaves_experts_out(top_k: int) -> None:
    """With top_k, the experts of the smallest shares make no difference, and the router still learns."""
    torch.manual_seed(0)
    moe = QMoE(12, angles=4, top_k=top_k).eval()
    torch.nn.init.ones_(moe.gate.gate)
    x = torch.randn(1, 12, 8, 6)
    shares = moe.router(torch.nn.functional.avg_pool2d(x, 2)).softmax(dim=1)
    kept = shares * (shares >= shares.sort(dim=1, descending=True).values[:, top_k - 1 : top_k])
    assert (kept > 0).sum(dim=1).eq(top_k).all()
    kept = kept.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    outputs = expert_outputs(moe, moe.encode(x))
    expected = x + moe.expand((kept[:, :, None] * outputs).sum(1))
    result, balance = moe(x)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(balance, load_balance_loss(shares))
    result.square().sum().backward()
    assert moe.router.weight.grad is not None
    assert moe.router.weight.grad.abs().max() > 1e-4
    with pytest.raises(ValueError, match="top_k: expected 1 to 3 of the 3 experts, got 4"):
        QMoE(12, top_k=4)


def test_load_balance_loss() -> None:
    uniform = torch.full((2, 4, 3, 5), 0.25)
    uniform[:, 0] += 1e-6  # a tie would go to one expert
    collapsed = torch.zeros(2, 4, 3, 5)
    collapsed[:, 2] = 1
    assert load_balance_loss(collapsed).item() == pytest.approx(4)
    assert load_balance_loss(uniform).item() == pytest.approx(1, abs=1e-5)
    mixed = torch.zeros(1, 2, 1, 4)
    mixed[0, 0] = torch.tensor([0.9, 0.8, 0.7, 0.2])
    mixed[0, 1] = 1 - mixed[0, 0]
    assert load_balance_loss(mixed).item() == pytest.approx(2 * (0.75 * 0.65 + 0.25 * 0.35))


def reach(layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Which inputs an output depends on."""
    x = torch.randn(1, 2, 6, 8, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    (gradient,) = torch.autograd.grad(y[0, 1, 2, 3], x)
    return gradient != 0


def test_twins_have_the_reach_of_the_circuits() -> None:
    """An output of twin and circuit depends on the same inputs: the pixels of its patch in its channel."""
    torch.manual_seed(0)
    shares = torch.full((1, 3, 3, 4), 1 / 3)
    reaches = [reach(patch_mixer(2, 2, 4, quantum)) for quantum in (True, False)]
    for quantum in (True, False):
        bank = patch_experts(("local", "global", "directional"), 2, 2, 2, quantum)
        reaches.append(reach(partial(bank, routing=shares)))
    assert all(torch.equal(reaches[0], other) for other in reaches)
    assert reaches[0].sum() == 4


def test_twin_puts_pixels_back_where_they_were() -> None:
    x = torch.randn(2, 3, 8, 10)
    assert torch.equal(PatchTwin2d(depth=0)(x), x)


@pytest.mark.parametrize("size", [(8, 10), (5, 7)])
def test_memory_formats_make_no_difference(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size)
    for quantum in (True, False):
        mixer = patch_mixer(3, 2, 2, quantum)
        torch.testing.assert_close(mixer(x.contiguous(memory_format=torch.channels_last)), mixer(x))


def test_twin_pads_and_crops() -> None:
    torch.manual_seed(0)
    twin = PatchTwin2d()
    x = torch.randn(1, 3, 5, 7)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))
    torch.testing.assert_close(twin(x), twin(padded)[..., :5, :7])
