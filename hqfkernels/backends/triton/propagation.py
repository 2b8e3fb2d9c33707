"""Pauli propagation (`hqfkernels.propagation`) by Triton kernels: a program for each set of weights.

Numbers live in memory that a program shares among its threads, a region for the first list of them and one for each
that a collection makes; the tables of a propagation are integers on the device. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from hqfkernels.circuit import Angle
from hqfkernels.propagation import Collect, Propagation, Turn

_BLOCK = 128


@dataclass(frozen=True)
class _Tables:
    """A propagation as tensors.

    Attributes:
        steps: (n_steps, 8) integers: whether the step is a turn; its first word in ``words`` and how many pairs or new
            numbers it has; first word of the transposed collection and how many old numbers that has; where the
            numbers are that the step reads, and where it leaves them; the most terms of a sum.
        words: turns: index of p, of q, sign; collections: where the terms of each sum begin, ends included; then
            pairs of an old index and the place of the factor.
        factors: of collections.
        initial: the numbers to begin with.
        angles: (n_angles, n_weights), from weights to the angles of turns, then shifts.
        constants: (n_angles,), added to them.
        n_turns: how many of the angles are of turns.
        size: of all regions.
        last: where the coefficients are in the end, and how many.
    """

    steps: Tensor
    words: Tensor
    factors: Tensor
    initial: Tensor
    angles: Tensor
    constants: Tensor
    n_turns: int
    size: int
    last: tuple[int, int]


def _sums(entries: list[tuple[int, int, int]], size: int, words: list[int]) -> tuple[int, int]:
    """Adds sums over entries (to, from, place of factor) to ``words``: where they begin, and the most terms of one."""
    own: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for to, source, place in entries:
        own[to].append((source, place))
    begin = len(words)
    position = begin + size + 1
    for terms in own:
        words.append(position)
        position += 2 * len(terms)
    words.append(position)
    words += [word for terms in own for term in terms for word in term]
    return begin, max(map(len, own), default=0)


@lru_cache(maxsize=256)
def _tables(text: str, device: torch.device) -> _Tables:
    recipe = Propagation.from_text(text)
    steps: list[int] = []
    words: list[int] = []
    factors: list[float] = []
    angles: list[Angle] = []
    region, count = 0, len(recipe.initial)
    for step in recipe.steps:
        if isinstance(step, Turn):
            steps += [1, len(words), len(step.pairs), 0, 0, region, region, 0]
            words += step.pairs.ravel().tolist()
            angles.append(step.angle)
        else:
            steps += _collect(step, count, region, words, factors)
            region, count = region + count, step.size
    rows = torch.zeros(len(angles) + len(recipe.shifts), recipe.n_weights, dtype=torch.float64)
    every = [*angles, *recipe.shifts]
    for row, angle in zip(rows, every, strict=True):
        for k, factor in angle.weights:
            row[k] += factor

    def real(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    return _Tables(
        torch.tensor(steps, dtype=torch.int32, device=device).view(-1, 8),
        torch.tensor(words, dtype=torch.int32, device=device),
        real(factors),
        real(list(recipe.initial)),
        rows.to(device),
        real([angle.constant for angle in every]),
        len(angles),
        region + count,
        (region, count),
    )


def _collect(step: Collect, count: int, region: int, words: list[int], factors: list[float]) -> list[int]:
    """The words of ``steps`` for a collection."""
    entries = [(new, old, k) for k, (new, old) in enumerate(step.entries.tolist(), len(factors))]
    factors += step.factors.tolist()
    begin, most = _sums(entries, step.size, words)
    back, most_back = _sums([(old, new, place) for new, old, place in entries], count, words)
    return [0, begin, step.size, back, count, region, region + count, max(most, most_back)]


@triton.jit
def _turn(numbers, words, first, count, cosine, sine, BLOCK: tl.constexpr):
    """Turns pairs of numbers."""
    for begin in range(0, count, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        live = pair < count
        p = tl.load(words + first + 3 * pair, mask=live, other=0)
        q = tl.load(words + first + 3 * pair + 1, mask=live, other=0)
        s = sine * tl.load(words + first + 3 * pair + 2, mask=live, other=0).to(tl.float64)
        at_p = tl.load(numbers + p, mask=live, other=0.0)
        at_q = tl.load(numbers + q, mask=live, other=0.0)
        tl.store(numbers + p, cosine * at_p - s * at_q, mask=live)
        tl.store(numbers + q, cosine * at_q + s * at_p, mask=live)


@triton.jit
def _sum(source, target, words, factors, first, count, most, BLOCK: tl.constexpr):
    """Sums of factors times numbers."""
    for begin in range(0, count, BLOCK):
        new = begin + tl.arange(0, BLOCK)
        live = new < count
        position = tl.load(words + first + new, mask=live, other=0)
        end = tl.load(words + first + new + 1, mask=live, other=0)
        total = tl.zeros([BLOCK], tl.float64)
        for _ in range(0, most):
            within = position < end
            old = tl.load(words + position, mask=within, other=0)
            place = tl.load(words + position + 1, mask=within, other=0)
            factor = tl.load(factors + place, mask=within, other=0.0)
            total += factor * tl.load(source + old, mask=within, other=0.0)
            position += 2
        tl.store(target + new, total, mask=live)


@triton.jit
def propagate(steps, words, factors, waves, numbers, n_steps, n_turns, size, BLOCK: tl.constexpr):
    """Takes the numbers of each set of weights from the first region to the last."""
    group = tl.program_id(0)
    numbers += group * size
    waves += group * 2 * n_turns
    turn = 0
    for step in range(0, n_steps):
        own = steps + 8 * step
        first = tl.load(own + 1)
        count = tl.load(own + 2)
        here = numbers + tl.load(own + 5)
        if tl.load(own) == 1:
            _turn(here, words, first, count, tl.load(waves + 2 * turn), tl.load(waves + 2 * turn + 1), BLOCK)
            turn += 1
        else:
            _sum(here, numbers + tl.load(own + 6), words, factors, first, count, tl.load(own + 7), BLOCK)
        tl.debug_barrier()


@triton.jit
def propagate_back(steps, words, factors, waves, numbers, slopes, grads, n_steps, n_turns, size, BLOCK: tl.constexpr):
    """The way back: undoes the turns, and finds the gradient in the angle of each."""
    group = tl.program_id(0)
    numbers += group * size
    slopes += group * size
    waves += group * 2 * n_turns
    grads += group * n_turns
    turn = n_turns
    for back in range(0, n_steps):
        own = steps + 8 * (n_steps - 1 - back)
        first = tl.load(own + 1)
        count = tl.load(own + 2)
        region = tl.load(own + 5)
        if tl.load(own) == 1:
            turn -= 1
            total = tl.zeros([BLOCK], tl.float64)
            for begin in range(0, count, BLOCK):
                pair = begin + tl.arange(0, BLOCK)
                live = pair < count
                p = region + tl.load(words + first + 3 * pair, mask=live, other=0)
                q = region + tl.load(words + first + 3 * pair + 1, mask=live, other=0)
                sign = tl.load(words + first + 3 * pair + 2, mask=live, other=0).to(tl.float64)
                up = tl.load(slopes + q, mask=live, other=0.0) * tl.load(numbers + p, mask=live, other=0.0)
                down = tl.load(slopes + p, mask=live, other=0.0) * tl.load(numbers + q, mask=live, other=0.0)
                total += sign * (up - down)
            tl.store(grads + turn, tl.sum(total, 0))
            tl.debug_barrier()
            cosine = tl.load(waves + 2 * turn)
            sine = -tl.load(waves + 2 * turn + 1)
            _turn(numbers + region, words, first, count, cosine, sine, BLOCK)
            _turn(slopes + region, words, first, count, cosine, sine, BLOCK)
        else:
            source = slopes + tl.load(own + 6)
            _sum(source, slopes + region, words, factors, tl.load(own + 3), tl.load(own + 4), tl.load(own + 7), BLOCK)
        tl.debug_barrier()


def _run(tables: _Tables, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shifts, cosines and sines of turns, and the regions, for weights (n_groups, n_weights)."""
    groups = len(weights)
    turns, shifts = torch.addmm(tables.constants, weights, tables.angles.mT).tensor_split([tables.n_turns], -1)
    waves = torch.stack([turns.cos(), turns.sin()], -1)
    numbers = torch.empty(groups, tables.size, dtype=torch.float64, device=weights.device)
    numbers[:, : len(tables.initial)] = tables.initial
    propagate[(groups,)](
        tables.steps,
        tables.words,
        tables.factors,
        waves,
        numbers,
        len(tables.steps),
        tables.n_turns,
        tables.size,
        BLOCK=_BLOCK,
    )
    return shifts, waves, numbers


