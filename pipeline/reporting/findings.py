"""What the numbers say, in words: who needs fewest bytes for an error, and where NeuKron and KPD lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.methods import METHODS
from pipeline.reporting.figures import scaling_laws
from pipeline.reporting.outputs import ACCOUNTINGS, Accounting
from pipeline.reporting.results import Kind, Record, Results
from pipeline.reporting.statistics import PowerLaw, frontier, welch_halfwidth
from pipeline.reporting.style import ABOUT, PLUS_MINUS, look, point_name, setting_name, significant, times, with_prefix
from pipeline.runs.compressor import Compressor

TARGETS = [0.9, 0.75, 0.5, 0.25, 0.1, 0.0]  # relative errors that the table of smallest artifacts asks for
TELLING_LINES = 11


Measure = Literal["error", "bytes"]
Outcome = Literal["win", "loss", "tie", "open", "none"]


@dataclass(frozen=True)
class Comparison:
    """NeuKron's most accurate setting beside the others, at its error or at its bytes.

    At its error the bytes are compared of what is as accurate, at its bytes the errors of what is as small. What a
    method would need there lies between two of its own runs: `upper` is the best that was run and meets NeuKron's
    `measure`, `lower` is from its run beyond it. NeuKron has lost where a rival's `upper` is below its own number,
    and has won only where every rival's `lower` is above it; else the runs cannot tell. Errors that the seeds' 95 %
    interval (`spread`) does not tell apart are no difference.
    """

    accounting: Accounting
    measure: Measure
    own: Record
    own_value: float  # bytes at its error, relative error at its bytes
    rival: Record | None  # the best that was run
    rival_value: float
    lowest: float  # what no rival can be below
    open_methods: tuple[str, ...]  # rivals of which no run is beyond
    rivals: int  # settings of other methods that were run
    spread: float = 0.0  # half the interval of a difference of errors, as far as there are seeds; 0 of bytes
    unsettled: tuple[str, ...] = ()  # rivals that were run beyond it, but within the seeds' interval

    @property
    def judged(self) -> bool:
        """Whether there was anything to compare with."""
        return self.rivals > 0

    @property
    def own_bytes(self) -> float:
        """NeuKron's bytes in this accounting."""
        return float(self.own[self.accounting.column])

    @property
    def ratio(self) -> float:
        """The rival's number over NeuKron's: above 1 NeuKron's is the better; infinite without a rival."""
        return self.rival_value / self.own_value if self.own_value else (1.0 if self.rival_value == 0 else math.inf)

    @property
    def wins(self) -> bool:
        """Whether NeuKron is the better for certain; never where no rival was run."""
        return self.outcome == "win"

    @property
    def outcome(self) -> Outcome:
        """The outcome in a word."""
        if not self.judged:
            return "none"
        if self.ratio == 1 or (self.rival_value > 0 and abs(self.rival_value - self.own_value) <= self.spread):
            return "tie"
        if self.ratio < 1:
            return "loss"
        told = not self.open_methods and not self.unsettled and self.lowest - self.own_value > self.spread
        return "win" if told else "open"

    @property
    def verdict(self) -> str:
        """The outcome for NeuKron in a few words."""
        outcome, (better, worse) = self.outcome, WORDS[self.measure]
        if outcome == "none":
            return "no rival run"
        if outcome == "tie":
            same = f"same {'size' if self.measure == 'error' else 'error'}"
            return same if self.ratio == 1 else "no difference shown"
        if outcome == "loss":
            factor = 1 / self.ratio if self.ratio else math.inf
            return (
                f"at least {times(factor)}x {worse}" if math.isfinite(factor) else f"{worse}: {NOTHING[self.measure]}"
            )
        if outcome == "win" and not math.isfinite(self.lowest):
            return f"no other is as {'accurate' if self.measure == 'error' else 'small'}"
        if outcome == "win":
            return f"at least {times(self.lowest / self.own_value)}x {better}"
        return "not comparable"

    @property
    def remedy(self) -> str:
        """Where the runs cannot tell: which settings, or how many seeds, would, as a sentence."""
        if not self.open_methods:
            names = f" to tell it from {_list([look(name).shown for name in self.unsettled])}" if self.unsettled else ""
            return f"{self.own['seeds']} seeds are too few{names}: run more of them, as seeds of params.yaml has them."
        names = _list([look(name).shown for name in self.open_methods])
        wanted = (
            f"at an error of {significant(float(self.own['relative_error']))}"
            if self.measure == "error"
            else f"at {with_prefix(self.own_bytes, 'B')}"
        )
        option = (
            f"--error {float(self.own['relative_error']):.4g}"
            if self.measure == "error"
            else f"--bytes {self.own_bytes:.0f}"
        )
        return f"No setting of {names} was run near enough {wanted}; kronflow compress .. {option} fits them there."


