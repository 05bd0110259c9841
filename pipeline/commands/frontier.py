"""``kronflow frontier``: the least error known at every size of a file, over all methods, as table, CSV and SVG."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.commands.command_line import Commands, add_command, add_fitting, print_rows
from pipeline.commands.outputs import one_at_a_time, refuse_unwritable
from pipeline.commands.source import Reading, add_reading, add_without_labels, read_tensor
from pipeline.core import step
from pipeline.core.files import atomic_path, refuse_clashes
from pipeline.core.sizes import parse_bytes
from pipeline.core.step import SHOWN
from pipeline.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.commands.search import Attempt
    from pipeline.sparse import SparseTensor

COLUMNS = ["orders", "budget", "method", "settings", "bytes", "relative_error", "seconds"]
ORDERS = {"stored": ("stored",), "free": ("free",), "both": ("stored", "free")}
KINDS = {"budget": "int64", "bytes": "int64", "relative_error": "float64", "seconds": "float64"}  # others: text
MARK = "# kronflow frontier "  # at the start of the CSV
NO_METHOD = "none"  # in a row of a size that no method meets
SMALLEST = 512  # bytes of the first size, unless told otherwise
SPAN = 64  # the smallest size is at least the lossless file over this


def add(commands: Commands) -> None:
    """Add the command."""
    text = (
        "Draw the compression frontier of a matrix or tensor: the least error known at every size of the file, over "
        "all methods. Writes NAME.csv (every fit), NAME.svg, and prints the envelope beside what gzip, xz, zstd, "
        "Parquet, compressed sparse fibres and a model without structure take. Started again with the same arguments "
        "it goes on where it stopped."
    )
    command = add_command(commands, "frontier", _run, text)
    command.add_argument("tensor", type=Path, help="as for compress")
    command.add_argument("output", type=Path, help="NAME.svg; the numbers go into NAME.csv beside it")
    command.add_argument("--from", dest="smallest", metavar="SIZE", help="first size (default: lossless / 64)")
    command.add_argument("--to", dest="largest", metavar="SIZE", help="last size (default: that of lossless)")
    command.add_argument("--points", action=step.WholeNumber, least=1, below=1001, default=6, help="sizes (default: 6)")
    command.add_argument("--orders", choices=sorted(ORDERS), default="both", help="which files count (default: both)")
    command.add_argument("--method", action="append", help="a method to try; several times (default: all)")
    command.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of each size's search (default: 60)")
    add_fitting(command)
    add_without_labels(command)
    add_reading(command)


def _run(options: argparse.Namespace) -> None:
    """Search at every size, remember every fit, draw."""
    if options.output.suffix != ".svg":
        raise InputError(f"{options.output}: the figure is an SVG; name it .svg")
    if not options.seconds > 0:
        raise InputError(f"--seconds {options.seconds}: needs a time above 0")
    ends = [parse_bytes(size, name) if size else None for size, name in _ends(options)]
    if ends[0] and ends[1]:
        _check_ends(ends[0], ends[1])
    table = options.output.with_suffix(".csv")
    files = [options.tensor, *options.file]
    refuse_clashes(files, [options.output], {table: MARK.encode()})
    refuse_unwritable(options.output)
    from pipeline.commands.search import label_bytes

    if options.threads:
        step.limit_threads(options.threads)
    X = read_tensor(options.tensor, Reading.of(options))
    print(X)
    names = ("seconds", "seed", "method", "format", "read", "columns", "value", "no_labels")
    told = {name: getattr(options, name) for name in names}
    course = _Course(table, {"tensor": _content(X)} | told)
    for orders in ORDERS[options.orders]:
        whole = course.lossless_bytes(X, orders)
        labels = label_bytes(X) if orders == "stored" else 0
        largest = ends[1] or whole
        smallest = ends[0] or min(labels + max(SMALLEST, (whole - labels) // SPAN), largest)
        _check_ends(smallest, largest)
        beside = labels if labels < smallest else 0  # sizes are spread over what the labels leave
        steps = beside + np.geomspace(smallest - beside, largest - beside, options.points + (ends[1] is None))
        budgets = [budget for budget in sorted(set(np.rint(steps).astype(int).tolist())) if budget < whole]
        for number, budget in enumerate(budgets, start=1):  # lossless ends the envelope
            print(f"orders {orders}, size {number} of {len(budgets)}: {budget:,} bytes", flush=True)
            course.search(X, orders, budget, options)
    _report(X, options, course.fits())


def _content(X: SparseTensor) -> str:
    """Checksum of what was read, from whatever files."""
    from pipeline.runs.about import About

    digest = hashlib.sha256(repr(X.shape).encode())
    arrays: list[npt.NDArray[Any]] = [X.coords, X.values, *About.of(X).label_arrays().values()]
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _ends(options: argparse.Namespace) -> list[tuple[str | None, str]]:
    return [(options.smallest, "--from"), (options.largest, "--to")]


def _check_ends(smallest: int, largest: int) -> None:
    if smallest > largest:
        raise InputError(f"sizes from {smallest:,} to {largest:,} bytes: give --from and --to")


class _Course:
    """Every fit so far, in the CSV that an interrupted run goes on from."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        import pandas as pd

        self.path, self.head = path, MARK + json.dumps(run, sort_keys=True)
        self.rows = pd.DataFrame(columns=COLUMNS)
        self._read()

    def _read(self) -> None:
        """Take the rows that are written, another run's as well that does the same at the same time."""
        import pandas as pd

        path = self.path
        if not path.exists():
            return
        try:
            with path.open(encoding="utf-8") as file:
                same = file.readline().rstrip("\n") == self.head
                rows = pd.read_csv(file, keep_default_na=False) if same else self.rows
            self.rows = rows[COLUMNS].astype(KINDS)
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}: damaged ({' '.join(str(error).split())[:SHOWN]}); remove it") from error
        if not same:
            raise InputError(f"{path}: is of another file or of other options; name another output, or remove it")

    def lossless_bytes(self, X: SparseTensor, orders: str) -> int:
        """Bytes of the exact file, the end of the envelope."""
        from pipeline.commands.search import search

        exact = self.rows[(self.rows["orders"] == orders) & (self.rows["method"] == "lossless")]
        if exact.empty:
            found = search(X, max_error=0.0, orders=orders == "stored", methods=["lossless"], tell=_tell)
            self._add(orders, 0, found.attempts)
            return found.best.file_bytes
        return int(exact["bytes"].min())

    def search(self, X: SparseTensor, orders: str, budget: int, options: argparse.Namespace) -> None:
        """Search at a size, unless that was done, and write what was fitted."""
        from pipeline.commands.search import search

        self._read()
        if ((self.rows["orders"] == orders) & (self.rows["budget"] == budget)).any():
            print(f"{budget:,} bytes, orders {orders}: done before")
            return
        try:
            found = search(
                X,
                max_bytes=budget,
                orders=orders == "stored",
                methods=options.method,
                neukron={"threads": options.threads} if options.threads else None,
                seed=options.seed,
                seconds=options.seconds,
                tell=_tell,
            )
        except InputError as error:
            print(f"{budget:,} bytes, orders {orders}: {error}")
            self._write([[orders, budget, NO_METHOD, "", 0, 1.0, 0.0]])
            return
        self._add(orders, budget, found.attempts)

    def fits(self) -> pd.DataFrame:
        """The rows of fits, without sizes that no method meets."""
        return self.rows[self.rows["method"] != NO_METHOD].reset_index(drop=True)

    def _add(self, orders: str, budget: int, attempts: list[Attempt]) -> None:
        """Remember fits."""
        rows = [
            [orders, budget, one.method, json.dumps(one.settings), one.file_bytes, one.relative_error, one.seconds]
            for one in attempts
        ]
        self._write(rows)

    def _write(self, rows: list[list[Any]]) -> None:
        import pandas as pd

        new = pd.DataFrame(rows, columns=COLUMNS)
        with one_at_a_time(self.path.parent):
            self._read()
            self.rows = new if self.rows.empty else pd.concat([self.rows, new], ignore_index=True)
            with atomic_path(self.path) as temporary:
                temporary.write_text(self.head + "\n" + self.rows.to_csv(index=False), encoding="utf-8")