def forward(weights: Tensor, text: str) -> Tensor:
    """Parameters (*g, n) of the series that the propagation ``text`` is about, for weights (*g, n_weights)."""
    tables = _tables(text, weights.device)
    region, count = tables.last
    with torch.cuda.device_of(weights):  # Triton launches on the current device
        shifts, _, numbers = _run(tables, weights.reshape(-1, weights.shape[-1]))
    return torch.cat([numbers[:, region : region + count], shifts], -1).view(*weights.shape[:-1], -1)


def backward(grad: Tensor, weights: Tensor, text: str) -> Tensor:
    """The gradient of ``(grad * forward(weights, text)).sum()`` in the weights."""
    tables = _tables(text, weights.device)
    region, count = tables.last
    flat, slope = weights.reshape(-1, weights.shape[-1]), grad.reshape(-1, grad.shape[-1])
    along = torch.empty(len(flat), len(tables.constants), dtype=torch.float64, device=weights.device)
    along[:, tables.n_turns :] = slope[:, count:]
    turns = torch.empty(len(flat), tables.n_turns, dtype=torch.float64, device=weights.device)
    with torch.cuda.device_of(weights):
        _, waves, numbers = _run(tables, flat)
        slopes = torch.empty_like(numbers)
        slopes[:, region : region + count] = slope[:, :count]
        propagate_back[(len(flat),)](
            tables.steps,
            tables.words,
            tables.factors,
            waves,
            numbers,
            slopes,
            turns,
            len(tables.steps),
            tables.n_turns,
            tables.size,
            BLOCK=_BLOCK,
        )
    along[:, : tables.n_turns] = turns
    return (along @ tables.angles).view(weights.shape)
