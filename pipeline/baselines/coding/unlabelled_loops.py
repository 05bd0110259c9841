"""Inner loops of :mod:`pipeline.baselines.coding.unlabelled`.

Chances are whole numbers of 65536; those of counts come from doubles by +, -, * and / in a fixed sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding.loops import power
from pipeline.baselines.coding.mixed_loops import Coding, below, code_bit, find, hashed, learn, of_any
from pipeline.kernels.optional import compiled

Whole = Any  # an int or an np.int64: compiled code takes either
INPUTS = 14
PARTNERS = 6  # members of the prefix whose meetings a chance looks at
REMEMBERED = 24  # members of the prefix that a new member is noted to have met
CONTEXTS = 6  # of a member, beside its meetings
KEPT = 2  # more contexts where the columns' order is kept, the last two inputs
LIMIT = 250  # of a slot's count
NAMED_SETS, ONLY_SETS, CLASS_SETS, AGAIN_SETS, SETS = 0, 600, 650, 760, 800  # rows of the mixing weights
NAMED_TRUST, ONLY_TRUST, CLASS_TRUST, TRUSTS = 40, 0, 20, 80  # rows of the trust in each concentration
CONCENTRATIONS = (3.0, 40.0, 1000.0)
UNNAMED = 1 << 40


class ColumnsCoding(NamedTuple):
    """What both directions share: contexts, range coder and tables, mixing weights, and what is still open.

    Attributes
    ----------
    scratch, sums, trust
        For counts: chances by each concentration, their running mixture, and what each concentration is trusted.
    weight
        (2^(bits + 1),) sums over halves of the names, root at 1: cells of each name not yet told.
    fresh
        ``fresh[k]`` rows of k cells without a name; ``fresh[0]`` the cells of all of these.
    counters
        Names given so far, and decisions mixed so far.
    spot
        Where a name stands in the list of names that may come again.
    before
        Where the columns' order is kept: a number of names, and the rising names of the column before.
    fine
        Bits of the mixing weights beyond 16; with none, steps are rounded down, as in the first such codes.
    pace
        Speed of the mixing weights: in the end, how much more at the start, and decisions after which that more has
        halved.
    """

    coding: Coding
    weights: Integers
    scratch: Reals
    sums: Reals
    trust: Reals
    bits: int
    weight: Integers
    fresh: Integers
    counters: Integers
    inputs: Integers
    places: Integers
    spot: Integers
    before: Integers
    fine: int
    pace: Reals


@compiled
def add_weight(state: ColumnsCoding, name: Whole, amount: Whole) -> None:
    """Change what is open of a name."""
    node = (1 << state.bits) + name
    while node > 0:
        state.weight[node] += amount
        node >>= 1


@compiled
def open_above(state: ColumnsCoding, name: Whole) -> Whole:
    """What is open of all names above one."""
    if name < 0:
        return state.weight[1]
    node = (1 << state.bits) + name
    total = np.int64(0)
    while node > 1:
        if node & 1 == 0:
            total += state.weight[node + 1]
        node >>= 1
    return total


@compiled
def count_chances(chances: Reals, number: Whole, chance: float, concentration: float) -> None:
    """Beta-binomial chances of 0..number."""
    have, lack = chance * concentration, (1.0 - chance) * concentration
    chances[0] = 1.0
    total = 1.0
    for count in range(number):
        value = chances[count] * ((number - count) * (count + have) / ((count + 1.0) * (number - count - 1.0 + lack)))
        if value > 1e100:
            for earlier in range(count + 1):
                chances[earlier] *= 1e-100
            value *= 1e-100
            total *= 1e-100
        chances[count + 1] = value
        total += value
    for count in range(number + 1):
        chances[count] = chances[count] / total


@compiled
def code_count(state: ColumnsCoding, kind: Whole, number: Whole, chance: Whole, count: Whole) -> Whole:
    """Code how many of `number` draws fall where one does with `chance`; concentrations that told well weigh more."""
    sums, trust = state.sums, state.trust
    sums[0] = 0.0
    for place in range(number + 1):
        sums[place + 1] = 1e-7
    total = trust[kind, 0] + trust[kind, 1] + trust[kind, 2]
    for which in range(3):
        count_chances(state.scratch[which], number, chance / 65536.0, CONCENTRATIONS[which])
        share = trust[kind, which] / total
        for place in range(number + 1):
            sums[place + 1] += share * state.scratch[which, place]
    for place in range(number + 1):
        sums[place + 1] += sums[place]
    low, high = np.int64(0), np.int64(number + 1)
    middle = np.int64((number * chance) >> 16) + 1
    while high - low > 1:
        if not low < middle < high:
            middle = (low + high) >> 1
        below = int(65536.0 * ((sums[middle] - sums[low]) / (sums[high] - sums[low])))
        below = min(max(below, 1), 65535)
        bit: Whole = np.int64(1) if count < middle else np.int64(0)
        if code_bit(state.coding.state, state.coding.buffer, state.coding.decoding, below, bit) == 1:
            high = middle
        else:
            low = middle
        middle = (low + high) >> 1
    told = sums[low + 1] - sums[low]
    total = 0.0
    for which in range(3):
        trust[kind, which] *= state.scratch[which, low] / told
        total += trust[kind, which]
    for which in range(3):
        trust[kind, which] = trust[kind, which] / total * 0.98 + 0.02 / 3.0
    return low


@compiled
def least_below(lower: Whole, upper: Whole, beyond: Whole, draws: Whole) -> Whole:
    """Chance that the least of some draws is in the lower part of a range, given that it is in the range.

    The weights are of the two parts and of all above the range.
    """
    total = float(lower + upper + beyond)
    within = 1.0 - power((upper + beyond) / total, draws)
    chance = within / (1.0 - power(beyond / total, draws))
    return min(max(int(65536.0 * chance), 1), 65535)


@compiled
def told_chance(slots: npt.NDArray[np.uint32], stretch: Integers, place: Whole) -> Whole:
    """What a slot says, in the logistic domain; nothing where it is new."""
    slot = np.int64(slots[place])
    return stretch[(slot >> 16) >> 4] if slot & 255 else np.int64(0)


@compiled
def code_mixed(
    state: ColumnsCoding, first: Whole, second: Whole, trust: Whole, contexts: Whole, number: Whole, yes: Whole
) -> Whole:
    """Code `yes` of `number` by the mixture of the inputs, and teach the weights and the slots at `places`."""
    total = np.int64(0)
    for place in range(INPUTS):
        total += state.inputs[place] * (state.weights[first, place] + state.weights[second, place])
    position: Whole = (total >> (16 + state.fine)) + len(state.coding.squash) // 2
    chance = state.coding.squash[min(max(position, 0), len(state.coding.squash) - 1)]
    if number == 1:
        yes = code_bit(state.coding.state, state.coding.buffer, state.coding.decoding, chance, yes)
    else:
        yes = code_count(state, trust, number, chance, yes)
    state.counters[1] += 1
    least, more, halfway = state.pace
    speed = int(16.0 * (least + more * halfway / (halfway + float(state.counters[1]))))
    miss = ((yes << 16) // number - chance) * speed * min(number, 4)
    shift = 24 - state.fine
    half = (1 << shift) >> 1 if state.fine > 0 else 0
    for place in range(INPUTS):
        step = (state.inputs[place] * miss + half) >> shift
        state.weights[first, place] += step
        state.weights[second, place] += step
    for place in range(contexts):
        learn(state.coding.slots, state.places[place], yes, number, LIMIT)
    return yes


@compiled
def code_names(
    state: ColumnsCoding, prefix: Integers, remaining: Whole, draws: Integers, first: Whole, last: Whole, work: Integers
) -> None:
    """Code the rising ``draws[first:last]``: of each of these columns, the least name above its prefix.

    Names are told by halving their range: how many lie in the lower half? Chances come from what is open of the
    names in either half, from what followed the prefix, its ends and parts, and from which names met.
    """
    slots, stretch, inputs, places, bits = (
        state.coding.slots,
        state.coding.stretch,
        state.inputs,
        state.places,
        state.bits,
    )
    known = len(prefix)
    bound: Whole = prefix[known - 1] if known > 0 else np.int64(-1)
    left: Whole = min(remaining, 6)
    contexts = np.zeros(CONTEXTS, dtype=np.int64)
    contexts[0] = np.int64(9)
    for place in range(known):
        contexts[0] = hashed(contexts[0], prefix[place] + 1)
    earlier: Whole = prefix[known - 2] + 2 if known > 1 else np.int64(0)
    outer: Whole = prefix[0] + 2 if known > 0 else np.int64(0)
    contexts[1] = hashed(hashed(bound + 2, 7), earlier)
    contexts[2] = hashed(hashed(bound + 2, 6), left)
    contexts[3] = hashed(hashed(bound + 2, 5), 0)
    contexts[4] = hashed(hashed(outer, 8), min(known, 3))
    contexts[5] = hashed(left, 31)
    work[0, 0], work[0, 1], work[0, 2], work[0, 3], work[0, 4] = 1, 0, first, last, state.fresh[0]
    top = 1
    while top > 0:
        top -= 1
        node, level, start, end, beyond = work[top, 0], work[top, 1], work[top, 2], work[top, 3], work[top, 4]
        number = end - start
        if number == 0:
            continue
        if level == bits:
            for place in range(start, end):
                draws[place] = node - (1 << bits)
            continue
        width = np.int64(1) << (bits - level)
        low = (node - (np.int64(1) << level)) * width
        middle = low + (width >> 1)
        lower, upper = state.weight[2 * node], state.weight[2 * node + 1]
        if bound >= low:
            reach = open_above(state, bound) - open_above(state, low + width - 1)
            if bound < middle:
                lower = reach - upper
            else:
                lower, upper = np.int64(0), reach
        if lower == 0 or upper == 0:
            work[top, 0], work[top, 1] = 2 * node + (1 if lower == 0 else 0), level + 1
            top += 1
            continue
        yes = np.int64(0)
        if not state.coding.decoding:
            while yes < number and draws[start + yes] < middle:
                yes += 1
        share: Whole = min(max((lower << 16) // (lower + upper), 1), 65535)
        inputs[0], inputs[1] = stretch[least_below(lower, upper, beyond, remaining) >> 4], 256
        for place in range(CONTEXTS):
            places[place] = find(slots, contexts[place], node)
            inputs[2 + place] = told_chance(slots, stretch, places[place])
        whole: Whole = np.int64(slots[places[0]]) & 255
        ends = np.int64(slots[places[3]]) & 255
        base = stretch[share >> 4]
        total, seen = np.int64(0), np.int64(0)
        evidence: Whole = np.int64(0)
        for place in range(min(known, PARTNERS)):
            slot = np.int64(slots[find(slots, hashed(prefix[known - 1 - place] + 2, 1000), node)])
            count: Whole = min(slot & 255, 30)
            if count > 0:
                said = stretch[(slot >> 16) >> 4]
                total += said * count
                seen += count
                evidence += (said - base) * count // (count + 2)
        inputs[8] = total // seen if seen > 0 else np.int64(0)
        inputs[9] = min(max(evidence, -2000), 2000)
        inputs[10] = min(max(base + evidence, -2000), 2000) if seen > 0 else np.int64(0)
        inputs[11] = base
        contexts_here = CONTEXTS
        inputs[12], inputs[13] = 0, 0
        if len(state.before) > 0:
            contexts_here = CONTEXTS + KEPT
            ends_of = 1 + state.before[0]
            one = below(state.before, 1, ends_of, low)
            two = below(state.before, 1 + one, ends_of, middle)
            three = below(state.before, 1 + one + two, ends_of, low + width)
            places[6] = find(slots, hashed(hashed(min(two, 3) * 4 + min(three, 3), 12), min(known, 2)), node)
            newest = state.counters[2]
            side: Whole = np.int64(0)
            for edge in (low, middle, low + width):
                side += 1 if newest >= edge else 0
            room = min(max(newest - low, middle - newest), 3) if side == 1 or side == 2 else np.int64(0)
            places[7] = find(slots, hashed(hashed(side * 4 + max(room, 0), 13), left), level)
            inputs[12] = told_chance(slots, stretch, places[6])
            inputs[13] = told_chance(slots, stretch, places[7])
        familiar = min(whole, 3) * 3 + (0 if ends == 0 else (1 if ends < 4 else 2))
        row = NAMED_SETS + (min(known, 4) * 12 + familiar) * 2 + (1 if number > 1 else 0)
        other = NAMED_SETS + 200 + level * 6 + left - 1
        yes = code_mixed(state, row, other, NAMED_TRUST + level, contexts_here, number, yes)
        work[top, 0], work[top, 1], work[top, 2], work[top, 3] = 2 * node + 1, level + 1, start + yes, end
        work[top, 4], work[top + 1, 4] = beyond, beyond + upper
        work[top + 1, 0], work[top + 1, 1], work[top + 1, 2] = 2 * node, level + 1, start
        work[top + 1, 3] = start + yes
        top += 2


@compiled
def meet(state: ColumnsCoding, prefix: Integers, name: Whole, count: Whole) -> None:
    """Note that a name met every one of the prefix in `count` columns."""
    known, bits = len(prefix), state.bits
    for place in range(min(known, REMEMBERED)):
        context = hashed(prefix[known - 1 - place] + 2, 1000)
        for level in range(bits):
            node = ((np.int64(1) << bits) + name) >> (bits - level)
            bit = (name >> (bits - level - 1)) & 1
            learn(state.coding.slots, find(state.coding.slots, context, node), count * (1 - bit), count, LIMIT)


@compiled
def code_only(state: ColumnsCoding, prefix: Integers, remaining: Whole, number: Whole, only: Whole) -> Whole:
    """Code how many of `number` columns have but rows without a name to come."""
    slots, inputs, places = state.coding.slots, state.inputs, state.places
    depth = len(prefix)
    bound: Whole = prefix[depth - 1] if depth > 0 else np.int64(-1)
    within = open_above(state, bound)
    if state.fresh[0] == 0:
        return np.int64(0)
    if within == 0:
        return np.int64(number)
    share: Whole = min(max((state.fresh[0] << 16) // (state.fresh[0] + within), 1), 65535)
    rest: Whole = np.int64(65536)
    for _ in range(min(remaining, 64)):
        rest = (rest * share) >> 16
    left: Whole = min(remaining, 6)
    places[0] = find(slots, hashed(hashed(min(depth, 3), 50), left), 3)
    places[1] = find(slots, hashed(hashed(bound + 2, 51), left), 3)
    first: Whole = prefix[0] if depth > 0 else np.int64(-1)
    places[2] = find(slots, hashed(first + 2, 52), hashed(min(depth, 5), left))
    inputs[:] = 0
    inputs[0], inputs[1] = state.coding.stretch[min(max(rest, 1), 65535) >> 4], 256
    for place in range(3):
        inputs[2 + place] = told_chance(slots, state.coding.stretch, places[place])
    row = ONLY_SETS + min(depth, 3) * 6 + left - 1
    return code_mixed(state, row, ONLY_SETS + 40, ONLY_TRUST + min(depth, 5), 3, number, only)


@compiled
def by_name(given: Integers, column: Whole, depth: Whole, place: Integers) -> None:
    """Sort the rows that a column has to come by name, those without one last."""
    keys = place[given[column, depth:]]
    keys[keys < 0] = UNNAMED
    given[column, depth:] = given[column, depth:][np.argsort(keys, kind="mergesort")]


@compiled
def sort_columns(
    given: Integers,
    which: Integers,
    place: Integers,
    heavy: Whole,
    start: Whole,
    end: Whole,
    depth: Whole,
    sorted_before: bool,
    nexts: Integers,
) -> Whole:
    """Find each column's next name and sort the columns by it; returns how many have none."""
    only = np.int64(0)
    for position in range(start, end):
        column = which[position]
        name = place[given[column, depth]]
        if not sorted_before and not 0 <= name < heavy:
            by_name(given, column, depth, place)
            name = place[given[column, depth]]
        nexts[position] = name if name >= 0 else UNNAMED
        only += 1 if name < 0 else 0
    if end - start > 1:
        order = np.argsort(nexts[start:end], kind="mergesort")
        which[start:end] = which[start:end][order]
        nexts[start:end] = nexts[start:end][order]
    return only


