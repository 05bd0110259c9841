"""Inner loops of :mod:`pipeline.baselines.coding.mixed`: whole numbers only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers
from pipeline.kernels.optional import compiled

INPUTS = 9
DEPTHS = 64  # of halving, and bits of a number
KINDS = 27  # by how well the best contexts are known
SETS = 9 * (KINDS + DEPTHS)
FIRST_WEIGHT = 9000  # of 65536
FRESH = 32768 << 16  # a slot: chance in 16 bits, check in 8, count in 8
RATE, SHIFT = 5, 20  # of the mixing weights
MASK = (1 << 31) - 1
LEAST, MOST = 24, 65536 - 24


class Coding(NamedTuple):
    """What a code has learned, its coder and its tables: see :class:`pipeline.baselines.coding.mixed.Model`."""

    slots: npt.NDArray[np.uint32]
    weights: Integers
    state: Integers  # of the coder: low, high, the code's next 32 bits, the place in `buffer`
    buffer: npt.NDArray[np.uint8]
    decoding: bool
    squash: Integers
    stretch: Integers


@compiled
def hashed(one: int, other: int) -> int:
    """31 bits of two whole numbers."""
    mixed = ((one & MASK) * 1540483477 + (other & MASK) * 1274126177 + (other >> 31 & MASK) * 974634583) & (2**62 - 1)
    return (mixed ^ (mixed >> 29)) & MASK


@compiled
def find(slots: npt.NDArray[np.uint32], context: int, node: int) -> int:
    """Place of a context's slot at a node; a fresh one where there was none."""
    mixed = hashed(hashed(context, node), 77)
    mixed = (mixed * 1540483477) & (2**62 - 1)
    check = (mixed >> 23) & 255
    place = (mixed >> 31) & (len(slots) - 1)
    if ((np.int64(slots[place]) >> 8) & 255) == check:
        return place
    other = place ^ 1
    if ((np.int64(slots[other]) >> 8) & 255) == check:
        return other
    if (np.int64(slots[other]) & 255) < (np.int64(slots[place]) & 255):
        place = other
    slots[place] = FRESH | (check << 8)
    return place


@compiled
def learn(slots: npt.NDArray[np.uint32], place: int, yes: int, number: int, limit: int) -> None:
    """Note that `yes` of `number` members lie below."""
    slot = np.int64(slots[place])
    chance, count = slot >> 16, slot & 255
    target = (yes * 65535) // number
    chance += (target - chance) * 2 * number // (2 * count + 2 * number + 1)
    chance = min(max(chance, LEAST), MOST)
    slots[place] = (chance << 16) | (slot & 0xFF00) | min(count + number, limit)


@compiled
def code_bit(state: Integers, buffer: npt.NDArray[np.uint8], decoding: bool, chance: int, bit: int) -> int:
    """Code one bit whose chance to be 1 is `chance` of 65536."""
    low, high = state[0], state[1]
    width = high - low
    middle = low + (width >> 16) * chance + (((width & 65535) * chance) >> 16)
    if decoding:
        bit = 1 if state[2] <= middle else 0
    if bit == 1:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        at = state[3]
        octet = np.int64(0)
        if decoding:
            if at < len(buffer):
                octet = np.int64(buffer[at])
            state[2] = ((state[2] << 8) & 0xFFFFFFFF) | octet
        elif at < len(buffer):
            buffer[at] = high >> 24
        state[3] = at + 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    state[0], state[1] = low, high
    return bit


@compiled
def mixture(weights: Integers, squash: Integers, inputs: Integers, first: int, second: int, third: int) -> int:
    """Place in `squash` of the mixture of all inputs, by two rows of weights, or three if `third` is not negative."""
    total = np.int64(0)
    for place in range(weights.shape[1]):
        weight = weights[first, place] + weights[second, place]
        if third >= 0:
            weight += weights[third, place]
        total += inputs[place] * weight
    middle = len(squash) // 2
    return min(max((total >> 16) + middle, 0), len(squash) - 1)


@compiled
def teach(weights: Integers, inputs: Integers, first: int, second: int, third: int, miss: int) -> None:
    """Move the weights along the gradient of the code length; `miss` is by how much the chance was too low."""
    miss *= RATE
    for place in range(weights.shape[1]):
        step = (inputs[place] * miss) >> SHIFT
        weights[first, place] += step
        weights[second, place] += step
        if third >= 0:
            weights[third, place] += step


