"""Inner loops of :mod:`pipeline.baselines.coding.blocks`: a range coder whose last symbol is told first, and models.

Chances are whole numbers of 65536; they come from doubles by +, -, *, / and square roots in a fixed sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding.overlap_loops import open_before, plant, take
from pipeline.baselines.coding.unlabelled_loops import least_below
from pipeline.kernels.optional import compiled

Whole = Any  # an int or an np.int64: compiled code takes either
UNIT = 1 << 16
SPREAD = 65000.0  # of 65536, shared out among the counts of a split; the rest gives each at least one
REACH = 200  # counts on either side of the middle that a split has symbols for
NEAR = 255  # splits of up to so many cells have tables
LEFTS, POSITIONS = 4, 4  # of the contexts of a class: rows still to come, and rows told, at most


class Coder(NamedTuple):
    """A range coder of 32 bits in 16-bit words (Duda, 2013, asymmetric numeral systems), in either direction.

    Attributes
    ----------
    state
        Decoding: the coder's state and the next place in `content`. Encoding: in the second place symbols so far.
    content
        The code, when decoding.
    log
        (n, 2) first chance and chance of each symbol, when encoding.
    """

    state: Integers
    content: npt.NDArray[np.uint8]
    log: Integers
    decoding: bool


@compiled
def begin(coder: Coder, place: Whole) -> None:
    """Start to decode at a place of the content, or with an empty log."""
    coder.state[1] = 0
    if coder.decoding:
        coder.state[0], coder.state[1] = 0, place
        for _ in range(2):
            coder.state[0] = (coder.state[0] << 16) | next_word(coder)


@compiled
def next_word(coder: Coder) -> Whole:
    """The next 16 bits of the code, zeros beyond its end."""
    at = coder.state[1]
    coder.state[1] = at + 2
    if at + 1 >= len(coder.content):
        return np.int64(0)
    return (np.int64(coder.content[at]) << 8) | np.int64(coder.content[at + 1])


@compiled
def after(coder: Coder, state: Whole, first: Whole, chance: Whole) -> Whole:
    """Code a symbol that has `chance` of 65536 after `first` of those before it; returns the coder's next state."""
    if coder.decoding:
        state = chance * (state >> 16) + (state & 65535) - first
        if state < UNIT:
            state = (state << 16) | next_word(coder)
    else:
        place = coder.state[1]
        coder.log[place, 0], coder.log[place, 1] = first, chance
        coder.state[1] = place + 1
    return state


@compiled
def code_symbol(coder: Coder, first: Whole, chance: Whole) -> None:
    """The same where the coder's state is in its place."""
    coder.state[0] = after(coder, coder.state[0], first, chance)


