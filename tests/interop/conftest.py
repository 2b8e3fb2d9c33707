"""The device ``hqf.qubit`` for tests, from the project's own metadata."""

import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory):
    """A folder for sys.path with the entry points that pyproject.toml declares, whatever is installed."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("plugins")
    info = folder / "hqfkernels_under_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hqfkernels-under-test\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