@compiled
def mixed_bit(
    weights: Integers,
    state: Integers,
    buffer: npt.NDArray[np.uint8],
    decoding: bool,
    squash: Integers,
    inputs: Integers,
    first: int,
    second: int,
    bit: int,
) -> int:
    """Code a bit by the mixture of all inputs with two rows of weights, and teach them."""
    chance = squash[mixture(weights, squash, inputs, first, second, -1)]
    bit = code_bit(state, buffer, decoding, chance, bit)
    teach(weights, inputs, first, second, -1, (bit << 16) - chance)
    return bit


@compiled
def of_any(chance: int, number: int) -> int:
    """1 - (1 - chance)^number, in 65536ths."""
    base, rest = 65536 - chance, 65536
    while number > 0:
        if number & 1:
            rest = (rest * base) >> 16
        base = (base * base) >> 16
        number >>= 1
    return 65536 - rest


@compiled
def gather(
    slots: npt.NDArray[np.uint32], stretch: Integers, places: Integers, number: int, left: int, inputs: Integers
) -> None:
    """What the first `number` contexts say of the next of `left` members; nothing where a context is new."""
    for place in range(number):
        slot = np.int64(slots[places[place]])
        inputs[place] = 0
        if slot & 255:
            inputs[place] = stretch[min(of_any(slot >> 16, left), 65535) >> 4]


@compiled
def familiarity(slot: int) -> int:
    """How often a context was met: 0, 1 (once or twice) or 2."""
    count = slot & 255
    return 0 if count == 0 else (1 if count < 3 else 2)


@compiled
def familiarities(slots: npt.NDArray[np.uint32], first: int, second: int, third: int) -> int:
    """How often the contexts of three slots were met, one of KINDS."""
    return (
        9 * familiarity(np.int64(slots[first]))
        + 3 * familiarity(np.int64(slots[second]))
        + familiarity(np.int64(slots[third]))
    )


