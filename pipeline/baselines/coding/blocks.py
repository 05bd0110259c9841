"""A code for matrices that answers about a cell without decoding the others: columns in blocks.

The columns, slices of the larger mode, are cut into 2^L blocks of about as many cells each. What adaptive codes learn
from the cells before is not at hand in a block, so all is told by fixed tables; yet nothing is told twice:

- the cells of every row, once, by the frequencies of such numbers;
- how a row's cells fall on the blocks, by halving: of d cells in 2^l blocks, how many lie in the left half, as of d
  even draws. The sum over all nodes is what a list log2(n! / prod d!) would say, so that the cut into blocks costs
  only the ends of the nodes' codes. One block needs the L nodes above it: each half has half of the cells;
- in a block the columns, by the sizes' frequencies, as sets of classes of rows, and rows of a class drawn without
  replacement from what the block has of it, told as the least of the draws to come by halving.

Classes are the rows' numbers of cells, coarsely, and groups of rows that meet more often than chance says (spectral
clustering of the normalised co-occurrence of rows with many cells). The chance of the next class follows from the class
before, the rows to come and those told, by a table of rounded counts, times what the block has left of the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals, Sparse
from pipeline.baselines.coding import gaps, unlabelled

CODE = b"\x0b"  # first byte of such a code
PARTED_CODE = b"\x11"  # of one whose rows of few cells are in classes by their place among all rows, too
CODES = CODE, PARTED_CODE
CELLS = 4096  # of a block at most, and at least half of it
MOST_DEPTH = 16  # of halving
LIGHT = 3  # classes of rows of fewer than 2^3 cells; rows of more may be in groups
GROUPS = (0, 16, 32)  # how many to try, each in two by number of cells
PARTS = 8  # of the rows' sequence that such a code tells apart
MOST_PARTS = 64
BUSY = 200  # cells of a row of a group's second kind
DIRECTIONS = 32  # of the spectral clustering
ROUNDS = 24  # of the groups after it
UNIT = 1 << 16
LISTED, PLAIN = 4, 5  # kinds of values, beside those of `gaps`: by their frequencies, and as they are
KEPT_BLOCKS = 16  # that a reader remembers
MOST_LISTED = 1 << 12  # symbols of a list; more kinds of values are told as they are
EXACT = 8  # counts of the table up to here are told as they are, others within a tenth
STEP = 1.189207115002721  # fourth root of 2
LEVELS = 160  # of counts
BACK_OFF = 2.0  # cells of the general frequencies added to every row of the table


class Listed(NamedTuple):
    """Symbols of fixed chances: the numbers, where each one's chances begin, and the symbol at each of 65536 places."""

    numbers: Integers
    starts: Integers
    symbols: npt.NDArray[np.uint16]


def listed(numbers: Integers, times: Integers) -> Listed:
    """Chances by how often each of at most ``UNIT / 2`` numbers occurs, none of them 0."""
    if not 0 < len(numbers) <= UNIT // 2 or times.min() < 1:
        raise ValueError("no such list of numbers")
    chances = 1 + times * (UNIT - len(numbers)) // int(times.sum())
    chances[np.argmax(chances)] += UNIT - int(chances.sum())
    symbols = np.repeat(np.arange(len(numbers)), chances).astype(np.uint16)
    return Listed(numbers, np.append(0, np.cumsum(chances)), symbols)


def able(coords: Integers, shape: Sequence[int]) -> bool:
    """Whether a tensor is a matrix that this code takes: all rows and columns are listed, so neither is too long."""
    return unlabelled.keeps(coords, shape)


