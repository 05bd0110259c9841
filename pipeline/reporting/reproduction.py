"""What of both publications is reproduced: published numbers beside ours, with intervals, a verdict and why."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.methods import METHODS
from pipeline.reporting.figures import scaling_laws, share_of_zeros
from pipeline.reporting.literature import METHOD_NAMES, published
from pipeline.reporting.results import Results, places_of
from pipeline.reporting.statistics import FEWEST_SIZES, fit_power_law, over_seeds, student_quantile
from pipeline.reporting.style import PLUS_MINUS, duration, look, point_name, significant, with_prefix
from pipeline.reporting.targets import EVIDENCE, TARGETS, runs_of

READ_OFF = 0.01  # what reading a figure may be wrong by, of the number read
WIDEST = 0.1  # half an interval beyond which, relative to their number, nothing inside it is called reproduced
ALONE = "ours alone"  # the verdict where nothing is published
NEAR = 0.05  # two sizes that differ by no more are one setting
WATCHED = ("pairs", "cell", "scale", "order_init")  # the settings that the variants change
VARIANTS = {
    "N-H": ("pairs", "uniform"),
    "N-A": ("cell", "seeds"),
    "N-F": ("scale", "fixed"),
    "N-I": ("order_init", "random"),
}
# What the start of the orders, a recursive bisection where theirs were sorted, does to a variant beside the whole.
STARTS = {
    "N-A": "orders from a bisection serve shared seeds as well, so that less is lost without the sequence model",
    "N-I": "orders from a bisection are worth more than theirs at the start, and few epochs of swaps make up for less",
}
CELLS = {"gru": "GRU", "transformer": "Transformer"}  # in place of the LSTM
CIFAR_METHODS = {
    "dense": "dense", "group LASSO": "group-lasso", "elastic group LASSO": "elastic-group-lasso",
    "block-wise RigL": "rigl", "KPD": "kpd", "KPD (4x4 rank 1)": "kpd",
}  # fmt: skip


class Line(NamedTuple):
    """One number of a target: published and ours, each with what is known of its spread."""

    target: str
    case: str
    quantity: str
    published: float  # NaN: not published, or not read off
    published_stderr: float
    ours: float  # NaN: not run
    halfwidth: float  # of the 95 % interval over seeds; infinite for a single run
    seeds: int
    verdict: str
    why: str
    method: str = "neukron"
    values: tuple[float, ...] = ()  # ours, a seed each


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the 95 % interval; infinite for fewer than two values.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    count = len(values)
    if count < 2:
        return (float(values[0]) if count else math.nan), math.inf
    deviation = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)), student_quantile(count - 1) * deviation


def judge(ours: float, halfwidth: float, theirs: float, stderr: float, *, lower_is_better: bool | None) -> str:
    """The verdict on a number beside a published one.

    What may differ without saying anything is our interval, theirs (1.96 standard errors where one is published), and
    the reading of their figure. A single run has no interval of its own: only their spread and the reading are allowed
    for. Where our interval is wider than a tenth of their number, what is inside of it is no evidence.

    >>> judge(100, 5, 103, 1, lower_is_better=True), judge(90, 1, 103, 1, lower_is_better=True)
    ('reproduced', 'better')
    >>> judge(100, 50, 103, 1, lower_is_better=True)
    'undecided'
    >>> judge(90, 1, 103, 1, lower_is_better=None), judge(120, math.inf, 103, math.nan, lower_is_better=True)
    ('differs', 'differs')
    """
    room = READ_OFF * abs(theirs) + (0.0 if math.isnan(stderr) else 1.96 * stderr)
    room += halfwidth if math.isfinite(halfwidth) else 0.0
    if abs(ours - theirs) <= room:
        return "reproduced" if not math.isfinite(halfwidth) or halfwidth <= WIDEST * abs(theirs) else "undecided"
    if lower_is_better is None:
        return "differs"
    return "better" if (ours < theirs) == lower_is_better else "differs"


def scoreboard(results: Results | None) -> pd.DataFrame:
    """One row a number of each target, in the order of the publications.

    A published number without a run of ours has its row too; but elsewhere than in the evidence a target without any
    run has one row in all.
    """
    rows: list[Line] = []
    for name, target in TARGETS.items():
        made = list(MAKERS[name](results)) if results is not None else []
        evidence = results is not None and results.experiment == EVIDENCE
        if not made or (not evidence and all(line.verdict == "not at hand" for line in made)):
            why = f"needs {target.needs}; run: snakemake {name}"
            made = [Line(name, target.what, "", math.nan, math.nan, math.nan, math.nan, 0, "not at hand", why)]
        rows += made
    return pd.DataFrame(rows, columns=list(Line._fields)).drop(columns=["method", "values"])


def target_lines(results: Results, target: str) -> pd.DataFrame:
    """The lines of one target, with the method and the values of the seeds that the scoreboard sums up."""
    return pd.DataFrame(list(MAKERS[target](results)), columns=list(Line._fields))


def chosen(results: Results, target: str) -> pd.DataFrame:
    """The runs of a target with their settings, as ``plan``."""
    planned = {
        (run.dataset, run.method, run.setting, run.seed): run.settings for run in runs_of(target, results.planned)
    }
    runs = results.runs
    keys = list(zip(runs["dataset"], runs["method"], runs["setting"], runs["seed"], strict=True))
    own = runs[np.asarray([key in planned for key in keys], dtype=bool)]
    return own.assign(plan=pd.Series([planned[key] for key in keys if key in planned], index=own.index, dtype=object))


def _groups(results: Results, target: str) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Data set, method, setting and runs, one a seed, of a target."""
    for (dataset, method, setting), runs in chosen(results, target).groupby(
        ["dataset", "method", "setting"], sort=False
    ):
        yield str(dataset), str(method), str(setting), runs


