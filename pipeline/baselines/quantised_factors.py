"""Factors as whole multiples of a step, entropy-coded: T-SVD and CP with as few bits an entry as they need."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals, as_stored, stored_type
from pipeline.baselines.coding import mixed
from pipeline.baselines.kruskal import Kruskal, evaluate, largest_rank
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

AUTOMATIC_BITS = 5.0
STEPS = 9  # of the bisection of the bits
CLOSE = 0.96  # a code of this share of its limit is large enough
SLOTS = (12, 22)  # least and most bits of the table of contexts
LEVELS = 8  # kinds of numbers that the coder tells apart
NEAR = 63  # beyond which contexts do not tell numbers apart


class QuantisedFactors(Kruskal):
    """Mixed into a method of factors: rounds them after the fit, and solves for the terms' weights anew.

    An error in entry i of a_r(d) adds its square times the squared norms of the term's other factors. All such errors
    weigh alike when the step of a_r(d) is Delta over the product of those norms, so that one number, Delta, decides:
    terms too small for it fall away. Steps go into the weights, factors are whole numbers, and these
    are coded term by term: each by what the terms before have in its row, by the entry above, and by its term
    (:meth:`pipeline.baselines.coding.mixed.Model.numbers`).

    Parameters
    ----------
    bits
        Of the largest entry of all, with its sign; smaller ones take fewer. None and no size: 5.
    max_bytes
        Bytes of code and weights at most, which then decide the bits; its artifact's header not counted.
    max_seconds
        After so many no further number of bits is tried; None: as many as are wanted. It makes results depend on the
        machine.
    """

    most_terms: ClassVar[int] = 16  # of a search: those that are too small for the step fall away

    bits: float | None = setting(None, at_least=2, at_most=16)
    max_bytes: float | None = setting(None, at_least=1)
    max_seconds: float | None = setting(None, above=0, is_setting=False)

    code_: bytes

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The size itself, and more terms than it will hold."""
        rank = min(cls.most_terms, largest_rank(X.shape, X.nnz))
        return {"rank": rank, "max_bytes": size} if size >= 1 else None

    def _fit(self, X: SparseTensor) -> None:
        if self.bits is not None and self.max_bytes is not None:
            raise InputError(f"{self.name}: bits and max_bytes are given; give one of them")
        self._rounded = False
        super()._fit(X)  # type: ignore[safe-super]
        self._rounded = True
        shares = self._shares()
        if self.max_bytes is None:
            self._take(X, shares, AUTOMATIC_BITS if self.bits is None else self.bits)
        else:
            self._meet(X, shares, self.max_bytes)
        self._record(self._squared_error(X), rank=self.rank_, code_bytes=len(self.code_))
        if not all(np.array_equal(one, other) for one, other in zip(self._decoded(), self.factors_, strict=True)):
            raise RuntimeError(f"{self.name}: the code does not give back the factors")

    def _decoded(self) -> list[Reals]:
        """What the code says."""
        return [factor.astype(np.float64) for factor in decode(self.code_, self.inner_shape_, self.rank_)]

    def _record(self, error: float, **more: float) -> None:
        """Nothing before the factors are rounded: those errors are of a model that is not kept."""
        if self._rounded:
            super()._record(error, **more)

    def _in_time(self) -> bool:
        """Whether another step may be tried; without one that meets the size, the coarsest is taken."""
        return self.max_seconds is None or self._fitted_for() < self.max_seconds

    def _shares(self) -> list[Reals]:
        """Factors in units of the whole tensor's error: each entry times the norms of its term's other factors."""
        norms = [np.linalg.norm(factor, axis=0) for factor in self.factors_]
        each = np.abs(self.weights_) * np.prod(norms, axis=0)
        return [
            factor * (each / np.where(norm > 0, norm, 1.0)) for factor, norm in zip(self.factors_, norms, strict=True)
        ]

    def _meet(self, X: SparseTensor, shares: list[Reals], limit: float) -> None:
        """The finest step whose code is within the limit, by bisection; the coarsest where none is."""
        low, high, best = 2.0, 16.0, 2.0
        bits = AUTOMATIC_BITS
        for _ in range(STEPS):
            if not self._in_time():
                break
            size = self._take(X, shares, bits)
            if size <= limit:
                low = best = bits
                if size >= CLOSE * limit:
                    return
            else:
                high = bits
            bits = (low + high) / 2
        self._take(X, shares, best)

    def _take(self, X: SparseTensor, shares: list[Reals], bits: float) -> int:
        """Round to steps, drop empty terms, solve for the weights, and code; returns the bytes of code and weights."""
        largest = max(float(np.max(np.abs(share))) for share in shares)
        step = largest / (2 ** (bits - 1) - 1) if largest > 0 else 1.0
        whole = [np.rint(share / step) for share in shares]
        there = np.all([np.any(factor != 0, axis=0) for factor in whole], axis=0)
        there[0] |= not there.any()
        self.factors_ = [np.ascontiguousarray(factor[:, there]) for factor in whole]
        self.rank_ = int(np.count_nonzero(there))
        self.weights_ = as_stored(self._weighed(X, self.factors_)[0])
        self.code_ = encode([factor.astype(np.int64) for factor in self.factors_])
        return self._size()["bytes"]

    @staticmethod
    def _weighed(X: SparseTensor, factors: list[Reals]) -> tuple[Reals, float]:
        """Weights of the least squared error, and that error less the tensor's squared norm."""
        gram: Any = np.prod([factor.T @ factor for factor in factors], axis=0)
        terms = [[factor[:, term : term + 1] for factor in factors] for term in range(factors[0].shape[1])]
        inner = np.array([X.values @ evaluate(X.coords, np.ones(1), term) for term in terms])
        weights = np.linalg.pinv(gram, rcond=1e-12, hermitian=True) @ inner
        return weights, float(weights @ gram @ weights - 2 * weights @ inner)

    def parameter_count(self) -> int:
        """Entries that are not zero, and the weights."""
        return self.rank_ + sum(int(np.count_nonzero(factor)) for factor in self.factors_)

    def _size(self) -> dict[str, int]:
        """The code and a 4-byte weight a term; there are no orders to store."""
        size = len(self.code_) + 4 * self.rank_
        return {"bytes": size, "bytes_equal": size, "bytes_with_order": size}

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        return {"weights": 4, "code": 4}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders: with or without, it answers in the tensor's own indices."""
        tensors = {"weights": stored_type(self.weights_), "code": np.frombuffer(self.code_, dtype=np.uint8)}
        return tensors, {"shape": list(self.inner_shape_), "rank": self.rank_}

    def _take_factors(self, contents: Contents) -> None:
        self.code_ = contents.code("code")
        self.factors_ = self._decoded()