WORDS = {"error": ("smaller", "larger"), "bytes": ("lower error", "higher error")}
NOTHING = {"error": "the other takes no bytes", "bytes": "the other is exact"}  # what a rival's 0 means
USUAL = 0.5  # the relative error that the summary speaks of
NEAR = 0.05  # a run within a twentieth of NeuKron's number counts as being at it


def compare(results: Results, dataset: str, measure: Measure = "error") -> list[Comparison]:
    """One comparison an accounting; empty where NeuKron has no run on the data set."""
    cells = results.compression[results.compression["dataset"] == dataset]
    mine = cells[cells["method"] == "neukron"]
    if mine.empty:
        return []
    own = mine.sort_values(["relative_error", "bytes_equal"]).iloc[0].to_dict()
    rivals = cells[cells["method"] != "neukron"]
    return [_compared(item, measure, own, rivals) for item in ACCOUNTINGS]


def _compared(accounting: Accounting, measure: Measure, own: Record, rivals: pd.DataFrame) -> Comparison:
    columns = (accounting.column, "relative_error")
    value, given = columns if measure == "error" else columns[::-1]
    meeting = rivals[rivals[given] <= own[given]].sort_values([value, given])
    lowest = math.inf
    open_methods: list[str] = []
    unsettled: list[str] = []
    # what a rival needs for an error is known from its runs that are surely no better, wherever in its interval ours is
    unsure = _halfwidth(own) if measure == "error" else 0.0
    for method, runs in rivals.groupby("method", sort=False):
        kind = METHODS[str(method)].load()
        if kind.settings_within.__func__ is Compressor.settings_within.__func__:  # type: ignore[attr-defined]
            continue  # it has this one size, whatever is wanted
        near = own[given] * (1 - NEAR)
        beyond = float(runs[runs[given] >= near + unsure][value].max())
        lowest = min(lowest, beyond) if math.isfinite(beyond) else lowest
        if not beyond > own[value]:
            alike = float(runs[runs[given] >= near][value].max()) > own[value]
            (unsettled if alike else open_methods).append(str(method))
    rival = None if meeting.empty else meeting.iloc[0].to_dict()
    best = math.inf if rival is None else float(rival[value])
    found = min(lowest, best)
    spread = welch_halfwidth(_seeds(own), _seeds(rival) if rival else (0.0, 2)) if own["seeds"] > 1 else 0.0
    return Comparison(
        accounting, measure, own, float(own[value]), rival, best, found, tuple(open_methods), len(rivals),
        spread if measure == "bytes" else 0.0, tuple(unsettled),
    )  # fmt: skip


def _halfwidth(own: Record) -> float:
    """Half the 95 % interval of a relative error over its seeds; 0 of a single run, which the page names as such."""
    return welch_halfwidth(_seeds(own), (0.0, 2))


def _seeds(cell: Record) -> tuple[float, int]:
    """Standard error of the relative error and number of seeds; a single run counts as exact."""
    several = cell["seeds"] > 1
    return (float(cell["relative_error_stderr"]), int(cell["seeds"])) if several else (0.0, 2)


def own_spread(own: Record) -> str:
    """Half the 95 % interval of NeuKron's error over seeds, or that there is none."""
    if own["seeds"] == 1:
        return " (one run)"
    return f" {PLUS_MINUS} {significant(_halfwidth(own), 2)} (95 % of {own['seeds']} seeds)"


def beyond(results: Results, dataset: str) -> list[str]:
    """Other methods that reach a lower error than any NeuKron setting on the data set."""
    cells = results.compression[results.compression["dataset"] == dataset]
    best = cells[cells["method"] == "neukron"]["relative_error"].min()
    return list(dict.fromkeys(cells[(cells["method"] != "neukron") & (cells["relative_error"] < best)]["method"]))


