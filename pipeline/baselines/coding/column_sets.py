"""A code for the columns of a binary matrix in which their order is free: a model that learns as it goes.

Columns are sets of rows. Those of one size are sorted and coded as the prefix tree of their rising row numbers:
at a node that n columns share, with m rows of each still to come, the smallest next row among the n columns
and then how many of them have it. Drawing that minimum, of m n draws, is what takes the log2(n!) bits of the
order out of the code. Chances of rows come from the rows' degrees (stored) and from how often rows met in the
columns coded so far: with the rows of the prefix (each by itself, and all together) and over one row between.

Everything that decides a chance uses +, -, * and / on doubles in a fixed sequence, so that every machine
decodes alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps
from pipeline.runs.entropy_coder import Coder, Decoder, Encoder

FREE, KEPT = b"\x01", b"\x02"  # first byte of a code whose order of columns is free, or kept
MOST_ROWS = 3000  # of the model, which remembers all pairs of them
MOST_STEPS = 3e8  # rows times non-zeros: about ten seconds
MOST_COLUMNS = 1 << 20  # that the range coder can tell apart
SHARES = np.array([0.05, 0.4, 0.35, 0.2])  # of the chance of a row: degree, prefix singly, prefix jointly, two steps
FLOOR = 0.1  # in the joint chance, the share of a row that has not met a row of the prefix
CONCENTRATION = 100.0  # of the beta-binomial number of columns that have the row


class Meetings:
    """The model: degrees of the N rows and how often each two met so far."""

    def __init__(self, degrees: Integers) -> None:
        from pipeline.baselines.coding import loops

        self._loops = loops
        self.count = len(degrees)
        self.degrees = degrees.astype(np.float64)
        self.left = self.degrees.copy()
        self.pairs = np.zeros((self.count, self.count))
        self.sums = np.zeros(self.count)
        self.steps = np.zeros(self.count)
        self.steps_of = -1
        self.tail = np.zeros(self.count + 1)

    def next_row(self, prefix: Integers, low: int, remaining: int, columns: int) -> Reals:
        """Chances of rows low..N - remaining to be the smallest next one."""
        if len(prefix) and prefix[0] != self.steps_of:
            self.steps_of = int(prefix[0])
            self._loops.two_steps(self.pairs, self.sums, self.steps_of, self.steps)
        chances = np.empty(self.count - remaining + 1 - low)
        self._loops.next_row_chances(
            self.left,
            self.pairs,
            self.sums,
            self.steps,
            prefix,
            low,
            remaining,
            columns,
            SHARES,
            FLOOR,
            self.tail,
            chances,
        )
        return chances

    def columns_with(self, row: int, remaining: int, columns: int) -> Reals:
        """Chances that 1..n of the columns have the row just found."""
        chances = np.empty(columns)
        self._loops.column_count_chances(self.tail[row], self.tail[row + 1], remaining, CONCENTRATION, chances)
        return chances

    def learn(self, prefix: Integers, row: int, columns: int) -> None:
        """Note that `columns` columns with this prefix have the row."""
        self._loops.meet(self.pairs, self.sums, self.left, prefix, row, columns)


def walk(content: Integers, model: Meetings, coder: Coder) -> None:
    """Code one size class: (n, size) rising row numbers, lexicographically sorted, filled in when decoding."""
    count, size = content.shape
    stack = [(0, count, 0, 0)] if content.size else []
    while stack:
        start, end, depth, low = stack.pop()
        prefix, remaining = content[start, :depth], size - depth
        chances = model.next_row(prefix, low, remaining, end - start)
        row = low + coder.one(chances, int(content[start, depth]) - low) if len(chances) > 1 else low
        having = 1
        if end - start > 1:
            known = int(np.searchsorted(content[start:end, depth], row, side="right"))
            having = 1 + coder.one(model.columns_with(row, remaining, end - start), known - 1)
        content[start : start + having, depth] = row
        content[start : start + having, :depth] = prefix
        model.learn(prefix, row, having)
        if start + having < end:
            content[start + having, :depth] = prefix
            stack.append((start + having, end, depth, row + 1))
        if remaining > 1:
            stack.append((start, start + having, depth + 1, row + 1))


def encode(classes: list[Integers], degrees: Integers) -> bytes:
    """Code groups of columns, each (n, size) and sorted, given the rows' degrees."""
    coder, model = Encoder(), Meetings(degrees)
    for content in classes:
        walk(content.copy(), model, coder)
    return coder.words().tobytes()


