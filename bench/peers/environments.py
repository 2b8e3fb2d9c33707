"""A virtual environment for every file in ``requirements``, created where it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bench.peers.client import PeerError

REQUIREMENTS = Path(__file__).parent / "requirements"


def python(environment: str | None, folder: Path) -> Path:
    """The interpreter of an environment under ``folder``, or of the project's own."""
    return Path(sys.executable) if environment is None else folder / environment / "bin" / "python"


def packages(environment: str | None) -> list[str]:
    """The distributions whose versions matter: those that the requirements name."""
    if environment is None:
        return ["numpy", "torch"]
    lines = "\n".join(path.read_text() for path in _files(environment)).splitlines()
    return sorted({match[0] for line in lines if (match := re.match(r"[\w.-]+", line))})


def _files(environment: str) -> list[Path]:
    """What is installed with its dependencies and, where there is such a file, what after it without them."""
    paths = [REQUIREMENTS / f"{environment}.txt", REQUIREMENTS / f"{environment}.no-deps.txt"]
    return [path for path in paths if path.exists()]


def install(environment: str, folder: Path) -> None:
    """Creates an environment as its requirements are now; pip's output goes to ``<environment>.log`` beside it.

    Raises:
        PeerError: pip could not install it; the message is pip's.
    """
    home, files = folder / environment, _files(environment)
    wanted = "".join(path.read_text() for path in files)
    installed = home / "installed.txt"  # the requirements that were met, written when all of them were
    if installed.exists() and installed.read_text() == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{environment}.log"
    commands: list[list[str | Path]] = [[sys.executable, "-m", "venv", "--clear", home]]
    for path in files:
        options = ["--no-deps"] if "no-deps" in path.name else []
        commands.append([python(environment, folder), "-m", "pip", "install", "-r", path, *options])
    with log.open("w") as output:
        for command in commands:
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode:
                lines = log.read_text().strip().splitlines()
                raise PeerError(" ".join([line for line in lines if line.startswith("ERROR")] or lines[-1:]))
    installed.write_text(wanted)
