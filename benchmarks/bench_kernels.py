"""What own kernels are worth: vector kernels beside plain Numba and NumPy's BLAS. Writes kernels.json and kernels.md.

Products run on one thread and are timed by its processor time. Calls are taken in turn; the table has their medians.

    python -m benchmarks.bench_kernels --repeats 41
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before NumPy is imported

import numba
import numpy as np
import numpy.typing as npt

from benchmarks import about
from pipeline.core import step
from pipeline.kernels.vector import FLOAT, WIDTH, product

Matrix = npt.NDArray[np.float32]
PRODUCTS = [  # what it is, rows, inner size, columns
    ("LSTM step, h = 30, 2,048 nodes", 2048, 32, 128),
    ("LSTM step, h = 30, 64 nodes", 64, 32, 128),
    ("LSTM step, h = 10, 2,048 nodes", 2048, 16, 64),
    ("blocks of 8 x 8, 1,024 rows", 1024, 8, 32),
    ("blocks of 32 x 32, 1,024 rows", 1024, 32, 32),
]


@numba.njit(error_model="numpy")
def by_vectors(A: Matrix, Z: Matrix, C: Matrix) -> None:
    """C = A Z by the vector kernels, a panel of WIDTH columns at a time."""
    inner, columns = Z.shape
    for first in range(0, columns, WIDTH):
        start = FLOAT * first
        product(
            A.ctypes.data, inner, 1, Z.ctypes.data + start, columns, C.ctypes.data + start, columns, len(A), inner, 0
        )


@numba.njit(error_model="numpy", fastmath={"contract"})
def by_numba(A: Matrix, Z: Matrix, C: Matrix) -> None:
    """C = A Z as loops; LLVM makes vectors of the innermost."""
    for i in range(len(A)):
        C[i] = 0.0
        for k in range(len(Z)):
            factor = A[i, k]
            for j in range(C.shape[1]):
                C[i, j] += factor * Z[k, j]


def medians(calls: dict[str, Callable[[], object]], repeats: int, inner: int) -> dict[str, float]:
    """Median processor seconds of each call, of `inner` calls at once, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            started = time.thread_time()
            for _ in range(inner):
                call()
            if repeat:
                taken[name].append((time.thread_time() - started) / inner)
    return {name: statistics.median(own) for name, own in taken.items()}


def products(repeats: int) -> list[dict[str, Any]]:
    """Every product in three ways, whose results agree."""
    found = []
    for what, rows, inner, columns in PRODUCTS:
        rng = np.random.default_rng(0)
        A, Z = (rng.normal(size=size).astype(np.float32) for size in ((rows, inner), (inner, columns)))
        C, D, E = (np.empty((rows, columns), np.float32) for _ in range(3))
        calls: dict[str, Callable[[], object]] = {
            "vector kernels": lambda A=A, Z=Z, C=C: by_vectors(A, Z, C),
            "plain Numba": lambda A=A, Z=Z, D=D: by_numba(A, Z, D),
            "np.matmul": lambda A=A, Z=Z, E=E: np.matmul(A, Z, out=E),
        }
        work = 2 * rows * inner * columns
        seconds = medians(calls, repeats, max(1, 20_000_000 // work))
        np.testing.assert_allclose(C, E, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(D, E, rtol=1e-4, atol=1e-4)
        rates = {name: work / own / 1e9 for name, own in seconds.items()}
        found.append({"what": what, "size": f"({rows} x {inner}) ({inner} x {columns})", "gflops": rates})
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    how = results["about"]
    command = f"`python -m benchmarks.bench_kernels --repeats {how['repeats']}`"
    lines = ["# Own kernels", "", f"{command}: {about.told(how)} Medians of calls taken in turn."]
    lines += ["", "## Products of small matrices, one thread, GFLOP a second of its processor time", ""]
    names = list(results["products"][0]["gflops"])
    lines += ["| product | size | " + " | ".join(names) + " |", "|---|---|" + "--:|" * len(names)]
    for row in results["products"]:
        lines.append(
            f"| {row['what']} | {row['size']} | " + " | ".join(f"{row['gflops'][n]:.1f}" for n in names) + " |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Measure, write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=41, help="measurements of each product; default: %(default)s")
    options = arguments.parse_args(argv)
    how = about.circumstances(repeats=options.repeats)
    results = {"about": how, "products": products(options.repeats)}
    about.write("kernels", results, table)


if __name__ == "__main__":
    step.run(main)
