"""Compiled CPU kernels of the prefix tree: the tree, the LSTM cell and the factors, forward and backward.

All work on one chunk of sorted keys and release the interpreter lock, so that threads run chunks side by
side. The cell's arithmetic and how its gates lie: :mod:`pipeline.neukron.lstm_kernels`. Without numba this module
cannot be imported, and the engine runs its torch path instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import float32 as f32

from pipeline.kernels.vector import FLOAT, WIDTH, cached, product
from pipeline.neukron import lstm_kernels
from pipeline.neukron.lstm_kernels import exp_minus, inline, step, step_back, step_kept

Array = Any  # numpy arrays: numba infers the types
BLOCK = 256  # nodes stepped at once, so that their states stay in the cache

# What is called from outside is compiled whole, with all it calls written out in place: linked in as functions,
# their rounding would depend on whether they come from the cache or were compiled just now.
called: Any = cached(lstm_kernels, fastmath=True)


@called
def build_tree(
    keys: Array, words: Array, shifts: Array, alphabets: Array, first: Array, parent: Array, token: Array, leaf: Array
) -> int:
    """Build the prefix tree of sorted keys.

    `keys` is (words, n) int64. The nodes of depth k = 1..L are ``first[k] .. first[k + 1]``, in key order;
    `parent` holds the parent's number within depth k - 1, `token` the token that leads to the node, and
    ``leaf[i]`` the number of key i's node within depth L. Returns the number of nodes.
    """
    n = keys.shape[1]
    depth = len(shifts)
    agree = np.zeros(n, dtype=np.int64)  # levels at which a key still agrees with its predecessor
    for i in range(1, n):
        level = 0
        while level < depth and ((keys[words[level], i] ^ keys[words[level], i - 1]) >> shifts[level]) == 0:
            level += 1
        agree[i] = level
    count = 0
    for level in range(depth):
        first[level + 1] = count
        word, shift, mask = words[level], shifts[level], alphabets[level] - 1
        above = 0
        for i in range(n):
            if i > 0 and agree[i] < level:
                above += 1
            if i == 0 or agree[i] <= level:
                parent[count] = above
                token[count] = (keys[word, i] >> shift) & mask
                count += 1
            if level == depth - 1:
                leaf[i] = count - first[level + 1] - 1
    first[depth + 1] = count
    return count


@inline
def _softplus(outputs: Array, slope: Array) -> None:
    """Replace each of `outputs` by log(1 + e^x), its derivative going to `slope`."""
    for j in range(len(outputs)):
        x = outputs[j]
        e = exp_minus(abs(x))
        r = f32(1.0) / (f32(1.0) + e)
        slope[j] = r if x >= f32(0.0) else e * r
        s = e / (f32(2.0) + e)  # log(1 + e) = 2 artanh(s), s <= 1/3
        q = s * s
        tail = f32(1 / 5) + q * (f32(1 / 7) + q * (f32(1 / 9) + q * f32(1 / 11)))
        outputs[j] = (x if x > f32(0.0) else f32(0.0)) + f32(2.0) * s * (f32(1.0) + q * (f32(1 / 3) + q * tail))


@inline
def _normalise(factors: Array, norms: Array) -> None:
    """Divide each row of `factors` (nodes, alphabet) by its Euclidean norm, which goes to `norms`."""
    for i in range(len(factors)):
        total = f32(0.0)
        for t in range(factors.shape[1]):
            total += factors[i, t] * factors[i, t]
        norm = np.sqrt(total)
        norms[i] = norm
        for t in range(factors.shape[1]):
            factors[i, t] /= norm


@inline
def _descend(factors: Array, parent: Array, token: Array, product_above: Array, product: Array) -> None:
    """Product of the factors along the path: a node's is its parent's times its own."""
    for i in range(len(parent)):
        product[i] = product_above[parent[i]] * factors[parent[i], token[i]]


@inline
def _ascend(
    factors: Array, parent: Array, token: Array, product_above: Array, below: Array, below_above: Array, grad: Array
) -> None:
    """Gradient of sum_i w_i P_i by the factors of one level.

    `below` (nodes) is sum of w times the factors below the node; its parents' goes to `below_above`,
    and ``grad`` (parents, alphabet) becomes the gradient by the parents' normalised factors.
    """
    below_above[:] = 0.0
    grad[:] = f32(0.0)
    for i in range(len(parent)):
        above, t = parent[i], token[i]
        below_above[above] += factors[above, t] * below[i]
        grad[above, t] = product_above[above] * below[i]


@inline
def _factor_backward(factors: Array, norms: Array, slope: Array, grad: Array) -> None:
    """Turn gradients by normalised factors into gradients by the heads' outputs, in place.

    `slope` is the derivative of softplus at those outputs.
    """
    for i in range(len(factors)):
        along = f32(0.0)
        for t in range(factors.shape[1]):
            along += grad[i, t] * factors[i, t]
        for t in range(factors.shape[1]):
            grad[i, t] = (grad[i, t] - factors[i, t] * along) / norms[i] * slope[i, t]


@inline
def _multiply(a: Array, a_row: int, a_k: int, z: Array, c: Array, rows: int, count: int, add: int) -> None:
    """C[i, :] (+)= sum_k a[i * a_row + k * a_k] Z[k, :] for i < `rows`, k < `count`; columns in whole WIDTHs."""
    columns = z.shape[1]
    for start in range(0, columns, WIDTH):
        offset = FLOAT * start
        product(
            a.ctypes.data,
            a_row,
            a_k,
            z.ctypes.data + offset,
            columns,
            c.ctypes.data + offset,
            columns,
            rows,
            count,
            add,
        )


@inline
def _factors(hidden: Array, heads: Array, bias: Array, wide: Array, factors: Array, slope: Array, norms: Array) -> None:
    """Normalised factors (nodes, alphabet) of the next level, their slopes and norms, from `hidden` (nodes, width).

    `heads` (width, columns) and `bias` (alphabet) are the output layer; `wide` (nodes, columns) is scratch.
    """
    count, alphabet = factors.shape
    _multiply(hidden, hidden.shape[1], 1, heads, wide, count, hidden.shape[1], 0)
    for i in range(count):
        for t in range(alphabet):
            factors[i, t] = wide[i, t] + bias[t]
    _softplus(factors.reshape(-1), slope.reshape(-1))
    _normalise(factors, norms)


@called
def products(tree: Array, first: Array, network: Any, alphabets: Array, offsets: Array, scratch: Array) -> Array:
    """P of every node of the last depth of a tree, keeping only what the next depth needs.

    Parameters
    ----------
    tree, first
        (2, nodes) int32 parents and tokens by depth, and where each depth starts; see :func:`build_tree`.
    network
        ``(first_factor, table, recurrent, heads, biases, head_of_level)``, padded; see
        :class:`pipeline.neukron.compiled_engine.CompiledEngine`.
    alphabets, offsets
        Of each level; where its tokens start in the table.
    scratch
        Flat float32, at least :func:`products_scratch` long.
    """
    first_factor, table, recurrent, heads, biases, head_of_level = network
    depth, width, columns = len(alphabets), len(recurrent), heads.shape[2]
    most = np.max(first[2:] - first[1:-1])
    block = min(BLOCK, most)
    rows = 4 * width
    states = scratch[: 4 * most * width].reshape(2, 2, most, width)
    used = states.size
    gates = scratch[used : used + most * rows].reshape(most, rows)
    used += gates.size
    wide = scratch[used : used + block * columns].reshape(block, columns)
    used += wide.size
    small = scratch[used : used + 2 * block * columns].reshape(2, block * columns)
    used += small.size
    norms = scratch[used : used + block]
    along = scratch[used + block : used + block + 2 * most].reshape(2, most)

    product_above = along[0]
    for i in range(first[2] - first[1]):
        product_above[i] = first_factor[tree[1, i]]
    gates[0, :] = f32(0.0)
    cell_above = states[0, 0, :1]
    cell_above[:] = f32(0.0)
    for k in range(1, depth):
        count, children = first[k + 1] - first[k], first[k + 1]
        cell, hidden = states[k % 2, 0, :count], states[k % 2, 1, :count]
        product_below = along[k % 2]
        head, alphabet = head_of_level[k], alphabets[k]
        for start in range(0, count, block):
            size = min(block, count - start)
            part = slice(first[k] + start, first[k] + start + size)
            state, output = cell[start : start + size], hidden[start : start + size]
            step(gates, table[offsets[k - 1] :], tree[0, part], tree[1, part], cell_above, state, output)
            factors = small[0, : size * alphabet].reshape(size, alphabet)
            slope = small[1, : size * alphabet].reshape(size, alphabet)
            _factors(output, heads[head], biases[head], wide, factors, slope, norms)
            while children < first[k + 2] and tree[0, children] < start + size:
                above = tree[0, children]
                product_below[children - first[k + 1]] = (
                    product_above[above] * factors[above - start, tree[1, children]]
                )
                children += 1
        if k + 1 < depth:
            _multiply(hidden, width, 1, recurrent, gates, count, width, 0)
        cell_above, product_above = cell, product_below
    return product_above[: first[depth + 1] - first[depth]].copy()


def products_scratch(most: int, width: int, columns: int) -> int:
    """Floats that :func:`products` needs for at most `most` nodes at a depth."""
    return most * (8 * width + 2) + min(BLOCK, most) * (3 * columns + 1)


@called
def gradient(
    tree: Array,
    first: Array,
    network: Any,
    transposed: Any,
    alphabets: Array,
    offsets: Array,
    below: Array,
    scratch: Array,
    grads: Any,
) -> Array:
    """P of every node of the last depth, and the gradient of sum_i below_i P_i by the network.

    Parameters
    ----------
    tree, first, network, alphabets, offsets
        See :func:`products`.
    transposed
        ``(recurrent, heads)`` with rows and columns exchanged, columns padded to whole WIDTHs.
    below
        (nodes of the last depth,) float64 weights.
    scratch
        Flat float32, at least :func:`gradient_scratch` long.
    grads
        ``(first_factor, table, recurrent, heads, biases)``, float32, added to; heads here (alphabet, width).
    """
    first_factor, table, recurrent, heads, biases, head_of_level = network
    recurrent_back, heads_back = transposed
    grad_first, grad_table, grad_recurrent, grad_heads, grad_biases = grads
    depth, width, columns, padded = len(alphabets), len(recurrent), heads.shape[2], recurrent_back.shape[1]
    rows = 4 * width
    most, inner, total = np.max(first[2:] - first[1:-1]), first[depth], first[depth + 1]
    kept = scratch[: inner * rows].reshape(inner, rows)  # activations
    used = kept.size
    units = scratch[used : used + 3 * inner * width].reshape(3, inner, width)  # cell, its tanh, hidden
    used += units.size
    small = scratch[used : used + 2 * inner * columns].reshape(2, inner * columns)  # factors, slopes
    used += small.size
    norms = scratch[used : used + inner]
    along = scratch[used + inner : used + inner + total]  # products
    used += inner + total
    gates = scratch[used : used + most * rows].reshape(most, rows)
    used += gates.size
    wide = scratch[used : used + most * columns].reshape(most, columns)
    used += wide.size
    grad_wide = scratch[used : used + most * padded].reshape(most, padded)
    used += grad_wide.size
    turns = scratch[used : used + 2 * most * width].reshape(2, most, width)
    no_cell = np.zeros((1, width), np.float32)

    for i in range(first[2]):
        along[i] = first_factor[tree[1, i]]
    gates[0, :] = f32(0.0)
    cell_above = no_cell
    for k in range(1, depth):
        here, next_ = slice(first[k], first[k + 1]), slice(first[k + 1], first[k + 2])
        count, alphabet, head = first[k + 1] - first[k], alphabets[k], head_of_level[k]
        cell, hidden = units[0, here], units[2, here]
        row = table[offsets[k - 1] :]
        step_kept(gates, row, tree[0, here], tree[1, here], cell_above, kept[here], cell, units[1, here], hidden)
        spot = slice(first[k] * columns, first[k] * columns + count * alphabet)
        factors, slope = small[0, spot].reshape(count, alphabet), small[1, spot].reshape(count, alphabet)
        _factors(hidden, heads[head], biases[head], wide, factors, slope, norms[here])
        _descend(factors, tree[0, next_], tree[1, next_], along[here], along[next_])
        if k + 1 < depth:
            _multiply(hidden, width, 1, recurrent, gates, count, width, 0)
        cell_above = cell

    grad_cell, grad_above = turns[0], turns[1]
    for k in range(depth - 1, 0, -1):
        here, next_ = slice(first[k], first[k + 1]), slice(first[k + 1], first[k + 2])
        count, alphabet, head = first[k + 1] - first[k], alphabets[k], head_of_level[k]
        hidden = units[2, here]
        spot = slice(first[k] * columns, first[k] * columns + count * alphabet)
        factors, slope = small[0, spot].reshape(count, alphabet), small[1, spot].reshape(count, alphabet)
        grad = wide.reshape(-1)[: count * alphabet].reshape(count, alphabet)
        below_above = np.empty(count)
        _ascend(factors, tree[0, next_], tree[1, next_], along[here], below, below_above, grad)
        below = below_above
        _factor_backward(factors, norms[here], slope, grad)
        _head_backward(hidden, grad, grad_heads[head], grad_biases[head])
        _multiply(grad, alphabet, 1, heads_back[head], grad_wide, count, alphabet, 0)
        if k == depth - 1:
            grad_cell[:count] = f32(0.0)
        else:
            _multiply(gates, rows, 1, recurrent_back, grad_wide, count, rows, 1)
            _multiply(hidden, 1, width, gates, grad_recurrent, width, count, 1)
        cell_above = units[0, first[k - 1] : first[k]] if k > 1 else no_cell
        step_back(
            kept[here],
            tree[0, here],
            tree[1, here],
            cell_above,
            units[1, here],
            grad_wide,
            grad_cell,
            grad_table[offsets[k - 1] :],
            gates,
            grad_above,
        )
        grad_cell, grad_above = grad_above, grad_cell
    for i in range(first[2]):
        grad_first[tree[1, i]] += below[i]
    return along[first[depth] :].copy()


def gradient_scratch(most: int, inner: int, total: int, width: int, columns: int, padded: int) -> int:
    """Floats that :func:`gradient` needs for `inner` nodes above the last depth of `total`, `most` at a depth."""
    return inner * (7 * width + 2 * columns + 1) + total + most * (6 * width + columns + padded)


@inline
def _head_backward(hidden: Array, grad: Array, grad_head: Array, grad_bias: Array) -> None:
    """Add the gradients of an output layer's weight (alphabet, width) and bias; `grad` is (nodes, alphabet)."""
    count, alphabet = grad.shape
    for t in range(alphabet):
        for i in range(count):
            grad_bias[t] += grad[i, t]
    for i in range(count):
        for t in range(alphabet):
            for j in range(hidden.shape[1]):
                grad_head[t, j] += grad[i, t] * hidden[i, j]
