"""A progress bar over the epochs of a fit, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

DELAY = 0.1  # seconds without a bar: a setting that is refused at once is told in one line


class Reached(Protocol):
    """How far a fit is."""

    epoch: int
    error: float


def tell(line: str) -> None:
    """Print a line on standard error, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def epochs(norm2: float, max_epochs: int | None) -> Iterator[Any]:
    """Show error, relative error, rate, and time left where the end is known; gives what to call after each epoch."""
    from tqdm import tqdm

    from pipeline.runs import distributed

    with tqdm(total=max_epochs, unit="epoch", desc="NeuKron", delay=DELAY, disable=not distributed.is_first()) as bar:

        def after_epoch(state: Reached) -> None:
            bar.set_postfix_str(f"error {state.error:,.6g} ({state.error / norm2:.2%} of ||X||^2)", refresh=False)
            bar.update(state.epoch - bar.n)  # a resumed run starts above zero

        yield after_epoch


@contextmanager
def towards(label: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    """Show how much of `total` is reached and the time left, on a terminal only; gives what to call with the former."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, desc=label, leave=False, disable=None) as bar:
        yield lambda reached: bar.update(reached - bar.n) and None