def on_frontier(results: Results, dataset: str) -> str:
    """Which NeuKron settings no other artifact beats in both size and error, in each accounting, as a sentence."""
    cells = results.compression[results.compression["dataset"] == dataset]
    found: dict[str, list[str]] = {}
    for accounting in ACCOUNTINGS:
        on = frontier(cells[accounting.column].tolist(), cells["relative_error"].tolist())
        mine = cells[np.asarray(on, dtype=bool) & (cells["method"] == "neukron").to_numpy()]
        found.setdefault(", ".join(map(setting_name, mine["setting"])) or "none", []).append(accounting.name)
    parts = [f"{settings} ({', '.join(names)})" for settings, names in found.items()]
    if set(cells["method"]) == {"neukron"}:
        return "No rival of NeuKron was run on this data set: its settings are compared with each other only."
    return f"NeuKron settings that no other setting run here beats in both size and error: {'; '.join(parts)}."


def error_notes(results: Results, dataset: str) -> list[str]:
    """What a reader must know of the errors on a data set: the padded grid's, and which were sampled."""
    cells = results.compression[results.compression["dataset"] == dataset]
    norm2 = float(results.first(dataset)["norm2"])
    notes = []
    padded = cells[cells["error_padded"].notna()].to_dict("records")
    if padded:
        values = ", ".join(
            f"{point_name(cell['method'], cell['setting'])} {significant(cell['error_padded'] / norm2)}"
            for cell in padded
        )
        notes.append(f"Relative error over the zero-padded grid, as NeuKron's publication counts it: {values}.")
    widest = cells["relative_halfwidth"].max()
    if widest > 0:
        notes.append(
            f"{ABOUT} marks errors that were sampled from the model; the 95 % interval of a run is at most "
            f"{PLUS_MINUS} {significant(widest, 2)} wide."
        )
    return notes


def settings_note(results: Results, dataset: str, kind: Kind) -> str:
    """What the names of compressors' or networks' settings on a data set stand for: what differs from defaults."""
    meanings: dict[str, str] = {}
    for run in results.planned:
        if run.dataset == dataset and (METHODS[run.method].kind == "network") == (kind == "network"):
            defaults = results.config.method_defaults(run.method)
            own = [f"{key} {value}" for key, value in run.settings.items() if value != defaults.get(key)]
            if own:
                meanings[point_name(run.method, run.setting)] = ", ".join(own)
    if not meanings:
        return "Every setting is the method's default."
    return f"Settings: {'; '.join(f'{name} = {values}' for name, values in meanings.items())}; all else as by default."


def smallest(results: Results) -> pd.DataFrame:
    """The smallest artifact with at most a given relative error, one row a data set, accounting and target."""
    rows = []
    for dataset in results.compression_datasets():
        cells = results.compression[results.compression["dataset"] == dataset]
        for accounting in ACCOUNTINGS:
            for target in TARGETS:
                able = cells[cells["relative_error"] <= target]
                if len(able):
                    best = able.sort_values([accounting.column, "relative_error"]).iloc[0]
                    rows.append(
                        (dataset, accounting.name, target, best["method"], best["setting"],
                         best[accounting.column], best["relative_error"])
                    )  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=["dataset", "accounting", "relative_error_at_most", "method", "setting", "bytes", "relative_error"],
    )


