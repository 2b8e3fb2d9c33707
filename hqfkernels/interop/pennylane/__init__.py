"""PennyLane: QNodes as circuits (`from_qnode`), `TorchLayer`, and the device ``hqf.qubit`` (`HQFQubit`)."""

try:
    import pennylane  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.pennylane needs PennyLane 0.45 or later: pip install "hqfkernels[pennylane]"'
    ) from error

from hqfkernels.interop.pennylane.device import HQFQubit
from hqfkernels.interop.pennylane.qnode import TorchLayer, from_qnode

__all__ = ["HQFQubit", "TorchLayer", "from_qnode"]
