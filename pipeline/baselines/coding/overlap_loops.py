"""Inner loops of :mod:`pipeline.baselines.coding.overlaps`: whole numbers only, but for the alignment of modes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding.mixed_loops import (
    DEPTHS,
    KINDS,
    Coding,
    below,
    code_bit,
    code_number,
    familiarities,
    find,
    gather,
    hashed,
    learn,
    mixture,
    of_any,
    teach,
)
from pipeline.kernels.optional import compiled

Whole = Any  # an int or an np.int64: compiled code takes either
CONTEXTS = 10  # of a set's members; the inputs after them are the range's share, the urn and a constant
INPUTS = CONTEXTS + 4
LEVELS = 8
PARTS = 3 * LEVELS  # of a level: members, sizes, masses
URNS = 72  # by what is left in either half, and whether one member or more are to be placed
URN_SETS = PARTS * (KINDS + DEPTHS)
SETS = URN_SETS + LEVELS * URNS
FIRST_WEIGHT = 8000  # of 65536
CORRECTION = 192  # places of `squash` to a step of the corrected chances, 32 steps in all
CORRECTION_RATE = 6
LIMITS = (255, 30, 255, 255, 255, 255, 255, 255, 255, 255)  # of the contexts' counts
GAP = 0.5  # cost of an index without a twin, beside 1 for two that are equally frequent


class Level(NamedTuple):
    """Nodes of one level of a prefix tree: (n,) arrays, the children of one node rising and side by side.

    Attributes
    ----------
    last
        Last index of the node's path.
    older
        Index of the node's parent, 0 at the top.
    mass
        Sum of the counts below.
    shift
        Node of the level before whose path is this one's without its first index; -1 where there is none.
    first
        (n + 1,) for each node of the level before, where its children begin, and the end.
    """

    last: Integers
    older: Integers
    mass: Integers
    shift: Integers
    first: Integers


@compiled
def align(frequencies: Reals, others: Reals, band: int) -> Integers:
    """Twin of every index: the rising matching of two modes whose frequencies differ least; -1 for none.

    Parameters
    ----------
    frequencies, others
        (n,) and (m,) logarithms of how often each index of the two modes occurs.
    band
        How far from the diagonal to look.
    """
    n, m = len(frequencies), len(others)
    width = 2 * band + 1
    moves = np.zeros((n + 1, width), dtype=np.uint8)
    before, scores = np.full(width, -1e18), np.full(width, -1e18)
    for row in range(n + 1):
        center, center_before = row * m // n, (row - 1) * m // n
        for place in range(width):
            scores[place] = -1e18
            column = center + place - band
            if column < 0 or column > m:
                continue
            best, move = (0.0, 0) if row == 0 and column == 0 else (-1e18, 0)
            above = column - center_before + band
            if row > 0 and 0 <= above < width and before[above] - GAP > best:
                best, move = before[above] - GAP, 1
            if column > 0 and place > 0 and scores[place - 1] - GAP > best:
                best, move = scores[place - 1] - GAP, 2
            if row > 0 and column > 0 and 0 < above <= width:
                score = before[above - 1] + 1.0 - abs(frequencies[row - 1] - others[column - 1])
                if score >= best:
                    best, move = score, 3
            scores[place], moves[row, place] = best, move
        before[:] = scores
    twins = np.full(n, -1, dtype=np.int64)
    row, column = n, m
    while row > 0 or column > 0:
        move = moves[row, column - row * m // n + band]
        row -= 1 if move & 1 else 0
        column -= 1 if move & 2 else 0
        if move == 3:
            twins[row] = column
        elif move == 0:
            raise ValueError("the two modes differ too much in length")
    return twins


@compiled
def plant(urn: Integers, mass: Integers, starts: Integers) -> None:
    """Fenwick trees of the masses of each node's children, one after the other."""
    urn[:] = mass
    for node in range(len(starts) - 1):
        first, count = starts[node], starts[node + 1] - starts[node]
        for place in range(1, count + 1):
            above = place + (place & -place)
            if above <= count:
                urn[first + above - 1] += urn[first + place - 1]


@compiled
def open_before(urn: Integers, first: Whole, place: Whole) -> Whole:
    """Mass of a node's first `place` children."""
    total = np.int64(0)
    while place > 0:
        total += urn[first + place - 1]
        place -= place & -place
    return total


@compiled
def take(urn: Integers, first: Whole, count: Whole, place: Whole, amount: Whole) -> None:
    """Lower the mass of one of a node's children."""
    place += 1
    while place <= count:
        urn[first + place - 1] -= amount
        place += place & -place


@compiled
def rough(number: Whole) -> Whole:
    """One of six magnitudes."""
    if number < 3:
        return number
    return 3 if number < 7 else (4 if number < 21 else 5)


