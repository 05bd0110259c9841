"""The compressor as its users see it: fit, predict, error, size, save; golden checkpoints."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline import __main__ as cli
from pipeline.commands.reference_file import import_checkpoint, read_reference_text
from pipeline.errors import InputError
from pipeline.neukron import NeuKron, order_search, trainer, walk
from pipeline.neukron.adam import Adam
from pipeline.neukron.cells import CELLS
from pipeline.runs import compressor
from pipeline.runs.artifact import read_artifact, write_artifact
from pipeline.sparse import SparseTensor


def small_tensor(shape: tuple[int, ...] = (3, 4, 2), seed: int = 0) -> SparseTensor:
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 4, shape) * (rng.random(shape) < 0.4)
    dense.flat[0] = 1
    return SparseTensor.from_dense(dense)


def quick(**settings: Any) -> NeuKron:
    """One thread, no trial of orders."""
    return NeuKron(**({"hidden": 4, "order_init": "degree", "threads": 1, "device": "cpu"} | settings))


def test_adam_moves_parameters_to_the_bit_as_torch_does() -> None:
    twins = []
    for make in (Adam, torch.optim.Adam):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(7, 3)), torch.nn.Parameter(torch.randn(2))]  # the last never moves
        optimiser = make(parameters, lr=0.05)
        for step in range(6):
            if step == 3:  # what is saved goes on elsewhere
                saved = copy.deepcopy(optimiser.state_dict())
                optimiser = make(parameters, lr=0.05)
                optimiser.load_state_dict(saved)
                optimiser.param_groups[0]["lr"] *= 0.5
            optimiser.zero_grad()
            parameters[0].square().sum().backward()
            optimiser.step()
        twins.append((parameters, optimiser.state_dict()["state"]))
    (ours, moments), (theirs, expected) = twins
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert moments.keys() == expected.keys() == {0}
    assert all(torch.equal(moments[0][name], expected[0][name]) for name in expected[0])


def test_training_starts_without_torchs_compiler_and_leaves_its_threads_alone() -> None:
    code = (
        "import sys, torch; from pipeline.neukron import NeuKron; torch.set_num_threads(2); "
        "NeuKron(hidden=2, max_epochs=1, threads=1).fit([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]); "
        "print('torch._dynamo' in sys.modules, torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "False 2\n"


def dense_prediction(model: NeuKron) -> np.ndarray:
    return model.predict(np.argwhere(np.ones(model.shape_))).reshape(model.shape_)


def kronecker_tensor() -> SparseTensor:
    """A planted answer: the fourth Kronecker power of a 2 x 2 seed with exact zeros."""
    seed = np.array([[3.0, 1.0], [2.0, 0.0]])
    dense = np.ones((1, 1))
    for _ in range(4):
        dense = np.kron(dense, seed)
    return SparseTensor.from_dense(dense)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
    schedule=st.sampled_from(["fast", "paper"]),
    seed=st.integers(0, 99),
    cell=st.sampled_from(sorted(CELLS)),
)
def test_error_equals_the_dense_error(shape: tuple[int, ...], schedule: str, seed: int, cell: str) -> None:
    X = small_tensor(shape, seed)
    model = quick(cell=cell, schedule=schedule, max_epochs=2, seed=seed).fit(X)
    error = model.error(X)
    assert error["error"] == pytest.approx(((X.to_dense() - dense_prediction(model)) ** 2).sum(), rel=1e-4, abs=1e-4)
    assert error["error"] <= error["error_padded"] + 1e-6
    assert "error_interval" not in error


def test_both_schedules_find_a_planted_kronecker_tensor() -> None:
    X = kronecker_tensor()
    for schedule, epochs, lr in (("fast", 60, None), ("paper", 500, 3e-2)):
        model = NeuKron(
            hidden=6, schedule=schedule, order_init="degree", max_epochs=epochs, lr=lr, threads=1, device="cpu"
        )
        assert model.fit(X).error(X)["error_padded"] < 0.02 * X.norm2, schedule


@pytest.mark.parametrize("cell", ["gru", "transformer", "seeds"])
def test_every_cell_finds_a_planted_kronecker_tensor(cell: str) -> None:
    X = kronecker_tensor()
    model = quick(hidden=6, cell=cell, max_epochs=25).fit(X)
    assert model.error(X)["error_padded"] < 0.1 * X.norm2


@pytest.mark.parametrize(("schedule", "cell"), [("fast", "lstm"), ("paper", "lstm"), ("paper", "gru")])
def test_same_seed_gives_the_same_bits_on_any_number_of_threads(schedule: str, cell: str) -> None:
    X = small_tensor((20, 50), 3)
    fits = [
        NeuKron(hidden=5, cell=cell, schedule=schedule, max_epochs=6, seed=4, threads=threads, device="cpu").fit(X)
        for threads in (1, 2)
    ]
    first, second = (model.model_.state_dict() for model in fits)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["error"] for row in fits[0].history_] == [row["error"] for row in fits[1].history_]
    other = NeuKron(hidden=5, schedule=schedule, max_epochs=6, seed=5, threads=1, device="cpu").fit(X)
    assert fits[0].history_[-1]["error"] != other.history_[-1]["error"]


@pytest.mark.parametrize("schedule", ["fast", "paper"])
def test_ablation_fixed_scale_keeps_the_norm_of_the_tensor(schedule: str) -> None:
    X = small_tensor((20, 50), 3)
    fixed, learned = (quick(schedule=schedule, scale=scale, max_epochs=3).fit(X) for scale in ("fixed", "learned"))
    assert fixed.model_.scale() == pytest.approx(X.norm2**0.5, rel=1e-12)
    assert learned.model_.scale() != pytest.approx(X.norm2**0.5, rel=1e-6)


def test_ablation_uniform_pairs_never_look_at_shingles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError

    X = small_tensor((20, 50), 3)
    usual = quick(max_epochs=3).fit(X)
    monkeypatch.setattr(order_search, "shingles", refuse)
    uniform = quick(pairs="uniform", max_epochs=3).fit(X)
    assert usual.history_ != uniform.history_
    with pytest.raises(AssertionError):
        quick(max_epochs=3).fit(X)


def test_ablation_shared_seeds_make_a_kronecker_product_of_the_seeds() -> None:
    # 4 x 16: two levels of four tokens share one 2 x 2 seed, two levels of two share one 1 x 2 seed
    model = quick(cell="seeds", max_epochs=3).fit(small_tensor((4, 16), 1))
    square = torch.nn.functional.softplus(model.model_.first.detach()).reshape(2, 2).numpy()
    row = torch.nn.functional.softplus(model.model_.seeds["2"].detach()).reshape(1, 2).numpy()
    product = np.kron(np.kron(square, square), np.kron(row, row))
    product *= model.model_.scale() / np.linalg.norm(product)
    assert model.orders_ is not None
    expected = product[np.ix_(model.orders_[0], model.orders_[1])]
    np.testing.assert_allclose(dense_prediction(model), expected, rtol=1e-5)
    assert model.parameter_count() == 4 + 2 + 1


def test_ablation_random_initial_order() -> None:
    X = small_tensor((30, 60), 1)
    starts = [("random", 0), ("random", 1), ("degree", 0)]
    orders = [(quick(max_epochs=1, order_init=kind, seed=seed).fit(X).orders_ or [])[1] for kind, seed in starts]
    weight = np.zeros(64)
    np.add.at(weight, X.coords[:, 1], X.values**2)
    heavy_first = [float((weight * order).sum()) for order in orders]
    assert heavy_first[2] < 0.8 * min(heavy_first[:2])
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_numbers_fit_and_both_errors_are_told(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    X = kronecker_tensor()
    model = quick(hidden=6, precision=precision, max_epochs=15).fit(X)
    fine = model.error(X)["error_padded"]
    assert fine < 0.5 * X.norm2
    assert model.training_error_ != fine
    assert model.training_error_ == pytest.approx(fine, abs=0.1 * X.norm2)
    assert model.training_error_ == min(row["error"] for row in model.history_)
    assert f"{model.training_error_:.6g} in {precision}, {fine:.6g} in float32" in caplog.text
    assert "the faster compiled kernels are for cell=lstm, precision=float32" in caplog.text


def test_best_model_is_kept() -> None:
    X = small_tensor((20, 50), 1)
    model = NeuKron(hidden=5, max_epochs=12, lr=0.3, threads=1, device="cpu").fit(X)
    best = min(row["error"] for row in model.history_)
    assert model.error(X)["error_padded"] == pytest.approx(best, rel=1e-6)


def test_patience_stops() -> None:
    X = SparseTensor([[0, 0], [1, 1]], [1.0, 1.0], (2, 2))
    model = NeuKron(hidden=2, patience=3, threads=1, device="cpu", max_epochs=2000, lr=1e-12).fit(X)
    assert len(model.history_) < 2000


def test_modes_keep_the_tensors_own_order() -> None:
    X = small_tensor((9, 3, 5), 2)
    model = NeuKron(hidden=4, max_epochs=3, threads=1, device="cpu").fit(X)
    assert model.shape_ == (9, 3, 5)
    dense = dense_prediction(model)
    assert model.error(X)["error"] == pytest.approx(((X.to_dense() - dense) ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_artifact_answers_as_the_model_does(tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    X = small_tensor((9, 3, 5), 2)
    model = quick(cell=cell, max_epochs=2).fit(X)
    model.save(tmp_path / "m.safetensors")
    loaded = pipeline.load(tmp_path / "m.safetensors")
    assert np.array_equal(dense_prediction(loaded), dense_prediction(model))
    assert loaded.error(X) == model.error(X)
    assert loaded.size() == model.size() and loaded.cell == cell
    cli.main(["info", str(tmp_path / "m.safetensors"), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["settings"].get("cell", "lstm") == cell and content["parameters"] == model.parameter_count()
    size = model.size()
    assert size["bytes"] == size["bytes_equal"] == 4 * model.parameter_count()
    assert size["bytes_with_order"] > size["bytes"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_quantised_artifacts_answer_as_the_quantised_model(tmp_path: Path, weights: str, cell: str) -> None:
    X = kronecker_tensor()
    epochs = 40 if cell == "lstm" else 4
    model = quick(hidden=6, cell=cell, max_epochs=epochs).fit(X)
    rounded = model.quantised(weights)
    rounded.save(tmp_path / "m.safetensors")
    loaded = pipeline.load(tmp_path / "m.safetensors")
    assert np.array_equal(dense_prediction(loaded), dense_prediction(rounded))
    assert loaded.error(X) == rounded.error(X) and loaded.size() == rounded.size()
    size = rounded.size()
    assert size["bytes"] < (0.6 if weights == "float16" else 0.5) * size["bytes_equal"] + 800
    assert rounded.error(X)["error"] < model.error(X)["error"] + 0.05 * X.norm2
    with pytest.raises(InputError, match="did you mean 'int8'"):
        model.quantised("int9")


def test_artifact_without_orders_answers_in_its_own_order(tmp_path: Path) -> None:
    X = small_tensor((9, 3, 5), 2)
    model = NeuKron(hidden=4, max_epochs=3, threads=1, device="cpu").fit(X)
    model.save(tmp_path / "m.safetensors", orders=False)
    loaded = pipeline.load(tmp_path / "m.safetensors")
    assert loaded.shape_ == (16, 4, 8)
    assert loaded.size() == model.size()
    ascending = [1, 2, 0]
    own = np.empty_like(X.coords)
    for rank, mode in enumerate(ascending):
        own[:, mode] = model.orders_[rank][X.coords[:, mode]]
    assert np.array_equal(loaded.predict(own), model.predict(X.coords))


@pytest.mark.parametrize(
    ("name", "padded", "real", "parameters"),
    [("matrix", 437.333, 426.24, 29039), ("tensor", 84931.21, None, 29995)],
)
def test_golden_checkpoints(
    mirror: Path, tmp_path: Path, name: str, padded: float, real: float | None, parameters: int
) -> None:
    folder = mirror / "neukron-reference"
    X = read_reference_text(folder / f"example_{name}.txt")
    model = import_checkpoint(folder / f"example_{name}_min.pt", X)
    model.save(tmp_path / "golden.safetensors")
    error = pipeline.load(tmp_path / "golden.safetensors").error(X)
    assert error["error_padded"] == pytest.approx(padded, rel=2e-6)
    assert model.parameter_count() == parameters
    if real is not None:
        assert error["error"] == pytest.approx(real, abs=0.005)


@pytest.mark.parametrize("cell", CELLS)
def test_real_mass_sampled_agrees_with_enumeration(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    X = small_tensor((11, 23), 5)
    model = quick(cell=cell, max_epochs=3).fit(X)
    exact = model.error(X)
    monkeypatch.setattr(walk, "EXACT_CELLS", 1)
    sampled = model.error(X)
    low, high = sampled["error_interval"]
    assert low < high
    assert low - 1e-6 <= exact["error"] <= high + 1e-6
    assert sampled["error"] == pytest.approx(exact["error"], rel=0.02)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
    seed=st.integers(0, 99),
    count=st.integers(1, 30),
    in_slice=st.booleans(),
    scanned=st.booleans(),
    cell=st.sampled_from(sorted(CELLS)),
)
def test_largest_cells_are_those_of_a_full_scan(
    shape: tuple[int, ...], seed: int, count: int, in_slice: bool, scanned: bool, cell: str
) -> None:
    model = quick(cell=cell, max_epochs=1, seed=seed).fit(small_tensor(shape, seed))
    fixed = {seed % len(shape): seed % shape[seed % len(shape)]} if in_slice else {}
    cells = np.argwhere(np.ones(shape))
    for mode, index in fixed.items():
        cells = cells[cells[:, mode] == index]
    values = np.sort(model.predict(cells))[::-1][:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressor, "SCAN_CELLS", compressor.SCAN_CELLS if scanned else 0)
        coords, found = model.largest(count, fixed)
    np.testing.assert_allclose(found, values, rtol=1e-5)
    np.testing.assert_allclose(model.predict(coords), found, rtol=1e-5)
    assert all((coords[:, mode] == index).all() for mode, index in fixed.items())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2.5}, "seed=2.5"),
        ({"hidden": True}, "hidden=True"),
        ({"max_seconds": True}, "max_seconds=True"),
        ({"lr": "fast"}, "lr=fast: needs a number"),
        ({"cell": "lstn"}, "did you mean 'lstm'"),
        ({"schedule": "papr"}, "did you mean 'paper'"),
        ({"pairs": "shingle"}, "did you mean 'shingles'"),
        ({"scale": "fix"}, "did you mean 'fixed'"),
        ({"precision": "float"}, "did you mean 'float"),
        ({"hidden": 0}, "hidden=0"),
        ({"hidden": 2.5}, "hidden=2.5"),
        ({"gamma": -1.0}, "gamma=-1.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"device": "abacus"}, "abacus: not available"),
    ],
)
def test_bad_settings_are_refused(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NeuKron(**settings_).fit(small_tensor())


def test_values_without_a_finite_square_are_refused() -> None:
    X = small_tensor()
    for factor in (1e-200, 1e200):
        with pytest.raises(InputError, match=r"their squares sum to (0|inf)"):
            quick(max_epochs=1).fit(SparseTensor(X.coords, X.values * factor, X.shape))


@pytest.mark.parametrize("factor", [1e-35, 1e-100, 1e30])
def test_the_size_of_the_values_does_not_matter(factor: float) -> None:
    X = kronecker_tensor()
    plain = quick(max_epochs=12, gamma=math.inf).fit(X)
    other = quick(max_epochs=12, gamma=math.inf).fit(SparseTensor(X.coords, X.values * factor, X.shape))
    errors = [row["error"] / X.norm2 for row in plain.history_]
    scaled = [row["error"] / (X.norm2 * factor * factor) for row in other.history_]
    np.testing.assert_allclose(scaled, errors, rtol=0.02)


def test_a_start_whose_best_scale_is_negative_is_left() -> None:
    rng = np.random.default_rng(0)
    dense = -(rng.random((64, 64)) < 0.3).astype(float)
    dense[10:18, 20:28] = 2.0
    X = SparseTensor.from_dense(dense)
    model = quick(hidden=6, order_init="random", seed=3, max_epochs=60).fit(X)
    assert model.error(X)["error_padded"] < 0.97 * X.norm2


def test_a_limit_in_seconds_bounds_the_trial_of_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def initial(kind: str, *arguments: Any) -> list[Any]:
        tried.append(kind)
        return order_search.initial_orders(kind, *arguments)

    monkeypatch.setattr(trainer, "initial_orders", initial)
    model = quick(order_init="auto", max_seconds=1e-9).fit(kronecker_tensor())
    assert tried == ["degree"]
    assert [row["epoch"] for row in model.history_] == [1]
    quick(order_init="auto", max_epochs=1).fit(kronecker_tensor())
    assert tried == ["degree", *trainer.TRIAL_ORDERS]


def test_a_search_without_an_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quick(max_epochs=1).fit(small_tensor((30, 20, 40)))
    monkeypatch.setattr(compressor, "SCAN_CELLS", 0)
    monkeypatch.setattr(walk, "SEARCH_NODES", 10)
    with pytest.raises(InputError, match="prefixes looked at without an end"):
        model.largest(3)


def test_bad_coordinates_are_refused() -> None:
    model = NeuKron(hidden=2, max_epochs=1, threads=1, device="cpu").fit(small_tensor())
    for coords, message in (([[0, 0, 2]], "outside 0..1"), ([[-1, 0, 0]], "outside"), ([[0, 0]], "needs \\(n, 3\\)")):
        with pytest.raises(InputError, match=message):
            model.predict(coords)
    assert model.predict(np.zeros((0, 3), dtype=np.int64)).shape == (0,)


def test_damaged_artifacts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    NeuKron(hidden=2, max_epochs=1, threads=1, device="cpu").fit(small_tensor()).save(path)
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-10], b"\0" * 50, b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"m\.safetensors"):
            pipeline.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [400, 500, 3]}, "where"),
        ({"levels": [3.0, 5.0, 9.0]}, "levels="),
        ({"heads": [8, 4]}, "output layers"),
        ({"seed": "a"}, "seed='a'"),
        ({"hidden": 10**7}, "hidden=10000000"),
        ({"hidden": 40_000}, "would take 51 GB of memory"),
        ({"log_q": 1e308}, "log_q=1e[+]308"),
    ],
)
def test_inconsistent_artifacts_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.safetensors"
    quick(hidden=2, max_epochs=1).fit(small_tensor((9, 3, 5))).save(path)
    tensors, metadata = read_artifact(path)
    write_artifact(path, "neukron", tensors, metadata | change)
    with pytest.raises(InputError, match=message):
        pipeline.load(path)


def test_checkpoints_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"model_state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="weights-only"):
        import_checkpoint(tmp_path / "evil.pt", small_tensor())
    assert not (tmp_path / "ran").exists()


def test_reference_text_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("2, 3\n0, 0, 1\n0, x, 1\n")
    with pytest.raises(InputError, match=r"x\.txt:3"):
        read_reference_text(path)
    for header in ("", "nan, 5\n", "2.5, 5\n", "3, 4, 5\n"):
        path.write_text(header)
        with pytest.raises(InputError, match=r"x\.txt:1"):
            read_reference_text(path)
    path.write_text("2, 3\n0, 1\n")
    with pytest.raises(InputError, match=r"x\.txt:2"):
        read_reference_text(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content["node_perm"].fill_(10**9), "an order names a position twice"),
        (lambda content: content["model_state_dict"]["module.sos"].fill_(float("nan")), "a weight is not finite"),
        (lambda content: content["model_state_dict"].update({"module.level_sq_sum": torch.tensor(-1.0)}), "do not fit"),
        (lambda content: content["model_state_dict"].update({"module.sos": torch.ones(3)}), "of other shapes"),
    ],
)
def test_checkpoints_of_wrong_content_are_refused(mirror: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    folder = mirror / "neukron-reference"
    content = torch.load(folder / "example_matrix_min.pt", weights_only=True, map_location="cpu")
    spoil(content)
    torch.save(content, tmp_path / "spoiled.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint(tmp_path / "spoiled.pt", read_reference_text(folder / "example_matrix.txt"))
