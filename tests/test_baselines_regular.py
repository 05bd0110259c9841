"""Codes of what is regular: steps from cell to cell, and values that are multiples or few."""

from __future__ import annotations

import contextlib
import lzma

import numpy as np
import pytest

from pipeline.baselines.coding import exact, gaps, scaled, steps, symmetric
from pipeline.baselines.lossless import Lossless
from pipeline.baselines.yardsticks import plain
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def stride() -> SparseTensor:
    """A line that wraps around."""
    number = np.arange(900)
    return SparseTensor(np.stack((number, 7 * number % 901), axis=1), np.ones(900), (900, 901))


def band() -> SparseTensor:
    """Four diagonals, with a value each."""
    row, place = np.meshgrid(np.arange(40, 640), np.arange(4), indexing="ij")
    coords = np.stack((row.ravel(), (row - np.array([40, 1, 0, 7])).ravel()), axis=1)
    return SparseTensor(coords, 2.0 + place.ravel(), (700, 700))


def readings() -> SparseTensor:
    """A full grid of three modes whose values rise slowly."""
    coords = np.argwhere(np.ones((30, 8, 4)))
    return SparseTensor(coords, np.rint(500 + coords @ [7.0, 3.0, 1.0]), (30, 8, 4))


@pytest.mark.parametrize("make", [stride, band, readings])
def test_what_is_regular_is_shorter_than_by_a_general_compressor(make: object) -> None:
    X = make()  # type: ignore[operator]
    size = Lossless().fit(X).size()
    assert size["bytes"] <= size["bytes_with_order"] < len(lzma.compress(plain(X), preset=9))


@pytest.mark.parametrize("make", [stride, band, readings])
def test_steps_give_the_cells_back_and_refuse_damage(make: object) -> None:
    X = make()  # type: ignore[operator]
    code = steps.pack(X.coords, X.values, X.shape, 10_000)
    assert code is not None and SparseTensor(*exact.decode(code)) == X
    for end in range(1, len(code), 7):
        with contextlib.suppress(InputError):
            assert len(exact.decode(code[:end])[0]) > 0


def test_steps_are_not_told_where_they_are_irregular() -> None:
    coords = np.unique(np.random.default_rng(0).integers(0, 200, (3000, 2)), axis=0)
    assert steps.pack(coords, np.ones(len(coords)), (200, 200), 100) is None


@pytest.mark.parametrize(
    ("choices", "factor", "divisor", "single", "listed"),
    [
        ([0.5, 1.0, 4.5, 5.0], 5, 10, False, 0),
        ([0.01, -12.34, 99.99], 1, 100, False, 0),
        (np.array([0.1, 12.34, 7.7], dtype=np.float32).astype(float).tolist(), 2, 100, True, 0),
        ([3000.0, -9000.0], 3000, 1, False, 0),
        ([np.pi, -1e300, 2.0], 1, 1, False, 3),
    ],
)
def test_multiples_and_few_values_are_told_as_whole_numbers(
    choices: list[float], factor: int, divisor: int, single: bool, listed: int
) -> None:
    random = np.random.default_rng(1)
    coords = np.unique(random.integers(0, 20, (150, 2)), axis=0)
    X = SparseTensor(coords, random.choice(choices, len(coords)), (20, 20))
    scale = scaled.find(X.values)
    assert scale is not None
    assert (scale.factor, scale.divisor, scale.single, len(scale.table)) == (factor, divisor, single, listed)
    found = exact.all_codes(X.coords, X.values, X.shape)
    assert all(SparseTensor(*exact.decode(each.code)) == X for each in found if not each.orders)
    entropy = len(coords) * (np.log2(len(choices)) + 4.0) / 8  # of values and cells, at most
    assert min(each.bytes for each in found) <= entropy + 80
    code = min((each.code for each in found), key=len)
    for end in range(1, len(code), 7):
        with contextlib.suppress(InputError):
            assert len(exact.decode(code[:end])[0]) > 0


@pytest.mark.parametrize("shape", [(150, 8), (8, 150), (150, 4, 2)])
@pytest.mark.parametrize("unit", [1.0, 0.25])
def test_values_that_change_slowly_along_a_mode_are_told_as_differences(shape: tuple[int, ...], unit: float) -> None:
    random = np.random.default_rng(0)
    cells = np.argwhere(random.random((150, 8)) < 0.7)
    values = unit * np.rint(900 + 300 * np.sin(cells[:, 0] / 20 + cells[:, 1]) + random.normal(0, 2, len(cells)))
    cells = (
        np.stack((cells[:, 0], *np.unravel_index(cells[:, 1], shape[1:])), axis=1) if shape[0] > 8 else cells[:, ::-1]
    )
    lengths = []
    for numbers in (values, random.permutation(values)):
        X = SparseTensor(cells, numbers, shape)
        found = [each for each in exact.all_codes(X.coords, X.values, X.shape) if not each.orders]
        assert all(SparseTensor(*exact.decode(each.code)) == X for each in found)
        lengths.append(min(each.bytes for each in found))
    assert lengths[0] < 0.8 * lengths[1]


def test_reals_that_repeat_in_a_row_are_told_as_records() -> None:
    random = np.random.default_rng(0)
    cells = np.argwhere(random.random((40, 60)) < 0.3)
    values = random.random((40, 2))[cells[:, 0], random.integers(0, 2, len(cells))]
    kind, _, content = gaps.encode_values(values)
    assert kind == gaps.RECORDS and np.array_equal(
        gaps.decode_values(kind, 1.0, content.tobytes(), len(values)), values
    )
    with pytest.raises(ValueError, match="bytes of"):
        gaps.decode_values(kind, 1.0, content[:-1].tobytes(), len(values))
    X = SparseTensor(cells, values, (40, 60))
    found = exact.all_codes(X.coords, X.values, X.shape)
    assert {each.code[:1] == scaled.CODE for each in found} == {False, True}
    assert all(SparseTensor(*exact.decode(each.code)) == X for each in found if not each.orders)
    assert min(each.bytes for each in found) < len(lzma.compress(plain(X), preset=9))


@pytest.mark.parametrize("values", [np.arange(1.0, 9.0), np.full(8, 0.3), np.random.default_rng(0).normal(size=64)])
def test_small_whole_values_one_value_and_noise_have_no_scale(values: np.ndarray) -> None:
    assert scaled.find(values) is None


def test_a_code_scaled_twice_or_mirrored_around_one_is_refused() -> None:
    X = readings()
    scale = scaled.find(X.values * 0.5)
    assert scale is not None
    once = scaled.wrapped(scale, exact.gap_code(X.coords, X.values, X.shape)[0])
    for damaged in (scaled.wrapped(scale, once), symmetric.mirrored(once)):
        with pytest.raises(InputError, match="damaged"):
            exact.decode(damaged)


def test_a_vector_in_free_orders_is_the_set_of_its_values() -> None:
    random = np.random.default_rng(0)
    X = SparseTensor(random.choice(10**4, 2000, replace=False)[:, None], random.integers(1, 6, 2000) * 0.5, (10**4,))
    model = Lossless().fit(X)
    assert model.size()["bytes"] < 100 < 1000 < model.size()["bytes_with_order"]
    assert model.predict(X.coords).tolist() == X.values.tolist()