@compiled
def coarse(number: Whole) -> Whole:
    """The number itself up to 15, then eight steps a doubling."""
    shift = np.int64(0)
    while (number >> shift) >= 16:
        shift += 1
    return 8 * shift + (number >> shift)


@compiled
def corrected(table: Integers, row: Whole, position: Whole, chance: Whole) -> Whole:
    """The mean of a chance and of what came of such chances before; `position` is its place in ``squash``."""
    place = min(position // CORRECTION, table.shape[1] - 2)
    rest = position - place * CORRECTION
    found = (table[row, place] * (CORRECTION - rest) + table[row, place + 1] * rest) // CORRECTION
    return min(max((chance + (found >> 6)) >> 1, 1), 65535)


@compiled
def correct(table: Integers, row: Whole, position: Whole, bit: Whole) -> None:
    """Note what came of a chance."""
    place = (position + CORRECTION // 2) // CORRECTION
    table[row, place] += ((bit << 22) - table[row, place]) >> CORRECTION_RATE


@compiled
def code_level(
    coding: Coding,
    table: Integers,
    level: int,
    width: int,
    before: Level,
    edges: Integers,
    twins: Integers,
    units: bool,
    mine: Level,
) -> None:
    """Code the children of all nodes of a level: how many, which, and their masses.

    Parameters
    ----------
    table
        Corrections of chances.
    level
        Of the children.
    width
        Indices of the children's mode.
    before
        The parents.
    edges, twins
        (width + 1,) and (width,) indices of the parents' mode: how many come before each index of the children's
        mode, and which is its like or -1.
    units
        Whether all children have the mass 1.
    mine
        The children, filled in when decoding; their shifts and where each parent's begin, either way.
    """
    slots, weights, state, buffer, decoding, squash, stretch = coding
    stack = np.zeros((DEPTHS + 2, 8), dtype=np.int64)
    places = np.zeros(CONTEXTS, dtype=np.int64)
    inputs = np.zeros(INPUTS, dtype=np.int64)
    number_inputs = np.zeros(INPUTS, dtype=np.int64)
    number_inputs[8] = 256
    bases = np.zeros(CONTEXTS, dtype=np.int64)
    for place in range(CONTEXTS):
        bases[place] = hashed(level * 16 + place, 991)
    contexts, numbered = bases.copy(), np.zeros(8, dtype=np.int64)
    index, starts = mine.last, mine.first
    start: Whole
    set_before: Whole = np.int64(0)
    urn, rest = np.zeros_like(before.mass), before.mass.copy()
    plant(urn, rest, before.first)
    for node in range(len(before.last)):
        mass, last = before.mass[node], before.last[node]
        older = before.older[node]
        shift, start = before.shift[node], starts[node]
        origin: Whole = np.int64(0)
        count: Whole = np.int64(0)
        total: Whole = np.int64(0)
        if shift >= 0:
            origin, count = before.first[shift], before.first[shift + 1] - before.first[shift]
            total = open_before(urn, origin, count)
        # how many
        size = mass
        if mass > 1 and not units:
            size = starts[node + 1] - start
            for place in range(8):
                numbered[place] = hashed(hashed(level * 16 + place, 5003), coarse(mass))
            numbered[2] = hashed(numbered[2], coarse(count))
            numbered[3] = hashed(hashed(numbered[3], coarse(count)), rough(mass))
            numbered[4] = hashed(numbered[4], last)
            numbered[5] = hashed(hashed(level * 16 + 5, 5003), last)
            numbered[6] = hashed(numbered[6], older)
            numbered[7] = hashed(numbered[7], coarse(total))
            first, second = (3 * level + 1) * KINDS, PARTS * KINDS + (3 * level + 1) * DEPTHS
            size = 1 + code_number(coding, first, second, numbered, places, number_inputs, size - 1)
        end = start + size
        if end > len(index) or size > width or size > mass:
            raise ValueError("more children than there are")
        starts[node + 1] = end
        # which
        contexts[2] = hashed(bases[2], last)
        contexts[3] = hashed(bases[3], older)
        contexts[4] = hashed(hashed(bases[4], older), last)
        contexts[5] = hashed(hashed(bases[5], rough(size)), 0)
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3], stack[0, 4], stack[0, 5] = 0, width, start, size, 1, 0
        stack[0, 6], stack[0, 7] = 0, total
        top = 1
        while top > 0:
            top -= 1
            low, high, first, number = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
            name, depth, open_low, open_high = stack[top, 4], stack[top, 5], stack[top, 6], stack[top, 7]
            if number == high - low:
                for place in range(number):
                    index[first + place] = low + place
                continue
            middle = (low + high) >> 1
            open_middle: Whole = open_low
            if open_high > open_low:
                open_middle = open_before(urn, origin, below(before.last, origin, origin + count, edges[middle]))
            lower_open, upper_open = open_middle - open_low, open_high - open_middle
            found: Whole = index[first - 1] + 1 if first > start else np.int64(0)
            found_before: Whole = index[first - 2] + 1 if first - 1 > start else np.int64(0)
            contexts[6] = hashed(bases[6], found)
            contexts[7] = hashed(hashed(bases[7], found), last)
            contexts[8] = hashed(hashed(bases[8], found), found_before)
            one = below(index, set_before, start, low)
            two = below(index, set_before + one, start, middle)
            three = below(index, set_before + one + two, start, high)
            contexts[9] = hashed(bases[9], min(two, 3) * 4 + min(three, 3))
            for place in range(CONTEXTS):
                places[place] = find(slots, contexts[place], name)
            kind = familiarities(slots, places[4], places[2], places[7])
            first_set = 3 * level * KINDS + kind
            second_set = PARTS * KINDS + 3 * level * DEPTHS + depth
            urns = 6 * rough(lower_open) + rough(upper_open)
            lower: Whole = np.int64(0)
            while lower < number:
                left = number - lower
                if lower == middle - low:
                    break
                if left > high - middle:
                    lower += 1
                    continue
                gather(slots, stretch, places, CONTEXTS, left, inputs)
                share: Whole = ((middle - low) << 16) // (high - low)
                inputs[CONTEXTS] = stretch[min(of_any(share, left), 65535) >> 4]
                inputs[CONTEXTS + 1] = 0
                if lower_open + upper_open > 0:
                    share = (lower_open << 16) // (lower_open + upper_open)
                    inputs[CONTEXTS + 1] = stretch[min(max(of_any(share, left), 1), 65535) >> 4]
                inputs[CONTEXTS + 2] = 256
                third_set = URN_SETS + level * URNS + 2 * urns + (1 if left > 1 else 0)
                position = mixture(weights, squash, inputs, first_set, second_set, third_set)
                chance = squash[position]
                better = corrected(table, third_set - URN_SETS, position, chance)
                bit: Whole = np.int64(1) if not decoding and index[first + lower] < middle else np.int64(0)
                bit = code_bit(state, buffer, decoding, better, bit)
                teach(weights, inputs, first_set, second_set, third_set, (bit << 16) - chance)
                correct(table, third_set - URN_SETS, position, bit)
                if bit == 0:
                    break
                lower += 1
            for place in range(CONTEXTS):
                learn(slots, places[place], lower, number, LIMITS[place])
            if lower < number:
                stack[top, 0], stack[top, 1], stack[top, 2] = middle, high, first + lower
                stack[top, 3], stack[top, 4], stack[top, 5] = number - lower, 2 * name + 1, depth + 1
                stack[top, 6], stack[top, 7] = open_middle, open_high
                top += 1
            if lower > 0:
                stack[top, 0], stack[top, 1], stack[top, 2] = low, middle, first
                stack[top, 3], stack[top, 4], stack[top, 5] = lower, 2 * name, depth + 1
                stack[top, 6], stack[top, 7] = open_low, open_middle
                top += 1
        set_before = start
        # their masses, and what that leaves
        to_come = mass
        for child in range(start, end):
            twin = twins[index[child]]
            spot: Whole = np.int64(-1)
            if twin >= 0 and count > 0:
                spot = below(before.last, origin, origin + count, twin)
                if spot == count or before.last[origin + spot] != twin:
                    spot = np.int64(-1)
            mine.older[child] = last
            mine.shift[child] = origin + spot if spot >= 0 else -1
            others = end - child - 1
            amount: Whole = to_come
            if units or others == to_come - 1:
                amount = np.int64(1)
            elif others > 0:
                amount = mine.mass[child]
                there: Whole = rest[origin + spot] if spot >= 0 else np.int64(0)
                for which in range(8):
                    numbered[which] = hashed(hashed(level * 16 + which, 6007), coarse(to_come - others))
                numbered[1] = hashed(numbered[1], rough(others))
                numbered[2] = hashed(numbered[2], min(there, 255))
                numbered[3] = hashed(hashed(numbered[3], coarse(there)), rough(others))
                numbered[4] = hashed(hashed(level * 16 + 4, 6007), index[child])
                numbered[5] = hashed(hashed(hashed(level * 16 + 5, 6007), last), index[child])
                numbered[6] = hashed(hashed(hashed(level * 16 + 6, 6007), last), rough(others))
                numbered[7] = hashed(hashed(hashed(level * 16 + 7, 6007), coarse(there)), rough(others))
                row, second = (3 * level + 2) * KINDS, PARTS * KINDS + (3 * level + 2) * DEPTHS
                amount = 1 + code_number(coding, row, second, numbered, places, number_inputs, amount - 1)
            if amount < 1 or amount > to_come - others:
                raise ValueError("masses that do not add up")
            mine.mass[child] = amount
            to_come -= amount
            if spot >= 0 and rest[origin + spot] > 0:
                taken = min(amount, rest[origin + spot])
                rest[origin + spot] -= taken
                take(urn, origin, count, spot, taken)
