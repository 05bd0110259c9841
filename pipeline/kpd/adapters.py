"""Callbacks that let the trainers of Hugging Face and Lightning call a :class:`Sparsifier`; both are optional.

Give the trainer an optimiser of ``sparsifier.parameter_groups()``, and the sparsifier the number of optimiser steps.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pipeline.errors import InputError
from pipeline.kpd.sparsifier import Sparsifier


def for_hugging_face(sparsifier: Sparsifier) -> Any:
    """Return a ``transformers.TrainerCallback``: ``Trainer(.., optimizers=(optimizer, None), callbacks=[callback])``.

    It acts after each step of the optimiser, before gradients are cleared, and finishes at the end of training.

    Raises
    ------
    InputError
        The package transformers is not installed.
    """
    base = _imported("transformers", "TrainerCallback", "pip install transformers accelerate")

    class Callback(base):  # type: ignore[misc, valid-type]
        """Steps a sparsifier."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            sparsifier.step(given.get("optimizer"))

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            sparsifier.finish()

    return Callback()


def for_lightning(sparsifier: Sparsifier) -> Any:
    """Return a ``lightning.pytorch.Callback``, for training by the module's first optimiser.

    It acts after each batch with a step of the optimiser, is kept in checkpoints, and finishes at the end of the fit.

    Raises
    ------
    InputError
        The package lightning is not installed.
    """
    base = _imported("lightning.pytorch", "Callback", "pip install lightning")

    class Callback(base):  # type: ignore[misc, valid-type]
        """Steps a sparsifier."""

        def on_train_batch_end(self, trainer: Any, module: Any, *given: Any) -> None:
            if trainer.global_step > sparsifier.steps:  # not where gradients are only accumulated
                sparsifier.step(trainer.optimizers[0])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            sparsifier.finish()

        def state_dict(self) -> dict[str, Any]:
            return sparsifier.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            sparsifier.load_state_dict(state)

    return Callback()


def _imported(module: str, name: str, remedy: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise InputError(f"the callback needs {module.split('.')[0]} ({error}): {remedy}") from error
