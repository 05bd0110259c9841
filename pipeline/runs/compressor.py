"""The one shape of every method that compresses a sparse tensor: fit, predict, error, size, save."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path
from pipeline.core.settings import Configured
from pipeline.errors import InputError
from pipeline.runs.about import About
from pipeline.runs.contents import MODES, Contents
from pipeline.runs.frame import Frame
from pipeline.runs.memory import check_memory
from pipeline.runs.times import Times
from pipeline.sparse import SparseTensor

log = logging.getLogger(__name__)

SCAN_CELLS = 1 << 16  # a slice of so few cells is looked at whole
SMALLEST_SQUARE = 1e-290  # sums of squares below lose digits to underflow
ARRAY_HEADER = 48  # bytes at least, beside its name, that an array takes in an artifact's header


_warm: set[tuple[type[Compressor], int]] = set()  # methods, with orders, that are compiled in this process


def _handful(order: int) -> SparseTensor:
    """Five cells of a tensor of 4 indices a mode."""
    coords = np.tile(np.arange(4)[:, None], order)
    other = (np.arange(order) % 2)[None] if order > 1 else np.array([[1]])
    return SparseTensor(np.concatenate((coords, other)), [1.0, 2.0, 3.0, 4.0, 2.0], (4,) * order)


def cells_within(ranges: Sequence[range]) -> npt.NDArray[np.int64]:
    """Indices (n, D) of all cells of a block, the last mode fastest."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)


class NotFittedError(InputError, AttributeError):
    """A model was asked before it was fitted."""


