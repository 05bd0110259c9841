"""Inner loops of the codes whose chances are doubles: column sets and fibres."""

from __future__ import annotations

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.kernels.optional import compiled, inlined


@compiled
def power(base: float, exponent: int) -> float:
    """`base` to a whole power of at least 0 by squaring, with multiplications only."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@compiled
def two_steps(pairs: Reals, sums: Reals, row: int, result: Reals) -> None:
    """Chances of ending at each row after two steps from `row`, each to a row that it met."""
    count = len(sums)
    result[:] = 0.0
    total = 0.0
    for between in range(count):
        if pairs[row, between] > 0.0:
            share = pairs[row, between] / sums[between]
            for end in range(count):
                result[end] += share * pairs[between, end]
    for end in range(count):
        total += result[end]
    if total > 0.0:
        for end in range(count):
            result[end] /= total


@compiled
def next_row_chances(
    left: Reals,
    pairs: Reals,
    sums: Reals,
    steps: Reals,
    prefix: Integers,
    low: int,
    remaining: int,
    columns: int,
    shares: Reals,
    floor: float,
    tail: Reals,
    chances: Reals,
) -> None:
    """Chances that the smallest of `remaining` times `columns` draws from rows `low` and above is each row.

    Leaves in `tail` the chance of each row or any above it, from which the number of columns follows.
    """
    count = len(left)
    total = 0.0
    for row in range(count):
        total += left[row]
    weight = np.zeros(count)
    joint = np.zeros(count)
    depth = len(prefix)
    joint_total = 0.0
    for row in range(low, count):
        base = (left[row] + 1e-3) / (total + 1e-3 * count)
        if depth == 0:
            weight[row] = base
        else:
            singly = 0.0
            together = base
            for position in range(depth):
                met = pairs[prefix[position], row] / (sums[prefix[position]] + 1.0)
                singly += met
                together *= met + floor * base
            weight[row] = shares[0] * base + shares[1] * singly / depth + shares[3] * steps[row]
            joint[row] = together
            joint_total += together
    if depth > 1 and joint_total > 0.0:
        for row in range(low, count):
            weight[row] += shares[2] * joint[row] / joint_total
    tail[count] = 0.0
    for row in range(count - 1, low - 1, -1):
        tail[row] = tail[row + 1] + weight[row]
    draws = remaining * columns
    before = 1.0
    for row in range(low, low + len(chances)):
        after = power(tail[row + 1] / tail[low], draws) if before > 0.0 else 0.0
        chances[row - low] = before - after
        before = after
    if before > 0.0:  # rows too high for what remains: their chance goes to all
        for row in range(len(chances)):
            chances[row] /= 1.0 - before if before < 1.0 else 1.0
    for row in range(len(chances)):
        chances[row] += 1e-9


@inlined
def chances_from_ratios(chances: Reals) -> None:
    """Put chances in the place of their ratios, each to the chance before it; the first place is not read."""
    chances[0] = 1.0
    for number in range(1, len(chances)):
        chances[number] *= chances[number - 1]
        if chances[number] > 1e100:
            for earlier in range(number + 1):
                chances[earlier] *= 1e-100
    total = 0.0
    for number in range(len(chances)):
        total += chances[number]
    for number in range(len(chances)):
        chances[number] = chances[number] / total + 1e-9


@compiled
def column_count_chances(from_here: float, above: float, remaining: int, concentration: float, chances: Reals) -> None:
    """Beta-binomial chances of 1..n columns, given that a column has the row with chance 1 - (above / from_here)^m."""
    count = len(chances)
    chance = 1.0 - power(above / from_here, remaining)
    chance = min(max(chance, 1e-9), 1.0 - 1e-9)
    have, lack = chance * concentration, (1.0 - chance) * concentration
    for number in range(1, count):
        # number columns -> number + 1 columns
        chances[number] = (count - number) * (number + have) / ((number + 1) * (count - number - 1 + lack))
    chances_from_ratios(chances)


@compiled
def meet(pairs: Reals, sums: Reals, left: Reals, prefix: Integers, row: int, columns: int) -> None:
    """Add `columns` meetings of a row with each row of the prefix."""
    left[row] -= columns
    for position in range(len(prefix)):
        other = prefix[position]
        pairs[other, row] += columns
        pairs[row, other] += columns
        sums[other] += columns
        sums[row] += columns


@compiled
def fill_ranges(
    low: Integers, high: Integers, count: Integers, start: Integers, distinct: bool, flat: Integers
) -> None:
    """Children of ranges in which there is no choice: every index once, or the only index `count` times."""
    for position in range(len(low)):
        for child in range(count[position]):
            flat[start[position] + child] = low[position] + child if distinct else low[position]


@compiled
def count_below(flat: Integers, start: Integers, count: Integers, middle: Integers) -> Integers:
    """How many of the rising ``flat[start : start + count]`` are below `middle`, by binary search."""
    result = np.zeros(len(start), dtype=np.int64)
    for position in range(len(start)):
        first, last = 0, count[position]
        while first < last:
            between = (first + last) // 2
            if flat[start[position] + between] < middle[position]:
                first = between + 1
            else:
                last = between
        result[position] = first
    return result


@compiled
def half_chances(
    low: Integers,
    high: Integers,
    count: Integers,
    middle: Integers,
    least: Integers,
    most: Integers,
    mass: Reals,
    distinct: bool,
    table: Reals,
) -> None:
    """Chances that least..most of `count` children lie in [low, middle), one row of `table` a range.

    Distinct children: Fisher's noncentral hypergeometric distribution; else the binomial.
    """
    for item in range(len(low)):
        left, right = middle[item] - low[item], high[item] - middle[item]
        below = mass[middle[item]] - mass[low[item]] + 1e-9 * left
        above = mass[high[item]] - mass[middle[item]] + 1e-9 * right
        if distinct:
            below = min(below, left * (1.0 - 1e-9))
            above = min(above, right * (1.0 - 1e-9))
            odds = below * (right - above) / ((left - below) * above)
        else:
            odds = below / above
        number = most[item] - least[item] + 1
        row = table[item, :number]
        for step in range(1, number):
            have = least[item] + step - 1  # the chance of have + 1 from that of have
            ratio = odds * (count[item] - have) / (have + 1.0)
            if distinct:
                ratio *= (left - have) / (right - count[item] + have + 1.0)
            row[step] = ratio
        chances_from_ratios(row)


@compiled
def smallest_mass(tail: Reals, draws: int, mass: Reals) -> None:
    """Running sum of the chance of every index to be the smallest of some draws; `tail` sums weights from there on."""
    for index in range(len(tail)):
        mass[index] = 1.0 - power(tail[index] / tail[0], draws)
