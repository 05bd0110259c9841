"""A code for tensors whose modes are windows on one sequence (n-grams, walks): what overlaps is told once.

The non-zeros are a tree, as in :mod:`pipeline.baselines.coding.mixed`, in the modes as they come; every node has a
mass, the sum of the counts below it. Let a node's path be (a, b, .., y). Its children were seen before, as those of
(b, .., y), one level up: a window that begins with a b .. y z holds one that begins with b .. y z. So the
children of (a, b, .., y) are drawn from an urn, in which every child z of (b, .., y) lies as often as its mass says,
less what other nodes of the same end have taken. Ends and beginnings of the sequences make that inexact, so the
urn is one context of a mixture among others: indices of the path, members found before, the set before.

Modes may have indices of their own: words that never end a window are missing in the last mode. Twins, indices of
neighbouring modes that mean the same, are found by how often they occur, as a rising matching, and told.

Levels are told from the top: of each node how many children it has, which, and their masses, which add up to its own.
All is whole numbers, so that every machine decodes alike; only the encoder's search for twins is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise, permutations
from typing import Any

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps, mixed
from pipeline.sparse.reals import EXACT_INTEGER

CODE = b"\x08"  # first byte of such a code
BAND = 256  # indices that two modes may have without the other, beyond their difference in length
MOST_MOVES = 1 << 27  # bytes that the search for twins may take
LEAST_OVERLAP = 0.5  # share of the windows whose end is found as a beginning, beyond what chance would find
MOST_PERMUTED = 5  # modes whose every sequence is tried
SLOTS = (12, 25)  # least and most bits of the table of contexts


class Windows(mixed.Model):
    """What the code learns; parameters as of :class:`mixed.Model`."""

    def __init__(self, bits: int, code: bytes | None, room: int = 0) -> None:
        from pipeline.baselines.coding import overlap_loops as loops

        self._levels: Any = loops
        shape = loops.SETS, loops.INPUTS
        super().__init__(bits, code, room, np.full(shape, loops.FIRST_WEIGHT, dtype=np.int64))
        steps = self.coding.squash[:: loops.CORRECTION] << 6
        self._table = np.tile(steps, (loops.SETS - loops.URN_SETS, 1))

    def tree(self, shape: Sequence[int], twins: list[Integers], levels: list[Any], units: bool) -> None:
        """Code all levels below the first of `levels`, which is the root's; fills them in when decoding.

        Parameters
        ----------
        shape, twins
            Of the modes in the sequence of the levels; twins of all but the first.
        units
            Whether all leaves have the mass 1.
        """
        twins = [np.full(shape[0], -1), *twins]
        for level, (width, others) in enumerate(zip(shape, [1, *shape], strict=False)):
            edges, last = _edges(twins[level], others), units and level == len(shape) - 1
            before, mine = levels[level : level + 2]
            self._levels.code_level(self.coding, self._table, level, width, before, edges, twins[level], last, mine)
            if mine.first[-1] != len(mine.last):
                raise ValueError(f"{mine.first[-1]} children where {len(mine.last)} belong")
            if level == 0:
                mine.shift[:] = 0  # a path of one index, without that, is the root's

    def level(self, count: int, parents: int) -> Any:
        """A level of nodes to be filled in."""
        parts = [np.zeros(count, dtype=np.int64) for _ in range(4)]
        return self._levels.Level(*parts, np.zeros(parents + 1, dtype=np.int64))

    def root(self, mass: int) -> Any:
        """The level of the root alone."""
        return self._levels.Level(*(np.array([number]) for number in (0, 0, mass, -1)), np.array([0, 1]))


def _edges(twins: Integers, others: int) -> Integers:
    """How many indices of the other mode come before each of these, and all of them at the end."""
    edges = np.append(np.where(twins < 0, others, twins), others)
    edges = np.minimum.accumulate(edges[::-1])[::-1].copy()
    edges[0] = 0
    return edges


def able(shape: Sequence[int]) -> bool:
    """Whether there are at least three modes, so alike in length that twins can be sought."""
    most, least = max(shape), min(shape)
    alike = most <= 2 * least and most * 2 * (most - least + BAND + 1) <= MOST_MOVES
    return len(shape) > 2 and mixed.able(shape) and alike


def find_chain(coords: Integers, masses: Integers, shape: Sequence[int]) -> tuple[list[int], list[Integers]] | None:
    """Sequence of the modes in which windows overlap most, and twins of the indices of each mode but the first.

    A twin is an index of the mode before, or -1 for none. None where windows do not overlap in any sequence.
    """
    from pipeline.baselines.coding.overlap_loops import align

    often = [np.log2(1.0 + np.bincount(coords[:, mode], masses, minlength=size)) for mode, size in enumerate(shape)]

    @cache
    def twins(mode: int, before: int) -> Integers:
        if shape[mode] == shape[before]:
            return np.arange(shape[mode])
        return np.asarray(align(often[mode], often[before], abs(shape[mode] - shape[before]) + BAND))

    @cache
    def pairs(one: int, two: int) -> tuple[Integers, Reals]:
        keys, number = np.unique(coords[:, one] * shape[two] + coords[:, two], return_inverse=True)
        return keys, np.bincount(number, masses).astype(np.float64)

    @cache
    def overlap(one: int, two: int, three: int) -> float:
        """Share of the mass whose indices of modes two and three are found in modes one and two, beyond chance."""
        keys, mass = pairs(two, three)
        seen = pairs(one, two)[0]
        first, second = twins(two, one)[keys // shape[three]], twins(three, two)[keys % shape[three]]
        there = np.isin(first * shape[two] + second, seen) & (first >= 0) & (second >= 0)
        return float(np.sum(mass[there]) / np.sum(mass)) - len(seen) / (shape[one] * shape[two])

    plain = tuple(range(len(shape)))
    chains = list(permutations(plain)) if len(shape) <= MOST_PERMUTED else [plain]
    least = [min(overlap(*chain[at : at + 3]) for at in range(len(chain) - 2)) for chain in chains]
    best = int(np.argmax(least))
    if least[best] < LEAST_OVERLAP:
        return None
    chain = list(chains[best])
    return chain, [twins(mode, before) for before, mode in pairwise(chain)]


def pack(coords: Integers, values: Reals, shape: Sequence[int]) -> bytes | None:
    """Code a tensor in the orders its modes have.

    None where it is not :func:`able`, its windows do not overlap, or it takes more than 12 bytes a cell and mode.
    """
    if not able(shape):
        return None
    counts = bool(np.all(values == np.rint(values))) and values.min() > 0 and values.sum() <= EXACT_INTEGER
    masses = values.astype(np.int64) if counts else np.ones(len(values), dtype=np.int64)
    found = find_chain(coords, masses, shape)
    if found is None:
        return None
    chain, twins = found
    by_row = np.lexsort(coords[:, chain].T[::-1])
    rows, masses = coords[by_row][:, chain], masses[by_row]
    kind, constant, content = gaps.encode_values(values[by_row])
    if counts:
        kind, constant, content = mixed.MIXED, b"", content[:0]
    bits = int(np.clip((rows.size * 24).bit_length(), *SLOTS))
    room = 1024 + 12 * rows.size
    model, aligned = Windows(bits, None, room), mixed.Model(SLOTS[0], None, room)
    for twin in twins:
        aligned.numbers(1, np.zeros((len(twin), 5), dtype=np.int64), _steps(twin))
    levels, totals = [model.root(int(masses.sum()))], []
    differs = np.argmax(rows[1:] != rows[:-1], axis=1)
    starts = np.zeros(1, dtype=np.int64)
    for level in range(len(shape)):
        begin = np.append(0, 1 + np.flatnonzero(differs <= level))
        nodes = model.level(len(begin), len(starts))
        nodes.last[:] = rows[begin, level]
        nodes.mass[:] = np.add.reduceat(masses, begin)
        nodes.first[:] = np.append(np.searchsorted(begin, starts), len(begin))
        levels.append(nodes)
        totals.append(len(begin))
        starts = begin
    model.tree([shape[mode] for mode in chain], twins, levels, not counts)
    codes = model.finished(), aligned.finished()
    if codes[0] is None or codes[1] is None:
        return None
    head = [len(shape), *shape, *chain, int(masses.sum()), *totals, bits, kind]
    return gaps.joined(CODE, head, constant, [(codes[0], 0), (codes[1], 0), gaps.squeeze(content)])


def _steps(twins: Integers) -> Integers:
    """Rising twins as whole numbers: 0 for none, else one more than how many indices were passed over."""
    steps = np.zeros_like(twins)
    there = np.flatnonzero(twins >= 0)
    steps[there] = np.diff(twins[there], prepend=-1)
    return steps


def _from_steps(steps: Integers, others: int) -> Integers:
    """Undo :func:`_steps`."""
    twins = np.where(steps > 0, np.cumsum(steps) - 1, -1)
    if twins.max(initial=-1) >= others:
        raise ValueError("a twin beyond its mode")
    return twins


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    (order,), at = gaps.read_varints(code, 1, 1)
    if not 2 < order <= mixed.MOST_LEVELS:
        raise ValueError(f"{order} modes")
    head, at = gaps.read_varints(code, 3 * int(order) + 3, at)
    shape, chain = tuple(head[:order].tolist()), head[order : 2 * order].tolist()
    mass, totals, bits, kind = int(head[2 * order]), head[2 * order + 1 : -2].tolist(), int(head[-2]), int(head[-1])
    if not (able(shape) and sorted(chain) == list(range(len(shape))) and SLOTS[0] <= bits <= SLOTS[1]):
        raise ValueError("no such model")
    if not (totals == sorted(totals) and totals[0] > 0 and totals[-1] <= mass):
        raise ValueError("its sizes contradict each other")
    lengths, at = gaps.read_varints(code, 6, at)
    constant, streams = gaps.read_streams(code, at, kind, lengths[::2])
    model, aligned = Windows(bits, streams[0]), mixed.Model(SLOTS[0], streams[1])
    twins = []
    for before, mode in pairwise(chain):
        steps = np.zeros(shape[mode], dtype=np.int64)
        aligned.numbers(1, np.zeros((shape[mode], 5), dtype=np.int64), steps)
        twins.append(_from_steps(steps, shape[before]))
    levels = [model.root(mass)]
    for count in totals:
        levels.append(model.level(count, len(levels[-1].last)))
    model.tree([shape[mode] for mode in chain], twins, levels, kind != mixed.MIXED)
    columns: list[Integers] = []
    for level in levels[1:]:
        sizes = np.diff(level.first)
        columns = [np.repeat(column, sizes) for column in columns] + [level.last]
    if kind == mixed.MIXED:
        values = levels[-1].mass.astype(np.float64)
    else:
        values = gaps.decode_values(kind, constant, gaps.expand(streams[2], int(lengths[5])), totals[-1])
    coords = np.empty((len(values), len(shape)), dtype=np.int64)
    coords[:, chain] = np.stack(columns, axis=1)
    return coords, values, shape
