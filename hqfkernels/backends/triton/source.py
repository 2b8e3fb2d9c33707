"""Writes kernels: the Triton source of a contraction, made for the polynomials that it computes.

Where polynomials have few terms, they are written out, a line for every product, with all numbers of a sample in
registers: memory bounds such a kernel. Where they have many, they are contracted by halves with matrix products
(`tl.dot`): features of the second half of the axes times coefficients, a column for each output and feature of the
first half, then times those features. What a kernel is made for stands in its source as numbers: no tables to read, and
nothing to decide while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hqfkernels.series import Axis, Polynomials, Series

MAX_WRITTEN = 1024
"""Terms in a forward kernel that writes its terms out: the compiler takes about 5 ms for each."""
MAX_SLOPES = 96
"""Parameters in such a backward kernel: a thread keeps a sum for each of them in a register."""
MAX_HALF = 32
"""Features of half the axes in a kernel of matrix products: with more, simulating the circuit is cheaper."""
_DOT = 16
"""No dimension of a matrix product may be smaller."""
_MATRIX_SPEED = 16
"""Multiply-adds in matrix products (three for one, padded) in the time of one that is written out, a guess from the
rates of the arithmetic: 8 times as many, half of which pays for making the operands."""


@dataclass(frozen=True)
class Place:
    """What a kernel's source depends on besides the polynomials; see `hqfkernels.backends.triton.layout.Layout`."""

    n_sample_dims: int
    n_group_dims: int
    widths: tuple[int, ...]
    double: bool
    wide: bool  # more samples than 32 bits can number
    precision: str  # of matrix products, as `tl.dot` names it


@dataclass(frozen=True)
class Piece:
    """What one kernel computes: some terms of the members of a series.

    Attributes:
        terms: for each member that takes part its index, and its terms, numbered across its outputs, from the first to
            before the last.
        dense: whether by matrix products, which compute one member, with all its terms.
    """

    terms: tuple[tuple[int, int, int], ...]
    dense: bool


def pieces(series: Series, forward: bool) -> tuple[Piece, ...]:
    """Cuts a series into kernels, one after the other; forward, no output is cut.

    Raises:
        ValueError: if its polynomials are too large; the message says how.
    """
    result: list[Piece] = []
    room = 0  # in the last piece
    for index, member in enumerate(series.members):
        if not _written(member):
            result.append(Piece(((index, 0, member.n_terms),), True))
            room = 0
            continue
        shifts = 0 if forward else len(member.axes)
        least = member.n_terms if forward else 1
        first = 0
        while first < member.n_terms:
            if room < shifts + least:
                result.append(Piece((), False))
                room = MAX_WRITTEN if forward else MAX_SLOPES
            last = min(member.n_terms, first + room - shifts)
            result[-1] = Piece((*result[-1].terms, (index, first, last)), False)
            room -= shifts + last - first
            first = last
    return tuple(result)


def _written(member: Polynomials) -> bool:
    """Whether to write the terms of a member out rather than take matrix products."""
    half_a, half_b = (_padded(math.prod(axis.size for axis in half)) for half in _halves(member))
    fits, dense = 0 < member.n_terms <= MAX_WRITTEN, max(half_a, half_b) <= MAX_HALF
    if not fits and not dense:
        raise ValueError(
            f"{member.n_terms} terms (at most {MAX_WRITTEN}) and {max(half_a, half_b)} products of features of half "
            f"the inputs (at most {MAX_HALF})"
        )
    products = 3 * half_a * half_b * len(member.terms)
    return fits and (not dense or member.n_terms * _MATRIX_SPEED <= products)


def _halves(member: Polynomials) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    return member.axes[: member.split], member.axes[member.split :]


def _padded(size: int) -> int:
    """A size of a matrix product."""
    return max(_DOT, 1 << (size - 1).bit_length())


