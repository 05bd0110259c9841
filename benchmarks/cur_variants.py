"""Which way of drawing columns and rows, and which U, gives the published errors of CUR?

The publication names CUR's source and its sample sizes, not the program. Every variant here is one that the
literature has: columns and rows drawn with and without replacement or simply the largest; with probability
proportional to the squared norm (Drineas, Kannan and Mahoney, 2006), to its square, or to the leverage on k
singular vectors (Mahoney and Drineas, 2009); U the best for the draw, the pseudo-inverse of the intersection, or
LinearTimeCUR's. Part ``cur-variants`` of :mod:`benchmarks.bench_baselines` runs it over seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CUT = 1e-10  # eigenvalues below this share of the largest count as zero
SAMPLING = [
    (name, how)
    for name in ("norm^2", "norm^4", "leverage 10", "leverage 100", "leverage 1000")
    for how in ("with", "without", "coin")
] + [("norm^2", "largest"), ("leverage 10", "largest"), ("leverage 100", "largest")]
MIDDLES = ("intersection", "LinearTimeCUR 10", "LinearTimeCUR 100", "LinearTimeCUR 1000")


class Matrix:
    """A sparse matrix with what the variants need of it: weights of rows and columns, singular vectors."""

    def __init__(self, X: Any) -> None:
        self.rows = X.to_scipy().tocsr()
        self.columns = self.rows.tocsc()
        self.norm2 = X.norm2
        squared = self.rows.multiply(self.rows)
        self.norms = [np.asarray(squared.sum(axis=1 - mode)).ravel() for mode in (0, 1)]
        self.counts = [np.bincount(X.coords[:, mode], minlength=X.shape[mode]) for mode in (0, 1)]
        values, left = np.linalg.eigh((self.rows @ self.rows.T).toarray())  # the shorter side of email: 1,005 rows
        self.left = left[:, values > CUT * values[-1]][:, ::-1]
        self.sigma = np.sqrt(values[values > CUT * values[-1]][::-1])

    def weights(self, name: str) -> list[np.ndarray]:
        """Probabilities of rows and of columns, not yet normalised."""
        kind, _, number = name.partition(" ")
        if kind == "leverage":
            left = self.left[:, : int(number)]
            right = (self.rows.T @ left) / self.sigma[: left.shape[1]]
            return [np.sum(left**2, axis=1), np.sum(right**2, axis=1)]
        power = {"norm^2": 1, "norm^4": 2}[kind]
        return [norms**power for norms in self.norms]


def draw(weights: np.ndarray, count: int, how: str, random: np.random.Generator) -> np.ndarray:
    """Indices drawn: with or without replacement, by independent coins of that expected number, or the largest."""
    share = weights / weights.sum()
    if how == "largest":
        return np.argsort(-share, kind="stable")[:count]
    if how == "coin":
        found = np.flatnonzero(random.uniform(size=len(share)) < np.minimum(1.0, count * share))
        return found if len(found) else np.array([np.argmax(share)])
    return random.choice(len(share), count, p=share, replace=how == "with")


def basis(matrix: Any) -> np.ndarray:
    """Orthonormal basis of a sparse matrix's columns."""
    tall = matrix.shape[0] > matrix.shape[1]
    values, vectors = np.linalg.eigh((matrix.T @ matrix if tall else matrix @ matrix.T).toarray())
    kept = values > CUT * values[-1]
    return matrix @ vectors[:, kept] / np.sqrt(values[kept]) if tall else vectors[:, kept]


def best_error(data: Matrix, rows: np.ndarray, columns: np.ndarray) -> float:
    """Error of the best U for these rows and columns."""
    left, right = basis(data.columns[:, columns].tocsr()), basis(data.rows[rows].T.tocsr())
    return data.norm2 - float(np.sum((left.T @ (data.rows @ right)) ** 2))


def middle_error(data: Matrix, rows: np.ndarray, columns: np.ndarray, name: str) -> float:
    """Error with U as it is computed from the intersection of C and R, both weighted as drawn (norm^2)."""
    scale = [np.sqrt(data.norm2 / (len(drawn) * data.norms[mode][drawn])) for mode, drawn in enumerate((rows, columns))]
    C, R = data.columns[:, columns] * scale[1], (data.rows[rows].T * scale[0]).T
    crossing = (C[rows].T * scale[0]).T.toarray()  # (r, c): rows of C, weighted
    kind, _, rank = name.partition(" ")
    gram = (C.T @ C).toarray()
    if kind == "intersection":
        U = np.linalg.pinv(crossing, rcond=1e-10)
    else:  # U = (C'C)_k^+ W', W the weighted rows of C
        values, vectors = np.linalg.eigh(gram)
        kept = np.flatnonzero(values > CUT * values[-1])[-int(rank) :]
        U = (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ crossing.T)
    cross = (C.T @ (data.rows @ R.T)).toarray()
    return data.norm2 - 2 * float(np.sum(U * cross)) + float(np.sum(U * (gram @ U @ (R @ R.T).toarray())))


def measure(X: Any, sizes: list[tuple[int, int]], seeds: int) -> list[dict[str, Any]]:
    """Mean error, its spread and the reals kept of every variant at every (rows, columns)."""
    data = Matrix(X)
    found = []
    for name, how in SAMPLING:
        weights = data.weights(name)
        for rows, columns in sizes:
            runs = []
            for seed in range(1 if how == "largest" else seeds):
                random = np.random.default_rng(seed)
                drawn = [draw(weights[mode], count, how, random) for mode, count in enumerate((rows, columns))]
                entries = sum(int(data.counts[mode][part].sum()) for mode, part in enumerate(drawn))
                runs.append((best_error(data, *map(np.unique, drawn)), entries, len(drawn[0]) * len(drawn[1])))
            found.append(summary({"draw": name, "replacement": how, "middle": "best"}, rows, columns, runs))
    for middle in MIDDLES:
        for rows, columns in sizes:
            runs = []
            for seed in range(min(seeds, 2)):  # (c, c) eigenvalues: the slowest part
                random = np.random.default_rng(seed)
                drawn = [draw(data.norms[mode], count, "with", random) for mode, count in enumerate((rows, columns))]
                entries = sum(int(data.counts[mode][part].sum()) for mode, part in enumerate(drawn))
                runs.append((middle_error(data, drawn[0], drawn[1], middle), entries, rows * columns))
            found.append(summary({"draw": "norm^2", "replacement": "with", "middle": middle}, rows, columns, runs))
    return found


def summary(variant: dict[str, str], rows: int, columns: int, runs: list[tuple[float, int, int]]) -> dict[str, Any]:
    """One line of the results: mean and standard deviation over seeds."""
    errors, entries, middle = (np.array(part, dtype=float) for part in zip(*runs, strict=True))
    return {
        **variant,
        "rows": rows,
        "columns": columns,
        "seeds": len(runs),
        "error": float(errors.mean()),
        "spread": float(errors.std(ddof=1)) if len(runs) > 1 else 0.0,
        "entries_of_c_and_r": float(entries.mean()),
        "entries_of_u": float(middle.mean()),
    }