def _entry(table: pd.DataFrame, row: str, column: str) -> float:
    """A published number by its names; NaN where there is none."""
    if row not in table.index or column not in table:
        return math.nan
    return float(table[column].to_dict()[row])


def _epochs(runs: pd.DataFrame) -> str:
    if not (runs["method"] == "neukron").all():
        return ""
    schedule = runs["plan"].iloc[0].get("schedule", "fast")
    return f"{runs['epochs'].mean():.0f} epochs of the {schedule} schedule"


def _error(runs: pd.DataFrame) -> list[float]:
    """The error that the publication counts: over the padded grid for NeuKron, over the real cells otherwise."""
    column = "error_padded" if (runs["method"] == "neukron").all() else "error"
    return [float(value) for value in runs[column]]


def _line(
    target: str, case: str, quantity: str, values: Sequence[float], theirs: float = math.nan,
    stderr: float = math.nan, *, better: bool | None = True, why: str = "", verdict: str = "",
    method: str = "neukron",
) -> Line:  # fmt: skip
    ours, halfwidth = interval(values)
    if not verdict:
        known = not math.isnan(theirs)
        verdict = judge(ours, halfwidth, theirs, stderr, lower_is_better=better) if known else ALONE
    if len(values) == 1 and METHODS[method].stochastic and verdict in ("reproduced", "better", "differs"):
        verdict = "undecided"  # another draw might say otherwise
    if len(values) == 1:
        why = "; ".join(filter(None, [why, "one run"]))
    elif verdict == "undecided":
        wide = (
            f"{PLUS_MINUS} {significant(100 * halfwidth / abs(theirs), 2)} % of {len(values)} seeds is too wide to tell"
        )
        why = "; ".join(filter(None, [why, wide]))
    own = tuple(float(value) for value in values)
    return Line(target, case, quantity, theirs, stderr, ours, halfwidth, len(own), verdict, why, method, own)


