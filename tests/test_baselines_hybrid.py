"""A model and coded cells on top of it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.baselines.elicit import ELiCiT
from pipeline.baselines.hybrid import Hybrid
from pipeline.baselines.rate_distortion import RateDistortion
from pipeline.errors import InputError
from pipeline.runs.artifact import read_artifact
from pipeline.sparse import SparseTensor


def smooth_with_spikes(order: int = 2) -> SparseTensor:
    """Rank one with noise in all cells, and a few cells far from it."""
    random = np.random.default_rng(order)
    shape = (40, 60) if order == 2 else (12, 14, 16)
    parts = [random.uniform(1, 3, size) for size in shape]
    dense = np.einsum("i,j->ij", *parts) if order == 2 else np.einsum("i,j,k->ijk", *parts)
    spikes = random.uniform(size=shape) < 0.01
    return SparseTensor.from_dense(np.rint(dense + 60 * spikes))


@functools.cache
def fitted(order: int) -> Hybrid:
    """The best of three shares on that."""
    return Hybrid(max_bytes=250, rank=3).fit(smooth_with_spikes(order))


@pytest.mark.parametrize("order", [2, 3])
def test_the_error_is_that_of_all_cells_and_below_both_parts_alone(order: int) -> None:
    X = smooth_with_spikes(order)
    model = fitted(order)
    cells = np.argwhere(np.ones(X.shape))
    missed = float(np.sum((X.to_dense().ravel() - model.predict(cells)) ** 2))
    assert model.error(X)["error"] == pytest.approx(missed, rel=1e-8)
    assert model.size()["bytes"] <= 250
    assert missed < ELiCiT(rank=3, max_bytes=250).fit(X).error(X)["error"]
    assert missed < RateDistortion(max_bytes=250, orders=True).fit(X).error(X)["error"]


def test_the_best_of_three_shares_is_kept() -> None:
    model = fitted(2)
    shares = [row["share"] for row in model.history_[:3]]
    assert shares[:2] == [0.25, 0.5] and shares[2] in (0.125, 0.75)
    assert model.history_[-1]["error"] == min(row["error"] for row in model.history_ if row["code_bytes"] <= 250)
    alone = Hybrid(max_bytes=250, rank=3, share=0.5).fit(smooth_with_spikes())
    assert [row["share"] for row in alone.history_] == [0.5]


def test_an_artifact_answers_alike_with_orders_and_without(tmp_path: Path) -> None:
    model = fitted(3)
    cells = np.argwhere(np.ones(model.shape_))
    for orders in (True, False):
        model.save(tmp_path / "m.safetensors", orders=orders)
        again = pipeline.load(tmp_path / "m.safetensors")
        assert np.array_equal(again.predict(cells), model.predict(cells)) and again.size() == model.size()


def test_parts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    for order in (2, 3):
        Hybrid(max_bytes=250, rank=3, share=0.5).fit(smooth_with_spikes(order)).save(tmp_path / f"{order}.safetensors")
    tensors, metadata = read_artifact(tmp_path / "2.safetensors")
    others, _ = read_artifact(tmp_path / "3.safetensors")
    with pytest.raises(InputError, match="beside a model of shape"):
        Hybrid.from_artifact(tensors | {"code": others["code"]}, metadata)
