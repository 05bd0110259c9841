"""NeuKron at a few hundred bytes, everything stored, beside the best known. Writes neukron-small.json and -.md.

`--tensors` is a folder of Parquet tensors. To tell the orders of all modes takes log2 N! bits; here they are cheap:
the tensor's own, indices in bins by the logarithm of their number of non-zeros, or the first levels of a bisection,
indices of a bin in their own order. The order search is off. Weights are rounded to int4 or int8 in training (each
step moves reals of which the model sees the rounded ones), with a float16 scale a matrix, and entropy-coded. Bytes are
those of the weights' code, its table and scales, and of the orders, as entropies of the bins; no header. Ensembles are
means of models from other seeds, where all cells can be looked at. Rivals take as many bytes of code. For every budget
the least error of all settings within it. Data sets that are not run keep their rows.

    python -m benchmarks.neukron_small --tensors data/tensors --datasets flights email
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.about import by_data_set
from pipeline.core import step
from pipeline.neukron import NeuKron
from pipeline.neukron.adam import Adam
from pipeline.neukron.dispatch import make_engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel
from pipeline.neukron.order_search import initial_orders
from pipeline.neukron.trainer import Options, Trainer, TrainingState
from pipeline.runs.entropy_coder import encode_stack
from pipeline.sparse import SparseTensor

BUDGETS = (200, 500, 1_000, 2_000, 4_000)
HIDDEN = (2, 4, 8, 12, 20)
BITS = (4, 8)
EPOCHS = 60  # few: longer ones gain some hundredths of the error
ORDERS = ("as given", "bins of the smaller mode", "bins", "bisection, 1 level", "bisection, 3 levels")
DENSE = 1 << 20  # cells at most, of which ensembles are measured
ENSEMBLE = (2, 4)  # hidden sizes of which there is one
RIVALS: dict[str, dict[str, Any]] = {"rate-distortion": {"orders": True}, "elicit": {"rank": 32}}
LOG_SCALE = 8  # bytes
COMPRESSED = 2  # times shorter than as they are, the code of weights is at best

Order = npt.NDArray[np.int64]


class _Rounding(Adam):
    """Moves reals of which the model sees the rounded ones (straight-through)."""

    def __init__(self, parameters: Any, lr: float, bits: int) -> None:
        super().__init__(parameters, lr)
        self._bits = bits
        self._reals: list[torch.Tensor] = []

    @torch.no_grad()
    def step(self) -> None:
        """A step of the reals."""
        parameters = [parameter for parameter in self.param_groups[0]["params"] if parameter.ndim]
        for parameter, real in zip(parameters, self._reals, strict=False):
            parameter.copy_(real)
        super().step()
        self._reals = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            steps, scale = rounded(parameter, self._bits)
            parameter.copy_(steps * scale)


class _Held(Trainer):
    """Training with held orders and rounded weights."""

    bits: int

    def reorder(self, state: TrainingState, modes: Any) -> None:
        """Orders are told; to change them is not."""

    def _optimiser(self, model: SequenceModel) -> Adam:
        return _Rounding(model.parameters(), super()._optimiser(model).param_groups[0]["lr"], self.bits)


def rounded(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    """Whole steps either side of zero, and a step's size, a float16."""
    most = 2 ** (bits - 1) - 1
    scale = float(np.float16(max(float(weights.abs().max()) / most, 1e-6)))
    return torch.clamp(torch.round(weights / scale), -most, most), scale