def _absent(
    line: tuple[str, str, str],
    theirs: tuple[float, float],
    results: Results,
    dataset: str,
    method: str,
    **settings: Any,
) -> Line:
    """A published number and its standard error that no run at hand stands beside, and which experiment would run it.

    `line` is target, case and quantity.
    """
    name = next(
        (name for name, run in results.plans if (run.dataset, run.method) == (dataset, method)
         and all(run.settings.get(key) == value for key, value in settings.items())),
        None,
    )  # fmt: skip
    why = f"not run here: snakemake results/{name}/report.html" if name else "not run here: no experiment plans it"
    return Line(*line, *theirs, math.nan, math.nan, 0, "not at hand", why)


def _sizes(target: str, results: Results) -> Iterator[Line]:
    """Errors at the published sizes: of NeuKron by its width, of the others by published bytes or place in the grid."""
    table = published("neukron_fig3")
    met: list[Hashable] = []
    for dataset, method, setting, runs in _groups(results, target):
        theirs = table[(table["dataset"] == dataset) & (table["method"].map(METHOD_NAMES) == method)]
        case, errors = f"{dataset}, {point_name(method, setting)}", _error(runs)
        if method == "neukron":
            theirs = theirs[theirs["hidden"] == runs["plan"].iloc[0]["hidden"]]
            why = f"{_epochs(runs)}; theirs stopped when 100 gained less than 1e-5"
        else:
            theirs, why = _met(theirs, results, dataset, method, setting), ""
        if theirs.empty:
            unknown = "; ".join(filter(None, [_epochs(runs), "not published"]))
            yield _line(target, case, "error", errors, why=unknown)
            continue
        row = theirs.iloc[0]
        met.append(theirs.index[0])
        size, known = float(runs["bytes"].mean()), float(row["bytes"])
        verdict = ""
        if method != "neukron" and abs(size - known) > NEAR * known:
            why = f"the same settings take {with_prefix(size, 'B')}, theirs {with_prefix(known, 'B')}"
            verdict = _of_both(interval(errors)[0], float(row["error"]), size < known)
        elif method != "neukron":
            why = f"at the published bytes within {100 * NEAR:.0f} %"
        stderr = float(row["error_stderr"])
        yield _line(target, case, "error", errors, float(row["error"]), stderr, why=why, verdict=verdict, method=method)
    for place, left in table.drop(index=met).groupby(["dataset", "method"], sort=False):
        best = left.sort_values("error").iloc[0].to_dict()
        case = ", ".join(map(str, place)) + (f", most accurate of {len(left)} more" if len(left) > 1 else "")
        yield _absent(
            (target, case, "error"), (best["error"], best["error_stderr"]), results,
            best["dataset"], METHOD_NAMES[best["method"]],
        )  # fmt: skip


def _met(theirs: pd.DataFrame, results: Results, dataset: str, method: str, setting: str) -> pd.DataFrame:
    """The published point of a setting: the one of its place, where as many were published as the plan has."""
    planned = dict.fromkeys(run.setting for run in results.planned if (run.dataset, run.method) == (dataset, method))
    places = list(planned)
    if len(places) != len(theirs):
        return theirs.iloc[:0]
    return theirs.sort_values("bytes").iloc[[places.index(setting)]]


def _of_both(ours: float, theirs: float, smaller: bool) -> str:
    """The verdict where bytes differ too: only what is no worse, or no better, in both is judged."""
    if smaller:
        return "better" if ours <= theirs * (1 + READ_OFF) else "not comparable"
    return "differs" if ours >= theirs * (1 - READ_OFF) else "not comparable"


def _further(target: str, results: Results) -> Iterator[Line]:
    """Bytes with the orders stored, which the publication leaves out."""
    for dataset, method, setting, runs in _groups(results, target):
        values = [float(value) for value in runs["bytes_with_order"]]
        why = f"relative error {significant(float(runs['relative_error'].mean()))}"
        yield _line(target, f"{dataset}, {point_name(method, setting)}", "bytes, equal + orders", values, why=why)


