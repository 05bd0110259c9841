"""``kronflow compress``: fit a method to a tensor and write its artifact."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.command_line import Commands, add_command, add_fitting, parse_share, print_rows
from pipeline.commands.loaded import NO_ORDERS
from pipeline.commands.outputs import refuse_unwritable
from pipeline.commands.source import Reading, add_reading, add_without_labels, read_whole
from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.core.settings import check_given
from pipeline.core.sizes import parse_bytes
from pipeline.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.compressor import Compressor
    from pipeline.sparse import SparseTensor

NO_SETTINGS = ("device", "max_seconds")  # arguments of NeuKron that name no run, and may be given here


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "compress", _run, "Fit a method to a matrix or tensor and write its artifact.")
    command.add_argument(
        "tensor", type=Path, help="Parquet sparse tensor, .mtx, .tns, .npz, .csv or another known format"
    )
    command.add_argument("artifact", type=Path, help="the .safetensors file to write")
    command.add_argument("--method", default=None, help="neukron (default), or a baseline: t-svd, cp, truncation ..")
    command.add_argument(
        "--bytes", metavar="SIZE", help="find the method of the least error within 20000, 20kB, 4KiB .."
    )
    command.add_argument("--error", metavar="E", help="find the smallest file of a relative error up to E: 0.3, 30%%")
    command.add_argument(
        "--seconds", type=float, metavar="S", help="with --bytes or --error: time of the search (default: 60)"
    )
    command.add_argument(
        "--neukron-seconds", type=float, metavar="S", help="likewise: NeuKron's own time (default: what is left then)"
    )
    add_reading(command)
    add_fitting(command)
    command.add_argument(
        "--no-orders", action="store_true", help="leave the orders out: smaller, answers in its own order"
    )
    add_without_labels(command)
    command.add_argument("--weights", default="float32", help="float32, float16 or int8 (neukron; default: float32)")
    step.add_settings(command)
    command.settings = _settings_help


def _settings_help() -> str:
    from pipeline.methods import COMPRESSORS, settings_help

    return settings_help(*COMPRESSORS)


def _run(options: argparse.Namespace) -> None:
    """Fit, save, and say what the artifact costs and what it is worth."""
    settings = step.parse_settings(options.settings)
    limits = _limits(options.bytes, options.error)
    if limits:
        times = {"--seconds": options.seconds, "--neukron-seconds": options.neukron_seconds}
        _check_search(options.method, settings, options.weights, times)
        limits |= {} if options.seconds is None else {"seconds": options.seconds}
    reading = Reading.of(options)
    tensor_files = [options.tensor, *reading.more]
    _check_output(tensor_files, options.artifact)
    if options.threads:
        step.limit_threads(options.threads)
    _check_weights(options.weights, options.method)
    X, digest = read_whole(options.tensor, reading)
    X.source |= {"file": _names(tensor_files, reading), "sha256": digest}  # part of the file that a search measures
    print(X)
    started = time.perf_counter()
    state = None
    if limits:
        seconds = {} if options.neukron_seconds is None else {"max_seconds": options.neukron_seconds}
        model = _search(
            X, limits, options.method, settings | seconds, not options.no_orders, options.seed, options.threads
        )
    elif options.method in (None, "neukron"):
        state = _state(digest, reading, settings, options.seed)
        model = _fit_neukron(X, settings, options.seed, options.threads, state)
    else:
        model = _fit_baseline(X, options.method, settings, options.seed)
    if options.weights != "float32":
        model = _quantised(model, options.weights)
    error = model.error(X)["error"]
    model.save(options.artifact, orders=not options.no_orders)
    if options.no_orders:
        error = _without_orders(options.artifact, X, error)
    if state is not None:
        state.clear()
    _report(model, X, error, options.artifact, not options.no_orders, time.perf_counter() - started)


def _check_output(tensor: Sequence[Path], artifact: Path) -> None:
    """Refuse to write over the input, or what its name would say is something else."""
    from pipeline.datasets import check_ending

    refuse_clashes(tensor, [artifact])
    check_ending(artifact, ".safetensors")
    refuse_unwritable(artifact)


def _names(paths: Sequence[Path], reading: Reading) -> str:
    """The data's files, as the artifact tells them."""
    member = reading.options.get("member")
    names = " ".join(path.name + (f"/{member}" if member else "") for path in paths)
    return names.encode(errors="replace").decode()


def _without_orders(path: Path, X: SparseTensor, error: float) -> float:
    """The error of what an artifact answers to the tensor's own indices, which it takes for its positions."""
    import numpy as np

    import pipeline
    from pipeline.sparse import SparseTensor

    model = pipeline.load(path)
    if model.own_indices_:
        print(f"{path}: {model.name} has no orders to leave out, it answers in the tensor's own indices")
        return error
    inside = np.all(X.coords < np.array(model.shape_), axis=1)  # positions end where the indices that occur do
    left_out = float(np.sum(X.values[~inside] ** 2))
    if inside.any():
        own: float = model.error(SparseTensor(X.coords[inside], X.values[inside], model.shape_))["error"] + left_out
    else:
        corner = [[0] * X.order]
        of_one = model.error(SparseTensor(corner, [1.0], model.shape_))["error"]
        own = of_one - 1.0 + 2.0 * float(model.predict(corner)[0]) + left_out
    model.about_.error = own
    model.save(path, orders=False)
    print(f"{path}: {NO_ORDERS}; in that order, which the file does not tell, the error is {error:,.6g}")
    return own


