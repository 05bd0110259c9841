"""Step: a sparse tensor -> a uniform sample of its non-zeros."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.core.settings import SEEDS
from pipeline.datasets import check_ending
from pipeline.sparse.sample import sample_file
from pipeline.sparse.stream import TensorReader


def main(argv: list[str] | None = None) -> None:
    """Sample the non-zeros of one tensor."""
    arguments = step.parser(
        "Draw a uniform sample of the non-zeros without replacement: exactly the given fraction of them, rounded. "
        "The shape stays. The same seed gives the same sample, and a smaller fraction is part of a larger one.",
        "example: python -m pipeline.sample data/tensors/flights.parquet data/samples/flights/f0.25-s0.parquet "
        "--fraction 0.25 --seed 0",
    )
    arguments.add_argument("tensor", type=Path, help="Parquet sparse tensor to sample from")
    arguments.add_argument("output", type=Path, help="Parquet sparse tensor to write")
    arguments.add_argument("--fraction", type=float, required=True, help="above 0, at most 1")
    arguments.add_argument("--seed", action=step.WholeNumber, least=0, below=SEEDS, default=0, help="default: 0")
    arguments.add_argument("--no-labels", action="store_true", help="write no labels of the modes beside the sample")
    options = arguments.parse_args(argv)
    refuse_clashes([options.tensor], [options.output])
    check_ending(options.output, ".parquet")
    labels = {} if options.no_labels else TensorReader(options.tensor).labels()
    count = sample_file(options.tensor, options.output, options.fraction, options.seed, labels)
    print(f"{count:,} non-zeros -> {options.output}", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