class Layout:
    """What both directions know of the rows: their classes, and chances of these; where blocks begin.

    Parameters
    ----------
    degree
        Cells of every row.
    group
        Of every row of at least 2^LIGHT cells.
    groups
        How many; none if the numbers of cells alone are the classes.
    edges
        (blocks + 1,) columns at which the blocks begin, and the end.
    parts
        Of the rows' sequence, in which rows of fewer cells are told apart.
    """

    def __init__(self, degree: Integers, group: Integers, groups: int, edges: Integers, parts: int = 1) -> None:
        self.degree, self.edges, self.depth = degree, edges, (len(edges) - 1).bit_length() - 1
        self.classes = row_classes(degree, parts)
        heavy = degree >= 1 << LIGHT
        if groups:
            self.classes[heavy] = LIGHT * parts + 2 * group + (degree[heavy] >= BUSY)
        self.count = LIGHT * parts + 2 * groups if groups else int(self.classes.max()) + 1
        self.open = np.bincount(self.classes, degree, minlength=self.count)
        self.single = np.flatnonzero(degree == 1)
        several = np.flatnonzero(degree > 1)
        alike_first = np.argsort(np.minimum(degree[several], UNIT - 1).astype(np.uint16), kind="stable")
        self.several = several[alike_first]  # rising in cells, which compiled loops foresee

    def tables(self, levels: npt.NDArray[np.uint8]) -> Reals:
        """(contexts, classes) chances of every class, up to a factor, before what is open of it is looked at."""
        known = level_values()[levels].reshape(-1, self.count)
        return known + BACK_OFF * (self.open / max(float(self.open.sum()), 1.0))

    @property
    def scale(self) -> Reals:
        """One over all cells of each class."""
        return 1.0 / np.maximum(self.open, 1.0)


def degree_classes(degree: Integers) -> Integers:
    """Logarithms to the base 2, rounded down; 0 for none."""
    logarithms = np.frexp(np.maximum(np.arange(int(degree.max()) + 1), 1).astype(np.float64))[1].astype(np.int64) - 1
    return np.asarray(logarithms[degree])


def row_classes(degree: Integers, parts: int) -> Integers:
    """Classes by numbers of cells; those of fewer than 2^LIGHT cells are each in parts of the rows' sequence."""
    classes = degree_classes(degree)
    light = classes < LIGHT
    classes[light] = classes[light] * parts + np.flatnonzero(light) * parts // len(degree)
    classes[~light] += LIGHT * (parts - 1)
    return classes


@cache
def level_values() -> Reals:
    """The counts that levels stand for: 0, 1, .. EXACT, then four a doubling."""
    values = [float(count) for count in range(EXACT + 1)]
    while len(values) < LEVELS:
        values.append(values[-1] * STEP)
    return np.array(values)


def groups_of(rows: Integers, columns: Integers, degree: Integers, groups: int, parts: int = 1) -> Integers:
    """Groups of the rows of at least 2^LIGHT cells: rows are alike that meet the same rows more often than others do.

    By k-means on the leading singular vectors of the normalised co-occurrence, the first of which is the degree. Then
    each row goes, several times, to the group whose rows meet the classes of rows that it meets.
    """
    from scipy import sparse
    from scipy.cluster.vq import kmeans2
    from scipy.sparse.linalg import svds

    heavy = np.flatnonzero(degree >= 1 << LIGHT)
    if not groups or len(heavy) <= 2 * max(groups, DIRECTIONS):
        return np.zeros(len(heavy), dtype=np.int64)
    place = np.full(len(degree), -1)
    place[heavy] = np.arange(len(heavy))
    inside = place[rows] >= 0
    where = place[rows[inside]], columns[inside]
    incidence: Sparse = sparse.csr_array((np.ones(len(where[0])), where), shape=(len(heavy), int(columns.max()) + 1))
    meetings: Sparse = sparse.csr_array(incidence @ incidence.T)
    meetings.setdiag(0)
    if not meetings.count_nonzero():
        return np.zeros(len(heavy), dtype=np.int64)
    often: Reals = np.asarray(meetings.sum(axis=1), dtype=np.float64).ravel() + 1
    shrink: Sparse = sparse.diags_array(1 / np.sqrt(often + often.mean()))
    vectors, values, _ = svds(shrink @ meetings @ shrink, k=DIRECTIONS + 1, random_state=0)
    falling = np.argsort(-values)
    features = (vectors[:, falling] * values[falling])[:, 1:]
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-9
    labels = np.asarray(kmeans2(features, groups, minit="++", seed=1)[1], dtype=np.int64)
    sizes = np.bincount(columns)
    worth = 1 / np.maximum(sizes - 1, 1)
    everything = sparse.csr_array((np.ones(len(rows)), (columns, rows)), shape=(len(sizes), len(degree)))
    classes = row_classes(degree, parts)
    for _ in range(ROUNDS):
        classes[heavy] = LIGHT * parts + labels
        which = sparse.csr_array((np.ones(len(degree)), (np.arange(len(degree)), classes)))
        met: Reals = (incidence @ (sparse.diags_array(worth) @ (everything @ which))).toarray()
        met[np.arange(len(heavy)), classes[heavy]] -= np.asarray(incidence @ worth)
        member = sparse.csr_array((np.ones(len(heavy)), (labels, np.arange(len(heavy)))), shape=(groups, len(heavy)))
        shares: Reals = np.asarray(member @ met) + 0.5
        frequent = np.log((np.bincount(labels, minlength=groups) + 1) / len(heavy))
        fit = met @ np.log(shares / shares.sum(axis=1, keepdims=True)).T + frequent
        if np.array_equal(labels, np.argmax(fit, axis=1)):
            break
        labels = np.argmax(fit, axis=1)
    return labels


