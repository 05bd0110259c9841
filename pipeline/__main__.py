"""The console script: compress a tensor, look into an artifact, ask it, unpack it."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.core import step
from pipeline.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.datasets.labels import Labels
    from pipeline.neukron import NeuKron
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.compressor import Compressor
    from pipeline.sparse import SparseTensor

EXAMPLES = """examples:
  kronflow compress matrix.mtx matrix.safetensors --set hidden=8 --set max_epochs=100
  kronflow compress matrix.mtx matrix.safetensors --bytes 20kB
  kronflow grid matrix.mtx --name mine
  kronflow info matrix.safetensors
  kronflow query matrix.safetensors 3 17
  kronflow query matrix.safetensors --file coords.csv
  kronflow query matrix.safetensors --top 10 --at 0=3
  kronflow decompress matrix.safetensors top.parquet --top 1000 --among matrix.parquet
"""
LIST_LIMIT = 20  # history and settings longer than this are summed up


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands."""
    arguments = step.parser("Compress sparse matrices and tensors, and use what came of it.", EXAMPLES)
    arguments.prog = "kronflow"
    arguments.add_argument("--version", action="version", version=f"kronflow {__version__}")
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_compress, _add_grid, _add_info, _add_query, _add_decompress, _add_import):
        add(commands)
    options = arguments.parse_args(argv)
    options.run(options)


Commands = Any  # argparse's special action has no public name


def _command(commands: Commands, name: str, run_it: Callable[[argparse.Namespace], None], text: str) -> Any:
    command = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run_it)
    return command


# -------------------------------------------------------------------------------------------------- compress


def _add_compress(commands: Commands) -> None:
    command = _command(commands, "compress", compress, "Fit a method to a matrix or tensor and write its artifact.")
    command.add_argument(
        "tensor", type=Path, help="Parquet sparse tensor, .mtx, .tns, .npz, .csv or another known format"
    )
    command.add_argument("artifact", type=Path, help="the .safetensors file to write")
    command.add_argument("--method", default=None, help="neukron (default), or a baseline: t-svd, cp, truncation ..")
    command.add_argument(
        "--bytes", metavar="SIZE", help="find the method of the least error within 20000, 20kB, 1MB .."
    )
    command.add_argument("--error", metavar="E", help="find the smallest file of a relative error up to E: 0.3, 30%%")
    command.add_argument(
        "--neukron-seconds", type=float, metavar="S", help="with --bytes or --error: NeuKron's time (default: 60)"
    )
    command.add_argument("--columns", help="of a table: the columns that are modes, as a,b (default: all but the last)")
    command.add_argument("--value", help="of a table: the column of the values (default: the last)")
    command.add_argument("--seed", action=step.WholeNumber, least=0, below=step.SEEDS, default=0)
    command.add_argument("--threads", action=step.WholeNumber, least=1, help="default: all cores")
    command.add_argument(
        "--no-orders", action="store_true", help="leave the orders out: smaller, answers in its own order"
    )
    command.add_argument("--weights", default="float32", help="float32, float16 or int8 (neukron; default: float32)")
    step.add_settings(command)
    command.epilog = "NeuKron's settings and their defaults: python -m pipeline.train_neukron --help"