def summary_sentences(results: Results) -> list[str]:
    """The outcome of the whole experiment in a few plain sentences."""
    sentences = []
    measures: tuple[Measure, Measure] = ("error", "bytes")
    compared = {
        name: {measure: compare(results, name, measure) for measure in measures}
        for name in results.compression_datasets()
    }
    compared = {name: found for name, found in compared.items() if found["error"]}
    alone = [name for name, found in compared.items() if not found["error"][0].judged]
    compared = {name: found for name, found in compared.items() if name not in alone}
    if compared:
        sentences += _size_sentences(compared)
    if alone:
        sentences.append(f"On {_list(alone)} no rival of NeuKron was run: nothing is said about who is smaller.")
    several = [name for name in results.compression_datasets() if results.methods_on(name) > 1]
    if several:
        sentences += [_target_sentence(results, several, target) for target in (USUAL, 0.0)]
    lonely = [name for name in results.compression_datasets() if name not in [*several, *alone]]
    if lonely:
        sentences.append(f"On {_list(lonely)} a single method was run: nothing is said about who is smaller.")
    sentences += [
        _network_sentence(results, dataset, network)
        for dataset in results.network_datasets()
        for network in results.networks_of(dataset)
    ]
    laws = scaling_laws(results)
    if laws:
        (base, setting), law = max(laws.items(), key=lambda item: item[1].slope)
        sentences.append(
            f"An epoch of NeuKron takes time in proportion to the non-zeros to the power of {law} at most "
            f"({base}, {setting}, {law.sizes} sizes, 95 % interval): {law.verdict}."
        )
    return sentences


def _size_sentences(compared: dict[str, dict[Measure, list[Comparison]]]) -> list[str]:
    """How NeuKron compares at its error and at its bytes; accountings with the same outcome share a sentence."""
    sentences = []
    for measure, (winning, losing) in {
        "error": ("needs fewer bytes than any other that is as accurate", "is as accurate in fewer bytes"),
        "bytes": ("is more accurate than any other that is as small", "is as small and more accurate"),
    }.items():
        texts: dict[str, list[str]] = {}
        for index, accounting in enumerate(ACCOUNTINGS):
            by: dict[str, list[str]] = {}
            for name, found in compared.items():
                by.setdefault(found[measure][index].outcome, []).append(name)  # type: ignore[index]
            parts = []
            if "win" in by:
                parts.append(f"it {winning} on {_every(by['win'], list(compared))}")
            if "loss" in by:
                parts.append(f"another {losing} on {_every(by['loss'], list(compared))}")
            if "tie" in by:
                parts.append(f"no difference is shown on {_every(by['tie'], list(compared))}")
            if "open" in by:
                parts.append(f"no setting was run near enough to tell on {_every(by['open'], list(compared))}")
            texts.setdefault("; ".join(parts), []).append(accounting.name)
        at = "At the error" if measure == "error" else "At the bytes"
        sentences += [
            f"{at} of NeuKron's most accurate setting, {_counted(names)}: {text}." for text, names in texts.items()
        ]
    return sentences


def _counted(names: Sequence[str]) -> str:
    """Accountings in words; shorter where they are all there are."""
    return "however bytes are counted" if len(names) == len(ACCOUNTINGS) else f"bytes counted {_list(names)}"


def _target_sentence(results: Results, datasets: Sequence[str], target: float) -> str:
    """Who has the smallest artifact for one wanted error, in the first two accountings, over some data sets."""
    found = smallest(results)
    found = found[(found["relative_error_at_most"] == target) & found["dataset"].isin(datasets)]
    parts: dict[str, list[str]] = {}
    for accounting in ACCOUNTINGS[:2]:
        rows = found[found["accounting"] == accounting.name]
        text = "; ".join(
            f"{look(str(name)).shown} on {_every(list(group['dataset']), datasets)}"
            for name, group in rows.groupby("method", sort=False)
        )
        parts.setdefault(text or "no method here", []).append(accounting.name)
    wanted = "Smallest for an exact copy" if target == 0 else f"Smallest for a relative error of at most {target:g}"
    return ". ".join(f"{wanted}, bytes counted {_list(names)}: {text}" for text, names in parts.items()) + "."


def _every(names: Sequence[str], all_names: Sequence[str]) -> str:
    """The names in words; shorter where they are all there are."""
    return "every data set" if len(names) == len(all_names) > 1 else _list(names)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


KPD_METHODS = tuple(name for name in METHODS if name.partition("-")[0] == "kpd")  # no rivals of each other
SAME_SPARSITY = 0.02  # block sparsities that differ by no more are compared


