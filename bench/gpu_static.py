"""What can be said of the GPU kernels without a GPU: ``python -m bench.gpu_static`` compiles them and writes a table.

A row is a kernel, a GPU architecture and a circuit of the benchmark family (`bench.cases`) that the kernel runs. From
the compiler: registers, spills, stack, shared memory. From the machine code, if ``cuobjdump`` is found (on the path or
in the triton package): how often some instructions stand there. From the emulated lanes (`tests.emulation`), for one
circuit: additions and multiplications, and numbers exchanged through shared memory. From the shapes: bytes of inputs,
outputs and their gradients. `Floor` turns these into the least time that a circuit can take on an H200.

Triton's kernels, compiled ahead of time for compute capabilities 8.0 and 9.0, are counted by their source: operations
on single numbers where terms are written out, and those of matrix products.

It ends with status 1 if a kernel spills registers.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench.cases import Case
from hqfkernels.engines.fourier import series
from hqfkernels.program import Program, lower
from tests.emulation import Emulation

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "bench" / "results" / "gpu_static.csv"
ARCHITECTURES = ("80", "90", "100")
TRITON_ARCHITECTURES = ("80", "90")
CONTRACTIONS = ((4, 2), (6, 2), (8, 2), (4, 6), (6, 6))
"""Qubits and layers: the first three have few terms, the others all."""

# The kernels of csrc/cuda/circuits.cu, as CMakeLists.txt has them, and sizes (qubits, layers) that run on them.
CIRCUITS = {
    "float_2": [(2, 2)],
    "float_3": [(3, 2)],
    "float_4": [(4, 2), (6, 2), (8, 2), (8, 6), (12, 2)],
    "float_5": [(5, 2), (10, 3), (13, 2)],
    "double_2": [(2, 2)],
    "double_3": [(3, 2)],
    "double_4": [(4, 2), (8, 2), (12, 2)],
}


@dataclass(frozen=True)
class Floor:
    """Rates of an H200: 4.3 TB/s of memory as a copy reaches, 60 TFLOP/s float32 and half of that float64.

    Shared memory moves 32 words of 4 bytes per clock and multiprocessor: 132 multiprocessors at 1.755 GHz.
    """

    bandwidth: float = 4.3e12
    operations: float = 60e12
    words: float = 132 * 32 * 1.755e9
    products: float = 494e12  # in TensorFloat-32

    def nanoseconds(
        self, number_bytes: int, moved: int, operations: int, exchanged: int, products: int = 0
    ) -> tuple[float, str]:
        """The time of the slowest part, and which it is."""
        times = {
            "memory": moved / self.bandwidth,
            "arithmetic": operations * (number_bytes // 4) / self.operations,
            "shared memory": exchanged * (number_bytes // 4) / self.words,
            "matrix products": products / self.products,
        }
        limit = max(times, key=times.__getitem__)
        return times[limit] * 1e9, limit


@dataclass(frozen=True)
class Row:
    """A line of the table; empty where it does not apply or was not looked at."""

    kernel: str
    direction: str
    architecture: str
    size: str = ""
    registers: int = 0
    spill_bytes: int = 0
    stack_bytes: int = 0
    shared_bytes_static: int = 0
    shared_bytes_exchange: int | str = ""
    ffma: int | str = ""
    fmul_fadd: int | str = ""
    dfma_dmul_dadd: int | str = ""
    lds: int | str = ""
    sts: int | str = ""
    shfl: int | str = ""
    mma: int | str = ""
    bytes_per_circuit: int | str = ""
    operations_per_circuit: int | str = ""
    exchanged_numbers_per_circuit: int | str = ""
    floor_ns_per_circuit: float | str = ""
    limited_by: str = ""


@dataclass(frozen=True)
class Compiled:
    """A kernel as the compiler reports it."""

    name: str
    registers: int
    spills: int
    stack: int
    shared: int
    instructions: Counter[str]


def find_nvcc() -> str | None:
    """The compiler: ``CUDACXX``, or nvcc on the path."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def find_cuobjdump() -> str | None:
    """NVIDIA's disassembler, if the toolkit or triton brings it."""
    try:
        import triton

        carried = [str(path) for path in Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump")]
    except ImportError:
        carried = []
    return next(filter(None, [shutil.which("cuobjdump"), *carried]), None)


def compile_cuda(source: str, architecture: str, definitions: Sequence[str] = ()) -> list[Compiled]:
    """Compiles a file of csrc/cuda for one architecture and reads what the compiler and the machine code say."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("nvcc was not found (set CUDACXX to its path)")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernel.cubin"
        command = [nvcc, "-std=c++20", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-cubin"]
        command += [f"-arch=sm_{architecture}", "-Icsrc", "-Icsrc/include", "-DHQF_ARCH=cuda"]
        command += [*(f"-D{definition}" for definition in definitions), f"csrc/cuda/{source}", "-o", str(target)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        return list(_read_report(done.stderr, _instructions(target)))


def _read_report(report: str, instructions: dict[str, Counter[str]]) -> Iterator[Compiled]:
    """Entry functions in the output of ``ptxas -v``."""
    blocks = re.split(r"Compiling entry function ", report)[1:]
    for block in blocks:
        name = re.match(r"'(\S+)'", block)
        registers = re.search(r"Used (\d+) registers", block)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        if not (name and registers and stack):
            raise RuntimeError(f"the compiler's report was not understood:\n{block}")
        shared = re.search(r"(\d+) bytes smem", block)
        yield Compiled(
            name[1],
            int(registers[1]),
            int(stack[2]) + int(stack[3]),
            int(stack[1]),
            int(shared[1]) if shared else 0,
            instructions.get(name[1], Counter()),
        )


def _instructions(cubin: Path) -> dict[str, Counter[str]]:
    """Opcodes of each function, nothing if there is no disassembler."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        return {}
    listing = subprocess.run([cuobjdump, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    counts: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in listing.splitlines():
        if function := re.search(r"Function : (\S+)", line):
            current = counts.setdefault(function[1], Counter())
        elif opcode := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)", line):
            current[opcode[1]] += 1
    return counts


def _report(compiled: Compiled) -> dict[str, Any]:
    """Columns of the compiler and the machine code."""
    groups = {
        "ffma": ("FFMA", "FFMA2"),
        "fmul_fadd": ("FMUL", "FADD", "FMUL2", "FADD2"),
        "dfma_dmul_dadd": ("DFMA", "DMUL", "DADD"),
        "lds": ("LDS",),
        "sts": ("STS",),
        "shfl": ("SHFL",),
        "mma": ("HMMA", "HGMMA", "QGMMA"),
    }
    found = compiled.instructions
    return {
        "registers": compiled.registers,
        "spill_bytes": compiled.spills,
        "stack_bytes": compiled.stack,
        "shared_bytes_static": compiled.shared,
        **{column: sum(found[name] for name in names) if found else "" for column, names in groups.items()},
    }


@lru_cache
def _work(kernel: str, n: int, layers: int, adjoint: bool) -> dict[str, Any]:
    """Columns of one circuit of the family."""
    dtype = torch.float32 if kernel.startswith("float") else torch.float64
    case = Case(n, layers, 1)
    text = lower(case.circuit().text, "expval")
    inputs, weights = (t.detach().to(dtype) for t in case.tensors())
    output = torch.ones(1, Program.from_text(text).n_outputs, dtype=dtype)
    emulation = Emulation.build()
    emulation.counts()
    if adjoint:
        free = emulation.backward(text, 0, output, inputs, weights, torch.empty_like(inputs), torch.empty_like(weights))
        moved = 2 * inputs.nbytes + output.nbytes
    else:
        free = emulation.forward(text, 0, inputs, weights, output)
        moved = inputs.nbytes + output.nbytes
    if not free:
        raise RuntimeError(f"{kernel}, n={n}: lanes of a warp meet in a bank")
    operations, exchanged = emulation.counts()
    floor, limit = Floor().nanoseconds(dtype.itemsize, moved, operations, exchanged)
    return {
        "bytes_per_circuit": moved,
        "operations_per_circuit": operations,
        "exchanged_numbers_per_circuit": exchanged,
        "shared_bytes_exchange": 2 * dtype.itemsize << max(n, int(kernel[-1])),
        "floor_ns_per_circuit": float(f"{floor:.3g}"),
        "limited_by": limit,
    }


def circuit_rows(kernel: str, architecture: str) -> Iterator[Row]:
    """Rows of one compilation of csrc/cuda/circuits.cu."""
    number, bits = kernel.split("_")
    definitions = [f"HQF_NUMBER={number}", f"HQF_BITS={bits}", f"HQF_KERNELS={kernel}"]
    for compiled in compile_cuda("circuits.cu", architecture, definitions):
        states, adjoint = re.findall(r"Lb([01])E", compiled.name)[:2]
        name = f"circuits {kernel} {'complex' if states == '1' else 'real'}"
        # The family's states are complex: the real kernels have no sizes of it.
        for n, layers in CIRCUITS[kernel] if states == "1" else [(0, 0)]:
            work = _work(kernel, n, layers, adjoint == "1") if n else {}
            direction = "backward" if adjoint == "1" else "forward"
            size = f"n={n} L={layers}" if n else ""
            yield Row(name, direction, f"sm_{architecture}", size, **_report(compiled), **work)


def weight_rows(architecture: str) -> Iterator[Row]:
    """Rows of csrc/cuda/weights.cu, which runs once a call."""
    for compiled in compile_cuda("weights.cu", architecture):
        name = next(n for n in ("upload", "prepare", "sum_columns", "differentiate") if n in compiled.name)
        if name == "prepare":
            name += " double" if "IdE" in compiled.name else " float"
        direction = "backward" if name in ("sum_columns", "differentiate") else "both"
        yield Row(f"weights {name}", direction, f"sm_{architecture}", **_report(compiled))


def compile_triton(kernel: Any, architecture: str, signature: dict[str, str], **options: Any) -> tuple[Compiled, int]:
    """Compiles a Triton kernel for one architecture; also the shared memory that it asks for when it is launched.

    Args:
        kernel: the function; arguments in capitals are constants.
        architecture: compute capability, such as "90".
        signature: types of the other arguments; pointers are taken as aligned to 16 bytes.
        options: ``num_warps`` and the constants.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = list(kernel.arg_names)
    constants = {(names.index(name),): value for name, value in options.items() if name in names}
    types = signature | {names[k]: "constexpr" for (k,) in constants}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in signature.items() if kind[0] == "*"}
    built = compile(
        ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", int(architecture), 32),
        options={"num_warps": options["num_warps"], "enable_fp_fusion": True},
    )
    with tempfile.TemporaryDirectory() as folder:
        text, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        text.write_text(built.asm["ptx"])
        name = re.search(r"\.target (sm_\w+)", built.asm["ptx"])
        assert name is not None
        for assembler in Path(sys.modules["triton"].__file__ or "").parent.glob("backends/nvidia/bin/ptxas*"):
            done = subprocess.run(
                [str(assembler), "-v", f"-arch={name[1]}", str(text), "-o", str(target)], capture_output=True, text=True
            )
            if done.returncode == 0:
                return next(_read_report(done.stderr, _instructions(target))), built.metadata.shared
        raise RuntimeError(f"no assembler took the kernel:\n{done.stderr}")


def contraction_rows(architecture: str, sizes: Iterable[tuple[int, int]] = CONTRACTIONS) -> Iterator[Row]:
    """Rows of Triton's contractions of the family's polynomials."""
    from hqfkernels.backends.triton import contraction, source

    pointers = dict.fromkeys(("inputs", "prepared", "outputs", "grads", "partial"), "*fp32")
    signature = {"table": "*i64", **pointers, **dict.fromkeys(("n_samples", "n_prepared", "begin"), "i32")}
    for n, layers in sizes:
        found = series((Case(n, layers, 1).circuit().text,), "expval")
        width = 4 if n % 4 == 0 else 2
        place = source.Place(1, 0, (width,) * 3, double=False, wide=False, precision="tf32x3")
        for direction in ("forward", "backward"):
            pieces = source.pieces(found, direction == "forward")
            for number, piece in enumerate(pieces):
                kernels: tuple[source.Kernel, ...]
                if direction == "forward":
                    kernels = (source.forward(found, piece, place),)
                else:
                    kernels = source.backward(found, piece, place, number > 0)
                for part, kernel in enumerate(kernels):
                    compiled, shared = compile_triton(
                        contraction.compiled(kernel.source),
                        architecture,
                        signature,
                        BLOCK=kernel.block,
                        num_warps=kernel.warps,
                    )
                    way = "products" if piece.dense else "written"
                    parts = f" {number * len(kernels) + part + 1}/{len(pieces) * len(kernels)}"
                    name = f"contraction {way}{parts if len(pieces) * len(kernels) > 1 else ''}"
                    moved = (2 if direction == "forward" else 3 + (number > 0) - (part > 0)) * 4 * n
                    products = 6 * source.matrix_work(found, piece) * (1 if direction == "forward" or part else 2)
                    operations = _written_operations(kernel.source) if not piece.dense else 0
                    floor, limit = Floor().nanoseconds(4, moved, operations, 0, products)
                    yield Row(
                        name,
                        direction,
                        f"sm_{architecture}",
                        f"n={n} L={layers}",
                        **_report(compiled),
                        shared_bytes_exchange=shared,
                        bytes_per_circuit=moved,
                        operations_per_circuit=operations + products,
                        floor_ns_per_circuit=float(f"{floor:.3g}"),
                        limited_by=limit,
                    )


def _written_operations(text: str) -> int:
    """Additions and multiplications of one sample in a kernel whose terms are written out, 38 for a sine and cosine."""
    lines = [line.strip() for line in text.splitlines()]
    own = [line for line in lines if re.match(r"(m\d|dm\d|value|inner|along|sum\d+ \+=|slope|angle)", line)]
    return sum(len(re.findall(r" [*+-]=? ", line)) for line in own) + 38 * text.count("= sincos(")


def helper_rows(architecture: str) -> Iterator[Row]:
    """Rows of Triton's kernels that run once a call."""
    from hqfkernels.backends.triton import device, propagation

    whole = {"steps": "*i32", "words": "*i32", "factors": "*fp64", "waves": "*fp64", "numbers": "*fp64"}
    counts = dict.fromkeys(("n_steps", "n_turns", "size"), "i32")
    kernels: list[tuple[str, Any, dict[str, str], int]] = [
        (
            "prepare",
            device.prepare,
            {"parameters": "*fp64", "prepared": "*fp32", "sources": "*i32", "n_parameters": "i32", "n_prepared": "i32"},
            128,
        ),
        (
            "collect",
            device.collect,
            {"partial": "*fp32", "grads": "*fp64", "sources": "*i32"}
            | dict.fromkeys(("n_programs", "n_slots", "n_parameters"), "i32"),
            32,
        ),
        ("propagate", propagation.propagate, whole | counts, 128),
        ("propagate_back", propagation.propagate_back, whole | {"slopes": "*fp64", "grads": "*fp64"} | counts, 128),
    ]
    for name, kernel, signature, block in kernels:
        compiled, shared = compile_triton(kernel, architecture, signature, BLOCK=block, num_warps=4)
        direction = "backward" if name in ("collect", "propagate_back") else "both"
        yield Row(name, direction, f"sm_{architecture}", **_report(compiled), shared_bytes_exchange=shared)


def rows(architectures: Iterable[str], kernels: Iterable[str] = CIRCUITS) -> Iterator[Row]:
    """All rows, as they are compiled; those of Triton's kernels where it is installed."""
    for architecture in architectures:
        for kernel in kernels:
            yield from circuit_rows(kernel, architecture)
        yield from weight_rows(architecture)
        if architecture in TRITON_ARCHITECTURES and importlib.util.find_spec("triton") is not None:
            yield from contraction_rows(architecture)
            yield from helper_rows(architecture)


def spilling(table: Iterable[Row]) -> list[str]:
    """Names of the kernels that spill registers."""
    return sorted({f"{r.kernel} {r.direction} {r.architecture}: {r.spill_bytes} bytes" for r in table if r.spill_bytes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="compute capabilities, such as 90")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for row in rows(arguments.architectures):
        table.append(row)
        print(row.kernel, row.direction, row.architecture, row.size, f"{row.registers} registers", flush=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    if spills := spilling(table):
        sys.exit("registers are spilled by\n" + "\n".join(spills))


if __name__ == "__main__":
    main()
