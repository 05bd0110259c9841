"""The code for matrices whose rows and columns have no names: every decoder step against the encoder's, and sizes."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.coding import exact, mixed, unlabelled, unlabelled_loops
from pipeline.baselines.lossless import Lossless
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole
from tests.test_baselines_exact import KINDS
from tests.test_baselines_mixed import banded

# What the first such codes said of skewed(7, "whole"), in free orders and in its own.
COARSE = bytes.fromhex(
    "063825010c0412601760850100000001000d0116020a0305040205020602150100e00023000f000000803d03f05e9209"
    "a772d504f2200000e65a8c9a9e7ed6a6c6e448dc13d048230e6a7fbd99155e3b6f7d4c55b19fbc46b60ee985976cebc7"
    "c40e66000009a138cafffffffffdb20206b13637fffd1ccea83f26802fb0c72d08b5c09217f60dbea020d50c975b9b98"
    "1a09fda9ed1c9a9763d59915630147fdc210ef7cd7ab9186c960084c500ea7c8c32cc8c0a2939c8bb6c3a4b559"
)
COARSE_KEPT = bytes.fromhex(
    "0738250c042960aa01000000e00024002100000080dc960cc5a4cd27fb99a92d7ad4084016a06b04808f693fdbcee505"
    "0ba1f10000172cae17ca673f26a051a21d2da093c08be5182b3c4fbdac9f2aa456ca2bfe34f571a7193282a9a878ca50"
    "5e7391e322036d373ed03397f9b359092b2346d4f19395658acef697d2ae44b86b000017707f2cfffffffffbb0eb4e56"
    "1f3a0a939354bb70593f0bf0e0defc0a761053e2779976f39aa5b6d08bbb9188565b55d1fe966b9f9372abdbd245513b"
    "c06bccb952e18d1c315ca861d442909d4d557f09b5095cece1ab9b5be0bbff"
)


def skewed(seed: int, kind: str = "ones", most: int = 60) -> SparseTensor:
    """A small random matrix in which a few rows have most cells."""
    random = np.random.default_rng(seed)
    shape = random.integers(1, most, 2)
    count = int(random.integers(1, 3 * most))
    rows = (shape[0] * random.random(count) ** 3).astype(np.int64)
    coords = np.unique(np.stack((rows, random.integers(0, shape[1], count)), axis=1), axis=0)
    return SparseTensor(coords, random.choice(KINDS[kind], len(coords)), shape.tolist())


def packed(X: SparseTensor) -> tuple[bytes, dict[int, np.ndarray]]:
    code = unlabelled.pack(X.coords, X.values, X.shape)
    assert code is not None
    return code


@pytest.fixture(params=[2, 64], ids=["rows without names", "rows with names"])
def alike(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled, "ALIKE", request.param)


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize("kind", KINDS)
def test_a_code_and_its_orders_give_back_what_was_coded(kind: str) -> None:
    for seed in range(60):
        X = skewed(seed, kind)
        code, orders = packed(X)
        places, values, shape = unlabelled.unpack(code)
        assert all(np.array_equal(np.sort(orders[mode]), np.arange(size)) for mode, size in enumerate(X.shape))
        coords = np.stack([orders[mode][places[:, mode]] for mode in range(2)], axis=1)
        assert SparseTensor(coords, values, shape) == X


@given(st.integers(0, 99), st.sampled_from(list(KINDS)))
@settings(deadline=None, max_examples=60)
def test_a_code_that_keeps_the_orders_gives_back_what_was_coded(seed: int, kind: str) -> None:
    X = skewed(seed, kind)
    code = unlabelled.pack_kept(X.coords, X.values, X.shape)
    assert code is not None
    assert SparseTensor(*unlabelled.unpack_kept(code)) == X


def test_rows_numbered_as_they_appear_cost_less() -> None:
    random = np.random.default_rng(0)
    row = np.cumsum(random.random(3000) < 0.3)  # the newest row so far, or one of those before
    back = np.where(random.random(3000) < 0.5, 0, (random.random(3000) * row).astype(np.int64))
    coords = np.unique(np.stack((row - back, np.arange(3000)), axis=1), axis=0)
    names = random.permutation(1000)
    sizes = []
    for rows in (coords[:, 0], names[coords[:, 0]]):
        X = SparseTensor(np.stack((rows, coords[:, 1]), axis=1), np.ones(len(coords)), (1000, 3000))
        code = unlabelled.pack_kept(X.coords, X.values, X.shape)
        assert code is not None
        sizes.append(len(code))
    assert sizes[0] < 0.8 * sizes[1]


@given(st.integers(0, 99), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_names_of_rows_and_columns_hardly_matter(seed: int, other: int) -> None:
    X = skewed(seed, most=200)
    random = np.random.default_rng(other)
    moved = np.stack([random.permutation(size)[X.coords[:, mode]] for mode, size in enumerate(X.shape)], axis=1)
    sizes = [len(packed(Y)[0]) for Y in (X, SparseTensor(moved, X.values, X.shape))]
    assert abs(sizes[0] - sizes[1]) <= 4 + 0.05 * max(sizes)  # rows of equal cells may get other names


def test_the_order_of_columns_costs_nothing() -> None:
    # All triples of ten rows as columns: the code with all its lists is shorter than an order, log2(120!) bits.
    triples = np.array(list(itertools.combinations(range(10), 3)))
    coords = np.stack((triples.ravel(), np.repeat(np.arange(120), 3)), axis=1)
    assert len(packed(SparseTensor(coords, np.ones(360), (10, 120)))[0]) < math.lgamma(121) / math.log(2) / 8 - 15


def test_rare_rows_are_not_named() -> None:
    # 500 columns of two rows that are nowhere else: nothing to tell but how many.
    alone = SparseTensor(np.stack((np.arange(1000), np.arange(1000) // 2), axis=1), np.ones(1000), (1000, 1001))
    assert len(packed(alone)[0]) < 100
    assert Lossless().fit(alone).size()["bytes"] < 100


def test_chances_of_the_least_draw_by_hand() -> None:
    # Weights 1 | 2 in the range and 1 beyond; of 2 draws the least is in the lower part with 1 - (3/4)^2 = 7/16, in
    # the range with 1 - (1/4)^2 = 15/16.
    assert unlabelled_loops.least_below(1, 2, 1, 2) == int(65536 * (7 / 16) / (15 / 16))
    assert unlabelled_loops.least_below(1, 1, 0, 1) == 32768


@given(st.integers(1, 300), st.floats(0.001, 0.999), st.sampled_from(unlabelled_loops.CONCENTRATIONS))
@settings(deadline=None, max_examples=40)
def test_chances_of_counts_are_beta_binomial(number: int, chance: float, concentration: float) -> None:
    from scipy.stats import betabinom

    found = np.zeros(number + 1)
    unlabelled_loops.count_chances(found, number, chance, concentration)
    expected = betabinom(number, chance * concentration, (1 - chance) * concentration).pmf(np.arange(number + 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("alike")
def test_another_process_without_a_compiler_writes_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import numpy as np; from pipeline.baselines.coding import unlabelled; "
        f"unlabelled.ALIKE, unlabelled.TRIED_TWICE = {unlabelled.ALIKE}, 0; "
        "from tests.test_baselines_unlabelled import skewed, packed; X = skewed(7, 'whole'); code = packed(X)[0]; "
        "places, values, _ = unlabelled.unpack(code); assert len(places) == X.nnz; print(code.hex()); "
        "code = unlabelled.pack_kept(X.coords, X.values, X.shape); print(code.hex()); "
        "assert np.array_equal(unlabelled.unpack_kept(code)[0], X.coords)"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONHASHSEED": "3"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    monkeypatch.setattr(unlabelled, "TRIED_TWICE", 0)
    X = skewed(7, "whole")
    kept = unlabelled.pack_kept(X.coords, X.values, X.shape)
    assert kept is not None
    assert told.stdout.split() == [packed(X)[0].hex(), kept.hex()]


def test_codes_with_mixing_weights_of_16_bits_are_still_read() -> None:
    X = skewed(7, "whole")
    assert SparseTensor(*exact.decode(COARSE_KEPT)) == X
    coords, values, _ = exact.decode(COARSE)
    orders = packed(X)[1]
    assert SparseTensor(np.stack([orders[mode][coords[:, mode]] for mode in range(2)], axis=1), values, X.shape) == X


def test_of_two_kinds_of_names_and_of_weights_the_shorter_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = set()
    for seed in range(12):
        X, lengths = skewed(seed, most=400), []
        for most in (1 << 18, 0):
            monkeypatch.setattr(unlabelled, "TRIED_TWICE", most)
            (free, orders), kept = packed(X), unlabelled.pack_kept(X.coords, X.values, X.shape)
            assert kept is not None
            assert SparseTensor(*exact.decode(kept)) == X
            places, values, _ = exact.decode(free)
            coords = np.stack([orders[mode][places[:, mode]] for mode in range(2)], axis=1)
            assert SparseTensor(coords, values, X.shape) == X
            lengths.append((len(free), len(kept)))
            kinds |= {free[:1], kept[:1]}
        assert np.all(np.array(lengths[0]) <= lengths[1])
    assert unlabelled.RANKED_KEPT in kinds
    assert kinds & {unlabelled.STEADY_CODE, unlabelled.STEADY_LISTED}


@pytest.mark.usefixtures("alike")
@given(st.binary(max_size=60), st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused(noise: bytes, place: int) -> None:
    X = skewed(3, "whole")
    kept = unlabelled.pack_kept(X.coords, X.values, X.shape)
    assert kept is not None
    for code, unpack in ((packed(X)[0], unlabelled.unpack), (kept, unlabelled.unpack_kept)):
        for damaged in (code[: 1 + place] + noise + code[1 + place + len(noise) :], code[: 6 + place]):
            refused_or_whole(unpack, damaged)


def test_what_it_does_not_take_is_left_to_other_codes() -> None:
    assert not unlabelled.able(np.zeros((1, 3), dtype=np.int64), (2, 2, 2))
    assert not unlabelled.able(np.zeros((1, 2), dtype=np.int64), (2, mixed.LARGEST_MODE + 1))


@pytest.mark.parametrize("X", [banded(60, 3), *(skewed(seed, "whole") for seed in range(6))])
def test_a_model_answers_in_its_own_indices(X: SparseTensor) -> None:
    model = Lossless().fit(X)
    assert model.error(X) == {"error": 0.0}
    assert model.size()["bytes"] <= model.size()["bytes_with_order"]
    free = exact.free_code(X.coords, X.values, X.shape)[0]
    assert len(free) <= len(packed(X)[0])