class Model:
    """The tables and the coder: the same steps in either direction.

    Parameters
    ----------
    layout, levels
        Of the rows, and of the table of classes.
    sizes, values
        Chances of the columns' sizes, and of the values where they are listed.
    plain
        Whether values are told as they are, in 64 bits.
    content
        The codes of all nodes, one after the other, to decode; None to encode.
    room
        Symbols of the longest code, when encoding.
    """

    def __init__(
        self,
        layout: Layout,
        levels: npt.NDArray[np.uint8],
        sizes: Listed,
        values: Listed | None,
        plain: bool,
        content: npt.NDArray[np.uint8] | None,
        room: int = 0,
    ) -> None:
        from pipeline.baselines.coding import block_loops as loops

        self._loops: Any = loops
        self.layout, self.sizes, self.values, self.plain = layout, sizes, values, plain
        self.tables, self.scale = layout.tables(levels), layout.scale
        self.even = _even_splits()
        self.coder = coder_of(content, room)

    def split(self, counts: Integers, left: Integers, start: int = 0) -> bytes:
        """Code how many of every row's cells lie in the left half, filled in when decoding from byte `start`."""
        singles = int(np.count_nonzero(counts == 1))
        told = (singles + 7) // 8
        bits = np.zeros(singles, dtype=np.uint8)
        if self.coder.decoding:
            bits = np.unpackbits(self.coder.content[start : start + told], count=singles)
        self._loops.begin(self.coder, start + told)
        self._loops.split(self.coder, *self.even, counts, bits, left)
        return b"" if self.coder.decoding else np.packbits(bits).tobytes() + finished(self.coder)

    def half(self, rows: Integers, counts: Integers, left: Integers, side: int) -> tuple[Integers, Integers]:
        """The rows that have cells in one half, and these."""
        parts = np.empty_like(rows), np.empty_like(counts)
        found = self._loops.half(rows, counts, left, side == 1, *parts)
        return parts[0][:found], parts[1][:found]

    def block(
        self, rows: Integers, counts: Integers, sizes: Integers, content: Integers, values: Integers, start: int = 0
    ) -> bytes:
        """Code a block's columns, given its rows and their cells in it; all else is filled in when decoding.

        Parameters
        ----------
        sizes
            (columns,) which of the listed sizes each has.
        content
            (cells,) rows of all cells, column after column, in each by class and rising in that.
        values
            (cells,) which of the listed values each has, or (cells, 4) pieces of 16 bits.
        """
        height, classes = len(self.layout.degree), self.layout.classes
        by_class = np.argsort(classes[rows] * height + rows)
        rows, counts = rows[by_class], counts[by_class]
        keys = classes[rows] * height + rows
        edges = np.searchsorted(keys, np.arange(self.layout.count + 1) * height)
        places = np.zeros_like(content)
        if not self.coder.decoding:
            places = np.searchsorted(keys, classes[content] * height + content)
        self._loops.begin(self.coder, start)
        listed_sizes = self.sizes.starts, self.sizes.symbols, self.sizes.numbers
        self._loops.code_block(self.coder, self.tables, self.scale, *listed_sizes, counts, edges, sizes, places)
        content[:] = rows[places]
        if self.plain:
            self._loops.code_all_plain(self.coder, values.reshape(-1))
        elif self.values is not None:
            self._loops.code_all_listed(self.coder, *self.values[1:], values)
        return b"" if self.coder.decoding else finished(self.coder)


