"""Settings of the sparsity methods, declared without importing torch: the planner reads them too.

One class a method; the method itself, in :mod:`pipeline.kpd.sparsity_methods`, derives from it.
"""

from __future__ import annotations

from pipeline.core.settings import Configured, setting
from pipeline.errors import InputError

NETWORKS = ("linear", "mlp", "lenet5", "vit-tiny", "vit-base", "swin-tiny")  # each a function of pipeline.kpd.networks
AUGMENTATIONS: dict[str, tuple[str, ...]] = {  # functions of pipeline.kpd.data, one after the other
    "none": (),
    "shift": ("shifted",),
    "shift-flip": ("shifted_and_flipped",),
    "strong": ("shifted_and_flipped", "jittered", "erased"),
}
Block = tuple[int, int]


class DenseSettings(Configured):
    """What the dense network and its block-sparse counterparts share.

    Parameters
    ----------
    network
        The network to train.
    epochs
        Passes over the training part.
    batch
        Images a step.
    lr
        Learning rate of AdamW, brought to zero by a cosine.
    warmup
        Share of training over which the rate first rises, from nothing, in proportion to the steps.
    weight_decay
        Decoupled decay of the weights (not of biases, S or B).
    label_smoothing
        Share of the wanted probability that is spread evenly over all classes.
    augment
        What happens to training images.
    mixup
        Parameter a of the Beta(a, a) from which the share of a second image is drawn that is mixed into each
        of a batch, with its class (Zhang et al. 2018); 0: none.
    """

    network: str = setting("linear", choices=NETWORKS)
    epochs: int = setting(30, at_least=1)
    batch: int = setting(64, at_least=1)
    lr: float = setting(1.0e-2, above=0, below=float("inf"))
    warmup: float = setting(0.0, at_least=0, below=1)
    weight_decay: float = setting(1.0e-4, at_least=0, below=float("inf"))
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    augment: str = setting("none", choices=tuple(AUGMENTATIONS))
    mixup: float = setting(0.0, at_least=0, below=float("inf"))


class LayerSettings(DenseSettings):
    """What all methods that swap layers share.

    Parameters
    ----------
    layers
        Pattern of the names of the layers to work on, or all; one that the block does not divide stays dense.
    convolutions
        Whether two-dimensional convolutions count as layers too, as linear maps of patches.
    distil
        Share of the loss that is the distance from the outputs of a dense network, which is trained first with the same
        settings (Hinton, Vinyals, Dean 2015); 0: none is.
    """

    layers: str | int = setting("all")  # a layer's name may be a number
    convolutions: bool = setting(False)
    distil: float = setting(0.0, at_least=0, at_most=1)


class SparseSettings(LayerSettings):
    """What all methods that zero blocks share.

    Parameters
    ----------
    block_sparsity
        Share of each layer's blocks that end up exactly zero, reached to the nearest whole block.
    score
        What a block is worth. ``weight``: its norm. ``output``: that with each column weighted by the root mean
        square of its input, which is what the block adds to the outputs (Sun et al. 2023).
    """

    block_sparsity: float = setting(0.5, at_least=0, below=1)
    score: str = setting("weight", choices=("weight", "output"))


class MonarchSettings(LayerSettings):
    """Monarch matrices.

    Parameters
    ----------
    block
        Outputs and inputs of a group, best near the square roots of the layer's.
    """

    block: Block = setting((2, 2), at_least=1)


class BTTSettings(MonarchSettings):
    """Block tensor trains.

    Parameters
    ----------
    rank
        Terms r of each slice.
    lr
        Learning rate of AdamW for a dense layer; a factor's own is in proportion. Brought to zero by a cosine.
    """

    rank: int = setting(1, at_least=1)
    lr: float = setting(1.0e-3, above=0, below=float("inf"))


class BlockSettings(SparseSettings):
    """What all methods of one block share.

    Parameters
    ----------
    block
        Rows and columns of a block.
    """

    block: Block = setting((2, 2), at_least=1)


class PrunedSettings(BlockSettings):
    """What the methods share that bring blocks of a full weight to zero on the way.

    Parameters
    ----------
    permutation
        Which inputs share a block. ``none``: neighbours. ``learned``: those that let the blocks which will be kept hold
        the most of the scores squared, found again and again while blocks go.
    """

    permutation: str = setting("none", choices=("none", "learned"))


class RandomMaskSettings(BlockSettings):
    """A random mask, which asks for no score."""

    score = "weight"


class KPDSettings(BlockSettings):
    """KPD.

    Parameters
    ----------
    rank
        Terms r.
    """

    rank: int = setting(2, at_least=1)


class KPDChoiceSettings(SparseSettings):
    """KPD that chooses its block.

    Parameters
    ----------
    blocks
        Candidates, at least two, all different; a layer that one of them does not divide stays dense.
    rank
        Terms r of each candidate.
    score
        What a block is worth. ``weight``: its norm. ``output``: that with each column weighted by the root mean
        square of its input. Weights of inputs that are rarely there grow in each of the candidates while none goes.
    """

    blocks: tuple[Block, ...] = setting(((2, 2), (2, 4), (2, 8)), at_least=1, least_length=2)
    rank: int = setting(2, at_least=1)
    score: str = setting("output", choices=("weight", "output"))

    def check_settings(self) -> None:
        """Check every setting, and that no candidate is given twice."""
        super().check_settings()
        if len({tuple(block) for block in self.blocks}) < len(self.blocks):
            raise InputError(f"blocks={self.blocks!r}: needs candidates that are all different")


class ElasticGroupLassoSettings(PrunedSettings):
    """Elastic group LASSO.

    Parameters
    ----------
    l2
        Weight of the squared norm: each proximal step also divides the weight by 1 + 2 lr l2.
    """

    l2: float = setting(1.0e-2, at_least=0, below=float("inf"))


class RigLSettings(BlockSettings):
    """RigL by blocks.

    Parameters
    ----------
    interval
        Steps from one move to the next.
    drop
        Share of the used blocks that the first move replaces.
    distribution
        ``uniform``: every layer has the same share of zero blocks. ``erk``: a layer's density goes with
        (m1 + n1) / (m1 n1), the whole network reaching `block_sparsity`.
    """

    interval: int = setting(100, at_least=1)
    drop: float = setting(0.3, at_least=0, at_most=1)
    distribution: str = setting("uniform", choices=("uniform", "erk"))


class SRigLSettings(RigLSettings):
    """SRigL by blocks.

    Parameters
    ----------
    ablation
        Share of a block row's blocks that must be worth keeping or taking up, else the whole row goes; 0: none goes.
    """

    ablation: float = setting(0.3, at_least=0, at_most=1)


SETTINGS: dict[str, type[DenseSettings]] = {
    "dense": DenseSettings,
    "kpd": KPDSettings,
    "kpd-group": KPDSettings,
    "kpd-choice": KPDChoiceSettings,
    "random-mask": RandomMaskSettings,
    "group-lasso": PrunedSettings,
    "elastic-group-lasso": ElasticGroupLassoSettings,
    "rigl": RigLSettings,
    "srigl": SRigLSettings,
    "monarch": MonarchSettings,
    "btt": BTTSettings,
    "magnitude": PrunedSettings,
}
