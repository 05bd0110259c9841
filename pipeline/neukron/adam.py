"""Adam by torch's functional form.

``torch.optim.Adam`` imports torch's compiler, which takes longer than a small tensor's whole training.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

HOW = {"betas": (0.9, 0.999), "eps": 1.0e-8}  # torch's defaults


class Adam:
    """Adam (Kingma and Ba, 2015) without weight decay; to the bit what ``torch.optim.Adam`` does.

    Parameters
    ----------
    parameters
        To be trained; those without a gradient stay as they are.
    lr
        Learning rate; ``param_groups[0]["lr"]`` changes it.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr, **HOW}]
        self._moments: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        (group,) = self.param_groups
        moved = [place for place, parameter in enumerate(group["params"]) if parameter.grad is not None]
        parameters = [group["params"][place] for place in moved]
        for place, parameter in zip(moved, parameters, strict=True):
            if place not in self._moments:
                averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self._moments[place] = {"step": torch.tensor(0.0), **averages}
        steps, first, second = (
            [self._moments[place][name] for place in moved] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        adam(
            parameters, [parameter.grad for parameter in parameters], first, second, [], steps,
            amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=0.0,
            eps=group["eps"], maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Moments by the place of their parameter, and the groups, as torch's optimisers give them."""
        groups = [group | {"params": list(range(len(group["params"])))} for group in self.param_groups]
        return {"state": self._moments, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group |= saved | {"params": group["params"]}
        self._moments = {place: dict(moments) for place, moments in state["state"].items()}