@compiled
def code_class(
    state: ColumnsCoding,
    given: Integers,
    content: Integers,
    which: Integers,
    place: Integers,
    degree: Integers,
    heavy: int,
) -> None:
    """Code the columns of one size as a prefix tree in names.

    Parameters
    ----------
    given
        (n, size) rows of every column, when encoding; those with a name from the start first, rising by name.
    content
        (n, size) names, filled in either way; column i of the code is column ``which[i]`` of `given`.
    place
        Name of every row, -1 while it has none.
    degree
        Cells of every row.
    heavy
        How many names there were from the start.
    """
    count, size = content.shape
    stack = np.zeros((count + size + 8, 4), dtype=np.int64)
    work = np.zeros((256, 5), dtype=np.int64)
    nexts = np.zeros(count, dtype=np.int64)
    stack[0, 1] = count
    top = 1
    while top > 0:
        top -= 1
        start, end, depth, before = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        number, remaining = end - start, size - depth
        prefix = content[start, :depth].copy()
        only = np.int64(0)
        if not state.coding.decoding:
            only = sort_columns(given, which, place, heavy, start, end, depth, before == 1, nexts)
        only = code_only(state, prefix, remaining, number, only)
        named = end - only
        if named > start:
            code_names(state, prefix, remaining, nexts, start, named, work)
        for position in range(start, named):
            content[position, :depth] = prefix
            content[position, depth] = nexts[position]
            add_weight(state, nexts[position], -1)
            if state.weight[(np.int64(1) << state.bits) + nexts[position]] < 0:
                raise ValueError("a row with more cells than it has")
        if only > 0:
            code_fresh(state, given, content, which, place, degree, named, end, prefix, stack, top)
        high = named
        while high > start:
            name = nexts[high - 1]
            low = high - 1
            while low > start and nexts[low - 1] == name:
                low -= 1
            meet(state, prefix, name, high - low)
            if remaining > 1:
                stack[top, 0], stack[top, 1], stack[top, 2] = low, high, depth + 1
                stack[top, 3] = 1 if number == 1 and name >= heavy else 0
                top += 1
            high = low


