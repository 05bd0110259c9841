"""Compiled CPU kernels of the prefix tree: the tree, the LSTM cell and the factors, forward and backward.

All work on one chunk of sorted keys and release the interpreter lock, so that threads run chunks side by
side. Gates lie in four planes (input, forget, cell, output) of (nodes, width) float32, where the width is
the hidden size padded to whole vector registers; padded units stay exactly zero. Without numba this module
cannot be imported, and the engine runs its torch path instead.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy import float32 as f32

config: Any = numba.config
Array = Any  # numpy arrays: numba infers the types


def _prefer_wide_vectors() -> None:
    """Let LLVM use 512-bit registers where there are any; its default of 256 costs a third of the speed here."""
    features = [name for name, present in llvm.get_host_cpu_features().items() if present]
    if config.CPU_FEATURES is None and "avx512f" in features:
        config.CPU_NAME = llvm.get_host_cpu_name()
        config.CPU_FEATURES = ",".join([*(f"+{name}" for name in features), "-prefer-256-bit"])


_prefer_wide_vectors()
LANES = 8  # hidden units are padded to a multiple of this: float32 in a 256-bit register

fast: Any = numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
exact: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
inline: Any = numba.njit(inline="always")


@exact
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


def _float_of_bits_codegen(typing_context: Any, bits: Any) -> Any:
    """Read 32 bits as a float: what makes a power of two from its exponent."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


_float_of_bits: Any = intrinsic(_float_of_bits_codegen)


@inline
def _exp(x: Any) -> Any:
    """e^x for |x| <= 25 (clamped), relative error below 2e-6: 2^n times a polynomial for the fraction."""
    x = f32(25.0) if x > f32(25.0) else x
    x = f32(-25.0) if x < f32(-25.0) else x
    z = x * f32(1.4426950408889634)
    n = np.int32(z + f32(128.5)) - np.int32(128)
    f = (z - f32(n)) * f32(0.6931471805599453)
    tail = f32(1 / 24) + f * (f32(1 / 120) + f * f32(1 / 720))
    p = f32(1.0) + f * (f32(1.0) + f * (f32(0.5) + f * (f32(1 / 6) + f * tail)))
    return p * _float_of_bits(np.int32((n + np.int32(127)) << np.int32(23)))


@inline
def _sigmoid(x: Any) -> Any:
    return f32(1.0) / (f32(1.0) + _exp(-x))


@inline
def _tanh(x: Any) -> Any:
    e = _exp(f32(-2.0) * x)
    return (f32(1.0) - e) / (f32(1.0) + e)


@fast
def gather(
    recurrent: Array, table: Array, parent: Array, token: Array, cell_above: Array, planes: Array, cell_before: Array
) -> None:
    """Put each node's gates (parent's recurrent product plus its token's row) and its parent's cell in place.

    `recurrent` is (parents, 4 width), `table` (tokens, 4 width), `planes` (4, nodes * width) and
    `cell_before` (nodes * width).
    """
    width = cell_above.shape[1]
    for i in range(len(parent)):
        above, row = parent[i], token[i]
        start = i * width
        for gate in range(4):
            source = recurrent[above, gate * width : (gate + 1) * width]
            addend = table[row, gate * width : (gate + 1) * width]
            target = planes[gate, start : start + width]
            for j in range(width):
                target[j] = source[j] + addend[j]
        source = cell_above[above]
        target = cell_before[start : start + width]
        for j in range(width):
            target[j] = source[j]


@fast
def cell_forward(planes: Array, cell: Array, hidden: Array, n: int) -> None:
    """Step the LSTM cell over `n` flat units; `cell` holds the state before and receives the one after."""
    gate_i, gate_f, gate_g, gate_o = planes[0], planes[1], planes[2], planes[3]
    one = f32(1.0)
    for j in range(n):
        i = one + _exp(-gate_i[j])
        f = one + _exp(-gate_f[j])
        e = _exp(f32(-2.0) * gate_g[j])
        g = one + e
        ig = i * g
        c = (cell[j] * ig + (one - e) * f) / (ig * f)  # f c + i g over a common denominator
        e = _exp(f32(-2.0) * c)
        cell[j] = c
        hidden[j] = (one - e) / ((one + _exp(-gate_o[j])) * (one + e))


