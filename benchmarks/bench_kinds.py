"""Exact codes on made data sets of unlike kinds, tuned on none. Writes kinds.json and kinds.md.

Every set is made from a seed: ratings, graphs, blocks, bands, words with counts, sensors, tensors of order 1 to 5,
reals with many or few values, equal rows and columns. Beside each stands the least that ``xz -9e`` and ``zstd --ultra
-22`` make of the sorted coordinates and the values: as they are, mode by mode, or as differences, by the first or by
the last mode; and what a model without structure says (``structureless_bytes``), a calculated length. Every artifact
is opened and compared with the tensor.

    python -m benchmarks.bench_kinds --seed 7
"""

from __future__ import annotations

import lzma
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks import about
from pipeline.core import step

if TYPE_CHECKING:
    from pipeline.sparse import SparseTensor

Cells = tuple[Any, Any, tuple[int, ...]]  # coordinates, values or one of all, shape
KINDS: dict[str, Callable[[np.random.Generator], Cells]] = {}
WHOLE = "<i4"


def kind(make: Callable[[np.random.Generator], Cells]) -> Callable[[np.random.Generator], Cells]:
    """Have a kind in the table, by the name of its function."""
    KINDS[make.__name__.replace("_", " ")] = make
    return make


def both_ways(edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each edge of an undirected graph in both triangles."""
    return np.concatenate([edges, edges[:, ::-1]])


def scattered(random: np.random.Generator, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Cells without structure."""
    return np.stack([random.integers(0, size, count) for size in shape], axis=1)


def lattice(side: int) -> npt.NDArray[np.int64]:
    """Edges of a square grid."""
    at = np.arange(side * side).reshape(side, side)
    across, down = (at[:, :-1], at[:, 1:]), (at[:-1], at[1:])
    return np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in (across, down)])


@kind
def ratings(random: np.random.Generator) -> Cells:
    users, items, count = 1500, 1200, 40_000
    active, known = (random.pareto(shape, size) + 0.05 for shape, size in ((1.2, users), (1.0, items)))
    cells = np.stack(
        [random.choice(size, count, p=w / w.sum()) for size, w in ((users, active), (items, known))], axis=1
    )
    taste, kinds = random.normal(size=(users, 3)), random.normal(size=(items, 3))
    liked = 3.6 + 0.7 * np.sum(taste[cells[:, 0]] * kinds[cells[:, 1]], axis=1) + 0.5 * random.normal(size=count)
    return cells, np.clip(np.rint(liked), 1, 5), (users, items)


@kind
def half_stars(random: np.random.Generator) -> Cells:
    cells = np.stack([random.integers(0, 2000, 20_000), np.minimum(random.geometric(0.01, 20_000), 999)], axis=1)
    return cells, np.clip(np.rint(2 * (3.2 + random.normal(size=len(cells)))), 1, 10) / 2, (2000, 1000)


@kind
def grid_graph(random: np.random.Generator) -> Cells:
    return both_ways(lattice(110)), 1.0, (12_100, 12_100)


@kind
def grid_graph_vertices_shuffled(random: np.random.Generator) -> Cells:
    return both_ways(random.permutation(12_100)[lattice(110)]), 1.0, (12_100, 12_100)


@kind
def small_world_graph(random: np.random.Generator) -> Cells:
    size = 6000
    edges = np.concatenate([np.stack([np.arange(size), (np.arange(size) + hop) % size], axis=1) for hop in (1, 2, 3)])
    moved = random.random(len(edges)) < 0.1
    edges[moved, 1] = random.integers(0, size, np.count_nonzero(moved))
    return both_ways(edges[edges[:, 0] != edges[:, 1]]), 1.0, (size, size)


def attached(random: np.random.Generator, size: int) -> npt.NDArray[np.int64]:
    """Edges of a graph whose vertices come one by one and choose three ends of edges."""
    ends, edges = [0, 1], []
    for vertex in range(2, size):
        for other in sorted({ends[random.integers(len(ends))] for _ in range(3)}):
            edges.append((vertex, other))
            ends += [vertex, other]
    return np.array(edges)


@kind
def preferential_attachment(random: np.random.Generator) -> Cells:
    return both_ways(attached(random, 8000)), 1.0, (8000, 8000)


@kind
def preferential_attachment_directed(random: np.random.Generator) -> Cells:
    return attached(random, 8000), 1.0, (8000, 8000)


@kind
def bipartite_block_model(random: np.random.Generator) -> Cells:
    rows, columns = random.integers(0, 6, 1500), random.integers(0, 6, 2500)
    chances = random.random((6, 6)) ** 4 * 0.06
    return np.argwhere(random.random((1500, 2500)) < chances[rows][:, columns]), 1.0, (1500, 2500)