# --- what kernels read and what they sum up -------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A kernel and how to launch it.

    Attributes:
        source: its text.
        block: samples that a program takes at a time.
        warps: of 32 threads in a program.
        slopes: the parameters that the sums of a backward kernel belong to, -1 for none.
        chunks: in how many parts programs share the sums.
    """

    source: str
    block: int
    warps: int
    slopes: tuple[int, ...] = ()
    chunks: int = 1


def _coefficients(series: Series, piece: Piece) -> Iterator[tuple[int, list[int], list[int]]]:
    """For each member of a piece its index, and the parameters that are its coefficients and its shifts.

    Coefficients come in the order in which kernels have them, -1 where there is none.
    """
    for index, first, last in piece.terms:
        member, parameter = series.members[index], sum(m.n_parameters for m in series.members[:index])
        if piece.dense:
            table = _Table(member)
            where = {place: parameter + k for k, place in enumerate(table.places())}
            own = [where.get(place, -1) for place in range(table.rows * table.columns)]
        else:
            own = list(range(parameter + first, parameter + last))
        yield index, own, [parameter + member.n_terms + k for k in range(len(member.axes))]


def prepared(series: Series, piece: Piece) -> list[int]:
    """The numbers that the kernels of a piece read, as `hqfkernels.backends.triton.device.prepare` names them."""
    result: list[int] = []
    for _, own, shifts in _coefficients(series, piece):
        result += [4 * k if k >= 0 else -1 for k in own]
        result += [4 * k + kind for k in shifts for kind in (1, 2)]
    return result


class _Table:
    """The matrix of coefficients of a member, padded.

    It has a row for a feature of the second half of its axes, a column for an output and a feature of the first half.
    """

    def __init__(self, member: Polynomials) -> None:
        self.member = member
        self.first, self.rows = (_padded(math.prod(axis.size for axis in half)) for half in _halves(member))
        # Outputs share a product for as long as a block of samples fits into registers.
        self.together = min(MAX_HALF // self.first, len(member.terms))
        self.width = self.together * self.first
        self.chunks = -(-len(member.terms) // self.together)
        self.columns = self.chunks * self.width

    def places(self) -> Iterator[int]:
        """For each coefficient its place in the matrix, stored chunk by chunk, row by row."""
        for output, terms in enumerate(self.member.terms):
            chunk, column = output // self.together, output % self.together * self.first
            for a, b in terms:
                yield (chunk * self.rows + b) * self.width + column + a


def matrix_work(series: Series, piece: Piece) -> int:
    """Multiply-adds of one matrix product over all chunks, for a sample; 0 for a piece without."""
    if not piece.dense:
        return 0
    table = _Table(series.members[piece.terms[0][0]])
    return table.rows * table.columns


# --- the common parts of kernels ------------------------------------------------------------------------------------

_HEAD = """\
@triton.jit(do_not_specialize=["n_samples", "n_prepared", "begin"])
def kernel(table, inputs, prepared, outputs, grads, partial, n_samples, n_prepared, begin, BLOCK: tl.constexpr):
    group = tl.program_id(1)
    group_inputs, group_outputs, group_grads = place(table, group, {group_words}, {n_group_dims})
    prepared += group.to(tl.int64) * n_prepared + begin
