"""Train a network by a sparsity method, and time its step beside its dense twin."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipeline.core.settings import settings_of
from pipeline.errors import InputError
from pipeline.kpd.blocks import block_layers
from pipeline.kpd.conversion import Report
from pipeline.kpd.data import LabelledImages, augmented, mixed
from pipeline.kpd.deployment import deploy
from pipeline.kpd.inference import dense_twin
from pipeline.kpd.networks import build
from pipeline.kpd.sparsifier import Sparsifier
from pipeline.kpd.sparsity_methods import Dense, KPDChoice, make
from pipeline.runs import distributed
from pipeline.runs.checkpoint import UNFIT, check_like, check_optimiser

EVALUATION_BATCH = 2048
EXPLODED = 100.0  # mean loss of an epoch, in losses of a network that knows nothing, that no training comes back from


class StateStore(Protocol):
    """Where training leaves its state; :class:`pipeline.runs.checkpoint.Checkpoint` is one."""

    @property
    def asked_to_stop(self) -> bool:
        """Whether the run should stop after its next state."""

    def load(self) -> dict[str, Any] | None:
        """Return an earlier state, if there is one."""

    def set_aside(self, reason: str) -> None:
        """Put away a state that cannot be taken up."""

    def save(self, state: dict[str, Any], *, force: bool = False) -> None:
        """Take the present state, at once if `force`; raise KeyboardInterrupt if asked to stop."""


@dataclass
class Trained:
    """A trained network and how it came about.

    Attributes
    ----------
    network
        The one of the best validation accuracy among the epochs with the final support.
    history
        One dict an epoch: ``epoch, loss, validation_accuracy, block_sparsity``, and ``seconds`` and ``cpu_seconds``
        (processor time) since the start.
    setup_seconds
        Wall time before that, for compiling kernels.
    report
        Which layers were swapped; None for a dense network.
    """

    network: nn.Module
    history: list[dict[str, Any]]
    validation_accuracy: float
    test_accuracy: float
    train_loss: float
    block_sparsity: float
    report: Report | None
    setup_seconds: float = 0.0


class Trainer:
    """Minimises the cross-entropy on the training part by AdamW with a cosine learning rate.

    Parameters
    ----------
    method
        From :func:`pipeline.kpd.sparsity_methods.make`; used up by the run.
    data
        The images; every choice is made on the validation part, the test part is used once, at the end.
    seed
        Decides the initial parameters and the order of the images.
    device
        Where to train.

    Notes
    -----
    Where several processes have joined (:mod:`pipeline.runs.distributed`), each takes its share of each batch;
    all end with the same network, and the first one keeps the state.
    """

    def __init__(self, method: Dense, data: LabelledImages, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if method.augment != "none" and len(data.image_shape) < 2:
            raise InputError(f"augment={method.augment}: needs images with rows and columns; take none")
        self.method, self.data, self.seed = method, data, seed
        self.steps = method.epochs * -(-len(data.train) // method.batch)
        self.sparsifier = fresh_sparsifier(method, data, seed, self.steps)
        self.network, self.report = self.sparsifier.model, self.sparsifier.report
        self.network.to(device)
        self.rank, self.world = distributed.rank(), distributed.size()
        self.parallel: nn.Module = self.network
        if self.world > 1:
            unused = isinstance(method, KPDChoice)  # candidates that are gone get no gradient
            self.parallel = DistributedDataParallel(self.network, find_unused_parameters=unused)
        self.images = torch.from_numpy(data.images).to(device)
        self.labels = torch.from_numpy(data.labels).to(device)
        self.optimizer = torch.optim.AdamW(self.sparsifier.parameter_groups(), lr=method.lr, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, Any]] = []
        self.setup_seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.before = {"seconds": 0.0, "cpu_seconds": 0.0}  # a teacher's training

    def run(self, progress: Callable[[dict[str, Any]], None] | None = None, state: StateStore | None = None) -> Trained:
        """Train to the end, from an earlier `state` if there is one; tell `progress` each epoch's entry."""
        earlier = distributed.from_first(state.load() if state is not None and self.rank == 0 else None)
        started = time.perf_counter()
        self.warm_up()
        self.setup_seconds = time.perf_counter() - started
        if self.method.distil:
            self.sparsifier.teacher = self.teacher(is_trained=earlier is not None)
        if earlier is not None:
            try:
                self.load_state_dict(earlier)
            except UNFIT as error:
                raise self._unfit(state, str(error)) from error
            for entry in self.history if progress is not None else []:
                progress(entry)  # type: ignore[misc]
        try:
            return self._run_on(progress, state)
        except UNFIT as error:
            if earlier is None:
                raise
            raise self._unfit(state, f"the run that went on from it failed: {error}") from error

    def _unfit(self, state: StateStore | None, reason: str) -> InputError:
        """Put away a state that would fail each time."""
        if state is not None and self.rank == 0:
            state.set_aside(reason)
        return InputError("the state of an earlier run does not fit; give the command again, which starts anew")

    def _run_on(self, progress: Callable[[dict[str, Any]], None] | None, state: StateStore | None) -> Trained:
        with torch.random.fork_rng([self.images.device] if self.images.is_cuda else []):
            while len(self.history) < self.method.epochs:
                self.epoch()
                if progress is not None:
                    progress(self.history[-1])
                if state is not None:
                    self.keep(state)
        return self.finish()

    def teacher(self, is_trained: bool) -> nn.Module:
        """The dense network of the same settings and seed; not trained where its state is about to be loaded."""
        shared = {name: getattr(self.method, name) for name in settings_of(Dense)}
        trainer = Trainer(make("dense", shared), self.data, self.seed, self.images.device)
        if is_trained:
            return trainer.network.eval()
        trained = trainer.run()
        self.before = {name: trained.history[-1][name] for name in self.before}
        return trained.network

    def warm_up(self) -> None:
        """A step of a copy, so that no epoch's time holds imports and the compiling of kernels."""
        copied = copy.deepcopy(self.network).train()
        first = torch.from_numpy(self.data.train[: self.method.batch]).to(self.images.device)
        with torch.random.fork_rng([self.images.device] if self.images.is_cuda else []):
            cross_entropy(copied(self.images[first]), self.labels[first]).backward()  # type: ignore[no-untyped-call]

    def keep(self, state: StateStore) -> None:
        """Leave the present state; stop, all processes at once, where one was asked to."""
        stops = distributed.any_process(state.asked_to_stop)
        if self.rank == 0:
            state.save(self.state_dict(), force=stops)
        if stops:
            raise KeyboardInterrupt

    def epoch(self) -> None:
        """Pass over the training part once and add an entry to the history."""
        started, busy = time.perf_counter(), time.process_time()
        self.network.train()
        total = torch.zeros((), dtype=torch.float64)
        for index in self.batches():
            self.optimizer.zero_grad(set_to_none=True)
            own = index[self.rank :: self.world].to(self.images.device)
            # A share of the batch's mean: the processes' gradients are averaged.
            share = self.loss(self.images[own], self.labels[own]) * self.world / len(index)
            share.backward()  # type: ignore[no-untyped-call]
            if not self.sparsifier.before_step(self.optimizer):
                self.optimizer.step()
            self.schedule.step()
            self.sparsifier.step(self.optimizer)
            total += share.detach().double().cpu() * len(index) / self.world
        distributed.sum_over_processes(total)
        loss = float(total) / len(self.data.train)
        if not loss < EXPLODED * math.log(self.data.classes + 1):
            raise InputError(
                f"lr={self.method.lr}: training diverged in epoch {len(self.history) + 1} (loss {loss:.3g}); "
                "take a lower one"
            )
        validation = accuracy(self.network, self.images, self.labels, self.data.validation)
        number = len(self.history) + 1
        before = self.history[-1] if self.history else self.before
        entry = {
            "epoch": number,
            "loss": loss,
            "validation_accuracy": validation,
            "block_sparsity": block_sparsity(self.network),
            "seconds": before["seconds"] + time.perf_counter() - started,
            "cpu_seconds": before["cpu_seconds"] + distributed.total(time.process_time() - busy),
        }
        self.history.append(entry)
        is_final = self.method.is_final(number / self.method.epochs)
        if is_final and (self.best is None or validation > self.best["validation_accuracy"]):
            self.best = {"validation_accuracy": validation, "network": copy.deepcopy(self.network.state_dict())}

    def rate(self, step: int) -> float:
        """Share of the learning rate to use for the step after `step` steps; the first one is not lost to a warm-up."""
        return self.method.rate(max(step, 1 if self.method.warmup else 0) / self.steps)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies of this process's share of a batch, augmented and mixed."""
        torch.manual_seed(self.own_seed())  # of layers that draw, such as dropout
        generator = torch.Generator().manual_seed(self.own_seed())
        images = augmented(images, self.method.augment, generator)
        share, partner = 1.0, None
        if self.method.mixup and len(images) > 1:
            images, partner, share = mixed(images, self.method.mixup, generator)
        outputs = self.parallel(images)
        smoothing = self.method.label_smoothing
        loss = share * cross_entropy(outputs, labels, reduction="sum", label_smoothing=smoothing)
        if partner is not None:
            second = cross_entropy(outputs, labels[partner], reduction="sum", label_smoothing=smoothing)
            loss = loss + (1.0 - share) * second
        if distil := self.method.distil:
            loss = (1.0 - distil) * loss + distil * len(images) * self.sparsifier.distillation(outputs, images)
        return loss

    def own_seed(self) -> int:
        """Seed of this step's random numbers on this process."""
        return (self.seed << 32) + self.sparsifier.steps * self.world + self.rank

    def batches(self) -> Iterator[Tensor]:
        """Indices of the training images in a fresh order, a batch at a time."""
        order = torch.randperm(len(self.data.train), generator=self.generator)
        yield from torch.split(torch.from_numpy(self.data.train)[order], self.method.batch)

    def finish(self) -> Trained:
        """Go back to the best epoch and test it."""
        if self.best is None:
            raise InputError(
                f"epochs={self.method.epochs}, batch={self.method.batch}: {self.steps} steps are too few for method "
                f"'{self.method.name}' to reach its final support; take more epochs or a smaller batch"
            )
        self.network.load_state_dict(self.best["network"])
        self.sparsifier.finish()
        self.network.eval()
        return Trained(
            network=self.network,
            history=self.history,
            validation_accuracy=self.best["validation_accuracy"],
            test_accuracy=accuracy(self.network, self.images, self.labels, self.data.test),
            train_loss=self.history[-1]["loss"],
            block_sparsity=block_sparsity(self.network),
            report=self.report,
            setup_seconds=self.setup_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on as if never interrupted."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.history,
            "best": self.best,
            "teacher": None if self.sparsifier.teacher is None else self.sparsifier.teacher.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`.

        Raises
        ------
        pipeline.runs.checkpoint.UNFIT
            It is of another method or network, or a number is not finite.
        """
        fresh = self.state_dict()
        entry = {"epoch": 0, "loss": 0.0, "validation_accuracy": 0.0, "block_sparsity": 0.0}
        entry |= {"seconds": 0.0, "cpu_seconds": 0.0}
        check_like(state["sparsifier"], fresh["sparsifier"], "sparsifier")
        check_like(state["history"], [entry] * len(state["history"]), "history")
        for name in ("generator", "schedule"):
            check_like(state[name], fresh[name], name)
        epochs, step = len(state["history"]), state["sparsifier"]["steps"]
        if not 1 <= epochs <= self.method.epochs or step * self.method.epochs != epochs * self.steps:
            raise ValueError(f"{step} steps in {epochs} epochs")
        rates = state["schedule"]
        if rates["base_lrs"] != fresh["schedule"]["base_lrs"] or rates["last_epoch"] != step:
            raise ValueError("its learning rates are others")
        check_optimiser(state["optimizer"], self.optimizer)
        self.sparsifier.load_state_dict(state["sparsifier"])  # first: it may take candidates out of the network
        network = self.network.state_dict()
        check_like(state["network"], network, "network")
        if state["best"] is not None:
            check_like(state["best"], {"validation_accuracy": 0.0, "network": network}, "best")
        if self.sparsifier.teacher is not None:
            check_like(state["teacher"], fresh["teacher"], "teacher")
            self.sparsifier.teacher.load_state_dict(state["teacher"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.history, self.best = state["history"], state["best"]


def train(
    method: Dense,
    data: LabelledImages,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
    state: StateStore | None = None,
) -> Trained:
    """Train a network on `data` by `method`; see :class:`Trainer`."""
    return Trainer(method, data, seed, device).run(progress, state)


def fresh_sparsifier(method: Dense, data: LabelledImages, seed: int, steps: int = 1) -> Sparsifier:
    """Make the method's network with parameters that depend on `seed` alone, ready for `steps` steps of training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(method.network, data.image_shape, data.classes)
        return Sparsifier(network, method, total_steps=steps, keep_weights=False)


def fresh_network(method: Dense, data: LabelledImages, seed: int) -> tuple[nn.Module, Report | None]:
    """Return the network before training, and which layers the method swapped; see :func:`fresh_sparsifier`."""
    sparsifier = fresh_sparsifier(method, data, seed)
    return sparsifier.model, sparsifier.report


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, part: Any) -> float:
    """Share of the images at the indices `part` that `network` puts into their class."""
    network.eval()
    right = 0
    for index in torch.split(torch.as_tensor(part), EVALUATION_BATCH):
        chosen = index.to(images.device)
        right += int((network(images[chosen]).argmax(dim=1) == labels[chosen]).sum())
    return right / len(part)


def block_sparsity(network: nn.Module) -> float:
    """Share of the blocks of all block-sparse layers that are exactly zero; 0 for a dense network."""
    zeros = [layer.zero_blocks() for layer in block_layers(network).values()]
    blocks = sum(zero.numel() for zero in zeros)
    return sum(int(zero.sum()) for zero in zeros) / blocks if blocks else 0.0


def step_seconds(networks: list[nn.Module], images: Tensor, labels: Tensor, repeats: int = 30) -> list[float]:
    """Median wall time of a training step (forward, backward, AdamW) of each network, taken in turn."""
    pairs = [(network, torch.optim.AdamW(network.parameters(), fused=True)) for network in map(copy.deepcopy, networks)]
    times: list[list[float]] = [[] for _ in pairs]
    for repeat in range(repeats + 3):
        for (network, optimizer), own in zip(pairs, times, strict=True):
            _wait(images)
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(network.train()(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _wait(images)
            if repeat >= 3:  # the first ones warm up
                own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


@torch.no_grad()
def inference_seconds(network: nn.Module, images: Tensor, repeats: int = 30) -> tuple[float, float]:
    """Median wall time to classify `images` by the deployed network and by its dense twin, taken in turn."""
    pair = (deploy(network, images)[0], dense_twin(network).eval())
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 3):
        for twin, own in zip(pair, times, strict=True):
            _wait(images)
            started = time.perf_counter()
            twin(images)
            _wait(images)
            if repeat >= 3:  # the first ones warm up
                own.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
