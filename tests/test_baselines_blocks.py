"""The code in blocks: every decoder step against the encoder's, one block alone, sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.baselines.coding import block_loops, blocks, exact
from pipeline.baselines.lossless import Lossless
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole
from tests.test_baselines_exact import KINDS
from tests.test_baselines_unlabelled import skewed


def communities(seed: int, kind: str = "ones", columns: int = 6000) -> SparseTensor:
    """A matrix of 400 rows whose columns take three rows each, mostly of one of eight groups."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 8, columns)
    rows = 50 * np.where(random.random((columns, 3)) < 0.9, group[:, None], random.integers(0, 8, (columns, 3)))
    rows += (50 * random.random((columns, 3)) ** 2).astype(np.int64)
    coords = np.unique(np.stack((rows.ravel(), np.repeat(np.arange(columns), 3)), axis=1), axis=0)
    coords[:, 0] = random.permutation(400)[coords[:, 0]]
    return SparseTensor(coords, random.choice(KINDS[kind], len(coords)), (400, columns))


def packed(X: SparseTensor) -> bytes:
    return blocks.pack(X.coords, X.values, X.shape)


@pytest.fixture(scope="module")
def whole() -> tuple[SparseTensor, bytes]:
    X = communities(0, "whole")
    return X, packed(X)


@given(st.integers(0, 99), st.sampled_from(list(KINDS)), st.sampled_from([2, 16, 4096]))
@settings(deadline=None, max_examples=25)
def test_a_code_gives_back_what_was_coded(seed: int, kind: str, cells: int) -> None:
    X = skewed(seed, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CELLS", cells)
        code = packed(X)
    assert SparseTensor(*exact.decode(code)) == X
    everything = np.indices(X.shape).reshape(2, -1).T
    assert np.array_equal(blocks.Reader(code).look_up(everything), X.to_dense().reshape(-1))


def test_more_kinds_of_values_than_are_listed_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_LISTED", 1)
    X = skewed(2, "real")
    assert SparseTensor(*blocks.unpack(packed(X))) == X


@pytest.mark.parametrize("cells", [1, 2, 5, block_loops.NEAR, block_loops.NEAR + 1, 5000, 1 << 20])
def test_every_split_of_a_row_is_told(cells: int) -> None:
    left = np.unique(np.linspace(0, cells, 40).astype(np.int64))
    counts, bits = np.full(len(left), cells), np.zeros(len(left), dtype=np.uint8)
    even = block_loops.even_splits()
    coder = blocks.coder_of(None, 4 * len(left))
    block_loops.begin(coder, 0)
    block_loops.split(coder, even, block_loops.first_steps(even), counts, bits, left.copy())
    again = np.zeros_like(left)
    coder = blocks.coder_of(np.frombuffer(blocks.finished(coder), dtype=np.uint8))
    block_loops.begin(coder, 0)
    block_loops.split(coder, even, block_loops.first_steps(even), counts, bits, again)
    assert np.array_equal(again, left)


def test_a_cell_is_answered_though_other_blocks_are_lost(whole: tuple[SparseTensor, bytes]) -> None:
    X, code = whole
    first = np.array([[row, column] for row in range(400) for column in range(5)])
    lost = blocks.Reader(code[:-1500] + bytes(1500))
    assert np.array_equal(lost.look_up(first), X.to_dense()[:, :5].reshape(-1))
    last = np.array([[row, X.shape[1] - 1] for row in range(400)])
    try:
        assert not np.array_equal(lost.look_up(last), X.to_dense()[:, -1])
    except InputError as error:
        assert "damaged" in str(error)


def test_groups_of_rows_that_meet_save_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    X = communities(1)
    mine = len(packed(X))
    monkeypatch.setattr(blocks, "GROUPS", (0,))
    assert mine < 0.93 * len(packed(X))


def test_a_model_in_blocks_answers_from_its_file(whole: tuple[SparseTensor, bytes], tmp_path: Path) -> None:
    X, code = whole
    model = Lossless(blocks=True).fit(X)
    assert model.size()["bytes_with_order"] == model.size()["bytes"] == len(code)
    model.save(tmp_path / "model.safetensors")
    loaded = pipeline.load(tmp_path / "model.safetensors")
    coords, values = loaded.largest(10, {1: 77})
    mine = X.coords[:, 1] == 77
    assert np.array_equal(np.sort(coords[:, 0]), np.sort(X.coords[mine, 0]))
    assert np.array_equal(np.sort(values), np.sort(X.values[mine]))
    assert np.array_equal(loaded.predict(X.coords[:4]), X.values[:4])
    assert loaded.error(X) == {"error": 0.0}


def test_plain_python_writes_the_same_code() -> None:
    program = (
        "from pipeline.baselines.coding import blocks; from tests.test_baselines_unlabelled import skewed; "
        "X = skewed(7, 'whole'); blocks.CELLS = 16; code = blocks.pack(X.coords, X.values, X.shape); "
        "print(code.hex()); assert (blocks.unpack(code)[0] == X.coords).all()"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONHASHSEED": "3"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    X = skewed(7, "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CELLS", 16)
        assert told.stdout.strip() == packed(X).hex()


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_a_damaged_code_is_refused(noise: bytes, place: int) -> None:
    code = packed(skewed(3, "whole"))
    for damaged in (code[: 1 + place] + noise + code[1 + place + len(noise) :], code[: 6 + place]):
        refused_or_whole(blocks.unpack, damaged)


def test_tensors_of_three_modes_are_refused() -> None:
    X = SparseTensor([[0, 0, 0], [1, 1, 1]], [1.0, 2.0], (2, 2, 2))
    with pytest.raises(InputError, match=r"blocks=true: needs a matrix"):
        Lossless(blocks=True).fit(X)


def test_where_rows_stand_tells_which_rows_they_meet() -> None:
    random = np.random.default_rng(4)
    columns = np.arange(6000)
    busy = columns // 375 * 8 + random.integers(0, 8, (2, len(columns)))
    rows = np.concatenate((busy[0], busy[1], 128 + columns))
    coords = np.unique(np.stack((rows, np.tile(random.permutation(7000)[:6000], 3)), axis=1), axis=0)
    X = SparseTensor(coords, np.ones(len(coords)), (128 + len(columns), 7000))
    code = packed(X)
    assert code[:1] == blocks.PARTED_CODE
    assert SparseTensor(*exact.decode(code)) == X
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "PARTS", 1)
        alike = packed(X)
    assert alike[:1] == blocks.CODE
    assert len(code) < 0.95 * len(alike)
    assert SparseTensor(*exact.decode(alike)) == X