def compress(options: argparse.Namespace) -> None:
    """Fit, save, and say what the artifact costs and what it is worth."""
    settings = step.parse_settings(options.settings)
    wanted = options.bytes is not None or options.error is not None
    limits = _parse_limits(options, settings) if wanted else {}
    if options.artifact.is_dir():
        raise InputError(f"{options.artifact}: is a folder; name the .safetensors file to write")
    if options.threads:
        step.limit_threads(options.threads)
    _check_weights(options)
    X, labels = _read_labelled(options.tensor, options.columns, options.value)
    print(X)
    started = time.perf_counter()
    state = _state(options, settings) if options.method in (None, "neukron") and not wanted else None
    model = _search(options, settings, limits, X) if wanted else _fit(options, settings, X, state)
    if options.weights != "float32":
        model = _neukron(model, "--weights").quantised(options.weights)
    model.save(options.artifact, orders=not options.no_orders)
    if state is not None:
        state.clear()
    if not options.no_orders:
        _write_labels(options.artifact, labels)
    error = model.error(X)
    size = model.size()
    _print_rows(
        [
            ("method", model.name),
            ("error", f"{error['error']:,.6g} (squared Frobenius norm, real cells)"),
            ("relative error", f"{error['error'] / X.norm2:.2%} of ||X||^2"),
            ("bytes as published", f"{size['bytes']:,}"),
            ("bytes equal", f"{size['bytes_equal']:,} (4 bytes a real)"),
            ("bytes with orders", f"{size['bytes_with_order']:,} (4 bytes a real, orders stored)"),
            ("file", f"{options.artifact}, {options.artifact.stat().st_size:,} bytes"),
            ("seconds", f"{time.perf_counter() - started:.1f}"),
        ]
    )


def _check_weights(options: argparse.Namespace) -> None:
    """Refuse what could not be done after the fit."""
    if options.weights == "float32":
        return
    from pipeline.neukron.quantise import KINDS

    if options.weights not in KINDS:
        raise InputError(f"--weights {options.weights}: unknown{nearest(options.weights, KINDS)}")
    if options.method not in (None, "neukron"):
        raise InputError(f"--weights {options.weights}: for neukron only, not for {options.method}")


def _parse_limits(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """What a search is bounded by, checked before the tensor is read."""
    if options.bytes is not None and options.error is not None:
        raise InputError("--bytes and --error: give one of them")
    if options.weights != "float32":
        raise InputError("--weights: not with --bytes or --error; fit neukron with the settings found, then shorten it")
    if settings and options.method not in (None, "neukron"):
        raise InputError(f"--set: with --bytes or --error the settings of {options.method} are what is looked for")
    if options.neukron_seconds is not None and not options.neukron_seconds > 0:
        raise InputError(f"--neukron-seconds {options.neukron_seconds}: needs a time above 0")
    if options.bytes is not None:
        return {"max_bytes": _parse_bytes(options.bytes)}
    return {"max_error": _parse_share(options.error)}


def _search(
    options: argparse.Namespace, settings: dict[str, Any], limits: dict[str, Any], X: SparseTensor
) -> Compressor:
    from pipeline.commands.search import search
    from pipeline.neukron import NeuKron

    step.check_settings(NeuKron, settings, given_otherwise={"seed", "threads", "hidden"})
    if options.neukron_seconds is not None:
        settings |= {"max_seconds": options.neukron_seconds}
    found = search(
        X,
        **limits,
        orders=not options.no_orders,
        methods=[options.method] if options.method else None,
        neukron=settings | ({"threads": options.threads} if options.threads else {}),
        seed=options.seed,
        tell=lambda line: print(line, flush=True),
    )
    print(f"chosen: {found.best}: {found.reason}")
    return found.best.model


def _parse_share(text: str) -> float:
    """Read ``0.3`` or ``30%`` as a relative error from 0 to 1."""
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:[eE]-?\d+)?)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= share <= 1:
        raise InputError(f"--error {text}: write a share of the squared norm from 0 to 1, such as 0.3 or 30%")
    return share


