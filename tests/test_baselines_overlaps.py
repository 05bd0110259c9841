"""The code for windows on a sequence: every decoder step against the encoder's, and what overlap saves."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.coding import exact, gaps, mixed, overlap_loops, overlaps
from pipeline.baselines.lossless import Lossless
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole


def windows(order: int, length: int = 3000, words: int = 60, seed: int = 0, sentences: int = 20) -> SparseTensor:
    """Counts of the n-grams of a random text, each mode with only the words that occur there."""
    random = np.random.default_rng(seed)
    followers = random.integers(0, words, (words, 6))
    text, ends = [0], [-1]
    for place in range(length):
        text.append(int(followers[text[-1], int(6 * random.random() ** 2)]))
        if place % (length // sentences) == 0:
            ends.append(place)
    grams = np.lib.stride_tricks.sliding_window_view(np.array(text), order)
    inside = np.ones(len(grams), dtype=bool)
    for end in ends:
        inside[max(0, end - order + 2) : end + 1] = False
    grams = grams[inside]
    columns = [np.unique(column, return_inverse=True) for column in grams.T]
    cells, counts = np.unique(np.stack([number for _, number in columns], axis=1), axis=0, return_counts=True)
    return SparseTensor(cells, counts.astype(np.float64), tuple(len(kept) for kept, _ in columns))


def packed(X: SparseTensor) -> bytes:
    code = overlaps.pack(X.coords, X.values, X.shape)
    assert code is not None
    return code


@pytest.mark.parametrize("order", [3, 4, 5])
@pytest.mark.parametrize("values", ["counts", "ones", "negative", "reals", "beyond 2^53"])
def test_a_code_gives_back_what_was_coded(order: int, values: str) -> None:
    X = windows(order)
    changed = {
        "counts": X.values,
        "ones": np.ones(X.nnz),
        "negative": -X.values,
        "reals": X.values / 3,
        "beyond 2^53": X.values * 2.0**52,
    }
    X = SparseTensor(X.coords, changed[values], X.shape)
    assert SparseTensor(*overlaps.unpack(packed(X))) == X


@given(st.integers(0, 99), st.integers(3, 4))
@settings(deadline=None, max_examples=25)
def test_short_texts_and_their_parts_are_given_back(seed: int, order: int) -> None:
    X = windows(order, length=40 + seed, words=8 + seed // 4, seed=seed, sentences=3)
    code = overlaps.pack(X.coords, X.values, X.shape)
    if code is not None:
        assert SparseTensor(*overlaps.unpack(code)) == X


def test_what_overlaps_is_told_once() -> None:
    X = windows(4, length=20000, words=300)
    plain = mixed.pack(X.coords, X.values, X.shape)
    assert plain is not None
    assert len(packed(X)) < 0.7 * len(plain)


@pytest.mark.parametrize("modes", [(0, 2, 1), (2, 1, 0), (1, 0, 2)])
def test_the_sequence_of_the_modes_is_found(modes: tuple[int, ...]) -> None:
    X = windows(3, length=20000, words=300)
    moved = SparseTensor(X.coords[:, modes], X.values, tuple(X.shape[mode] for mode in modes))
    assert SparseTensor(*overlaps.unpack(packed(moved))) == moved
    assert len(packed(moved)) < 1.05 * len(packed(X))


def test_twins_are_the_rising_matching_of_like_frequencies() -> None:
    often = np.log2(np.array([5.0, 100.0, 1.0, 30.0, 7.0]))
    others = np.log2(np.array([5.0, 1.0, 30.0, 900.0, 8.0]))
    assert overlap_loops.align(often, others, 8).tolist() == [0, -1, 1, 2, 4]


def test_tensors_without_overlap_are_left_to_other_codes() -> None:
    random = np.random.default_rng(0)
    coords = np.unique(random.integers(0, 50, (600, 3)), axis=0)
    assert overlaps.pack(coords, np.ones(len(coords)), (50, 50, 50)) is None
    dense = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    assert overlaps.pack(dense, np.ones(len(dense)), (6, 6, 6)) is None
    assert not overlaps.able((50, 50))
    assert not overlaps.able((50, 50, 101))


def test_lossless_takes_it_for_windows() -> None:
    X = windows(3)
    model = Lossless().fit(X)
    assert model.labelled_.code[:1] == overlaps.CODE
    assert SparseTensor(*exact.decode(model.labelled_.code)) == X
    assert model.size()["bytes"] <= model.size()["bytes_with_order"]


def test_another_process_without_a_compiler_writes_the_same_bits() -> None:
    program = (
        "from pipeline.baselines.coding import overlaps; from pipeline.sparse import SparseTensor; "
        "from tests.test_baselines_overlaps import windows, packed; X = windows(3, length=300); code = packed(X); "
        "assert SparseTensor(*overlaps.unpack(code)) == X; print(code.hex())"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONHASHSEED": "3"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == packed(windows(3, length=300)).hex()


@given(st.binary(max_size=60), st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused(noise: bytes, place: int) -> None:
    code = packed(windows(3, length=300))
    for damaged in (code[: 1 + place] + noise + code[1 + place + len(noise) :], code[: 6 + place]):
        refused_or_whole(overlaps.unpack, damaged)


def test_a_code_of_gaps_is_longer() -> None:
    X = windows(3)
    assert len(packed(X)) < len(gaps.encode(X.coords, X.values, X.shape))