@kind
def words_with_counts(random: np.random.Generator) -> Cells:
    topics = random.dirichlet(np.full(4000, 0.02), 20)
    counts = np.stack(
        [
            random.multinomial(int(random.lognormal(4.2, 0.6)), random.dirichlet(np.full(20, 0.1)) @ topics)
            for _ in range(600)
        ]
    )
    return np.argwhere(counts), counts[counts > 0], (600, 4000)


@kind
def words_weighted(random: np.random.Generator) -> Cells:
    cells, counts, shape = words_with_counts(random)
    rare = np.log(shape[0] / (1 + np.bincount(cells[:, 1], minlength=shape[1])))
    return cells, np.log1p(counts) * rare[cells[:, 1]] + 0.01, shape


@kind
def band(random: np.random.Generator) -> Cells:
    size = 6000
    diagonals = [
        np.stack([np.arange(max(0, -by), min(size, size - by)), np.arange(max(0, by), min(size, size + by))], axis=1)
        for by in (-40, -1, 0, 1, 2)
    ]
    return np.concatenate(diagonals), 1.0, (size, size)


@kind
def stride(random: np.random.Generator) -> Cells:
    at = np.arange(20_000)
    return np.stack([at, 7 * at % 20_011], axis=1), 1.0, (20_000, 20_011)


@kind
def blocks_on_the_diagonal(random: np.random.Generator) -> Cells:
    blocks = [np.argwhere(random.random((12, 15)) < 0.6) + b * np.array([12, 15]) for b in range(250)]
    return np.concatenate(blocks), 1.0, (3000, 3750)


@kind
def full_blocks_of_counts(random: np.random.Generator) -> Cells:
    cells = np.concatenate([np.argwhere(np.ones((8, 8))) + 8 * b for b in range(500)])
    return cells, np.rint(3 * random.normal(size=len(cells))) + 20, (4000, 4000)


@kind
def one_full_row(random: np.random.Generator) -> Cells:
    full = np.stack([np.full(9000, 7), np.arange(9000)], axis=1)
    return np.concatenate([full, scattered(random, 6000, (500, 9000))]), 1.0, (500, 9000)


@kind
def equal_rows_and_columns(random: np.random.Generator) -> Cells:
    few = random.random((60, 80)) < 0.12
    return np.argwhere(few[random.integers(0, 60, 1200)][:, random.integers(0, 80, 700)]), 1.0, (1200, 700)


@kind
def full_matrix(random: np.random.Generator) -> Cells:
    return np.argwhere(np.ones((150, 150))), random.integers(1, 9, 22_500), (150, 150)


@kind
def readings_that_change_slowly(random: np.random.Generator) -> Cells:
    cells = np.argwhere(random.random((400, 40)) < 0.7)
    walk = 1000 + np.cumsum(8 * random.normal(size=(400, 40)), axis=0)
    return cells, np.rint(walk[tuple(cells.T)]), (400, 40)


@kind
def picture(random: np.random.Generator) -> Cells:
    at = np.argwhere(np.ones((60, 60, 4)))
    light = 120 + 80 * np.sin(at[:, 0] / 9) * np.cos(at[:, 1] / 7) + 10 * at[:, 2] + random.normal(0, 2, len(at))
    return at, np.rint(light), (60, 60, 4)


@kind
def events_by_time_and_sensor(random: np.random.Generator) -> Cells:
    rate = 0.02 * random.random((60, 25)) ** 6 * (1 + np.sin(np.arange(2000) / 50))[:, None, None]
    cells = np.argwhere(random.random((2000, 60, 25)) < rate)
    return cells, 1 + random.poisson(0.5, len(cells)), (2000, 60, 25)


@kind
def order_1(random: np.random.Generator) -> Cells:
    at = random.choice(10**6, 20_000, replace=False)[:, None]
    return at, random.integers(1, 6, 20_000) * 0.5, (10**6,)


@kind
def order_4_of_powers(random: np.random.Generator) -> Cells:
    shape = (300, 400, 50, 20)
    return np.stack([random.zipf(1.5, 30_000) % size for size in shape], axis=1), 1.0, shape


@kind
def order_5_at_random(random: np.random.Generator) -> Cells:
    shape = (30, 40, 50, 20, 10)
    return scattered(random, 20_000, shape), random.integers(1, 4, 20_000), shape


@kind
def reals_all_different(random: np.random.Generator) -> Cells:
    return scattered(random, 15_000, (800, 900)), random.normal(size=15_000), (800, 900)