@compiled
def code_fresh(
    state: ColumnsCoding,
    given: Integers,
    content: Integers,
    which: Integers,
    place: Integers,
    degree: Integers,
    start: Whole,
    end: Whole,
    prefix: Integers,
    stack: Integers,
    floor: Whole,
) -> None:
    """Code columns whose rows to come have no name: how many cells each row has, and whether it is one of these again.

    Columns are sorted by these numbers, which are told as a prefix tree; a row that is new gets the next name, and so
    costs nothing more.
    """
    depth, size = len(prefix), content.shape[1]
    remaining, number = size - depth, end - start
    profile = np.zeros((number, remaining), dtype=np.int64)
    rows = np.zeros((number, remaining), dtype=np.int64)
    if not state.coding.decoding:
        for item in range(number):
            mine = given[which[start + item], depth:]
            rows[item] = mine[np.argsort(degree[mine], kind="mergesort")]
            profile[item] = degree[rows[item]]
        order = np.arange(number)
        for column in range(remaining - 1, -1, -1):
            order = order[np.argsort(profile[order, column], kind="mergesort")]
        profile = profile[order]
        rows = rows[order]
        which[start:end] = which[start:end][order]
    code_profile(state, profile, prefix, stack, floor)
    lists = np.zeros(len(state.fresh) + 1, dtype=np.int64)
    for item in range(number):
        for column in range(remaining):
            lists[profile[item, column] + 1] += 1
    lists = np.cumsum(lists)
    opened = np.zeros(len(state.fresh), dtype=np.int64)
    names = np.zeros(number * remaining, dtype=np.int64)
    for item in range(number):
        content[start + item, :depth] = prefix
        for column in range(remaining):
            cells, row = profile[item, column], rows[item, column]
            again = np.int64(1) if not state.coding.decoding and place[row] >= 0 else np.int64(0)
            if opened[cells] > 0:
                again = code_again(state, cells, opened[cells], remaining, depth, again)
            at = lists[cells]
            if again == 1:
                wanted = np.int64(0) if state.coding.decoding else state.spot[place[row]]
                wanted = code_evenly(state, opened[cells], wanted)
                name = names[at + wanted]
                add_weight(state, name, -1)
                if state.weight[(np.int64(1) << state.bits) + name] == 0:
                    opened[cells] -= 1
                    names[at + wanted] = names[at + opened[cells]]
                    state.spot[names[at + wanted]] = wanted
            else:
                if state.fresh[cells] == 0:
                    raise ValueError("more rows than there are")
                name = state.counters[0]
                state.counters[0] += 1
                if not state.coding.decoding:
                    place[row] = name
                state.fresh[cells] -= 1
                state.fresh[0] -= cells
                if cells > 1:
                    add_weight(state, name, cells - 1)
                    names[at + opened[cells]] = name
                    state.spot[name] = opened[cells]
                    opened[cells] += 1
            content[start + item, depth + column] = name


