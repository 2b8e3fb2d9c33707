"""PennyLane's demonstrations of hybrid networks, with the layer (the one line that changes) as an argument.

After "Turning quantum nodes into Torch Layers" and "Quanvolutional Neural Networks" (pennylane.ai/qml/demonstrations),
on generated data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml
import torch
from torch import Tensor, nn

Layer = Callable[[Any, dict[str, Any]], nn.Module]
"""`qml.qnn.TorchLayer` or `hqfkernels.interop.pennylane.TorchLayer`."""


def moons(samples: int) -> tuple[Tensor, Tensor]:
    """Two interleaving half circles with noise: points (samples, 2) and one-hot classes (samples, 2)."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 2
    angle = rng.uniform(0, np.pi, samples)
    points = np.stack([np.cos(angle), np.sin(angle)], -1)
    points[labels == 1] = [1.0, 0.5] - points[labels == 1]
    points += rng.normal(scale=0.1, size=points.shape)
    return torch.tensor(points, dtype=torch.float32), torch.eye(2)[torch.tensor(labels)]


def hybrid_network(layer: Layer) -> nn.Module:
    """Classical layers around a circuit of 2 qubits with 6 entangling layers."""
    device = qml.device("default.qubit", wires=2)

    @qml.qnode(device)
    def qnode(inputs: Tensor, weights: Tensor) -> Any:
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.BasicEntanglerLayers(weights, wires=range(2))
        return [qml.expval(qml.PauliZ(wires=i)) for i in range(2)]

    torch.manual_seed(42)
    circuit = layer(qnode, {"weights": (6, 2)})
    return nn.Sequential(nn.Linear(2, 2), circuit, nn.Linear(2, 2), nn.Softmax(dim=1))


def stripes(samples: int) -> tuple[Tensor, Tensor]:
    """Noisy images (samples, 1, 28, 28) in [0, 1] of stripes in four directions, and their classes (samples,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 4
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    along = torch.stack([rows, columns, rows + columns, rows - columns])[labels]
    shift = torch.rand(samples, 1, 1, generator=generator) * 7
    images = 0.5 + 0.4 * torch.sin(along + shift) + 0.1 * torch.rand(samples, 28, 28, generator=generator)
    return images.clamp(0, 1)[:, None], labels


class Quanvolution(nn.Module):
    """A random circuit of 4 qubits on every 2 x 2 patch: (B, 1, H, W) -> (B, 4, H/2, W/2)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        device = qml.device("default.qubit", wires=4)

        @qml.qnode(device)
        def qnode(inputs: Tensor, weights: Tensor) -> Any:
            for j in range(4):
                qml.RY(torch.pi * inputs[..., j], wires=j)
            qml.RandomLayers(weights, wires=range(4))
            return [qml.expval(qml.PauliZ(j)) for j in range(4)]

        self.circuit = layer(qnode, {"weights": (1, 4)})

    def forward(self, images: Tensor) -> Tensor:
        patches = images[:, 0].unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4).flatten(3)
        return self.circuit(patches).permute(0, 3, 1, 2)


def quanvolution_network(layer: Layer) -> nn.Module:
    """A quanvolution and a linear classifier of 28 x 28 images."""
    torch.manual_seed(0)
    return nn.Sequential(Quanvolution(layer), nn.Flatten(), nn.Linear(4 * 14 * 14, 4))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    batch: int,
    epochs: int,
) -> list[float]:
    """The loss of every step, over ``epochs`` passes in the order of the data."""
    curve = []
    for _ in range(epochs):
        for x, y in zip(*(t.split(batch) for t in data), strict=True):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            curve.append(value.item())
    return curve


def train_hybrid_network(layer: Layer, epochs: int) -> list[float]:
    """The demonstration's training: 200 points, batches of 5, gradient descent on the absolute error."""
    model = hybrid_network(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    return train(model, optimizer, nn.L1Loss(), moons(200), 5, epochs)


def train_quanvolution_network(layer: Layer, samples: int, epochs: int) -> list[float]:
    """Images in batches of 4, as in the demonstration, Adam on the cross-entropy, through the circuit."""
    model = quanvolution_network(layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return train(model, optimizer, nn.CrossEntropyLoss(), stripes(samples), 4, epochs)
