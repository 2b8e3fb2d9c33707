"""Fuzzes every target in turn and writes down how much was tried: ``python -m fuzz [--seconds N]``.

The program of ``texts.cpp`` has to be there: ``make fuzz`` compiles it first. The result is a file of bench/results.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.compare import result_path, stamp, table
from fuzz import seeds
from fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "fuzz" / "corpus"
EXECUTED = re.compile(r"^(?:#|stat::number_of_executed_units: )(\d+)", re.MULTILINE)
"""What libFuzzer says of its progress, and at the end unless it is killed."""


def commands(seconds: int) -> dict[str, list[str]]:
    """Target -> the command that fuzzes it."""
    texts = [str(ROOT / "build" / "fuzz" / "texts"), f"-max_total_time={seconds}", f"-artifact_prefix={CORPUS}/"]
    texts += ["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1", str(CORPUS / "texts")]
    python = [sys.executable, "-m", "fuzz.run", "--seconds", str(seconds)]
    return {"texts.cpp": texts} | {target: [*python, target] for target in TARGETS}


def fuzz(target: str, command: list[str]) -> dict[str, Any]:
    """Runs a command to its end, showing what it says; a finding ends it early."""
    said = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            said.append(line)
    text = "".join(said)
    if "INFO: Seed: " not in text:
        raise SystemExit(f"fuzz: {target} ended with {process.returncode} before it began")
    executed = [int(count) for count in EXECUTED.findall(text)]
    return {"target": target, "executions": max(executed, default=0), "findings": int(process.returncode != 0)}


def summary(run: dict[str, Any]) -> str:
    """A table of what a run tried and found."""
    rows = [[f"`{row['target']}`", f"{row['executions']:,}", str(row["findings"])] for row in run["targets"]]
    total = [sum(row[key] for row in run["targets"]) for key in ("executions", "findings")]
    head = ["target", f"executions in {run['seconds']} s", "findings"]
    return table(head, [*rows, ["all", f"{total[0]:,}", str(total[1])]])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    options = parser.parse_args(arguments)
    if options.seconds < 1:
        parser.error(f"--seconds: must be at least 1, got {options.seconds}")
    run = stamp() | {"seconds": options.seconds, "targets": []}
    path = result_path(parser, options.json, run, "fuzz-")
    seeds.write(CORPUS / "texts")
    run["targets"] = [fuzz(target, command) for target, command in commands(options.seconds).items()]
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(summary(run))
    if any(row["findings"] for row in run["targets"]):
        raise SystemExit("fuzz: there are findings, see above and fuzz/corpus")


if __name__ == "__main__":
    main()