def _report(model: Compressor, X: SparseTensor, error: float, path: Path, orders: bool, seconds: float) -> None:
    size = model.size()
    labels = sum(array.nbytes for array in model.about_.label_arrays().values()) if orders else 0
    told = f", {labels:,} of them labels (--no-labels)" if labels else ""
    print_rows(
        [
            ("method", model.name),
            ("error", f"{error:,.6g} (squared Frobenius norm, real cells)"),
            ("relative error", f"{error / X.norm2 if error else 0:.2%} of ||X||^2"),
            ("bytes as published", f"{size['bytes']:,}"),
            ("bytes equal", f"{size['bytes_equal']:,} (4 bytes a real)"),
            ("bytes with orders", f"{size['bytes_with_order']:,} (4 bytes a real, orders stored)"),
            ("file", f"{path}, {path.stat().st_size:,} bytes{told}"),
            ("seconds", f"{seconds:.1f}" + _compiling()),
        ]
    )


def _compiling() -> str:
    """How much of a command's time went into compiling, where that is worth a word."""
    from pipeline.runs.times import compiling_seconds

    seconds = compiling_seconds()
    return f", {seconds:.1f} of them for compiling kernels, once" if seconds >= 0.1 else ""


def _check_weights(weights: str, method: str | None) -> None:
    """Refuse what could not be done after the fit."""
    if weights == "float32":
        return
    from pipeline.neukron.quantise import KINDS

    if weights not in KINDS:
        raise InputError(f"--weights {weights}: unknown{nearest(weights, KINDS)}")
    if method not in (None, "neukron"):
        raise InputError(f"--weights {weights}: for neukron only, not for {method}")


def _quantised(model: Compressor, weights: str) -> Compressor:
    from pipeline.neukron import NeuKron

    assert isinstance(model, NeuKron)  # noqa: S101 - see _check_weights
    return model.quantised(weights)


def _limits(size: str | None, error: str | None) -> dict[str, Any]:
    """What a search is bounded by; nothing where none is wanted."""
    if size is not None and error is not None:
        raise InputError("--bytes and --error: give one of them")
    if size is not None:
        return {"max_bytes": parse_bytes(size)}
    return {} if error is None else {"max_error": parse_share(error)}


def _check_search(method: str | None, settings: dict[str, Any], weights: str, times: dict[str, float | None]) -> None:
    """Refuse what a search cannot do, before the tensor is read."""
    if weights != "float32":
        raise InputError("--weights: not with --bytes or --error; fit neukron with the settings found, then shorten it")
    if settings and method not in (None, "neukron"):
        raise InputError(f"--set: with --bytes or --error the settings of {method} are what is looked for")
    for option, seconds in times.items():
        if seconds is not None and not seconds > 0:
            raise InputError(f"{option} {seconds}: needs a time above 0")


def _search(
    X: SparseTensor,
    limits: dict[str, Any],
    method: str | None,
    neukron: dict[str, Any],
    orders: bool,
    seed: int,
    threads: int | None,
) -> Compressor:
    from pipeline.commands.search import search
    from pipeline.neukron import NeuKron

    check_given(NeuKron, neukron, NeuKron.name, also=NO_SETTINGS, but={"hidden"})
    found = search(
        X,
        **limits,
        orders=orders,
        methods=[method] if method else None,
        neukron=neukron | ({"threads": threads} if threads else {}),
        seed=seed,
        tell=lambda line: print(line, flush=True),
    )
    print(f"chosen: {found.best}: {found.reason}")
    if len(found.fates) > 1:
        print_rows([(f"  {name}", fate) for name, fate in found.fates.items()])
    return found.best.model


def _state(digest: str, reading: Reading, settings: dict[str, Any], seed: int) -> Checkpoint:
    """Where an interrupted fit of NeuKron to data of a checksum lies."""
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.metrics import library_versions

    read = {"format": reading.format_name, "read": {key: str(value) for key, value in reading.options.items()}}
    run = {"tensor": [digest], **read, "seed": seed}
    how = {"settings": {key: str(value) for key, value in settings.items()}, "command": "compress"}
    return Checkpoint(run | how | {"versions": library_versions("torch", "numpy")})


def _fit_neukron(
    X: SparseTensor, settings: dict[str, Any], seed: int, threads: int | None, state: Checkpoint
) -> Compressor:
    from pipeline.neukron import NeuKron
    from pipeline.runs import progress

    check_given(NeuKron, settings, NeuKron.name, also=NO_SETTINGS)
    neukron = NeuKron(seed=seed, threads=threads, **settings)
    neukron.listener = progress.tell
    with progress.epochs(X.norm2, neukron.max_epochs) as after_epoch, state.stopping_on_signals():
        return neukron.fit(X, after_epoch, state)


def _fit_baseline(X: SparseTensor, method: str, settings: dict[str, Any], seed: int) -> Compressor:
    from pipeline.baselines import make
    from pipeline.methods import COMPRESSORS

    if method not in COMPRESSORS:
        raise InputError(f"--method {method}: unknown{nearest(method, COMPRESSORS)}")
    return make(method, settings, seed).fit(X)
