"""Circuits as layers: drop-in modules that own the weights."""

from hqfkernels.nn.circuit_layer import CircuitBank, CircuitLayer
from hqfkernels.nn.patch import DirectionalCircuit2d, GlobalCircuit2d, LocalCircuit2d, PatchBank2d, PatchCircuit2d
from hqfkernels.nn.polynomial import PolynomialLayer

__all__ = [
    "CircuitBank",
    "CircuitLayer",
    "DirectionalCircuit2d",
    "GlobalCircuit2d",
    "LocalCircuit2d",
    "PatchBank2d",
    "PatchCircuit2d",
    "PolynomialLayer",
]
