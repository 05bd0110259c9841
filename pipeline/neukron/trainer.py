"""Fit model and orders together: the published schedule, and a faster one.

The squared error over the padded grid is, by Lemma 1, ``norm2 + s^2 - 2 s T`` with the scale s and
``T = sum x P`` over the non-zeros. ``paper`` follows the publication: every epoch two rounds of reordering
all modes, then one full-batch Adam step with its safeguard. ``fast`` takes many steps an epoch on
mini-batches of T, sets s to its best value T in closed form, and reorders some modes in turn once the model has
warmed up, so that an untrained model never destroys a good initial order.

Several processes each hold a share of the non-zeros (:mod:`pipeline.runs.shards`) and exchange them before each epoch,
so that each has a run of the sorted keys. Sums over the non-zeros are over all processes, everything else is alike
in all of them, and a mini-batch is that of one process, drawn from all.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.neukron.adam import Adam
from pipeline.neukron.cells import CELLS
from pipeline.neukron.dispatch import products_at
from pipeline.neukron.engine import Engine
from pipeline.neukron.evaluation import weighted_sum
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.order_search import initial_orders, reorder_mode
from pipeline.neukron.threads import one_thread
from pipeline.runs import distributed, shards
from pipeline.runs.checkpoint import check_like, check_optimiser
from pipeline.sparse.orders import Order

IMPROVEMENT = 1.0e-5  # smallest relative gain that counts as progress
GUARD = 1.1  # a step may raise the loss by this factor at most
GUARD_TRIES = 10
PAPER_ROUNDS = 2
WARM_UP = 15  # epochs of the fast schedule before the first reordering, or a third of all if fewer, at least one
BATCH = 1024  # non-zeros in a mini-batch
FAST_ROUNDS = 2  # at most, of reordering all modes in an epoch
STEPS = (16, 128)  # fewest and most mini-batches an epoch
WHOLE_PASS = 30  # hidden size whose mini-batches of an epoch are a pass; of a smaller one, as much less of it
SWEEPS = 120  # reorderings of a mode for each pass, times the hidden size: a small model leaves more to the orders
DECAY = 0.5  # of the learning rate after DECAY_PATIENCE epochs without a new best
DECAY_PATIENCE = 8
PAPER_RATE = 1.0e-3
FAST_RATE = 0.1  # over the square root of the hidden size
SMALLEST_SCALE = 1.0e-6  # as a share of ||X||, where the best scale is not positive
LEAST_DIVISOR = 0.01  # of a mini-batch's gradient, as a share of ||X||: Adam's moments would overflow
TRIAL_SHARE = 0.1  # of a limit in seconds that a trial of one initial order may take
PLAIN_STATE = ("error", "best_error", "epoch", "stale", "seconds", "order_seconds", "cpu_seconds", "history")
TRIAL_EPOCHS = (3, 8)  # of a trial of initial orders, within these a third of the run's; a small model needs eight
TRIAL_ORDERS = ("degree", "lexicographic", "bisection")
BISECTION_ENTRIES = 1 << 17  # non-zeros times other modes: with more, trying bisection takes longer than it gains
TRIAL_NNZ = 1 << 15  # a trial of initial orders sees at most so many non-zeros


@dataclass
class Options:
    """How to train; see :class:`pipeline.neukron.NeuKron` for each."""

    schedule: str
    gamma: float
    lr: float | None
    max_epochs: int | None
    max_seconds: float | None
    patience: int
    seed: int
    cell: str = "lstm"
    by_shingle: bool = True  # False: pairs of indices are drawn uniformly
    learn_scale: bool = True  # False: s stays ||X||


@dataclass
class TrainingState:
    """Everything that decides the rest of a run."""

    model: SequenceModel
    optimiser: Adam
    orders: list[Order]
    products: npt.NDArray[np.float64]  # P at this process's non-zeros under the present model and orders
    rng: np.random.Generator
    error: float = math.inf
    best_error: float = math.inf
    best_weights: dict[str, Any] = field(default_factory=dict)
    best_orders: list[Order] = field(default_factory=list)
    epoch: int = 0
    stale: int = 0  # epochs without progress, for stopping
    seconds: float = 0.0
    order_seconds: float = 0.0  # of these, of choosing and searching orders
    cpu_seconds: float = 0.0  # of all threads and processes
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains on one tensor.

    Parameters
    ----------
    levels, engine
        The level structure and what evaluates the model on it.
    coords, values
        (nnz, D) int64 with modes in ascending size, (nnz,) float64; of several processes each has a share of them.
    options
        How to train.
    """

    def __init__(
        self,
        levels: Levels,
        engine: Engine,
        coords: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
        options: Options,
    ) -> None:
        self.levels = levels
        self.engine = engine
        self.coords = coords
        self.values = values
        self.options = options
        self.nnz = int(distributed.total(len(values)))
        self.norm2 = distributed.total(float(np.sum(values * values)))

    def start(self, model: SequenceModel, orders: list[Order]) -> TrainingState:
        """State before the first epoch: the scale starts at ||X||."""
        model.set_scale(math.sqrt(self.norm2))
        model.log_q.requires_grad_(self.options.learn_scale)
        state = TrainingState(
            model, self._optimiser(model), orders, np.empty(0), np.random.default_rng([self.options.seed, 1])
        )
        self.refresh(state)
        return state

    def _optimiser(self, model: SequenceModel) -> Adam:
        fast = FAST_RATE * CELLS[model.cell].rate / math.sqrt(model.hidden)
        default = PAPER_RATE if self.options.schedule == "paper" else fast
        return Adam(model.parameters(), lr=self.options.lr or default)

    def snapshot(self, state: TrainingState) -> dict[str, Any]:
        """Everything of a state as tensors and plain values; without products where they lie in several processes."""
        return {
            "model": state.model.state_dict(),
            "optimiser": state.optimiser.state_dict(),
            "orders": [torch.from_numpy(order) for order in state.orders],
            "products": torch.from_numpy(state.products if distributed.size() == 1 else np.empty(0)),
            "rng": state.rng.bit_generator.state,
            "best_weights": state.best_weights,
            "best_orders": [torch.from_numpy(order) for order in state.best_orders],
            **{name: getattr(state, name) for name in PLAIN_STATE},
        }

    def restore(self, model: SequenceModel, saved: dict[str, Any]) -> TrainingState:
        """The state that a snapshot was taken of; training goes on with the same bits, within rounding if either the
        snapshot is of several processes or these are several.

        Raises
        ------
        pipeline.runs.checkpoint.UNFIT
            It is of another model or tensor, its orders are none, or a number is not finite.
        """
        entry = {"epoch": 0, "error": 0.0, "seconds": 0.0, "order_seconds": 0.0, "learning_rate": 0.0}
        identity = [torch.arange(2**bits) for bits in self.levels.bits]
        rng = np.random.default_rng()
        optimiser = self._optimiser(model)
        products = saved.get("products")
        left_out = isinstance(products, torch.Tensor) and len(products) == 0
        fresh = {
            "model": model.state_dict(), "optimiser": saved.get("optimiser"), "orders": identity,
            "products": torch.zeros(0 if left_out else self.nnz, dtype=torch.float64), "rng": rng.bit_generator.state,
            "best_weights": model.state_dict(), "best_orders": identity, "error": 0.0, "best_error": 0.0,
            "epoch": 0, "stale": 0, "seconds": 0.0, "order_seconds": 0.0, "cpu_seconds": 0.0,
            "history": [entry] * len(saved.get("history", ())),
        }  # fmt: skip
        check_like(saved, fresh, "state")
        for order in (*saved["orders"], *saved["best_orders"]):
            if not torch.equal(order.sort().values, torch.arange(len(order))):
                raise ValueError(f"an order of {len(order)} positions that is none")
        if not 1 <= saved["epoch"] == len(saved["history"]) or not 0 <= saved["stale"] <= saved["epoch"]:
            raise ValueError("its epochs are not those of its history")
        check_optimiser(saved["optimiser"], optimiser)
        model.load_state_dict(saved["model"])
        model.log_q.requires_grad_(self.options.learn_scale)
        optimiser.load_state_dict(saved["optimiser"])
        rng.bit_generator.state = saved["rng"]
        orders = [order.numpy() for order in saved["orders"]]
        state = TrainingState(model, optimiser, orders, saved["products"].numpy(), rng)
        state.best_weights = saved["best_weights"]
        state.best_orders = [order.numpy() for order in saved["best_orders"]]
        for name in PLAIN_STATE:
            setattr(state, name, saved[name])
        if left_out or distributed.size() > 1:
            state.products = self.evaluate(self._weights(state), orders)
        return state

    def run(self, state: TrainingState, after_epoch: Callable[[TrainingState], None]) -> None:
        """Train until the epochs or seconds are used up or nothing improves any more.

        `after_epoch` sees the state after each epoch; the best weights and orders are kept in it.
        """
        with one_thread():
            while not self.finished(state):
                self._epoch(state)
                after_epoch(state)

    def _epoch(self, state: TrainingState) -> None:
        """One epoch of the schedule, timed, and its entry of the history."""
        started, busy = time.perf_counter(), time.process_time()
        if self.options.schedule == "paper":
            self.paper_epoch(state)
        else:
            self.fast_epoch(state)
        state.epoch += 1
        state.seconds += distributed.from_first(time.perf_counter() - started)  # may end the run: for all alike
        state.cpu_seconds += distributed.total(time.process_time() - busy)
        self._keep_best(state)
        state.history.append(
            {
                "epoch": state.epoch,
                "error": state.error,
                "seconds": state.seconds,
                "order_seconds": state.order_seconds,
                "learning_rate": float(state.optimiser.param_groups[0]["lr"]),
            }
        )

    def finished(self, state: TrainingState) -> bool:
        """Whether a limit is reached or patience has run out, after one epoch at the earliest."""
        limits = self.options
        if state.epoch == 0:
            return False
        return (
            (limits.max_epochs is not None and state.epoch >= limits.max_epochs)
            or (limits.max_seconds is not None and state.seconds >= limits.max_seconds)
            or state.stale >= limits.patience
        )

    def _keep_best(self, state: TrainingState) -> None:
        gained = not math.isfinite(state.best_error) or (
            (state.best_error - state.error) >= IMPROVEMENT * state.best_error
        )
        state.stale = 0 if gained else state.stale + 1
        if state.error < state.best_error:
            state.best_error = state.error
            state.best_weights = copy.deepcopy(state.model.state_dict())
            state.best_orders = [order.copy() for order in state.orders]

    # ------------------------------------------------------------------ evaluation

    def sorted_keys(self, orders: list[Order]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sorted keys of the non-zeros under `orders`, and which non-zero each belongs to."""
        return self.levels.sorted_keys(self.coords, orders)

    def regroup(self, state: TrainingState) -> None:
        """Give each of several processes one run of the sorted keys, so that its non-zeros share prefixes."""
        if distributed.size() > 1:
            owner = shards.owners(self.levels.keys(self.coords, state.orders))
            own = distributed.exchanged([self.coords, self.values, state.products], owner)
            self.coords, self.values, state.products = own

    def evaluate(self, weights: Weights, orders: list[Order]) -> npt.NDArray[np.float64]:
        """P at every non-zero of this process."""
        return products_at(self.engine, weights, self.coords, orders)

    def refresh(self, state: TrainingState) -> None:
        """Recompute the products and the error after the model has changed."""
        state.products = self.evaluate(self._weights(state), state.orders)
        self._measure(state)

    def _measure(self, state: TrainingState) -> None:
        scale = state.model.scale()
        state.error = max(self.norm2 + scale * (scale - 2.0 * self._sum(state)), 0.0)

    def _sum(self, state: TrainingState) -> float:
        """T, the sum of x P, by pairwise summation: BLAS's threads would go on spinning beside the mini-batches."""
        return distributed.total(float(np.sum(self.values * state.products)))

    @staticmethod
    def _weights(state: TrainingState) -> Weights:
        with torch.no_grad():
            return Weights.of(state.model)

    def reorder(self, state: TrainingState, modes: Iterable[int]) -> None:
        """Improve the order of each of `modes` once."""
        started = time.perf_counter()
        weights = self._weights(state)
        gain = 2.0 * state.model.scale() * self.values
        for mode in modes:
            state.products = reorder_mode(
                mode,
                self.levels,
                self.coords,
                gain,
                state.orders,
                state.products,
                lambda orders: self.evaluate(weights, orders),
                self.options.gamma,
                state.rng,
                self.options.by_shingle,
            )
        self._measure(state)
        state.order_seconds += time.perf_counter() - started

    # ------------------------------------------------------------------ schedules

    def paper_epoch(self, state: TrainingState) -> None:
        """Two rounds of reordering, then one full-batch Adam step.

        While the step raises the loss by more than a tenth it is taken back and tried with a tenth of the
        learning rate, at most ten times; afterwards the learning rate is what it was.
        """
        self.regroup(state)
        for _ in range(PAPER_ROUNDS):
            self.reorder(state, range(len(self.levels.bits)))
        keys, permutation = self.sorted_keys(state.orders)
        state.optimiser.zero_grad()
        total, _ = weighted_sum(self.engine, state.model, keys, self.values[permutation])
        scale = torch.exp(0.5 * self.levels.depth * state.model.log_q)
        (scale * scale - 2.0 * scale * total).backward()  # type: ignore[no-untyped-call]
        before = state.error
        model, optimiser = copy.deepcopy(state.model.state_dict()), copy.deepcopy(state.optimiser.state_dict())
        rate = state.optimiser.param_groups[0]["lr"]
        for attempt in range(GUARD_TRIES + 1):
            state.optimiser.param_groups[0]["lr"] = rate * 0.1**attempt
            state.optimiser.step()
            self.refresh(state)
            if state.error <= GUARD * before:
                break
            state.model.load_state_dict(model)
            state.optimiser.load_state_dict(copy.deepcopy(optimiser))
        else:
            self.refresh(state)
        state.optimiser.param_groups[0]["lr"] = rate

    def fast_epoch(self, state: TrainingState) -> None:
        """Mini-batch steps on T, the best scale, and, once warm, some reordering."""
        self.regroup(state)
        keys, permutation = self.sorted_keys(state.orders)
        bounds = np.cumsum(np.abs(self.values[permutation]))
        edges = np.cumsum([0.0, *distributed.gathered(float(bounds[-1]) if len(bounds) else 0.0)])
        sign = np.sign(self.values[permutation])
        steps = int(np.clip(self.nnz * min(state.model.hidden, WHOLE_PASS) // (WHOLE_PASS * BATCH), *STEPS))
        divisor = max(state.model.scale(), LEAST_DIVISOR * math.sqrt(self.norm2))  # no mini-batch changes the scale
        for _ in range(steps):
            batch, counts = self._draw(bounds, edges, state.rng)
            factors = sign[batch] * counts * (edges[-1] / (BATCH * divisor))
            state.optimiser.zero_grad()
            total, _ = weighted_sum(self.engine, state.model, np.ascontiguousarray(keys[:, batch]), factors)
            (-total).backward()  # type: ignore[no-untyped-call]
            state.optimiser.step()
        state.products = self.evaluate(self._weights(state), state.orders)
        if self._warm(state):
            self.reorder(state, self._modes_in_turn(state, steps))
        if self.options.learn_scale:
            state.model.set_scale(max(self._sum(state), SMALLEST_SCALE * math.sqrt(self.norm2)))
        self._measure(state)
        self._control_rate(state)

    @staticmethod
    def _draw(
        bounds: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """A mini-batch of T = sum x P: non-zeros drawn with chances proportional to |x|, one from each stratum.

        Strata are equal shares of the cumulative |x|, along the sorted keys, so that a batch covers the tree evenly:
        `bounds` of this process, `edges` where each process begins and the last one ends. Returns this process's
        drawn places, ascending, and how often each was drawn.
        """
        points = (np.arange(BATCH) + rng.random(BATCH)) * (edges[-1] / BATCH)
        mine = distributed.rank()
        points = points[_owner(points, edges) == mine] - edges[mine]
        drawn = np.minimum(np.searchsorted(bounds, points, side="right"), len(bounds) - 1)
        places, counts = np.unique(drawn, return_counts=True)
        return places, counts

    def _modes_in_turn(self, state: TrainingState, steps: int) -> list[int]:
        """Modes to reorder after `steps` mini-batches, in rotation: at most two rounds.

        How many was found by trial on email with h = 5 .. 30, by the error after a minute.
        """
        order = len(self.levels.bits)
        count = int(np.clip(SWEEPS / state.model.hidden * steps * BATCH / self.nnz, 1, FAST_ROUNDS * order))
        return [(state.epoch * count + turn) % order for turn in range(count)]

    def _warm(self, state: TrainingState) -> bool:
        """Whether the model knows enough to judge orders."""
        epochs = self.options.max_epochs
        return state.epoch >= (WARM_UP if epochs is None else min(WARM_UP, max(1, epochs // 3)))

    def _control_rate(self, state: TrainingState) -> None:
        """Lower the learning rate when several epochs in a row brought no new best."""
        recent = [row["error"] for row in state.history[-DECAY_PATIENCE:]]
        group = state.optimiser.param_groups[0]
        if len(recent) == DECAY_PATIENCE and min(recent) > state.best_error and state.error > state.best_error:
            changed = [row["learning_rate"] for row in state.history[-DECAY_PATIENCE:]]
            if min(changed) == max(changed):
                group["lr"] *= DECAY


def _owner(points: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The process that each point lies in; what rounding puts beyond the end is of the last one that has anything."""
    last = np.flatnonzero(np.diff(edges))[-1]
    owner: npt.NDArray[np.intp] = np.minimum(np.searchsorted(edges[1:-1], points, side="right"), last)
    return owner


def choose_orders(
    levels: Levels,
    engine: Engine,
    coords: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    hidden: int,
    options: Options,
    kind: str,
    after_epoch: Callable[[TrainingState], None] = lambda _: None,
) -> list[Order]:
    """Initial orders of the wanted kind; ``auto`` trains a few epochs on each candidate and keeps the best.

    Bisection is a candidate where it takes seconds, up to 2^17 neighbours. A trial sees at most 2^15 non-zeros,
    drawn uniformly; every candidate starts from the same model. Of a limit in seconds each trial takes a tenth at
    most, and after three tenths no further one is begun. `after_epoch` sees every epoch of a trial.
    """
    started = time.perf_counter()
    rng = np.random.default_rng([options.seed, 2])
    if kind != "auto":
        return initial_orders(kind, levels, coords, values, rng)
    fewest, most = TRIAL_EPOCHS
    epochs = most if options.max_epochs is None else int(np.clip(options.max_epochs // 3, fewest, most))
    limit = options.max_seconds
    share = None if limit is None else TRIAL_SHARE * limit
    trial = replace(options, schedule="fast", max_epochs=epochs, max_seconds=share)
    counts = distributed.gathered(len(values))
    before, nnz = sum(counts[: distributed.rank()]), sum(counts)
    shown = np.arange(len(values))
    if nnz > TRIAL_NNZ:
        drawn = np.sort(rng.choice(nnz, TRIAL_NNZ, replace=False)) - before
        shown = drawn[(drawn >= 0) & (drawn < len(values))]
    results: list[tuple[float, list[Order]]] = []
    entries = nnz * (len(levels.bits) - 1)
    for candidate in TRIAL_ORDERS if entries <= BISECTION_ENTRIES else TRIAL_ORDERS[:-1]:
        elapsed = distributed.from_first(time.perf_counter() - started)  # the same decision in all processes
        if results and limit is not None and elapsed > len(TRIAL_ORDERS) * TRIAL_SHARE * limit:
            break
        orders = initial_orders(candidate, levels, coords, values, rng)
        trainer = Trainer(levels, engine, coords[shown], values[shown], trial)
        model = SequenceModel(levels, hidden, options.seed, cell=options.cell)
        state = trainer.start(model, [order.copy() for order in orders])
        trainer.run(state, after_epoch)
        results.append((state.best_error, orders))
    return min(results, key=lambda result: result[0])[1]
