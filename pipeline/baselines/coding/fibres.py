"""A code for the fibres of a sparse tensor of any order: sets of children in its prefix tree, split in halves.

With the modes in falling size, the non-zeros are a tree: a slice of the first mode has a set of children in the
second, each of those a set in the third, and so on. A set of m children is coded by halving the range of
indices: how many of the m lie in the lower half, then the same in both halves. That number is drawn from
Fisher's noncentral hypergeometric distribution, whose odds come from how often every index is a child on its level
(listed once). Telling counts instead of a sequence is what takes log2(m!) bits of every set's order out of the
code. Where the order of the slices is free, they are sorted by size and smallest child, and the smallest children
of all slices of one size are coded as one multiset, which takes out most of the log2(n!) bits of their order.

Sets are independent of each other, so that one level of halving is one call of the range coder.
Everything that decides a chance uses +, -, * and / on doubles in a fixed sequence: every machine decodes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps
from pipeline.runs.entropy_coder import Coder, Decoder, Encoder

FREE, KEPT = b"\x03", b"\x04"  # first byte of a code whose order of slices is free, or kept
COUNTED = 4  # kind of values, beside those of `gaps`: whole, by their counts in each context
LARGEST_BY_FIRST = 64  # slices of more children than this are not sorted by their smallest one
DIRECT = 12  # whole numbers below this are symbols of their own, larger ones share a symbol by magnitude
CHUNK = 16  # bits that go to the coder at once
LARGEST_MODE = 1 << 27  # indices of a mode, each of which needs a few numbers
CELLS = 1 << 22  # chances that one call of the coder is given


class Ranges(NamedTuple):
    """n ranges [low, high) of indices, each with `number` children at ``flat[start : start + number]``."""

    low: Integers
    high: Integers
    number: Integers
    start: Integers

    def of(self, chosen: Any) -> Ranges:
        """Some of them."""
        return Ranges(*(part[chosen] for part in self))


def halve(ranges: Ranges, flat: Integers, mass: Reals, distinct: bool, coder: Coder) -> None:
    """Code the children of all ranges, filled into `flat` when decoding; rising in each range.

    Parameters
    ----------
    flat
        Children of all ranges, one after the other.
    mass
        (N + 1,) running sum of the chance of every index to be a child.
    distinct
        Whether an index is a child once at most.
    """
    from pipeline.baselines.coding import loops

    while len(ranges.low):
        width = ranges.high - ranges.low
        full = (ranges.number == width) if distinct else (width == 1)
        loops.fill_ranges(*ranges.of(full), distinct, flat)
        ranges = ranges.of(~full & (ranges.number > 0))
        middle = (ranges.low + ranges.high) // 2
        if distinct:
            least = np.maximum(0, ranges.number - (ranges.high - middle))
            most = np.minimum(ranges.number, middle - ranges.low)
        else:
            least, most = np.zeros_like(ranges.number), ranges.number
        below = loops.count_below(flat, ranges.start, ranges.number, middle)
        below = np.clip(below, least, most)  # when decoding, `flat` does not tell yet
        for chosen, symbols in batches(most - least + 1):
            table = np.zeros((len(chosen), symbols))
            part = ranges.of(chosen)
            loops.half_chances(*part[:3], middle[chosen], least[chosen], most[chosen], mass, distinct, table)
            below[chosen] = least[chosen] + coder.choose(table, below[chosen] - least[chosen])
        if np.any((below < least) | (below > most)):
            raise ValueError("a count that cannot be")
        lower = Ranges(ranges.low, middle, below, ranges.start)
        upper = Ranges(middle, ranges.high, ranges.number - below, ranges.start + below)
        ranges = Ranges(*(np.concatenate(pair) for pair in zip(lower, upper, strict=True)))


def batches(widths: Integers) -> list[tuple[Integers, int]]:
    """Groups of items with more than one symbol to choose from, by that number rounded up to a power of two."""
    found = []
    rounded = 2 ** np.ceil(np.log2(np.maximum(widths, 1))).astype(np.int64)
    for symbols in np.unique(rounded[widths > 1]).tolist():
        members = np.flatnonzero(rounded == symbols)
        size = max(1, CELLS // symbols)
        found += [(members[start : start + size], symbols) for start in range(0, len(members), size)]
    return found


def code_sets(sizes: Integers, low: Integers, flat: Integers, weights: Integers, coder: Coder) -> None:
    """Code one set of children for every node of a level.

    Parameters
    ----------
    sizes, low
        (n,) children of each node, and the least index that they may have.
    flat
        Their children one after the other, rising in each node.
    weights
        (N,) how often each index is a child.
    """
    start = np.cumsum(sizes) - sizes
    magnitude = bit_lengths(sizes)
    total = float(weights.sum())
    for level in np.unique(magnitude[sizes > 0]).tolist():
        members = np.flatnonzero(magnitude == level)
        odds = 0.75 * 2**level / total * weights  # of a set whose size is in the middle of this magnitude
        mass = np.concatenate(([0.0], np.cumsum(odds / (1.0 + odds))))
        ranges = Ranges(low[members], np.full(len(members), len(weights)), sizes[members], start[members])
        halve(ranges, flat, mass, True, coder)


def code_numbers(numbers: Integers, contexts: Integers, histogram: Integers, coder: Coder) -> None:
    """Code whole numbers of at least 0 by the counts of their symbols in each context, filled in when decoding.

    `histogram` is (contexts, symbols) and has been told before.
    """
    symbols, classes = symbols_of(numbers), np.zeros(len(numbers), dtype=np.int64)
    for context in np.unique(contexts).tolist():
        members = np.flatnonzero(contexts == context)
        counts = histogram[context]
        if np.count_nonzero(counts) > 1:
            classes[members] = coder.repeat(counts / counts.sum(), symbols[members])
        else:
            classes[members] = np.argmax(counts)
    bits = np.maximum(classes - DIRECT, 0)
    rest = np.where(classes < DIRECT, 0, numbers - DIRECT + 1 - (1 << bits))
    found = np.zeros_like(rest)
    for shift in range(0, int(bits.max(initial=0)), CHUNK):
        width = np.clip(bits - shift, 0, CHUNK)
        for one in np.unique(width[width > 0]).tolist():
            members = np.flatnonzero(width == one)
            part = (rest[members] >> shift) & ((1 << one) - 1)
            found[members] |= coder.repeat(np.full(1 << one, 1.0 / (1 << one)), part) << shift
    numbers[:] = np.where(classes < DIRECT, classes, DIRECT - 1 + (1 << bits) + found)


def symbols_of(numbers: Integers) -> Integers:
    """Symbol of every whole number: itself below DIRECT, else DIRECT plus its magnitude beyond that."""
    return np.where(numbers < DIRECT, numbers, DIRECT + bit_lengths(np.maximum(numbers - DIRECT + 1, 1)) - 1)


def histogram_of(numbers: Integers, contexts: Integers) -> Integers:
    """(contexts, symbols) counts for :func:`code_numbers`."""
    symbols = symbols_of(numbers)
    shape = (int(contexts.max(initial=0)) + 1, int(symbols.max(initial=0)) + 1)
    return np.bincount(contexts * shape[1] + symbols, minlength=shape[0] * shape[1]).reshape(shape)


def bit_lengths(numbers: Integers) -> Integers:
    """Bits of each whole number.

    >>> bit_lengths(np.array([0, 1, 2, 3, 4])).tolist()
    [0, 1, 2, 2, 3]
    """
    result = np.zeros(len(numbers), dtype=np.int64)
    rest = numbers.copy()
    while rest.any():
        result += rest > 0
        rest >>= 1
    return result


class Tree(NamedTuple):
    """A tensor's prefix tree, level by level from the first mode's slices.

    Attributes
    ----------
    sizes
        D - 1 arrays: children of every node of the level.
    children
        D - 1 arrays: the children's indices in the next mode, node after node.
    weights
        D - 1 arrays: for every index of the next mode, how often it is a child.
    """

    sizes: list[Integers]
    children: list[Integers]
    weights: list[Integers]


def tree_of(rows: Integers, shape: Sequence[int]) -> Tree:
    """Tree of distinct rows, sorted lexicographically; every slice of the first mode has one, empty or not."""
    sizes, children, weights = [], [], []
    firsts = rows[:, 0]
    nodes = shape[0]
    for level in range(1, rows.shape[1]):
        new = np.ones(len(rows), dtype=bool)
        new[1:] = np.any(rows[1:, : level + 1] != rows[:-1, : level + 1], axis=1)
        sizes.append(np.bincount(firsts[new], minlength=nodes))
        children.append(rows[new, level])
        weights.append(np.bincount(children[-1], minlength=shape[level]))
        firsts, nodes = np.cumsum(new) - 1, int(np.count_nonzero(new))
    return Tree(sizes, children, weights)


def rows_of(tree: Tree) -> Integers:
    """Undo :func:`tree_of`."""
    columns = [np.arange(len(tree.sizes[0]))]
    for sizes, children in zip(tree.sizes, tree.children, strict=True):
        columns = [np.repeat(column, sizes) for column in columns] + [children]
    return np.stack(columns, axis=1)


def code_tree(tree: Tree, free: bool, histograms: list[Integers], coder: Coder) -> None:
    """Code a tree whose first sizes and all weights are known; the rest is filled in when decoding.

    With `free` slices, the first sizes are rising, and so are the smallest children of slices of one size.
    """
    low = np.zeros(len(tree.sizes[0]), dtype=np.int64)
    for level, weights in enumerate(tree.weights):
        if level > 0:
            tree.sizes[level] = _placed(tree.sizes[level], len(tree.children[level - 1]))
            parents = np.repeat(tree.sizes[level - 1], tree.sizes[level - 1])
            context = contexts_of(tree.weights[level - 1][tree.children[level - 1]], parents)
            extra = tree.sizes[level] - 1
            code_numbers(extra, context, histograms[level - 1], coder)
            tree.sizes[level] = extra + 1
            low = np.zeros(len(extra), dtype=np.int64)
        sizes = tree.sizes[level]
        if sizes.sum() != weights.sum():
            raise ValueError(f"{sizes.sum()} children where {weights.sum()} belong")
        flat = tree.children[level] = _placed(tree.children[level], int(weights.sum()))
        if level == 0 and free:
            sizes, low, rest = _code_firsts(sizes, flat, weights, coder)
            part = flat[rest]
            code_sets(sizes, low, part, weights, coder)
            flat[rest] = part
        else:
            code_sets(sizes, low, flat, weights, coder)


def _placed(array: Integers, count: int) -> Integers:
    return array if len(array) == count else np.zeros(count, dtype=np.int64)


def _code_firsts(sizes: Integers, flat: Integers, weights: Integers, coder: Coder) -> tuple[Integers, Integers, Any]:
    """Code the smallest children of slices of one small size as a multiset; returns what is left to code.

    Returns
    -------
    Sizes of the sets left, the least index of each, and where in `flat` their children are.
    """
    from pipeline.baselines.coding import loops

    sizes, low = sizes.copy(), np.zeros(len(sizes), dtype=np.int64)
    rest = np.ones(len(flat), dtype=bool)
    start = np.cumsum(sizes) - sizes
    tail = np.append(np.cumsum(weights[::-1])[::-1], 0).astype(np.float64)
    for size in range(1, LARGEST_BY_FIRST + 1):
        members = np.flatnonzero(sizes == size)
        if len(members) > 1:
            mass = np.zeros(len(tail))
            loops.smallest_mass(tail, size, mass)
            firsts = flat[start[members]]
            whole = np.array([[0], [len(weights)], [len(members)], [0]])
            halve(Ranges(*whole), firsts, mass, False, coder)
            flat[start[members]] = firsts
            rest[start[members]] = False
            low[members] = firsts + 1
    taken = low > 0
    return sizes - taken, low, rest


def contexts_of(weights: Integers, sizes: Integers) -> Integers:
    """Context of every node: the magnitudes of how often its index is a child, and of its parent's children."""
    return 8 * np.minimum(bit_lengths(weights) // 2, 7) + np.minimum(bit_lengths(sizes) // 2, 7)


def able(coords: Integers, shape: Sequence[int]) -> bool:
    """Whether a tensor has the two modes that this code needs, and lists of indices no longer than a few GiB."""
    return len(shape) > 1 and max(shape) <= LARGEST_MODE


def pack(coords: Integers, values: Reals, shape: Sequence[int], free: bool) -> tuple[bytes, dict[int, Integers]]:
    """Code a tensor of at least two modes.

    Parameters
    ----------
    free
        Whether the orders of all modes may be forgotten; else the code keeps them as they are.

    Returns
    -------
    The code, and by mode the orders (position -> index) that it has chosen.
    """
    modes = mode_sequence(shape)
    sizes = [shape[mode] for mode in modes]
    rows = coords[:, modes]
    orders = {}
    if free:
        orders = _free_orders(rows, sizes)
        rows = np.stack([gaps.positions(orders[level])[rows[:, level]] for level in range(len(modes))], axis=1)
    by_row = np.lexsort(rows.T[::-1])
    tree = tree_of(rows[by_row], sizes)
    contexts = [
        contexts_of(tree.weights[level - 1][tree.children[level - 1]], _siblings(tree, level - 1))
        for level in range(1, len(modes))
    ]
    histograms = [histogram_of(tree.sizes[level] - 1, contexts[level - 1]) for level in range(1, len(tree.sizes))]
    coder = Encoder()
    code_tree(tree, free, histograms, coder)
    kind, constant, content = gaps.encode_values(values[by_row])
    numbers = gaps.squeeze(content)
    if kind == gaps.WHOLE:
        words, counts = _counted_values(gaps.fold(values[by_row]), contexts[-1])
        if len(words) + len(gaps.squeeze(gaps.write_varints(_flat([counts])))[0]) < len(numbers[0]):
            kind, numbers = COUNTED, (words, 0)
            histograms.append(counts)
    lists = [_layout(tree.sizes[0]) if free else tree.sizes[0]]
    lists += [np.diff(weights, prepend=0) if free else weights for weights in tree.weights]
    told = np.concatenate([np.array([len(part)]) for part in lists] + lists)
    streams = [gaps.squeeze(gaps.write_varints(part)) for part in (told, _flat(histograms))]
    streams += [(coder.words().tobytes(), 0), numbers]
    head = [len(shape), *shape, len(values), kind]
    code = gaps.joined(FREE if free else KEPT, head, constant, streams)
    return code, {modes[level]: order for level, order in orders.items()}


def _counted_values(folded: Integers, contexts: Integers) -> tuple[bytes, Integers]:
    """Range code of whole values by their counts in each context, and those counts."""
    coder, counts = Encoder(), histogram_of(folded, contexts)
    code_numbers(folded.copy(), contexts, counts, coder)
    return coder.words().tobytes(), counts


def _flat(histograms: list[Integers]) -> Integers:
    """All histograms as one list, each after its shape."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.append(one.shape, one) for one in histograms)])


def mode_sequence(shape: Sequence[int]) -> list[int]:
    """Modes by falling size, so that the levels with most nodes have the fewest indices to choose from."""
    return sorted(range(len(shape)), key=lambda mode: -shape[mode])


def _siblings(tree: Tree, level: int) -> Integers:
    """For every child of a level, how many children its parent has."""
    return np.repeat(tree.sizes[level], tree.sizes[level])


def _layout(sizes: Integers) -> Integers:
    """Rising sizes as pairs (size, how many)."""
    return np.stack(np.unique(sizes, return_counts=True), axis=1).reshape(-1)


def _free_orders(rows: Integers, shape: Sequence[int]) -> dict[int, Integers]:
    """Levels below the first by rising weight, rare indices first; slices by size and smallest child."""
    tree = tree_of(rows[np.lexsort(rows.T[::-1])], shape)
    orders = {level: np.argsort(weights, kind="stable") for level, weights in enumerate(tree.weights, start=1)}
    first = np.full(shape[0], shape[1], dtype=np.int64)
    np.minimum.at(first, rows[:, 0], gaps.positions(orders[1])[rows[:, 1]])
    orders[0] = np.lexsort((first, tree.sizes[0])).astype(np.int64)
    return orders


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    (order,), at = gaps.read_varints(code, 1, 1)
    (*sizes, count, kind), at = gaps.read_varints(code, int(order) + 2, at)
    shape = tuple(int(size) for size in sizes)
    lengths, at = gaps.read_varints(code, 8, at)
    constant, streams = gaps.read_streams(code, at, int(kind), lengths[::2])
    free = code[:1] == FREE
    modes = mode_sequence(shape)
    told, _ = gaps.read_varints(gaps.expand(streams[0], int(lengths[1])), -1, 0)
    tree = _known_part(told, [shape[mode] for mode in modes], int(count), free)
    histograms = _read_histograms(gaps.expand(streams[1], int(lengths[3])))
    coder = Decoder(streams[2])
    code_tree(tree, free, histograms[: len(modes) - 2], coder)
    rows = rows_of(tree)
    if len(rows) != count:
        raise ValueError(f"{len(rows)} non-zeros where {count} belong")
    if kind == COUNTED:
        folded = np.zeros(len(rows), dtype=np.int64)
        contexts = contexts_of(tree.weights[-1][tree.children[-1]], _siblings(tree, len(tree.sizes) - 1))
        code_numbers(folded, contexts, histograms[-1], Decoder(streams[3]))
        values = gaps.unfold(folded)
    else:
        values = gaps.decode_values(int(kind), constant, gaps.expand(streams[3], int(lengths[7])), int(count))
    coords = np.empty_like(rows)
    coords[:, modes] = rows
    return coords, values, shape


def _known_part(told: Integers, shape: Sequence[int], count: int, free: bool) -> Tree:
    """The tree before its code is read: sizes of the slices and all weights."""
    parts = np.split(told[len(shape) :], np.cumsum(told[: len(shape)])[:-1])
    first, slices = (parts[0][::2], int(parts[0][1::2].sum())) if free else (parts[0], len(parts[0]))
    weights = [np.cumsum(part) if free else part for part in parts[1:]]
    nodes = [int(part.sum()) for part in weights]
    if [slices, *map(len, weights)] != list(shape) or nodes != sorted(nodes) or nodes[-1] != count:
        raise ValueError("its sizes and its shape contradict each other")
    empty = [np.zeros(0, dtype=np.int64) for _ in weights]
    return Tree([np.repeat(first, parts[0][1::2]) if free else first, *empty[1:]], empty, weights)


def _read_histograms(content: bytes) -> list[Integers]:
    numbers, _ = gaps.read_varints(content, -1, 0)
    found, at = [], 0
    while at < len(numbers):
        contexts, symbols = (int(number) for number in numbers[at : at + 2])
        end = at + 2 + contexts * symbols
        found.append(numbers[at + 2 : end].reshape(contexts, symbols))
        at = end
    return found
