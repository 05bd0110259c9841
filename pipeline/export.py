"""Step: a sparse tensor -> a file for another program."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.sparse import SparseTensor
from pipeline.sparse.formats import WRITERS, write


def main(argv: list[str] | None = None) -> None:
    """Export one tensor."""
    arguments = step.parser(
        "Write a Parquet sparse tensor as Matrix Market (matrices), FROSTT text or SciPy archive: "
        f"{', '.join(WRITERS)}. Indices in text files are 1-based, as these formats want.",
        "example: python -m pipeline.export data/tensors/flights.parquet flights.mtx.gz",
    )
    arguments.add_argument("tensor", type=Path, help="Parquet sparse tensor")
    arguments.add_argument("output", type=Path, help="file to write; its ending tells the format")
    options = arguments.parse_args(argv)
    refuse_clashes([options.tensor], [options.output])
    tensor = SparseTensor.read_parquet(options.tensor)
    write(tensor, options.output)
    print(f"{tensor} -> {options.output}", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
