"""QMoE: a mixture of quantum experts at the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hqfnet.layers import AngleEncoder, ResidualGate
from hqfnet.twin import Expert, patch_experts


class QMoE(nn.Module):
    """Experts on the same angles, mixed by a softmax router per patch.

    Args:
        channels: channels of the bottleneck.
        angles: channels that enter the circuits.
        experts: any of "local", "global", "directional"; all run as one bank on the same patches.
        patch: side of a patch; each circuit has patch * patch qubits.
        depth: layers of each circuit; the directional one has as many for each of the four directions.
        quantum: False puts classical twins in the circuits' places.
        top_k: only this many experts with the largest shares count in a patch; None mixes all. Every expert is
            computed in any case: the circuits cost little, and the shapes stay fixed.

    Raises:
        ValueError: an expert is unknown, or ``top_k`` is not in 1..number of experts.
    """

    def __init__(
        self,
        channels: int,
        angles: int = 8,
        experts: Sequence[Expert] = get_args(Expert),
        patch: int = 2,
        depth: int = 2,
        quantum: bool = True,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        if top_k is not None and not 1 <= top_k <= len(experts):
            raise ValueError(f"top_k: expected 1 to {len(experts)} of the {len(experts)} experts, got {top_k}")
        self.patch = patch
        self.top_k = top_k
        self.encode = AngleEncoder(channels, angles)
        self.experts = patch_experts(experts, angles, patch, depth, quantum)
        self.router = nn.Conv2d(channels, len(experts), 1)
        self.expand = nn.Conv2d(angles, channels, 1)
        self.gate = ResidualGate(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) -> the refined map of the same shape, and the load-balance loss (a scalar)."""
        angles = self.encode(x)
        pooled = F.avg_pool2d(x, self.patch, ceil_mode=True, count_include_pad=False)
        shares = self.router(pooled).softmax(dim=1)  # (B, experts, patch rows, patch columns)
        chosen = shares if self.top_k is None else largest_shares(shares, self.top_k)
        mixed = self.experts(angles, chosen)
        return self.gate(x, self.expand(mixed)), load_balance_loss(shares)


def largest_shares(shares: Tensor, count: int) -> Tensor:
    """The ``count`` largest shares of each patch, and 0 for the other experts.

    The shares that stay are not scaled up to sum to 1: with one expert left that would make the share a constant,
    and the router would learn nothing from the loss (Switch Transformer, arXiv 2101.03961, sec. 2.1).

    Args:
        shares: (B, E, rows, columns), summing to 1 over E.
        count: 1..E.
    """
    values, experts = shares.topk(count, dim=1)
    return torch.zeros_like(shares).scatter(1, experts, values)


def load_balance_loss(shares: Tensor) -> Tensor:
    """Load-balance loss of the Switch Transformer (arXiv 2101.03961, eq. 4): E * sum_e f_e P_e.

    f_e is the fraction of patches whose largest share is expert e, P_e the mean share of e. It is 1 when both are
    uniform and E when one expert takes everything. The gradient flows through P alone.

    Args:
        shares: (B, E, rows, columns), summing to 1 over E.
    """
    experts = shares.shape[1]
    first = F.one_hot(shares.argmax(dim=1), experts).flatten(0, 2).to(shares.dtype).mean(dim=0)
    return experts * (first * shares.mean(dim=(0, 2, 3))).sum()
