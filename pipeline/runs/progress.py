"""A progress bar over the epochs of a fit, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.neukron.trainer import State


@contextmanager
def epochs(norm2: float, max_epochs: int | None) -> Iterator[Any]:
    """Show error, relative error, rate, and time left where the end is known; gives what to call after each epoch."""
    from tqdm import tqdm

    from pipeline.runs import distributed

    with tqdm(total=max_epochs, unit="epoch", desc="NeuKron", disable=not distributed.is_first()) as bar:

        def after_epoch(state: State) -> None:
            bar.set_postfix_str(f"error {state.error:,.6g} ({state.error / norm2:.2%} of ||X||^2)", refresh=False)
            bar.update(state.epoch - bar.n)  # a resumed run starts above zero

        yield after_epoch