def coder_of(content: npt.NDArray[np.uint8] | None, room: int = 0) -> Any:
    """A coder that reads `content`, or that keeps up to `room` symbols."""
    from pipeline.baselines.coding import block_loops as loops

    state, log = np.zeros(2, dtype=np.int64), np.zeros((room, 2), dtype=np.int64)
    if content is None:
        return loops.Coder(state, np.zeros(0, dtype=np.uint8), log, False)
    return loops.Coder(state, content, log, True)


def finished(coder: Any) -> bytes:
    """The code of all symbols so far; the coder is empty after that."""
    from pipeline.baselines.coding import block_loops as loops

    count = int(coder.state[1])
    content = np.zeros(2 * count + 4, dtype=np.uint8)
    start = loops.finish(coder.log[:count], content)
    coder.state[1] = 0
    return content[start:].tobytes() if count else b""


@cache
def _even_splits() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """Chances of an even split, and where to begin to look for one."""
    from pipeline.baselines.coding import block_loops as loops

    near = loops.even_splits()
    return near, loops.first_steps(near)


def pack(coords: Integers, values: Reals, shape: Sequence[int]) -> bytes:
    """Code a matrix in the orders that it has; the columns are the larger mode."""
    top = gaps.top_mode(shape)
    cells = np.lexsort((coords[:, 1 - top], coords[:, top]))
    rows, columns, told = coords[cells, 1 - top], coords[cells, top], values[cells]
    codes = {groups: _pack(rows, columns, told, shape, groups, 1) for groups in GROUPS}
    best = min(codes, key=lambda groups: len(codes[groups]))
    return min(codes[best], _pack(rows, columns, told, shape, best, PARTS), key=len)


