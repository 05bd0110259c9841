"""ELiCiT: every index has a few quantised features, a cell is a multilinear function of those of its indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import BATCH, Integers, Reals, as_stored, stored_type
from pipeline.baselines.cp import CP
from pipeline.baselines.mode_views import ModeView
from pipeline.baselines.quantised_factors import QuantisedFactors, decode, encode
from pipeline.baselines.t_svd import decompose
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

PRICE = 0.16  # of a bit, in squared steps; ln(2) / 6 = 0.12 would be right for fine steps
COEFFICIENT_BITS = 32
RIDGE = 1e-10  # of normalised Gram matrices
DRAWN_OUT = 8  # an eighth of the coefficients goes at a time, at most
ACTIVITIES = 4  # 0, 1, 2, more: other features of an index that are not zero, by which a feature's price is told
LARGEST_ORDER = 8  # 2^D coefficients a feature


class ELiCiT(QuantisedFactors, CP):
    """X ~ sum_j sum_S c_Sj prod_{d in S} f_d(i_d, j): R whole-numbered features an index, multilinear in each of them.

    After Ko, Kwon, Jung and Shin (ICDM 2024), from what is said of it, not from its code: features of few bits in place
    of orders of the indices, and 2^D reference values for each of the R features, between which a cell is interpolated.
    Here features are whole numbers around 0, and coefficients c of sets S of modes stand for the reference values;
    these are the same functions. CP, T-SVD and co-clusterings into 2 x 2 blocks are special cases.

    Published is training over all cells. Here nothing is dense: inner products of the terms are products over modes of
    Gram matrices, so that the error, the coefficients (one linear system) and the features of a mode (coordinate
    descent with an R x R matrix that all its indices share) follow from the non-zeros alone. A feature's value, and
    a coefficient, stays only where it lowers the squared error by more than price x bits. ``bytes`` counts the
    entropy-coded features, 4 bytes for each coefficient that is left and one bit for each that may be.

    Parameters
    ----------
    rank
        R, the features at most. None: as of CP.
    bits
        Of the widest feature, whose step decides the price. None and no size: 5.
    max_bytes
        Bytes of code and coefficients at most, which then decide the bits; its artifact's header not counted.
    max_seconds
        After so many no further number of bits is tried; None: as many as are wanted. Results depend on the machine.
    max_sweeps
        Over the modes at most, of the CP that tensors start from and then for each step tried.
    tolerance
        Stop when a sweep lowers error + price x bits by less than this share of the squared norm.
    seed
        Of the first factors of tensors; matrices start from singular vectors.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0, 0], [0, 1, 0], [2, 0, 0]], [1.0, 2.0, 3.0], (3, 2, 2))
    >>> model = ELiCiT(rank=2, bits=8).fit(X)
    >>> model.size()["bytes"] < 80 and model.error(X)["error"] < X.norm2
    True
    """

    name = "elicit"
    largest_order = LARGEST_ORDER
    most_terms = 32

    max_sweeps: int = setting(8, at_least=1)
    tolerance: float = setting(1.0e-3, at_least=0, at_most=1)

    weights_: Reals  # (2^D, R): coefficients of sets of modes, the first mode the highest bit of a set's number

    def _fit(self, X: SparseTensor) -> None:
        self._views = [ModeView(X, mode) for mode in range(X.order)]
        super()._fit(X)
        del self._views

    def _solve(self, X: SparseTensor, factors: list[Reals]) -> None:
        """First factors, whose rounded entries are the first features."""
        if X.order > 2:
            super()._solve(X, factors)
        else:
            left, sigma, right = decompose(X, factors[0].shape[1])
            self._store(sigma, [left, right])

    def _take(self, X: SparseTensor, shares: list[Reals], bits: float) -> int:
        """Round to steps, then alternate features and coefficients at the step's price; returns the bytes."""
        shares = [share - np.median(share, axis=0) for share in shares]  # the same functions, with more zeros
        steps = 2 ** (bits - 1) - 1
        step = max(float(np.max(np.abs(share))) for share in shares) / steps or 1.0
        most = float(np.ceil(steps))
        price = PRICE * step**2
        factors = [np.rint(share / step) for share in shares]
        weights = _solved(factors, 0, self._products(factors, 0), 0.0)[0]
        worth = math.inf
        told = np.zeros(X.order)
        for _ in range(self.max_sweeps):
            for mode in range(X.order):
                products = self._products(factors, mode)
                told[mode] = _settle(factors, weights, mode, products, price, most)
                weights, gain = _solved(factors, mode, products, price)
            before, worth = worth, price * float(told.sum()) - gain
            if before - worth < self.tolerance * X.norm2 or not self._in_time():
                break
        there = np.any(weights != 0, axis=0)
        there[0] |= not there.any()
        self.factors_ = [np.ascontiguousarray(factor[:, there]) for factor in factors]
        self.weights_, self.rank_ = as_stored(weights[:, there]), int(np.count_nonzero(there))
        self.code_ = encode([factor.astype(np.int64) for factor in self.factors_])
        return self._size()["bytes"]

    def _products(self, factors: list[Reals], mode: int) -> Reals:
        """(N_mode, sets of other modes, R): sums over an index's non-zeros, times the features of the set's modes."""
        order, rank = len(factors), factors[0].shape[1]
        others = [other for other in range(order) if other != mode]
        expanded = list(factors)
        for place, other in enumerate(others):
            within = np.arange(2 ** (order - 1)) >> (order - 2 - place) & 1
            columns = np.where(within[:, None] == 1, factors[other][:, None, :], 1.0)
            expanded[other] = columns.reshape(len(columns), -1)[:, rank - 1 :]  # the empty set has one column, of ones
        sums = self._views[mode].mttkrp(expanded)
        return np.concatenate((np.repeat(sums[:, :1], rank - 1, axis=1), sums), axis=1).reshape(len(sums), -1, rank)

    def _predict(self, index: Integers) -> Reals:
        return evaluate(index, self.weights_, self.factors_)

    def _squared_error(self, X: SparseTensor) -> float:
        inner = float(X.values @ self._predict(X.coords))
        weights = self.weights_.ravel()
        gram = grams(self.factors_).reshape(len(weights), -1)
        return clipped_error(X.norm2 - 2 * inner + float(weights @ gram @ weights), X.norm2)

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Features and their products for all sets of the other modes, Gram matrices, beside what CP takes."""
        needed, remedy = super()._working_bytes(shape, nnz)
        rank = self.rank if isinstance(self.rank, int) else 1
        columns = rank * 2.0 ** (len(shape) - 1)
        return needed + 8 * (3 * columns * max(shape) + columns * sum(shape) + 16 * columns**2), remedy

    def parameter_count(self) -> int:
        """Features and coefficients that are not zero."""
        return sum(int(np.count_nonzero(part)) for part in (self.weights_, *self.factors_))

    def _size(self) -> dict[str, int]:
        """The code, 4 bytes a coefficient that is left and a bit for each that may be; there are no orders to store."""
        size = len(self.code_) + 4 * int(np.count_nonzero(self.weights_)) + (self.weights_.size + 7) // 8
        return {"bytes": size, "bytes_equal": size, "bytes_with_order": size}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders: with or without, it answers in the tensor's own indices."""
        left = np.packbits(self.weights_.ravel() != 0)
        code = np.concatenate((left, np.frombuffer(self.code_, dtype=np.uint8)))
        tensors = {"weights": stored_type(self.weights_[self.weights_ != 0]), "code": code}
        return tensors, {"shape": list(self.inner_shape_), "rank": self.rank_}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls(rank=contents.whole("rank", 1))
        model.shape_, model.rank_ = contents.shape(), contents.whole("rank", 1)
        if len(model.shape_) > LARGEST_ORDER:
            raise InputError(f"shape {model.shape_}: elicit has up to {LARGEST_ORDER} modes")
        most = model.rank_ << len(model.shape_)
        contents.permitted(8 * (most + model.rank_ * sum(model.shape_)), "its features")
        code = contents.code("code")
        ahead = (most + 7) // 8
        left = np.unpackbits(np.frombuffer(code[:ahead], dtype=np.uint8), count=most).astype(bool)
        if len(code) < ahead:
            raise InputError(f"a damaged code of {len(code)} bytes; fetch or make it again")
        model.weights_ = np.zeros(most)
        model.weights_[left] = contents.reals("weights", (int(np.count_nonzero(left)),))
        model.weights_ = model.weights_.reshape(-1, model.rank_)
        model.code_ = code[ahead:]
        model.factors_ = [factor.astype(np.float64) for factor in decode(model.code_, model.shape_, model.rank_)]
        return model