def decode(code: bytes, sizes: Sequence[Sequence[int]], degrees: Integers) -> list[Integers]:
    """Undo :func:`encode`; `sizes` lists (size, number of columns) of every group."""
    coder, model = Decoder(code), Meetings(degrees)
    classes = []
    for size, count in sizes:
        content = np.zeros((count, size), dtype=np.int64)
        walk(content, model, coder)
        classes.append(content)
    return classes


def able(coords: Integers, shape: Sequence[int]) -> bool:
    """Whether a tensor is a matrix that this model can code in seconds."""
    if len(shape) != 2 or max(shape) > MOST_COLUMNS:
        return False
    rows = len(np.unique(coords[:, 1 - gaps.top_mode(shape)]))
    return rows <= MOST_ROWS and rows * len(coords) <= MOST_STEPS


def pack(coords: Integers, values: Reals, shape: Sequence[int], free: bool) -> tuple[bytes, dict[int, Integers]]:
    """Code a matrix; the columns are the larger mode.

    Parameters
    ----------
    free
        Whether the order of the columns may be forgotten; else it is in the code.

    Returns
    -------
    The code, and by mode the orders (position -> index) that it has chosen.
    """
    top = gaps.top_mode(shape)
    degrees = np.bincount(coords[:, 1 - top], minlength=shape[1 - top])
    light_first = np.argsort(degrees, kind="stable")
    row_order = np.concatenate((light_first[degrees[light_first] > 0], light_first[degrees[light_first] == 0]))
    rows = gaps.positions(row_order)[coords[:, 1 - top]]
    by_column = np.lexsort((rows, coords[:, top]))
    sizes = np.bincount(coords[:, top], minlength=shape[top])
    groups, column_order, layout = (_classes if free else _singles)(rows[by_column], sizes)
    starts = np.cumsum(sizes) - sizes
    counts = sizes[column_order]
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    entries = by_column[np.repeat(starts[column_order], counts) + offset]
    kind, constant, numbers = gaps.encode_values(values[entries])
    used = np.sort(degrees[degrees > 0])
    streams = [gaps.squeeze(gaps.write_varints(part)) for part in (layout, np.diff(used, prepend=0))]
    streams += [(encode(groups, used), 0), gaps.squeeze(numbers)]
    code = gaps.joined(FREE if free else KEPT, [*shape, len(used), kind], constant, streams)
    return code, {1 - top: row_order} | ({top: column_order} if free else {})


def _classes(rows: Integers, sizes: Integers) -> tuple[list[Integers], Integers, Integers]:
    """Sorted columns by size, the order that makes of them, and the pairs (size, number of columns)."""
    starts = np.cumsum(sizes) - sizes
    groups, order, layout = [], [], []
    for size in np.unique(sizes[sizes > 0]):
        members = np.flatnonzero(sizes == size)
        content = rows[starts[members][:, None] + np.arange(size)]
        ranked = np.lexsort(content.T[::-1])
        groups.append(content[ranked])
        order.append(members[ranked])
        layout += [size, len(members)]
    return groups, np.concatenate([*order, np.flatnonzero(sizes == 0)]), np.array(layout)


def _singles(rows: Integers, sizes: Integers) -> tuple[list[Integers], Integers, Integers]:
    """Every column by itself, as it stands, and its size."""
    groups = [column[None, :] for column in np.split(rows, np.cumsum(sizes)[:-1])]
    return groups, np.arange(len(sizes)), sizes


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    head, at = gaps.read_varints(code, 12, 1)
    shape, used, kind = (int(head[0]), int(head[1])), int(head[2]), int(head[3])
    constant, streams = gaps.read_streams(code, at, kind, head[4::2])
    layout, _ = gaps.read_varints(gaps.expand(streams[0], int(head[5])), -1, 0)
    steps, _ = gaps.read_varints(gaps.expand(streams[1], int(head[7])), -1, 0)
    sizes = layout.reshape(-1, 2) if code[:1] == FREE else np.stack((layout, np.ones_like(layout)), axis=1)
    degrees = np.cumsum(steps)
    count = int(np.sum(sizes[:, 0] * sizes[:, 1]))
    if len(degrees) != used or degrees.sum() != count or sizes[:, 1].sum() > max(shape) or used > min(shape):
        raise ValueError("its sizes and degrees contradict each other")
    groups = decode(streams[2], sizes.tolist(), degrees)
    per_column = np.repeat(sizes[:, 0], sizes[:, 1])
    top = gaps.top_mode(shape)
    coords = np.empty((count, 2), dtype=np.int64)
    coords[:, top] = np.repeat(np.arange(len(per_column)), per_column)
    coords[:, 1 - top] = np.concatenate([group.reshape(-1) for group in groups])
    values = gaps.decode_values(kind, constant, gaps.expand(streams[3], int(head[11])), count)
    return coords, values, shape
