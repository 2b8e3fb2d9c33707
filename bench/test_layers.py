"""Patch layers as HQF-Net uses them, beside their classical twins, under pytest-benchmark: forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from hqfnet.qmoe import QMoE
from hqfnet.qskip import QSkip
from hqfnet.twin import patch_experts, patch_mixer

SKIP, BOTTLENECK = (4, 128), (4, 16)
"""Images in a batch and sides of the maps of hqfnet_small on 256 x 256 pixels: the first skip, the bottleneck."""

LAYERS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, int], int]] = {
    "circuit of a skip": (lambda quantum: patch_mixer(4, 2, 2, quantum), SKIP, 4),
    "QSkip": (lambda quantum: QSkip(32, quantum=quantum), SKIP, 32),
    "QMoE": (lambda quantum: QMoE(256, quantum=quantum), BOTTLENECK, 256),
}
"""Layer, with circuits or with its twin's blocks; where it stands; channels."""


@pytest.mark.parametrize("quantum", [True, False], ids=["circuits", "twin"])
@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_backward(benchmark: BenchmarkFixture, name: str, quantum: bool) -> None:
    torch.manual_seed(0)
    build, (images, side), channels = LAYERS[name]
    layer = build(quantum)
    x = torch.rand(images, channels, side, side, requires_grad=True)
    run(benchmark, f"{name}, {images} x {channels} x {side} x {side}", layer, x)


@pytest.mark.parametrize("quantum", [True, False], ids=["circuits", "twin"])
def test_routed_experts(benchmark: BenchmarkFixture, quantum: bool) -> None:
    torch.manual_seed(0)
    experts = patch_experts(("local", "global", "directional"), 8, 2, 2, quantum)
    images, side = BOTTLENECK
    x = torch.rand(images, 8, side, side, requires_grad=True)
    shares = torch.rand(images, 3, side // 2, side // 2).softmax(1).requires_grad_()
    run(benchmark, f"three routed experts, {images} x 8 x {side} x {side}", experts, x, shares)


def run(benchmark: BenchmarkFixture, group: str, layer: nn.Module, *inputs: Tensor) -> None:
    """Times forward and backward for the inputs and all parameters."""
    wanted = (*inputs, *layer.parameters())

    def step() -> tuple[Tensor, ...]:
        y = layer(*inputs)
        return torch.autograd.grad((y[0] if isinstance(y, tuple) else y).square().sum(), wanted)

    benchmark.group = group
    benchmark(step)
