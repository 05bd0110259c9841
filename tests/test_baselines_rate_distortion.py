"""Rate-distortion: cells by what their bits are worth."""

from __future__ import annotations

import contextlib
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.baselines import fill, levels, patterns
from pipeline.baselines.cell_bits import CellBits
from pipeline.baselines.coding import exact, gaps, repeated, unlabelled
from pipeline.baselines.levels import Levels
from pipeline.baselines.rate_distortion import ByCells, RateDistortion
from pipeline.baselines.truncation import Truncation
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def groups(seed: int = 0) -> SparseTensor:
    """600 columns of 40 rows: each a copy of one of six patterns, with cells left out and added at random."""
    random = np.random.default_rng(seed)
    dense = (random.uniform(size=(6, 40)) < 0.15)[random.integers(0, 6, 600)].T
    return SparseTensor.from_dense(dense ^ (random.uniform(size=dense.shape) < 0.02))


def weighted(seed: int = 0, shape: tuple[int, ...] = (20, 30, 10)) -> SparseTensor:
    random = np.random.default_rng(seed)
    coords = np.unique(np.stack([random.zipf(1.5, 800) % size for size in shape], axis=1), axis=0)
    return SparseTensor(coords, np.ceil(random.pareto(1.0, len(coords)) * 5 + 1), shape)


@pytest.mark.parametrize(("make", "orders"), [(groups, False), (weighted, False), (weighted, True)])
def test_the_code_is_within_its_size_and_errs_less_than_truncation(make: object, orders: bool) -> None:
    X = make()  # type: ignore[operator]
    old = Truncation(keep=0.6).fit(X)
    kind = "bytes_with_order" if orders else "bytes"
    limit = old.size()[kind]
    model = RateDistortion(max_bytes=float(limit), orders=orders).fit(X)
    assert model.size()[kind] <= limit + 8  # 8 bytes of the step
    assert model.size()["bytes"] <= model.size()["bytes_with_order"]
    assert model.error(X)["error"] <= 0.9 * old.error(X)["error"]


@pytest.mark.parametrize("orders", [False, True])
@pytest.mark.parametrize("make", [groups, weighted])
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.4])
def test_the_error_is_met_and_is_that_of_the_cells(make: object, orders: bool, limit: float) -> None:
    X = make(1)  # type: ignore[operator]
    model = RateDistortion(max_error=limit, orders=orders).fit(X)
    cells = np.argwhere(np.ones(X.shape))
    dense = np.zeros(X.shape)
    dense[tuple(X.coords.T)] = X.values
    brute = float(np.sum((dense.ravel() - model.predict(cells)) ** 2))
    assert np.isclose(model.error(X)["error"], brute, rtol=1e-12)
    assert brute <= limit * X.norm2
    if limit:
        exact = RateDistortion(max_error=0.0, orders=orders).fit(X)
        kind = "bytes_with_order" if orders else "bytes"
        assert model.size()[kind] < exact.size()[kind]


def test_all_of_it_is_kept_where_it_fits() -> None:
    X = groups(2)
    assert RateDistortion(max_bytes=1e6).fit(X).error(X)["error"] == 0.0


def test_cells_are_filled_in() -> None:
    X = groups(3)
    model = RateDistortion(max_error=0.4).fit(X)
    coords, values = model.held_cells()
    dense = np.zeros(X.shape)
    dense[tuple(X.coords.T)] = 1.0
    assert np.all(values == 1.0) and np.count_nonzero(dense[tuple(coords.T)] == 0) > 0


