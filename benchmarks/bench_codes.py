"""Exact codes beside general compressors: bytes, and seconds both ways. Writes codes.json and codes.md.

`--tensors` is a folder of Parquet tensors (``snakemake data/tensors/kjv-3gram.parquet``). Every code is decoded and
compared with the tensor before its row is stored; data sets that are not run keep what was measured before. General
compressors get the sorted coordinates as 4-byte integers, one mode after the other, as differences from the row
before, and the values as our gap code writes them; JBIG gets binary matrices as bitmaps, in their own indices and
sorted as our gap code does with orders free (``apt install zpaq jbigkit-bin``). ``free`` and ``stored`` are lossless's
code with orders free, and with all that is needed to answer in the tensor's own indices; ``mixed`` is one of the codes
it tries. ``in blocks`` is the code of ``blocks: true``, with the least of many times to load it and to answer one cell.

    python -m benchmarks.bench_codes --tensors data/tensors --datasets flights kjv-3gram
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.about import by_data_set
from pipeline.core import step

TRIES = 50  # of a query


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measured(path: Path) -> dict[str, Any]:
    """All figures of a data set."""
    from pipeline.baselines.coding import blocks, mixed
    from pipeline.baselines.lossless import Lossless
    from pipeline.baselines.yardsticks import bitmap_bytes, general, structureless_bytes
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    cells = X.coords, X.values, X.shape
    mixed.pack(X.coords[:2], X.values[:2], X.shape)  # compile
    mixture, encoding = timed(lambda: mixed.pack(*cells))
    found: dict[str, Any] = {"nnz": X.nnz}
    if mixture is not None:
        again, decoding = timed(lambda: mixed.unpack(mixture))
        if SparseTensor(*again) != X:
            raise RuntimeError(f"{path}: the code does not give back what was coded")
        found["mixed"] = len(mixture)
        found["mixed_encode_per_second"] = round(X.nnz / encoding)
        found["mixed_decode_per_second"] = round(X.nnz / decoding)
    if blocks.able(X.coords, X.shape):
        found |= in_blocks(X)
    size = Lossless().fit(X).size()
    found |= {"free": size["bytes"], "stored": size["bytes_with_order"]}
    found |= general(X) | bitmap_bytes(X)
    found |= {f"no structure, {orders}": structureless_bytes(X, orders == "stored") for orders in ("free", "stored")}
    return found


def in_blocks(X: Any) -> dict[str, Any]:
    """Bytes of the code that answers about single cells, and milliseconds of processor time to load it and a cell."""
    import numpy as np

    from pipeline.baselines.coding import blocks

    code = blocks.pack(X.coords, X.values, X.shape)
    best = np.full(2, np.inf)
    for place in np.linspace(0, X.nnz - 1, TRIES).astype(np.int64):
        times = [time.process_time()]
        reader = blocks.Reader(code)
        times.append(time.process_time())
        value = reader.look_up(X.coords[place : place + 1])
        times.append(time.process_time())
        if value[0] != X.values[place]:
            raise RuntimeError("the code in blocks does not give back what was coded")
        best = np.minimum(best, np.diff(times))
    load, cell = (1000 * best).round(1).tolist()
    return {"in blocks": len(code), "in blocks, load ms": load, "in blocks, cell ms": cell}


def table(stored: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    columns = ["nnz", "free", "stored", "mixed", "no structure, free", "no structure, stored"]
    columns += ["in blocks", "in blocks, load ms", "in blocks, cell ms"]
    columns += ["gzip", "xz", "zstd", "zpaq", "JBIG", "JBIG, sorted", "Parquet", "CSF"]
    columns += ["mixed_encode_per_second", "mixed_decode_per_second"]
    lines = ["| data set | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, row in sorted(stored.items()):
        absent = {True: "not installed", False: "-"}
        cells = [absent[key in row] if row.get(key) is None else f"{row[key]:,}" for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", "Speeds are non-zeros a second, one thread; encoding includes every sequence of modes tried."]


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    by_data_set(argv, "codes", "Exact codes, bytes", __doc__, measured, table)


if __name__ == "__main__":
    step.run(main)
