"""Is the working tree slower than another commit? ``python -m bench.regress REF``, or ``make bench-compare BASE=REF``.

Both are built apart from the environment and from the working tree (libraries are kept under build/regress, so that the
same sources are compiled once), and run the problems of `bench.kernels` in turns, each in a worker process of its own
that computes on one thread. Workers are started several times, since two processes of the same build differ as well.
The ratio of times comes with an interval from a bootstrap over launches and rounds. Where valgrind is, the instructions
that the library executes are counted as well (with AVX2, which is what valgrind knows). These repeat on machines where
times do not.

A problem is slower if its interval lies beyond the threshold, or if the interval leaves that open and the instructions
have grown beyond it. Then the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from bench.compare import number, progress, result_path, stamp, table
from bench.kernels import CALLGRIND_SHIM, KERNELS

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "regress"
NATIVE = ("CMakeLists.txt", "setup.py", "hqfkernels/__init__.py")
"""What decides, beside csrc, what a compiled library is."""
LEVEL = 0.99
"""Of the intervals: with some fifteen problems, one in a hundred would be wrong at 95 % too often."""
RESAMPLES = 2000


# --- statistics -------------------------------------------------------------------------------------------------------


def interval(launches: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The median of ratios and the ends of its confidence interval, as (low, median, high).

    Args:
        launches: for each pair of processes the ratios of its rounds, as many for each. The bootstrap draws pairs with
            replacement, and rounds within each: rounds of the same two processes have much in common.
    """
    rng = np.random.default_rng(0)
    ratios = np.asarray(launches)
    pairs, rounds = ratios.shape
    drawn = rng.integers(pairs, size=(RESAMPLES, pairs, 1)), rng.integers(rounds, size=(RESAMPLES, pairs, rounds))
    medians = np.median(ratios[drawn], axis=(1, 2))
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(np.median(ratios)), float(high)


def verdict(low: float, high: float, instructions: float | None, threshold: float) -> str:
    """What the working tree is: "slower", "faster", "same" or "unclear".

    Args:
        low: where the interval of the working tree's time over the base's begins.
        high: where it ends.
        instructions: the ratio of instructions, None where they were not counted.
        threshold: how much more than 1 counts.
    """
    most = 1 + threshold
    if low > most:
        return "slower"
    if high < 1 / most:
        return "faster"
    if low >= 1 / most and high <= most:
        return "same"
    if instructions is not None and high > most and instructions > most:
        return "slower"
    if instructions is not None and 1 / most <= instructions <= most:
        return "same"
    return "unclear"


# --- builds -----------------------------------------------------------------------------------------------------------