def test_another_process_gives_the_same_answers(tmp_path: Path) -> None:
    X = weighted(4)
    model = RateDistortion(max_error=0.1, orders=True).fit(X)
    model.save(tmp_path / "m.safetensors")
    np.save(tmp_path / "cells.npy", X.coords)
    code = (
        "import sys, numpy as np, pipeline; "
        "np.save(sys.argv[3], pipeline.load(sys.argv[1]).predict(np.load(sys.argv[2])))"
    )
    paths = [str(tmp_path / name) for name in ("m.safetensors", "cells.npy", "answers.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    assert np.array_equal(np.load(tmp_path / "answers.npy"), model.predict(X.coords))


def test_distinct_columns_by_hand() -> None:
    found, which = patterns.distinct(np.array([0, 0, 2, 3, 3]), np.array([1, 0, 1, 0, 1]), 4)
    assert found.rows.tolist() == [0, 1, 1] and found.start.tolist() == [0, 2, 3]
    assert found.times.tolist() == [2, 1] and which.tolist() == [0, -1, 1, 0]


def test_what_many_columns_share_stays_and_what_one_has_goes() -> None:
    columns = patterns.Columns(np.array([0, 1, 0, 1, 2]), np.array([0, 2, 5]), np.array([100, 1]))
    rows, start, which = patterns.quantised(columns, 3, 1.0)
    assert rows.tolist() == [0, 1] and start.tolist() == [0, 2] and which.tolist() == [0, 0]


def test_a_higher_price_keeps_fewer_cells() -> None:
    X = weighted(5)
    choose = ByCells(X, orders=False, counted=False)
    kept = [len(choose(price).values) for price in (0.0, 1.0, 30.0, 1000.0)]
    assert kept[0] == X.nnz and kept == sorted(kept, reverse=True) and kept[-1] < X.nnz / 2


def test_a_code_of_columns_that_occur_a_multiple_of_times_gives_them_back() -> None:
    random = np.random.default_rng(0)
    book = random.random((30, 12)) < 0.3
    of_column = random.permutation(np.repeat(np.arange(12), 6 * random.integers(1, 40, 12)))
    X = SparseTensor.from_dense(np.hstack((book[:, of_column], np.zeros((30, 50)))))
    packed = exact.unnamed_code(X.coords, X.values, X.shape)
    plain = unlabelled.pack(X.coords, X.values, X.shape)
    assert packed is not None and plain is not None
    code, orders = packed
    assert code[:1] == repeated.CODE and len(code) < len(plain[0])
    coords, values, shape = exact.decode(code)
    there = np.stack([orders[mode][coords[:, mode]] for mode in range(2)], axis=1)
    assert SparseTensor(there, values, shape) == X
    assert all(np.array_equal(np.sort(orders[mode]), np.arange(size)) for mode, size in enumerate(shape))
    for end in range(1, len(code)):
        with contextlib.suppress(InputError):
            assert len(exact.decode(code[:end])[0]) > 0


def test_patterns_are_rounded_to_the_nearest_multiple() -> None:
    pattern = np.array([0] * 7 + [1] * 4 + [2] * 2 + [-1] * 3)
    rounded = patterns.rounded(pattern, 4)
    assert np.bincount(rounded + 1).tolist() == [0, 8, 4, 4]
    assert patterns.rounded(np.array([0, 0, 0, 1]), 4).tolist() == [-1, -1, -1, -1]  # no column is free
    assert patterns.rounded(pattern, 1) is pattern


def test_two_limits_are_refused() -> None:
    with pytest.raises(InputError, match="give one of them"):
        RateDistortion(max_bytes=100.0, max_error=0.5).fit(groups())


def test_at_a_price_that_no_cell_is_worth_one_is_left() -> None:
    for X in (groups(6), weighted(6)):
        choice = ByCells(X, orders=True, counted=False)(X.norm2)
        assert len(choice.values) == 1 and choice.error == pytest.approx(X.norm2 - X.values.max() ** 2, rel=1e-9)


def test_time_that_is_over_ends_the_bisection_after_the_first_price() -> None:
    model = RateDistortion(max_bytes=200.0, max_seconds=1e-9).fit(weighted(7))
    assert [row["coded"] for row in model.history_] == [1]
    assert RateDistortion(max_bytes=200.0).fit(weighted(7)).history_[0]["coded"] > 2


def test_sizes_of_a_few_cells_are_met() -> None:
    X = weighted(8, (104, 400))
    for limit in range(60, 400, 110):
        for orders in (False, True):
            size = RateDistortion(max_bytes=float(limit), orders=orders).fit(X).size()
            assert size["bytes_with_order" if orders else "bytes"] <= limit + 8  # 8 bytes of the step


def test_a_few_bytes_do_not_ask_for_more_cells_than_a_code_may_hold() -> None:
    rows = np.arange(5000)
    packed = unlabelled.pack(np.stack((rows, np.zeros_like(rows)), axis=1), np.ones(len(rows)), (8191, 1 << 16))
    assert packed is not None
    code = gaps.joined(repeated.CODE, [1 << 16], b"", [(packed[0], 0)])  # one column, 2^16 times
    assert len(code) < 100
    with pytest.raises(InputError, match="cells than are coded so"):
        repeated.unpack(code)


@pytest.mark.parametrize(("price", "means"), [(0.25, []), (0.3, [24 / 17]), (1.0, [3600 / 2100])])
def test_levels_are_the_cheapest_of_all_ways_to_part_the_values(price: float, means: list[float]) -> None:
    sizes = np.repeat([1.0, 2.0, 3.0, 6.0], [1000, 700, 400, 90])

    def cost(ends: tuple[int, ...]) -> float:
        """Of levels that end before these of the four values, and multiples from the last on."""
        cuts = [0, *ends, *range(ends[-1] + 1 if ends else 1, 5)]
        total = 64 * price * len(ends)
        for held in np.split(sizes, np.cumsum([0, 1000, 700, 400, 90])[cuts[1:-1]]):
            total += float(np.sum((held - held.mean()) ** 2)) - price * len(held) * np.log2(len(held) / len(sizes))
        return total

    every = [ends for count in range(5) for ends in itertools.combinations(range(1, 5), count)]
    best = min(every, key=cost)
    found = levels.cheapest(sizes, price, 1.0, unit=1.0)
    assert len(found.magnitudes) == len(best) and np.allclose(found.magnitudes, means)


@pytest.mark.parametrize(
    ("sizes", "unit"),
    [([3.0, 5.0, 1e6], 1.0), ([6.0, 9.0], 3.0), ([0.75, 2.0], 0.25), ([5e-324, 2e-323], 5e-324), ([1.0, 1e-30], 0.0)],
)
def test_values_have_a_unit_at_any_scale(sizes: list[float], unit: float) -> None:
    assert levels.unit_of(np.array(sizes)) == unit
    assert levels.unit_of(np.ldexp(sizes, 600)) == np.ldexp(unit, 600)
    assert (
        levels.multiple_of(3.0, 7.9) == 6.0
        and levels.multiple_of(3.0, 2.0) == 3.0
        and levels.multiple_of(0.0, 0.7) == 0.7
    )


def test_levels_come_back_from_their_table_and_values_from_their_numbers() -> None:
    random = np.random.default_rng(3)
    values = random.lognormal(1.0, 1.5, 4000) * random.choice([-1.0, 1.0], 4000)
    found = levels.cheapest(np.abs(values), 0.5, 2.0, unit=0.0)
    numbers = found.numbers(values)
    assert len(found.magnitudes) > 1 and np.all(numbers == np.rint(numbers)) and np.all(np.abs(numbers) >= 1)
    told = Levels.from_table(found.table).values(numbers)
    assert np.array_equal(told, found.values(numbers)) and np.all(np.sign(told) == np.sign(values))
    large = np.abs(values) > found.ends[-1] + 2.0
    assert large.any() and np.all(np.abs(told - values)[large] <= 1.0)  # half a step
    assert found.values(np.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "table",
    [[], [0.0], [-1.0], [np.nan], [np.inf], [1.0, 2.0], [1.0, -1.0, 2.0], [1.0, 0.5, 2.0], [1.0, 600.0, 2.0],
     [1.0, np.nan, 2.0], [1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 0.0], [1.0, 2.0, np.nan], [1.0, 2.0, np.inf]],
)  # fmt: skip
def test_a_damaged_table_of_levels_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Levels.from_table(np.array(table))


def test_levels_on_either_side_of_a_jump_fill_the_gap_between_two_prices() -> None:
    random = np.random.default_rng(1)
    coords = np.unique(random.integers(0, (40, 50), (1200, 2)), axis=0)
    X = SparseTensor(coords, random.choice([2.0, 3.0], len(coords)), (40, 50))
    sizes = [RateDistortion(max_error=0.0, orders=True).fit(X).size()["bytes_with_order"]]
    for error in (0.02, 0.05):
        model = RateDistortion(max_error=error, orders=True).fit(X)
        assert 0.7 * error < model.error(X)["error"] / X.norm2 <= error
        sizes.append(model.size()["bytes_with_order"])
    assert sizes == sorted(sizes, reverse=True)


def test_bits_of_cells_add_up_to_those_of_the_pairs_that_they_share() -> None:
    often = [[0, 0, third] for third in range(12)]
    X = SparseTensor([*often, [1, 1, 1], [2, 2, 2], [3, 0, 3], [3, 4, 9]], np.ones(16), (5, 5, 12))
    found = CellBits(X, orders=False, counted=False).of(np.arange(16))
    assert found[:12].max() < found[12:].min()  # all of a pair that is known beside a pair that is not
    stored = CellBits(X, orders=True, counted=False).of(np.arange(16))
    assert np.all(stored > found) and stored[13] - found[13] > stored[0] - found[0]
    alone = CellBits(X, orders=False, counted=False).of(np.array([13]))
    assert alone[13] >= alone[14]  # a cell is not counted for itself


def test_a_code_that_is_much_shorter_than_the_usual_one_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    X = weighted(9, (60, 80))
    length = exact.quick_length
    plain = RateDistortion(max_bytes=300.0, orders=True).fit(X)
    monkeypatch.setattr("pipeline.baselines.rate_distortion.quick_length", lambda *given: 2 * length(*given))
    again = RateDistortion(max_bytes=300.0, orders=True).fit(X)
    assert 240 <= again.size()["bytes_with_order"] <= 308
    assert again.error(X)["error"] <= 1.3 * plain.error(X)["error"]


def test_a_size_is_met_where_most_indices_are_rare() -> None:
    random = np.random.default_rng(7)
    columns = np.repeat(np.arange(700), random.integers(1, 9, 700))
    coords = np.unique(np.stack(((random.pareto(0.8, len(columns)) * 5).astype(int) % 600, columns), axis=1), axis=0)
    X = SparseTensor(coords, np.ones(len(coords)), (600, 700))
    assert 450 <= RateDistortion(max_bytes=500.0, orders=True).fit(X).size()["bytes_with_order"] <= 500


def test_what_is_compiled_on_the_way_does_not_count_as_time_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = itertools.count(0.0, 1e6)  # every look finds a million seconds more
    monkeypatch.setattr("pipeline.baselines.base.compiling_seconds", lambda: next(compiled))
    RateDistortion(max_bytes=200.0).fit(weighted(7))  # kernels
    model = RateDistortion(max_bytes=200.0, max_seconds=1e-9).fit(weighted(7))
    assert model.history_[0]["coded"] == RateDistortion(max_bytes=200.0).fit(weighted(7)).history_[0]["coded"] > 1


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 10)])
def test_of_the_two_estimates_of_bits_the_one_with_the_shorter_code_is_taken(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    X = weighted(10, shape)
    best = RateDistortion(max_error=0.3, orders=True).fit(X).size()["bytes_with_order"]
    alone = []
    for counted in (False, True):
        only = functools.partial(lambda chosen, X, orders, _: CellBits(X, orders, chosen), counted)
        monkeypatch.setattr("pipeline.baselines.rate_distortion.CellBits", only)
        alone.append(RateDistortion(max_error=0.3, orders=True).fit(X).size()["bytes_with_order"])
    assert best == min(alone)


def monthly() -> SparseTensor:
    """Counts of ten months for 72 x 40 pairs, half of which have a rate."""
    random = np.random.default_rng(0)
    rates = np.where(random.random((72, 40)) < 0.5, random.gamma(2.0, 0.8, (72, 40)), 0.0)
    return SparseTensor.from_dense(random.poisson(rates, (10, 72, 40)))


@pytest.fixture(scope="module")
def filled() -> RateDistortion:
    return RateDistortion(max_error=0.15, orders=True).fit(monthly())


def test_what_is_not_told_beside_told_cells_is_filled_with_its_mean(filled: RateDistortion, tmp_path: Path) -> None:
    X = monthly()
    assert filled.fill_ is not None and filled.fill_.mode == 0
    dense, cells = X.to_dense(), np.argwhere(np.ones(X.shape))
    answers = filled.predict(cells).reshape(X.shape)
    told = np.zeros(X.shape, dtype=bool)
    told[tuple(filled.cells_.coords.T)] = True
    means = np.unique(answers[~told & (answers != 0)])
    assert len(means) > 1
    for mean in means:
        group = ~told & (answers == mean)
        assert abs(dense[group].mean() - mean) <= filled.fill_.unit
        assert len(np.unique(np.frexp(told.sum(axis=0))[1][np.any(group, axis=0)])) == 1  # as many told of each pair
    assert np.isclose(filled.error(X)["error"], np.sum((dense - answers) ** 2), rtol=1e-12)
    coords, values = filled.held_cells()
    again = np.zeros(X.shape)
    again[tuple(coords.T)] = values
    assert np.array_equal(again, answers) and len(coords) == np.count_nonzero(answers)
    filled.save(tmp_path / "m.safetensors")
    loaded = pipeline.load(tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict(cells), filled.predict(cells)) and loaded.size() == filled.size()
    other = SparseTensor([[0, 0, 0], [9, 11, 39]], [3.0, -1.0], X.shape)  # another tensor's error
    assert np.isclose(loaded.error(other)["error"], np.sum((other.to_dense() - answers) ** 2), rtol=1e-12)


def test_a_fill_is_worth_its_bytes_and_is_left_out_where_it_is_not(filled: RateDistortion) -> None:
    X = monthly()
    kept = np.flatnonzero(X.values > 1)
    found = fill.best(X, kept, 1e-3, range(3))
    assert found is not None and found.fill.mode == 0
    assert fill.best(X, kept, found.gain, range(3)) is None
    signed = SparseTensor(X.coords, np.where(X.coords[:, 1] < 36, X.values, -X.values), X.shape)
    assert fill.best(signed, kept, 1e-1, [0]) is None  # means of values that cancel are worth nothing


@pytest.mark.parametrize("told", [[3, 0.5], [0, 0.0], [0, -1.0], [-1, 0.5], [0], "0", [True, 0.5], [0, "1"], [1, 0.5]])
def test_a_damaged_fill_is_refused(filled: RateDistortion, told: object) -> None:
    tensors, content = filled._contents(True)
    with pytest.raises(InputError, match="fill"):
        RateDistortion.from_artifact(tensors, content | {"fill": told})
