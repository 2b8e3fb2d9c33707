"""Circuits as layers: drop-in modules that own the weights."""

from hqfkernels.nn.circuit_layer import CircuitLayer
from hqfkernels.nn.patch import DirectionalCircuit2d, GlobalCircuit2d, LocalCircuit2d, PatchCircuit2d

__all__ = ["CircuitLayer", "DirectionalCircuit2d", "GlobalCircuit2d", "LocalCircuit2d", "PatchCircuit2d"]
