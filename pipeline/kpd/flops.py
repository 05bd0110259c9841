"""Floating point operations of dense and KPD layers.

Propositions 2 and 3 of Zhu, Zuo and Khalili, "An Efficient Training Algorithm for Models with Block-wise
Sparsity" (appendix A), for a mean squared loss, no bias and N samples. An addition or a multiplication
counts one, and a product of p x q by q x s counts p s (2 q - 1).
"""

from __future__ import annotations


def dense_one_layer(N: int, m: int, n: int) -> dict[str, int]:
    """Proposition 2, full matrix: one layer n -> m and its squared loss.

    Parameters
    ----------
    N
        Samples.
    m, n
        Outputs and inputs of the layer: W is m x n.

    Returns
    -------
    dict
        ``forward``: the product and the loss (3 N m - 1). ``backward``: the gradient of the loss by the
        output (N m) and by W; that of the input is not needed in a first layer.

    Examples
    --------
    >>> dense_one_layer(1, 2, 3)
    {'forward': 15, 'backward': 8}
    """
    return {
        "forward": N * m * (2 * n - 1) + _loss(N, m),
        "backward": N * m + m * n * (2 * N - 1),
    }


def kpd_one_layer(N: int, m1: int, n1: int, m2: int, n2: int, r: int) -> dict[str, int]:
    """Proposition 2, W = sum_i (S * A_i) kron B_i: one layer n1 n2 -> m1 m2 and its squared loss.

    Parameters
    ----------
    N
        Samples.
    m1, n1
        Rows and columns of S and of every A_i: the grid of blocks.
    m2, n2
        Rows and columns of every B_i: the shape of one block.
    r
        Number of terms i = 1..r.

    Returns
    -------
    dict
        ``forward``: for each term B_i X, S * A_i and their product, the r - 1 sums of outputs, the loss.
        ``backward``: the gradients by the output, every S * A_i, S (r products, r - 1 sums), every A_i,
        every B_i X and every B_i.

    Notes
    -----
    The text gives reshape(B_i reshape(X)) the shape m2 x N m1 where m2 x N n1 is meant; the counts are right.

    Examples
    --------
    >>> kpd_one_layer(1, 2, 2, 1, 1, 1)  # blocks of one cell: W itself, made as S * A times the number B
    {'forward': 17, 'backward': 23}
    """
    m = m1 * m2
    return {
        "forward": _kpd_product(N, m1, n1, m2, n2, r) + _loss(N, m),
        "backward": N * m + _kpd_gradients(N, m1, n1, m2, n2, r),
    }


def dense_two_layer(N: int, m1: int, m2: int, m3: int) -> dict[str, int]:
    """Proposition 3, full matrices: m1 -> m2, an activation (one operation a value), m2 -> m3, squared loss.

    Parameters
    ----------
    N
        Samples.
    m1, m2, m3
        Widths of the input, of the hidden layer and of the output (in the paper m with [1], [2], [3]).

    Returns
    -------
    dict
        ``forward`` = 2 N m1 m2 + 2 N m2 m3 + 2 N m3 - 1 and
        ``backward`` = 2 N m1 m2 + 4 N m2 m3 + N m3 - m1 m2 - m2 m3, as simplified in the text.

    Examples
    --------
    >>> dense_two_layer(1, 1, 1, 1)
    {'forward': 5, 'backward': 5}
    """
    forward = N * m2 * (2 * m1 - 1) + N * m2 + N * m3 * (2 * m2 - 1) + _loss(N, m3)
    backward = N * m3 + m2 * m3 * (2 * N - 1) + N * m2 * (2 * m3 - 1) + N * m2 + m1 * m2 * (2 * N - 1)
    return {"forward": forward, "backward": backward}


def kpd_two_layer(N: int, m1: tuple[int, int, int], m2: tuple[int, int, int], r: tuple[int, int]) -> dict[str, int]:
    """Proposition 3, both matrices as sums of Kronecker products; activation and loss as in the dense case.

    Parameters
    ----------
    N
        Samples.
    m1, m2
        Width l = 1, 2, 3 (input, hidden, output) is ``m1[l-1] * m2[l-1]``. The first layer has S and A_i of
        m1[1] x m1[0] and B_i of m2[1] x m2[0]; the second m1[2] x m1[1] and m2[2] x m2[1].
    r
        Terms of the first and of the second layer.

    Returns
    -------
    dict
        ``forward`` and ``backward``. Beside both layers' products and gradients as in :func:`kpd_one_layer`
        the forward holds N activations a hidden unit, and the backward the gradient of the second layer's
        input, r[1] N m1[1] m2[1] (2 m2[2] - 1) + (r[1] - 1) N m, and of the activation.

    Notes
    -----
    The text counts the gradient of the second layer's S as "r m1 m1 + r - 1" beside its equation (47), where
    the r - 1 sums are of m1 x m1 matrices: (r - 1) m1 m1, as it writes for the first layer and in
    Proposition 2. That is what is counted here.

    Examples
    --------
    >>> kpd_two_layer(1, (1, 1, 1), (1, 1, 1), (1, 1))
    {'forward': 9, 'backward': 13}
    """
    hidden, out = m1[1] * m2[1], m1[2] * m2[2]
    first = (N, m1[1], m1[0], m2[1], m2[0], r[0])
    second = (N, m1[2], m1[1], m2[2], m2[1], r[1])
    input_gradient = r[1] * N * m1[1] * m2[1] * (2 * m2[2] - 1) + (r[1] - 1) * N * hidden
    return {
        "forward": _kpd_product(*first) + N * hidden + _kpd_product(*second) + _loss(N, out),
        "backward": N * out + _kpd_gradients(*second) + input_gradient + N * hidden + _kpd_gradients(*first),
    }


def _loss(N: int, m: int) -> int:
    """Squared norm of output minus label: N m differences, N m squares, N m - 1 sums."""
    return 3 * N * m - 1


def _kpd_product(N: int, m1: int, n1: int, m2: int, n2: int, r: int) -> int:
    """Operations from a KPD layer's input to its output."""
    per_term = N * n1 * m2 * (2 * n2 - 1) + m1 * n1 + N * m1 * m2 * (2 * n1 - 1)
    return r * per_term + (r - 1) * N * m1 * m2


def _kpd_gradients(N: int, m1: int, n1: int, m2: int, n2: int, r: int) -> int:
    """Operations from the gradient of a KPD layer's output to those of S, A and B."""
    scaled = r * m1 * n1 * (2 * N * m2 - 1)  # S * A_i
    selector = r * m1 * n1 + (r - 1) * m1 * n1  # S
    coefficients = r * m1 * n1  # A_i
    inner = r * N * m2 * n1 * (2 * m1 - 1)  # B_i X
    blocks = r * m2 * n2 * (2 * N * n1 - 1)  # B_i
    return scaled + selector + coefficients + inner + blocks
