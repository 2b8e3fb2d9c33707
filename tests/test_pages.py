"""What README.md and docs/ show runs, and says what it says; pages of hqfnet and interop have tests there."""

import re

import pytest
import torch

import hqfkernels as hqf
from tests import pages

pytestmark = pytest.mark.usefixtures("threads")

ELSEWHERE = {"docs/interop.md", "docs/hqfnet.md", "docs/tutorials/geotiff.md"}
HERE = {
    "README.md", "docs/index.md", "docs/install.md", "docs/conventions.md", "docs/layers.md", "docs/adding_an_op.md",
    "docs/tutorials/quanvolution.md", "docs/tutorials/classifier.md",
}  # fmt: skip


def test_every_page_with_examples_has_a_test():
    found = [pages.ROOT / "README.md", *(pages.ROOT / "docs").rglob("*.md")]
    names = {path.relative_to(pages.ROOT).as_posix() for path in found}
    assert {name for name in names if pages.blocks(name, "python")} == HERE | ELSEWHERE


def test_readme(capsys, native):
    pytest.importorskip("pennylane")
    names = pages.run("README.md")
    y, inputs, weights = names["y"], names["inputs"], names["weights"]
    assert y.shape == (100_000, 4)
    expected = hqf.expval(names["c"], inputs[:50].double(), weights.double(), backend="reference")
    torch.testing.assert_close(y[:50].double(), expected, atol=1e-6, rtol=0)
    assert inputs.grad.shape == inputs.shape
    assert weights.grad.abs().max() > 0
    assert (names["features"].shape, names["mixed"].shape) == ((32, 4), (32, 8))
    assert names["maps"].shape == (2, 8, 64, 64)
    (plan,) = pages.blocks("README.md", "")
    assert without_times(capsys.readouterr().out) == without_times(plan)


def without_times(plan: str) -> str:
    return re.sub(r"about \S+", "about", plan)


def test_first_page():
    assert pages.run("docs/index.md")["y"].shape == (100_000, 4)


def test_install(capsys):
    pages.run("docs/install.md")
    assert capsys.readouterr().out == f"{hqf.backends.native_status()}\n"


def test_conventions():
    names = pages.run("docs/conventions.md")
    text = pages.text_of("docs/conventions.md")
    rows = re.findall(r"^\| x0 = \d \| (.*) \|$", text, re.MULTILINE)
    table = torch.tensor([[float(value.replace("−", "-")) for value in row.split(" | ")] for row in rows])
    torch.testing.assert_close(names["y"].float(), table, rtol=0, atol=5.1e-5)
    assert names["c"].draw() in text


def test_layers():
    names = pages.run("docs/layers.md")
    assert names["values"].shape == (1000, 12)
    assert names["mixed"].shape == (1000, 4)
    assert names["every"].shape == (2, 3, 8, 64, 64)
    assert names["routed"].shape == (2, 8, 64, 64)
    few = torch.randn(5, 8, 64, 64)
    assert torch.equal(names["program"].module()(few), names["plain"](few))


def test_adding_an_operator():
    names = pages.run("docs/adding_an_op.md")  # it checks itself (opcheck)
    expected = (names["a"] * names["b"]).sum(-1)
    torch.testing.assert_close(torch.ops.example.overlap(names["a"], names["b"]), expected)


def test_quanvolution(capsys):
    pytest.importorskip("sklearn")
    page = "docs/tutorials/quanvolution.md"
    names = pages.run(page, {"epochs = 30": "epochs = 3"})
    *shown, score = capsys.readouterr().out.splitlines()
    assert "\n".join(shown) == "".join(pages.blocks(page, "")).strip()
    assert score == f"{names['accuracy']:.3f} of 397 held-out digits are right"
    assert names["accuracy"] > 0.85


def test_classifier(capsys, monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    page = "docs/tutorials/classifier.md"
    names = pages.run(page)
    (shown,) = pages.blocks(page, "")
    printed = capsys.readouterr().out
    assert printed.startswith(shown)
    assert str(names["plan"]) in printed
    assert names["accuracy"] > 0.93
    assert float(printed.split()[-1]) < 1e-13
    assert names["compiled"] is not None