@kind
def reals_of_32_bits(random: np.random.Generator) -> Cells:
    return scattered(random, 15_000, (800, 900)), random.normal(size=15_000).astype(np.float32), (800, 900)


@kind
def four_reals(random: np.random.Generator) -> Cells:
    return scattered(random, 15_000, (800, 900)), random.choice([0.1, 0.25, -1.7, 3.3], 15_000), (800, 900)


@kind
def prices_in_cents(random: np.random.Generator) -> Cells:
    return scattered(random, 15_000, (800, 900)), np.round(random.lognormal(2, 1, 15_000), 2) + 0.01, (800, 900)


@kind
def signed_odd_numbers(random: np.random.Generator) -> Cells:
    return scattered(random, 15_000, (800, 900)), 2 * np.rint(random.normal(0, 20, 15_000)) + 1, (800, 900)


def made(name: str, seed: int) -> SparseTensor:
    """The tensor of a kind; of a cell made twice the first value stays."""
    from pipeline.sparse import SparseTensor

    coords, values, shape = KINDS[name](np.random.default_rng(seed))
    cells, first = np.unique(np.asarray(coords, dtype=np.int64), axis=0, return_index=True)
    return SparseTensor(cells, np.broadcast_to(np.asarray(values, dtype=float), len(coords))[first].copy(), shape)


def listings(X: SparseTensor) -> Iterable[bytes]:
    """The sorted cells as bytes for a general compressor, in several ways."""
    same = len(np.unique(X.values)) == 1
    for by in (X.coords.T[::-1], X.coords.T):
        order = np.lexsort(by)
        coords, values = X.coords[order], X.values[order]
        tail = b"" if same else (values.astype(WHOLE) if np.all(values == np.rint(values)) else values).tobytes()
        steps = np.diff(coords, axis=0, prepend=0)
        for columns in (coords, coords.T, steps.T):
            yield np.ascontiguousarray(columns).astype(WHOLE).tobytes() + tail


def measured(name: str, seed: int) -> dict[str, Any]:
    """Figures of a kind; speeds in non-zeros a second of processor time, one thread."""
    import pipeline
    from pipeline.baselines.lossless import Lossless
    from pipeline.baselines.yardsticks import by_program, structureless_bytes
    from pipeline.sparse import SparseTensor

    X = made(name, seed)
    started = time.process_time()
    size = (model := Lossless().fit(X)).size()
    fitted = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exact.safetensors"
        model.save(path)
        opened = time.process_time()
        again = pipeline.load(path)
        coords, values = again.held_cells()
        done = time.process_time()
    if SparseTensor(coords, values, X.shape) != X:
        raise RuntimeError(f"{name}: the artifact does not give back what was coded")
    raw = list(listings(X))
    zstd = [packed for content in raw if (packed := by_program("zstd", content)) is not None]
    return {
        "nnz": X.nnz,
        "free": size["bytes"],
        "stored": size["bytes_with_order"],
        "xz": min(len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)) for content in raw),
        "zstd": min(zstd, default=None),
        "no structure, free": structureless_bytes(X, False),
        "no structure, stored": structureless_bytes(X, True),
        "encoded a second": round(X.nnz / (fitted - started)),
        "opened a second": round(X.nnz / max(done - opened, 1e-3)),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    how, rows = results["about"], results["rows"]
    columns = list(next(iter(rows.values())))
    lines = ["# Exact codes on unlike data, bytes", ""]
    lines += [f"`python -m benchmarks.bench_kinds --seed {how['seed']}`: {about.told(how)}", ""]
    lines += ["| made | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, row in rows.items():
        cells = ["not installed" if row[key] is None else f"{row[key]:,}" for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Speeds are non-zeros a second of processor time; encoding tries every code.", ""]
    for ours, other in (("stored", "xz"), ("stored", "zstd"), ("stored", "no structure, stored"), ("free", "stored")):
        more = [(name, row[ours], row[other]) for name, row in rows.items() if row[other] and row[ours] > row[other]]
        told = "; ".join(f"{name} {us:,} against {them:,}" for name, us, them in more) or "on none"
        lines.append(f"- {ours} longer than {other}: {told}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Measure, write both files and print the table."""
    parser = step.parser(__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the data sets; default: %(default)s")
    options = parser.parse_args(argv)
    step.limit_threads(1)
    measured("band", options.seed)  # compiles
    rows = {name: measured(name, options.seed) for name in KINDS}
    about.write("kinds", {"about": about.circumstances(seed=options.seed), "rows": rows}, table)


if __name__ == "__main__":
    step.run(main)