def weight_bytes(weights: dict[str, torch.Tensor], bits: int) -> int:
    """The code of all steps by their frequencies and these, or the steps as they are, and the scales."""
    most = 2 ** (bits - 1) - 1
    parts = [rounded(part, bits)[0].numpy().ravel() for part in weights.values() if part.ndim]
    symbols = np.concatenate(parts).astype(np.int64) + most
    counts = np.bincount(symbols, minlength=2 * most + 1)
    frequencies = np.maximum(counts * (255 / counts.max()), counts > 0).astype(np.uint8)
    coded = int(encode_stack(symbols, frequencies).nbytes) + len(frequencies)
    return min(coded, (len(symbols) * bits + 7) // 8) + 2 * len(parts) + LOG_SCALE


def told_orders(kind: str, levels: Levels, coords: Order, values: npt.NDArray[np.float64]) -> tuple[list[Order], int]:
    """Positions of every mode's indices, and the bytes that tell them."""
    full = initial_orders("bisection", levels, coords, values, np.random.default_rng(0)) if "bis" in kind else []
    orders, bits = [], 0.0
    for mode, (size, depth) in enumerate(zip(levels.shape, levels.bits, strict=True)):
        bins = np.zeros(size, dtype=np.int64)
        if full:
            bins = full[mode][:size] * 2 ** int(kind.split()[1]) // size
        elif kind == "bins" or (kind.startswith("bins") and mode == 0):
            bins = -np.log2(np.bincount(coords[:, mode], minlength=size) + 1).astype(np.int64)
        position = np.arange(2**depth)
        position[np.argsort(bins, kind="stable")] = np.arange(size)
        shares = np.unique(bins, return_counts=True)[1] / size
        bits += size * float(-np.sum(shares * np.log2(shares))) + (16 * len(shares) if len(shares) > 1 else 0)
        orders.append(position)
    return orders, int(np.ceil(bits / 8))


def fitted(X: SparseTensor, orders: list[Order], hidden: int, bits: int, seed: int = 0) -> tuple[NeuKron, int]:
    """A model on held orders, and the bytes of its weights."""
    modes = sorted(range(X.order), key=lambda mode: X.shape[mode])
    levels = Levels(tuple(X.shape[mode] for mode in modes))
    trainer = _Held(
        levels,
        make_engine(levels, hidden, "cpu", 1),
        np.ascontiguousarray(X.coords[:, modes]),
        X.values,
        Options("fast", 10.0, None, EPOCHS, None, EPOCHS, seed),
    )
    trainer.bits = bits
    state = trainer.start(SequenceModel(levels, hidden, seed), [order.copy() for order in orders])
    trainer.run(state, lambda _: None)
    state.model.load_state_dict(state.best_weights)
    arrays = {name: part.detach().numpy() for name, part in state.model.state_dict().items()}
    model = NeuKron.from_parts(levels, hidden, tuple(state.model.head_alphabets), arrays, orders, X)
    return model, weight_bytes(state.best_weights, bits)


def measured(path: Path) -> dict[str, Any]:
    """Every NeuKron of a data set, and its rivals at the budgets."""
    from pipeline.baselines import make

    X = SparseTensor.read_parquet(path)
    modes = sorted(range(X.order), key=lambda mode: X.shape[mode])
    levels = Levels(tuple(X.shape[mode] for mode in modes))
    rows = []
    for kind in ORDERS:
        orders, told = told_orders(kind, levels, X.coords[:, modes], X.values)
        if told >= max(BUDGETS):
            print(f"{path.stem}, {kind}: {told:,} bytes of orders, beyond every budget", flush=True)
            continue
        for hidden, bits in itertools.product(HIDDEN, BITS):
            least = (
                sum(part.numel() for part in SequenceModel(levels, hidden, 0).parameters()) * bits // (8 * COMPRESSED)
            )
            if least + told > max(BUDGETS):
                continue
            model, weights = fitted(X, orders, hidden, bits)
            if weights + told > max(BUDGETS):
                continue
            error = model.error(X)["error"] / X.norm2
            row = {"orders": kind, "hidden": hidden, "bits": bits, "models": 1, "bytes": weights + told, "error": error}
            rows.append(row)
            print(path.stem, row, flush=True)
            if hidden in ENSEMBLE and bits == min(BITS) and np.prod(X.shape) <= DENSE:
                other, more = fitted(X, orders, hidden, bits, seed=1)
                both = np.mean([one.predict(every_cell(X.shape)) for one in (model, other)], axis=0)
                error = float(np.sum((X.to_dense().ravel() - both) ** 2)) / X.norm2
                rows.append(row | {"models": 2, "bytes": weights + more + told, "error": error})
    rivals = []
    for budget, (name, settings) in itertools.product(BUDGETS, RIVALS.items()):
        rival = make(name, settings | {"max_bytes": budget}).fit(X)
        if (size := rival.size()["bytes_with_order"]) <= budget:
            rivals.append({"method": name, "bytes": size, "error": rival.error(X)["error"] / X.norm2})
    return {"rows": rows, "rivals": rivals}


def every_cell(shape: tuple[int, ...]) -> Order:
    """Indices of all cells, the last mode fastest."""
    return np.stack([axis.ravel() for axis in np.indices(shape)], axis=1)


def table(stored: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    lines = ["| data set | budget | NeuKron | bytes | relative error | best rival | bytes | relative error |"]
    lines += ["|---|--:|---|--:|--:|---|--:|--:|"]
    ahead = count = 0
    for name, found in sorted(stored.items()):
        for budget in BUDGETS:
            own, rival = (
                min((one for one in found[key] if one["bytes"] <= budget), key=lambda one: one["error"], default=None)
                for key in ("rows", "rivals")
            )
            if own is None or rival is None:
                continue
            count += 1
            ahead += own["error"] < rival["error"]
            how = f"h = {own['hidden']}, int{own['bits']}, orders: {own['orders']}"
            how += f", mean of {own['models']}" if own["models"] > 1 else ""
            lines.append(
                f"| {name} | {budget:,} | {how} | {own['bytes']:,} | {own['error']:.4f} | {rival['method']} | "
                f"{rival['bytes']:,} | {rival['error']:.4f} |"
            )
    return [*lines, "", f"NeuKron is ahead in {ahead} of {count} rows; {EPOCHS} epochs a fit."]


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    by_data_set(argv, "neukron-small", "NeuKron at a few hundred bytes, everything stored", __doc__, measured, table)


if __name__ == "__main__":
    step.run(main)