def _pack(rows: Integers, columns: Integers, values: Reals, shape: Sequence[int], groups: int, parts: int) -> bytes:
    from pipeline.baselines.coding import block_loops as loops

    top = gaps.top_mode(shape)
    height, width = shape[1 - top], shape[top]
    degree, sizes = np.bincount(rows, minlength=height), np.bincount(columns, minlength=width)
    depth = min((len(rows) // CELLS).bit_length(), MOST_DEPTH)
    blocks = 1 << depth
    inner = np.searchsorted(np.cumsum(sizes), len(rows) * np.arange(1, blocks) // blocks)
    edges = np.concatenate(([0], inner, [width]))
    group = groups_of(rows, columns, degree, groups, parts)
    layout = Layout(degree, group, groups, edges, parts)
    by_class = np.lexsort((rows, layout.classes[rows], columns))
    rows, values = rows[by_class], values[by_class]
    counts = np.zeros((loops.LEFTS * loops.POSITIONS * (layout.count + 1), layout.count), dtype=np.int64)
    loops.count_classes(layout.classes[rows], sizes, layout.count, counts)
    middles = np.sqrt(level_values()[EXACT:-1] * level_values()[EXACT + 1 :])
    levels = np.where(counts <= EXACT, counts, EXACT + np.searchsorted(middles, counts)).astype(np.uint8)
    kind, constant, patterns, told = _numbered_values(values)
    lists = [np.unique(each, return_inverse=True, return_counts=True) for each in (sizes, degree, group)]
    if kind == LISTED:
        lists.append(np.unique(told, return_inverse=True, return_counts=True))
    coder = coder_of(None, height + len(group))
    loops.begin(coder, 0)
    for numbers, which, times in lists[1:3]:
        if len(numbers):
            loops.code_all_listed(coder, *listed(numbers, times)[1:], which)
    codes = [finished(coder)]
    ends = np.append(0, np.cumsum(sizes))[edges]
    block = np.repeat(np.arange(blocks), np.diff(ends))
    often = degree[rows] > 1
    place = np.zeros(height, dtype=np.int64)
    place[layout.several] = np.arange(len(layout.several))
    nodes = _nodes(place[rows[often]], block[often], depth, height)
    single = np.sort(rows[~often] + block[~often] * height)
    of_single = np.zeros(height, dtype=np.int64)
    of_single[single % height] = single // height
    planes = (of_single[layout.single] >> np.arange(depth)[::-1, None]) & 1
    room = max(4 * height, 32 * int(np.diff(ends).max()) + int(np.diff(edges).max()) + 64)
    values_listed = listed(*lists[3][::2]) if kind == LISTED else None
    model = Model(layout, levels, listed(*lists[0][::2]), values_listed, kind == PLAIN, None, room)
    for level in range(depth + 1):
        of_node = np.searchsorted(nodes[level][0], np.arange((1 << level) + 1) * height)
        for node in range(1 << level):
            mine = slice(of_node[node], of_node[node + 1])
            if level < depth:
                codes.append(model.split(nodes[level][1][mine], nodes[level][2][mine]))
                continue
            there, held = layout.several[nodes[level][0][mine] % height], nodes[level][1][mine]
            alone = single[slice(*np.searchsorted(single, [node * height, (node + 1) * height]))] % height
            there, held = np.append(there, alone), np.append(held, np.ones(len(alone), dtype=np.int64))
            cells, within = slice(ends[node], ends[node + 1]), slice(edges[node], edges[node + 1])
            codes.append(model.block(there, held, lists[0][1][within], rows[cells].copy(), told[cells]))
    told_lists = [np.concatenate(([len(one)], np.diff(one, prepend=0), times)) for one, _, times in lists]
    lengths = np.array([len(code) for code in codes])
    streams = [gaps.write_varints(np.concatenate(told_lists)), levels.reshape(-1), patterns]
    streams.append(gaps.write_varints(np.concatenate((np.diff(edges), lengths))))
    squeezed = [gaps.squeeze(stream) for stream in streams]
    plain = [(np.packbits(planes.astype(bool), axis=1).tobytes(), 0), (b"".join(codes), 0)]
    head = [*shape, len(rows), depth, groups, kind]
    if parts == 1:
        return gaps.joined(CODE, head, constant, squeezed + plain)
    return gaps.joined(PARTED_CODE, [parts, *head], constant, squeezed + plain)


def _numbered_values(values: Reals) -> tuple[int, bytes, npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Kind of the values, the constant, the bytes of the listed ones, and for every cell what is coded of it."""
    kind, constant, _ = gaps.encode_values(values)
    nothing = np.zeros(0, dtype=np.uint8)
    if kind in (gaps.ONES, gaps.CONSTANT):
        return kind, constant, nothing, np.zeros((len(values), 0), dtype=np.int64)
    distinct, number = np.unique(values, return_inverse=True)
    if len(distinct) <= MOST_LISTED:
        return LISTED, b"", distinct.astype("<f8").view(np.uint8), number
    return PLAIN, b"", nothing, values.astype("<f8").view("<u2").reshape(-1, 4).astype(np.int64)


def _nodes(rows: Integers, block: Integers, depth: int, height: int) -> list[tuple[Integers, Integers, Integers]]:
    """Of every level of halving: node x height + row, rising, cells of each, and how many in the node's left half.

    Rows are told by their places among those of several cells.
    """
    keys, counts = np.unique(block * height + rows, return_counts=True)
    levels = [(keys, counts, counts)]
    for _ in range(depth):
        node, row = keys // height, keys % height
        above, which = np.unique((node >> 1) * height + row, return_inverse=True)
        sums = np.bincount(which, counts).astype(np.int64)
        left = np.bincount(which, counts * (node % 2 == 0)).astype(np.int64)
        keys, counts = above, sums
        levels.append((keys, counts, left))
    return levels[::-1]


class Reader:
    """A code whose blocks are decoded one by one.

    Raises
    ------
    InputError
        The code is damaged; so do its methods.
    """

    def __init__(self, code: bytes) -> None:
        self._code = code
        with gaps.undamaged(code):
            self._read(code)
        self.block = lru_cache(KEPT_BLOCKS)(self._block)

    def _read(self, code: bytes) -> None:
        from pipeline.baselines.coding import block_loops as loops

        places, at = np.ones(1, dtype=np.int64), 1
        if code[:1] == PARTED_CODE:
            places, at = gaps.read_varints(code[:16], 1, at)
        head, at = gaps.read_varints(code[:256], 18, at)
        self.shape, count, depth, groups, self.kind = (int(head[0]), int(head[1])), *map(int, head[2:6])
        self.constant, streams = gaps.read_streams(code, at, self.kind, head[6:-2:2])
        content = np.frombuffer(code, dtype=np.uint8)[len(code) - int(head[-2]) :]
        numbers, levels, patterns, layout = (
            gaps.expand(stream, int(setting)) for stream, setting in zip(streams[:4], head[7::2], strict=False)
        )
        lists, parts = gaps.read_varints(numbers, -1, 0)[0], []
        for _ in range(4 if self.kind == LISTED else 3):
            size = int(lists[0])
            parts.append((np.cumsum(lists[1 : 1 + size]), lists[1 + size : 1 + 2 * size]))
            lists = lists[1 + 2 * size :]
        sizes, degrees = listed(*parts[0]), listed(*parts[1])
        self.patterns = np.frombuffer(patterns, dtype="<f8")
        top = gaps.top_mode(self.shape)
        height, width = self.shape[1 - top], self.shape[top]
        known = 0 <= depth <= MOST_DEPTH and groups in GROUPS and 1 <= places[0] <= MOST_PARTS
        if not known or not unlabelled.keeps_size(count, self.shape):
            raise ValueError("no such model")
        widths, lengths = np.split(gaps.read_varints(layout, -1, 0)[0], [1 << depth])
        if widths.sum() != width or len(lengths) != 2 << depth or lengths.sum() != len(content):
            raise ValueError("blocks that do not fit the matrix")
        self._starts, self.blocks = np.append(0, np.cumsum(lengths)), 1 << depth
        coder = coder_of(content)
        degree = np.zeros(height, dtype=np.int64)
        loops.begin(coder, 0)
        loops.code_all_listed(coder, *degrees[1:], degree)
        degree = degrees.numbers[degree]
        group = np.zeros(np.count_nonzero(degree >= 1 << LIGHT), dtype=np.int64)
        if len(group):
            groups_listed = listed(*parts[2])
            loops.code_all_listed(coder, *groups_listed[1:], group)
            group = groups_listed.numbers[group]
        if int(degree.sum()) != count or degree.max() > width or group.max(initial=0) > max(groups - 1, 0):
            raise ValueError("its rows contradict each other")
        self.layout = Layout(degree, group, groups, np.append(0, np.cumsum(widths)), int(places[0]))
        values = listed(*parts[3]) if self.kind == LISTED else None
        table = np.frombuffer(levels, dtype=np.uint8)
        contexts = loops.LEFTS * loops.POSITIONS * (self.layout.count + 1)
        if len(table) != contexts * self.layout.count or table.max() >= LEVELS:
            raise ValueError("a table of another size")
        if sizes.numbers.max() > height or (values is not None and values.numbers.max() >= len(self.patterns)):
            raise ValueError("numbers out of range")
        self._model = Model(self.layout, table, sizes, values, self.kind == PLAIN, coder.content)
        self._top = self.layout.several, degree[self.layout.several]
        self._planes = np.frombuffer(streams[4], dtype=np.uint8).reshape(depth, (len(self.layout.single) + 7) // 8)

    def _halves(
        self, level: int, node: int, rows: Integers, counts: Integers, wanted: Sequence[int] = (0, 1)
    ) -> list[tuple[Integers, Integers]]:
        """Rows of several cells, and their cells, in the wanted halves of a node."""
        left = np.zeros_like(counts)
        self._model.split(counts, left, int(self._starts[(1 << level) + node]))
        return [self._model.half(rows, counts, left, side) for side in wanted]

    def _cells(self, number: int, rows: Integers, counts: Integers) -> tuple[Integers, Integers, Reals]:
        """Rows, columns and values of a block, given its rows of several cells and these in it."""
        planes = np.full(self._planes.shape[1], 255, dtype=np.uint8)
        for place, plane in enumerate(self._planes[::-1]):
            planes &= plane if number >> place & 1 else ~plane
        single = self.layout.single[np.flatnonzero(np.unpackbits(planes, count=len(self.layout.single)))]
        rows, counts = np.append(rows, single), np.append(counts, np.ones(len(single), dtype=np.int64))
        first, last = self.layout.edges[number : number + 2].tolist()
        content = np.zeros(int(counts.sum()), dtype=np.int64)
        sizes = np.zeros(last - first, dtype=np.int64)
        told = np.zeros((len(content), 4) if self.kind == PLAIN else len(content), dtype=np.int64)
        self._model.block(rows, counts, sizes, content, told, int(self._starts[(1 << self.layout.depth) + number]))
        columns = np.repeat(np.arange(first, last), self._model.sizes.numbers[sizes])
        values = np.full(len(content), self.constant)
        if self.kind == LISTED:
            values = self.patterns[told]
        elif self.kind == PLAIN:
            values = told.astype("<u2").view("<f8").reshape(-1).astype(np.float64)
        return content, columns, values

    def _block(self, number: int) -> tuple[Integers, Integers, Reals]:
        """Rows, columns and values of a block; only it and the nodes above it are decoded."""
        with gaps.undamaged(self._code):
            rows, counts = self._top
            for level in range(self.layout.depth):
                down = self.layout.depth - level
                wanted = [number >> (down - 1) & 1]
                ((rows, counts),) = self._halves(level, number >> down, rows, counts, wanted)
            return self._cells(number, rows, counts)

    def all_cells(self) -> gaps.Cells:
        """Coordinates in lexicographic order, values and shape; every node is decoded once."""
        with gaps.undamaged(self._code):
            nodes = [self._top]
            for level in range(self.layout.depth):
                nodes = [half for node, part in enumerate(nodes) for half in self._halves(level, node, *part)]
            found = [self._cells(number, *part) for number, part in enumerate(nodes)]
        coords, values = self._sorted(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        return coords, values, self.shape

    def near(self, column: int) -> tuple[Integers, Reals]:
        """Coordinates in lexicographic order and values of all cells in the block of a column."""
        return self._sorted(*self.block(int(np.searchsorted(self.layout.edges[1:], column, side="right"))))

    def _sorted(self, rows: Integers, columns: Integers, values: Reals) -> tuple[Integers, Reals]:
        coords = np.empty((len(rows), 2), dtype=np.int64)
        top = gaps.top_mode(self.shape)
        coords[:, top], coords[:, 1 - top] = columns, rows
        sequence = np.lexsort(coords.T[::-1])
        return coords[sequence], values[sequence]

    def blocks_of(self, coords: Integers) -> Integers:
        """Block of each of (n, 2) cells."""
        columns = coords[:, gaps.top_mode(self.shape)]
        return np.asarray(np.searchsorted(self.layout.edges[1:], columns, side="right"))

    def look_up(self, coords: Integers) -> Reals:
        """Values of (n, 2) cells."""
        top, height = gaps.top_mode(self.shape), len(self.layout.degree)
        wanted = coords[:, top] * height + coords[:, 1 - top]
        values, number = np.zeros(len(coords)), self.blocks_of(coords)
        for block in np.unique(number).tolist():
            rows, columns, told = self.block(block)
            keys = columns * height + rows
            rising = np.argsort(keys)
            mine = np.flatnonzero(number == block)
            place = np.minimum(np.searchsorted(keys, wanted[mine], sorter=rising), max(len(keys) - 1, 0))
            if len(keys):
                there = rising[place]
                values[mine] = np.where(keys[there] == wanted[mine], told[there], 0.0)
        return values


def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    return Reader(code).all_cells()