@fast
def cell_forward_keep(planes: Array, cell_before: Array, cell: Array, tanh_cell: Array, hidden: Array, n: int) -> None:
    """As :func:`cell_forward`, keeping in `planes` the activations that the backward pass needs."""
    gate_i, gate_f, gate_g, gate_o = planes[0], planes[1], planes[2], planes[3]
    for j in range(n):
        i = _sigmoid(gate_i[j])
        f = _sigmoid(gate_f[j])
        g = _tanh(gate_g[j])
        o = _sigmoid(gate_o[j])
        c = f * cell_before[j] + i * g
        t = _tanh(c)
        gate_i[j] = i
        gate_f[j] = f
        gate_g[j] = g
        gate_o[j] = o
        cell[j] = c
        tanh_cell[j] = t
        hidden[j] = o * t


@fast
def cell_backward(
    planes: Array, cell_before: Array, tanh_cell: Array, grad_hidden: Array, grad_cell: Array, n: int
) -> None:
    """Turn activations in `planes` into gradients of the gates; `grad_cell` becomes that of the state before."""
    gate_i, gate_f, gate_g, gate_o = planes[0], planes[1], planes[2], planes[3]
    for j in range(n):
        i, f, g, o, t = gate_i[j], gate_f[j], gate_g[j], gate_o[j], tanh_cell[j]
        dh = grad_hidden[j]
        dc = grad_cell[j] + dh * o * (f32(1.0) - t * t)
        gate_i[j] = dc * g * i * (f32(1.0) - i)
        gate_f[j] = dc * cell_before[j] * f * (f32(1.0) - f)
        gate_g[j] = dc * i * (f32(1.0) - g * g)
        gate_o[j] = dh * t * o * (f32(1.0) - o)
        grad_cell[j] = dc * f


@fast
def scatter(
    planes: Array,
    grad_before: Array,
    parent: Array,
    token: Array,
    grad_recurrent: Array,
    grad_cell_above: Array,
    grad_table: Array,
) -> None:
    """Undo :func:`gather`: add each node's gradients to its parent's and to its token's row.

    `grad_recurrent` (parents, 4 width) and `grad_cell_above` (parents * width) are overwritten,
    `grad_table` (tokens, 4 width) is added to.
    """
    width = grad_recurrent.shape[1] // 4
    last = -1
    for i in range(len(parent)):
        above, row = parent[i], token[i]
        start = i * width
        new = above != last
        last = above
        for gate in range(4):
            source = planes[gate, start : start + width]
            total = grad_table[row, gate * width : (gate + 1) * width]
            target = grad_recurrent[above, gate * width : (gate + 1) * width]
            if new:
                for j in range(width):
                    total[j] += source[j]
                    target[j] = source[j]
            else:
                for j in range(width):
                    total[j] += source[j]
                    target[j] += source[j]
        source = grad_before[start : start + width]
        target = grad_cell_above[above * width : (above + 1) * width]
        if new:
            for j in range(width):
                target[j] = source[j]
        else:
            for j in range(width):
                target[j] += source[j]


@exact
def normalise(factors: Array, norms: Array) -> None:
    """Divide each row of `factors` (nodes, alphabet) by its Euclidean norm, which goes to `norms`."""
    for i in range(len(factors)):
        total = f32(0.0)
        for t in range(factors.shape[1]):
            total += factors[i, t] * factors[i, t]
        norm = np.sqrt(total)
        norms[i] = norm
        for t in range(factors.shape[1]):
            factors[i, t] /= norm


@exact
def descend(factors: Array, parent: Array, token: Array, product_above: Array, product: Array) -> None:
    """Product of the factors along the path: a node's is its parent's times its own."""
    for i in range(len(parent)):
        product[i] = product_above[parent[i]] * factors[parent[i], token[i]]


@exact
def ascend(
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


@exact
def factor_backward(factors: Array, norms: Array, slope: Array, grad: Array) -> None:
    """Turn gradients by normalised factors into gradients by the heads' outputs, in place.

    `slope` is the logistic function of those outputs, the derivative of softplus.
    """
    for i in range(len(factors)):
        along = f32(0.0)
        for t in range(factors.shape[1]):
            along += grad[i, t] * factors[i, t]
        for t in range(factors.shape[1]):
            grad[i, t] = (grad[i, t] - factors[i, t] * along) / norms[i] * slope[i, t]
