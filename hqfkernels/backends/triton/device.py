"""What all kernels have in common: finding samples, reading and writing features, sines and cosines."""

from __future__ import annotations

import triton
import triton.language as tl

EXACT_ANGLES = tl.constexpr(1e4)
"""Beyond this, multiples of the parts of pi / 2 below stop being exact."""
_ROUNDING = tl.constexpr(12582912.0)
"""1.5 * 2^23: added, it rounds to an integer and leaves that in the low bits of the sum."""
# pi / 2 in three parts, the first two of few bits each, so that multiples of them are exact (Cody and Waite).
_FIRST = tl.constexpr(1.5703125)
_SECOND = tl.constexpr(4.837512969970703125e-4)
_THIRD = tl.constexpr(7.54978995489188216e-8)


@triton.jit
def place(table, number, FIRST: tl.constexpr, N_DIMS: tl.constexpr):
    """Offsets of a sample or group in the tensors of a `Layout`, whose table has its dimensions from a word on."""
    at_inputs = number.to(tl.int64) * 0
    at_outputs = at_inputs
    at_grads = at_inputs
    rest = number
    for d in tl.static_range(N_DIMS):
        if d + 1 < N_DIMS:
            size = tl.load(table + FIRST + 4 * d).to(rest.dtype)
            own = (rest % size).to(tl.int64)
            rest = rest // size
        else:
            own = rest.to(tl.int64)
        at_inputs += own * tl.load(table + FIRST + 4 * d + 1)
        at_outputs += own * tl.load(table + FIRST + 4 * d + 2)
        at_grads += own * tl.load(table + FIRST + 4 * d + 3)
    return at_inputs, at_outputs, at_grads


@triton.jit
def _sides(at, WIDTH: tl.constexpr):
    """Offsets of ``WIDTH`` neighbours, known to be aligned."""
    sides = at[:, None] + tl.arange(0, WIDTH)[None, :]
    return tl.max_contiguous(tl.multiple_of(sides, (1, WIDTH)), (1, WIDTH))


@triton.jit
def load1(tensor, at, live, NUMBER: tl.constexpr):
    return tl.load(tensor + at, mask=live, other=0.0).to(NUMBER)


@triton.jit
def load2(tensor, at, live, NUMBER: tl.constexpr):
    values = tl.load(tensor + _sides(at, 2), mask=live[:, None], other=0.0).to(NUMBER)
    return tl.split(values)


@triton.jit
def load4(tensor, at, live, NUMBER: tl.constexpr):
    values = tl.load(tensor + _sides(at, 4), mask=live[:, None], other=0.0).to(NUMBER)
    even, odd = tl.split(tl.reshape(values, (values.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def store1(tensor, at, live, first):
    tl.store(tensor + at, first, mask=live)


@triton.jit
def store2(tensor, at, live, first, second):
    tl.store(tensor + _sides(at, 2), tl.join(first, second), mask=live[:, None])


@triton.jit
def store4(tensor, at, live, first, second, third, fourth):
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    tl.store(tensor + _sides(at, 4), tl.reshape(pairs, (pairs.shape[0], 4)), mask=live[:, None])


@triton.jit
def tame(x):
    """Angles modulo 2 pi, to float32's precision up to 10^15; NaN for NaN and infinities."""
    wide = x.to(tl.float64)
    two_pi = tl.full((), 6.283185307179586, tl.float64)  # up to Triton 3.6 fma takes literals for float32
    rest = tl.full((), 2.4492935982947064e-16, tl.float64)
    for _ in tl.static_range(3):  # what is left of larger angles is arbitrary, but after three rounds none is large
        turns = tl.floor(wide * 0.15915494309189533577 + 0.5)
        wide = tl.fma(-turns, rest, tl.fma(-turns, two_pi, wide))
    return wide.to(tl.float32)


@triton.jit
def sincos(x):
    """Sine and cosine.

    Of float32 angles up to `EXACT_ANGLES`, by the minimax polynomials of the Cephes library (S. Moshier), to about an
    ulp.
    """
    if x.dtype == tl.float64:
        return tl.sin(x), tl.cos(x)
    shifted = x * 0.63661977236758134308 + _ROUNDING
    quadrant = shifted.to(tl.int32, bitcast=True)
    count = shifted - _ROUNDING
    r = ((x - count * _FIRST) - count * _SECOND) - count * _THIRD
    z = r * r
    s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4))
    c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    odd = (quadrant & 1) != 0
    sine = tl.where(odd, c, s)
    cosine = tl.where(odd, s, c)
    sine = tl.where((quadrant & 2) != 0, -sine, sine)
    cosine = tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine)
    return sine, cosine


@triton.jit
def prepare(parameters, prepared, sources, n_parameters, n_prepared, BLOCK: tl.constexpr):
    """The numbers that contractions read, for each set of parameters.

    Copies (source 4 k), cosines (4 k + 1) and sines (4 k + 2) of parameter k, and zeros (-1).
    """
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    live = slot < n_prepared
    source = tl.load(sources + slot, mask=live, other=-1)
    value = tl.load(parameters + group * n_parameters + source // 4, mask=source >= 0, other=0.0)
    kind = source % 4
    value = tl.where(kind == 1, tl.cos(value), tl.where(kind == 2, tl.sin(value), value))
    tl.store(prepared + group * n_prepared + slot, value, mask=live)


@triton.jit
def collect(partial, grads, sources, n_programs, n_slots, n_parameters, BLOCK: tl.constexpr):
    """Adds to each gradient of a parameter the sum over all programs of the slot that its source names (-1: none)."""
    parameter = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    source = tl.load(sources + parameter, mask=parameter < n_parameters, other=-1)
    known = source >= 0
    total = tl.zeros([BLOCK, BLOCK], tl.float64)
    for first in range(0, n_programs, BLOCK):
        program = first + tl.arange(0, BLOCK)
        at = (group * n_programs + program)[:, None] * n_slots + source[None, :]
        total += tl.load(partial + at, mask=(program < n_programs)[:, None] & known[None, :], other=0.0)
    target = grads + group * n_parameters + parameter
    tl.store(target, tl.load(target, mask=known, other=0.0) + tl.sum(total, 0), mask=known)