@dataclass(frozen=True)
class NetworkComparison:
    """KPD's most accurate setting on a data set beside the dense network and the best other at its sparsity."""

    own: Record | None
    dense: Record | None
    rival: Record | None  # the most accurate other one that is about as sparse, or sparser

    @property
    def outcome(self) -> Outcome:
        """Whether KPD is the more accurate, as far as the seeds can tell."""
        if self.own is None or self.rival is None:
            return "none"
        difference, halfwidth = self.difference(self.rival)
        if not math.isfinite(halfwidth) or abs(difference) <= halfwidth:
            return "open"
        return "win" if difference > 0 else "loss"

    def difference(self, other: Record) -> tuple[float, float]:
        """KPD's accuracy less the other's, and half the 95 % interval (Welch); infinite for single runs."""
        assert self.own is not None  # noqa: S101 - of those that have one
        gap = float(self.own["accuracy"] - other["accuracy"])
        return gap, welch_halfwidth(
            (float(self.own["accuracy_stderr"]), int(self.own["seeds"])),
            (float(other["accuracy_stderr"]), int(other["seeds"])),
        )

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.own is None:
            return "KPD was not run"
        if self.rival is None:
            return "no rival run"
        difference, halfwidth = self.difference(self.rival)
        points = f"{100 * abs(difference):.1f} points {'higher' if difference > 0 else 'lower'}"
        if not math.isfinite(halfwidth):
            return f"{points}: single runs cannot tell"
        return f"{points} {PLUS_MINUS} {100 * halfwidth:.1f}" + (
            ": no difference shown" if self.outcome == "open" else ""
        )


def compare_networks(results: Results, dataset: str, network: str | None = None) -> NetworkComparison:
    """KPD on a data set, of one network or of that where it is most accurate, beside what else was trained on it."""
    cells = results.networks[results.networks["dataset"] == dataset].sort_values("accuracy", ascending=False)
    if network is not None:
        cells = cells[cells["network"] == network]
    mine, dense = cells[cells["method"].isin(KPD_METHODS)], cells[cells["method"] == "dense"]
    own = mine.iloc[0].to_dict() if len(mine) else None
    others = cells[~cells["method"].isin([*KPD_METHODS, "dense"])]
    if own is not None:
        others = others[others["block_sparsity"] >= own["block_sparsity"] - SAME_SPARSITY]
        others, dense = others[others["network"] == own["network"]], dense[dense["network"] == own["network"]]
    return NetworkComparison(
        own,
        dense.iloc[0].to_dict() if len(dense) else None,
        others.iloc[0].to_dict() if len(others) else None,
    )


def _network_sentence(results: Results, dataset: str, network: str) -> str:
    """How KPD does with a network on a data set, beside dense and beside the best of the others at its sparsity."""
    found = compare_networks(results, dataset, network)
    if found.own is None:
        return f"On {dataset} KPD was not trained with {network}: nothing is said about it."
    text = (
        f"On {dataset} {network}'s most accurate KPD, {point_name(found.own['method'], found.own['setting'])}, has "
        f"{_share(found.own['block_sparsity'])} of its blocks exactly zero and a test accuracy of "
        f"{_share(found.own['accuracy'])}"
    )
    if found.dense is not None:
        text += f", dense {_share(found.dense['accuracy'])}"
    text += f"; its training step takes {_beside(found.own['step_ratio'])}, classifying a batch "
    text += f"{_beside(found.own['inference_ratio'])}"
    if found.dense is not None:
        text += f", its file {times(found.own['file_bytes'] / found.dense['file_bytes'])} of the dense one's bytes"
    text += ". "
    if found.rival is None:
        return text + "No other method was run at this sparsity."
    name = point_name(found.rival["method"], found.rival["setting"])
    return text + f"Beside {name} ({_share(found.rival['accuracy'])}), the best other as sparse: {found.verdict}."


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _beside(ratio: float) -> str:
    return f"{times(ratio)} times the dense one's time"


