"""The NeuKron compressor: one object to fit, ask, measure, save."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.neukron.levels import LARGEST_ORDER, Levels
from pipeline.neukron.quantise import KINDS, LARGEST_LOG, decode, encode, restored_weights, stored_bytes
from pipeline.neukron.weights import CELL_NAMES, Arrays, PlainSteps, PlainWeights, Shapes, count, weight_shapes
from pipeline.runs.compressor import Compressor, clipped_error, order_bytes
from pipeline.runs.contents import Contents
from pipeline.runs.times import Times
from pipeline.sparse import SparseTensor
from pipeline.sparse.orders import Order, pack_integers, unpack_integers

if TYPE_CHECKING:
    from pipeline.neukron.engine import Engine
    from pipeline.neukron.model import SequenceModel
    from pipeline.neukron.trainer import Options, TrainingState
    from pipeline.neukron.walk import Mass, Walker
    from pipeline.runs.checkpoint import Checkpoint

LARGEST_WIDTH = 1 << 20
FEW_CELLS = 1 << 16
LARGEST_RATE = 1.0e6
FEW_WEIGHTS = 1 << 20  # so many are tried whatever the tensor; an epoch of them takes seconds
BYTES_A_WEIGHT = 48.0  # while fitting, by trial: gradients, Adam's moments, the best so far, the kernels' copies


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
        epoch with ``epoch``, ``error`` (over the padded grid), ``seconds`` since the start, ``order_seconds`` (those
        of them that went into better orders), ``learning_rate``.
    training_error_
        ``error_padded`` of the best model as fitting saw it, in the `precision` of the fit.

    Notes
    -----
    Where several processes have been joined (:mod:`pipeline.runs.distributed`), each holds a share of the non-zeros,
    all see the same sums and decide alike. Every process calls :meth:`fit` with the same arguments: the whole tensor,
    or its share of it (:func:`pipeline.runs.shards.read_share`), and then no process holds them all.

    Examples
    --------
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 2], [3, 3]], [1.0, 1.0, 1.0, 1.0], (4, 4))
    >>> m = NeuKron(hidden=4, max_epochs=3, device="cpu", threads=1).fit(X)
    >>> m.size()["bytes"] == 4 * m.parameter_count()
    True
    """

    name: ClassVar[str] = "neukron"
    stochastic: ClassVar[bool] = True
    scales_itself: ClassVar[bool] = True
    largest_order: ClassVar[int] = LARGEST_ORDER
    answers_negative: ClassVar[bool] = False  # softplus factors times a scale above 0

    levels_: Levels
    head_alphabets_: tuple[int, ...]
    arrays_: Arrays
    _model: SequenceModel | None
    _fitted_shape: tuple[int, ...] | None = None  # where `shape_` is that of the padded grid
    orders_: list[Order] | None
    device_: str
    peak_gpu_bytes_: int
    training_error_: float
    weights_: str = "float32"

    hidden: int = setting(30, at_least=1)
    cell: str = setting("lstm", choices=CELL_NAMES)
    schedule: str = setting("fast", choices=("fast", "paper"))
    order_init: str = setting("auto", choices=("auto", "random", "degree", "lexicographic", "bisection"))
    gamma: float = setting(10.0, above=0)
    pairs: str = setting("shingles", choices=("shingles", "uniform"))
    scale: str = setting("learned", choices=("learned", "fixed"))
    precision: str = setting("float32", choices=("float32", "bfloat16", "float16"))
    lr: float | None = setting(None, above=0)
    max_epochs: int | None = setting(None, at_least=1)
    max_seconds: float | None = setting(None, above=0, is_setting=False)
    patience: int = setting(100, at_least=1)
    seed: int = seed()
    device: str = setting("auto", is_setting=False)
    threads: int | None = setting(None, at_least=1, is_setting=False)

    # ------------------------------------------------------------------ fitting

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The largest width whose parameters fit beside the orders."""
        levels = Levels(tuple(sorted(X.shape)))
        reals = size / 4 - (order_bytes(X.shape) / 4 if orders else 0)
        fixed = 2**X.order + 1 + sum(levels.head_alphabets)
        each = levels.embedding_rows + 8 + sum(levels.head_alphabets)
        width = (-each + math.sqrt(each**2 + 32 * max(0.0, reals - fixed))) / 16  # 8 h^2 + each h = reals - fixed
        return {"hidden": int(width)} if width >= 1 else None

    def fit(
        self,
        X: SparseTensor,
        after_epoch: Callable[[TrainingState], None] | None = None,
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
        self.times_ = Times()
        with self.times_.setting_up():
            from pipeline.neukron.dispatch import shared, slower_because
            from pipeline.neukron.model import SequenceModel
            from pipeline.neukron.trainer import Trainer, choose_orders
            from pipeline.runs import distributed, shards
            from pipeline.runs.checkpoint import UNFIT

        self.check_settings()
        if self.lr is not None and self.lr > LARGEST_RATE:
            raise InputError(f"lr={self.lr!r}: needs a positive number of at most {LARGEST_RATE:g}")
        X = self._taken(shards.own_share(SparseTensor.of(X)))
        mode_order = _ascending(X.shape)
        coords = np.ascontiguousarray(X.coords[:, mode_order])
        levels = Levels(tuple(X.shape[mode] for mode in mode_order))
        engine = shared(self._engine(levels, self.precision))
        if slower := slower_because(engine.device.type, self.cell, self.precision):
            self._tell(slower)
        with self.times_.setting_up():
            self.warm_up(2)  # its kernels are the same for all numbers of modes
        options = self._options()
        trainer = Trainer(levels, engine, coords, X.values, options)
        model = SequenceModel(levels, self.hidden, self.seed, cell=self.cell)
        saved = distributed.from_first(checkpoint.load() if checkpoint and distributed.is_first() else None)

        def stop_early(_: TrainingState) -> None:
            if checkpoint and distributed.any_process(checkpoint.asked_to_stop):
                raise KeyboardInterrupt  # nothing to keep yet

        state = None
        if saved is not None:
            try:
                state = trainer.restore(model, saved)
            except UNFIT as error:
                if checkpoint and distributed.is_first():
                    checkpoint.set_aside(str(error))
                model = SequenceModel(levels, self.hidden, self.seed, cell=self.cell)
        if state is None:
            started, busy = time.perf_counter(), time.process_time()
            orders = choose_orders(levels, engine, coords, X.values, self.hidden, options, self.order_init, stop_early)
            state = trainer.start(model, orders)
            state.seconds = state.order_seconds = distributed.from_first(time.perf_counter() - started)
            state.cpu_seconds = distributed.total(time.process_time() - busy)

        def each(state: TrainingState) -> None:
            if not math.isfinite(state.best_error):
                raise InputError(f"neukron: lr={self.lr}: training diverged in epoch {state.epoch}; take a lower one")
            if after_epoch:
                after_epoch(state)
            if checkpoint:
                stops = distributed.any_process(checkpoint.asked_to_stop)
                if distributed.is_first():
                    checkpoint.save(trainer.snapshot(state), force=stops)
                if stops:
                    raise KeyboardInterrupt

        try:
            trainer.run(state, each)
        except UNFIT:
            if saved is not None and checkpoint and distributed.is_first():
                checkpoint.set_aside("the run that went on from it failed")  # it would each time
            raise
        self._keep(X, state, engine)
        return self

    def _trial(self) -> NeuKron:
        """One epoch of the least width."""
        how = {"cell": self.cell, "precision": self.precision, "device": self.device, "threads": 1}
        return NeuKron(hidden=1, max_epochs=1, order_init="degree", **how)

    def check_order(self, X: SparseTensor) -> None:
        """Refuse a tensor whose trees would be too wide."""
        super().check_order(X)
        if X.order > LARGEST_ORDER:
            raise InputError(
                f"neukron: a tensor of {X.order} modes makes trees of {2**X.order:,} children a node; "
                f"it takes up to {LARGEST_ORDER} modes, {2**LARGEST_ORDER:,} children"
            )

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """Weights of width 1."""
        levels = Levels(tuple(sorted(shape)))
        weights = {"weights": 4 * count(weight_shapes(levels, 1, levels.head_alphabets, self.cell))}
        packed = sum((size * bits + 7) // 8 for size, bits in zip(levels.shape, levels.bits, strict=True))
        return weights | ({"order": packed} if orders else {})

    def _check_memory(self, shape: tuple[int, ...], nnz: int) -> None:
        """Refuse as well what a plain array of all cells would be smaller than."""
        weights, cells = self._weights(shape), math.prod(shape)
        if weights > max(FEW_WEIGHTS, cells):
            raise InputError(
                f"hidden={self.hidden}: a model of {weights:,} numbers for a tensor of {cells:,} cells, more than an "
                "array of all cells has; choose a smaller hidden"
            )
        from pipeline.runs import distributed

        super()._check_memory(shape, -(-nnz // distributed.size()))

    def _weights(self, shape: tuple[int, ...]) -> int:
        levels = Levels(tuple(sorted(shape)))
        return count(weight_shapes(levels, self.hidden, levels.head_alphabets, self.cell))

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Weights with their gradients and moments, tables of positions, keys, and the nodes of a chunk."""
        levels = Levels(tuple(sorted(shape)))
        weights = self._weights(shape)
        positions = levels.words * sum(2**bits for bits in levels.bits)
        nodes = min(nnz, 2048) * (levels.alphabets[0] + 8 * self.hidden * levels.depth)
        reals = (
            BYTES_A_WEIGHT * weights + 24.0 * positions + 8.0 * nnz * (2 * len(shape) + 6 * levels.words) + 8.0 * nodes
        )
        return reals, "choose a smaller hidden"

    def _options(self) -> Options:
        from pipeline.neukron.trainer import Options

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

    def _keep(self, X: SparseTensor, state: TrainingState, engine: Engine) -> None:
        """Take the best of a training."""
        import torch

        model = state.model
        model.load_state_dict(state.best_weights)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
        self._set(model.levels, tuple(model.head_alphabets), arrays, state.best_orders)
        self._model = model
        self.device_ = engine.device.type
        self.peak_gpu_bytes_ = torch.cuda.max_memory_allocated() if self.device_ == "cuda" else 0
        self.history_ = state.history
        self.times_.seconds, self.times_.order_seconds = state.seconds, state.order_seconds
        self.times_.cpu_seconds = state.cpu_seconds
        self.training_error_ = state.best_error
        if self.precision != "float32":
            fine = self._padded_error(X, self._predict(X.coords))
            self._tell(f"error over the padded grid: {state.best_error:.6g} in {self.precision}, {fine:.6g} in float32")

    def _tell(self, message: str) -> None:
        from pipeline.runs import distributed

        if distributed.is_first():
            super()._tell(message)

    @property
    def model_(self) -> SequenceModel:
        """The best model as torch's parameters; made of the weights where it was loaded."""
        if self._model is None:
            import torch

            from pipeline.neukron.model import SequenceModel

            self._model = SequenceModel(self.levels_, self.hidden, 0, self.head_alphabets_, self.cell)
            self._model.load_state_dict({name: torch.from_numpy(array) for name, array in self.arrays_.items()})
        return self._model

    def _engine(self, levels: Levels, precision: str = "float32", device: str | None = None) -> Engine:
        from pipeline.neukron.dispatch import make_engine

        if device is None:
            from pipeline.runs import distributed

            device = distributed.available_device(self.device)
        threads = self.threads or len(os.sched_getaffinity(0))
        return make_engine(levels, self.hidden, device, threads, cell=self.cell, precision=precision)

    # ------------------------------------------------------------------ answers

    def scale_factor(self) -> float:
        """s = sqrt(q)^L, the Frobenius norm of the approximation over the padded grid."""
        exponent = 0.5 * self.levels_.depth * float(self.arrays_["log_q"])
        if not exponent < LARGEST_LOG:
            raise InputError(f"neukron: a scale of exp({exponent:g}); the model is damaged, make it again")
        return math.exp(exponent)

    def _predict(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Without orders in the artifact, indices are positions in the model's own order."""
        from pipeline.neukron.dispatch import products_at
        from pipeline.neukron.numpy_engine import FEW, NumpyEngine

        engine: Engine
        on_cpu = self.device in ("auto", "cpu")
        if on_cpu and self.cell == "lstm" and len(index) <= FEW:
            engine = NumpyEngine(self.levels_, self.hidden)
        else:  # few cells are answered before a GPU is looked for, which takes seconds
            engine = self._engine(self.levels_, device="cpu" if on_cpu and len(index) <= FEW_CELLS else None)
        ascending = index[:, _ascending(self.inner_shape_)]
        if not engine.uses_torch:
            plain = PlainWeights.of(self.arrays_, self.head_alphabets_)
            return products_at(engine, plain, ascending, self.orders_) * self.scale_factor()
        import torch

        from pipeline.neukron.model import Weights

        with torch.no_grad():
            weights = Weights.of(self.model_)
        return products_at(engine, weights, ascending, self.orders_) * self.scale_factor()

    def _search_largest(
        self, count: int, fixed: dict[int, int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Best first instead of by a scan; refuses a model so even that the search finds no end."""
        from pipeline.neukron.walk import Walker, largest_cells

        inner_shape = self.inner_shape_
        ascending = _ascending(inner_shape)
        levels = self.levels_
        orders = self.orders_ or [np.arange(2**bits) for bits in levels.bits]
        shape = tuple(inner_shape[mode] for mode in ascending)
        positions = {rank: int(orders[rank][fixed[mode]]) for rank, mode in enumerate(ascending) if mode in fixed}
        if self.cell == "lstm":
            walker = Walker(levels, PlainSteps(PlainWeights.of(self.arrays_, self.head_alphabets_)))
        else:
            walker = self._torch_walker()
        at, products = largest_cells(walker, shape, orders, count, positions)
        coords = np.empty_like(at)
        for rank, mode in enumerate(ascending):
            coords[:, mode] = np.argsort(orders[rank])[at[:, rank]]
        return coords, products.astype(np.float64) * self.scale_factor()

    def _error(self, X: SparseTensor) -> dict[str, Any]:
        """Over the zero-padded grid, exact (Lemma 1), and over the real cells; summed exactly where the model's tree
        is small enough, else sampled with its 95 % interval in ``error_interval``. Without orders, indices are
        positions in the model's own order.
        """
        approximation = self._predict(X.coords)
        scale = self.scale_factor()
        fixed = X.norm2 - 2.0 * X.total(float(np.dot(X.values, approximation)))
        padded = self._padded_error(X, approximation)
        result: dict[str, Any] = {"error": padded, "error_padded": padded}
        if self.orders_ is None:
            return result
        mass = self._real_mass()
        result["error"] = clipped_error(fixed + scale * scale * mass.share, X.norm2)
        if not mass.exact:
            result["error_interval"] = tuple(
                clipped_error(fixed + scale * scale * end, X.norm2) for end in (mass.low, mass.high)
            )
        return result

    def _real_mass(self) -> Mass:
        """Share of the squared mass on the real cells."""
        from pipeline.neukron.walk import real_mass

        assert self.orders_ is not None  # noqa: S101 - only asked for with orders
        shape = tuple(sorted(self.inner_shape_))
        return real_mass(self._torch_walker(), shape, self.orders_, np.random.default_rng([self.seed, 3]))

    def _torch_walker(self) -> Walker:
        import torch

        from pipeline.neukron.model import TorchSteps, Weights
        from pipeline.neukron.walk import Walker

        with torch.no_grad():
            return Walker(self.levels_, TorchSteps(Weights.of(self.model_)))

    def _padded_error(self, X: SparseTensor, approximation: npt.NDArray[np.float64]) -> float:
        """Squared error over the padded grid (Lemma 1), given the approximations of the non-zeros."""
        error = X.norm2 - 2.0 * X.total(float(np.dot(X.values, approximation))) + self.scale_factor() ** 2
        return clipped_error(error, X.norm2)

    def quantised(self, weights: str) -> NeuKron:
        """The same model with weights rounded to ``float16`` or ``int8``: what it answers is what a file gives.

        So few weights that their codes and scales take more than ``float16`` are rounded to that, with a line.

        Raises
        ------
        InputError
            An unknown kind of weights.
        """
        shapes = self._weight_shapes()
        rounded = decode(encode(self.arrays_, weights, list(shapes)), weights, shapes)
        result = NeuKron(hidden=self.hidden, cell=self.cell, seed=self.seed, device=self.device, threads=self.threads)
        result._set(self.levels_, self.head_alphabets_, rounded | {"log_q": self.arrays_["log_q"]}, self.orders_)
        result.shape_, result.history_, result._frame = self.shape_, self.history_, self.frame_
        result._about, result.own_indices_ = dataclasses.replace(self.about_, error=None), self.own_indices_
        result.weights_ = weights
        if weights == "int8" and (size := result.size()["bytes"]) >= (short := 2 * count(shapes) + 8):
            self._tell(f"int8 takes {size:,} bytes for so few weights, float16 {short:,}: float16 is chosen")
            return self.quantised("float16")
        return result

    def _weight_shapes(self) -> Shapes:
        return weight_shapes(self.levels_, self.hidden, self.head_alphabets_, self.cell)

    def _size(self) -> dict[str, int]:
        """``bytes`` is 4 a parameter as published, or what quantised weights take; ``bytes_equal`` always 4 a
        parameter; ``bytes_with_order`` is that and N log2 N bits for the order of each mode.
        """
        equal = 4 * self.parameter_count()
        stored = equal
        if self.weights_ != "float32":
            stored = stored_bytes(encode(self.arrays_, self.weights_, list(self._weight_shapes()))) + 8  # and log q
        orders = order_bytes(self.levels_.shape)
        return {"bytes": stored, "bytes_equal": equal, "bytes_with_order": equal + orders}

    def parameter_count(self) -> int:
        """Number of parameters; with an LSTM 2(2^D-1)h + 8h^2 + 8h + sum_a a(h+1) + 2^D + 1.

        torch keeps two bias vectors of the LSTM, as the published count does. A GRU has 6h^2 + 6h in place of
        8h^2 + 8h, a Transformer layer 8h^2 + 11h; shared seeds are a reals for each alphabet a, and the scale.
        """
        return count(self._weight_shapes()) + 1

    # ------------------------------------------------------------------ artifact

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The weights in one run of numbers and, with `orders`, bit-packed positions in another.

        Without orders the file answers in the model's own order, over the padded grid. What is as usual is left out.
        """
        tensors = encode(self.arrays_, self.weights_, list(self._weight_shapes()))
        levels = self.levels_
        stored = orders and self.orders_ is not None
        if stored and self.orders_ is not None:
            packed = [
                pack_integers(order[:size], bits)
                for size, bits, order in zip(levels.shape, levels.bits, self.orders_, strict=True)
            ]
            tensors["order"] = np.concatenate(packed)
        metadata = {
            "shape": list(self._fitted_shape or self.inner_shape_),
            "hidden": self.hidden,
            "log_q": float(self.arrays_["log_q"]),
            "orders": stored,
        }
        unusual = {
            "cell": (self.cell, "lstm"),
            "seed": (self.seed, 0),
            "weights": (self.weights_, "float32"),
            "heads": (list(self.head_alphabets_), list(levels.head_alphabets)),
        }
        return tensors, metadata | {name: value for name, (value, usual) in unusual.items() if value != usual}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        """Of format version 1 the weights are arrays of their own, and so is each mode's order."""
        metadata = {"cell": "lstm", "seed": 0, "weights": "float32"} | contents.metadata
        metadata.setdefault("levels", sorted(contents.shape()))
        contents = Contents(contents.tensors, metadata)
        hidden, cell = contents.whole("hidden", 1, LARGEST_WIDTH), contents.choice("cell", CELL_NAMES)
        model = cls(hidden=hidden, cell=cell, seed=contents.whole("seed", 0, 2**63))
        model.shape_ = shape = contents.shape()
        sizes = contents.wholes("levels", 1)
        if list(sizes) != sorted(shape) or len(sizes) > LARGEST_ORDER:
            raise InputError(f"sizes {shape} do not belong to levels of {sizes}")
        levels = Levels(sizes)
        metadata.setdefault("heads", list(levels.head_alphabets))
        heads = contents.wholes("heads", 2, 2**LARGEST_ORDER)
        if not set(levels.head_alphabets) <= set(heads) or len(set(heads)) < len(heads) or len(heads) > LARGEST_ORDER:
            raise InputError(f"output layers for {heads}, needed for {levels.head_alphabets}")
        model.weights_ = contents.choice("weights", KINDS)
        shapes = weight_shapes(levels, hidden, heads, cell)
        contents.permitted(4 * count(shapes), f"weights of hidden={hidden}")
        arrays = restored_weights(contents, model.weights_, shapes)
        model.own_indices_ = contents.flag("orders")
        contents.permitted(8 * sum(2**bits for bits in levels.bits), f"positions of a tensor of shape {shape}")
        orders = _orders(contents, levels) if model.own_indices_ else None
        model._set(levels, heads, arrays, orders)
        if not model.own_indices_:
            model._fitted_shape, ascending = shape, _ascending(shape)
            model.shape_ = tuple(2 ** levels.bits[ascending.index(mode)] for mode in range(len(shape)))
        return model

    @classmethod
    def from_parts(
        cls, levels: Levels, hidden: int, heads: tuple[int, ...], arrays: Arrays, orders: list[Order], X: SparseTensor
    ) -> Self:
        """Wrap trained weights and the orders of a tensor's modes (in ascending size), as an import does."""
        result = cls(hidden=hidden)
        result._taken(X)
        result.history_ = []
        shapes = weight_shapes(levels, hidden, heads, "lstm")
        if {name: array.shape for name, array in arrays.items()} != shapes | {"log_q": ()}:
            raise InputError(f"weights of other shapes than hidden={hidden} and sizes {levels.shape} have")
        result._set(levels, heads, arrays, [_completed(order, len(order)) for order in orders])
        return result

    def _set(self, levels: Levels, heads: tuple[int, ...], arrays: Arrays, orders: list[Order] | None) -> None:
        self.levels_, self.head_alphabets_, self.arrays_, self.orders_ = levels, heads, arrays, orders
        self._model = None


def _orders(contents: Contents, levels: Levels) -> list[Order]:
    """Positions of every mode's indices and its padding."""
    lengths = [(size * bits + 7) // 8 for size, bits in zip(levels.shape, levels.bits, strict=True)]
    if "order" in contents.tensors:
        packed = np.frombuffer(contents.code("order"), dtype=np.uint8)
        if len(packed) != sum(lengths):
            raise InputError(f"{len(packed):,} bytes of orders where {sum(lengths):,} belong")
        parts = np.split(packed, np.cumsum(lengths)[:-1])
    else:
        parts = [np.frombuffer(contents.code(f"order_{mode}"), dtype=np.uint8) for mode in range(len(lengths))]
    return [
        _completed(unpack_integers(part, bits, size), 2**bits)
        for part, size, bits in zip(parts, levels.shape, levels.bits, strict=True)
    ]


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
