"""Train a network by a sparsity method, and time its step beside its dense twin."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.kpd.data import LabelledImages
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.methods import Dense
from pipeline.kpd.networks import build

EVALUATION_BATCH = 4096


@dataclass
class Trained:
    """A trained network and how it came about.

    Attributes
    ----------
    network
        The one of the best validation accuracy among the epochs with the final support.
    history
        One dict an epoch: ``epoch, loss, validation_accuracy, block_sparsity, seconds``.
    """

    network: nn.Module
    history: list[dict[str, Any]]
    validation_accuracy: float
    test_accuracy: float
    train_loss: float
    block_sparsity: float


def fresh_network(method: Dense, data: LabelledImages, seed: int) -> nn.Module:
    """Make the method's network with parameters that depend on `seed` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(method.network, data.image_shape, data.classes)
        method.prepare(network)
    return network


def train(
    method: Dense,
    data: LabelledImages,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Trained:
    """Minimise the cross-entropy on the training part by AdamW with a cosine learning rate.

    Parameters
    ----------
    method
        From :func:`pipeline.kpd.methods.make`; used up by this run.
    data
        The images; every choice is made on the validation part, the test part is used once, at the end.
    seed
        Decides the initial parameters and the order of the images.
    device
        Where to train.
    progress
        Called with each epoch's entry of the history.
    """
    network = fresh_network(method, data, seed).to(device)
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    optimizer = torch.optim.AdamW(method.parameter_groups(network), lr=method.lr)
    steps_per_epoch = -(-len(data.train) // method.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, method.epochs * steps_per_epoch)
    generator = torch.Generator().manual_seed(seed)
    train_part = torch.from_numpy(data.train)
    history: list[dict[str, Any]] = []
    best: tuple[float, dict[str, Tensor]] | None = None
    step = 0
    for epoch in range(1, method.epochs + 1):
        started = time.perf_counter()
        network.train()
        total = torch.zeros((), dtype=torch.float64)
        for batch in torch.split(train_part[torch.randperm(len(train_part), generator=generator)], method.batch):
            index = batch.to(device)
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(network(images[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
            method.after_step(step / (method.epochs * steps_per_epoch))
            total += loss.detach().double().cpu() * len(batch)
        is_final = method.frozen(epoch / method.epochs)
        validation = accuracy(network, images, labels, data.validation)
        history.append(
            {
                "epoch": epoch,
                "loss": float(total) / len(train_part),
                "validation_accuracy": validation,
                "block_sparsity": block_sparsity(network),
                "seconds": time.perf_counter() - started,
            }
        )
        if progress is not None:
            progress(history[-1])
        if is_final and (best is None or validation > best[0]):
            best = (validation, copy.deepcopy(network.state_dict()))
    assert best is not None  # the last epoch's support is final by every method's contract  # noqa: S101
    network.load_state_dict(best[1])
    network.eval()
    return Trained(
        network=network,
        history=history,
        validation_accuracy=best[0],
        test_accuracy=accuracy(network, images, labels, data.test),
        train_loss=history[-1]["loss"],
        block_sparsity=block_sparsity(network),
    )


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
    zeros = [layer.zero_blocks() for layer in network.modules() if isinstance(layer, KPDLinear)]
    blocks = sum(zero.numel() for zero in zeros)
    return sum(int(zero.sum()) for zero in zeros) / blocks if blocks else 0.0


def step_seconds(networks: list[nn.Module], images: Tensor, labels: Tensor, repeats: int = 30) -> list[float]:
    """Median wall time of a training step (forward, backward, AdamW) of each network, taken in turn."""
    pairs = [(network, torch.optim.AdamW(network.parameters())) for network in map(copy.deepcopy, networks)]
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
    return [sorted(own)[len(own) // 2] for own in times]


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def dense_twin(network: nn.Module) -> nn.Module:
    """Return a copy of `network` whose block-sparse layers are dense ones with the same weights."""
    twin = copy.deepcopy(network)
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, KPDLinear):
            twin.set_submodule(name, layer.to_dense())
    return twin
