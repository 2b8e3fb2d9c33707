"""What fuzzing found, again; and readers of outside input on seeds that are broken at random."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import __main__ as fuzz
from fuzz.targets import TARGETS, seeds
from hqfkernels.interop.qasm import from_qasm
from hqfkernels.program import Program
from hqfkernels.reference import rotations, series
from hqfkernels.series import Series

FINDINGS = sorted(Path(__file__).parents[1].glob("fuzz/findings/*"))
FEW = settings(max_examples=30, derandomize=True, database=None, deadline=None)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_findings_stay_fixed(path):
    TARGETS[path.name.partition("-")[0]](path.read_bytes())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qasm-register-of-negative-size", "line 3: b: -2 qubits"),  # c would have shared its qubits with a
        ("qasm-negative-number-of-controls", r"line 3: ctrl\(-5\)"),
        ("qasm-gates-of-gates-of-gates", "more than 100000 gates"),
        ("qasm-power-beyond-all-floats", r"line 3: 10.0 \*\* 400.0"),
    ],
)
def test_findings_are_named(name, message):
    (path,) = (path for path in FINDINGS if path.name == name)
    with pytest.raises(ValueError, match=message):
        from_qasm(path.read_text())


@st.composite
def broken(draw: st.DrawFn, name: str) -> bytes:
    """A seed with a few words or bytes replaced, doubled, or taken out."""
    data = draw(st.sampled_from(seeds(name)))
    words = [
        b"0",
        b"1",
        b"-1",
        b"3",
        b"16777217",
        b"1e400",
        b"nan",
        b"[",
        b"{",
        b"}",
        b"",
        b"expval",
        b"99999999999999",
    ]
    for _ in range(draw(st.integers(1, 3))):
        parts = (
            data.split(b" ") if draw(st.booleans()) and b" " in data else [data[k : k + 1] for k in range(len(data))]
        )
        joint = b" " if len(parts) == data.count(b" ") + 1 else b""
        if not parts:
            break
        at = draw(st.integers(0, len(parts) - 1))
        kind = draw(st.sampled_from(["replace", "double", "drop", "cut"]))
        new = {"replace": [draw(st.sampled_from(words))], "double": [parts[at]] * 2}.get(kind, [])
        data = joint.join(parts[:at] + new + (parts[at + 1 :] if kind != "cut" else []))
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_broken_seeds(name):
    target = TARGETS[name]
    for seed in seeds(name):
        target(seed)
    FEW(given(broken(name))(lambda data: target(data)))()


@pytest.mark.parametrize(
    ("kind", "recipe", "reference", "operator"),
    [("program", Program, rotations, "gate_forward"), ("series", Series, series, "fourier_forward")],
)
def test_texts_mean_the_same_in_both_languages(kind, recipe, reference, operator, native, threads):
    """What the compiled reader takes, the other one takes too, and both compute the same numbers."""
    run = getattr(torch.ops.hqfkernels, operator)
    outcomes = set()

    def check(data: bytes) -> None:
        text = data.decode()
        try:
            read = recipe.from_text(text)
            n_inputs, n_parameters = read.n_inputs, read.n_weights if kind == "program" else read.n_parameters
        except ValueError:
            read, n_inputs, n_parameters = None, *(int(word) for word in seeds(kind)[0].split()[2:4])
        if max(n_inputs, n_parameters) > 4096:
            return
        inputs = torch.linspace(0.3, 1.7, 2 * n_inputs, dtype=torch.float64).view(2, n_inputs)
        parameters = torch.linspace(-1, 2, n_parameters, dtype=torch.float64)
        try:
            values = run(inputs, parameters, text, 1, [])
        except RuntimeError:
            outcomes.add("refused")
            return
        outcomes.add("taken")
        assert read is not None
        if values.shape[-1]:
            torch.testing.assert_close(values, reference.forward(read, inputs, parameters), atol=1e-9, rtol=1e-9)

    settings(FEW, max_examples=80)(given(broken(kind))(check))()
    assert outcomes == {"refused", "taken"}


def test_a_run_counts_executions_and_findings(tmp_path, monkeypatch, capfd):
    """Of all targets, also after one that ended with a finding; one that did not begin is no run."""
    ends = {"a": "#50 pulse\nstat::number_of_executed_units: 1200", "b": "#34 NEW", "c": ""}
    code = "import sys; print('INFO: Seed: 7', sys.argv[1], sep='\\n', file=sys.stderr); sys.exit(int(sys.argv[2]))"
    programs = {name: [sys.executable, "-c", code, said, str(77 * (name == "b"))] for name, said in ends.items()}
    monkeypatch.setattr(fuzz, "commands", lambda seconds: programs)
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    with pytest.raises(SystemExit, match="there are findings"):
        fuzz.main(["--json", str(tmp_path / "run.json"), "--seconds", "7"])
    run = json.loads((tmp_path / "run.json").read_text())
    assert [tuple(row.values()) for row in run["targets"]] == [("a", 1200, 0), ("b", 34, 1), ("c", 0, 0)]
    out, err = capfd.readouterr()
    assert "executions in 7 s" in out
    assert "| all | 1,234 | 1 |" in out
    assert "#34 NEW" in err
    monkeypatch.setattr(fuzz, "commands", lambda seconds: {"a": [sys.executable, "-c", "raise SystemExit(3)"]})
    with pytest.raises(SystemExit, match="a ended with 3 before it began"):
        fuzz.main(["--json", str(tmp_path / "none.json")])
    assert not (tmp_path / "none.json").exists()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """At most a quarter of a gigabyte more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 28), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's table of memory")
@pytest.mark.parametrize(
    ("operator", "text", "message"),
    [
        ("gate_forward", "hqf1 1 0 0 0 0 16777216 expval 0", "ends too early"),
        ("gate_forward", "hqf1 1 0 0 0 0 0 expval 16777216", "ends too early"),
        ("fourier_forward", "series2 0 1 0 0 1 16777216 0 0", "ends too early"),
        (
            "fourier_forward",
            "series2 1 300 " + "2 1 0 1.0 1024 0 1.0 1024 1 1 0 0 " * 300,
            "too many features",
        ),
        ("propagation_forward", "propagation1 0 16777216 1.0", "ends too early"),
        ("propagation_forward", "propagation1 0 1 1.0 9 " + "collect 16777216 0 " * 9 + "0", "too many numbers"),
    ],
)
def test_short_texts_take_little_memory(operator, text, message, native, little_memory):
    run, nothing = getattr(torch.ops.hqfkernels, operator), torch.zeros(0, dtype=torch.float64)
    arguments: tuple[Any, ...] = (
        (nothing, text) if operator == "propagation_forward" else (torch.zeros(1, 0), nothing, text, 1, [])
    )
    with pytest.raises(RuntimeError, match=message):
        run(*arguments)