def _parse_bytes(text: str, option: str = "--bytes") -> int:
    """Read ``20000``, ``20kB`` or ``1.5 MB``; 1 kB is 1,000 bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|K|M|G|)B?\s*", text)
    size = int(float(match[1]) * {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match else 0
    if size < 1:
        raise InputError(f"{option} {text}: write a number of bytes, such as 20000, 20kB or 1.5MB")
    return size


def _state(options: argparse.Namespace, settings: dict[str, Any]) -> Checkpoint:
    """Where an interrupted fit of NeuKron lies."""
    from pipeline.core.files import sha256_file
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.metrics import library_versions

    run = {"tensor": sha256_file(options.tensor), "columns": options.columns, "value": options.value}
    how = {"seed": options.seed, "settings": {key: str(value) for key, value in settings.items()}}
    return Checkpoint(run | how | {"command": "compress", "versions": library_versions("torch", "numpy")})


def _fit(
    options: argparse.Namespace, settings: dict[str, Any], X: SparseTensor, state: Checkpoint | None
) -> Compressor:
    if state is not None:
        from pipeline.neukron import NeuKron
        from pipeline.train_neukron import progress

        step.check_settings(NeuKron, settings, given_otherwise={"seed", "threads"})
        neukron = NeuKron(seed=options.seed, threads=options.threads, **settings)
        with progress(X, neukron.max_epochs) as after_epoch, state.stopping_on_signals():
            return neukron.fit(X, after_epoch, state)
    from pipeline.baselines import METHODS
    from pipeline.fit_baseline import make

    if options.method not in METHODS:
        raise InputError(f"--method {options.method}: unknown{nearest(options.method, ['neukron', *METHODS])}")
    return make(options.method, settings, options.seed).fit(X)


def read_tensor(path: Path) -> SparseTensor:
    """Read a Parquet sparse tensor, or a file of any other known format with its modes as they are in the file."""
    return _read_labelled(path, None, None)[0]


def _read_labelled(path: Path, columns: str | None, value: str | None) -> tuple[SparseTensor, dict[int, Labels]]:
    """The tensor of a file, and by mode the labels that its indices stand for."""
    from pipeline.datasets import format_of, read_raw
    from pipeline.datasets.assemble import assemble
    from pipeline.sparse import SparseTensor

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".parquet" and is_sparse_tensor(path):
        if columns or value:
            raise InputError(f"--columns, --value: {path} is a sparse tensor, not a table")
        return SparseTensor.read_parquet(path), {}
    try:
        format_name = format_of(path.name)
        raw = read_raw(format_name, {path.name: path}, _table_options(path, format_name, columns, value))
        assembled = assemble(raw, {"file": path.name})
        X = assembled.tensor
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    places = [X.mode_names.index(mode.name) for mode in raw.modes]
    labels = {mode: assembled.labels[place] for mode, place in enumerate(places)}
    return X.permute_modes(places), {mode: found for mode, found in labels.items() if found is not None}


def _table_options(path: Path, format_name: str, columns: str | None, value: str | None) -> dict[str, Any]:
    """Which columns of a table are modes and which is the value: as told, else all but the last, and the last."""
    if format_name not in ("csv", "columnar"):
        if columns or value:
            raise InputError(f"--columns, --value: {path} is no table")
        return {}
    chosen = columns.split(",") if columns else [name for name in _column_names(path, format_name) if name != value]
    if columns is None and value is None:
        *chosen, value = chosen
        print(f"modes: {', '.join(chosen)}; value: {value} (choose others with --columns and --value)")
    return {"columns": chosen} | ({"value": value} if value else {})


def _column_names(path: Path, format_name: str) -> list[str]:
    """Names of a table's columns, two at least."""
    from pipeline.datasets.readers import columnar, csvtable

    names = columnar.names(path) if format_name == "columnar" else csvtable.names(path)
    if len(names) < 2:
        raise InputError(f"{path}: columns {names}: needs one for each mode, and one for the values; see --columns")
    return names


def _write_labels(artifact: Path, labels: dict[int, Labels]) -> None:
    """Labels of the tensor's indices, in files beside its artifact."""
    from pipeline.convert import write_labels

    for mode, found in labels.items():
        path = artifact.with_name(f"{artifact.stem}.labels-{mode}.parquet")
        write_labels(path, found)
        print(f"labels of mode {mode}: {path}")


