"""What a command says about wrong input: one line, and exit status 2."""

from __future__ import annotations

import errno
import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException

PACKAGES = ("hqfnet", "hqfkernels", "torchgeo", "lightning")
"""Where an error that is raised on purpose speaks to the user."""

OF_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
"""What the system refuses, whoever asks: no permission, no folder, no space."""

_IN_A_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in .+$', re.MULTILINE)
_ERROR = re.compile(r"^[\w.]+: (.*)", re.MULTILINE | re.DOTALL)


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends the process with what a refusal says; any other error keeps its traceback, by which a bug is found."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.code, str):
            _end(error.code)
        raise
    except Exception as error:
        if (said := refusal(error)) is not None:
            _end(said)
        raise


def _end(said: str) -> NoReturn:
    print("error:", *map(str.strip, said.splitlines()), file=sys.stderr)
    raise SystemExit(2)


def refusal(error: Exception) -> str | None:
    """What an error tells the user who gave wrong input; None where it tells of a bug.

    It is a refusal when a ``raise`` of these `PACKAGES` made it, when Lightning refuses settings, and when the system
    refuses to write. Of an error in a loader process, torch hands on the text of its traceback alone.
    """
    if isinstance(error, MisconfigurationException):
        return str(error)
    if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM:
        return str(error)
    if not isinstance(error, ValueError | TypeError | RuntimeError | OSError):
        return None
    text = str(error)
    if _IN_A_WORKER.match(text):
        *_, last = _FRAME.finditer(text)
        place, said = (last[1], int(last[2])), _ERROR.search(text, last.end())
        return said[1].strip() if said and _raised_on_purpose(*place) else None
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if _raised_on_purpose(frame.filename, frame.lineno or 0):
        return text
    # jsonargparse makes an error of its own of one that a class raised.
    return refusal(error.__cause__) if isinstance(error.__cause__, Exception) else None


def _raised_on_purpose(file: str, line: int) -> bool:
    ours = any(Path(file).is_relative_to(folder) for folder in _folders())
    return ours and linecache.getline(file, line).strip().startswith("raise ")


def _folders() -> list[str]:
    specs = [find_spec(package) for package in PACKAGES]
    return [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
