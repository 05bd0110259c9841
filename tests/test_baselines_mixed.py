"""The code that mixes contexts, and that orders stored never cost less than orders free."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.coding import fibres, gaps, mixed
from pipeline.baselines.lossless import Lossless
from pipeline.baselines.truncation import Truncation
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole
from tests.test_baselines_exact import KINDS, random_tensor


def bigrams(count: int = 4000) -> SparseTensor:
    """Words that have two followers each, as trigrams."""
    random = np.random.default_rng(0)
    first = random.integers(0, 200, count)
    second = (first * 37 + 11 * random.integers(0, 2, count)) % 200
    third = (second * 37 + 11 * random.integers(0, 2, count)) % 200
    return SparseTensor(np.stack((first, second, third), axis=1), np.ones(count), (200, 200, 200))


def banded(size: int, width: int) -> SparseTensor:
    row, offset = np.divmod(np.arange(size * width), width)
    inside = row + offset < size
    return SparseTensor(np.stack((row, row + offset), axis=1)[inside], np.ones(inside.sum()), (size, size))


@given(st.integers(0, 99), st.integers(2, 4), st.sampled_from(list(KINDS)))
@settings(deadline=None, max_examples=60)
def test_a_code_gives_back_what_was_coded(seed: int, order: int, kind: str) -> None:
    X = random_tensor(seed, order, kind)
    code = mixed.pack(X.coords, X.values, X.shape)
    assert code is not None
    coords, values, shape = mixed.unpack(code)
    assert np.array_equal(coords, X.coords)
    assert np.array_equal(values, X.values)
    assert shape == X.shape


def test_what_it_does_not_take_is_left_to_other_codes() -> None:
    one = np.array([[5]]), np.ones(1)
    assert mixed.pack(*one, (8,)) is None
    assert mixed.pack(np.array([[5, 1]]), np.ones(1), (2**40, 2)) is None


def test_tables_are_the_logistic_function_and_its_inverse() -> None:
    squash, stretch = mixed.tables()
    x = np.arange(-mixed.REACH, mixed.REACH + 1) / mixed.STEPS
    assert np.max(np.abs(squash - np.clip(65536 / (1 + np.exp(-x)), 1, 65535))) <= 0.5 + 1e-6
    chance = np.arange(4096) * 16 + 8
    place = stretch + mixed.REACH  # the least x whose chance is no smaller
    assert np.all(squash[place] >= chance)
    assert np.all(squash[place - 1] < chance)


def test_it_learns_which_word_follows_which() -> None:
    X = bigrams()
    code = mixed.pack(X.coords, X.values, X.shape)
    plain = fibres.pack(X.coords, X.values, X.shape, free=False)[0]
    assert code is not None
    assert len(code) < 0.85 * len(plain)


def test_another_process_without_a_compiler_writes_the_same_bits() -> None:
    program = (
        "import sys, numpy as np; from pipeline.baselines.coding import mixed; "
        "from tests.test_baselines_mixed import random_tensor; X = random_tensor(7, 3, 'whole'); "
        "code = mixed.pack(X.coords, X.values, X.shape); again = mixed.unpack(code); "
        "assert np.array_equal(again[0], X.coords) and np.array_equal(again[1], X.values); print(code.hex())"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONHASHSEED": "3"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    X = random_tensor(7, 3, "whole")
    code = mixed.pack(X.coords, X.values, X.shape)
    assert code is not None
    assert told.stdout.strip() == code.hex()


@given(st.binary(max_size=80))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused(noise: bytes) -> None:
    X = random_tensor(3, 3, "whole")
    code = mixed.pack(X.coords, X.values, X.shape)
    assert code is not None
    for damaged in (code[:1] + noise[:12] + code[len(noise[:12]) + 1 :], code[:6]):
        refused_or_whole(mixed.unpack, damaged)


@pytest.mark.parametrize("method", [Lossless, Truncation])
@pytest.mark.parametrize(
    "X",
    [banded(60, 3), banded(200, 5), bigrams(500), *(random_tensor(seed, 2 + seed % 3, "whole") for seed in range(8))],
)
def test_orders_free_never_take_more_than_orders_stored(method: type[Lossless | Truncation], X: SparseTensor) -> None:
    size = method().fit(X).size()
    assert size["bytes"] <= size["bytes_with_order"]


@given(st.integers(0, 99), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_an_exact_code_is_no_longer_free_than_stored(seed: int, order: int) -> None:
    X = random_tensor(seed, order, "ones")
    size = Lossless().fit(X).size()
    assert size["bytes"] <= size["bytes_with_order"] <= len(gaps.encode(X.coords, X.values, X.shape))
