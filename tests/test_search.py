"""The search for the best artifact within a size or an error."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pipeline.__main__ as kronflow
from pipeline.baselines import METHODS
from pipeline.commands import search as searching
from pipeline.commands.deadline import OutOfTimeError, given_up_after
from pipeline.core.settings import settings_of
from pipeline.errors import InputError
from pipeline.methods import COMPRESSORS
from pipeline.methods import METHODS as TABLE
from pipeline.sparse import SparseTensor
from tests.quick import QUICK

CHEAP = ["lossless", "truncation", "accams", "cmd", "t-svd", "cp"]


def blocks() -> SparseTensor:
    """A noisy 3 x 3 co-clustering of 60 x 90 cells."""
    random = np.random.default_rng(0)
    rows, columns = random.integers(0, 3, 60), random.integers(0, 3, 90)
    chance = np.array([[0.9, 0.0, 0.1], [0.0, 0.8, 0.0], [0.0, 0.0, 0.9]])[rows][:, columns]
    return SparseTensor.from_dense(random.uniform(size=chance.shape) < chance)


def test_within_a_size_the_least_error_wins(tmp_path: Path) -> None:
    lines: list[str] = []
    found = searching.search(blocks(), max_bytes=1500, methods=CHEAP, tell=lines.append)
    assert found.best.file_bytes <= 1500
    fitting = [attempt for attempt in found.attempts if attempt.file_bytes <= 1500]
    assert found.best.relative_error == min(attempt.relative_error for attempt in fitting)
    assert len(lines) >= len(found.attempts)
    found.best.model.save(tmp_path / "best.safetensors")
    assert (tmp_path / "best.safetensors").stat().st_size == found.best.file_bytes


def test_what_fits_without_loss_ends_the_search() -> None:
    found = searching.search(blocks(), max_bytes=10**6)
    assert [attempt.method for attempt in found.attempts] == ["lossless"]
    assert found.fates["neukron"] == "nothing can be better than exact"
    assert found.best.relative_error == 0.0


@pytest.mark.parametrize("limit", [0.0, 0.25, 0.6])
def test_within_an_error_the_smallest_file_wins(limit: float) -> None:
    found = searching.search(blocks(), max_error=limit, methods=CHEAP)
    assert found.best.relative_error <= limit * (1 + 1e-9)
    fitting = [attempt for attempt in found.attempts if attempt.relative_error <= limit]
    assert found.best.file_bytes == min(attempt.file_bytes for attempt in fitting)


def test_a_tensor_gets_the_methods_that_can_handle_it() -> None:
    random = np.random.default_rng(0)
    X = SparseTensor.from_dense(random.integers(0, 2, (6, 7, 8)))
    found = searching.search(X, max_error=0.9, methods=["truncation", "tucker", "t-svd"])
    assert {attempt.method for attempt in found.attempts} <= {"truncation", "tucker"}
    with pytest.raises(InputError, match="t-svd can handle"):
        searching.search(X, max_error=0.9, methods=["t-svd"])


def test_neukron_is_a_candidate_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    class Quick(METHODS["t-svd"]):  # type: ignore[misc]
        def __init__(self, **settings: object) -> None:
            given.append(settings)
            super().__init__(rank=1)

    monkeypatch.setattr("pipeline.neukron.NeuKron", Quick)
    found = searching.search(blocks(), max_bytes=6000, methods=["neukron"], neukron={"max_epochs": 1}, seed=5)
    assert found.best.method == "neukron"
    assert {"seed": 5, "max_epochs": 1, **found.attempts[0].settings} in given


def test_neukron_has_a_time_limit_and_the_search_says_which() -> None:
    X = SparseTensor([[0, 0], [3, 1], [2, 5]], [1.0, 2.0, 3.0], (4, 6))
    lines: list[str] = []
    settings = {"max_epochs": 2, "order_init": "degree"}
    searching.search(X, max_bytes=5000, methods=["neukron"], neukron=settings, tell=lines.append)
    assert lines[-1].startswith("neukron(hidden=") and lines[-1].endswith("; 2 epochs, allowed max_epochs=2")


def test_neukron_without_a_limit_ends_with_the_search() -> None:
    X = SparseTensor([[0, 0], [3, 1], [2, 5]], [1.0, 2.0, 3.0], (4, 6))
    found = searching.search(X, max_bytes=5000, methods=["neukron"], neukron={"order_init": "degree"}, seconds=2.0)
    assert 0 < found.best.model.max_seconds <= 2.0  # type: ignore[attr-defined]


def test_a_search_whose_time_is_over_takes_the_best_so_far_and_says_so() -> None:
    ticks = iter(range(10**6))  # every look at the clock finds it a second later
    lines: list[str] = []
    found = searching.search(
        blocks(), max_error=0.6, methods=CHEAP, seconds=9.0, clock=lambda: float(next(ticks)), tell=lines.append
    )
    assert found.best.method in ("lossless", "truncation")
    assert found.fates["cp"] == "the 9 s of the search are over"
    assert "cp: passed over, the 9 s of the search are over" in lines
    assert list(found.fates) == ["lossless", "truncation", "accams", "cmd", "t-svd", "cp"]


def test_every_candidate_has_a_fate_and_one_is_chosen() -> None:
    methods = ["lossless", "truncation", "accams", "t-svd", "kronfit"]
    found = searching.search(blocks(), max_bytes=590, methods=methods)
    assert list(found.fates) == methods
    assert [name for name, fate in found.fates.items() if fate.endswith(": chosen")] == [found.best.method]
    assert found.fates["lossless"].startswith("beyond the limit: ")
    for attempt in found.attempts:
        assert "relative error" in found.fates[attempt.method]


@pytest.mark.parametrize("method", ["lossless", "truncation", "accams", "cmd", "t-svd", "tucker", "kronfit"])
@pytest.mark.parametrize("limit", [1, 300, 500, 900])
def test_a_size_too_small_for_a_method_ends_its_search(method: str, limit: int) -> None:
    lines: list[str] = []
    try:
        found = searching.search(blocks(), max_bytes=limit, methods=[method], tell=lines.append)
    except InputError as error:
        assert "allow more" in str(error) and lines[-1].startswith(f"{method}: none within {limit} bytes")
    else:
        assert found.best.file_bytes <= limit


def tensors() -> list[SparseTensor]:
    rng = np.random.default_rng(3)
    found = [SparseTensor([[0, 0], [3, 1], [2, 5]], [1.0, 2.0, 3.0], (4, 6)), blocks()]
    for shape in ((1, 1), (7,), (5, 6, 7), (2, 3, 2, 2), (10**7, 10**6)):
        coords = np.unique(rng.integers(0, shape, (20, len(shape))), axis=0)
        found.append(SparseTensor(coords, rng.uniform(size=len(coords)), shape))
    return found


LEAST: dict[str, dict[str, object]] = {
    **{name: {"rank": 1} for name in ("t-svd", "cp", "tucker")},
    **{name: {"rows": 1, "columns": 1} for name in ("cur", "cmd")},
    **{name: {"stencils": 1, "clusters": 1} for name in ("accams", "baccams")},
    "truncation": {"keep": 1e-9},
    "neukron": {"hidden": 1, "max_epochs": 1, "threads": 1},
}


@pytest.mark.parametrize("method", COMPRESSORS)
def test_no_file_is_smaller_than_what_a_method_is_passed_over_for(method: str) -> None:
    kind = TABLE[method].load()
    for X in tensors():
        if not kind.takes_order(X.order):
            continue
        usual = {"kronfit": {"seed_power": 5, "max_sweeps": 1}, "hybrid": QUICK["hybrid"]}.get(method, {})
        for settings in (LEAST[method], usual) if method in LEAST else (usual,):
            if method == "neukron" and settings is not LEAST[method]:
                continue
            model = kind(**settings).fit(X)
            for orders in (True, False):
                size, least = searching.file_bytes(model, orders), model.least_file_bytes(X, orders)
                assert least <= size, (X, settings)
                assert not orders or settings is not LEAST.get(method) or least >= 0.4 * size, (X, size)


def test_what_cannot_be_is_passed_over_without_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    X = SparseTensor([[0, 0], [1, 1], [2, 4], [3, 3]], [3.0, 1.0, -2.0, 1.0], (4, 5))
    lines: list[str] = []
    monkeypatch.setattr("pipeline.neukron.NeuKron.fit", None)
    monkeypatch.setattr(METHODS["kronfit"], "fit", None)
    found = searching.search(X, max_error=0.2, tell=lines.append)
    assert {"kronfit", "neukron"}.isdisjoint(attempt.method for attempt in found.attempts)
    assert any(line.startswith("neukron: ") and "passed over" in line for line in lines)
    lines.clear()
    searching.search(X, max_error=0.2, methods=["neukron", "truncation", "kronfit"], tell=lines.append)
    wanted = "passed over, 26.7% of the squared norm is in negative values, which it cannot answer, and 20.0% is"
    wide = SparseTensor(X.coords, X.values, (4000, 5))
    with pytest.raises(InputError, match="no candidate reaches"):
        searching.search(wide, max_error=0.2, methods=["neukron"], tell=lines.append)
    assert any(line.startswith(f"neukron: {wanted} looked for") for line in lines)
    lines.clear()
    with pytest.raises(InputError, match=r"at most 100 bytes; allow more; none .* below \d+ bytes"):
        searching.search(X, max_bytes=100)
    near = SparseTensor([[0, 0], [11, 1], [29, 29]], [3.0, -2.0, 0.1], (30, 30))
    searching.search(near, max_bytes=1000, methods=["t-svd", "neukron"], tell=lines.append)
    assert any(line.startswith("neukron: passed over, 30.7%") and line.endswith("0.1% is reached") for line in lines)


def test_a_method_that_refuses_a_tensor_does_not_end_the_search() -> None:
    one = SparseTensor([[5], [9], [2]], [2.0, 1.0, 3.0], (10,))
    assert "cp" not in searching.automatic_grid(one, 256, 5000)
    found = searching.search(one, max_error=0.3, methods=["lossless", "truncation", "cp", "tucker"])
    assert found.best.method == "lossless"
    lines: list[str] = []
    huge = SparseTensor([[0, 0], [1, 1]], [1e200, -1e200], (4, 5))
    found = searching.search(huge, max_error=0.3, methods=["lossless", "truncation", "t-svd"], tell=lines.append)
    assert found.best.method == "lossless"
    assert [line for line in lines if line.startswith("truncation: passed over, values of size up to 1e+200")]
    with pytest.raises(InputError, match="multiply them by a number"):
        searching.search(huge, max_error=0.3, methods=["truncation"])


def test_equal_settings_are_fitted_once() -> None:
    found = searching.search(blocks(), max_error=0.9, methods=["t-svd"])
    settings = [str(attempt.settings) for attempt in found.attempts]
    assert len(settings) == len(set(settings))


def test_the_width_of_neukron_uses_the_size() -> None:
    from pipeline.neukron import NeuKron
    from pipeline.neukron.levels import Levels
    from pipeline.neukron.model import SequenceModel

    X = SparseTensor.from_dense(np.eye(60, 90))
    for size in (1000, 5000, 40_000):
        settings = NeuKron.settings_within(X, size, orders=False)
        assert settings is not None
        counts = [SequenceModel(Levels(X.shape), settings["hidden"] + more, 0).parameter_count() for more in (0, 1)]
        assert 4 * counts[0] <= size < 4 * counts[1]


@pytest.mark.parametrize(
    "method",
    [
        name
        for name, kind in METHODS.items()
        if settings_of(kind) and name not in ("truncation", "rate-distortion", "lossless")
    ],
)
def test_settings_hit_the_size_they_were_asked_for(method: str) -> None:
    random = np.random.default_rng(1)
    X = SparseTensor.from_dense(random.uniform(size=(200, 300)) < 0.05)
    settings = METHODS[method].settings_within(X, 20_000, orders=False)
    assert settings is not None
    quick = {name: value for name, value in (("max_sweeps", 2), ("share", 0.5)) if name in METHODS[method].declared}
    size = METHODS[method](**settings, **quick).fit(X).size()["bytes_equal"]
    assert size <= 20_000 * (1.2 if method in ("cur", "cmd") else 1.0)
    assert size >= 20_000 * (0.05 if method == "kronfit" else 0.3)


def test_no_setting_where_nothing_fits() -> None:
    X = SparseTensor.from_dense(np.eye(50))  # orders of 71 bytes, factors of 404 bytes a rank
    assert METHODS["t-svd"].settings_within(X, 400, orders=True) is None
    assert METHODS["kronfit"].settings_within(X, 72, orders=True) is None
    assert METHODS["kronfit"].settings_within(X, 72, orders=False) == {"seed_power": 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "either a size"),
        ({"max_bytes": 10, "max_error": 0.1}, "either a size"),
        ({"max_bytes": 0}, "at least 1"),
        ({"max_error": 1.5}, "from 0 to 1"),
        ({"max_bytes": 10, "methods": ["tsvd"]}, "did you mean 't-svd'"),
        ({"max_bytes": 10, "methods": ["t-svd"]}, "no method makes a file of at most 10 bytes"),
        ({"max_error": 1e-9, "methods": ["kronfit"]}, "add 'lossless'"),
    ],
)
def test_wrong_requests(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        searching.search(blocks(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "X",
    [
        SparseTensor([[0, 0], [1, 1], [2, 4], [3, 3]], [3.0, 1.0, 2.0, 1.0], (4, 5)),
        SparseTensor([[0, 0]], [2.0], (1, 1)),
        SparseTensor([[0, 0], [1 << 24, 1 << 23], [6, 1 << 28]], [5.0, 2.0, 3.0], (1 << 25, 1 << 29)),
    ],
)
def test_a_grid_offers_nothing_that_is_refused(X: SparseTensor) -> None:
    for smallest, largest in ((1, 50), (100, 2000)):
        grid = searching.automatic_grid(X, smallest, largest, points=2)
        del grid["lossless"]
        for name, settings in grid.items():
            for place in range(len(next(iter(settings.values())))):
                chosen = {key: values[place] for key, values in settings.items()}
                chosen |= {"max_epochs": 1} if name == "neukron" else {}
                TABLE[name].load()(**chosen).fit(X)


def test_methods_that_are_not_exact_unpack_the_indices_that_occur(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    X = SparseTensor([[0, 0], [1 << 24, 1 << 23], [6, 1 << 28]], [5.0, 2.0, 3.0], (1 << 25, 1 << 29))
    model = METHODS["t-svd"](rank=3).fit(X)
    model.save("x.safetensors")
    kronflow.main(["decompress", "x.safetensors", "x.csv", "--top", "3"])
    kronflow.main(["decompress", "x.safetensors", "all.parquet"])
    found = SparseTensor.read_parquet("all.parquet")
    assert np.allclose(model.predict(X.coords), X.values)
    assert found.nnz <= 9 and np.isclose(found.norm2, X.norm2)
    with pytest.raises(InputError, match="all 0 cells are zero"):
        kronflow.main(["decompress", "x.safetensors", "none.csv", "--block", "1:6,:"])


def test_one_cell_that_dominates_does_not_keep_the_others_from_being_told() -> None:
    random = np.random.default_rng(2)
    coords = np.unique(random.integers(0, 60, (400, 2)), axis=0)
    values = random.uniform(0.5, 1.0, len(coords))
    values[17] = 1e6
    X = SparseTensor(coords, values, (60, 60))
    found = searching.search(X, max_bytes=1200, methods=["rate-distortion", "truncation"])
    small = searching.search(X, max_bytes=800, methods=["rate-distortion", "truncation"])
    rest = X.norm2 - 1e12
    assert 0 < found.best.relative_error * X.norm2 < 0.9 * small.best.relative_error * X.norm2 < 0.9 * rest


def test_what_is_regular_is_told_exactly_where_rate_distortion_is_far_from_it() -> None:
    X = SparseTensor.from_dense(np.kron(np.eye(30, dtype=bool), np.ones((6, 9))))
    size = searching.search(X, max_error=0.0, methods=["lossless"]).best.file_bytes
    found = searching.search(X, max_bytes=size, methods=["lossless", "rate-distortion"])
    assert (found.best.method, found.best.relative_error) == ("lossless", 0.0)


def test_where_an_error_will_do_the_cells_that_pay_come_before_an_exact_code() -> None:
    ticks = iter(range(10**6))  # every look at the clock finds it a second later
    found = searching.search(blocks(), max_error=0.3, seconds=3.0, clock=lambda: float(next(ticks)))
    assert found.best.method == "rate-distortion"


def test_what_never_ends_is_given_up_when_its_time_is_over_and_not_before() -> None:
    seconds = iter([0.001, 0.001, -1.0])  # the second look finds that some was not counted
    with pytest.raises(OutOfTimeError), given_up_after(lambda: next(seconds)):
        time.sleep(60)
    assert next(seconds, None) is None
    with given_up_after(lambda: 0.01):
        pass
    time.sleep(0.06)  # nothing rings afterwards


def test_imports_and_other_threads_are_not_given_up() -> None:
    waited = {"__name__": "numba.core.compiler", "time": time}
    with given_up_after(lambda: -1.0):
        exec("time.sleep(0.12)", waited)  # noqa: S102 - a frame of that module
    ended: list[bool] = []

    def work() -> None:
        with given_up_after(lambda: -1.0):
            time.sleep(0.06)
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


def test_a_fit_without_end_is_given_up_once_the_search_has_something(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bool] = []

    def endless(model: object, X: object) -> None:
        begun.append(True)
        time.sleep(60)

    METHODS["accams"]().warm_up(2)
    monkeypatch.setattr(METHODS["accams"], "_fit", endless)
    monkeypatch.setattr(searching, "LEAST_SECONDS", 0.01)
    clock = lambda: 60.0 * len(begun)  # noqa: E731 - a fit takes a minute
    found = searching.search(blocks(), max_bytes=590, methods=["truncation", "accams"], seconds=0.05, clock=clock)
    assert found.best.method == "truncation"
    assert found.fates["accams"] == "the 0.05 s of the search are over, it was not fitted to its end"


def test_time_that_is_over_before_anything_fits_is_told_with_its_remedy() -> None:
    ticks = iter(range(10**6))
    with pytest.raises(InputError, match=r"at most 400 bytes; allow more; .*the 2 s of the search are over: give more"):
        searching.search(blocks(), max_bytes=400, methods=CHEAP, seconds=2.0, clock=lambda: float(next(ticks)))


def test_labels_count_in_the_size_and_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    X = blocks()
    random = np.random.default_rng(4)
    names = [f"{number:x} \u00e9\u4e2d" for number in random.integers(0, 1 << 60, X.shape[1])]
    named = SparseTensor(X.coords, X.values, X.shape, labels={1: names})
    extra = searching.label_bytes(named)
    plain = searching.search(X, max_bytes=560, methods=["truncation"]).best
    found = searching.search(named, max_bytes=560 + extra, methods=["truncation"]).best
    assert abs(found.file_bytes - extra - plain.file_bytes) < 60
    assert abs(found.relative_error - plain.relative_error) < 0.04
    many = SparseTensor(X.coords, X.values, X.shape, labels={1: [random.bytes(60).hex() for _ in names]})
    most = searching.label_bytes(many)
    assert most > 4 * 560  # so that hardly any of the size is the cells'
    found = searching.search(many, max_bytes=560 + most, methods=["truncation"]).best
    assert abs(found.relative_error - plain.relative_error) < 0.06
    with pytest.raises(InputError, match=rf"the labels of its indices take {extra:,} of them: .*--no-labels"):
        searching.search(named, max_bytes=extra, methods=["truncation", "lossless"])
    named.write_parquet("x.parquet")
    wanted = ["--bytes", "600", "--method", "truncation"]
    with pytest.raises(InputError, match="--no-labels"):
        kronflow.main(["compress", "x.parquet", "x.safetensors", *wanted])
    kronflow.main(["compress", "x.parquet", "x.safetensors", "--no-labels", *wanted])
    assert 400 < Path("x.safetensors").stat().st_size <= 600