def _variants(target: str, results: Results) -> Iterator[Line]:
    """Errors relative to the whole method, seed by seed."""
    table = published("neukron_fig4_ablation").set_index("variant")
    usual = results.config.method_defaults("neukron")
    met: set[tuple[str, str]] = set()
    for dataset, own in chosen(results, target).groupby("dataset", sort=False):
        changed = np.asarray([sum(plan[key] != usual[key] for key in WATCHED) for plan in own["plan"]])
        whole = own[changed == 0].drop_duplicates("seed").set_index("seed")["error_padded"]
        if whole.empty:
            continue
        for setting, runs in own[changed == 1].groupby("setting", sort=False):
            plan = runs["plan"].iloc[0]
            name = next((name for name, (key, value) in VARIANTS.items() if plan[key] == value), "")
            paired = runs[runs["seed"].isin(whole.index)]
            values = [
                float(error) / float(whole[seed])
                for seed, error in zip(paired["seed"], paired["error_padded"], strict=True)
            ]
            theirs = _entry(table, name, str(dataset))
            case = f"{dataset}, {name} ({setting})" if name else f"{dataset}, {CELLS.get(plan['cell'], plan['cell'])}"
            errors = f"{paired['error_padded'].mean():,.0f} of {whole[paired['seed']].mean():,.0f}"
            why = "; ".join(filter(None, [errors, _epochs(runs), STARTS.get(name)]))
            if values:
                met.add((name, str(dataset)))
                yield _line(target, case, "error over the whole's", values, theirs, better=None, why=why)
    if target == "fig4":
        for place, part in itertools.product(table.columns.drop("meaning"), VARIANTS):
            theirs = _entry(table, part, place)
            if (part, place) not in met and not math.isnan(theirs):
                key, value = VARIANTS[part]
                line = (target, f"{place}, {part}", "error over the whole's")
                yield _absent(line, (theirs, math.nan), results, place, "neukron", **{key: value})


def _gammas(target: str, results: Results) -> Iterator[Line]:
    table = published("neukron_table4")
    met: list[Hashable] = []
    for dataset, _, setting, runs in _groups(results, target):
        plan = runs["plan"].iloc[0]
        theirs = table[(table["dataset"] == dataset) & (table["gamma"].astype(float) == float(plan["gamma"]))]
        if len(theirs):
            row = theirs.iloc[0]
            met.append(theirs.index[0])
            why = f"{_epochs(runs)}; theirs about 15,000"
            case = f"{dataset}, gamma {plan['gamma']:g} ({setting})"
            yield _line(target, case, "error", _error(runs), float(row["error"]), float(row["error_stderr"]), why=why)
    for left in table.drop(index=met).to_dict("records"):
        gamma = float(left["gamma"])
        line, known = (target, f"{left['dataset']}, gamma {gamma:g}", "error"), (left["error"], left["error_stderr"])
        yield _absent(line, known, results, left["dataset"], "neukron", gamma=gamma)


def _curves(target: str, results: Results) -> Iterator[Line]:
    """Errors in training at the published epochs; an epoch of another schedule is another thing."""
    table = published("neukron_fig12")
    for dataset, _, setting, runs in _groups(results, target):
        theirs = table[table["dataset"] == dataset]
        if theirs.empty:
            continue
        last = theirs.iloc[-1]
        schedule = runs["plan"].iloc[0]["schedule"]
        why = f"{_epochs(runs)}; theirs {last['epoch']:,.0f} of its own, one run"
        verdict = "" if schedule == "paper" else "not comparable"
        case = f"{dataset}, {setting}, at the end"
        yield _line(target, case, "error", _error(runs), float(last["error"]), why=why, verdict=verdict)
    met = set(chosen(results, target)["dataset"])
    for left in table[~table["dataset"].isin(met)].drop_duplicates("dataset", keep="last").to_dict("records"):
        line = (target, f"{left['dataset']}, at the end", "error")
        yield _absent(line, (left["error"], math.nan), results, left["dataset"], "neukron")