def encode(factors: list[Integers]) -> bytes:
    """Code D arrays (N_d, R) of whole numbers."""
    entries = sum(factor.size for factor in factors)
    bits = int(np.clip((16 * entries).bit_length(), *SLOTS))
    model = mixed.Model(bits, None, 1024 + 12 * entries)
    for mode, factor in enumerate(factors):
        for term in range(factor.shape[1]):
            model.numbers(mode % LEVELS, _contexts(factor[:, :term]), _unsigned(factor[:, term]))
    code = model.finished()
    if code is None:
        raise InputError(f"{entries:,} entries do not fit 12 bytes each; take fewer bits")
    return bytes([bits]) + code


def decode(code: bytes, shape: tuple[int, ...], rank: int) -> list[Integers]:
    """Undo :func:`encode`.

    Raises
    ------
    InputError
        The code is damaged.
    """
    if not code or not SLOTS[0] <= code[0] <= SLOTS[1]:
        raise InputError(f"a damaged code of {len(code)} bytes (no such table); fetch or make it again")
    model = mixed.Model(code[0], code[1:])
    factors = [np.zeros((size, rank), dtype=np.int64) for size in shape]
    for mode, factor in enumerate(factors):
        for term in range(rank):
            numbers = np.zeros(len(factor), dtype=np.int64)
            model.numbers(mode % LEVELS, _contexts(factor[:, :term]), numbers)
            factor[:, term] = np.where(numbers % 2 == 1, (numbers + 1) // 2, -(numbers // 2))
    return factors


def _unsigned(entries: Integers) -> Integers:
    """0, 1, -1, 2, -2 .. as 0, 1, 2, 3, 4 .."""
    return np.where(entries > 0, 2 * entries - 1, -2 * entries)


def _contexts(before: Integers) -> Integers:
    """What a term's entries are predicted from: the terms before in the same row, beside the term itself."""
    rows, term = before.shape
    sizes = np.minimum(np.abs(before), NEAR)
    last = sizes[:, -1] if term else np.zeros(rows, dtype=np.int64)
    largest = sizes.max(axis=1) if term else last
    nonzero = np.minimum(np.count_nonzero(sizes, axis=1), NEAR)
    same = np.full(rows, term)
    return np.stack((same, same * 64 + last, same * 64 + largest, largest * 64 + nonzero, same * 64 + nonzero), axis=1)