class Compressor(Configured, ABC):
    """Base of NeuKron and of every baseline.

    A subclass sets `name` (its key in ``METHODS``, in paths and in artifacts) and, if another seed
    gives another result, `stochastic`. Its arguments are declared by :func:`~pipeline.core.settings.setting`.

    What a user calls is here; a subclass gives ``_predict``, ``_error``, ``_size``, ``_contents`` and
    ``_from_contents``, which know the method's own tensor only: that of :meth:`_taken`, of shape `inner_shape_`.

    Attributes after ``fit``
    ------------------------
    shape_
        Sizes of the fitted tensor's modes.
    history_
        One dict a sweep or epoch: ``epoch``, ``error``, ``seconds`` and what the method adds.
    about_
        Facts about the tensor and its origin that travel with the artifact.
    times_
        Where the fit's time went.
    own_indices_
        Whether it answers in the fitted tensor's own indices: not if it comes from an artifact without orders.
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool] = False
    matrices_only: ClassVar[bool] = False
    least_order: ClassVar[int] = 1
    largest_order: ClassVar[int] = MODES
    answers_negative: ClassVar[bool] = True  # whether its values may be below 0
    takes_any_values: ClassVar[bool] = False  # it computes no sums of squares
    scales_itself: ClassVar[bool] = False  # it works with values of size one whatever they are
    fits_to_meet_a_size: ClassVar[int] = 2  # of a search; more where the file's size depends on the data

    shape_: tuple[int, ...]
    history_: list[dict[str, Any]]
    times_: Times
    own_indices_: bool = True
    listener: Callable[[str], None] | None = None  # told what to know about a fit; the log is where there is none
    _frame: Frame | None = None
    _about: About | None = None

    def __getattr__(self, attribute: str) -> Any:
        """Say what to do where an attribute is missing that ``fit`` sets."""
        if attribute.endswith("_") and not attribute.startswith("_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(X) first, or pipeline.load(path)")
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{attribute}'")

    @abstractmethod
    def fit(self, X: SparseTensor) -> Self:
        """Fit to a sparse tensor and return self."""

    def warm_up(self, order: int) -> None:
        """Import and compile all that a fit to a tensor of `order` modes calls, before a clock starts.

        By a fit to a handful of cells, once a process for each method and order; nothing of it is kept.
        """
        if (type(self), order) in _warm:
            return
        _warm.add((type(self), order))  # first, since that fit comes here as well
        with contextlib.suppress(InputError):  # so few cells are too few for it
            trial = self._trial()
            trial.listener = lambda _: None
            trial.fit(_handful(order))

    def _trial(self) -> Compressor:
        """What :meth:`warm_up` fits."""
        return type(self)()

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """Settings with which a file takes about `size` bytes at 4 bytes a real, for searches and grids.

        Parameters
        ----------
        orders
            Whether the orders are stored.

        Returns
        -------
        Settings by name, empty where none decides the size; None where not even the least model fits.
        """
        return {}

    @classmethod
    def settings_for_error(cls, X: SparseTensor, error: float, orders: bool) -> dict[str, Any] | None:
        """Settings of the smallest file whose relative error is at most `error`, where they are known without a search.

        None where only fits of several sizes tell.
        """
        return None

    def _taken(self, X: Any) -> SparseTensor:
        """What there is to fit, after checks that all methods share; sets `shape_`, `frame_` and `about_`.

        Raises
        ------
        InputError
            No tensor, one of an order that the method does not know, or values whose squares leave the range
            of floating point.
        """
        X = SparseTensor.of(X)
        self.check_order(X)
        if not self.takes_any_values and not SMALLEST_SQUARE < X.norm2 < math.inf:
            raise InputError(
                f"values of size up to {float(np.max(np.abs(X.values))):.3g}: their squares sum to {X.norm2:g}, "
                "beyond what 64-bit reals hold exactly enough; multiply them by a number that avoids that"
            )
        self._frame = Frame(X.shape)
        if type(self).predict is Compressor.predict:  # a class with answers of its own knows no frame
            self._frame = Frame.of(X, values=not (self.takes_any_values or self.scales_itself))
        self.shape_ = X.shape
        self.own_indices_ = True
        self._about = About.of(X)
        self._check_memory(self.inner_shape_, X.nnz)
        if not self.answers_negative and (below := negative_share(X)):
            self._tell(
                f"{below:.1%} of the squared norm is in negative values, which {self.name} cannot answer: at best this "
                "share stays as error; take t-svd, cp, tucker, truncation or lossless"
            )
        inner, _ = self.frame_.inner(X)
        assert inner is not None  # noqa: S101 - its indices are those of X
        return inner

    @property
    def frame_(self) -> Frame:
        """From the method's own tensor to the user's; a plain one unless ``fit`` or an artifact set another."""
        if self._frame is None:
            self._frame = Frame(self.shape_)
        return self._frame

    @property
    def about_(self) -> About:
        """Facts about the fitted tensor; none where the model was made by hand."""
        if self._about is None:
            self._about = About()
        return self._about

    def _tell(self, message: str) -> None:
        (self.listener or log.warning)(message)

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """About the memory that a fit takes beside the tensor, and what would lower it."""
        return 0.0, "choose another method"

    def _check_memory(self, shape: tuple[int, ...], nnz: int) -> None:
        needed, remedy = self._working_bytes(shape, nnz)
        check_memory(f"{self.name} on a tensor of shape {shape}", needed, remedy)

    @property
    def inner_shape_(self) -> tuple[int, ...]:
        """Shape of the tensor that the method itself knows: without the indices that never occur, where many do not."""
        return self.frame_.inner_shape

    def predict(self, coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Approximate the cells at (n, D) integer `coords`; returns (n,) float64.

        A model from an artifact without orders takes them as positions in its own order.
        """
        values = self.frame_.answers(self._predict, self.check_coords(coords))
        if not np.isfinite(values).all():
            raise InputError(f"{self.name}: a value is not finite; the model is damaged, make it again")
        return values

    def _predict(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def held_cells(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
        """Every cell that is not zero, where the model holds cells one by one; None where it does not."""
        return None

    def largest(
        self, count: int, fixed: dict[int, int] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The cells of the largest size: those held, found best first, or all looked at where there are few.

        Parameters
        ----------
        count
            Number of cells wanted.
        fixed
            Mode -> index, for the largest cells of a row, a column or a slice.

        Returns
        -------
        (k, D) indices and (k,) values, largest first; k < `count` where there are fewer cells.

        Raises
        ------
        InputError
            A count below 1, an index outside the tensor, or too many cells for a method that can but look at each.
        """
        fixed = fixed or {}
        if count < 1:
            raise InputError(f"largest: count={count}: at least 1")
        for mode, index in fixed.items():
            if not 0 <= mode < len(self.shape_) or not 0 <= index < self.shape_[mode]:
                raise InputError(f"largest: mode {mode}, index {index}: outside a tensor of shape {self.shape_}")
        held = self.held_cells()
        if held is not None:
            wanted = (
                np.all([held[0][:, mode] == index for mode, index in fixed.items()], axis=0) if fixed else slice(None)
            )
            return largest_of(held[0][wanted], held[1][wanted], count)
        inside = self.frame_.inward(fixed)
        if inside is None:  # an index that never occurs: zeros only
            return np.zeros((0, len(self.shape_)), dtype=np.int64), np.zeros(0)
        coords, values = self._largest(count, inside)
        return self.frame_.outward(coords, values)

    def _largest(self, count: int, fixed: dict[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The same in the method's own tensor."""
        ranges = [range(fixed[mode], fixed[mode] + 1) if mode in fixed else range(size)
                  for mode, size in enumerate(self.inner_shape_)]  # fmt: skip
        cells = math.prod(map(len, ranges))
        if cells <= SCAN_CELLS:
            coords = cells_within(ranges)
            return largest_of(coords, self._predict(coords), count)
        return self._search_largest(count, fixed)

    def _search_largest(
        self, count: int, fixed: dict[int, int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Where there are too many cells to look at each."""
        raise InputError(
            f"largest: {self.name} can but look at each cell, and there are more than {SCAN_CELLS:,}; fix the index "
            "of more modes, or look at a block"
        )

    def error(self, X: Any) -> dict[str, Any]:
        """Squared Frobenius error against `X` over its real cells, under the key ``error``.

        Methods that pad add ``error_padded``, and ``error_interval`` where the error is sampled.
        """
        X = SparseTensor.of(X)
        self.check_shape(X)
        inner, left_out = self.frame_.inner(X)
        if inner is None:
            raise InputError(f"a tensor that has no index in common with the one that this {self.name} was fitted to")
        result = self._error(inner)
        if not self.frame_.plain:
            for key, value in result.items():
                parts = tuple(self.frame_.squares(one) + left_out for one in np.atleast_1d(value))
                result[key] = parts if isinstance(value, tuple) else parts[0]
        if (X.nnz, X.norm2) == (self.about_.nnz, self.about_.norm2):
            self.about_.error = result["error"]
        return result

    def _error(self, X: SparseTensor) -> dict[str, Any]:
        raise NotImplementedError

    def size(self) -> dict[str, int]:
        """Bytes: ``bytes`` (as published), ``bytes_equal`` (4 a real), ``bytes_with_order`` (equal, orders stored).

        The indices that occur are in each of them where the method was fitted to these alone.
        """
        more = self.frame_.bytes
        return {key: value + more for key, value in self._size().items()}

    def _size(self) -> dict[str, int]:
        raise NotImplementedError

    def least_file_bytes(self, X: SparseTensor, orders: bool = True) -> int:
        """No file of this method for a tensor is smaller, whatever its settings that trade size for error."""
        return self.file_overhead(X, orders) + sum(self._least_arrays(self._inner_shape(X), orders).values())

    def file_overhead(self, X: SparseTensor, orders: bool = True) -> int:
        """About what its file takes beside the arrays: their names, what is told about the tensor, the digest."""
        from pipeline.runs.artifact import artifact_bytes

        frame = Frame.of(X, values=False)
        bare = len(artifact_bytes(self.name, {}, {"about": About.of(X).stored()}))
        names = self._least_arrays(frame.inner_shape, orders)
        return bare + (frame.bytes if orders else 0) + sum(ARRAY_HEADER + len(name) for name in names)

    def _inner_shape(self, X: SparseTensor) -> tuple[int, ...]:
        return Frame.of(X, values=False).inner_shape

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """Arrays of the smallest artifact for a tensor of a shape, by name, and at least so many bytes of each."""
        return {}

    @abstractmethod
    def parameter_count(self) -> int:
        """Number of reals the fitted model holds (0 for a purely combinatorial code)."""

    def save(self, path: str | Path, orders: bool = True) -> None:
        """Write the artifact; with `orders` it answers in the tensor's own indices, with labels where it has them."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.artifact(orders))

    def artifact(self, orders: bool = True, labels: bool = True) -> bytes:
        """Content of the artifact, as :meth:`save` writes it; without `labels` for accountings.

        Without `orders` it is never longer than with them: where to leave them out saves nothing, they are there.
        """
        content = self._artifact(orders, labels)
        if orders or not self.own_indices_:
            return content
        return min(content, self._artifact(True, labels), key=len)

    def _artifact(self, orders: bool, labels: bool) -> bytes:
        from pipeline.runs.artifact import artifact_bytes

        tensors, content = self._contents(orders)
        content.setdefault("orders", True)
        frame_tensors, frame = self.frame_.stored(indices=content["orders"])
        about = self.about_.stored()
        if self.own_indices_ and not content["orders"]:
            about.pop("error", None)  # it was measured in the tensor's own indices
        if given := {name: value for name, value in self.given_settings().items() if name not in content}:
            about["set"] = given
        content |= frame | ({"about": about} if about else {})
        tensors |= frame_tensors
        if labels and content["orders"]:
            tensors |= self.about_.label_arrays()
        return artifact_bytes(self.name, tensors, content)

    def given_settings(self) -> dict[str, Any]:
        """Arguments that differ from their defaults and decide the result, as JSON has them."""
        found = {
            name: getattr(self, name)
            for name, parameter in inspect.signature(type(self)).parameters.items()
            if name not in ("device", "threads") and getattr(self, name, parameter.default) != parameter.default
        }
        given = {name: str(value) if value == math.inf else value for name, value in found.items()}
        return {name: value for name, value in given.items() if isinstance(value, str | int | float)}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and metadata of the artifact, ``orders: False`` among it where it answers in an order of its own."""
        raise NotImplementedError

    @classmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild a fitted model from an artifact's arrays and metadata, which are checked before they are used.

        Raises
        ------
        InputError
            Arrays or numbers that do not fit each other, are missing, out of range or not finite.
        """
        contents = Contents(tensors, metadata)
        model = cls._from_contents(contents)
        frame = Frame.restored(contents, model.shape_)
        model._frame, model.shape_ = frame, frame.shape
        model._about = About.restored(metadata.get("about", {}), tensors, len(frame.shape))
        model.history_ = []
        return model

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        """Rebuild the method's own part and set `shape_` to the shape of its tensor."""
        raise NotImplementedError

    @classmethod
    def takes_order(cls, order: int) -> bool:
        """Whether it can be fitted to a tensor of so many modes."""
        return order == 2 if cls.matrices_only else cls.least_order <= order <= cls.largest_order

    def check_order(self, X: SparseTensor) -> None:
        """Refuse a tensor of an order that the method does not know, or of more modes than an artifact holds."""
        if X.order > MODES:
            raise InputError(f"a tensor of {X.order} modes: artifacts hold up to {MODES}")
        if self.matrices_only and X.order != 2:
            raise InputError(f"{self.name} needs a matrix; this tensor has {X.order} modes: use cp or neukron")
        if X.order < self.least_order:
            raise InputError(f"{self.name} needs at least {self.least_order} modes; this tensor has {X.order}")

    def check_shape(self, X: SparseTensor) -> None:
        """Refuse a tensor of another shape than the fitted one."""
        if X.shape != self.shape_:
            raise InputError(f"a tensor of shape {X.shape} for a {self.name} model of shape {self.shape_}")

    def check_coords(self, coords: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return `coords` as (n, D) int64 within the fitted shape, or say which one is not."""
        shape = self.shape_
        index = np.asarray(coords)
        if index.ndim != 2 or index.shape[1] != len(shape) or index.dtype.kind not in "iu":
            raise InputError(f"coords of shape {index.shape} and type {index.dtype}: needs (n, {len(shape)}) integers")
        outside = (index < 0) | (index >= np.asarray(shape))
        if outside.any():
            row, mode = np.argwhere(outside)[0]
            raise InputError(
                f"index {index[row, mode]} in mode {mode} is outside 0..{shape[mode] - 1}; indices are 0-based"
            )
        return index.astype(np.int64, copy=False)


def largest_of(
    coords: npt.NDArray[np.int64], values: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Those of the largest size, largest first; equal ones keep their sequence."""
    best = np.argsort(-np.abs(values), kind="stable")[:count]
    return coords[best], values[best]


def negative_share(X: SparseTensor) -> float:
    """Share of the squared norm in values below 0: the least relative error of a model that has none."""
    with np.errstate(over="ignore"):
        below = X.total(float(np.sum(X.values[X.values < 0] ** 2)))
    return below / X.norm2 if below else 0.0


def clipped_error(value: float, scale: float) -> float:
    """A squared error that rounding may have made slightly negative, as the number of at least 0 that it is.

    Parameters
    ----------
    scale
        What it was computed from: the squared norm of the tensor, usually.

    Raises
    ------
    InputError
        It is not finite: the fit or the model is broken.
    """
    if not math.isfinite(value):
        raise InputError(
            f"the squared error of a tensor of squared norm {scale:g} came out as {value:g}: the fit failed; "
            "try other settings, or values of a size nearer to 1"
        )
    return max(0.0, value)


# Told after each sweep or epoch what was just appended to ``history_``.
Progress = Callable[[dict[str, Any]], None]


def order_bytes(shape: Sequence[int]) -> int:
    """Bytes to store an order of every mode: sum of N log2 N bits, rounded up.

    >>> order_bytes((4, 8))
    4
    """
    return math.ceil(sum(size * math.log2(size) for size in shape) / 8)