def _epoch_times(target: str, results: Results) -> Iterator[Line]:
    table = published("neukron_table6").set_index("dataset")
    met: list[str] = []
    for dataset, _, setting, runs in _groups(results, target):
        hidden = runs["plan"].iloc[0]["hidden"]
        known = _entry(table, dataset, "hidden") == hidden
        theirs = _entry(table, dataset, "seconds_per_epoch") if known else math.nan
        values = [float(value) for value in runs["seconds_per_epoch"]]
        why = f"{_places(runs)}; theirs four GPUs" if known else _epochs(runs)
        verdict = "not comparable" if known else ""
        met += [dataset] if known else []
        yield _line(target, f"{dataset}, {setting}", "seconds an epoch", values, theirs, why=why, verdict=verdict)
    for left in table.drop(index=met).reset_index().to_dict("records"):
        line = (target, f"{left['dataset']}, h{left['hidden']:.0f}", "seconds an epoch")
        seconds = (left["seconds_per_epoch"], left["stderr"])
        yield _absent(line, seconds, results, left["dataset"], "neukron", hidden=int(left["hidden"]))


def _places(runs: pd.DataFrame) -> str:
    """Machines and threads that times are of."""
    found = dict.fromkeys(f"{row['machine']}, {row['threads']} thread" + "s" * (row["threads"] != 1)
                          for row in runs.to_dict("records"))  # fmt: skip
    return "; ".join(found)


# What the time of a fit divides into; the whole has no set-up in it.
PARTS = (
    ("setup_seconds", "set-up"), ("order_seconds", "orders"), ("model_seconds", "model"), ("seconds", "orders + model"),
)  # fmt: skip


def _parts(target: str, results: Results) -> Iterator[Line]:
    for dataset, _, setting, runs in _groups(results, target):
        for column, name in PARTS:
            values = [float(value) for value in runs[column].dropna()]
            if values:
                yield _line(target, f"{dataset}, {setting}, {name}", "seconds", values, why=_epochs(runs))


def _slopes(target: str, results: Results) -> Iterator[Line]:
    """Exponents of an epoch's time in the non-zeros; both publications' claim is an exponent of one."""
    for (base, setting), law in scaling_laws(results).items():
        yield Line(target, f"{base}, {setting}", "exponent of the non-zeros", 1.0, math.nan, law.slope, law.halfwidth,
                   law.sizes, _slope_verdict(law.verdict), f"{law.sizes} sizes; {law.verdict}")  # fmt: skip


def _slope_verdict(text: str) -> str:
    return {
        "linear within the interval": "reproduced", "less than linear": "better", "more than linear": "differs",
    }.get(text, "too few sizes to tell")  # fmt: skip


def widths(results: Results) -> pd.DataFrame:
    """Seconds of an epoch by the width of the model: means over seeds, a row a data set and width, ``hidden``."""
    runs = chosen(results, "fig14")
    hidden = {(row["dataset"], row["setting"]): float(row["plan"]["hidden"]) for row in runs.to_dict("records")}
    means = over_seeds(runs, ["seconds_per_epoch"])
    means.insert(0, "hidden", [hidden[key] for key in zip(means["dataset"], means["setting"], strict=True)])
    return means.sort_values(["dataset", "hidden"], kind="stable").reset_index(drop=True)


def _widths(target: str, results: Results) -> Iterator[Line]:
    """Exponent of an epoch's time in the width of the model."""
    alike = places_of(chosen(results, target)) <= 1
    for dataset, own in widths(results).groupby("dataset", sort=False):
        law = fit_power_law(own["hidden"].tolist(), own["seconds_per_epoch"].tolist())
        if law and alike:
            why = f"{law.sizes} widths" + ("" if law.sizes >= FEWEST_SIZES else ": too few to tell")
            yield Line(target, str(dataset), "exponent of the width", math.nan, math.nan, law.slope, law.halfwidth,
                       law.sizes, ALONE, why)  # fmt: skip


