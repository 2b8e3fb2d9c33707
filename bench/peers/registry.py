"""Who is measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench.cases import OURS


@dataclass(frozen=True)
class Peer:
    """A way to run the benchmark circuit.

    Attributes:
        name: in tables.
        adapter: "module:function", see `bench.peers.adapters`.
        environment: the file in ``requirements`` that says what it needs; None: the project's own environment.
        batched: whether a step evaluates a batch in common; else the time is in proportion to the batch, and a few
            circuits tell it.
    """

    name: str
    adapter: str
    environment: str | None
    batched: bool = True


_HERE = "bench.peers.adapters"
HQFKERNELS = Peer(OURS, f"{_HERE}.hqfkernels:expval", None)
PEERS = {
    "handwritten": Peer("hand-written torch", f"{_HERE}.handwritten:eager", None),
    "handwritten-compiled": Peer("hand-written torch, compiled", f"{_HERE}.handwritten:compiled", None),
    "low-rank": Peer("hand-written torch, low rank", f"{_HERE}.handwritten:low_rank", None),
    "pennylane-jax": Peer("PennyLane default.qubit, jax.jit", f"{_HERE}.pennylane:jax_jit", "pennylane"),
    "pennylane-torch": Peer(
        "PennyLane default.qubit, torch backprop", f"{_HERE}.pennylane:torch_backprop", "pennylane"
    ),
    "pennylane-lightning": Peer(
        "PennyLane lightning.qubit, adjoint", f"{_HERE}.pennylane:lightning_adjoint", "pennylane", batched=False
    ),
    "tensorcircuit-jax": Peer("TensorCircuit-NG, jax.jit + vmap", f"{_HERE}.tensorcircuit:jax_jit", "tensorcircuit"),
    "tensorcircuit-torch": Peer("TensorCircuit-NG, torch vmap", f"{_HERE}.tensorcircuit:torch_vmap", "tensorcircuit"),
    "pyqtorch": Peer("PyQTorch", f"{_HERE}.pyqtorch:run", "pyqtorch"),
    "torchquantum": Peer("TorchQuantum-NG", f"{_HERE}.torchquantum:functional", "torchquantum"),
    "deepquantum": Peer("DeepQuantum", f"{_HERE}.deepquantum:forward", "deepquantum"),
    "qandle": Peer("qandle", f"{_HERE}.qandle:layers", "qandle"),
    "qulacs": Peer("Qulacs, a process per thread", f"{_HERE}.qulacs:backprop", "qulacs", batched=False),
}
"""Every peer, by the key that ``--peers`` takes."""
