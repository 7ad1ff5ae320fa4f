"""Products with a weight that is mostly zero: y = x Wᵀ + b, dX = G W and dW = Gᵀ X, without multiplying the zeros.

On a CPU, numba kernels work on tiles of TILE tokens. Forward and dX go through the nonzeros of W (§8: both use
the sparse weight), each of them times a whole tile of one channel, the sums in registers; for that the tile is
transposed on its way in and out. dW is dense, but most of G is zero behind AbsTopK: only its nonzeros add a row of X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.kernels.simd import BLOCK, TILE, add_rows, lowest_bit, nonzero_bits, transpose_block
from pipeline.kernels.threads import in_shares

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
WIDE = 512  # most columns of dW that are summed at a time
TOGETHER = 2 * TILE  # tokens whose rows are added to a row of dW at once
IN_CACHE = 1 << 16  # numbers of dW, a quarter megabyte, that stay in the second-level cache while all tokens pass by


@dataclass(frozen=True)
class CsrRows:
    """The nonzeros of a matrix row by row (CSR): those of row i are ``column[start[i]:start[i + 1]]``."""

    start: Ints
    column: Ints
    value: Floats

    def filtered(self, live: Bool[Tensor, " column"]) -> CsrRows:
        """Only those nonzeros whose column is live."""
        if bool(live.all()):
            return self
        start, column, value = np.empty_like(self.start), np.empty_like(self.column), np.empty_like(self.value)
        n = _filter(self.start, self.column, self.value, live.numpy(), start, column, value)
        return CsrRows(start, column[:n], value[:n])

    def without_zeros(self, value: Floats) -> CsrRows:
        """With other values, and without those that are zero."""
        keep = value != 0
        before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
        return CsrRows(before[self.start], self.column[keep], value[keep])


@dataclass(frozen=True)
class Nonzeros:
    """The nonzeros of a weight [out, in]: by rows for y, by columns for dX."""

    rows: CsrRows
    columns: CsrRows

    @classmethod
    def of(cls, weight: Float[Tensor, "out in"]) -> Nonzeros:
        """Those of ``weight``, as it is now."""
        matrix = weight.detach().contiguous().numpy()
        rows = _empty_rows(matrix.shape[0], n_nonzero(weight))
        _by_rows(matrix, rows.start, rows.column, rows.value)
        return cls.of_rows(rows, matrix.shape[1])

    @classmethod
    def of_rows(cls, rows: CsrRows, n_columns: int) -> Nonzeros:
        """The same from those of each row."""
        columns = _empty_rows(n_columns, len(rows.column))
        _by_columns(rows.start, rows.column, rows.value, columns.start, columns.column, columns.value)
        return cls(rows, columns)

    def between(self, sources: Bool[Tensor, " in"], targets: Bool[Tensor, " out"]) -> Nonzeros:
        """For y those from live sources, for dX those to live targets."""
        return Nonzeros(self.rows.filtered(sources), self.columns.filtered(targets))


def _empty_rows(n_rows: int, n: int) -> CsrRows:
    return CsrRows(np.zeros(n_rows + 1, np.int32), np.empty(n, np.int32), np.empty(n, np.float32))


def n_nonzero(x: Tensor) -> int:
    """How many entries of a float32 tensor are not zero."""
    if x.device.type != "cpu":
        return int(torch.count_nonzero(x))
    return int(_count(x.detach().contiguous().view(-1).view(torch.int32).numpy()))


def fits(weight: Tensor) -> bool:
    """Whether the kernels can multiply by a weight of this shape, place and type."""
    whole_tiles = weight.shape[0] % TILE == 0 and weight.shape[1] % TILE == 0
    return weight.dtype == torch.float32 and (weight.is_cuda or (weight.device.type == "cpu" and whole_tiles))


def multiply(x: Float[Tensor, "*n in"], rows: CsrRows, bias: Float[Tensor, " out"] | None) -> Float[Tensor, "*n out"]:
    """x Wᵀ + bias for the W [out, in] whose nonzeros ``rows`` holds; summed in float32, in x's type, contiguous.

    x is float32 or bfloat16, which is widened and narrowed tile by tile, in the cache.
    """
    n_out = len(rows.start) - 1
    out = torch.empty(*x.shape[:-1], n_out, dtype=x.dtype)
    added = np.zeros(n_out, np.float32) if bias is None else bias.detach().numpy()
    kernel, as_numpy = (_multiply, x.dtype) if x.dtype == torch.float32 else (_multiply_bfloat16, torch.int16)
    values = x.detach().contiguous().flatten(0, -2).view(as_numpy).numpy()
    into = out.view(-1, n_out).view(as_numpy).numpy()

    def work(start: int, stop: int) -> None:
        kernel(values[start:stop], rows.start, rows.column, rows.value, added, into[start:stop])

    in_shares(work, len(values), multiple=TILE)
    return out


def outer(g: Float[Tensor, "n out"], x: Float[Tensor, "n in"]) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"]]:
    """Gᵀ X and the column sums of G, at the cost of the nonzeros of G; float32, contiguous."""
    out, total = torch.empty(g.shape[1], x.shape[1]), torch.empty(g.shape[1])
    gradients, values, into, sums = g.contiguous().numpy(), x.detach().contiguous().numpy(), out.numpy(), total.numpy()
    in_shares(lambda start, stop: _outer(gradients, values, start, stop, into, sums), len(into), multiple=2 * BLOCK)
    return out, total


def transposed(x: Float[Tensor, "n width"]) -> Float[Tensor, "width n"]:
    """x, bfloat16, turned and contiguous: torch multiplies that faster than a view, to the same bits."""
    if x.shape[0] % TILE or x.shape[1] % TILE:
        return x.t().contiguous()
    out = torch.empty(x.shape[1], x.shape[0], dtype=x.dtype)
    source, into = x.contiguous().view(torch.int16).numpy(), out.view(torch.int16).numpy()
    in_shares(lambda first, last: _turn(source, first, last, into), x.shape[1], multiple=TILE)
    return out


@numba.njit(nogil=True, cache=True)
def _filter(start: Any, column: Any, value: Any, live: Any, into: Any, columns: Any, values: Any) -> int:
    n = 0
    for i in range(len(start) - 1):
        into[i] = n
        for j in range(start[i], start[i + 1]):
            if live[column[j]]:
                columns[n], values[n] = column[j], value[j]
                n += 1
    into[len(start) - 1] = n
    return n


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def dot_ends(target: Any, source: Any, t: Any, s: Any, out: Any) -> None:
    """For every edge e, the product of row ``t[e]`` of ``target`` with row ``s[e]`` of ``source`` [channel, token]."""
    for e in range(len(out)):
        one, other, total = target[t[e]], source[s[e]], np.float32(0)
        for r in range(len(one)):
            total += one[r] * other[r]
        out[e] = total


@numba.njit(nogil=True, cache=True)
def nonzeros_of_tile(values: Any, at: int, first: int, place: Any, value: Any) -> int:
    """The nonzeros among the TILE numbers from ``values[at]``: their places, counted from ``first``, and values."""
    n = 0
    bits = nonzero_bits(values, at)
    while bits != 0:
        s = lowest_bit(bits)
        place[n], value[n] = first + s, values[at + s]
        bits &= bits - 1
        n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _count(bits: Any) -> Any:
    n = np.int32(0)
    for i in range(len(bits)):
        n = np.int32(n + np.int32((bits[i] & np.int32(0x7FFFFFFF)) != 0))
    return n


@numba.njit(nogil=True, cache=True)
def _by_rows(matrix: Any, start: Any, column: Any, value: Any) -> None:
    n_rows, width = matrix.shape
    flat = matrix.reshape(-1)
    n = 0
    for i in range(n_rows):
        for j in range(0, width, TILE):
            n += nonzeros_of_tile(flat, i * width + j, j, column[n:], value[n:])
        start[i + 1] = n


@numba.njit(nogil=True, cache=True)
def _by_columns(start: Any, column: Any, value: Any, column_start: Any, row: Any, column_value: Any) -> None:
    """A counting sort by column; within a column the rows stay in order."""
    for p in range(len(column)):
        column_start[column[p] + 1] += 1
    for j in range(len(column_start) - 1):
        column_start[j + 1] += column_start[j]
    to = column_start[:-1].copy()
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            j = column[p]
            row[to[j]], column_value[to[j]] = i, value[p]
            to[j] += 1


@numba.njit(nogil=True, cache=True)
def transpose(source: Any, n_rows: int, first: int, n_columns: int, out: Any) -> None:
    """Columns ``first …`` of the rows of ``source`` [n_rows, width], as rows of TILE in the flat ``out``."""
    width = source.shape[1]
    flat = source.reshape(-1)
    whole = n_rows // BLOCK * BLOCK
    for t in range(0, whole, BLOCK):
        for i in range(0, n_columns, BLOCK):
            transpose_block(flat, t * width + first + i, width, out, i * TILE + t, TILE)
    for t in range(whole, n_rows):
        for i in range(n_columns):
            out[i * TILE + t] = source[t, first + i]


@numba.njit(nogil=True, cache=True)
def _turn(source: Any, first: int, last: int, out: Any) -> None:
    """Columns ``first …`` of the int16 ``source`` [row, column] as rows of ``out`` [column, row]; multiples of TILE."""
    n_rows, width = source.shape
    flat, into = source.reshape(-1), out.reshape(-1)
    for c in range(first, last, TILE):
        for r in range(0, n_rows, TILE):
            for i in range(c, c + TILE, BLOCK):
                for t in range(r, r + TILE, BLOCK):
                    transpose_block(flat, t * width + i, width, into, i * n_rows + t, n_rows)


@numba.njit(nogil=True, cache=True)
def _multiply(x: Any, start: Any, column: Any, value: Any, bias: Any, y: Any) -> None:
    channels = np.zeros(x.shape[1] * TILE, np.float32)
    sums = np.empty(2 * BLOCK * TILE, np.float32)
    for t in range(0, x.shape[0], TILE):
        n = min(TILE, x.shape[0] - t)
        _multiply_tile(x[t : t + n], start, column, value, bias, channels, sums, y[t : t + n])


@numba.njit(nogil=True, cache=True)
def _multiply_bfloat16(x: Any, start: Any, column: Any, value: Any, bias: Any, y: Any) -> None:
    """The same for bit patterns of bfloat16 (int16): the upper half of those of float32."""
    channels = np.zeros(x.shape[1] * TILE, np.float32)
    sums = np.empty(2 * BLOCK * TILE, np.float32)
    wide, out = np.empty((TILE, x.shape[1]), np.float32), np.empty((TILE, y.shape[1]), np.float32)
    bits, out_bits = wide.view(np.int32).reshape(-1), out.view(np.int32).reshape(-1)
    for t in range(0, x.shape[0], TILE):
        n = min(TILE, x.shape[0] - t)
        widen(x[t : t + n].reshape(-1), np.int32(16), bits)
        _multiply_tile(wide[:n], start, column, value, bias, channels, sums, out[:n])
        _narrow(out_bits, y[t : t + n].reshape(-1))


@numba.njit(nogil=True, cache=True)
def widen(source: Any, shift: Any, bits: Any) -> None:
    """Bit patterns to int32, shifted: bfloat16 is the upper half of float32."""
    for i in range(len(source)):
        bits[i] = np.int32(source[i]) << shift


@numba.njit(nogil=True, cache=True)
def _narrow(bits: Any, out: Any) -> None:
    """Round to the nearest bfloat16, ties to even, as torch does; NaN stays NaN."""
    for i in range(len(out)):
        even = bits[i] >> np.int32(16) & np.int32(1)
        rounded = np.int32(bits[i] + np.int32(0x7FFF) + even) >> np.int32(16)
        undefined = (bits[i] & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000)
        out[i] = np.int16(np.int32(0x7FC0) if undefined else rounded)


@numba.njit(nogil=True, cache=True)
def _multiply_tile(x: Any, start: Any, column: Any, value: Any, bias: Any, channels: Any, sums: Any, y: Any) -> None:
    """TILE tokens or fewer; ``channels`` [in, token] and ``sums`` [out, token], a cache line of out at a time, are
    overwritten."""
    n, n_out = len(x), y.shape[1]
    flat = y.reshape(-1)
    transpose(x, n, 0, x.shape[1], channels)
    for j in range(0, n_out, 2 * BLOCK):
        for i in range(2 * BLOCK):
            sums[i * TILE : (i + 1) * TILE] = bias[j + i]
            p = start[j + i]
            add_rows(sums, i * TILE, channels, TILE, 0, column, p, value, p, start[j + i + 1] - p)
        whole = n // BLOCK * BLOCK
        for s in range(0, whole, BLOCK):
            transpose_block(sums, s, TILE, flat, s * n_out + j, n_out)
            transpose_block(sums, BLOCK * TILE + s, TILE, flat, s * n_out + j + BLOCK, n_out)
        for s in range(whole, n):
            for i in range(2 * BLOCK):
                y[s, j + i] = sums[i * TILE + s]


@numba.njit(nogil=True, cache=True)
def _outer(g: Any, x: Any, first: int, last: int, out: Any, total: Any) -> None:
    n_in = x.shape[1]
    rows, sums = x.reshape(-1), out.reshape(-1)
    columns = np.empty(2 * BLOCK * TOGETHER, np.float32)  # [token // TILE, out, token % TILE]
    token, scale = np.empty(TOGETHER, np.int32), np.empty(TOGETHER, np.float32)
    width = min(n_in, WIDE)
    height = max(2 * BLOCK, IN_CACHE // width)
    out[first:last], total[first:last] = 0, 0
    for c, top in [(c, top) for c in range(0, n_in, width) for top in range(first, last, height)]:
        for t in range(0, x.shape[0], TOGETHER):
            for j in range(top, min(top + height, last), 2 * BLOCK):
                columns[:] = 0
                for part in range(t, min(t + TOGETHER, x.shape[0]), TILE):
                    n = min(TILE, x.shape[0] - part)
                    transpose(g[part : part + n], n, j, 2 * BLOCK, columns[(part - t) * 2 * BLOCK :])
                for i in range(2 * BLOCK):
                    n = 0
                    for part in range(0, TOGETHER, TILE):
                        n += nonzeros_of_tile(columns, part * 2 * BLOCK + i * TILE, t + part, token[n:], scale[n:])
                    if c == 0:
                        for p in range(n):
                            total[j + i] += scale[p]
                    for s in range(c, min(c + width, n_in), TILE):
                        add_rows(sums, (j + i) * n_in + s, rows, n_in, s, token, 0, scale, 0, n)