def _fitness(target: str, results: Results) -> Iterator[Line]:
    for dataset, method, setting, runs in _groups(results, target):
        what = results.config.datasets[dataset].description
        values = [float(value) for value in runs["fitness"]]
        yield _line(
            target, f"{what}, {point_name(method, setting)}", "fitness", values, better=False, why=_epochs(runs),
            method=method,
        )  # fmt: skip


def _shapes(target: str, results: Results) -> Iterator[Line]:
    """Non-zeros of each data set; the publication's are those that the registry expects of its data sets."""
    theirs = set(published("neukron_fig3")["dataset"])
    for dataset, runs in chosen(results, target).groupby("dataset", sort=False):
        entry, nnz = results.config.datasets[str(dataset)], float(runs["nnz"].iloc[0])
        known = float(entry.nnz) if dataset in theirs and entry.nnz else math.nan
        verdict = ALONE if math.isnan(known) else "reproduced" if known == nnz else "differs"
        why = f"{entry.description}; distributions: snakemake descriptions"
        yield Line(target, str(dataset), "non-zeros", known, math.nan, nnz, math.nan, 1, verdict, why)


def _zero_shares(target: str, results: Results) -> Iterator[Line]:
    """Of the error, the part in the zero cells; errors by value are in the report's figures."""
    for (dataset, method, setting, _), content in results.evaluations.items():
        value = share_of_zeros(content)
        case = f"{dataset}, {point_name(method, setting)}"
        yield _line(
            target, case, "share of the error in zero cells", [value], why="by value: error-values in the report"
        )


def _spectra(target: str, results: Results) -> Iterator[Line]:
    for (dataset, method, setting, _), content in results.evaluations.items():
        if values := content.get("singular_values"):
            kept = math.fsum(values["model"]) / math.fsum(values["data"])
            why = f"sum of the leading {len(values['data'])} over the data's"
            yield _line(target, f"{dataset}, {point_name(method, setting)}", "singular values kept", [kept], why=why)


def _query_times(target: str, results: Results) -> Iterator[Line]:
    """How the time of a cell grows with the bits of an index; both publications' claim is an exponent of one."""
    times = results.query_times
    if times is None:
        return
    law = fit_power_law([math.log2(side) for side in times["side"]], times["seconds"].astype(float).tolist())
    if law:
        why = f"{law.sizes} sides, {times['repeat'].nunique()} repeats of {times['cells'].iloc[0]:,} cells"
        why += "; cells with a common prefix share its work, so that small sides take less than their bits"
        yield Line(target, f"NeuKron, h = {times['hidden'].iloc[0]}", "exponent of the bits of an index", 1.0, math.nan,
                   law.slope, law.halfwidth, law.sizes, _slope_verdict(law.verdict), why)  # fmt: skip


def _networks(target: str, results: Results) -> Iterator[Line]:
    for dataset, method, setting, runs in _groups(results, target):
        case = f"{dataset}, {point_name(method, setting)}"
        sparsity = f"{100 * runs['block_sparsity'].mean():.1f} % zero blocks, "
        sparsity += f"{runs['train_parameters'].mean():,.0f} trained parameters, "
        sparsity += f"{with_prefix(runs['train_flops'].astype(float).mean(), 'FLOP')} a training step"
        yield _line(target, case, "accuracy", [float(v) for v in runs["accuracy"]], better=False, why=sparsity)