@compiled
def below(members: Integers, start: int, end: int, bound: int) -> int:
    """How many of the rising members[start:end] are below a bound."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if members[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low - start


@compiled
def code_sets(
    coding: Coding,
    level: int,
    width: int,
    path: Integers,
    sizes: Integers,
    children: Integers,
) -> None:
    """Code one set after the other."""
    stack = np.zeros((DEPTHS + 2, 6), dtype=np.int64)
    slots, weights, state, buffer, decoding, squash, stretch = coding
    places = np.zeros(INPUTS, dtype=np.int64)
    inputs = np.zeros(INPUTS, dtype=np.int64)
    limits = np.array([255, 20, 100, 255, 255, 255, 255, 255, 255])
    bases = np.zeros(INPUTS, dtype=np.int64)
    for place in range(INPUTS):
        bases[place] = hashed(level * 16 + place, 991)
    contexts = bases.copy()
    start = before = before_end = np.int64(0)
    known = np.int64(path.shape[1])
    for node in range(len(sizes)):
        size = sizes[node]
        end = start + size
        last = path[node, known - 1] if known > 0 else np.int64(0)
        earlier = path[node, known - 2] if known > 1 else np.int64(0)
        magnitude = np.int64(0)
        while (size >> magnitude) > 1 and magnitude < 4:
            magnitude += 1
        magnitude = min(size, 4 + magnitude)
        contexts[5] = hashed(bases[5], last if known > 1 else magnitude)
        contexts[6] = hashed(hashed(bases[6], earlier), last if known > 2 else np.int64(1))
        top = 1
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3], stack[0, 4], stack[0, 5] = 0, width, start, size, 1, 0
        while top > 0:
            top -= 1
            low, high, first, number = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
            name, depth = stack[top, 4], stack[top, 5]
            if number == high - low:
                for place in range(number):
                    children[first + place] = low + place
                continue
            middle = (low + high) >> 1
            found = children[first - 1] + 1 if first > start else np.int64(0)
            found_before = children[first - 2] + 1 if first - 1 > start else np.int64(0)
            contexts[3] = hashed(bases[3], found)
            contexts[4] = hashed(hashed(bases[4], found), last if known > 1 else found_before)
            one = below(children, before, before_end, low)
            two = below(children, before + one, before_end, middle)
            three = below(children, before + one + two, before_end, high)
            pattern = min(two, 3) * 4 + min(three, 3)
            contexts[7] = hashed(bases[7], pattern)
            for place in range(8):
                places[place] = find(slots, contexts[place], name)
            kind = familiarities(slots, places[4], places[6], places[3])
            first_set = level * KINDS + kind
            second_set = 9 * KINDS + level * DEPTHS + depth
            lower = np.int64(0)
            while lower < number:
                left = number - lower
                if lower == middle - low:
                    break
                if left > high - middle:
                    lower += 1
                    continue
                gather(slots, stretch, places, 8, left, inputs)
                share = ((middle - low) << 16) // (high - low)
                inputs[8] = stretch[min(of_any(share, left), 65535) >> 4]
                bit = np.int64(0)
                if not decoding and children[first + lower] < middle:
                    bit = np.int64(1)
                if mixed_bit(weights, state, buffer, decoding, squash, inputs, first_set, second_set, bit) == 0:
                    break
                lower += 1
            for place in range(8):
                learn(slots, places[place], lower, number, limits[place])
            if lower < number:
                stack[top, 0], stack[top, 1], stack[top, 2] = middle, high, first + lower
                stack[top, 3], stack[top, 4], stack[top, 5] = number - lower, 2 * name + 1, depth + 1
                top += 1
            if lower > 0:
                stack[top, 0], stack[top, 1], stack[top, 2] = low, middle, first
                stack[top, 3], stack[top, 4], stack[top, 5] = lower, 2 * name, depth + 1
                top += 1
        before, before_end, start = start, end, end


@compiled
def code_number(
    coding: Coding, first: int, second: int, bases: Integers, places: Integers, inputs: Integers, number: int
) -> int:
    """Code a whole number in eight contexts: the magnitude of it plus one step by step, then its lower bits.

    `first` and `second` are where its KINDS and DEPTHS rows of weights begin.
    """
    slots, weights, state, buffer, decoding, squash, stretch = coding
    goal = number + 1
    value, magnitude, step = np.int64(1), np.int64(0), np.int64(0)
    name, rising = np.int64(1), True
    while True:
        if rising:
            bit = np.int64(1) if not decoding and (goal >> (magnitude + 1)) > 0 else np.int64(0)
            name = np.int64(1000 + magnitude)
        else:
            if step == magnitude:
                break
            bit = np.int64(0) if decoding else (goal >> (magnitude - 1 - step)) & 1
            name = (magnitude << 8) | (value if step < 6 else 128 + step)
        for place in range(8):
            places[place] = find(slots, bases[place], name)
            slot = np.int64(slots[places[place]])
            inputs[place] = stretch[(slot >> 16) >> 4] if slot & 255 else 0
        kind = familiarities(slots, places[4], places[3], places[2])
        row = second + min(magnitude, 31) + (0 if rising else 32)
        bit = mixed_bit(weights, state, buffer, decoding, squash, inputs, first + kind, row, bit)
        for place in range(8):
            learn(slots, places[place], bit, 1, 30 if place == 1 else 255)
        if rising:
            if bit == 1 and magnitude < 60:
                magnitude += 1
            else:
                rising = False
        else:
            value = 2 * value + bit
            step += 1
    return value - 1


@compiled
def code_numbers(coding: Coding, level: int, contexts: Integers, numbers: Integers) -> None:
    """Code whole numbers, each predicted from its contexts and from the two before."""
    places = np.zeros(INPUTS, dtype=np.int64)
    inputs = np.zeros(coding.weights.shape[1], dtype=np.int64)
    inputs[8] = 256
    previous, earlier = np.int64(0), np.int64(0)
    bases = np.zeros(INPUTS, dtype=np.int64)
    for item in range(len(numbers)):
        for place in range(INPUTS):
            bases[place] = hashed(level * 16 + place, 5003)
        for place in range(5):
            bases[place + 2] = hashed(bases[place + 2], contexts[item, place])
        bases[7] = hashed(bases[7], min(previous, 30) * 32 + min(earlier, 30))
        bases[1] = hashed(bases[1], min(previous, 30))
        second = 9 * KINDS + level * DEPTHS
        number = code_number(coding, level * KINDS, second, bases, places, inputs, numbers[item])
        if coding.decoding:
            numbers[item] = number
        earlier, previous = previous, number
