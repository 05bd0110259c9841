"""Step: a sparse tensor -> a file for another program."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.commands.written import ENDINGS, check_written, write_tensor
from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.sparse import SparseTensor


def main(argv: list[str] | None = None) -> None:
    """Export one tensor."""
    arguments = step.parser(
        "Write a Parquet sparse tensor as a table with labels, Matrix Market (matrices), FROSTT text or SciPy archive: "
        f"{', '.join(ENDINGS)}. Indices in .mtx and .tns are 1-based, as these formats want, in tables from 0.",
        "example: python -m pipeline.export data/tensors/flights.parquet flights.mtx.gz",
    )
    arguments.add_argument("tensor", type=Path, help="Parquet sparse tensor")
    arguments.add_argument("output", type=Path, help="file to write; its ending tells the format")
    options = arguments.parse_args(argv)
    check_written(options.output)
    refuse_clashes([options.tensor], [options.output])  # files of labels: write_parquet
    tensor = SparseTensor.read_parquet(options.tensor, labels=True)
    write_tensor(tensor, options.output)
    print(f"{tensor} -> {options.output}", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