@compiled
def code_profile(state: ColumnsCoding, profile: Integers, prefix: Integers, stack: Integers, floor: Whole) -> None:
    """Code sorted columns of rising numbers of cells as a prefix tree: how many columns have k next, k from 1 on."""
    number, remaining = profile.shape
    slots, inputs, places, fresh = state.coding.slots, state.inputs, state.places, state.fresh
    depth = len(prefix)
    bound: Whole = prefix[depth - 1] + 2 if depth > 0 else np.int64(1)
    outer: Whole = prefix[0] + 2 if depth > 0 else np.int64(1)
    stack[floor, 0], stack[floor, 1], stack[floor, 2], stack[floor, 3] = 0, number, 0, 1
    top = floor + 1
    while top > floor:
        top -= 1
        first, last, at, cells = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        count, left = last - first, min(remaining - at, 6)
        rest = np.int64(0)
        for larger in range(cells, len(fresh)):
            rest += larger * fresh[larger]
        mine = cells * fresh[cells]
        previous: Whole = profile[first, at - 1] if at > 0 else np.int64(0)
        yes = np.int64(0)
        if not state.coding.decoding:
            while yes < count and profile[first + yes, at] == cells:
                yes += 1
        if rest == 0:
            raise ValueError("more rows than there are")
        if mine == rest:
            yes = count
        elif mine > 0:
            share: Whole = min(max((mine << 16) // rest, 1), 65535)
            places[0] = find(slots, hashed(61, cells), hashed(left, previous))
            places[1] = find(slots, hashed(62, cells), depth + remaining)
            places[2] = find(slots, hashed(63, cells), hashed(outer, left))
            places[3] = find(slots, hashed(64, cells), hashed(bound, hashed(left, depth)))
            inputs[:] = 0
            inputs[0], inputs[1] = state.coding.stretch[min(of_any(share, remaining - at), 65535) >> 4], 256
            for place in range(4):
                inputs[2 + place] = told_chance(slots, state.coding.stretch, places[place])
            row, other = CLASS_SETS + min(cells, 40), CLASS_SETS + 50 + left * 6 + min(depth, 5)
            yes = code_mixed(state, row, other, CLASS_TRUST, 4, count, yes)
        if yes < count:
            for item in range(first + yes, last):
                profile[item, :at] = profile[first, :at]
            stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = first + yes, last, at, cells + 1
            top += 1
        if yes > 0:
            for item in range(first, first + yes):
                profile[item, :at] = profile[first, :at]
                profile[item, at] = cells
            if at + 1 < remaining:
                stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = first, first + yes, at + 1, cells
                top += 1


@compiled
def code_again(
    state: ColumnsCoding, cells: Whole, opened: Whole, remaining: Whole, depth: Whole, again: Whole
) -> Whole:
    """Code whether a row of so many cells is one of those that got a name just now."""
    if state.fresh[cells] == 0:
        return np.int64(1)
    share: Whole = min(max((opened << 16) // (opened + state.fresh[cells]), 1), 65535)
    state.places[0] = find(state.coding.slots, hashed(71, cells), hashed(min(remaining, 6), min(depth, 3)))
    state.inputs[:] = 0
    state.inputs[0], state.inputs[1] = state.coding.stretch[share >> 4], 256
    state.inputs[2] = told_chance(state.coding.slots, state.coding.stretch, state.places[0])
    return code_mixed(state, AGAIN_SETS + min(cells, 30), AGAIN_SETS + 35, 0, 1, 1, again)


@compiled
def code_evenly(state: ColumnsCoding, number: Whole, which: Whole) -> Whole:
    """Code one of `number` equal choices."""
    coding = state.coding
    low, high = np.int64(0), np.int64(number)
    while high - low > 1:
        middle = (low + high) >> 1
        chance: Whole = min(max(((middle - low) << 16) // (high - low), 1), 65535)
        bit: Whole = np.int64(1) if which < middle else np.int64(0)
        if code_bit(coding.state, coding.buffer, coding.decoding, chance, bit) == 1:
            high = middle
        else:
            low = middle
    return low


@compiled
def code_kept(state: ColumnsCoding, sizes: Integers, given: Integers, content: Integers) -> None:
    """Code one column after the other, in their order; all rows have names, rising in every column.

    Parameters
    ----------
    sizes
        Of every column.
    given, content
        Names of all cells, column after column, when encoding, and filled in either way.
    """
    work = np.zeros((256, 5), dtype=np.int64)
    draws = np.zeros(1, dtype=np.int64)
    start = np.int64(0)
    for column in range(len(sizes)):
        size = sizes[column]
        for place in range(size):
            if not state.coding.decoding:
                draws[0] = given[start + place]
            prefix = content[start : start + place]
            code_names(state, prefix, size - place, draws, 0, 1, work)
            name = draws[0]
            content[start + place] = name
            add_weight(state, name, -1)
            if state.weight[(np.int64(1) << state.bits) + name] < 0:
                raise ValueError("a row with more cells than it has")
            meet(state, prefix, name, 1)
            state.counters[2] = max(state.counters[2], name + 1)
        state.before[0] = size
        state.before[1 : 1 + size] = content[start : start + size]
        start += size