def _vision(target: str, results: Results) -> Iterator[Line]:
    table = published("kpd_table3")
    met: list[Hashable] = []
    for dataset, method, setting, runs in _groups(results, target):
        model = str(runs["network"].iloc[0])
        same = (table["model"].str.lower() == model) & (table["method"].map(CIFAR_METHODS) == method)
        theirs = table[same] if dataset == "cifar-100" else table.iloc[:0]
        met += list(theirs.index[:1])
        share = float(theirs["accuracy_percent"].iloc[0]) / 100 if len(theirs) else math.nan
        why = str(theirs["note"].fillna("").iloc[0]) if len(theirs) else "not published"
        values = [float(value) for value in runs["accuracy"]]
        yield _line(
            target, f"{dataset}, {point_name(method, setting)}", "accuracy", values, share, better=False, why=why
        )
    for left in table.drop(index=met).to_dict("records"):
        case, share = f"cifar-100, {left['model']}, {left['method']}", float(left["accuracy_percent"]) / 100
        method, network = CIFAR_METHODS[left["method"]], left["model"].lower()
        own = _absent((target, case, "accuracy"), (share, math.nan), results, "cifar-100", method, network=network)
        notes = [own.why, f"needs {TARGETS[target].needs}", *([] if pd.isna(left["note"]) else [left["note"]])]
        yield own._replace(why="; ".join(notes))


def _flops(target: str, results: Results) -> Iterator[Line]:
    """Counted FLOPs and wall time of a training step over dense; published counts leave KPD layers out."""
    for dataset, method, setting, runs in _groups(results, target):
        if method == "dense":
            continue
        case = f"{dataset}, {point_name(method, setting)}"
        why = "by formula, which tests hold to torch's counter; the published counts leave every KPD layer out, these "
        why += "are of all layers"
        flops = [float(a) / float(b) for a, b in zip(runs["train_flops"], runs["dense_train_flops"], strict=True)]
        times = [float(a) / float(b) for a, b in zip(runs["step_seconds"], runs["dense_step_seconds"], strict=True)]
        yield _line(target, case, "FLOPs of a training step over dense", flops, why=why)
        yield _line(target, case, "time of a training step over dense", times, why=_places(runs))


Maker = Callable[[Results], Iterator[Line]]
MAKERS: dict[str, Maker] = {
    name: functools.partial(maker, name)
    for name, maker in {
        "fig3": _sizes, "fig9": _further, "fig4": _variants, "fig11": _variants, "fig5": _parts,
        "fig7": _zero_shares, "fig8": _spectra, "fig13": _query_times, "fig6": _slopes,
        "fig15": _slopes, "table5": _slopes, "fig10": _fitness, "fig12": _curves, "fig14": _widths, "table3": _shapes,
        "table7": _shapes, "table4": _gammas, "table6": _epoch_times, "kpd-linear": _networks, "kpd-lenet": _networks,
        "kpd-blocks": _networks, "kpd-vit": _vision, "kpd-flops": _flops,
    }.items()
}  # fmt: skip


def number(value: float, quantity: str) -> str:
    """A number of the scoreboard in its quantity's form."""
    if math.isnan(value):
        return ""
    if quantity == "accuracy":
        return f"{100 * value:.2f} %"
    if quantity.startswith("seconds"):
        return duration(value) if value > 0 else "0 s"
    return significant(value, 4)


def spread(value: float, quantity: str) -> str:
    """Half an interval, where there is one."""
    if not math.isfinite(value) or value <= 0:
        return ""
    exact = quantity == "accuracy" or quantity.startswith("seconds")
    return f" {PLUS_MINUS} {number(value, quantity) if exact else significant(value, 2)}"


def verdicts(board: pd.DataFrame) -> str:
    """How often each verdict was given, in words."""
    return ", ".join(f"{name} {count}" for name, count in board["verdict"].value_counts().items())


