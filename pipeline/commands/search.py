"""The smallest artifact for an error, or the least error for a size, over all methods.

``search`` fits candidates in order of promise, as many as its time allows, and keeps the best; sizes are those of
real files.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.commands.deadline import OutOfTimeError, given_up_after
from pipeline.errors import InputError, nearest
from pipeline.methods import COMPRESSORS, METHODS
from pipeline.runs import progress
from pipeline.runs.about import About
from pipeline.runs.compressor import ARRAY_HEADER, Compressor, negative_share, order_bytes
from pipeline.runs.frame import Frame
from pipeline.runs.times import compiling_seconds
from pipeline.sparse import SparseTensor

CLOSE = 0.92  # a file of this share of the limit is large enough
BISECTIONS = 5  # steps between the smallest and the largest size that may meet an error
SMALLEST = 256  # bytes below which no search for an error goes
GRID_SIZES = 64  # sizes at which an automatic grid looks for settings
SECONDS = 60.0  # that a search may take, unless told otherwise
LAST_SHARE = 0.8  # of the time left, that NeuKron is told to take: it ends after the epoch in which that is over
LEAST_SECONDS = 1.0  # without which no further candidate is fitted
ROUNDING = 1 + 1e-9  # of errors that meet a limit
EXACT_BITS = 1.5  # a non-zero; at less, exact codes are tried after rate-distortion
FAR_FROM_EXACT = 0.1  # relative error of rate-distortion, at which an exact code hardly fits
EXACT_AT_ONCE = 1 << 17  # non-zeros at most, of which exact codes are tried even so: they take seconds


_LIMITS = ("max_epochs", "max_seconds")


@dataclass(frozen=True)
class Attempt:
    """A fitted candidate: what it is, what it costs and what it is worth."""

    method: str
    settings: dict[str, Any]
    file_bytes: int
    relative_error: float
    seconds: float
    model: Compressor = field(repr=False)

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={_rounded(value)}" for key, value in self.settings.items())
        return (
            f"{self.method}({chosen}): {self.file_bytes:,} bytes, relative error {self.relative_error:.4f}, "
            f"{self.seconds:.1f} s"
        )


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Found:
    """The winner, everything that was fitted on the way, why the winner won, and what became of each candidate."""

    best: Attempt
    attempts: list[Attempt]
    reason: str
    fates: dict[str, str]


def search(
    X: SparseTensor,
    *,
    max_bytes: int | None = None,
    max_error: float | None = None,
    orders: bool = True,
    methods: Sequence[str] | None = None,
    neukron: dict[str, Any] | None = None,
    seed: int = 0,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[str], None] = lambda line: None,
) -> Found:
    """Find the method and settings that serve a tensor best.

    Parameters
    ----------
    max_bytes
        Largest file allowed; the least error within it wins.
    max_error
        Largest relative error (squared error over squared norm) allowed; the smallest file within it wins.
    orders
        Whether the file must answer in the tensor's own indices.
    methods
        Candidates; all that can handle the tensor if None.
    neukron
        Settings of NeuKron beside `hidden`; where they hold no limit, it may fit for the time that is left.
    seconds
        Of the whole search; as long again where nothing has met the limit by then. Fits that can end themselves are
        told when, others are given up. While nothing meets the limit, none is until one that can end itself was made;
        NeuKron with a limit of its own never is.
    clock
        What counts the seconds. By the processor's (``time.process_time``), for measurements on a busy machine, a fit
        that ends itself by the wall's clock is given as much more as the search has taken by it so far.
    tell
        Called with a line that says what is looked for, and one for each candidate fitted or passed over.

    Raises
    ------
    InputError
        Not exactly one of the limits is given, a limit is out of range, a method is unknown, or none meets it.
    """
    if (max_bytes is None) == (max_error is None):
        raise InputError("give either a size in bytes or a relative error, not both or none")
    names = _candidates(X, methods)
    if max_bytes is not None and max_bytes < 1:
        raise InputError(f"a size of {max_bytes} bytes: needs at least 1")
    if max_error is not None and not 0 <= max_error <= 1:
        raise InputError(f"a relative error of {max_error}: needs a number from 0 to 1")
    hunt = _Hunt(X, orders, neukron or {}, seed, seconds, clock, tell)
    wanted = f"the smallest file of a relative error up to {max_error}"
    if max_bytes is not None:
        wanted = f"the least error within {max_bytes:,} bytes"
    stored = "orders stored" if orders else "orders left out"
    tell(f"wanted: {wanted}, {stored}, in {seconds:g} s; tried in turn: {', '.join(names)}")
    if max_bytes is not None:
        return hunt.within_bytes(names, max_bytes)
    assert max_error is not None  # noqa: S101 - one of the two is given
    return hunt.within_error(names, max_error)


def _candidates(X: SparseTensor, methods: Sequence[str] | None) -> list[str]:
    for name in methods or ():
        if name not in COMPRESSORS:
            raise InputError(f"method '{name}' does not exist{nearest(name, COMPRESSORS)}")
    promising = sorted(COMPRESSORS, key=lambda name: METHODS[name].place)  # cheap and strong first
    able = [name for name in promising if METHODS[name].load().takes_order(X.order)]
    chosen = [name for name in able if methods is None or name in methods]
    if not chosen:
        raise InputError(f"none of {', '.join(methods or ())} can handle a tensor of {X.order} modes")
    return chosen


def _cells_first(names: list[str]) -> list[str]:
    """Rate-distortion before lossless, which it is never much longer than, wherever less than exact will do."""
    first = [name for name in ("rate-distortion", "lossless") if {"rate-distortion", "lossless"} <= set(names)]
    return first + [name for name in names if name not in first]


class _Hunt:
    """One search: the tensor, what counts as size, and what was fitted so far."""

    def __init__(
        self,
        X: SparseTensor,
        orders: bool,
        neukron: dict[str, Any],
        seed: int,
        seconds: float,
        clock: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        self.X, self.orders, self.neukron, self.seed, self.tell = X, orders, neukron, seed, tell
        self.seconds, self._clock, self._started, self._compiled = seconds, clock, clock(), compiling_seconds()
        self._wall_started = time.perf_counter()
        self.attempts: list[Attempt] = []
        self.best: Attempt | None = None  # of those that meet the limit
        self.passed: dict[str, str] = {}  # why a candidate was not fitted, or not to the end
        self.wanted_error = False  # or a size
        self.only: str | None = None  # the one candidate, where there is but one
        self.least = sys.maxsize  # bytes below which no candidate's file can be
        self._told: set[str] = set()
        self._sure_to_come = False
        self.label_bytes = label_bytes(X) if orders else 0

    def left(self) -> float:
        """Seconds that the search may still take; what is compiled on the way, once, does not count."""
        return self._started + self.seconds + compiling_seconds() - self._compiled - self._clock()

    def until_given_up(self) -> float:
        """Seconds that a fit may still take, before the search has something to show forever."""
        if self.best:
            return self.left()
        return self.left() + self.seconds if self.attempts and not self._sure_to_come else math.inf

    def _each(self, names: list[str]) -> Iterator[str]:
        """Candidates in turn, while there is time; remembers which one is tried, for the progress bar."""
        self.only = names[0] if len(names) == 1 else None
        ends_itself = [name for name in names if name != "neukron" and hasattr(self._make(name, {}), "max_seconds")]
        for number, name in enumerate(names, start=1):
            to_come = any(one in ends_itself for one in names[number - 1 :])
            self._sure_to_come = to_come and not any(attempt.method in ends_itself for attempt in self.attempts)
            self._turn = f"{number} of {len(names)}"
            if self.until_given_up() < LEAST_SECONDS and not self._own_limit(name):
                self._pass_over(name, self._over)
            else:
                yield name

    @property
    def _over(self) -> str:
        return f"the {self.seconds:g} s of the search are over"

    def _cut_short(self) -> bool:
        """Whether a candidate was passed over for want of time."""
        return any(why.startswith(self._over) for why in self.passed.values())

    def _own_limit(self, name: str) -> bool:
        """Whether a candidate has a time of its own, beside the search's."""
        return name == "neukron" and bool(self.bounds())

    def _pass_over(self, name: str, why: str, no_file: str = "") -> None:
        """Remember and tell why a candidate is not fitted, or not to the end."""
        self.passed[name] = why
        self.tell(f"{no_file or name + ': '}passed over, {why}")

    def _hopeless(self, name: str, limit: int, error: float) -> bool:
        """Whether no file of a method takes at most `limit` bytes, or none has at most so large an error.

        Found without fitting it, and told.
        """
        model = self._make(name, {})
        least = model.least_file_bytes(self.X, self.orders) + self.label_bytes
        below = 0.0 if model.answers_negative else negative_share(self.X)
        self.least = min(self.least, least)
        if least > limit:
            self._pass_over(name, f"a file takes at least {least:,}", f"{self._why_not(name, limit)}; ")
        elif below > error:
            self._pass_over(
                name,
                f"{below:.1%} of the squared norm is in negative values, which it cannot answer, "
                f"and {error:.1%} is {'looked for' if self.wanted_error else 'reached'}",
            )
        return least > limit or below > error

    def within_bytes(self, names: list[str], limit: int) -> Found:
        """Every candidate at the largest size that fits; the least error wins."""
        if 8 * (limit - self.label_bytes) < EXACT_BITS * self.X.nnz:
            names = _cells_first(names)
        for name in self._each(names):
            reached = self.best.relative_error if self.best else 1.0
            if reached == 0.0:
                self.passed[name] = "nothing can be better than exact"
            elif name == "lossless" and self._exact_takes_long() and reached > FAR_FROM_EXACT and self.best:
                self._pass_over(name, f"{self.best.method} leaves {reached:.1%} at this size, far from exact")
            elif not self._hopeless(name, limit, reached):
                attempt = self.fit_within(name, limit)
                if attempt and (self.best is None or attempt.relative_error < reached):
                    self.best = attempt
        best = self.best
        if best is None:
            least = min(self.attempts, key=lambda attempt: attempt.file_bytes, default=None)
            hint = (
                f"; the smallest tried: {least}"
                if least
                else f"; none of these methods can make one below {self.least:,} bytes"
            )
            if self.label_bytes:
                hint += f"; the labels of its indices take {self.label_bytes:,} of them: leave these out (--no-labels)"
            if self._cut_short():
                hint += f"; {self._over}: give more (--seconds)"
            raise InputError(f"no method makes a file of at most {limit:,} bytes; allow more{hint}")
        fitting = [attempt for attempt in self.attempts if attempt.file_bytes <= limit]
        reason = f"the least error of {len(fitting)} fits of at most {limit:,} bytes"
        if best.relative_error == 0.0:
            reason = "it is exact and within the size, so the rest was not tried"
        return self._found(names, best, fitting, reason, lambda one: one.relative_error, "error")

    def within_error(self, names: list[str], limit: float) -> Found:
        """Every candidate at ever smaller sizes while it meets the error and is smaller than the best so far."""
        self.wanted_error = True
        for name in self._each(_cells_first(names) if limit > 0 else names):
            if name == "lossless" and self._exact_takes_long() and limit > FAR_FROM_EXACT and self.best:
                self._pass_over(name, f"{self.best.method} was within an error of {limit:g}, far from exact")
                continue
            known = METHODS[name].load().settings_for_error(self.X, limit, self.orders)
            attempt = self._smallest(name, limit) if known is None else self._meeting(name, known, limit)
            if attempt and (self.best is None or attempt.file_bytes < self.best.file_bytes):
                self.best = attempt
        best = self.best
        if best is None:
            least = min(self.attempts, key=lambda attempt: attempt.relative_error, default=None)
            hint = f"; the closest tried: {least}" if least else ""
            remedy = f"{self._over}: give more (--seconds)" if self._cut_short() else "add 'lossless' to the methods"
            raise InputError(f"no candidate reaches a relative error of {limit}; {remedy}{hint}")
        meeting = [attempt for attempt in self.attempts if attempt.relative_error <= limit * ROUNDING]
        reason = f"the smallest of {len(meeting)} fits of a relative error up to {limit}"
        return self._found(names, best, meeting, reason, lambda one: one.file_bytes, "bytes")

    def _exact_takes_long(self) -> bool:
        return self.X.nnz > EXACT_AT_ONCE

    def _found(
        self,
        names: list[str],
        best: Attempt,
        meeting: list[Attempt],
        reason: str,
        worth: Callable[[Attempt], float],
        unit: str,
    ) -> Found:
        """The winner, and of every candidate its best fit beside it, or why there is none."""
        if others := [attempt for attempt in meeting if attempt.method != best.method]:
            reason += f"; next is {min(others, key=worth)}"
        fates = {}
        for name in names:
            mine = [attempt for attempt in self.attempts if attempt.method == name]
            within = min((attempt for attempt in mine if attempt in meeting), key=worth, default=None)
            parts = [self.passed[name]] if name in self.passed else []
            if within is not None:
                more = "chosen" if within is best else f"{worth(within) / max(worth(best), 1e-12):.3g} x its {unit}"
                parts.insert(0, f"{within.file_bytes:,} bytes, relative error {within.relative_error:.4f}: {more}")
            elif mine:
                near = min(mine, key=lambda one: one.relative_error if self.wanted_error else one.file_bytes)
                parts.insert(
                    0, f"beyond the limit: {near.file_bytes:,} bytes, relative error {near.relative_error:.4f}"
                )
            fates[name] = "; ".join(parts) or "none fits"
        return Found(best, self.attempts, reason, fates)

    def _meeting(self, name: str, settings: dict[str, Any], limit: float) -> Attempt | None:
        """A fit with given settings, if its error is within the limit."""
        attempt = self.try_to_fit(name, settings)
        return attempt if attempt and attempt.relative_error <= limit * ROUNDING else None

    def _smallest(self, name: str, limit: float) -> Attempt | None:
        ceiling = self.best.file_bytes - 1 if self.best else self._ample()
        if ceiling < self._smallest_size():
            self._pass_over(name, f"no smaller file than {ceiling + 1} bytes is looked for")
            return None
        if self._hopeless(name, ceiling, limit):
            return None
        found = self.fit_within(name, ceiling)
        if found is None or found.relative_error > limit:
            return None
        low, high = math.log(self._smallest_size()), math.log(found.file_bytes)
        for _ in range(0 if name in ("lossless", "neukron") else BISECTIONS):
            if self.left() < LEAST_SECONDS:
                self._pass_over(name, f"{self._over}, its smallest file was not found")
                break
            middle = (low + high) / 2
            attempt = self.fit_within(name, int(math.exp(middle)))
            if attempt and attempt.relative_error <= limit:
                found, high = attempt, math.log(attempt.file_bytes)
            else:
                low = middle
        return found

    def _smallest_size(self) -> int:
        return SMALLEST + self.label_bytes

    def _ample(self) -> int:
        """Bytes that a file of a low error hardly takes."""
        return 16 * self.X.nnz + 4 * sum(self.X.shape) + 4096 + self.label_bytes

    def fit_within(self, name: str, limit: int) -> Attempt | None:
        """Fit a method so that its file has at most `limit` bytes, but close to it; None if it cannot be."""
        kind = METHODS[name].load()
        model = self._make(name, kind.settings_within(self.X, limit, self.orders) or {})
        told = len(json.dumps({"set": model.given_settings()}))
        overhead = model.file_overhead(self.X, self.orders) + told
        room = max(1, limit - self.label_bytes)
        nominal, best = room - min(overhead, room / 2), None
        if name == "neukron":
            each = f", each within {self.bounds()}" if self.bounds() else ""
            self._tell_once(f"neukron: {kind.fits_to_meet_a_size} fits at most{each}")
        tried: list[dict[str, Any]] = []
        share = 1.0
        while len(tried) < kind.fits_to_meet_a_size:
            settings = kind.settings_within(_known_to(kind, self.X), math.floor(nominal), self.orders)
            if settings is None or (settings in tried and (share <= 1 or nominal < room / 4)):
                break
            if settings in tried:  # a step of this method's sizes is wider than what was too much
                nominal *= 0.9
                continue
            tried.append(settings)
            attempt = self.try_to_fit(name, settings)
            if attempt is None:
                return best
            share = (attempt.file_bytes - self.label_bytes) / room
            if share > 1 and self.until_given_up() < LEAST_SECONDS:
                self._pass_over(name, f"{self._over}, it did not meet the size")
                return best
            if share <= 1 and (best is None or attempt.relative_error < best.relative_error):
                best = attempt
            if CLOSE <= share <= 1 or (share <= 1 and kind.fits_to_meet_a_size == 2):
                break
            nominal *= min(4.0, (0.995 if 1 < share < 1.05 else 0.97) / share)
            if share > 1:  # a smaller size may give the same model again: less than it took by what was too much
                taken = attempt.model.size()["bytes_with_order" if self.orders else "bytes_equal"]
                nominal = min(nominal, taken - (attempt.file_bytes - limit))
        if best is None:
            self.tell(self._why_not(name, limit))
        return best

    def _why_not(self, name: str, limit: int) -> str:
        text = f"{name}: none within {limit:,} bytes"
        if self.orders and name in ("kronfit", "neukron") and order_bytes(self.X.shape) >= limit:
            text += f", its orders alone take {order_bytes(self.X.shape):,}; without them it could be tried"
        return text

    def try_to_fit(self, name: str, settings: dict[str, Any]) -> Attempt | None:
        """Fit; where a method refuses the tensor or time is over, say so and go on, unless it is the only one."""
        try:
            return self.fit(name, settings)
        except InputError as error:
            if self.only == name:
                raise
            self._pass_over(name, str(error))
            return None
        except OutOfTimeError:
            self._pass_over(name, f"{self._over}, it was not fitted to its end")
            return None

    def fit(self, name: str, settings: dict[str, Any]) -> Attempt:
        """Fit, measure the file, and remember the attempt; what was fitted before is not fitted again."""
        for earlier in self.attempts:
            if (earlier.method, earlier.settings) == (name, settings):
                return earlier
        model = self._make(name, settings)
        model.listener = self._tell_once
        started = self._clock()
        with nullcontext() if self._own_limit(name) else given_up_after(self.until_given_up):
            self._limit(model)
            self._fit(model, f"{self._turn}: {name}")
        error = float(model.error(self.X)["error"])
        relative = error / self.X.norm2 if error else 0.0
        size = file_bytes(model, self.orders)
        attempt = Attempt(name, settings, size, relative, self._clock() - started, model)
        self.attempts.append(attempt)
        self.tell(f"{attempt}; {max(self.left(), 0):.0f} s left" + (self._course(model) if name == "neukron" else ""))
        return attempt

    def _fit(self, model: Any, label: str) -> None:
        """Fit with a progress bar over what bounds the fit, and within the time that is left."""
        label = f"{label}, {max(self.left(), 0):.0f} s left"
        if model.name == "neukron":
            epochs = model.max_epochs
            with progress.towards(label, epochs or model.max_seconds, "epoch" if epochs else "s") as reached:
                model.fit(self.X, lambda state: reached(state.epoch if epochs else round(state.seconds, 1)))
            return
        with progress.towards(label, getattr(model, "max_sweeps", None), "sweep") as reached:
            model.fit(self.X, lambda row: reached(row["epoch"]))

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.tell(line)

    def _course(self, model: Compressor) -> str:
        """What bounded NeuKron's fit."""
        return f"; {len(model.history_)} epochs" + (f", allowed {self.bounds()}" if self.bounds() else "")

    def bounds(self) -> str:
        """The limits of one of NeuKron's fits, where it was given any."""
        return ", ".join(f"{key}={_rounded(self.neukron[key])}" for key in _LIMITS if key in self.neukron)

    def _make(self, name: str, settings: dict[str, Any]) -> Any:
        if name == "neukron":
            from pipeline.neukron import NeuKron

            return NeuKron(seed=self.seed, **(self.neukron | settings))
        from pipeline.baselines import make

        return make(name, settings, self.seed)

    def _limit(self, model: Any) -> None:
        """Tell a fit that can end itself when to: after half of the time that is left, NeuKron after most of it."""
        if hasattr(model, "max_seconds") and not self._own_limit(model.name):
            model.warm_up(2 if model.name == "neukron" else self.X.order)  # which its own clock does not count
            share = LAST_SHARE if model.name == "neukron" else 0.5
            model.max_seconds = max(share * self.left(), LEAST_SECONDS) * self._wall_seconds()

    def _wall_seconds(self) -> float:
        """Of the wall's clock for one of the search's own, so far."""
        counted = self._clock() - self._started
        return (time.perf_counter() - self._wall_started) / counted if counted > 0 else 1.0


