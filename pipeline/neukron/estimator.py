"""The NeuKron compressor: one object to fit, ask, measure, save."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import InputError, is_whole, nearest
from pipeline.neukron.cells import CELLS
from pipeline.neukron.dispatch import make_engine, products_at, shared, slower_because
from pipeline.neukron.evaluation import Engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.quantise import decode, encode, stored_bytes
from pipeline.neukron.torch_engine import PRECISIONS
from pipeline.neukron.trainer import Options, State, Trainer, choose_orders
from pipeline.neukron.walk import Walker, largest_cells, real_mass
from pipeline.runs import distributed
from pipeline.runs.artifact import write_artifact
from pipeline.runs.compressor import Compressor, cells_within, order_bytes
from pipeline.sparse import SparseTensor
from pipeline.sparse.orders import Order, pack_integers, unpack_integers

if TYPE_CHECKING:
    from pipeline.runs.checkpoint import Checkpoint

log = logging.getLogger(__name__)

SCAN_CELLS = 1 << 16  # a slice of so few cells is looked at whole: that is faster than the search

CHOICES = {
    "cell": tuple(CELLS),
    "schedule": ("fast", "paper"),
    "order_init": ("auto", "random", "degree", "lexicographic", "bisection"),
    "pairs": ("shingles", "uniform"),
    "scale": ("learned", "fixed"),
    "precision": tuple(PRECISIONS),
}


class NeuKron(Compressor):
    """Constant-size lossy compression of a sparse matrix or tensor whose indices may be reordered.

    Kwon, Ko, Jung, Shin: "NeuKron: Constant-Size Lossy Compression of Sparse Reorderable Matrices and
    Tensors", WWW 2023. The model's size depends on `hidden` and the number of modes, not on the tensor.

    Parameters
    ----------
    hidden
        Width h of the sequence model; the one setting that trades size for error.
    cell
        Sequence model: ``lstm``, ``gru``, ``transformer`` (a causal layer), or ``seeds``: none, but one seed
        for each alphabet shared by all its levels, which makes a plain Kronecker product of seeds
        (the ablation "N-A"; `hidden` then means nothing).
    schedule
        ``fast``: mini-batches, best scale in closed form, reordering once the model is warm.
        ``paper``: two rounds of reordering and one full-batch step an epoch, as published.
    order_init
        Initial orders: ``random``, ``degree``, ``lexicographic``, ``bisection``, or ``auto``: the best of a
        short trial of all but the first.
    gamma
        Inverse temperature of the order search, against changes of the squared error in the values' own units;
        ``math.inf`` accepts improvements only.
    pairs
        How the order search pairs indices: ``shingles``, those with like slices first, or ``uniform``, at
        random (the ablation "N-H").
    scale
        ``learned``, or ``fixed``: q keeps its first value, q^L = ||X||^2 (the ablation "N-F").
    precision
        ``float32``, or ``bfloat16`` or ``float16`` for the sequence model while fitting. Losses are summed in
        float64 and answers given in float32 whatever it is.
    lr
        Learning rate of Adam; 0.1 / sqrt(hidden) (fast; transformer: 0.3 times that) or 1e-3 (paper) if None.
    seed
        Decides everything random. On a CPU two fits with the same seed are bit-identical, whatever `threads`.
    device
        ``auto`` (CUDA if there is one), ``cpu``, ``cuda``.
    max_epochs, max_seconds
        Limits; None for none. One epoch is always made. A limit in seconds, which the choice of the initial order
        counts towards, makes results depend on the machine.
    patience
        Stop after so many epochs without a relative gain of 1e-5.
    threads
        CPU threads; all cores if None.

    Attributes
    ----------
    model_, orders_, shape_, history_
        The best model, the order of every mode (modes in ascending size), the tensor's shape, and one dict an
        epoch with ``epoch``, ``error`` (over the padded grid), ``seconds``, ``learning_rate``.
    training_error_
        ``error_padded`` of the best model as fitting saw it, in the `precision` of the fit.

    Notes
    -----
    Where several processes have been joined (:mod:`pipeline.runs.distributed`), each evaluates a part of the
    non-zeros, all see the same sums and decide alike; every process calls :meth:`fit` with the same arguments.

    Examples
    --------
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 2], [3, 3]], [1.0, 1.0, 1.0, 1.0], (4, 4))
    >>> m = NeuKron(hidden=4, max_epochs=3, device="cpu", threads=1).fit(X)
    >>> m.size()["bytes"] == 4 * m.parameter_count()
    True
    """

    name: ClassVar[str] = "neukron"
    stochastic: ClassVar[bool] = True

    model_: SequenceModel
    orders_: list[Order] | None
    device_: str
    peak_gpu_bytes_: int
    training_error_: float
    weights_: str = "float32"

    def __init__(
        self,
        *,
        hidden: int = 30,
        cell: str = "lstm",
        schedule: str = "fast",
        order_init: str = "auto",
        gamma: float = 10.0,
        pairs: str = "shingles",
        scale: str = "learned",
        precision: str = "float32",
        lr: float | None = None,
        seed: int = 0,
        device: str = "auto",
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        patience: int = 100,
        threads: int | None = None,
    ) -> None:
        self.hidden = hidden
        self.cell = cell
        self.schedule = schedule
        self.order_init = order_init
        self.gamma = gamma
        self.pairs = pairs
        self.scale = scale
        self.precision = precision
        self.lr = lr
        self.seed = seed
        self.device = device
        self.max_epochs = max_epochs
        self.max_seconds = max_seconds
        self.patience = patience
        self.threads = threads

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        X: SparseTensor,
        after_epoch: Callable[[State], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Fit to `X`.

        Parameters
        ----------
        after_epoch
            Called with the trainer's state after every epoch.
        checkpoint
            Where the state is kept from time to time and taken up again; on a CPU a resumed fit ends with the
            same bits as an uninterrupted one. The caller clears it once the result is safe.

        Raises
        ------
        InputError
            A setting is unknown or out of range, or the squared norm of `X` is no positive number.
        """
        self.check_settings()
        if not 0.0 < X.norm2 < math.inf:
            raise InputError(f"values: their squares sum to {X.norm2:g}; multiply them by a number that avoids that")
        mode_order = _ascending(X.shape)
        coords = np.ascontiguousarray(X.coords[:, mode_order])
        levels = Levels(tuple(X.shape[mode] for mode in mode_order))
        engine = shared(self._engine(levels, self.precision))
        self._tell(slower_because(engine.device.type, self.cell, self.precision))
        options = self._options()
        trainer = Trainer(levels, engine, coords, X.values, options)
        model = SequenceModel(levels, self.hidden, self.seed, cell=self.cell)
        saved = distributed.from_first(checkpoint.load() if checkpoint and distributed.is_first() else None)

        def stop_early(_: State) -> None:
            if checkpoint and distributed.any_process(checkpoint.asked_to_stop):
                raise KeyboardInterrupt  # nothing to keep yet

        if saved is None:
            started = time.perf_counter()
            orders = choose_orders(levels, engine, coords, X.values, self.hidden, options, self.order_init, stop_early)
            state = trainer.start(model, orders)
            state.seconds = distributed.from_first(time.perf_counter() - started)
        else:
            state = trainer.restore(model, saved)

        def each(state: State) -> None:
            if after_epoch:
                after_epoch(state)
            if checkpoint:
                stops = distributed.any_process(checkpoint.asked_to_stop)
                if distributed.is_first():
                    checkpoint.save(trainer.snapshot(state), force=stops)
                if stops:
                    raise KeyboardInterrupt

        trainer.run(state, each)
        self._keep(X, state, engine)
        return self

    def _options(self) -> Options:
        return Options(
            self.schedule,
            self.gamma,
            self.lr,
            self.max_epochs,
            self.max_seconds,
            self.patience,
            self.seed,
            self.cell,
            by_shingle=self.pairs == "shingles",
            learn_scale=self.scale == "learned",
        )

    def _keep(self, X: SparseTensor, state: State, engine: Engine) -> None:
        """Take the best of a training."""
        state.model.load_state_dict(state.best_weights)
        self.shape_ = X.shape
        self.model_ = state.model
        self.orders_ = state.best_orders
        self.device_ = engine.device.type
        self.peak_gpu_bytes_ = torch.cuda.max_memory_allocated() if self.device_ == "cuda" else 0
        self.history_ = state.history
        self.training_error_ = state.best_error
        if self.precision != "float32":
            fine = self._padded_error(X, self.predict(X.coords))
            self._tell(f"error over the padded grid: {state.best_error:.6g} in {self.precision}, {fine:.6g} in float32")

    @staticmethod
    def _tell(message: str | None) -> None:
        if message and distributed.is_first():
            log.warning(message)

    def check_settings(self) -> None:
        """Refuse settings that are unknown or out of range, as :meth:`fit` does."""
        for key, allowed in CHOICES.items():
            value = getattr(self, key)
            if value not in allowed:
                raise InputError(f"NeuKron: {key}={value!r} is unknown{nearest(str(value), allowed)}")
        for key in ("hidden", "max_epochs", "patience", "threads"):
            value = getattr(self, key)
            if value is not None and not is_whole(value, 1):
                raise InputError(f"NeuKron: {key}={value!r}: needs a whole number of at least 1")
        if not is_whole(self.seed, 0):
            raise InputError(f"NeuKron: seed={self.seed!r}: needs a whole number of at least 0")
        for key in ("gamma", "lr", "max_seconds"):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
                raise InputError(f"NeuKron: {key}={value!r}: needs a positive number")

    def _engine(self, levels: Levels, precision: str = "float32") -> Engine:
        device = distributed.available_device(self.device)
        threads = self.threads or len(os.sched_getaffinity(0))
        return make_engine(levels, self.hidden, device, threads, cell=self.cell, precision=precision)

    # ------------------------------------------------------------------ answers

    def predict(self, coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Approximate cells; `coords` (n, D) in the tensor's own mode order. Returns (n,) float64.

        Without orders in the artifact, indices are positions in the model's own order.
        """
        index = self.check_coords(coords)
        with torch.no_grad():
            weights = Weights.of(self.model_)
        engine = self._engine(self.model_.levels)
        products = products_at(engine, weights, index[:, _ascending(self.shape_)], self.orders_)
        return products * self.model_.scale()

    def largest(
        self, count: int, fixed: dict[int, int] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The largest approximated cells, found best first instead of by a scan, unless there are few to look at.

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
            A count below 1, an index outside the tensor, or a model so even that the search finds no end.
        """
        fixed = fixed or {}
        if count < 1:
            raise InputError(f"largest: count={count}: at least 1")
        for mode, index in fixed.items():
            if not 0 <= mode < len(self.shape_) or not 0 <= index < self.shape_[mode]:
                raise InputError(f"largest: mode {mode}, index {index}: outside a tensor of shape {self.shape_}")
        ranges = [range(fixed[mode], fixed[mode] + 1) if mode in fixed else range(size)
                  for mode, size in enumerate(self.shape_)]  # fmt: skip
        if math.prod(map(len, ranges)) <= SCAN_CELLS:
            coords = cells_within(ranges)
            values = self.predict(coords)
            best = np.argsort(-values, kind="stable")[:count]
            return coords[best], values[best]
        ascending = _ascending(self.shape_)
        levels = self.model_.levels
        orders = self.orders_ or [np.arange(2**bits) for bits in levels.bits]
        shape = tuple(self.shape_[mode] for mode in ascending)
        positions = {rank: int(orders[rank][fixed[mode]]) for rank, mode in enumerate(ascending) if mode in fixed}
        with torch.no_grad():
            walker = Walker(levels, Weights.of(self.model_))
            at, products = largest_cells(walker, shape, orders, count, positions)
        coords = np.empty_like(at)
        for rank, mode in enumerate(ascending):
            coords[:, mode] = np.argsort(orders[rank])[at[:, rank]]
        return coords, products.astype(np.float64) * self.model_.scale()

    def error(self, X: SparseTensor) -> dict[str, Any]:
        """Squared Frobenius error against `X`.

        Returns
        -------
        ``error_padded``: over the zero-padded grid, exact (Lemma 1). ``error``: over the real cells; summed
        exactly where the model's tree is small enough, else sampled with its 95 % interval in
        ``error_interval``.
        """
        if X.shape != self.shape_:
            raise InputError(f"tensor of shape {X.shape}, the model was fitted to {self.shape_}")
        if self.orders_ is None:
            self._tell("without orders: indices of the tensor are taken as positions in the model's own order")
        approximation = self.predict(X.coords)
        scale = self.model_.scale()
        fixed = X.norm2 - 2.0 * float(np.dot(X.values, approximation))
        padded = self._padded_error(X, approximation)
        result: dict[str, Any] = {"error": padded, "error_padded": padded}
        if self.orders_ is None:
            return result
        with torch.no_grad():
            walker = Walker(self.model_.levels, Weights.of(self.model_))
        shape = tuple(X.shape[mode] for mode in _ascending(X.shape))
        mass = real_mass(walker, shape, self.orders_, np.random.default_rng([self.seed, 3]))
        result["error"] = max(fixed + scale * scale * mass.share, 0.0)
        if not mass.exact:
            result["error_interval"] = tuple(max(fixed + scale * scale * end, 0.0) for end in (mass.low, mass.high))
        return result

    def _padded_error(self, X: SparseTensor, approximation: npt.NDArray[np.float64]) -> float:
        """Squared error over the padded grid (Lemma 1), given the approximations of the non-zeros."""
        return max(X.norm2 - 2.0 * float(np.dot(X.values, approximation)) + self.model_.scale() ** 2, 0.0)

    def quantised(self, weights: str) -> NeuKron:
        """The same model with weights rounded to ``float16`` or ``int8``: what it answers is what a file gives.

        Raises
        ------
        InputError
            An unknown kind of weights.
        """
        arrays = self._arrays()
        shapes = {name: array.shape for name, array in arrays.items()}
        rounded = decode(encode(arrays, weights), weights, shapes)
        model = SequenceModel(self.model_.levels, self.hidden, 0, self.model_.head_alphabets, self.cell)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in rounded.items()})
        result = NeuKron(hidden=self.hidden, cell=self.cell, seed=self.seed, device=self.device, threads=self.threads)
        result.model_, result.orders_, result.shape_, result.history_ = model, self.orders_, self.shape_, self.history_
        result.weights_ = weights
        return result

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The model's weights by name, float32 (log q: float64)."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.model_.state_dict().items()}

    def size(self) -> dict[str, int]:
        """Sizes in bytes.

        ``bytes`` is 4 a parameter as published, or what quantised weights take; ``bytes_equal`` always 4 a
        parameter; ``bytes_with_order`` is that and N log2 N bits for the order of each mode.
        """
        equal = 4 * self.parameter_count()
        stored = equal if self.weights_ == "float32" else stored_bytes(encode(self._arrays(), self.weights_))
        orders = order_bytes(self.model_.levels.shape)
        return {"bytes": stored, "bytes_equal": equal, "bytes_with_order": equal + orders}

    def parameter_count(self) -> int:
        """Number of parameters; with an LSTM 2(2^D-1)h + 8h^2 + 8h + sum_a a(h+1) + 2^D + 1.

        torch keeps two bias vectors of the LSTM, as the published count does. A GRU has 6h^2 + 6h in place of
        8h^2 + 8h, a Transformer layer 8h^2 + 11h; shared seeds are a reals for each alphabet a, and the scale.
        """
        return self.model_.parameter_count()

    # ------------------------------------------------------------------ artifact

    def save(self, path: str | Path, orders: bool = True) -> None:
        """Write one safetensors file: the weights and, with `orders`, bit-packed positions.

        Without orders the file answers in the model's own order, over the padded grid.
        """
        arrays = self._arrays()
        tensors = {name: np.atleast_1d(array) for name, array in encode(arrays, self.weights_).items()}
        levels = self.model_.levels
        stored = orders and self.orders_ is not None
        if stored and self.orders_ is not None:
            for mode, (size, bits, order) in enumerate(zip(levels.shape, levels.bits, self.orders_, strict=True)):
                tensors[f"order_{mode}"] = pack_integers(order[:size], bits)
        metadata = {
            "shape": list(self.shape_),
            "levels": list(levels.shape),
            "cell": self.cell,
            "hidden": self.hidden,
            "seed": self.seed,
            "heads": list(self.model_.head_alphabets),
            "weights": self.weights_,
            "orders": stored,
        }
        write_artifact(path, self.name, tensors, metadata)

    @classmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild a fitted model; see :meth:`save`."""
        model = cls(hidden=metadata["hidden"], cell=metadata["cell"], seed=metadata["seed"])
        model.check_settings()
        sizes = metadata["levels"]
        if not all(is_whole(size, 1) for size in (*sizes, *metadata["shape"])) or sorted(metadata["shape"]) != sizes:
            raise InputError(f"sizes {metadata['shape']} do not belong to levels of {sizes}")
        levels = Levels(tuple(sizes))
        model.model_ = SequenceModel(levels, model.hidden, 0, tuple(metadata["heads"]), model.cell)
        model.weights_ = metadata["weights"]
        shapes = {name: array.shape for name, array in model._arrays().items()}
        stored = tensors | {"log_q": tensors["log_q"].reshape(())}
        weights = decode(stored, model.weights_, shapes)
        try:
            model.model_.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        except RuntimeError as error:
            raise InputError(f"weights do not fit hidden={model.hidden} and sizes {levels.shape}") from error
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise InputError("a weight is not finite")
        if not set(levels.head_alphabets) <= set(metadata["heads"]):
            raise InputError(f"output layers for {metadata['heads']}, needed for {levels.head_alphabets}")
        model.shape_ = tuple(metadata["shape"])
        if metadata["orders"]:
            model.orders_ = [
                _completed(unpack_integers(tensors[f"order_{mode}"], bits, size), 2**bits)
                for mode, (size, bits) in enumerate(zip(levels.shape, levels.bits, strict=True))
            ]
        else:
            model.orders_ = None
            ascending = _ascending(model.shape_)
            model.shape_ = tuple(2 ** levels.bits[ascending.index(mode)] for mode in range(len(model.shape_)))
        model.history_ = []
        return model

    @classmethod
    def from_parts(cls, model: SequenceModel, orders: list[Order], shape: tuple[int, ...]) -> Self:
        """Wrap a trained model and its orders (modes in ascending size), as an import does."""
        result = cls(hidden=model.hidden)
        result.model_, result.orders_, result.shape_, result.history_ = model, orders, shape, []
        return result


def _ascending(shape: tuple[int, ...]) -> list[int]:
    """Modes by size, smallest first; equal sizes keep their order."""
    return sorted(range(len(shape)), key=lambda mode: shape[mode])


def _completed(position: npt.NDArray[np.int64], size: int) -> Order:
    """Give the padding the positions that real indices leave free."""
    free = np.ones(size, dtype=bool)
    free[position] = False
    if np.count_nonzero(free) != size - len(position):
        raise InputError("a stored order names a position twice")
    return np.concatenate((position, np.flatnonzero(free)))
