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
from pipeline.reporting.results import ACCOUNTINGS, Accounting, Kind, Record, Results
from pipeline.reporting.statistics import PowerLaw, frontier
from pipeline.reporting.style import ABOUT, PLUS_MINUS, look, point_name, significant, times, with_prefix

TARGETS = [0.9, 0.75, 0.5, 0.25, 0.1, 0.0]  # relative errors that the table of smallest artifacts asks for
TELLING_LINES = 10


@dataclass(frozen=True)
class Comparison:
    """NeuKron's most accurate setting on a data set against the smallest other artifact that is as accurate."""

    accounting: Accounting
    own: Record
    own_bytes: float
    rival: Record | None
    rival_bytes: float
    rivals: int  # settings of other methods that were run

    @property
    def judged(self) -> bool:
        """Whether there was anything to compare with."""
        return self.rivals > 0

    @property
    def ratio(self) -> float:
        """The rival's bytes over NeuKron's: above 1 NeuKron is smaller; infinite without a rival."""
        return self.rival_bytes / self.own_bytes

    @property
    def wins(self) -> bool:
        """Whether NeuKron's artifact is the smaller one; never where no rival was run."""
        return self.judged and self.ratio > 1

    @property
    def outcome(self) -> Literal["win", "loss", "tie", "none"]:
        """The outcome in a word; none where no rival was run."""
        if not self.judged:
            return "none"
        return "win" if self.wins else "loss" if self.ratio < 1 else "tie"

    @property
    def verdict(self) -> str:
        """The outcome for NeuKron in a few words."""
        if not self.judged:
            return "no rival run"
        if self.rival is None:
            return "no other is as accurate"
        if self.ratio == 1:
            return "same size"
        return f"{times(self.ratio)}x smaller" if self.wins else f"{times(1 / self.ratio)}x larger"


def compare(results: Results, dataset: str) -> list[Comparison]:
    """One comparison an accounting; empty where NeuKron has no run on the data set."""
    cells = results.compression[results.compression["dataset"] == dataset]
    mine = cells[cells["method"] == "neukron"]
    if mine.empty:
        return []
    own = mine.sort_values(["relative_error", "bytes_equal"]).iloc[0].to_dict()
    rivals = cells[cells["method"] != "neukron"]
    others = rivals[rivals["relative_error"] <= own["relative_error"]]
    found = []
    for accounting in ACCOUNTINGS:
        column = accounting.column
        rival = None if others.empty else others.sort_values([column, "relative_error"]).iloc[0].to_dict()
        size = math.inf if rival is None else float(rival[column])
        found.append(Comparison(accounting, own, float(own[column]), rival, size, len(rivals)))
    return found


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
        found.setdefault(", ".join(mine["setting"]) or "none", []).append(accounting.name)
    parts = [f"{settings} ({', '.join(names)})" for settings, names in found.items()]
    if set(cells["method"]) == {"neukron"}:
        return "No rival of NeuKron was run on this data set: its settings are compared with each other only."
    return f"NeuKron settings that nothing beats in both size and error: {'; '.join(parts)}."


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
    compared = {name: compare(results, name) for name in results.compression_datasets()}
    alone = [name for name, found in compared.items() if found and not found[0].judged]
    compared = {name: found for name, found in compared.items() if found and found[0].judged}
    if alone:
        sentences.append(f"On {_list(alone)} no rival of NeuKron was run: nothing is said about who is smaller.")
    if compared:
        sentences += _size_sentences(compared)
        sentences += [_target_sentence(results, target) for target in (0.5, 0.0)]
    sentences += [_network_sentence(results, dataset) for dataset in results.network_datasets()]
    laws = scaling_laws(results)
    if laws:
        (base, setting), law = max(laws.items(), key=lambda item: item[1].slope)
        sentences.append(
            f"An epoch of NeuKron takes time in proportion to the non-zeros to the power of {law} at most "
            f"({base}, {setting}, {law.sizes} sizes, 95 % interval): {law.verdict}."
        )
    return sentences


def _size_sentences(compared: dict[str, list[Comparison]]) -> list[str]:
    """On which data sets NeuKron is the smallest at its error; accountings with the same outcome share a sentence."""
    outcomes: dict[str, list[str]] = {}
    for index, accounting in enumerate(ACCOUNTINGS):
        won = [name for name, found in compared.items() if found[index].wins]
        lost = [name for name in compared if name not in won]
        if won and lost:
            text = f"is the smallest that is this accurate on {_list(won)}, and is not on {_list(lost)}"
        else:
            every = _every(list(compared), list(compared))
            text = (
                f"is the smallest that is this accurate on {every}"
                if won
                else "is nowhere the smallest that is this accurate"
            )
        outcomes.setdefault(text, []).append(accounting.name)
    return [
        f"Bytes counted {_list(names)}: the artifact of NeuKron's most accurate setting {text}."
        for text, names in outcomes.items()
    ]


