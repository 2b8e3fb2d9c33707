"""Prints what csrc/tests/threads.cpp reads: texts of real circuits for each compiled engine.

One line for each: engine, number of inputs (0 if it has none), number of parameters, text.
"""

import numpy as np

from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.engines import fourier
from hqfkernels.program import Program, lower
from hqfkernels.propagation import Propagation
from tests import oracles

LOCAL, DIAGONAL = ansatz.local_circuit((2, 2), 2), ansatz.directional_circuit((2, 2), "diagonal", 2)
MIXED = [oracles.random_circuit(np.random.default_rng(n), n, 30, 3, 4) for n in (2, 5, 8)]
AMPLITUDES = Circuit(3).amplitudes(0, 8).ry(Weight(0), 0).cx(0, 1).rxx(Weight(1), 1, 2).rz(Input(0), 2)


def main() -> None:
    """Prints them."""
    for circuit in (LOCAL, AMPLITUDES, *MIXED):
        for measurement in ("expval", "probs"):
            program = Program.from_text(lower(circuit.text, measurement))
            print("gate", program.n_inputs, program.n_weights, program.text)
    for circuits in ((LOCAL,), (LOCAL, DIAGONAL), (MIXED[0],)):
        series = fourier.series(tuple(circuit.text for circuit in circuits), "expval")
        print("fourier", series.n_inputs, series.n_parameters, series.text)
    for circuit in (LOCAL, DIAGONAL):
        source = fourier.recipe(lower(circuit.text, "expval")).source
        assert isinstance(source, Propagation)
        print("propagation", 0, circuit.n_weights, source.text)


if __name__ == "__main__":
    main()
