"""Sparsity methods: what happens to a network's blocks before, during and after training.

All have one shape. A method is its settings, declared in :mod:`pipeline.kpd.settings`; ``prepare`` swaps layers,
``parameter_groups`` says what decays, ``before_step`` may take the optimiser's place, ``after_step`` runs
after every step, and from ``RAMP_END`` of training on the support is fixed at exactly the wanted number of
zero blocks, so that only fine-tuning follows.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.settings import check_given
from pipeline.errors import InputError, nearest
from pipeline.kpd.blocks import BlockLayer, BlockLinear, block_layers, of_columns, replaced
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.choice import BlockChoice, block_name
from pipeline.kpd.conversion import Report, Rule, factored, names_of, swap_layers
from pipeline.kpd.layer import KPDLinear, fitted_square, forget_inputs, kept_shares, observe_inputs
from pipeline.kpd.ordering import learn_order
from pipeline.kpd.settings import (
    BlockSettings,
    BTTSettings,
    DenseSettings,
    ElasticGroupLassoSettings,
    KPDChoiceSettings,
    KPDSettings,
    LayerSettings,
    MonarchSettings,
    PrunedSettings,
    RandomMaskSettings,
    RigLSettings,
    SRigLSettings,
)

RAMP_START = 0.1  # share of training before the first block may become zero
CHOICE_STEPS = 50  # that candidate blocks learn together before the first is on its way out ..
CHOICE_STARTS = (0.1, 0.2)  # .. but at least and at most these shares of training; at twice that one is left
RAMP_END = 0.6  # share of training at which the support is frozen
FIRST_THRESHOLD = 1.0e-4  # first soft threshold of the controlled penalty
ORDERS = 10  # times that an order of the inputs is learned while blocks go
GAIN = 1.05  # factor of the threshold from one step to the next
DRIVEN: WeakKeyDictionary[nn.Module, ReferenceType[Dense]] = WeakKeyDictionary()  # layers, and who makes them sparse


class Dense(DenseSettings):
    """No sparsity: the twin that every method is compared with."""

    name: ClassVar[str] = "dense"

    distil = 0.0  # a setting of the others

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.check_settings()

    def rate(self, progress: float) -> float:
        """Share of `lr` to use when a share `progress` of training is done: linear up to the warm-up, cosine down."""
        rising = progress / self.warmup if self.warmup > 0 else 1.0
        return min(1.0, rising) * (1.0 + math.cos(math.pi * progress)) / 2.0

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers this method works on, afresh or with their weights, and say which."""
        return None

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Parameters for the optimiser, those that decay apart from those that do not."""
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            (decayed if _decays(name, parameter) else free).append(parameter)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def before_step(self, optimizer: torch.optim.Optimizer | None, step: int, progress: float) -> bool:
        """Act between backward and optimiser; True where that takes the place of the optimiser's step."""
        return False

    def after_step(self, progress: float) -> None:
        """Act on the layers after a step of the optimiser; `progress` is the share of training done."""

    def is_final(self, progress: float) -> bool:
        """Whether the support no longer changes, so that epochs may be compared."""
        return True

    def finish(self, network: nn.Module) -> None:
        """Bring the trained network into its final form."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know beside the network."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""


class Swapping(LayerSettings, Dense):
    """Base of the methods that swap layers."""

    kind: ClassVar[type[nn.Module]]  # of the layers it makes

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers that are asked for; None where they are of the method's kind already."""
        return self.swap(network, keep_weights)[0]

    def swap(self, network: nn.Module, keep_weights: bool) -> tuple[Report | None, list[nn.Module]]:
        """Swap the layers that the setting `layers` names, and return them in the network's order.

        Those of the method's kind already are taken as they are; where all are named, and some are, they alone.

        Raises
        ------
        InputError
            There are none, or another sparsifier, which has not finished, works on one.
        """
        pattern = "*" if self.layers == "all" else str(self.layers)
        own: list[nn.Module] = []
        for name, layer in network.named_modules():
            if isinstance(layer, self.kind) and any(fnmatchcase(each, pattern) for each in names_of(network, name)):
                if (other := DRIVEN.get(layer)) is not None and other() is not None:
                    raise InputError(
                        f"layer '{name}': another Sparsifier works on it and has not finished; call its finish(), name "
                        "other layers, or make the model anew"
                    )
                own.append(layer)
        report = None
        if not own or pattern != "*":

            def make(layer: nn.Linear, rule: Rule) -> nn.Module:
                own.append(self.make_layer(layer, rule))
                return own[-1]

            at_least = 0 if own else 1
            report = swap_layers(network, {pattern: self.rule()}, make, keep_weights, self.convolutions, at_least)
        DRIVEN.update((part, ref(self)) for layer in own for part in layer.modules())
        places = {id(layer): place for place, layer in enumerate(network.modules())}
        return report, sorted(own, key=lambda layer: places[id(layer)])

    def finish(self, network: nn.Module) -> None:
        """Leave the layers to others."""
        for layer in [layer for layer, own in DRIVEN.items() if own() is self]:
            del DRIVEN[layer]

    def rule(self) -> Rule:
        """What becomes of a layer."""
        raise NotImplementedError

    def make_layer(self, layer: nn.Linear, rule: Rule) -> nn.Module:
        """Return the layer that takes the place of `layer`, afresh."""
        raise NotImplementedError


