"""Step: an artifact and its tensor -> what the artifact keeps: errors by the size of a value, singular values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import refuse_clashes, sha256_file, write_json
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def main(argv: list[str] | None = None) -> None:
    """Evaluate one artifact, print its errors by value, write both as JSON."""
    arguments = step.parser(
        "Tell where an artifact's error lies, by the size of a value, and how much of a matrix's leading singular "
        "values it keeps.",
        "example: python -m pipeline.evaluate data/tensors/flights.parquet "
        "results/runs/flights/neukron/h4-s0/model.safetensors evaluation.json",
    )
    arguments.add_argument("tensor", type=Path, help="the Parquet sparse tensor that it was fitted to")
    arguments.add_argument("model", type=Path, help="the artifact")
    arguments.add_argument("output", type=Path, help="JSON to write")
    arguments.add_argument("--threads", action=step.WholeNumber, least=1, default=1, help="threads to use (default: 1)")
    options = arguments.parse_args(argv)
    refuse_clashes([options.tensor, options.model], [options.output])
    step.limit_threads(options.threads)

    from pipeline.commands.loaded import load_compressor
    from pipeline.reporting.evaluation import evaluate

    model = load_compressor(options.model)
    if not model.own_indices_:
        raise InputError(f"{options.model}: holds no orders, so its cells are not those of {options.tensor}")
    X = SparseTensor.read_parquet(options.tensor)
    content = evaluate(model, X)
    digests = {"data_sha256": sha256_file(options.tensor), "model_sha256": sha256_file(options.model)}
    write_json(options.output, digests | content)
    print(table(content["values"], X.norm2))


def table(bins: Sequence[dict[str, float]], norm2: float) -> str:
    """Errors by value as lines of text: what a bin holds of the squared norm and of the error, and the error in it."""
    whole = sum(one["error"] for one in bins)
    lines = [f"{'size of a value':>24} {'cells':>16} {'of norm':>8} {'of error':>8} {'error within':>12}"]
    for one in bins:
        name = f"{one['low']:g} to below {one['high']:g}" if one["high"] else "0"
        share = one["error"] / whole if whole else 0.0
        within = f"{one['error'] / one['norm2']:12.4f}" if one["norm2"] else f"{'':12}"
        lines.append(f"{name:>24} {one['cells']:16,} {one['norm2'] / norm2:8.2%} {share:8.2%} {within}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    step.run(main)
