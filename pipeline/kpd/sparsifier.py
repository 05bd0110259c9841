"""Sparsifier: any method of :mod:`pipeline.kpd.sparsity_methods` on any network, in any training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.settings import settings_of
from pipeline.errors import InputError, is_whole
from pipeline.kpd.blocks import BlockLinear, called, logits_of
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.sparsity_methods import Dense, make
from pipeline.runs.checkpoint import UNFIT, check_like

KNOWN_RATES = ("lr", "weight_decay")  # settings of a training loop that methods use


class Sparsifier:
    """Make a network's linear layers block-sparse while a training loop of one's own trains it.

    Parameters
    ----------
    model
        Any module that holds linear layers; they are swapped in place.
    method
        Name of a method of :data:`pipeline.kpd.sparsity_methods.SPARSITY_METHODS`, or one made already (without
        settings then).
    block
        (m2, n2): rows and columns of a block; None: the method's default, as for `rank` and `sparsity`.
    rank
        Terms r, of the methods that have them.
    sparsity
        Share of each layer's blocks that end up exactly zero.
    layers
        Pattern of the layers' dotted names, ``*`` and ``?`` as in file names.
    total_steps
        Steps of the optimiser that the whole training takes: the course of the sparsity follows from it.
    keep_weights
        Start from the present weights (factors: from the nearest of their rank, see `report`) or afresh.
    distil
        Keep the model as it is as a teacher, whose outputs :meth:`distillation` compares with.
    settings
        The method's other settings, such as ``blocks=``, ``interval=`` or ``weight_decay=``; those of the training loop
        (``epochs``, ``batch``, ..) are the loop's own.

    Attributes
    ----------
    teacher
        The model before any layer was swapped, for evaluation, if `distil`; else None.
    report
        What became of each layer (:class:`pipeline.kpd.conversion.Report`); None for ``dense``.

    Raises
    ------
    InputError
        A setting the method does not have or take, no layer that fits, or one that another sparsifier works on, which
        has not finished.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> sparsifier = Sparsifier(model, method="kpd", block=(2, 2), rank=1, sparsity=0.5, total_steps=10)
    >>> optimizer = torch.optim.AdamW(sparsifier.parameter_groups(), lr=0.01)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(3, 8)).square().mean().backward()
    ...     optimizer.step()
    ...     sparsifier.step(optimizer)
    >>> sparsifier.finish()
    >>> [int(layer.zero_blocks().sum()) for layer in (model[0], model[2])]
    [8, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Dense = "kpd",
        *,
        block: Sequence[int] | None = None,
        rank: int | None = None,
        sparsity: float | None = None,
        layers: str | None = None,
        total_steps: int,
        keep_weights: bool = True,
        distil: bool = False,
        **settings: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model: a {type(model).__name__} is no torch.nn.Module")
        total_steps = _plain(total_steps)
        if not is_whole(total_steps, 1):
            raise InputError(
                f"total_steps={total_steps!r}: needs the number of steps of the whole training, whole and at least 1"
            )
        for name, value in (("keep_weights", keep_weights), ("distil", distil)):
            if not isinstance(value, bool):
                raise InputError(f"{name}={value!r}: needs True or False")
        named = {"block": block, "rank": rank, "block_sparsity": sparsity, "layers": layers}
        given = {name: _plain(value) for name, value in named.items() if value is not None}
        if twice := given.keys() & settings.keys():
            raise InputError(f"{', '.join(twice)}: is given twice, as sparsity too")
        given |= {name: _plain(value) for name, value in settings.items()}
        if isinstance(method, Dense):
            if given:
                raise InputError(f"{', '.join(given)}: method '{method.name}' is made already and has its settings")
            self.method = method
        else:
            self.method = make(method, given, option="")
            if others := [name for name in settings_of(Dense) if name in given and name not in KNOWN_RATES]:
                raise InputError(f"{', '.join(others)}: the training loop's own, not the Sparsifier's; leave it out")
        self.model, self.total_steps, self.steps = model, total_steps, 0
        self._takes_place: bool | None = None  # of the optimiser's step; None: not asked since the last
        self.teacher = copy.deepcopy(model).eval().requires_grad_(requires_grad=False) if distil else None
        self.report = self.method.prepare(model, keep_weights)

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return min(1.0, self.steps / self.total_steps)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser, those that decay apart from those that do not.

        Raises
        ------
        InputError
            Parameters that ``fully_shard`` (FSDP2) has split over processes: a block would lie in several of them.
        """
        for name, parameter in self.model.named_parameters():
            if hasattr(parameter, "placements"):
                raise InputError(
                    f"parameter '{name}' is split over processes (FSDP2), and with it its blocks; use "
                    "torch.nn.parallel.DistributedDataParallel"
                )
        return self.method.parameter_groups(self.model)

    def distillation(self, outputs: Any, inputs: Any, temperature: float = 2.0) -> Tensor:
        """Return how far logits are from the teacher's, to be added to the loss.

        T^2 times the Kullback-Leibler divergence of softmax(outputs / T) from the teacher's, mean over the rows
        (Hinton, Vinyals, Dean 2015).

        Parameters
        ----------
        outputs
            (.., classes), of the model for `inputs`; or what holds them as ``logits``.
        inputs
            What the teacher is called with: a tensor, a tuple of arguments or a mapping of named ones.
        temperature
            T, above 0.

        Raises
        ------
        InputError
            The sparsifier was made without ``distil=True``, or there is no such temperature.
        """
        if self.teacher is None:
            raise InputError("no teacher: make the Sparsifier with distil=True, before the model's layers are swapped")
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature={temperature}: needs a number above 0, for example 2")
        with torch.no_grad():
            taught = logits_of(called(self.teacher, inputs))
        own, wanted = (
            functional.log_softmax(logits.reshape(-1, logits.shape[-1]) / temperature, dim=-1)
            for logits in (logits_of(outputs), taught)
        )
        divergence = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return divergence * temperature**2

    def before_step(self, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Act between backward and the optimiser's step; True where that takes the step's place (RigL's moves).

        A loop may leave this out: :meth:`step` then makes up for it. Asked again before :meth:`step` it says the same.
        """
        if self._takes_place is None:
            if optimizer is not None and self.steps == 0:
                self._check_holds(optimizer)
            self.steps += 1
            self._takes_place = self.method.before_step(optimizer, self.steps, self.progress)
        return self._takes_place

    def _check_holds(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimiser of the parameters that were there before the layers were swapped."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        layers = [layer for layer in self.model.modules() if isinstance(layer, KPDLinear | BlockLinear | BTTLinear)]
        trained = [own for layer in layers for own in layer.parameters() if own.requires_grad]
        if trained and not any(id(parameter) in held for parameter in trained):
            raise InputError(
                "the optimiser holds no parameter of the block-sparse layers, so that they would not be trained; "
                "make it after the Sparsifier, of sparsifier.parameter_groups()"
            )

    def step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Act after the optimiser's step, before gradients are cleared.

        With `optimizer`, blocks that RigL takes up start with fresh moments, and LBFGS forgets the curvature that it
        saw where the weights are no longer.
        """
        self.before_step(optimizer)
        self._takes_place = None
        held: list[Tensor] = optimizer.param_groups[0]["params"] if isinstance(optimizer, torch.optim.LBFGS) else []
        before = [own.detach().clone() for own in held]
        self.method.after_step(self.progress)
        if optimizer is not None and any(not torch.equal(*own) for own in zip(before, held, strict=True)):
            optimizer.state.clear()

    def finish(self) -> None:
        """Bring the network into its final form, in place.

        It may be trained on: a full weight (of ``group-lasso``, ``magnitude``, ``rigl``, ..) then keeps its zero blocks
        where :meth:`step` still follows each step of the optimiser; factors keep them in any case.

        Raises
        ------
        InputError
            Too few steps were taken for the support to be final.
        """
        if not self.method.is_final(self.progress):
            raise InputError(
                f"{self.steps} of total_steps={self.total_steps} steps were taken: the zero blocks of method "
                f"'{self.method.name}' are not final yet; take all, or give fewer total_steps"
            )
        self.method.finish(self.model)
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(f"parameter '{name}' is not finite: training diverged; take a lower rate")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know beside the network and the optimiser."""
        own = {"name": self.method.name, "steps": self.steps, "total_steps": self.total_steps}
        return own | {"method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; before the network's own, since ``kpd-choice`` may take candidates out of it.

        Raises
        ------
        InputError
            It is of another method, number of steps or network, or of none.
        """
        try:
            check_like(state, self.state_dict(), "state")
            if state["name"] != self.method.name or state["steps"] < 0:
                raise ValueError(f"it is of method '{state['name']}' after {state['steps']} steps")
            if state["total_steps"] != self.total_steps:
                own = f"total_steps={self.total_steps}"
                raise ValueError(f"{own}: the state is of a training of {state['total_steps']}; give the same")
            self.method.load_state_dict(state["method"])
        except UNFIT as error:
            raise InputError(f"the state does not fit this Sparsifier: {error}") from error
        self.steps = state["steps"]


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
