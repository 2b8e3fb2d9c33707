"""OpenQASM 3 and 2, in and out: `from_qasm`, `to_qasm`."""

try:
    import openqasm3  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.qasm needs the OpenQASM parser: pip install "hqfkernels[qasm]"'
    ) from error

from hqfkernels.interop.qasm.programs import from_qasm, to_qasm

__all__ = ["from_qasm", "to_qasm"]