def _tell(line: str) -> None:
    print(line, flush=True)


def _report(X: SparseTensor, options: argparse.Namespace, rows: pd.DataFrame) -> None:
    """Write the figure, and print the envelope and the lines."""
    from pipeline.baselines.yardsticks import general, structureless_bytes
    from pipeline.reporting.envelope import envelope_figure, on_envelope

    if rows.empty:
        raise InputError("no method makes a file of any of these sizes; allow more with --to")
    others = general(X)
    exact = {name: size for name, size in others.items() if size is not None}
    for orders in ORDERS[options.orders]:
        exact[f"no structure, {orders}"] = structureless_bytes(X, orders == "stored")
    with atomic_path(options.output) as temporary:
        temporary.write_text(envelope_figure(options.tensor.name, rows, exact).svg, encoding="utf-8")
    best = rows[on_envelope(rows)].sort_values(["orders", "bytes"], ascending=[False, True])
    for counted, group in best.groupby("orders", sort=False):
        print(f"orders {counted}: bytes of the file, relative error, by")
        print_rows(
            [
                (f"{row['bytes']:>12,}", f"{row['relative_error']:.4f}  {row['method']} {row['settings']}")
                for row in group.to_dict("records")
            ]
        )
    print("exact, bytes:")
    absent = [(name, "not installed, or failed") for name, size in others.items() if size is None]
    print_rows([(name, f"{size:,}") for name, size in sorted(exact.items(), key=lambda item: item[1])] + absent)
    print(f"{options.output}, {options.output.with_suffix('.csv')}")
