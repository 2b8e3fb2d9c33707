"""Circuits from and to other libraries; each module needs its library and is imported by itself.

- `hqfkernels.interop.pennylane`: QNodes to circuits, a drop-in TorchLayer, the PennyLane device ``hqf.qubit``;
- `hqfkernels.interop.qasm`: OpenQASM 3 and 2;
- `hqfkernels.interop.qiskit`: Qiskit's QuantumCircuit.
"""