def is_sparse_tensor(path: Path) -> bool:
    """Whether a Parquet file carries the metadata of a sparse tensor; other tables are converted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return b"kronflow" in (pq.read_schema(path).metadata or {})
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


# ------------------------------------------------------------------------------------------------------ grid


def _add_grid(commands: Commands) -> None:
    command = _command(commands, "grid", grid, "Print settings of every method for an experiment on your own data.")
    command.add_argument("tensor", type=Path, help="as for compress")
    command.add_argument("--name", default="mine", help="the data set's name in params.yaml")
    command.add_argument("--from", dest="smallest", metavar="SIZE", help="smallest artifact (default: CSF / 1000)")
    command.add_argument("--to", dest="largest", metavar="SIZE", help="largest artifact (default: CSF / 4)")
    command.add_argument("--points", type=int, default=5, help="sizes a method (default: 5)")
    command.add_argument("--columns", help="of a table: as for compress")
    command.add_argument("--value", help="of a table: as for compress")


def grid(options: argparse.Namespace) -> None:
    """Print what goes below ``experiments.<name>.settings`` in params.yaml."""
    from pipeline.baselines.lossless import csf_bytes
    from pipeline.commands.search import automatic_grid

    X, _ = _read_labelled(options.tensor, options.columns, options.value)
    csf = csf_bytes(X)
    smallest = _parse_bytes(options.smallest, "--from") if options.smallest else max(256, csf // 1000)
    largest = _parse_bytes(options.largest, "--to") if options.largest else max(csf // 4, smallest)
    if options.points < 1 or smallest > largest:
        raise InputError(f"{options.points} sizes from {smallest:,} to {largest:,} bytes: give --from, --to, --points")
    print(f"# {X}: {csf:,} bytes in compressed sparse fibres; sizes from {smallest:,} to {largest:,} bytes")
    print(f"{options.name}:")
    for method, settings in automatic_grid(X, smallest, largest, options.points).items():
        print(f"  {method}: {json.dumps(settings).replace(chr(34), '')}")


# ------------------------------------------------------------------------------------------------------ info


def _add_info(commands: Commands) -> None:
    command = _command(commands, "info", info, "Say what an artifact or a Parquet sparse tensor holds.")
    command.add_argument("file", type=Path)
    command.add_argument("--json", action="store_true", help="for programs")


def info(options: argparse.Namespace) -> None:
    """Print what a file holds, as aligned lines or as JSON."""
    content = _tensor_info(options.file) if options.file.suffix == ".parquet" else _artifact_info(options.file)
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        _print_rows([(key, _short(value)) for key, value in content.items()])


def _tensor_info(path: Path) -> dict[str, Any]:
    X = read_tensor(path)
    return {
        "file": str(path),
        "shape": list(X.shape),
        "nnz": X.nnz,
        "density": X.density,
        "norm2": X.norm2,
        "mode_names": list(X.mode_names),
        "source": X.source,
        "file_bytes": path.stat().st_size,
    }


def _artifact_info(path: Path) -> dict[str, Any]:
    import pipeline
    from pipeline.runs.artifact import read_artifact

    _, metadata = read_artifact(path)
    model = pipeline.load(path)
    content = {"file": str(path), **metadata}
    if hasattr(model, "size"):
        content |= {"parameters": model.parameter_count(), **model.size()}
    return content | {"file_bytes": path.stat().st_size}


# ----------------------------------------------------------------------------------------------------- query


def _add_query(commands: Commands) -> None:
    command = _command(commands, "query", query, "Approximate single cells, in the tensor's own indices.")
    command.add_argument("artifact", type=Path)
    command.add_argument("index", type=int, nargs="*", help="one index for each mode, 0-based")
    command.add_argument(
        "--file", type=Path, help="text file with one cell a line: indices separated by commas or spaces"
    )
    command.add_argument("--top", type=int, metavar="K", help="the K largest cells, found without a full scan")
    command.add_argument("--at", action="append", default=[], metavar="MODE=INDEX", help="with --top: in this slice")


def query(options: argparse.Namespace) -> None:
    """Print one value a line, or the largest cells with their indices."""
    import numpy as np

    model = _load_compressor(options.artifact)
    if (options.top is not None) + bool(options.index) + (options.file is not None) != 1:
        raise InputError("query: give one of: the indices of one cell, --file with many, --top")
    if options.at and options.top is None:
        raise InputError("--at: goes with --top")
    if options.top is not None:
        _print_largest(model, options.top, _parse_slice(options.at))
        return
    if not all(map(_fits, options.index)):
        raise InputError(f"query: {' '.join(map(str, options.index))}: outside a tensor of shape {model.shape_}")
    coords = _read_cells(options.file) if options.file else np.array([options.index], dtype=np.int64)
    for value in model.predict(coords):
        print(f"{value:.9g}")


def _print_largest(model: Compressor, count: int, fixed: dict[int, int]) -> None:
    coords, values = _neukron(model, "--top").largest(count, fixed)
    for cell, value in zip(coords.tolist(), values, strict=True):
        print(*cell, f"{value:.9g}")


def _neukron(model: Compressor, option: str) -> NeuKron:
    from pipeline.neukron import NeuKron

    if not isinstance(model, NeuKron):
        raise InputError(f"{option}: for NeuKron only; this artifact is of method '{model.name}'")
    return model


def _parse_slice(pairs: list[str]) -> dict[int, int]:
    fixed = {}
    for pair in pairs:
        mode, _, index = pair.partition("=")
        if not mode.isdecimal() or not index.isdecimal():
            raise InputError(f"--at {pair}: write MODE=INDEX, for example --at 0=3 for row 3")
        if int(mode) in fixed:
            raise InputError(f"--at {pair}: mode {mode} is given twice")
        fixed[int(mode)] = int(index)
    return fixed


def _fits(index: int) -> bool:
    """Whether it is a number of 64 bits."""
    return -(2**63) <= index < 2**63


def _read_cells(path: Path) -> Any:
    import numpy as np

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text file ({error}); write one cell a line, for example '3, 17'") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        parts = line.partition("#")[0].replace(",", " ").split()
        if parts:
            try:
                rows.append([int(part) for part in parts])
            except ValueError:
                raise InputError(f"{path}:{number}: '{line}': indices are whole numbers") from None
            if not all(map(_fits, rows[-1])):
                raise InputError(f"{path}:{number}: '{line}': outside of any tensor")
            if len(rows[-1]) != len(rows[0]):
                raise InputError(f"{path}:{number}: {len(rows[-1])} indices, the lines before have {len(rows[0])}")
    if not rows:
        raise InputError(f"{path}: no cells in it; write one a line, for example '3, 17'")
    return np.array(rows, dtype=np.int64)


# ------------------------------------------------------------------------------------------------ decompress


def _add_decompress(commands: Commands) -> None:
    command = _command(
        commands,
        "decompress",
        decompress,
        "Write a block of cells, or the largest among given cells, as a sparse tensor.",
    )
    command.add_argument("artifact", type=Path)
    command.add_argument("output", type=Path, help="Parquet sparse tensor to write")
    command.add_argument("--block", help="ranges of every mode, for example 0:10,5:25 (default: everything)")
    command.add_argument("--top", type=int, help="keep only so many largest values")
    command.add_argument("--among", type=Path, help="Parquet sparse tensor whose non-zeros are the cells to look at")
    command.add_argument(
        "--limit", type=int, default=1 << 24, help="refuse to look at more cells (default: 16,777,216)"
    )


def decompress(options: argparse.Namespace) -> None:
    """Predict the wanted cells and write those that are not zero."""
    import numpy as np

    from pipeline.sparse import SparseTensor

    model = _load_compressor(options.artifact)
    if options.top is not None and options.top < 1:
        raise InputError(f"--top {options.top}: at least 1")
    if options.block and options.among:
        raise InputError("--block and --among: give one of them")
    if options.top and model.name == "neukron" and not options.block and not options.among:
        coords, values = _neukron(model, "--top").largest(options.top)
    else:
        coords = _wanted_cells(options, model.shape_)
        values = model.predict(coords)
    if options.top is not None:
        keep = np.argsort(-np.abs(values), kind="stable")[: options.top]
        coords, values = coords[keep], values[keep]
    X = SparseTensor(coords, values, model.shape_, source={"artifact": options.artifact.name})
    X.write_parquet(options.output)
    print(f"{options.output}: {X}")


def _wanted_cells(options: argparse.Namespace, shape: Sequence[int]) -> Any:
    from pipeline.runs.compressor import cells_within

    if options.among:
        return read_tensor(options.among).coords
    ranges = _parse_block(options.block, shape) if options.block else [(0, size) for size in shape]
    cells = math.prod(stop - start for start, stop in ranges)
    if cells > options.limit:
        raise InputError(f"{cells:,} cells, more than {options.limit:,}: narrow --block, or raise --limit")
    return cells_within([range(start, stop) for start, stop in ranges])


def _parse_block(text: str, shape: Sequence[int]) -> list[tuple[int, int]]:
    parts = text.split(",")
    if len(parts) != len(shape):
        raise InputError(
            f"--block {text}: {len(parts)} ranges for {len(shape)} modes; write one a mode, like 0:10,5:25"
        )
    ranges = []
    for part, size in zip(parts, shape, strict=True):
        start, colon, stop = part.partition(":")
        try:
            low, high = int(start or 0), int(stop or size) if colon else int(start) + 1
        except ValueError:
            raise InputError(f"--block {text}: '{part}' is no range; write start:stop") from None
        if not 0 <= low < high <= size:
            raise InputError(f"--block {text}: '{part}' is not within 0:{size}")
        ranges.append((low, high))
    return ranges


# ---------------------------------------------------------------------------------------------------- import


def _add_import(commands: Commands) -> None:
    command = _command(
        commands,
        "import-reference",
        import_reference,
        "Turn a checkpoint of the NeuKron authors' program into an artifact, without running code from it.",
    )
    command.add_argument("checkpoint", type=Path, help="their .pt file")
    command.add_argument("data", type=Path, help="the text file it was trained on")
    command.add_argument("artifact", type=Path, help="the .safetensors file to write")


def import_reference(options: argparse.Namespace) -> None:
    """Convert, and show the error that the imported model has on its data."""
    from pipeline.neukron.reference_import import import_checkpoint, read_reference_text

    X = read_reference_text(options.data)
    model = import_checkpoint(options.checkpoint, X)
    model.save(options.artifact)
    error = model.error(X)
    _print_rows(
        [
            ("tensor", str(X)),
            ("parameters", f"{model.parameter_count():,}"),
            ("error_padded", f"{error['error_padded']:,.6f} (over the padded grid)"),
            ("error", f"{error['error']:,.6f} (over the real cells)"),
            ("file", f"{options.artifact}, {options.artifact.stat().st_size:,} bytes"),
        ]
    )


# ---------------------------------------------------------------------------------------------------- shared


def _load_compressor(path: Path) -> Compressor:
    import pipeline
    from pipeline.runs.compressor import Compressor

    model = pipeline.load(path)
    if not isinstance(model, Compressor):
        raise InputError(f"{path}: holds a network, not a compressed tensor")
    if getattr(model, "orders_", ()) is None:
        print(f"{path}: no orders stored, indices are positions in the model's own order", file=sys.stderr)
    return model


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_short(part)}" for key, part in value.items())
    if isinstance(value, list):
        shown = " x ".join(f"{part:,}" if isinstance(part, int) else str(part) for part in value[:LIST_LIMIT])
        return shown + (f" .. ({len(value)} in all)" if len(value) > LIST_LIMIT else "")
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def run() -> None:
    """Entry point of the console script."""
    step.run(main)


if __name__ == "__main__":
    run()