class Monarch(MonarchSettings, Swapping):
    """Layers that are products of two block-diagonal matrices, without zero blocks (Dao et al. 2022)."""

    name: ClassVar[str] = "monarch"
    kind: ClassVar[type[nn.Module]] = BTTLinear

    rank = 1

    def rule(self) -> Rule:
        """A layer of this block."""
        return Rule((self.block[0], self.block[1]))

    def make_layer(self, layer: nn.Linear, rule: Rule) -> nn.Module:
        """Return a fresh layer in the place of `layer`."""
        return BTTLinear(layer.in_features, layer.out_features, rule.block, self.rank, layer.bias is not None)


class BTT(BTTSettings, Monarch):
    """Block tensor trains with a learning rate of its own for each factor (Qiu et al. 2024).

    AdamW's rate goes with one over a matrix's inputs: a factor with f of them gets n / f times the rate that is right
    for a dense layer of n inputs.
    """

    name: ClassVar[str] = "btt"

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Each factor in a group with the rate `lr` times n / f; the rest as by default."""
        scales: dict[int, float] = {}
        for layer in network.modules():
            if isinstance(layer, BTTLinear):
                for factor in (layer.R, layer.L):
                    scales[id(factor)] = layer.in_features / factor.shape[2]
        groups: list[dict[str, Any]] = []
        for group in super().parameter_groups(network):
            apart = [parameter for parameter in group["params"] if id(parameter) in scales]
            rest = [parameter for parameter in group["params"] if id(parameter) not in scales]
            groups += [group | {"params": rest}] if rest else []
            groups += [group | {"params": [own], "lr": self.lr * scales[id(own)]} for own in apart]
        return groups


class BlockMethod(BlockSettings, Swapping):
    """Base of the methods that zero whole blocks of every linear layer."""

    ramp_start: ClassVar[float] = RAMP_START
    kind: ClassVar[type[nn.Module]] = BlockLinear

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.block = (self.block[0], self.block[1])
        self.layers = str(self.layers)
        self._layers: list[BlockLayer] = []
        self._is_frozen = False

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers, or take those that are of the method's kind already."""
        report, own = self.swap(network, keep_weights)
        self._layers = [layer for each in own for layer in block_layers(each).values()]
        for layer in self._layers if self.score == "output" else []:
            observe_inputs(layer)
        return report

    def finish(self, network: nn.Module) -> None:
        """Forget what the scores were made of."""
        super().finish(network)
        for layer in self._layers:
            forget_inputs(layer)

    def rule(self) -> Rule:
        """What becomes of a layer."""
        return Rule(self.block)

    def make_layer(self, layer: nn.Linear, rule: Rule) -> nn.Module:
        """Return the layer that takes the place of `layer`, afresh."""
        return BlockLinear(layer.in_features, layer.out_features, rule.block, layer.bias is not None)

    def targets(self) -> list[int]:
        """Zero blocks that each layer ends up with."""
        return [target_count(self.block_sparsity, layer.support.numel()) for layer in self._layers]

    def after_step(self, progress: float) -> None:
        """Bring the blocks closer to the target; keep a frozen support's zeros."""
        if not self._is_frozen and progress >= RAMP_END:
            self.freeze()
        if self._is_frozen:
            for layer in self._layers:
                layer.set_support(layer.support)
        elif progress > self.ramp_start:
            wanted = {
                index: wanted_count(target, progress, self.ramp_start)
                for index, target in enumerate(self.targets())
                if target > 0
            }
            self.sparsify(wanted)

    def sparsify(self, wanted: dict[int, int]) -> None:
        """Act on layers on their way: by its number, how many blocks of each should be zero by now."""

    def freeze(self) -> None:
        """Zero exactly the wanted number of blocks, those of the smallest score, for good."""
        for layer, target in zip(self._layers, self.targets(), strict=True):
            scores = layer.block_scores()
            if not bool(torch.isfinite(scores).all()):
                raise InputError(f"method '{self.name}': training diverged (a block is not finite); take a lower rate")
            layer.set_support(largest(scores, target))
        self._is_frozen = True

    def is_final(self, progress: float) -> bool:
        """Whether the support is fixed."""
        return self._is_frozen

    def state_dict(self) -> dict[str, Any]:
        """Whether the support is fixed; the support itself is part of the network."""
        return {"is_frozen": self._is_frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self._is_frozen = state["is_frozen"]


class Proximal(BlockMethod):
    """Base of the methods with a penalty and a proximal step; the penalty is controlled and adaptive.

    The soft threshold follows each step: it grows while fewer blocks are zero than a cubic ramp wants (from
    none at a tenth of training to `block_sparsity` at six tenths) and shrinks while more are. No step zeroes
    more than the ramp wants. Then the support is frozen, the penalty dropped and the rest fine-tuned.

    The penalty of a block is weighted by (q / score)^4, at most 1, q being the score of the block next to go
    (adaptive LASSO, Zou 2006): an even one shrinks what shall stay, which training then has to make good.
    """

    _thresholds: list[float]
    _kinds: list[tuple[Any, ...]]  # of the layers at the first step

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the linear layers; each gets its own threshold."""
        report = super().prepare(network, keep_weights)
        self._thresholds = [FIRST_THRESHOLD] * len(self._layers)
        self._kinds = []
        return report

    def sparsify(self, wanted: dict[int, int]) -> None:
        """Proximal step with the controlled thresholds, all alike layers at once."""
        if len(self._kinds) != len(self._layers):
            self._kinds = [layer.kind for layer in self._layers]
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, count in wanted.items():
            alike.setdefault((self._kinds[index], count), []).append(index)
        for (_, count), indices in alike.items():
            self._shrink_alike(indices, count)

    def _shrink_alike(self, indices: list[int], wanted: int) -> None:
        layers: list[Any] = [self._layers[index] for index in indices]
        thresholds = [self._thresholds[index] for index in indices]
        if isinstance(layers[0], KPDLinear) and layers[0].shrinks_fused:
            gone = layers[0].shrink_adaptively(layers, wanted, thresholds)
        else:
            gone = _shrink_adaptively(layers, wanted, thresholds)
        for index, count, threshold in zip(indices, gone, thresholds, strict=True):
            self._thresholds[index] = threshold / GAIN if count >= wanted else threshold * GAIN

    def state_dict(self) -> dict[str, Any]:
        """Support and thresholds."""
        return super().state_dict() | {"thresholds": list(self._thresholds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        super().load_state_dict(state)
        if len(state["thresholds"]) != len(self._thresholds):
            raise ValueError(f"{len(state['thresholds'])} thresholds of {len(self._thresholds)} layers")
        self._thresholds = list(state["thresholds"])


class KPD(KPDSettings, Proximal):
    """W = sum_i (S * A_i) kron B_i with an l1 penalty on S (Zhu, Zuo, Khalili)."""

    name: ClassVar[str] = "kpd"
    variant: ClassVar[Literal["selector", "group"]] = "selector"
    kind: ClassVar[type[nn.Module]] = KPDLinear

    def rule(self) -> Rule:
        """A KPD layer of this block and rank."""
        return Rule(self.block, self.rank, self.variant)

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the linear layers; B stays on the sphere until :meth:`finish`."""
        report = super().prepare(network, keep_weights)
        for layer in self._layers:
            cast("KPDLinear", layer).bind_terms()
        return report

    def finish(self, network: nn.Module) -> None:
        """Make B a parameter like any other, and bring the factors into their standard form."""
        super().finish(network)
        for layer in self._layers:
            cast("KPDLinear", layer).free_terms()
            layer.fix_gauge()

    def make_layer(self, layer: nn.Linear, rule: Rule) -> nn.Module:
        """Return a fresh KPD layer; its way of multiplying follows from its shape, so that reruns are equal."""
        return factored(layer, rule, path="shape")


class KPDGroup(KPD):
    """W = sum_i A_i kron B_i with orthonormal B_i and a group penalty on (A_1 .. A_r)_ab: block group LASSO."""

    name: ClassVar[str] = "kpd-group"
    variant: ClassVar[Literal["selector", "group"]] = "group"


class KPDChoice(KPDChoiceSettings, KPD):
    """KPD that chooses the block among candidates in the same run, the same one for all layers.

    Each layer starts as the sum of one KPD layer a candidate. After 50 steps, but not before a tenth of training nor
    after a fifth, the candidates but one go one after the other in as many steps again, each in an equal share of them:
    the one that can take over least of what all have learned together (the smallest Frobenius norm, over all layers, of
    its nearest fit to the sum) is shrunk to zero in proportion to the steps, so that the others learn what it did. Then
    KPD goes on with the one left.
    """

    name: ClassVar[str] = "kpd-choice"

    block = (0, 0)  # the one chosen
    kind: ClassVar[type[nn.Module]] = BlockChoice

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.blocks = tuple((block[0], block[1]) for block in self.blocks)
        self.block = self.blocks[0]
        self._choices: list[BlockChoice] = []
        self._left: list[str] = []
        self._is_leaving = False  # whether the first of those left is being shrunk
        self._progress = 0.0  # after the last step
        self._start = CHOICE_STARTS[0]  # share of training before the first goes

    @property
    def ramp_start(self) -> float:  # type: ignore[override]
        """Share of training at which one candidate is left."""
        return 2 * self._start

    def rule(self) -> Rule:
        """A block that divides a layer if and only if all candidates do."""
        return Rule((math.lcm(*(rows for rows, _ in self.blocks)), math.lcm(*(columns for _, columns in self.blocks))))

    def make_layer(self, layer: nn.Linear, rule: Rule) -> nn.Module:
        """Return the sum of fresh KPD layers."""
        return BlockChoice(layer.in_features, layer.out_features, self.blocks, self.rank, layer.bias is not None)

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the linear layers."""
        report = super().prepare(network, keep_weights)
        candidates = set(map(id, self._layers))
        choices = [layer for layer in network.modules() if isinstance(layer, BlockChoice)]
        self._choices = [layer for layer in choices if id(layer.layers()[0]) in candidates]
        self._left = [block_name(block) for block in self.blocks]
        self._layers = []
        return report

    def after_step(self, progress: float) -> None:
        """Choose among candidates while there are several, then go on as KPD."""
        if self._progress == 0.0:
            self._start = min(max(CHOICE_STARTS[0], CHOICE_STEPS * progress), CHOICE_STARTS[1])
        if len(self._left) > 1 and progress > self._start:
            gone = len(self.blocks) - len(self._left)
            deadline = self._start * (1 + (gone + 1) / (len(self.blocks) - 1))
            if not self._is_leaving:
                weakest = min(self._left, key=self.takes_over)
                self._left.sort(key=lambda name: name != weakest)
                self._is_leaving = True
            if progress < deadline:
                self._shrink(self._left[0], (deadline - progress) / (deadline - max(self._start, self._progress)))
            else:  # at most one a step
                self._remove(self._left[0])
        self._progress = progress
        super().after_step(progress)

    def takes_over(self, name: str) -> float:
        """Squared Frobenius norm, over all layers, of the candidate's nearest fit to the sum of all."""
        block = next(block for block in self.blocks if block_name(block) == name)
        return sum(float(fitted_square(choice.weight, block, self.rank)) for choice in self._choices)

    @torch.no_grad()
    def _shrink(self, name: str, factor: float) -> None:
        for choice in self._choices:
            cast("Tensor", cast("KPDLinear", choice.candidates[name]).S).mul_(factor)

    def _remove(self, name: str) -> None:
        """Drop a candidate everywhere; with the last but one gone the survivors are what is trained on."""
        for choice in self._choices:
            choice.remove(name)
        self._left.remove(name)
        self._is_leaving = False
        if len(self._left) == 1:
            self.block = next(block for block in self.blocks if block_name(block) == self._left[0])
            self._layers = [cast("BlockLayer", choice.candidates[self._left[0]]) for choice in self._choices]
            self._thresholds = [FIRST_THRESHOLD] * len(self._layers)

    def is_final(self, progress: float) -> bool:
        """Whether block and support are fixed."""
        return len(self._left) == 1 and super().is_final(progress)

    def finish(self, network: nn.Module) -> None:
        """Put the survivors in the place of the sums."""
        super().finish(network)
        if self._choices:
            self._layers = [layer.survivor() for layer in self._choices]
        for layer, own in zip(self._choices, self._layers, strict=False):
            replaced(network, layer, own)
        self._choices = []

    def state_dict(self) -> dict[str, Any]:
        """Candidates left, whether the first one is leaving, and KPD's state."""
        own = {"left": list(self._left), "is_leaving": self._is_leaving}
        own |= {"progress": self._progress, "start": self._start}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`: remove the candidates that are gone."""
        for name in [name for name in self._left if name not in state["left"]]:
            self._remove(name)
        self._left = list(state["left"])
        self._is_leaving, self._progress, self._start = (state[name] for name in ("is_leaving", "progress", "start"))
        super().load_state_dict(state)


class Permuted(BlockMethod):
    """Base of the methods that bring blocks of a full weight to zero on the way, whose inputs may change blocks."""

    permutation: str
    _orders = 0  # orders that were learned

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers; where the order is learned, each has one."""
        report = super().prepare(network, keep_weights)
        for layer in self._layers if self.permutation == "learned" else []:
            layer.register_buffer("order", torch.arange(layer.in_features, device=layer.support.device))
        return report

    def after_step(self, progress: float) -> None:
        """Find the order anew when it is time."""
        due = int((progress - self.ramp_start) / (RAMP_END - self.ramp_start) * ORDERS)
        if self.permutation == "learned" and progress > self.ramp_start and self._orders <= due < ORDERS:
            self._orders = due + 1
            for layer, target in zip(self._layers, self.targets(), strict=True):
                if isinstance(layer, BlockLinear) and target > 0:
                    learn_order(layer, layer.support.numel() - target)
        super().after_step(progress)

    def state_dict(self) -> dict[str, Any]:
        """How often an order was found, and the rest."""
        return super().state_dict() | {"orders": self._orders}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        super().load_state_dict(state)
        self._orders = state["orders"]


class GroupLasso(PrunedSettings, Permuted, Proximal):
    """A full weight with the group penalty sqrt(m2 n2) ||W_g||_F on every block (Yuan and Lin 2006)."""

    name: ClassVar[str] = "group-lasso"


class ElasticGroupLasso(ElasticGroupLassoSettings, GroupLasso):
    """Group LASSO plus l2, then debiasing with the zero blocks fixed (Oyedotun et al. 2020)."""

    name: ClassVar[str] = "elastic-group-lasso"

    @torch.no_grad()
    def sparsify(self, wanted: dict[int, int]) -> None:
        """Shrink the groups, then everything."""
        super().sparsify(wanted)
        for index in wanted:
            layer = self._layers[index]
            if isinstance(layer, BlockLinear):
                layer.weight.div_(1.0 + 2.0 * self.lr * self.l2)


class RandomMask(RandomMaskSettings, BlockMethod):
    """A full weight with blocks drawn at random before training and zero throughout."""

    name: ClassVar[str] = "random-mask"

    score = "weight"  # asked for by none

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers and draw the blocks."""
        report = super().prepare(network, keep_weights)
        for layer, target in zip(self._layers, self.targets(), strict=True):
            layer.set_support(largest(torch.rand(layer.grid), target))
        self._is_frozen = True
        return report


class MagnitudePruning(PrunedSettings, Permuted):
    """Blocks of the smallest norm go, step by step along a cubic ramp (Zhu and Gupta 2017), then fine-tuning."""

    name: ClassVar[str] = "magnitude"

    def sparsify(self, wanted: dict[int, int]) -> None:
        """Zero the blocks of smallest norm; those that are zero already stay."""
        for index, count in wanted.items():
            layer = self._layers[index]
            layer.set_support(largest(layer.block_scores(), count))


class BlockRigL(RigLSettings, BlockMethod):
    """A constant number of blocks that move to where the gradient is large (RigL, Evci et al. 2020, by blocks).

    Every `interval` steps until three quarters of training, in place of the optimiser's step, the share
    drop / 2 (1 + cos) of the used blocks with the smallest norms is dropped and as many of those with the
    largest dense gradient are taken up, at zero and with a fresh state of the optimiser.
    """

    name: ClassVar[str] = "rigl"
    LAST: ClassVar[float] = 0.75  # share of training after which the support is fixed

    def prepare(self, network: nn.Module, keep_weights: bool = False) -> Report | None:
        """Swap the layers and draw the first blocks."""
        report = super().prepare(network, keep_weights)
        for layer, target in zip(self._layers, self.targets(), strict=True):
            layer.set_support(self.first(layer, target))
        return report

    def first(self, layer: BlockLayer, zeros: int) -> Tensor:
        """The blocks that a layer starts with: drawn at random."""
        return largest(torch.rand(layer.grid), zeros)

    def targets(self) -> list[int]:
        """Zero blocks of each layer, by the distribution."""
        if self.distribution == "uniform":
            return super().targets()
        return erk_targets([layer.grid for layer in self._layers], self.block_sparsity)

    def before_step(self, optimizer: torch.optim.Optimizer | None, step: int, progress: float) -> bool:
        """Move blocks when it is time; that takes the place of the weights' step."""
        if step % self.interval or progress >= self.LAST:
            return False
        share = self.drop / 2 * (1 + math.cos(math.pi * progress / self.LAST))
        for layer in self._layers:
            if isinstance(layer, BlockLinear):
                self.move(layer, share, {} if optimizer is None else optimizer.state.get(layer.weight, {}))
        return True

    def move(self, layer: BlockLinear, share: float, state: dict[str, Any]) -> None:
        """Replace a `share` of a layer's used blocks."""
        move_blocks(layer, share, state)

    def after_step(self, progress: float) -> None:
        """Keep the unused blocks at zero."""
        self._is_frozen = progress >= self.LAST
        for layer in self._layers:
            layer.set_support(layer.support)


@torch.no_grad()
def move_blocks(layer: BlockLinear, share: float, state: dict[str, Any]) -> None:
    """Replace the weakest `share` of a layer's used blocks by those with the largest gradient.

    As many blocks are used afterwards as before. `state` is the optimiser's for the weight: its moments
    become zero in the new blocks.
    """
    used = layer.support
    if layer.weight.grad is None:
        return
    gradient = torch.linalg.vector_norm(layer.blocks(layer.weight.grad), dim=(1, 3)).flatten()
    gradient[used.flatten()] = -math.inf  # the dropped ones may not come back at once
    # A block without gradient (its inputs are always zero) would stay at zero, one more than asked for.
    count = min(int(share * int(used.sum())), int((gradient > 0).sum()))
    if count == 0:
        return
    norms = layer.block_scores().masked_fill(~used, math.inf).flatten()
    dropped = torch.sort(norms, stable=True).indices[:count]
    kept = used.flatten().clone()
    kept[dropped] = False
    grown = torch.sort(gradient, descending=True, stable=True).indices[:count]
    fresh = torch.zeros_like(kept)
    fresh[grown] = True
    take_up(layer, (kept | fresh).view_as(used), fresh.view_as(used), state)


@torch.no_grad()
def take_up(layer: BlockLinear, support: Tensor, fresh: Tensor, state: dict[str, Any]) -> None:
    """Use the blocks of `support`; the optimiser's moments become zero in the `fresh` ones."""
    for moment in state.values():
        if isinstance(moment, Tensor) and moment.shape == layer.weight.shape:
            layer.by_rows(moment).mul_(~of_columns(layer, fresh)[:, None])
    layer.set_support(support)


class SRigL(SRigLSettings, BlockRigL):
    """RigL with equally many blocks in every block row in use (SRigL, Lasby et al. 2024, by blocks).

    Rows of which few blocks are worth keeping or taking up go as a whole, and the others share what they had; the last
    layer, whose rows are the network's outputs, keeps all.
    """

    name: ClassVar[str] = "srigl"

    def first(self, layer: BlockLayer, zeros: int) -> Tensor:
        """As many blocks in every row, or one more, drawn at random."""
        return by_rows(torch.rand(layer.grid), row_counts(layer.support.numel() - zeros, layer.grid[0]))

    def move(self, layer: BlockLinear, share: float, state: dict[str, Any]) -> None:
        """Replace a `share` of a layer's used blocks, row by row."""
        move_rows(layer, share, 0.0 if layer is self._layers[-1] else self.ablation, state)


@torch.no_grad()
def move_rows(layer: BlockLinear, share: float, ablation: float, state: dict[str, Any]) -> None:
    """Replace the weakest `share` of a layer's used blocks, equally many in every block row that stays in use.

    Salient are the blocks that are strong enough to stay, and as many unused ones as go, those with the largest
    gradient. A row with fewer salient blocks than `ablation` of a row's goes, as long as the other rows have room. Each
    row left takes the strongest of its blocks that stay, then the unused ones of the largest gradient, then, rather
    than blocks without any gradient, the strongest of those that should have gone.
    """
    used = layer.support.clone()
    if layer.weight.grad is None:
        return
    count, rows, width = int(used.sum()), int(used.any(dim=1).sum()), used.shape[1]
    gone = int(share * count)
    norms = layer.block_scores()
    gradient = torch.linalg.vector_norm(layer.blocks(layer.weight.grad), dim=(1, 3)).masked_fill(used, 0.0)
    stays = largest(norms.masked_fill(~used, -1.0), used.numel() - (count - gone))
    grows = largest(gradient, used.numel() - gone) & (gradient > 0)
    salient = (stays | grows).sum(dim=1)
    is_active = used.any(dim=1)
    fewest = -(-count // width)  # rows that hold all blocks
    weak = [row for row in torch.argsort(salient, stable=True).tolist() if is_active[row]]
    for row in weak[: rows - fewest]:
        if int(salient[row]) < ablation * count / rows:
            is_active[row] = False
    # 4 tiers of worth from 0 to 4, ordered within each
    tier = torch.where(stays, 3.0, torch.where(~used & (gradient > 0), 2.0, torch.where(used, 1.0, 0.0)))
    size = torch.where(used, norms / norms.max().clamp_min(1e-30), gradient / gradient.max().clamp_min(1e-30))
    quotas = torch.zeros(len(is_active), dtype=torch.long)
    quotas[is_active.cpu()] = row_counts(count, int(is_active.sum()))
    support = by_rows(tier + 0.5 * size, quotas)
    take_up(layer, support, support & ~used, state)


def row_counts(count: int, rows: int) -> Tensor:
    """Split `count` blocks over rows as evenly as can be.

    >>> row_counts(7, 3)
    tensor([3, 2, 2])
    """
    return torch.tensor([count // rows + (row < count % rows) for row in range(rows)])


def by_rows(worth: Tensor, counts: Tensor) -> Tensor:
    """Return which (m1, n1) blocks are the counts[a] most worth in each row a; ties go in order of position.

    >>> by_rows(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), torch.tensor([2, 1]))
    tensor([[ True, False,  True],
            [ True, False, False]])
    """
    place = torch.argsort(torch.argsort(worth, dim=1, descending=True, stable=True), dim=1)
    return place < counts.to(worth.device)[:, None]


def erk_targets(grids: list[tuple[int, int]], sparsity: float) -> list[int]:
    """Zero blocks of each layer for Erdos-Renyi-kernel densities, (m1 + n1) / (m1 n1) up to a common factor.

    Layers whose density would pass 1 stay full and the others share what is left.

    >>> erk_targets([(10, 10), (100, 100)], 0.9)
    [8, 9082]
    """
    wanted = (1 - sparsity) * sum(m1 * n1 for m1, n1 in grids)
    full: set[int] = set()
    while True:
        left = wanted - sum(grids[index][0] * grids[index][1] for index in full)
        sides = {index: m1 + n1 for index, (m1, n1) in enumerate(grids) if index not in full}
        factor = left / sum(sides.values()) if sides else 0.0
        over = {index for index, side in sides.items() if factor * side > grids[index][0] * grids[index][1]}
        if not over:
            break
        full |= over
    return [
        0 if index in full else min(m1 * n1 - 1, round(m1 * n1 - factor * (m1 + n1)))
        for index, (m1, n1) in enumerate(grids)
    ]


SPARSITY_METHODS: dict[str, type[Dense]] = {
    method.name: method
    for method in (
        Dense,
        KPD,
        KPDGroup,
        KPDChoice,
        RandomMask,
        GroupLasso,
        ElasticGroupLasso,
        BlockRigL,
        SRigL,
        Monarch,
        BTT,
        MagnitudePruning,
    )
}


def make(name: str, settings: dict[str, Any], option: str = "--set ") -> Dense:
    """Return the method called `name` with `settings`, given by `option`, over its defaults.

    Raises
    ------
    InputError
        An unknown method or setting (the nearest name is suggested), or a value of the wrong kind.
    """
    if not isinstance(name, str) or name not in SPARSITY_METHODS:
        raise InputError(f"method '{name}' is unknown{nearest(name, SPARSITY_METHODS)}")
    check_given(SPARSITY_METHODS[name], settings, name, option=option)
    return SPARSITY_METHODS[name](**settings)


def target_count(share: float, blocks: int) -> int:
    """Return how many of `blocks` are zero at a sparsity of `share`; at least one stays.

    >>> target_count(0.5, 5), target_count(0.99, 3)
    (2, 2)
    """
    return min(round(share * blocks), blocks - 1)


def wanted_count(target: int, progress: float, start: float = RAMP_START) -> int:
    """Return how many blocks the cubic ramp wants to be zero at a share `progress` of training.

    >>> [wanted_count(100, progress) for progress in (0.1, 0.35, 0.6, 1.0)]
    [0, 87, 100, 100]
    """
    done = min(1.0, max(0.0, (progress - start) / (RAMP_END - start)))
    return int(target * (1.0 - (1.0 - done) ** 3))


def largest(scores: Tensor, zeros: int) -> Tensor:
    """Return which blocks stay when the `zeros` with the smallest scores go; ties go in order of position.

    >>> largest(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 2)
    tensor([[ True, False],
            [False,  True]])
    """
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[torch.sort(scores.flatten(), stable=True).indices[:zeros]] = False
    return keep.view_as(scores)


def _shrink_adaptively(layers: list[Any], wanted: int, thresholds: list[float]) -> list[int]:
    """What :func:`pipeline.kpd.fused.shrink` does, by torch's operations, to layers of one kind."""
    scores: Tensor = layers[0].scores_of(layers)  # (L, m1, n1)
    first_kept = _ranked(scores.flatten(1), wanted)[:, None, None]
    # 1 for a block that is zero already
    weights = (first_kept / scores).nan_to_num_(1.0, 1.0).clamp_max_(1.0).square_().square_()
    below = torch.nextafter(first_kept, torch.zeros_like(first_kept))
    shrinkage = weights.mul_(torch.minimum(below, scores.new_tensor(thresholds)[:, None, None]))
    layers[0].scale_blocks(layers, kept_shares(scores, shrinkage))
    gone: list[int] = (scores <= shrinkage).flatten(1).sum(dim=1).tolist()
    return gone


def _ranked(rows: Tensor, rank: int) -> Tensor:
    """The number of each row that `rank` others are not above, counted from the smallest; NaN is the largest."""
    if rows.is_cpu and rows.dtype in (torch.float32, torch.float64):  # NumPy's selection takes a fraction of the time
        return torch.from_numpy(np.partition(rows.numpy(), rank, axis=1)[:, rank])
    return torch.kthvalue(rows, rank + 1).values


def _decays(name: str, parameter: Tensor) -> bool:
    """Weight decay bounds W: on weights and on A; S has its own penalty, B is kept at unit norm."""
    last = name.rpartition(".")[2]
    if name.endswith("parametrizations.B.original"):
        return False
    return last == "A" or (last not in ("S", "B") and parameter.ndim > 1)
