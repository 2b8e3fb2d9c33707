"""The readers of outside input, each with seeds to mutate: a target takes bytes, and raises only if it found a defect.

A reader may refuse its input with ValueError, which it documents. Anything else that escapes is a finding, and so is a
result that does not mean the same when it is written and read again.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hqfkernels import Circuit, ansatz
from hqfkernels.circuit import GATES
from hqfkernels.engines.fourier import recipe
from hqfkernels.interop.qasm import from_qasm, to_qasm
from hqfkernels.program import Program, lower
from hqfkernels.propagation import Propagation
from hqfkernels.series import Series
from tests import oracles

LARGEST = 6
"""Qubits up to which circuits that were read are used."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def circuit(data: bytes) -> None:
    """`hqfkernels.Circuit.from_text`."""
    try:
        found = Circuit.from_text(_text(data))
    except ValueError:
        return
    assert Circuit.from_text(found.text) == found
    if found.n_qubits <= LARGEST:
        lower(found.text, "expval")


def _lowered(kind: Any) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        try:
            found = kind.from_text.__wrapped__(_text(data))  # not through the cache of texts
        except ValueError:
            return
        assert kind.from_text.__wrapped__(found.text).text == found.text

    target.__doc__ = f"`hqfkernels.{kind.__name__.lower()}.{kind.__name__}.from_text`."
    return target


program, series, propagation = map(_lowered, (Program, Series, Propagation))


def qasm(data: bytes) -> None:
    """`hqfkernels.interop.qasm.from_qasm`."""
    try:
        found = from_qasm(_text(data))
    except ValueError:
        return
    again = from_qasm(to_qasm(found))
    assert (again.n_inputs, again.n_weights) == (found.n_inputs, found.n_weights)


def _file(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            try:
                read(Path(file.name))
            except ValueError:
                return

    return target


def _load_classes(path: Path) -> object:
    from hqfnet.data.classes import load_classes

    return load_classes(path)


def _read_checkpoint(path: Path) -> object:
    from hqfnet.checkpoint import read_checkpoint

    return read_checkpoint(path)


classes, checkpoint = _file(_load_classes), _file(_read_checkpoint)
classes.__doc__ = "`hqfnet.data.classes.load_classes`."
checkpoint.__doc__ = "`hqfnet.checkpoint.read_checkpoint`."

TARGETS: dict[str, Callable[[bytes], None]] = {
    "circuit": circuit,
    "program": program,
    "series": series,
    "propagation": propagation,
    "qasm": qasm,
    "classes": classes,
    "checkpoint": checkpoint,
}


# --- seeds ------------------------------------------------------------------------------------------------------------


def _circuits() -> list[Circuit]:
    rng = np.random.default_rng(0)
    drawn = [
        oracles.random_circuit(rng, n, 10, 2, 3, amplitudes=n == 2, gates=gates)
        for n, gates in ((1, ("rx", "ry", "p")), (2, ("ry", "crx", "unitary")), (3, tuple(GATES)))
    ]
    return [*drawn, ansatz.local_circuit((2, 2), 1)]


_QASM = (
    'OPENQASM 3.0;\ninclude "stdgates.inc";\ninput float[64] a;\nconst float b = 2*pi/3;\nqubit[3] q;\nbit[3] c;\n'
    "gate g(t) x, y { rx(t/2) x; inv @ cx x, y; ctrl @ rz(-t+sin(1)) x, y; }\n"
    "g(a) q[0], q[1];\nh q;\nu3(b, 1e-3, -2**3) q[2];\ngphase(0.5);\nbarrier q;\nc = measure q;\n",
    'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\nccx q[0],q[1],q[0];\nu1(pi/4) q[0];\n'
    "measure q -> c;\n",
    'OPENQASM 3.0;\ninclude "stdgates.inc";\ngate g a { gphase(-1/2.0); pow(-2) @ sx a; }\n'
    "negctrl(2) @ ctrl @ g $0, $1, $2, $3;\nlet r = $0 ++ $2;\nh r[1];\nconst angle a = 7 % 3;\n"
    "rx(mod(a, 2)*float(3/2)) $1;\ndelay[3ns] $3;\nbit b = measure $0;\n",
    'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg input[3];\nopaque delay(t) let;\ngate float(in) def, box {\n'
    "cu3(in, -in^2, .5) box, def; barrier box; u0(1) def; }\nfloat(ln(2)) input[0], input[2];\ndelay(1) input[1];\n",
)


def _checkpoints() -> list[bytes]:
    contents: list[Any] = [
        {"hqfnet": {"format": 1, "version": "0"}, "hyper_parameters": {"model": "x"}, "w": torch.ones(2)},
        {"hqfnet": 1, "hyper_parameters": {}},
        {"hqfnet": {}, "hyper_parameters": {}},
        {"hqfnet": {"format": 1}, "hyper_parameters": [1]},
        [1, "two"],
    ]
    files = []
    for content in contents:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files.append(buffer.getvalue())
    return files


def seeds(name: str) -> list[bytes]:
    """Inputs of a target that it can read, or nearly so."""
    if name == "checkpoint":
        return _checkpoints()
    if name == "classes":
        one = {"classes": [{"name": "a", "colour": "#C8453B"}, {"name": "b", "colour": "#E3C98F"}], "ignore_ids": [5]}
        return [json.dumps(one).encode()]
    if name == "qasm":
        return [text.encode() for text in (*_QASM, to_qasm(_circuits()[2]))]
    if name == "circuit":
        return [c.text.encode() for c in _circuits()]
    programs = [lower(c.text, m) for c in _circuits() for m in ("expval", "probs", "state")]
    if name == "program":
        return [text.encode() for text in programs]
    recipes = {p: recipe(p) for p in programs if p.count("state") == 0 and not Program.from_text(p).amplitudes}
    if name == "series":
        found = [Series(Program.from_text(p).n_inputs, (r.polynomials,)).text for p, r in recipes.items()]
    else:
        found = [r.source.text for r in recipes.values() if isinstance(r.source, Propagation)]
    return [text.encode() for text in found]