def file_bytes(model: Compressor, orders: bool) -> int:
    """Size of the artifact that a fitted model writes."""
    return len(model.artifact(orders))


def label_bytes(X: SparseTensor) -> int:
    """What the labels of a tensor's indices take in the file of any method that keeps the orders."""
    return sum(array.nbytes + ARRAY_HEADER + len(name) for name, array in About.of(X).label_arrays().items())


def _known_to(kind: type[Compressor], X: SparseTensor) -> SparseTensor:
    """The tensor that a method itself is fitted to: for most without the indices that never occur."""
    if kind.predict is not Compressor.predict:
        return X
    return Frame.of(X, values=False).inner(X)[0] or X


def automatic_grid(X: SparseTensor, smallest: float, largest: float, points: int = 5) -> dict[str, dict[str, Any]]:
    """Settings of every method for a tensor, spread over a range of sizes; as `params.yaml` has them.

    Parameters
    ----------
    smallest, largest
        Bytes of the first and the last size, at 4 bytes a real, orders free.
    points
        Settings a method at most; of those that differ within the range, evenly chosen.

    Examples
    --------
    >>> X = SparseTensor([[0, 0], [9, 99]], [1.0, 1.0], (10, 100))
    >>> automatic_grid(X, 500, 2000, 3)["t-svd"]
    {'rank': [1, 3, 4]}
    """
    grids: dict[str, dict[str, Any]] = {}
    for name in _candidates(X, None):
        found: list[dict[str, Any]] = []
        for size in np.geomspace(smallest, largest, GRID_SIZES).tolist():
            kind = METHODS[name].load()
            settings = kind.settings_within(_known_to(kind, X), size, orders=False)
            if settings is not None:
                rounded = {key: float(f"{v:.3g}") if isinstance(v, float) else v for key, v in settings.items()}
                found += [rounded] if rounded not in found else []
        if found:
            places = np.unique(np.rint(np.linspace(0, len(found) - 1, points)).astype(int)).tolist()
            grids[name] = {key: [found[place][key] for place in places] for key in found[0]} or {"default": {}}
    return grids
