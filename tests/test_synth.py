"""Synthetic tensors: the distribution, determinism, recipes, and the source of a registry entry."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import read_raw
from pipeline.datasets.assemble import assemble
from pipeline.datasets.fetch import fetch
from pipeline.errors import InputError
from pipeline.sparse import synth
from pipeline.sparse.synth import Recipe, draw, synthetic


def test_corner_probabilities() -> None:
    tensor = synthetic((2, 2), entries=100_000, skew=0.7, seed=1)
    share = tensor.to_dense() / 100_000
    assert np.allclose(share, [[0.7, 0.1], [0.1, 0.1]], atol=0.006)  # 4 standard errors


def test_levels_are_independent() -> None:
    share = synthetic((4, 4), entries=200_000, skew=0.6, seed=2).to_dense() / 200_000
    corner = np.array([[0.6, 0.4 / 3], [0.4 / 3, 0.4 / 3]])
    assert np.allclose(share, np.kron(corner, corner), atol=0.005)


def test_uniform_without_skew() -> None:
    share = synthetic((2, 2, 2), entries=80_000, skew=1 / 8).to_dense() / 80_000
    assert np.allclose(share, 1 / 8, atol=0.005)


def test_all_in_one_cell() -> None:
    tensor = synthetic((5, 3), entries=10, skew=1)
    assert (tensor.coords.tolist(), tensor.values.tolist()) == ([[0, 0]], [10])


def test_unequal_sizes_and_exact_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "BLOCK", 64)
    tensor = synthetic((3, 17, 5, 2), entries=1000, skew=0.3, seed=3)
    assert tensor.shape == (3, 17, 5, 2)
    assert tensor.values.sum() == 1000
    assert tensor.coords.max(axis=0).tolist() == [2, 16, 4, 1]


def test_known_draws() -> None:
    """The raw PCG64 stream is the same in every NumPy version, and so are the draws."""
    coords = np.concatenate(list(draw(Recipe((8, 4), 5, 0.5))))
    assert coords.tolist() == [[7, 1], [2, 0], [1, 1], [2, 0], [3, 3]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sizes=4x4,entries=9", "skew missing"),
        ("sizes=4x4,entries=9,skew=0.5,sed=1", "unknown part 'sed'; did you mean 'seed'?"),
        ("sizes=4x?,entries=9,skew=0.5", "'4x?' is no value of sizes"),
        ("sizes=4x1,entries=9,skew=0.5", "each at least 2"),
        ("sizes=4x4,entries=0,skew=0.5", "entries 0"),
        ("sizes=4x4,entries=9,skew=1.5", "skew 1.5: a probability"),
        ("sizes=4294967296x4294967296,entries=9,skew=0.5", "fewer than 2"),
    ],
)
def test_bad_recipes(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.parse(text)
    assert problem in str(caught.value)


def test_source_of_an_entry(tmp_path: Path) -> None:
    source = "synth:sizes=4x8,entries=300,skew=0.6,seed=4"
    target = tmp_path / "draws.tns"
    fetch(target, [source], None, tmp_path)
    assert len(target.read_text().splitlines()) == 300
    raw = read_raw("tns", {target.name: target}, {"shape": [4, 8]})
    assert assemble(raw, {}).tensor == synthetic((4, 8), 300, 0.6, 4)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.unlink()
    with pytest.raises(InputError, match=f"sha256 {digest} where {'0' * 64} is expected"):
        fetch(target, [source], "0" * 64, tmp_path)
    assert list(tmp_path.iterdir()) == []
