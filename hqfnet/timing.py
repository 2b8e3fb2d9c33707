"""Timing of training steps, and of the circuits in them."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from hqfnet.data.crops import Sample
from hqfnet.layers import circuit_layers
from hqfnet.task import SegmentationTask, make_optimizer


class QuantumTimer:
    """Adds up the wall time inside the circuit layers of a model, by forward and backward hooks.

    The backward interval of a layer runs from when the gradient of its output is complete to when that of its
    input is. Autograd works off the newest node first, and no circuit layer contains another, so the
    intervals of different layers do not overlap. On a GPU each hook waits for the device first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        self._began = 0.0
        for layer in circuit_layers(model).values():
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(self._end)
            layer.register_full_backward_pre_hook(self._begin)
            layer.register_full_backward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._began = now()

    def _end(self, *_: Any) -> None:
        self.seconds += now() - self._began


def now() -> float:
    """Seconds, after the device has done what it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class TrainingStep:
    """Whole training steps of a network on one random batch: forward, loss, backward, optimiser.

    Args:
        model: name of the network.
        quantum: False for the classical twin.
        size: side of the images in pixels.
        batch_size: images per step.
        device: where it runs.
    """

    def __init__(self, model: str, quantum: bool, size: int, batch_size: int, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.task = SegmentationTask(model, pretrained=False, quantum=quantum).to(device).train()
        self.batch: Sample = {
            "image": torch.rand(batch_size, 3, size, size, device=device),
            "mask": torch.randint(0, 5, (batch_size, size, size), device=device),
        }
        self._optimizer = make_optimizer(self.task, 1e-3, 1e-2)

    def run(self) -> float:
        """Makes one step and returns its wall time in seconds."""
        start = now()
        loss, _ = self.task.loss(self.batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return now() - start