def markdown(results: Results | None, experiment: str = EVIDENCE, lock: str | None = None) -> str:
    """``RESULTS.md``: the scoreboard, what it was made on and with which commands; `lock` records the runs' bits."""
    board = scoreboard(results)
    lines = [
        "# Results",
        "",
        f"Written by `python -m pipeline.report --experiment {experiment} --results RESULTS.md` from the runs that are "
        "there; never edited. Published numbers are read from both publications, see "
        "`pipeline/reporting/published/README.md`. Ours are means over seeds with 95 % intervals; errors are squared "
        "Frobenius norms, of NeuKron over the padded grid as published.",
        "",
        f"Verdicts: {verdicts(board)}. *reproduced*: equal within both intervals and the reading of the figure; "
        "*undecided*: too, by an interval too wide to tell; *better*, *differs*: outside them; *not comparable*: of "
        "another machine or kind of epoch, or better in bytes and worse in error; *ours alone*: nothing "
        "published, or not read off; *not at hand*: not run.",
        "",
        *_circumstances(results, experiment, lock),
        "",
        *_by_target(board),
        "",
        "| target | case | quantity | published | ours | seeds | verdict | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in board.to_dict("records"):
        quantity = str(row["quantity"])
        theirs = number(row["published"], quantity) + spread(row["published_stderr"], quantity)
        ours = number(row["ours"], quantity) + spread(row["halfwidth"], quantity)
        cells = [row["target"], row["case"], quantity, theirs, ours, row["seeds"] or "", row["verdict"], row["why"]]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _by_target(board: pd.DataFrame) -> list[str]:
    """How often each verdict was given to a target: a row each."""
    names = [name for name in ("reproduced", "better", "undecided", "differs", "not comparable", ALONE,
                               "not at hand") if (board["verdict"] == name).any()]  # fmt: skip
    counts = pd.crosstab(board["target"], board["verdict"]).loc[list(dict.fromkeys(board["target"]))]
    return [
        f"| target | what | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
        *(
            f"| {target} | {TARGETS[str(target)].what} | {' | '.join(str(row[name] or '') for name in names)} |"
            for target, row in counts.iterrows()
        ),
    ]


def _circumstances(results: Results | None, experiment: str, lock: str | None) -> list[str]:
    if results is None:
        return [f"Nothing of experiment `{experiment}` has been run yet: `snakemake {experiment}` makes it."]
    runs = results.runs
    machines = sorted({f"{row['machine']}, {row['cores']} cores" for row in runs.to_dict("records")})
    days = sorted(str(value)[:10] for value in runs["date"])
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    hours, busy = (float(runs[name].sum()) / 3600 for name in ("seconds", "cpu_seconds"))
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    threads = ", ".join(map(str, sorted(set(runs["threads"]))))
    return [
        f"{len(runs)} of {len(results.planned)} runs of experiment `{experiment}`; seeds {seeds}; "
        f"{'; '.join(machines)}; {when}; {hours:.2f} hours of fits by the clock, {busy:.2f} of processor "
        f"time, threads each: {threads}; {_commits(runs)}.",
        "",
        f"All of it: `snakemake {experiment}`; one target: `snakemake TARGET`; one run: the report's table of runs. "
        f"Summary, tables and main figures: `evidence/`, by `make evidence`. {_recorded(experiment, lock, machines)}",
    ]


def _recorded(experiment: str, lock: str | None, machines: list[str]) -> str:
    """How to see whether a rerun has the same bits, or how to get a record of them."""
    if lock is None:
        return (
            "A `dvc.lock` names one code for all runs, so that runs of several commits have none; to get yours: "
            f"`make experiment NAME={experiment}`, `snakemake {experiment}`, `make commit`."
        )
    return (
        f"`{lock}` records code, settings, data and every model's hash: after `snakemake {experiment}`, "
        f"`make diff LOCK={lock}` says which of your models have the same bits. They hold per processor model "
        f"({'; '.join(machines)} here) and version of the libraries (`evidence/tables/runs.csv`)."
    )


def _commits(runs: pd.DataFrame) -> str:
    """Which code made which methods' runs, in words."""
    names = runs.assign(commit=runs["commit"].fillna("unknown"), shown=[look(name).shown for name in runs["method"]])
    parts = []
    for commit, own in names.groupby("commit"):
        counts = own.groupby("shown", sort=False).size()
        parts.append(f"commit `{commit}`: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return "; ".join(parts)
