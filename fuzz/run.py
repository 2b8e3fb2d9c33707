"""Fuzzes a reader written in Python: ``python -m fuzz.run TARGET [--seconds N]``; needs atheris.

Inputs that it finds interesting, and those that crash, stay in ``fuzz/corpus``; see README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import atheris
except ModuleNotFoundError as error:
    raise SystemExit("fuzz.run: needs atheris: pip install atheris") from error

# Before anything imports them: these are the modules whose branches guide the mutations.
INSTRUMENTED = (
    "hqfkernels.circuit",
    "hqfkernels.words",
    "hqfkernels.interop",
    "hqfnet.data.classes",
    "hqfnet.checkpoint",
)
CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        import hqfnet.checkpoint
        import hqfnet.data.classes  # noqa: F401
        from fuzz.targets import TARGETS, seeds

    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="how long (%(default)s)")
    parser.add_argument("--input", type=Path, help="run this file alone")
    options = parser.parse_args()
    if options.input:
        TARGETS[options.target](options.input.read_bytes())
        return
    folder = CORPUS / options.target
    folder.mkdir(parents=True, exist_ok=True)
    for k, seed in enumerate(seeds(options.target)):
        (folder / f"seed-{k}").write_bytes(seed)
        TARGETS[options.target](seed)  # what it imports later would count as slow
    limits = [
        f"-artifact_prefix={CORPUS}/",
        f"-max_total_time={options.seconds}",
        "-timeout=10",
        "-rss_limit_mb=4096",
        "-max_len=8192",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *limits, str(folder)], TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