def _target_sentence(results: Results, target: float) -> str:
    """Who has the smallest artifact for one wanted error, in the first two accountings, over all data sets."""
    found = smallest(results)
    found = found[found["relative_error_at_most"] == target]
    parts: dict[str, list[str]] = {}
    for accounting in ACCOUNTINGS[:2]:
        rows = found[found["accounting"] == accounting.name]
        text = "; ".join(
            f"{look(str(name)).shown} on {_every(list(group['dataset']), results.compression_datasets())}"
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


def best_network(results: Results, dataset: str) -> tuple[Record | None, Record | None]:
    """The most accurate block-sparse setting on a data set, and the dense network beside it."""
    cells = results.networks[results.networks["dataset"] == dataset]
    sparse = cells[cells["method"] != "dense"].sort_values("accuracy", ascending=False)
    dense = cells[cells["method"] == "dense"]
    return (
        sparse.iloc[0].to_dict() if len(sparse) else None,
        dense.iloc[0].to_dict() if len(dense) else None,
    )


def _network_sentence(results: Results, dataset: str) -> str:
    best, dense = best_network(results, dataset)
    if best is None:
        return f"On {dataset} only the dense network was trained."
    text = (
        f"On {dataset} the most accurate block-sparse network, {point_name(best['method'], best['setting'])}, has "
        f"{_share(best['block_sparsity'])} of its blocks exactly zero and a test accuracy of "
        f"{_share(best['accuracy'])}"
    )
    if dense is not None:
        text += f", dense {_share(dense['accuracy'])}"
    return f"{text}; its training step takes {_step(best)}."


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _step(cell: Record) -> str:
    ratio = float(cell["step_ratio"])
    if ratio >= 1:
        return f"{times(ratio)} times as long as the dense one"
    return f"{times(1 / ratio)} times less time than the dense one"


def headlines(results: Results) -> str:
    """The ten most telling lines of the report as aligned plain text, under a title and a header."""
    datasets = results.compression_datasets()
    networks = [_network_line(results, name) for name in results.network_datasets()][:2]
    slopes = [_scaling_line(*key, law) for key, law in scaling_laws(results).items()][-1:]
    room = TELLING_LINES - len(networks) - len(slopes)
    free = [_size_line(results, name, 0) for name in datasets]
    stored = [_size_line(results, name, 1) for name in datasets]
    paired = [line for pair in zip(free, stored, strict=True) for line in pair]
    lines = (paired if len(paired) <= room else free + stored)[:room] + networks + slopes
    runs = f"{len(results.runs)} runs"
    if len(results.runs) < len(results.planned):
        runs = f"{len(results.runs)} of {len(results.planned)} runs (partial)"
    title = [
        f"Experiment {results.experiment}: {runs}. Error: squared Frobenius, relative to the tensor's.",
        "Accounting: equal = 4 bytes a real, orders free; equal + orders = orders stored too. 1 kB = 1,000 bytes.",
    ]
    header = ("data set", "accounting", "most accurate NeuKron", "smallest other as accurate", "NeuKron is")
    body = [header, *lines] if datasets else list(lines)
    return "\n".join([*title, *_aligned(body)]) + "\n"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size_line(results: Results, dataset: str, index: int) -> tuple[str, ...]:
    accounting = ACCOUNTINGS[index]
    found = compare(results, dataset)
    if not found:
        cells = results.compression[results.compression["dataset"] == dataset]
        able = cells[cells["relative_error"] <= 0.5].sort_values(accounting.column)
        best = _point(able.iloc[0].to_dict(), accounting) if len(able) else "none below error 0.5"
        return (dataset, accounting.name, "not run", best, "-")
    item = found[index]
    rival = "not run" if not item.judged else "none" if item.rival is None else _point(item.rival, accounting)
    return (dataset, accounting.name, _point(item.own, accounting, named=False), rival, item.verdict)


def _point(cell: Record, accounting: Accounting, named: bool = True) -> str:
    name = point_name(cell["method"], cell["setting"]) if named else cell["setting"]
    size = with_prefix(float(cell[accounting.column]), "B")
    return f"{name}: {size}, error {significant(float(cell['relative_error']))}"


def _network_line(results: Results, dataset: str) -> tuple[str, ...]:
    best, dense = best_network(results, dataset)
    reference = "dense: not run" if dense is None else f"dense: accuracy {_share(dense['accuracy'])}"
    if best is None:
        return (dataset, "accuracy", "not run", reference, "-")
    name = point_name(best["method"], best["setting"])
    own = f"{name}: {_share(best['accuracy'])}, {_share(best['block_sparsity'])} zero blocks"
    return (
        dataset,
        "accuracy",
        own,
        reference,
        f"step time {times(float(best['step_ratio']))}x dense",
    )


def _scaling_line(base: str, setting: str, law: PowerLaw) -> tuple[str, ...]:
    return (
        base,
        "seconds an epoch",
        f"{setting}: proportional to nnz^{law}",
        f"{law.sizes} sizes, fitted",
        law.verdict,
    )
