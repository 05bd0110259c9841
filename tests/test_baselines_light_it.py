"""Light-IT: CP whose factors share a Huffman-coded vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.baselines import light_it
from pipeline.baselines.light_it import LightIT
from pipeline.errors import InputError
from pipeline.runs.artifact import read_artifact
from pipeline.sparse import SparseTensor


def smooth(order: int) -> SparseTensor:
    """A tensor of rank 2 with signs, most cells zero."""
    random = np.random.default_rng(order)
    factors = [random.standard_normal((size, 2)) * (random.random((size, 1)) < 0.6) for size in (12, 10, 9)[:order]]
    return SparseTensor.from_dense(np.einsum("ir,jr->ij" if order == 2 else "ir,jr,kr->ijk", *factors))


@pytest.mark.parametrize("order", [2, 3])
def test_more_words_take_more_bytes_and_err_less_and_the_error_is_that_of_all_cells(order: int) -> None:
    X = smooth(order)
    cells, found = np.argwhere(np.ones(X.shape)), []
    for bits in (2, 4, 7):
        model = LightIT(rank=2, bits=bits).fit(X)
        brute = float(np.sum((X.to_dense().ravel() - model.predict(cells)) ** 2))
        assert model.error(X)["error"] == pytest.approx(brute, rel=1e-9)
        assert len(model.words_) <= 2**bits and 0.0 in model.words_
        assert all(np.isin(factor, model.words_).all() for factor in model.factors_)
        found.append((model.size()["bytes"], brute / X.norm2))
    assert found == sorted(found) and [one[1] for one in found] == sorted((one[1] for one in found), reverse=True)
    assert found[-1][1] < 0.01


def test_a_size_is_met_and_the_file_answers_alike(tmp_path: Path) -> None:
    X = smooth(3)
    model = LightIT(rank=2, max_bytes=90).fit(X)
    assert model.size()["bytes"] <= 90
    model.save(tmp_path / "m.safetensors")
    again = pipeline.load(tmp_path / "m.safetensors")
    assert np.array_equal(again.predict(X.coords), model.predict(X.coords)) and again.size() == model.size()


def test_lengths_are_huffmans() -> None:
    times = np.array([45, 13, 12, 0, 16, 9, 5])
    lengths = light_it.code_lengths(times)
    assert int(times @ lengths) == 224 and lengths[3] == 0  # Cormen, Leiserson and Rivest, 1990, figure 17.3
    assert light_it.code_lengths(np.array([0, 7])).tolist() == [0, 1]


def test_codes_give_numbers_back_and_damage_is_told() -> None:
    random = np.random.default_rng(0)
    factors = [random.geometric(0.4, (size, 3)) - 1 for size in (40, 7)]
    code, lengths = light_it.encode(factors, 30)
    again = light_it.decode(code, lengths, (40, 7), 3)
    assert all(np.array_equal(one, other) for one, other in zip(again, factors, strict=True))
    for damaged, others in ((code[:-3], lengths), (b"", lengths), (code, np.ones_like(lengths)), (code, 0 * lengths)):
        with pytest.raises(InputError, match="damaged"):
            light_it.decode(damaged, others, (40, 7), 3)


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    LightIT(rank=2, bits=3).fit(smooth(2)).save(tmp_path / "m.safetensors")
    tensors, metadata = read_artifact(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="lengths"):
        LightIT.from_artifact(tensors | {"lengths": tensors["lengths"][:-1]}, metadata)
    with pytest.raises(InputError, match="vocabulary"):
        LightIT.from_artifact(tensors | {"lengths": np.full_like(tensors["lengths"], 200)}, metadata)


@pytest.mark.parametrize("settings", [{"bits": 1}, {"bits": 3, "max_bytes": 90}, {"max_bytes": 0}])
def test_settings_that_contradict_or_are_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"bits|max_bytes"):
        LightIT(rank=2, **settings).fit(smooth(2))
