"""PennyLane's demonstrations train along the same loss curve when the layer is swapped."""

import pytest
import torch

qml = pytest.importorskip("pennylane")
from bench import demos  # noqa: E402
from hqfkernels.interop.pennylane import TorchLayer  # noqa: E402


def test_hybrid_network():
    theirs, ours = (demos.train_hybrid_network(layer, 3) for layer in (qml.qnn.TorchLayer, TorchLayer))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert sum(ours[-40:]) < 0.8 * sum(ours[:40])


def test_quanvolution_network(recorder):
    theirs = demos.train_quanvolution_network(qml.qnn.TorchLayer, 40, 2)
    with recorder:
        ours = demos.train_quanvolution_network(TorchLayer, 40, 2)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert sum(ours[-10:]) < 0.8 * sum(ours[:10])
    assert sum(name.startswith("hqfkernels") and "forward" in name for name in recorder.names) >= 20
    features = demos.Quanvolution(TorchLayer)(torch.rand(3, 1, 28, 28))
    assert features.shape == (3, 4, 14, 14)
