"""Sparsity methods: what happens to a network's blocks before, during and after training.

All have one shape. A method is a dataclass of settings with defaults; ``prepare`` swaps layers,
``parameter_groups`` says what decays, ``after_step`` runs after every step of the optimiser and
``freeze`` fixes the support at exactly the wanted number of zero blocks, after which only fine-tuning follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.errors import InputError, nearest
from pipeline.kpd.convert import convert
from pipeline.kpd.layer import KPDLinear

RAMP_START = 0.1  # share of training before the first block may become zero
RAMP_END = 0.6  # share of training at which the support is frozen
FIRST_THRESHOLD = 1.0e-4  # first soft threshold of the controlled penalty
GAIN = 1.05  # factor of the threshold from one step to the next


@dataclass(kw_only=True)
class Dense:
    """No sparsity: the twin that every method is compared with.

    Parameters
    ----------
    network
        A name in :data:`pipeline.kpd.networks.NETWORKS`.
    epochs, batch
        Passes over the training part, and images a step.
    lr
        Learning rate of AdamW, brought to zero by a cosine.
    weight_decay
        Decoupled decay of the weights (not of biases, S or B).
    """

    name: ClassVar[str] = "dense"

    network: str = "linear"
    epochs: int = 30
    batch: int = 64
    lr: float = 1.0e-2
    weight_decay: float = 1.0e-4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if not _whole(getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)}: needs a whole number of at least 1")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise InputError(f"lr={self.lr}, weight_decay={self.weight_decay}: neither may be negative, lr not zero")

    def prepare(self, network: nn.Module) -> None:
        """Swap the layers this method works on."""

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Parameters for the optimiser, those that decay apart from those that do not."""
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            (decayed if _decays(name, parameter) else free).append(parameter)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def after_step(self, progress: float) -> None:
        """Act on the layers after a step of the optimiser; `progress` is the share of training done."""

    def frozen(self, progress: float) -> bool:
        """Whether the support no longer changes, so that epochs may be compared."""
        return True

    def freeze(self) -> None:
        """Fix the support."""


@dataclass(kw_only=True)
class KPD(Dense):
    """W = sum_i (S * A_i) kron B_i with an l1 penalty on S, controlled so that the wanted share of blocks is zero.

    The soft threshold follows each step: it grows while fewer blocks are zero than a cubic ramp wants
    (from none at a tenth of training to `block_sparsity` at six tenths) and shrinks while more are, and it
    never zeroes more than `block_sparsity`. Then the support is frozen and the rest fine-tuned.

    Parameters
    ----------
    block
        Rows and columns of a block.
    rank
        Terms r.
    block_sparsity
        Share of each layer's blocks that end up exactly zero, reached to the nearest whole block.
    """

    name: ClassVar[str] = "kpd"

    block: tuple[int, int] = (2, 2)
    rank: int = 2
    block_sparsity: float = 0.5
    _layers: list[KPDLinear] = field(default_factory=list, init=False, repr=False)
    _thresholds: list[float] = field(default_factory=list, init=False, repr=False)
    _is_frozen: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.block, str) or len(self.block) != 2 or not all(_whole(side) for side in self.block):
            raise InputError(f"block={self.block}: needs rows and columns of a block, for example [2, 4]")
        self.block = (int(self.block[0]), int(self.block[1]))
        if not _whole(self.rank):
            raise InputError(f"rank={self.rank}: needs a whole number of at least 1")
        if not 0 <= self.block_sparsity < 1:
            raise InputError(f"block_sparsity={self.block_sparsity}: needs a share from 0 up to below 1")

    def prepare(self, network: nn.Module) -> None:
        """Swap every linear layer for a KPD layer."""
        convert(network, self.block, self.rank)
        self._layers = [layer for layer in network.modules() if isinstance(layer, KPDLinear)]
        self._thresholds = [FIRST_THRESHOLD] * len(self._layers)

    def after_step(self, progress: float) -> None:
        """Fix the gauge, then the proximal step with the controlled threshold."""
        for index, layer in enumerate(self._layers):
            layer.fix_gauge()
            if self._is_frozen:
                layer.set_support(layer.support)
            elif progress > RAMP_START and self.block_sparsity > 0:
                self._thresholds[index] = self._controlled(layer, self._thresholds[index], progress)

    def _controlled(self, layer: KPDLinear, threshold: float, progress: float) -> float:
        """Shrink `layer` by `threshold`, kept below what would zero too many blocks; return the next threshold."""
        done = min(1.0, (progress - RAMP_START) / (RAMP_END - RAMP_START))
        wanted = int(target_count(self.block_sparsity, layer.S.numel()) * (1.0 - (1.0 - done) ** 3))
        first_kept = torch.sort(layer.block_scores().flatten()).values[wanted]
        limit = torch.nextafter(first_kept, first_kept.new_zeros(()))
        layer.shrink(limit.clamp_max(threshold))
        return threshold * GAIN if int(layer.zero_blocks().sum()) < wanted else threshold / GAIN

    def frozen(self, progress: float) -> bool:
        """Whether the support is fixed; fixes it when its time has come."""
        if not self._is_frozen and progress >= RAMP_END:
            self.freeze()
        return self._is_frozen

    def freeze(self) -> None:
        """Zero exactly the wanted number of blocks, those of the smallest |S|, for good."""
        for layer in self._layers:
            layer.set_support(largest(layer.block_scores(), target_count(self.block_sparsity, layer.S.numel())))
        self._is_frozen = True


METHODS: dict[str, type[Dense]] = {"dense": Dense, "kpd": KPD}


def make(name: str, settings: dict[str, Any]) -> Dense:
    """Return the method called `name` with `settings` over its defaults.

    Raises
    ------
    InputError
        An unknown method or setting (the nearest name is suggested), or a value of the wrong kind.
    """
    if name not in METHODS:
        raise InputError(f"method '{name}' is unknown{nearest(name, METHODS)}")
    known = [entry.name for entry in fields(METHODS[name]) if entry.init]
    for key in settings:
        if key not in known:
            raise InputError(f"setting '{key}' does not exist for method '{name}'{nearest(key, known)}")
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise InputError(f"settings {settings} of method '{name}': wrong kind of value ({error})") from error


def target_count(share: float, blocks: int) -> int:
    """Return how many of `blocks` are zero at a sparsity of `share`; at least one stays.

    >>> target_count(0.5, 5), target_count(0.99, 3)
    (2, 2)
    """
    return min(round(share * blocks), blocks - 1)


def largest(scores: Tensor, zeros: int) -> Tensor:
    """Return which blocks stay when the `zeros` with the smallest scores go; ties go in order of position.

    >>> largest(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 2)
    tensor([[ True, False],
            [False,  True]])
    """
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[torch.sort(scores.flatten(), stable=True).indices[:zeros]] = False
    return keep.view_as(scores)


def _decays(name: str, parameter: Tensor) -> bool:
    """Weight decay bounds W: on weights and on A; S has its own penalty, B is kept at unit norm."""
    last = name.rpartition(".")[2]
    return last == "A" or (last not in ("S", "B") and parameter.ndim > 1)


def _whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