"""

_SAMPLES = """\
live = sample < n_samples
at_inputs, at_outputs, at_grads = place(table, sample, 0, {n_sample_dims})
at_inputs += group_inputs
at_outputs += group_outputs
at_grads += group_grads
"""


@dataclass
class _Writer:
    """Lines of a kernel, and what they are made of."""

    series: Series
    piece: Piece
    place: Place
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = 4 * (self.place.n_sample_dims + self.place.n_group_dims)
        n_inputs, n_outputs = self.series.n_inputs, self.series.n_outputs
        self.first_words = words, words + n_inputs, words + n_inputs + n_outputs
        self.number = "tl.float64" if self.place.double else "tl.float32"
        self.waves: dict[tuple[int, float], int] = {}
        for index, _, _ in self.piece.terms:
            for axis in self.series.members[index].axes:
                self.waves.setdefault((axis.input, axis.unit), len(self.waves))

    def write(self, text: str) -> None:
        self.lines += text.splitlines()

    def first_output(self, index: int) -> int:
        """The number of a member's first output."""
        return sum(len(member.terms) for member in self.series.members[:index])

    def load(self, tensor: int, wanted: Iterable[int]) -> None:
        """Features of a tensor (0 inputs, 1 outputs, 2 grads) as variables."""
        name, width = ("inputs", "outputs", "grads")[tensor], self.place.widths[tensor]
        for first in sorted({k // width * width for k in wanted}):
            variables = ", ".join(f"{name}{first + k}" for k in range(width))
            at = f"at_{name} + tl.load(table + {self.first_words[tensor] + first})"
            self.write(f"{variables} = load{width}({name}, {at}, live, {self.number})")

    def store(self, tensor: int, values: dict[int, str]) -> None:
        """Writes values of features; features between them that have none are kept as they are."""
        name, width = ("inputs", "outputs", "grads")[tensor], self.place.widths[tensor]
        for first in sorted({k // width * width for k in values}):
            at = f"at_{name} + tl.load(table + {self.first_words[tensor] + first})"
            group = range(first, first + width)
            if all(k in values for k in group):
                self.write(f"store{width}({name}, {at}, live, {', '.join(values[k] for k in group)})")
                continue
            for k in group:
                if k in values:
                    at = f"at_{name} + tl.load(table + {self.first_words[tensor] + k})"
                    self.write(f"store1({name}, {at}, live, {values[k]})")

    def samples(self) -> None:
        """Finds the samples and reads their inputs, with sine and cosine of each in its unit."""
        self.write(_SAMPLES.format(n_sample_dims=self.place.n_sample_dims))
        self.load(0, {k for k, _ in self.waves})
        for (k, unit), wave in self.waves.items():
            self.write(f"angle{wave} = inputs{k}" + (f" * {unit!r}" if unit != 1 else ""))
        if self.waves and not self.place.double:
            self.write("largest = tl.abs(angle0)")
            for wave in range(1, len(self.waves)):
                self.write(f"largest = tl.maximum(largest, tl.abs(angle{wave}))")
            self.write("if not tl.max(largest, 0) <= EXACT_ANGLES:")
            for wave in range(len(self.waves)):
                self.write(f"    angle{wave} = tame(angle{wave})")
        for wave in self.waves.values():
            self.write(f"sine{wave}, cosine{wave} = sincos(angle{wave})")

    def turned(self, axis: Axis, slot: int, name: str) -> None:
        """Cosine and sine of an axis' variable as variables ``<name>c1``, ``<name>s1``, and of its multiples."""
        wave = self.waves[axis.input, axis.unit]
        self.write(
            f"{name}tc = tl.load(prepared + {slot})\n"
            f"{name}ts = tl.load(prepared + {slot + 1})\n"
            f"{name}c1 = cosine{wave} * {name}tc - sine{wave} * {name}ts\n"
            f"{name}s1 = sine{wave} * {name}tc + cosine{wave} * {name}ts"
        )
        for m in range(2, axis.degree + 1):
            c, s = f"{name}c{m - 1}", f"{name}s{m - 1}"
            self.write(f"{name}c{m} = {c} * {name}c1 - {s} * {name}s1")
            self.write(f"{name}s{m} = {s} * {name}c1 + {c} * {name}s1")

    def source(self, body: Sequence[str]) -> str:
        """The whole kernel."""
        head = _HEAD.format(group_words=4 * self.place.n_sample_dims, n_group_dims=self.place.n_group_dims)
        return head + "".join(f"    {line}\n" for line in body)

    def turned_axes(self, index: int, slot: int) -> None:
        """`turned` for all axes of a member, whose cosines and sines of shifts are read from ``slot`` on."""
        for k, axis in enumerate(self.series.members[index].axes):
            self.turned(axis, slot + 2 * k, f"m{index}x{k}")

    def forward(self) -> str:
        """A kernel in which each program takes one block of samples."""
        return self.source([self._numbers("tl.program_id(0)"), *self.lines])

    def _numbers(self, block: str) -> str:
        index = "tl.int64" if self.place.wide else "tl.int32"
        return f"sample = tl.full([BLOCK], BLOCK, {index}) * {block} + tl.arange(0, BLOCK)"

    def backward(self, before: Sequence[str], after: Sequence[str], n_slopes: int) -> str:
        """A kernel in which each program takes every so many blocks, and leaves ``n_slopes`` sums over them."""
        return self.source(
            [
                *before,
                "for block in range(tl.program_id(0), tl.cdiv(n_samples, BLOCK), tl.num_programs(0)):",
                f"    {self._numbers('block')}",
                *(f"    {line}" for line in self.lines),
                f"partial += (group.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * {n_slopes}",
                *after,
            ]
        )


# --- terms written out ----------------------------------------------------------------------------------------------


class _Features:
    """Features of a member's axes and their products as variables, made when first asked for."""

    def __init__(self, writer: _Writer, name: str, axes: Sequence[Axis]) -> None:
        self.writer, self.name, self.axes = writer, name, axes
        self.products: dict[str, tuple[str, str]] = {}  # in the order of computation

    def find(self, index: int, first: int, last: int) -> str:
        """The variable of feature ``index`` of the axes from first to before last; empty for the feature 1."""
        result = ""
        for k in range(last - 1, first - 1, -1):
            index, own = divmod(index, self.axes[k].size)
            if not own:
                continue
            factor = f"{self.name}x{k}{'sc'[own % 2]}{(own + 1) // 2}"
            if not result:
                result = factor
                continue
            product = f"{factor}_{result}"
            if product not in self.products:
                self.products[product] = (factor, result)
                self.writer.write(f"{product} = {factor} * {result}")
            result = product
        return result


_Run = tuple[str, list[tuple[int, str]]]


def _runs(features: _Features, member: Polynomials, first: int, last: int) -> Iterator[tuple[int, Iterator[_Run]]]:
    """The terms from first to before last, for each output by their first feature.

    A run is (variable of a, [(number of the term from ``first`` on, variable of b)]).
    """
    number = 0
    for output, terms in enumerate(member.terms):
        own: dict[int, list[tuple[int, int]]] = {}
        for k, (a, b) in enumerate(terms, number):
            if first <= k < last:
                own.setdefault(a, []).append((k - first, b))
        number += len(terms)
        if own or not terms:
            yield (
                output,
                (
                    (
                        features.find(a, 0, member.split),
                        [(k, features.find(b, member.split, len(member.axes))) for k, b in run],
                    )
                    for a, run in own.items()
                ),
            )


def _written_forward(series: Series, piece: Piece, place: Place) -> Kernel:
    writer = _Writer(series, piece, place)
    writer.samples()
    slot = 0
    values: dict[int, str] = {}
    for index, first, last in piece.terms:
        member, turns = series.members[index], slot + last - first
        writer.turned_axes(index, turns)
        features = _Features(writer, f"m{index}", member.axes)
        for output, runs in _runs(features, member, first, last):
            total = values[writer.first_output(index) + output] = f"value{writer.first_output(index) + output}"
            writer.write(f"{total} = tl.zeros([BLOCK], {writer.number})")
            for a, run in runs:
                for k, b in run:
                    term = f"{f'{b} * ' if b else ''}tl.load(prepared + {slot + k})"
                    writer.write(f"inner = {term}" if k == run[0][0] else f"inner = inner + {term}")
                writer.write(f"{total} = {total} + {f'{a} * ' if a else ''}inner")
        slot = turns + 2 * len(member.axes)
    writer.store(1, values)
    return Kernel(writer.forward(), 256, 4)


def _written_backward(series: Series, piece: Piece, place: Place, onto: bool) -> Kernel:
    writer = _Writer(series, piece, place)
    writer.samples()
    writer.load(1, _outputs(writer))
    slot = n_sums = 0
    slopes_of: dict[int, str] = {}  # of inputs
    for index, first, last in piece.terms:
        member, name, turns = series.members[index], f"m{index}", slot + last - first
        writer.turned_axes(index, turns)
        features = _Features(writer, name, member.axes)
        reached: set[str] = set()

        def add(variable: str, value: str, reached: set[str] = reached) -> None:
            """Adds to the gradient of a variable."""
            writer.write(f"d{variable} = {f'd{variable} + ' if variable in reached else ''}{value}")
            reached.add(variable)

        for output, runs in _runs(features, member, first, last):
            slope = f"outputs{writer.first_output(index) + output}"
            for a, run in runs:
                along = "along" if a else slope
                if a:
                    writer.write(f"along = {slope} * {a}")
                for k, b in run:
                    writer.write(f"coefficient = tl.load(prepared + {slot + k})")
                    writer.write(f"sum{n_sums + k} += {f'{b} * ' if b else ''}{along}")
                    if a:
                        term = f"{b} * coefficient" if b else "coefficient"
                        writer.write(f"inner = {term}" if k == run[0][0] else f"inner = inner + {term}")
                    if b:
                        add(b, f"{along} * coefficient")
                if a:
                    add(a, f"{slope} * inner")
        for product, (left, right) in reversed(features.products.items()):
            add(left, f"d{product} * {right}")
            add(right, f"d{product} * {left}")
        n_sums += last - first
        for k, axis in enumerate(member.axes):
            writer.write(f"slope = tl.zeros([BLOCK], {writer.number})")
            for m in range(1, axis.degree + 1):
                c, s = f"{name}x{k}c{m}", f"{name}x{k}s{m}"
                if s in reached:
                    writer.write(f"slope = slope + d{s} * {c} * {m}.0")
                if c in reached:
                    writer.write(f"slope = slope - d{c} * {s} * {m}.0")
            writer.write(f"sum{n_sums} += slope")
            n_sums += 1
            _add_slope(writer, axis, slopes_of)
        slot = turns + 2 * len(member.axes)
    _finish_inputs(writer, slopes_of, onto)
    before = [f"sum{k} = tl.zeros([BLOCK], {writer.number})" for k in range(n_sums)]
    after = [f"tl.store(partial + {k}, tl.sum(sum{k}, 0))" for k in range(n_sums)]
    slopes = tuple(k for _, own, shifts in _coefficients(series, piece) for k in (*own, *shifts))
    return Kernel(writer.backward(before, after, n_sums), 128, 4, slopes)


def _outputs(writer: _Writer) -> list[int]:
    """The outputs that a piece has terms of."""
    result = []
    for index, first, last in writer.piece.terms:
        number = 0
        for output, terms in enumerate(writer.series.members[index].terms, writer.first_output(index)):
            if number < last and number + len(terms) > first:
                result.append(output)
            number += len(terms)
    return result


def _add_slope(writer: _Writer, axis: Axis, slopes: dict[int, str]) -> None:
    """Adds the variable ``slope``, the gradient along an axis, to that of its input."""
    along = f"along{axis.input}"
    known = f"{along} + " if axis.input in slopes else ""
    writer.write(f"{along} = {known}slope{f' * {axis.unit!r}' if axis.unit != 1 else ''}")
    slopes[axis.input] = along


def _finish_inputs(writer: _Writer, slopes: dict[int, str], onto: bool) -> None:
    """Writes the gradients of the inputs: zeros for those that nothing depends on."""
    zero = f"tl.zeros([BLOCK], {writer.number})"
    if onto:
        writer.load(2, slopes)
        values = {k: f"grads{k} + {slope}" for k, slope in slopes.items()}
    else:
        values = {k: slopes.get(k, zero) for k in range(writer.series.n_inputs)}
    writer.store(2, values)


# --- matrix products ------------------------------------------------------------------------------------------------


def _factor(writer: _Writer, axis: Axis, name: str, stride: int, slope: bool) -> str:
    """One factor of all products of features, whose numbers are ``number``, as an expression (BLOCK, K).

    With ``slope``, of their slopes along the axis.
    """
    values = "0.0" if slope else "1.0"
    for m in range(1, axis.degree + 1):
        c, s = f"{name}c{m}[:, None]", f"{name}s{m}[:, None]"
        if slope:
            c, s = f"{-m}.0 * {s}", f"{m}.0 * {c}"
        values = f"tl.where(digit == {2 * m - 1}, {c}, tl.where(digit == {2 * m}, {s}, {values}))"
    writer.write(f"digit = ((number // {stride}) % {axis.size})[None, :]")
    return values


def _half(writer: _Writer, result: str, index: int, first: bool, table: _Table, turned: int | None = None) -> None:
    """All products of features of half the axes of a member as the variable ``result``, (BLOCK, K).

    With ``turned``, their slopes along that axis.
    """
    axes = list(enumerate(table.member.axes))
    axes = axes[: table.member.split] if first else axes[table.member.split :]
    writer.write(f"number = tl.arange(0, {table.first if first else table.rows})")
    writer.write(f"{result} = tl.full([BLOCK, {table.first if first else table.rows}], 1.0, {writer.number})")
    for position, (k, axis) in enumerate(axes):
        stride = math.prod(other.size for _, other in axes[position + 1 :])
        factor = _factor(writer, axis, f"m{index}x{k}", stride, k == turned)
        writer.write(f"{result} = {result} * {factor}")


def _dense(series: Series, piece: Piece, place: Place) -> tuple[_Writer, _Table, int]:
    """A writer that has made the features of a dense piece, with its table and the number of its first output."""
    index = piece.terms[0][0]
    writer, table = _Writer(series, piece, place), _Table(series.members[index])
    writer.samples()
    writer.turned_axes(index, table.rows * table.columns)
    _half(writer, "first", index, True, table)
    _half(writer, "second", index, False, table)
    return writer, table, writer.first_output(index)


def _product(left: str, right: str, writer: _Writer) -> str:
    return f"tl.dot({left}, {right}, input_precision={writer.place.precision!r}, out_dtype={writer.number})"


def _entries(table: _Table) -> list[str]:
    """Lines that find the entries of chunk ``chunk`` of a table."""
    return [
        f"column = tl.arange(0, {table.width})[None, :]",
        f"row = tl.arange(0, {table.rows})[:, None]",
        f"entry = chunk * {table.rows * table.width} + row * {table.width} + column",
    ]


def _chunk(writer: _Writer, table: _Table, first_output: int) -> list[str]:
    """Lines that read a chunk of the table and find its outputs."""
    return [
        *_entries(table),
        "coefficients = tl.load(prepared + entry)",
        f"output = chunk * {table.together} + tl.arange(0, {table.together})",
        f"known = output < {len(table.member.terms)}",
        f"offsets = tl.load(table + {writer.first_words[1] + first_output} + output, mask=known, other=0)",
        "at_columns = at_outputs[:, None] + offsets[None, :]",
        "live_columns = live[:, None] & known[None, :]",
    ]


def _dense_forward(series: Series, piece: Piece, place: Place) -> Kernel:
    writer, table, first_output = _dense(series, piece, place)
    shape = f"(BLOCK, {table.together}, {table.first})"
    body = [
        *_chunk(writer, table, first_output),
        f"product = tl.reshape({_product('second', 'coefficients', writer)}, {shape})",
        "values = tl.sum(product * first[:, None, :], 2)",
        "tl.store(outputs + at_columns, values, mask=live_columns)",
    ]
    writer.lines += [f"for chunk in range({table.chunks}):", *(f"    {line}" for line in body)]
    return Kernel(writer.forward(), 64, 4)


def _columns(writer: _Writer, table: _Table, first_output: int) -> list[str]:
    """Lines that read a chunk and the gradients of its outputs: ``slopes`` (BLOCK, outputs, 1), and times features."""
    return [
        *_chunk(writer, table, first_output),
        f"slopes = tl.load(outputs + at_columns, mask=live_columns, other=0.0).to({writer.number})[:, :, None]",
        f"along = tl.reshape(slopes * first[:, None, :], (BLOCK, {table.width}))",
    ]


def _dense_inputs(series: Series, piece: Piece, place: Place, onto: bool) -> Kernel:
    """Gradients of inputs and shifts."""
    writer, table, first_output = _dense(series, piece, place)
    index, member = piece.terms[0][0], table.member
    body = [
        *_columns(writer, table, first_output),
        f"product = {_product('second', 'coefficients', writer)}",
        f"along_first += tl.sum(tl.reshape(product, (BLOCK, {table.together}, {table.first})) * slopes, 1)",
        f"along_second += {_product('along', 'tl.trans(coefficients)', writer)}",
    ]
    writer.write(f"along_first = tl.zeros([BLOCK, {table.first}], {writer.number})")
    writer.write(f"along_second = tl.zeros([BLOCK, {table.rows}], {writer.number})")
    writer.lines += [f"for chunk in range({table.chunks}):", *(f"    {line}" for line in body)]
    before, after = [], []
    slopes_of: dict[int, str] = {}
    for k, axis in enumerate(member.axes):
        _half(writer, "turned", index, k < member.split, table, k)
        writer.write(f"slope = tl.sum(along_{'first' if k < member.split else 'second'} * turned, 1)")
        writer.write(f"sum{k} += slope")
        before.append(f"sum{k} = tl.zeros([BLOCK], {writer.number})")
        after.append(f"tl.store(partial + {k}, tl.sum(sum{k}, 0))")
        _add_slope(writer, axis, slopes_of)
    _finish_inputs(writer, slopes_of, onto)
    ((_, _, shifts),) = _coefficients(series, piece)
    block, warps = (64, 8) if table.first == table.rows == _DOT else (16, 4)
    return Kernel(writer.backward(before, after, len(shifts)), block, warps, tuple(shifts))


def _dense_coefficients(series: Series, piece: Piece, place: Place) -> Kernel:
    """Gradients of coefficients; a program has one chunk of them."""
    writer, table, first_output = _dense(series, piece, place)
    writer.lines += _columns(writer, table, first_output)
    writer.write(f"total += {_product('tl.trans(second)', 'along', writer)}")
    before = ["chunk = tl.program_id(2)", f"total = tl.zeros([{table.rows}, {table.width}], {writer.number})"]
    after = [*_entries(table), "tl.store(partial + entry, total)"]  # what a loop defines is not known behind it
    ((_, own, _),) = _coefficients(series, piece)
    warps = 4 if table.rows == _DOT else 8
    return Kernel(writer.backward(before, after, len(own)), 64, warps, tuple(own), table.chunks)


# --- either way -----------------------------------------------------------------------------------------------------


def forward(series: Series, piece: Piece, place: Place) -> Kernel:
    """The forward kernel of a piece."""
    return (_dense_forward if piece.dense else _written_forward)(series, piece, place)


def backward(series: Series, piece: Piece, place: Place, onto: bool) -> tuple[Kernel, ...]:
    """The backward kernels of a piece; with ``onto``, they add gradients of inputs to those that are there."""
    if not piece.dense:
        return (_written_backward(series, piece, place, onto),)
    return _dense_inputs(series, piece, place, onto), _dense_coefficients(series, piece, place)
