"""QSkip: a patch circuit on a skip connection."""

from __future__ import annotations

from torch import Tensor, nn

from hqfnet.layers import AngleEncoder, ResidualGate
from hqfnet.twin import patch_mixer


class QSkip(nn.Module):
    """Refines a skip connection: (B, channels, H, W) -> (B, channels, H, W).

    1x1 convolution to a few angle channels, local patch circuit (or its twin), 1x1 convolution back, residual gate
    that starts at 0.

    Args:
        channels: channels of the skip connection.
        angles: channels that enter the circuit.
        patch: side of a patch; the circuit has patch * patch qubits.
        depth: layers of the circuit.
        quantum: False puts the classical twin in the circuit's place.
    """

    def __init__(self, channels: int, angles: int = 4, patch: int = 2, depth: int = 2, quantum: bool = True) -> None:
        super().__init__()
        self.encode = AngleEncoder(channels, angles)
        self.circuit = patch_mixer(angles, patch, depth, quantum)
        self.expand = nn.Conv2d(angles, channels, 1)
        self.gate = ResidualGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = self.gate(x, self.expand(self.circuit(self.encode(x))))
        return refined
