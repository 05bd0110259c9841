"""A code for matrices all of whose columns occur a multiple of g times: one of every g is coded, orders free.

Rounding how often each pattern occurs to such multiples is what makes a book of few patterns cheap
(:mod:`pipeline.baselines.rate_distortion`): the low bits of a count cost as much as the high ones and hold less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps, mixed, unlabelled

CODE = b"\x10"  # first byte of such a code


def pack(
    coords: Integers, values: Reals, shape: Sequence[int], columns: Integers, which: Integers
) -> tuple[bytes, dict[int, Integers]] | None:
    """Code a matrix of one value; None where not all columns occur a multiple of g > 1 times.

    Parameters
    ----------
    columns, which
        The columns that have cells, and which of the distinct ones each is.

    Returns
    -------
    As :func:`pipeline.baselines.coding.unlabelled.pack`.
    """
    times = np.bincount(which)
    each = int(np.gcd.reduce(times))
    if each < 2 or len(coords) > mixed.LARGEST_MODE:
        return None
    top = gaps.top_mode(shape)
    alike = columns[np.argsort(which, kind="stable")]  # those of one group of `each` side by side
    place = np.full(shape[top], -1, dtype=np.int64)
    place[alike] = np.arange(len(alike))
    first = np.flatnonzero(place[coords[:, top]] % each == 0)
    some = coords[first].copy()
    some[:, top] = place[some[:, top]] // each
    packed = unlabelled.pack(some, values[first], shape)
    if packed is None:
        return None
    code, orders = packed
    chosen = orders[top][: len(alike) // each]
    order = (chosen[:, None] * each + np.arange(each)).ravel()
    orders[top] = np.concatenate((alike[order], np.setdiff1d(np.arange(shape[top]), alike)))
    return gaps.joined(CODE, [each], b"", [(code, 0)]), orders


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    (each, length, _), at = gaps.read_varints(code, 3, 1)
    if code[at : at + 1] not in unlabelled.FREE_CODES or not 1 < each <= 1 << 40:
        raise ValueError("no repeated columns")
    coords, values, shape = unlabelled.unpack(code[at : at + int(length)])
    top = gaps.top_mode(shape)
    if (int(coords[:, top].max()) + 1) * int(each) > shape[top] or len(coords) * int(each) > mixed.LARGEST_MODE:
        raise ValueError("more columns than there are, or cells than are coded so")
    cells = np.repeat(coords, each, axis=0)
    cells[:, top] = cells[:, top] * each + np.tile(np.arange(each), len(coords))
    return cells, np.repeat(values, each), shape