def evaluate(coords: Integers, weights: Reals, factors: list[Reals]) -> Reals:
    """Values of sum_j sum_S w_Sj prod_{d in S} f_d(i_d, j) at (n, D) `coords`: (n,)."""
    values = np.empty(len(coords))
    batch = max(1, BATCH // len(weights))
    for start in range(0, len(coords), batch):
        part = coords[start : start + batch]
        left = weights[None]
        for mode, factor in enumerate(factors):  # a mode at a time, the highest bit of the sets that are left
            half = left.shape[1] // 2
            left = left[:, :half] + factor[part[:, mode]][:, None, :] * left[:, half:]
        values[start : start + batch] = left[:, 0].sum(axis=1)
    return values


def grams(factors: Sequence[Reals]) -> Reals:
    """Inner products of all terms over all cells, (sets, R, sets, R): products over modes, for sets of these modes."""
    rank = factors[0].shape[1] if factors else 1
    total = np.ones((1, rank, 1, rank))
    for factor in factors:
        with_ones = np.stack((np.ones_like(factor), factor), axis=1).reshape(len(factor), -1)
        gram = (with_ones.T @ with_ones).reshape(1, 2, rank, 1, 2, rank)
        sets = 2 * len(total)
        total = (total[:, None, :, :, None, :] * gram).reshape(sets, rank, sets, rank)
    return total


def _faces(weights: Reals, order: int, mode: int) -> tuple[Reals, Reals]:
    """Coefficients of the sets without and with a mode, each (sets of the other modes, R)."""
    split = weights.reshape(2**mode, 2, 2 ** (order - 1 - mode), -1)
    return split[:, 0].reshape(-1, weights.shape[1]), split[:, 1].reshape(-1, weights.shape[1])


def _solved(factors: list[Reals], mode: int, products: Reals, price: float) -> tuple[Reals, float]:
    """Coefficients of the least error, those that are not worth their bits left out one after the other.

    Returns them and by how much the squared error is below the squared norm, less price x their bits.
    """
    order, rank = len(factors), factors[0].shape[1]
    gram = grams(factors).reshape(2**order * rank, -1)
    faces = np.stack((products.sum(axis=0), np.einsum("isj,ij->sj", products, factors[mode])))
    inner = faces.reshape(2, 2**mode, -1, rank).swapaxes(0, 1).reshape(-1)
    scale = np.sqrt(np.diag(gram))
    active = scale > 0
    active[1:rank] = False  # the empty set is one constant, whatever the feature
    weights = np.zeros(len(inner))
    while True:
        places = np.flatnonzero(active)
        normal = gram[np.ix_(places, places)] / np.outer(scale[places], scale[places])
        inverse = np.linalg.inv(normal + RIDGE * np.eye(len(places)))
        found = inverse @ (inner[places] / scale[places])
        losses = found**2 / np.diag(inverse)  # of each, were it alone to go
        poor = np.argsort(losses)[: max(1, len(places) // DRAWN_OUT)]
        poor = poor[losses[poor] < price * COEFFICIENT_BITS]
        if len(poor) == 0 or len(poor) == len(places):
            break
        active[places[poor]] = False
    weights[places] = found / scale[places]
    explained = float(2 * weights @ inner - weights @ gram @ weights)
    return weights.reshape(-1, rank), explained - price * COEFFICIENT_BITS * len(places)


def _settle(factors: list[Reals], weights: Reals, mode: int, products: Reals, price: float, most: float) -> float:
    """Give a mode's features, one after the other, the whole numbers of least error + price x bits; returns the bits.

    Bits follow from how often a number occurs in its feature among indices with as many other features.
    """
    without, within = _faces(weights, len(factors), mode)
    gram = grams([factor for other, factor in enumerate(factors) if other != mode])
    curvature = np.einsum("sj,sjtk,tk->jk", within, gram, within)
    target = np.einsum("isj,sj->ij", products, within) - np.einsum("sj,sjtk,tk->j", within, gram, without)
    features = factors[mode] = factors[mode].copy()
    slopes = target - features @ curvature
    total = 0.0
    busy = np.count_nonzero(features, axis=1)
    width = int(2 * most + 1)
    for feature in range(features.shape[1]):
        old = features[:, feature].copy()
        others = busy - (old != 0)
        if curvature[feature, feature] <= 0:
            new = np.zeros_like(old)
        else:
            activity = np.minimum(others, ACTIVITIES - 1)
            bits = _bits(activity, (old + most).astype(np.int64), width)
            best = old + slopes[:, feature] / curvature[feature, feature]
            near = np.clip(np.rint(best), -most, most)
            choices = np.stack((near, near - np.sign(near), np.zeros_like(near)))
            costs = curvature[feature, feature] * (choices - best) ** 2
            told = bits[activity, (choices + most).astype(np.int64)]
            chosen = np.argmin(costs + price * told, axis=0)
            rows = np.arange(len(near))
            new = choices[chosen, rows]
            total += float(told[chosen, rows].sum())
        moved = np.flatnonzero(new != old)
        slopes[moved] -= (new - old)[moved, None] * curvature[feature]
        features[:, feature], busy = new, others + (new != 0)
    return total


def _bits(activity: Integers, numbers: Integers, width: int) -> Reals:
    """(ACTIVITIES, width): bits of each number among indices of each activity."""
    times = np.bincount(activity * width + numbers, minlength=ACTIVITIES * width).reshape(ACTIVITIES, width) + 0.05
    bits: Reals = np.log2(times.sum(axis=1, keepdims=True) / times)
    return bits
