"""What the property tests leave behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.record import RECORD


@pytest.fixture(scope="session", autouse=True)
def _result() -> Iterator[None]:
    """Writes the record to the file that HQF_PROPERTY_RESULT names."""
    yield
    if path := os.environ.get("HQF_PROPERTY_RESULT"):
        Path(path).write_text(json.dumps(RECORD.content()) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in RECORD.lines():
        terminalreporter.write_line(line)