def headlines(results: Results) -> str:
    """The most telling lines of the report as aligned plain text, under a title and a header."""
    datasets = results.compression_datasets()
    networks = [line for name in results.network_datasets()[:2] for line in _network_lines(results, name)]
    slopes = [_scaling_line(*key, law) for key, law in scaling_laws(results).items()][-1:]
    room = TELLING_LINES - len(networks) - len(slopes)
    free = [_size_line(results, name, 0) for name in datasets]
    stored = [_size_line(results, name, 1) for name in datasets]
    paired = [line for pair in zip(free, stored, strict=True) for line in pair]
    lines = (paired if len(paired) <= room else free + stored)[:room] + networks + slopes
    runs = "1 run" if len(results.runs) == 1 else f"{len(results.runs)} runs"
    if len(results.runs) < len(results.planned):
        runs = f"{len(results.runs)} of {len(results.planned)} runs (partial)"
    title = [f"Experiment {results.experiment}: {runs}."]
    if datasets:
        beside = [bool(compare(results, name)) for name in datasets]
        wanted = f"has an error of at most {USUAL:g}" if not any(beside) else "is as accurate as NeuKron's best"
        wanted += f" (without NeuKron: an error of at most {USUAL:g})" if any(beside) and not all(beside) else ""
        title[0] += " Error: squared Frobenius, relative to the tensor's."
        title += [
            f"To take: the smallest that was run and {wanted}. 1 kB = 1,000 bytes.",
            "Accounting: equal = 4 bytes a real, orders free; equal + orders = orders stored too.",
        ]
    header = ("data set", "accounting" if datasets else "of", "take", "rather than", "which is")
    return "\n".join([*title, *_aligned([header, *lines])]) + "\n"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size_line(results: Results, dataset: str, index: int) -> tuple[str, ...]:
    accounting = ACCOUNTINGS[index]
    found = compare(results, dataset)
    if not found:
        cells = results.compression[results.compression["dataset"] == dataset]
        able = cells[cells["relative_error"] <= USUAL].sort_values([accounting.column, "relative_error"])
        best = _point(able.iloc[0].to_dict(), accounting) if len(able) else f"none: all have an error above {USUAL:g}"
        return (dataset, accounting.name, best, "NeuKron: not run", "-")
    item = found[index]
    own = _point(item.own, accounting)
    if min(float(cell["relative_error"]) for cell in (item.own, item.rival or item.own)) >= 1:
        return (dataset, accounting.name, "none: storing nothing has error 1", own, "no better")
    if not item.judged:
        return (dataset, accounting.name, own, "others: not run", item.verdict)
    if item.rival is None:
        return (dataset, accounting.name, own, "others: none as accurate", item.verdict)
    rival = _point(item.rival, accounting)
    if item.outcome == "loss":
        return (dataset, accounting.name, rival, own, item.verdict)
    which = f"at least {times(item.lowest / item.own_value)}x larger" if item.wins else item.verdict
    return (dataset, accounting.name, own, rival, which)


def _point(cell: Record, accounting: Accounting) -> str:
    size = with_prefix(float(cell[accounting.column]), "B")
    name = point_name(cell["method"], cell["setting"])
    return f"{name}: {size}, error {significant(float(cell['relative_error']))}"


def _network_lines(results: Results, dataset: str) -> list[tuple[str, ...]]:
    """KPD beside dense: who is more accurate, and what KPD's step and inference take."""
    found = compare_networks(results, dataset)
    if found.own is None:
        return [(dataset, "accuracy", "KPD: not run", "-", "-")]
    name = point_name(found.own["method"], found.own["setting"])
    zeros = f"{100 * found.own['block_sparsity']:.0f} % of blocks zero"
    step, inference = (f"{what} {times(float(found.own[f'{what}_ratio']))}x" for what in ("step", "inference"))
    cost = (dataset, "time", f"{name}: {step}, {inference}", "dense, measured in the same run: 1x", zeros)
    own = f"{name}: {_share(found.own['accuracy'])}, {with_prefix(float(found.own['file_bytes']), 'B')}"
    if found.dense is None:
        return [(dataset, "accuracy", own, "dense: not run", "-"), cost]
    dense = f"dense: {_share(found.dense['accuracy'])}, {with_prefix(float(found.dense['file_bytes']), 'B')}"
    gap, halfwidth = (100 * value for value in found.difference(found.dense))
    pair = (dense, own) if gap < 0 else (own, dense)
    told = halfwidth < abs(gap)
    which = f"{abs(gap):.2f} {PLUS_MINUS} {halfwidth:.2f} points lower" if told else "not shown to differ"
    return [(dataset, "accuracy", *pair, which), cost]


def _scaling_line(base: str, setting: str, law: PowerLaw) -> tuple[str, ...]:
    return (
        base,
        "epoch's time",
        f"{setting}: proportional to nnz^{law}",
        f"{law.sizes} sizes, fitted",
        law.verdict,
    )