@compiled
def finish(log: Integers, content: npt.NDArray[np.uint8]) -> Whole:
    """Write the symbols of a log to the end of `content`; returns where the code begins."""
    state = np.int64(UNIT)
    place: Whole = len(content)
    for item in range(len(log) - 1, -1, -1):
        first, chance = log[item, 0], log[item, 1]
        if state >= chance << 16:
            place -= 2
            content[place], content[place + 1] = (state >> 8) & 255, state & 255
            state >>= 16
        state = ((state // chance) << 16) + state % chance + first
    for _ in range(2):
        place -= 2
        content[place], content[place + 1] = (state >> 8) & 255, state & 255
        state >>= 16
    return place


@compiled
def code_bit(coder: Coder, chance: Whole, bit: Whole) -> Whole:
    """Code one bit whose chance to be 1 is `chance` of 65536."""
    if coder.decoding:
        bit = np.int64(1) if (coder.state[0] & 65535) < chance else np.int64(0)
    if bit == 1:
        code_symbol(coder, 0, chance)
    else:
        code_symbol(coder, chance, UNIT - chance)
    return bit


@compiled
def code_plain(coder: Coder, number: Whole) -> Whole:
    """Code 16 bits as they are."""
    if coder.decoding:
        number = coder.state[0] & 65535
    code_symbol(coder, number, 1)
    return number


@compiled
def code_listed(coder: Coder, starts: Integers, symbols: npt.NDArray[np.uint16], which: Whole) -> Whole:
    """Code one of the symbols with fixed chances; ``symbols`` names the symbol at each of 65536 places."""
    if coder.decoding:
        which = np.int64(symbols[coder.state[0] & 65535])
    code_symbol(coder, starts[which], starts[which + 1] - starts[which])
    return which


@compiled
def code_all_listed(coder: Coder, starts: Integers, symbols: npt.NDArray[np.uint16], which: Integers) -> None:
    """Code symbols one after the other, filled in when decoding."""
    state = coder.state[0]
    for item in range(len(which)):
        if coder.decoding:
            which[item] = symbols[state & 65535]
        symbol = which[item]
        state = after(coder, state, starts[symbol], starts[symbol + 1] - starts[symbol])
    coder.state[0] = state


@compiled
def code_all_plain(coder: Coder, pieces: Integers) -> None:
    """Code pieces of 16 bits, filled in when decoding."""
    for item in range(len(pieces)):
        pieces[item] = code_plain(coder, pieces[item])


@compiled
def even_splits() -> npt.NDArray[np.int32]:
    """(NEAR + 1, NEAR + 2) where the chances of each count begin, counts from the middle outwards: of d even draws."""
    starts = np.zeros((NEAR + 1, NEAR + 2), dtype=np.int32)
    chances = np.zeros(NEAR + 1)
    least = 1.0
    for cells in range(1, NEAR + 1):
        least *= 0.5
        chances[0] = least
        for count in range(cells):
            chances[count + 1] = chances[count] * (cells - count) / (count + 1.0)
        for step in range(cells + 1):
            chance = chances[outwards(cells, step)]
            starts[cells, step + 1] = starts[cells, step] + 1 + int(chance * (UNIT - 1 - cells))
        starts[cells, cells + 1] = UNIT
    return starts


@compiled
def first_steps(near: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    """(NEAR + 1, 256) the count, as steps from the middle, at each 256th place of the chances."""
    hints = np.zeros((NEAR + 1, 256), dtype=np.int16)
    for cells in range(1, NEAR + 1):
        for place in range(256):
            while near[cells, hints[cells, place] + 1] <= place << 8:
                hints[cells, place] += 1
    return hints


@compiled
def outwards(cells: Whole, step: Whole) -> Whole:
    """Counts of `cells` draws from the middle on, higher ones first."""
    middle = cells >> 1
    return middle + ((step + 1) >> 1) if step & 1 else middle - (step >> 1)


@compiled
def code_far_split(coder: Coder, cells: Whole, count: Whole) -> Whole:
    """Code how many of many cells fall on one of two even sides."""
    middle = cells >> 1
    step: Whole = 2 * (count - middle) - 1 if count > middle else 2 * (middle - count)
    even = float(cells + (cells & 1))
    up = np.sqrt(2.0 / (3.141592653589793 * even)) * (1.0 - 0.25 / even)
    down = up
    place = coder.state[0] & 65535 if coder.decoding else np.int64(-1)
    first = np.int64(0)
    current = np.int64(0)
    while current < 2 * REACH:
        if current & 1:
            at = middle + ((current - 1) >> 1)
            up *= (cells - at) / (at + 1.0)
            chance: Whole = 1 + int(up * SPREAD)
        else:
            if current > 0:
                at = middle - (current >> 1) + 1
                down *= at / (cells - at + 1.0)
            chance = 1 + int(down * SPREAD)
        chance = min(chance, UNIT - 1 - first)
        if (coder.decoding and place < first + chance) or (not coder.decoding and step == current):
            code_symbol(coder, first, chance)
            return outwards(cells, current)
        first += chance
        current += 1
        if outwards(cells, current) < 0 or outwards(cells, current) > cells or first >= UNIT - 1:
            break
    code_symbol(coder, first, UNIT - first)
    high = code_plain(coder, count >> 16)
    return (high << 16) | code_plain(coder, count & 65535)


@compiled
def split(
    coder: Coder,
    near: npt.NDArray[np.int32],
    hints: npt.NDArray[np.int16],
    counts: Integers,
    bits: npt.NDArray[np.uint8],
    left: Integers,
) -> None:
    """Code, of the cells of every row, how many lie in the left half of the blocks: of single cells one bit each."""
    state = coder.state[0]
    single = np.int64(0)
    for row in range(len(counts)):
        cells = counts[row]
        if cells == 1:
            if coder.decoding:
                left[row] = bits[single]
            else:
                bits[single] = left[row]
            single += 1
        elif cells <= NEAR:
            middle = cells >> 1
            step: Whole = 2 * (left[row] - middle) - 1 if left[row] > middle else 2 * (middle - left[row])
            if coder.decoding:
                place = state & 65535
                step = np.int64(hints[cells, place >> 8])
                while near[cells, step + 1] <= place:
                    step += 1
            first = np.int64(near[cells, step])
            state = after(coder, state, first, np.int64(near[cells, step + 1]) - first)
            left[row] = outwards(cells, step)
        else:
            coder.state[0] = state
            left[row] = code_far_split(coder, cells, left[row])
            state = coder.state[0]
            if left[row] > cells:
                raise ValueError("more cells than a row has")
    coder.state[0] = state


@compiled
def half(
    rows: Integers, counts: Integers, left: Integers, right: bool, half_rows: Integers, half_counts: Integers
) -> Whole:
    """Write the rows that have cells in one half, and these; returns how many there are."""
    found = np.int64(0)
    for row in range(len(rows)):
        cells = counts[row] - left[row] if right else left[row]
        half_rows[found], half_counts[found] = rows[row], cells
        found += 1 if cells > 0 else 0
    return found


@compiled
def code_class(
    coder: Coder, weights: Reals, table: Reals, open_cells: Integers, scale: Reals, least: Whole, which: Whole
) -> Whole:
    """Code the class of a column's next row, none before `least`; chances by what is open of each class."""
    total = 0.0
    for one in range(least, len(scale)):
        weights[one] = table[one] * scale[one] * open_cells[one] if open_cells[one] > 0 else 0.0
        total += weights[one]
    if not total > 0.0:
        raise ValueError("more rows than there are")
    spread = float(UNIT - len(scale))
    first = np.int64(0)
    for one in range(least, len(scale)):
        if weights[one] == 0.0:
            continue
        chance: Whole = 1 + int(weights[one] / total * spread)
        if coder.decoding:
            if (coder.state[0] & 65535) < first + chance:
                code_symbol(coder, first, chance)
                return np.int64(one)
        elif one == which:
            code_symbol(coder, first, chance)
            return np.int64(one)
        first += chance
    raise ValueError("no class of which anything is open")


@compiled
def code_block(
    coder: Coder,
    tables: Reals,
    scale: Reals,
    size_starts: Integers,
    size_symbols: npt.NDArray[np.uint16],
    sizes_listed: Integers,
    counts: Integers,
    edges: Integers,
    sizes: Integers,
    content: Integers,
) -> None:
    """Code the columns of a block, given how many cells each row has in it.

    Parameters
    ----------
    tables
        (contexts, classes) chances of a class, by :func:`context`.
    scale
        One over all cells of each class.
    size_starts, size_symbols, sizes_listed
        Chances of the sizes of columns, and the sizes.
    counts
        Cells of the block's rows, class after class.
    edges
        (classes + 1,) where each class's rows begin.
    sizes
        (columns,) number of each column's size in `sizes_listed`, filled in when decoding.
    content
        Places of the rows of all cells, column after column and rising in each, filled in when decoding.
    """
    classes = len(scale)
    rows, sums = len(counts), counts.copy()
    plant(sums, counts, np.array([0, rows]))
    open_cells = np.zeros(classes, dtype=np.int64)
    class_of = np.zeros(rows, dtype=np.int64)
    for one in range(classes):
        open_cells[one] = open_before(sums, 0, edges[one + 1]) - open_before(sums, 0, edges[one])
        class_of[edges[one] : edges[one + 1]] = one
    weights = np.zeros(classes)
    start = np.int64(0)
    for column in range(len(sizes)):
        sizes[column] = code_listed(coder, size_starts, size_symbols, sizes[column])
        size = sizes_listed[sizes[column]]
        if start + size > len(content):
            raise ValueError("more cells than there are")
        told = np.zeros(size, dtype=np.int64)
        previous: Whole = np.int64(classes)
        for place in range(size):
            which = np.int64(0) if coder.decoding else class_of[content[start + place]]
            row = context(size - place, place, previous, classes)
            least = np.int64(0) if place == 0 else previous
            told[place] = code_class(coder, weights, tables[row], open_cells, scale, least, which)
            previous = told[place]
            open_cells[previous] -= 1
        run: Whole = np.int64(0)
        low: Whole = np.int64(0)
        for place in range(size):
            one = told[place]
            if place == 0 or told[place - 1] != one:
                low = edges[one]
                run = place
                while run < size and told[run] == one:
                    run += 1
            bottom, top = low, edges[one + 1]
            draws = run - place
            sum_bottom, sum_top = open_before(sums, 0, bottom), open_before(sums, 0, top)
            end = sum_top
            if sum_top == sum_bottom:
                raise ValueError("more rows than there are")
            while top - bottom > 1:
                middle = (bottom + top) >> 1
                sum_middle = open_before(sums, 0, middle)
                lower, upper, beyond = sum_middle - sum_bottom, sum_top - sum_middle, end - sum_top
                bit: Whole = np.int64(1) if lower > 0 else np.int64(0)
                if lower > 0 and upper > 0:
                    bit = np.int64(1) if not coder.decoding and content[start + place] < middle else np.int64(0)
                    bit = code_bit(coder, least_below(lower, upper, beyond, draws), bit)
                if bit == 1:
                    top, sum_top = middle, sum_middle
                else:
                    bottom, sum_bottom = middle, sum_middle
            content[start + place] = bottom
            take(sums, 0, rows, bottom, 1)
            low = bottom + 1
        start += size
    if start != len(content):
        raise ValueError("fewer cells than there are")


@compiled
def context(left: Whole, position: Whole, previous: Whole, classes: Whole) -> Whole:
    """Number of what the class of a row is predicted from: rows to come, rows told, the class before."""
    return ((min(left, LEFTS) - 1) * POSITIONS + min(position, POSITIONS - 1)) * (classes + 1) + previous


@compiled
def count_classes(told: Integers, sizes: Integers, classes: int, counts: Integers) -> None:
    """Add up how often each class follows in each context, of the classes of all cells, column after column."""
    start = np.int64(0)
    for column in range(len(sizes)):
        previous: Whole = np.int64(classes)
        for place in range(sizes[column]):
            which = told[start + place]
            counts[context(sizes[column] - place, place, previous, classes), which] += 1
            previous = which
        start += sizes[column]
