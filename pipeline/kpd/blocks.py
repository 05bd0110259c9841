"""BlockLinear: a dense linear layer seen as a grid of blocks, for the methods that prune a full weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.kpd.layer import KPDLinear, checked_block, input_squares, kept_shares, take_after


class BlockLinear(nn.Linear):
    """A :class:`torch.nn.Linear` whose m2 x n2 blocks can be scored, shrunk and pruned.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in :class:`torch.nn.Linear`.
    block
        (m2, n2): rows and columns of a block.

    Attributes
    ----------
    support
        (m1, n1) bool buffer: the blocks in use. The weight holds exact zeros outside after
        :meth:`set_support`, which a training loop calls after each step; gradients stay dense.
    order
        (n,) int64 buffer or None: the inputs in the order in which n2 after n2 share a block; None: as they come. The
        weight itself stays where it is, so that an order costs nothing in training.
    """

    support: Tensor
    order: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        block: tuple[int, int],
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.block = checked_block(in_features, out_features, block)
        super().__init__(in_features, out_features, bias, device, dtype)
        m1, n1 = out_features // self.block[0], in_features // self.block[1]
        self.register_buffer("support", torch.ones(m1, n1, dtype=torch.bool, device=device))
        self.register_buffer("order", None)

    @property
    def grid(self) -> tuple[int, int]:
        """(m1, n1): number of blocks down and across."""
        return self.support.shape[0], self.support.shape[1]

    def blocks(self, matrix: Tensor) -> Tensor:
        """An (m, n) matrix of the weight's shape as (m1, m2, n1, n2), to be read."""
        (m1, n1), (m2, n2) = self.grid, self.block
        return (matrix if self.order is None else matrix[:, self.order]).view(m1, m2, n1, n2)

    @torch.no_grad()
    def set_blocks(self, blocks: Tensor) -> None:
        """Undo :meth:`blocks` of the weight."""
        matrix = blocks.reshape(self.weight.shape).to(self.weight)
        self.weight.copy_(matrix if self.order is None else torch.empty_like(matrix).index_copy(1, self.order, matrix))

    def by_rows(self, matrix: Tensor) -> Tensor:
        """View an (m, n) matrix as (m1, m2, n), for what :func:`of_columns` gives."""
        return matrix.view(self.grid[0], self.block[0], -1)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> None:
        """Take over an (m, n) `weight` as it is; all blocks are in use."""
        self.weight.copy_(weight)
        self.support.fill_(True)

    @torch.no_grad()
    def block_norms(self) -> Tensor:
        """(m1, n1): Frobenius norms of the blocks."""
        norms: Tensor = torch.linalg.vector_norm(self.blocks(self.weight), dim=(1, 3))
        return norms

    @torch.no_grad()
    def block_scores(self) -> Tensor:
        """(m1, n1): what the proximal step shrinks, the blocks' norms.

        Of W with its columns weighted, where :func:`pipeline.kpd.layer.observe_inputs` says by what.
        """
        squares = input_squares(self)
        if squares is None:
            return self.block_norms() * self.support
        weighted: Tensor = torch.linalg.vector_norm(self.blocks(self.weight * squares.sqrt()), dim=(1, 3))
        return weighted * self.support

    @staticmethod
    @torch.no_grad()
    def scores_of(layers: Sequence[BlockLinear]) -> Tensor:
        """(L, m1, n1): :meth:`block_scores` of L layers of one :meth:`kind`."""
        return torch.stack([layer.block_scores() for layer in layers])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two layers have alike that :meth:`scores_of` takes together."""
        return BlockLinear, self.grid, self.block, self.weight.dtype, self.weight.device

    @torch.no_grad()
    def shrink(self, threshold: Tensor | float) -> None:
        """Proximal step of the group penalty: W_g <- W_g max(0, 1 - threshold / ||W_g||_F)."""
        self.scale_blocks([self], kept_shares(self.block_scores(), threshold)[None])

    @staticmethod
    @torch.no_grad()
    def scale_blocks(layers: Sequence[BlockLinear], factors: Tensor) -> None:
        """Multiply the blocks of each of L layers by (L, m1, n1) `factors`."""
        for layer, own in zip(layers, factors, strict=True):
            layer.by_rows(layer.weight).mul_(of_columns(layer, own)[:, None])

    @torch.no_grad()
    def set_support(self, support: Tensor) -> None:
        """Keep only the blocks where `support` is true; the others become exact zeros."""
        if support is not self.support:
            self.support.copy_(support)
        self.by_rows(self.weight).masked_fill_(~of_columns(self, self.support)[:, None], 0.0)

    @torch.no_grad()
    def fix_gauge(self) -> None:
        """Do nothing: a full weight has one representation."""

    @torch.no_grad()
    def zero_blocks(self) -> Tensor:
        """(m1, n1) bool: the blocks that are exactly zero."""
        return ~(self.blocks(self.weight) != 0).any(dim=3).any(dim=1)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """Return the plain layer with the same weight and bias."""
        weight = self.weight
        dense = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device=weight.device, dtype=weight.dtype
        )
        dense.weight.copy_(weight)
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        """Sizes and the block."""
        return f"{super().extra_repr()}, block={self.block}"


BlockLayer = KPDLinear | BlockLinear


def of_columns(layer: BlockLayer, values: Tensor) -> Tensor:
    """(m1, n1) values of a layer's blocks -> (m1, n): of the block in which a block row has each input."""
    wide = values.repeat_interleave(layer.block[1], dim=1)
    order = layer._buffers.get("order")
    return wide if order is None else torch.empty_like(wide).index_copy(1, order, wide)


def block_layers(network: nn.Module) -> dict[str, BlockLayer]:
    """Return the layers of `network` that have blocks, by dotted name; one that stands in several places once."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BlockLayer)}


def replaced(network: nn.Module, layer: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` in every place of `network` where `layer` stands; return the network, which may be `layer` itself.

    The mode, what is fixed and the hooks stay, see :func:`pipeline.kpd.layer.take_after`.
    """
    take_after(new, layer)
    if network is layer:
        return new
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module is layer:
            network.set_submodule(name, new)
    return network


def called(network: nn.Module, inputs: Any) -> Any:
    """Call `network` with what a loader gives: one tensor, a tuple or list of arguments, or a mapping of named ones."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple | list) else network(inputs)


def logits_of(outputs: Any) -> Tensor:
    """The logits among what a network gives: a tensor, the first of a tuple, or what is called ``logits``."""
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    elif hasattr(outputs, "logits"):
        logits = outputs.logits
    else:
        logits = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    if not isinstance(logits, Tensor):
        raise InputError(f"outputs: a {type(outputs).__name__} is no tensor of logits and holds none by that name")
    return logits


@torch.no_grad()
def layer_inputs(network: nn.Module, layers: dict[str, BlockLayer], images: Any) -> dict[str, Tensor]:
    """Return what reaches each layer, (..., n), from `images`, see :func:`called`; one not reached is left out."""
    inputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda _, given, named: inputs.update({name: next(iter((*given, *named.values()))).detach()})

    hooks = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        called(network, images)
    finally:
        for handle in hooks:
            handle.remove()
    return inputs