def git(*arguments: str) -> bytes:
    """What git says of the project; SystemExit with its message if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def export_commit(ref: str, tree: Path) -> None:
    """The files of a commit."""
    tree.mkdir()
    archive = tree.with_suffix(".tar")
    archive.write_bytes(git("archive", ref))
    with tarfile.open(archive) as file:
        file.extractall(tree, filter="data")


def export_working_tree(tree: Path) -> None:
    """The files of the working tree that git knows or does not ignore."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def key(tree: Path) -> str:
    """Tells compiled libraries apart: by their sources, torch and Python."""
    digest = hashlib.sha256(f"{torch.__version__} {sys.version} {os.environ.get('CXX', '')}".encode())
    for path in sorted([*(tree / name for name in NATIVE), *(p for p in (tree / "csrc").rglob("*") if p.is_file())]):
        digest.update(f"\0{path.relative_to(tree)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(tree: Path) -> None:
    """Puts the compiled library into the package of ``tree``; SystemExit with the compiler's messages if it fails."""
    kept = KEPT / key(tree)
    if not kept.exists():
        progress(f"compiling {tree.name}")
        command = [sys.executable, "setup.py", "build_ext", "--build-lib", "built"]
        done = subprocess.run(
            command, cwd=tree, env={**os.environ, "HQF_CUDA": "0"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        libraries = list((tree / "built").rglob("_C*.so"))
        if done.returncode or not libraries:
            sys.exit(f"{tree.name} does not build:\n{done.stdout.decode()}")
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.mkdir(parents=True)
        shutil.copy2(libraries[0], partial)
        partial.replace(kept)
        progress("")
    for library in kept.iterdir():
        shutil.copy2(library, tree / "hqfkernels")


def site(tree: Path) -> Path:
    """A folder for PYTHONPATH that has the packages of ``tree``, and the benchmarks of the working tree."""
    folder = tree.with_suffix(".site")
    folder.mkdir()
    (folder / "hqfkernels").symlink_to(tree / "hqfkernels")
    (folder / "bench").symlink_to(ROOT / "bench")
    return folder


# --- workers ----------------------------------------------------------------------------------------------------------


class Worker:
    """A process of `bench.kernels` that imports hqfkernels from ``folder``."""

    def __init__(self, folder: Path, command: Sequence[str] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [*command, sys.executable, "-m", "bench.kernels"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        imported = self.ask(where=True)["file"]
        if not Path(imported).is_relative_to(folder):
            self.close()
            raise RuntimeError(f"the worker imported hqfkernels from {imported} instead of {folder}")

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; RuntimeError if the worker has ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Pair:
    """What is compared, and the problems that both can run."""

    base: Path
    head: Path

    def prepare(self, workers: Sequence[Worker], names: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
        """How often a step is repeated in a reading, and why the other problems cannot run."""
        repeats, errors = {}, {}
        for name in names:
            replies = [worker.ask(prepare=name) for worker in workers]
            failed = [
                f"{side}: {reply['error']}"
                for side, reply in zip(("base", "working tree"), replies, strict=True)
                if "error" in reply
            ]
            if failed:
                errors[name] = "; ".join(failed)
            else:
                repeats[name] = max(reply["repeats"] for reply in replies)
        return repeats, errors

    def time(
        self, names: Sequence[str], launches: int, rounds: int
    ) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
        """For each problem and launch the ratios of its rounds, working tree over base; and why others cannot run."""
        ratios: dict[str, list[list[float]]] = {}
        errors: dict[str, str] = {}
        for launch in range(launches):
            with Worker(self.base) as base, Worker(self.head) as head:
                repeats, errors = self.prepare((base, head), names)
                for name in repeats:
                    ratios.setdefault(name, []).append([])
                for r in range(rounds):
                    progress(f"launch {launch + 1} of {launches}, round {r + 1} of {rounds}")
                    for name, count in repeats.items():
                        order = (base, head) if r % 2 == 0 else (head, base)
                        times = {worker: worker.ask(time=name, repeats=count)["ns"] for worker in order}
                        ratios[name][-1].append(times[head] / times[base])
        progress("")
        return ratios, errors

    def count(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Instructions of the library in a step of each problem, of base and working tree."""
        with shim() as library:
            counts = [instructions(folder, names, library) for folder in (self.base, self.head)]
        return {name: (counts[0][name], counts[1][name]) for name in names}


# --- callgrind --------------------------------------------------------------------------------------------------------

SHIM = """
#include <valgrind/callgrind.h>
extern "C" void hqf_start() { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
extern "C" void hqf_stop(const char* name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


@contextmanager
def shim() -> Iterator[Path]:
    """A library that a worker switches callgrind on and off with."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "shim.so"
        compiler = os.environ.get("CXX", "c++").split()[0]
        command = [compiler, "-x", "c++", "-O1", "-fPIC", "-shared", "-", "-o", str(target)]
        subprocess.run(command, input=SHIM.encode(), check=True)
        yield target


def instructions(folder: Path, names: Sequence[str], library: Path) -> dict[str, int]:
    """Instructions of the compiled library in a step of each problem."""
    found = {}
    with tempfile.TemporaryDirectory() as results:
        command = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={results}/out"]
        settings = {CALLGRIND_SHIM: str(library), "HQF_CPU_CAPABILITY": "avx2", "PYTHONHASHSEED": "0"}
        with Worker(folder, command, **settings) as worker:
            for name in names:
                progress(f"counting {name} of {folder.stem}")
                for request in ("prepare", "count"):
                    reply = worker.ask(**{request: name})
                    if "error" in reply:
                        raise RuntimeError(f"{name} under callgrind: {reply['error']}")
        for path in Path(results).iterdir():
            text = path.read_text()
            trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
            if trigger:
                found[trigger[1]] = instructions_in(text, "/hqfkernels/_C.")
    progress("")
    return found


def instructions_in(text: str, part: str) -> int:
    """Instructions in objects whose path contains ``part``, from the text of a callgrind file.

    The format: https://valgrind.org/docs/manual/cl-format.html. Names are given once, as "(number) name".
    """
    names: dict[str, str] = {}
    total, ours, skip = 0, False, False
    for line in text.splitlines():
        kind, _, value = line.partition("=")
        if kind in ("ob", "cob"):
            number_, _, name = value.partition(" ")
            if name:
                names[number_] = name
            if kind == "ob":
                ours = part in names.get(number_, value)
        elif kind == "calls":
            skip = True  # the next line is what the called function costs
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if ours and not skip:
                total += int(line.split()[1])
            skip = False
    return total


# --- the report -------------------------------------------------------------------------------------------------------


def summarise(run: dict[str, Any]) -> list[dict[str, Any]]:
    """For every problem of a run its interval, instructions and verdict."""
    rows = []
    for name, launches in run["ratios"].items():
        low, median, high = interval(launches)
        counts = run["instructions"].get(name)
        growth = counts[1] / counts[0] if counts else None
        rows.append(
            {
                "name": name,
                "interval": (low, median, high),
                "instructions": growth,
                "verdict": verdict(low, high, growth, run["threshold"]),
            }
        )
    return rows


def report(run: dict[str, Any]) -> str:
    """A run in Markdown."""
    rows = []
    for row in summarise(run):
        low, median, high = row["interval"]
        counts = run["instructions"].get(row["name"])
        shown = f"{row['instructions']:.4f} ({number(counts[1] / 1e6)} M)" if counts else ""
        mark = row["verdict"] if row["verdict"] in ("same", "unclear") else f"**{row['verdict']}**"
        rows.append([row["name"], f"{median:.3f}", f"{low:.3f} .. {high:.3f}", shown, mark])
    rows += [[name, "", "", "", f"cannot run: {error}"] for name, error in run["errors"].items()]
    return (
        f"working tree over {run['base']}: time (processor time of a step, {LEVEL:.0%} interval) and instructions "
        f"(AVX2); threshold {run['threshold']:.0%}\n\n"
        + table(["", "time", "interval", "instructions", "verdict"], rows)
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.regress", description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a commit, branch or tag")
    parser.add_argument("--kernels", nargs="+", metavar="WORD", default=[""], help="problems whose names have a word")
    parser.add_argument("--launches", type=int, default=5, help="how often the workers are started (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="readings of each problem in a launch (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.05, help="slower by more than this counts (%(default)s)")
    parser.add_argument("--no-counts", action="store_true", help="do not count instructions")
    parser.add_argument("--json", type=Path, help="keep the readings in this file")
    options = parser.parse_args(arguments)
    for option in ("launches", "rounds"):
        if getattr(options, option) < 2:
            parser.error(f"--{option}: must be at least 2, got {getattr(options, option)}")
    if options.threshold <= 0:
        parser.error(f"--threshold: must be positive, got {options.threshold}")
    names = [name for name in KERNELS if any(word in name for word in options.kernels)]
    if not names:
        parser.error(f"--kernels: no problem has {' or '.join(options.kernels)} in its name: {', '.join(KERNELS)}")
    run = stamp() | {"base": options.base, "threshold": options.threshold, "instructions": {}}
    if options.json:
        result_path(parser, options.json, run)
    commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}").decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        base, head = Path(folder) / "base", Path(folder) / "head"
        export_commit(commit, base)
        export_working_tree(head)
        for tree in (base, head):
            build(tree)
        pair = Pair(site(base), site(head))
        run["ratios"], run["errors"] = pair.time(names, options.launches, options.rounds)
        if shutil.which("valgrind") and not options.no_counts:
            run["instructions"] = pair.count(list(run["ratios"]))
    if options.json:
        options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(report(run))
    if any(row["verdict"] == "slower" for row in summarise(run)):
        sys.exit(1)


if __name__ == "__main__":
    main()
