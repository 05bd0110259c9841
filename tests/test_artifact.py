"""What all artifacts share: the file's format and digest, what it tells, what its models answer and refuse."""

from __future__ import annotations

import errno
import json
import os
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse
import torch

import pipeline
from pipeline.baselines import METHODS
from pipeline.errors import InputError
from pipeline.neukron import NeuKron
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel
from pipeline.neukron.weights import CELL_NAMES, weight_shapes
from pipeline.runs import about, frame
from pipeline.runs.about import coded_labels, decoded_labels
from pipeline.runs.artifact import read_artifact, signed, write_artifact
from pipeline.runs.checkpoint import Checkpoint
from pipeline.runs.compressor import Compressor, clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor
from tests.quick import QUICK

OLD = Path(__file__).parent / "artifacts"
ALL = [*METHODS, "neukron"]


def make(name: str, **settings: Any) -> Compressor:
    if name == "neukron":
        return NeuKron(**({"hidden": 3, "max_epochs": 2, "threads": 1, "device": "cpu"} | settings))
    return METHODS[name](**(QUICK["hybrid"] if name == "hybrid" else {}) | settings)


def small(scale: float = 1.0) -> SparseTensor:
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 8, (30, 2)), axis=0)
    return SparseTensor(coords, rng.integers(1, 5, len(coords)) * scale, (8, 8))


@pytest.mark.parametrize("name", json.loads((OLD / "answers.json").read_text()))
def test_artifacts_of_the_first_version_answer_as_ever(name: str, tmp_path: Path) -> None:
    shape, values = json.loads((OLD / "answers.json").read_text())[name]
    model = pipeline.load(OLD / f"{name}.safetensors")
    cells = np.argwhere(np.ones(shape))
    assert model.shape_ == tuple(shape) and model.own_indices_ == ("free" not in name)
    np.testing.assert_allclose(model.predict(cells), values, rtol=2e-6, atol=1e-6)
    model.save(tmp_path / "new.safetensors")
    again = pipeline.load(tmp_path / "new.safetensors")
    assert np.array_equal(again.predict(cells), model.predict(cells)) and again.size() == model.size()
    assert again.own_indices_ == model.own_indices_


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    METHODS["t-svd"](rank=2).fit(small()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="not what was written"):
        pipeline.load(path)
    path.write_bytes(whole.replace(b'\\"rank\\":2', b'\\"rank\\":1'))
    with pytest.raises(InputError, match="not what was written"):
        pipeline.load(path)


@pytest.mark.parametrize(
    ("tensors", "content", "message"),
    [
        ({"seed": np.ones((2, 2))}, {"shape": [4, 4], "power": 10**9, "orders": False}, "power=1000000000"),
        ({"seed": np.ones((2, 2))}, {"shape": [2**33, 2**33], "power": 33, "orders": True}, "would take 69 GB"),
        ({"seed": np.ones((2, 2))}, {"shape": [4, 9], "power": 2, "orders": False}, "do not belong to a seed"),
    ],
)
def test_a_short_kronfit_file_asks_for_no_memory(
    tmp_path: Path, tensors: dict[str, Any], content: dict[str, Any], message: str
) -> None:
    write_artifact(tmp_path / "a.safetensors", "kronfit", tensors, content)
    with pytest.raises(InputError, match=message):
        pipeline.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("right_index", lambda array: array + 12, "'right_index' has an index outside 0..7"),
        ("left_index", lambda array: array.astype(np.int64) - 3, "'left_index' has an index outside"),
        ("left_start", lambda array: array[::-1], "does not divide"),
        ("right_start", lambda array: array[:-1], "of shape"),
        ("rows", lambda array: array + 200, "'rows' has an index outside"),
        ("middle", lambda array: array[:, :1], "'middle' of shape"),
        ("right_values", lambda array: array.astype(np.int64), "of type int64"),
        ("row_copies", lambda array: array * 0, "outside 1"),
    ],
)
def test_no_unchecked_index_of_a_cur_file_reaches_compiled_code(
    tmp_path: Path, name: str, change: Any, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    METHODS["cur"](rows=3, columns=3).fit(small()).save(path)
    tensors, metadata = read_artifact(path)
    write_artifact(path, "cur", tensors | {name: change(tensors[name])}, metadata)
    with pytest.raises(InputError, match=message):
        pipeline.load(path)


def test_what_is_not_finite_is_neither_saved_nor_loaded_nor_called_exact(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = METHODS["cp"](rank=1).fit(small())
    model.save(path)
    before = path.read_bytes()
    model.factors_[0][:] = np.nan
    with pytest.raises(InputError, match="not finite; the fit failed, nothing was saved"):
        model.save(path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="a value is not finite"):
        model.predict([[0, 0]])
    with pytest.raises(InputError, match=r"the squared error .* came out as nan"):
        model.error(small())
    with pytest.raises(InputError, match="came out as inf"):
        clipped_error(np.inf, 1.0)
    assert clipped_error(-1e-9, 1.0) == 0.0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [3 * 10**8, 2**40])
def test_few_cells_in_a_large_range_take_what_their_indices_take(name: str, size: int, tmp_path: Path) -> None:
    X = SparseTensor([[1, 5], [size // 3, size // 2], [size - 1, 0]], [1.0, 2.0, 3.0], (size, size))
    model = make(name).fit(X)
    model.save(tmp_path / "a.safetensors")
    loaded = pipeline.load(tmp_path / "a.safetensors")
    assert loaded.shape_ == X.shape and loaded.size() == model.size()
    assert np.array_equal(loaded.predict(X.coords), model.predict(X.coords))
    assert loaded.predict([[2, 5], [1, 6]]).tolist() == [0.0, 0.0]
    # the error of a whole tensor: cells of an index that does not occur add nothing
    compact = SparseTensor(np.array([[0, 1], [1, 2], [2, 0]]), X.values, (3, 3))
    assert model.error(X)["error"] == pytest.approx(make(name).fit(compact).error(compact)["error"])
    assert (tmp_path / "a.safetensors").stat().st_size < 3000
    assert model.largest(1)[0].tolist()[0] in X.coords.tolist() or name not in ("lossless", "t-svd")


@pytest.mark.parametrize("name", [name for name in ALL if name != "truncation"])
def test_values_of_extreme_size_give_the_same_model(name: str) -> None:
    plain = make(name).fit(small())
    share = plain.error(small())["error"] / small().norm2
    for exponent in (480, -460):
        X = small(2.0**exponent)
        model = make(name).fit(X)
        if name not in ("kronfit", "neukron"):  # their order search accepts by the size of the change
            assert model.error(X)["error"] / X.norm2 == pytest.approx(share, abs=1e-9)
            np.testing.assert_allclose(
                np.ldexp(model.predict(X.coords), -exponent), plain.predict(X.coords), rtol=1e-6, atol=1e-9
            )
        assert np.isfinite(model.history_[-1]["error"])


def test_values_whose_squares_are_no_numbers_are_refused_but_where_they_are_not_needed() -> None:
    for name in ALL:
        for scale in (1e200, 1e-200):
            if name == "lossless":
                X = small(scale)
                assert np.array_equal(make(name).fit(X).predict(X.coords), X.values)
            else:
                with pytest.raises(InputError, match="multiply them by a number"):
                    make(name).fit(small(scale))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kronfit", {"seed_power": 30}, "needs about 618 GB of memory"),
        ("t-svd", {"rank": 10**18}, "has rank 8 at most"),
        ("cp", {"rank": 9}, "of shape .8, 8. with 27 non-zeros has rank 8 at most"),
        ("accams", {"clusters": 10**8}, "clusters=100000000: needs .* at most 65,536"),
        ("accams", {"clusters": 9}, "clusters=9: of 8 rows and 8 columns"),
        ("baccams", {"clusters": 5000}, "clusters=5,000: of 8 rows"),
        ("baccams", {"stencils": 10**9}, "TB of memory"),
        ("cur", {"rows": 10**9}, "rows=1,000,000,000: of 8 rows at most 1,048,576"),
        ("cmd", {"columns": 10**7}, "columns=10,000,000: of 8 columns"),
        ("neukron", {"hidden": 10**6}, "more than an array of all cells has"),
        ("neukron", {"hidden": 10**18}, "more than an array of all cells has"),
        ("neukron", {"lr": 1e300}, "lr=1e[+]300"),
        ("neukron", {"lr": np.inf}, "lr=inf"),
    ],
)
def test_settings_beyond_the_tensor_and_the_memory_are_refused_before_the_fit(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(name, **settings).fit(small())


def test_modes_beyond_what_a_tree_can_hold_are_refused() -> None:
    for order in (20, 33):
        X = SparseTensor(np.stack([np.zeros(order, int), np.ones(order, int)]), [1.0, 2.0], (2,) * order)
        with pytest.raises(InputError, match=f"{order} modes makes trees of {2**order:,} children"):
            make("neukron").fit(X)


@pytest.mark.parametrize("name", ALL)
def test_an_order_that_no_artifact_holds_is_refused_before_the_fit(name: str) -> None:
    with pytest.raises(InputError, match="a tensor of 64 modes: artifacts hold up to 63"):
        make(name).fit(SparseTensor(np.zeros((1, 64), dtype=np.int64), [1.0], (2,) * 64))


def test_a_size_that_no_artifact_holds_is_refused_with_the_tensor() -> None:
    with pytest.raises(InputError, match="a mode has at most 4,611,686,018,427,387,904 indices"):
        SparseTensor([[0, 0]], [1.0], (2**62 + 1, 9))


@pytest.mark.parametrize("name", ["cp", "neukron", "kpd"])
@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_a_file_of_numbers_that_are_none_is_refused(name: str, wrong: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"weights": np.full(3, wrong, dtype=np.float32)}
    text = json.dumps({"v": 2, "m": name})
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"kronflow": signed(text, arrays)}))
    with pytest.raises(InputError, match="'weights' has a number that is not finite"):
        pipeline.load(path)


@pytest.mark.parametrize("name", ALL)
def test_what_a_model_takes_and_says(name: str) -> None:
    X = small()
    of_torch = torch.from_numpy(X.to_dense()).to_sparse_coo()
    of_pydata = types.SimpleNamespace(coords=X.coords.T, data=X.values, shape=X.shape)
    for what in (X.to_scipy(), X.to_scipy().tocsr(), X.to_dense(), of_torch, of_pydata):
        model = make(name).fit(what)
        assert model.shape_ == X.shape and model.error(what) == model.error(X)
    fresh = make(name)
    for ask in (lambda: fresh.predict([[0, 0]]), lambda: fresh.error(X), fresh.size, lambda: fresh.save("nowhere")):
        with pytest.raises(InputError, match="is not fitted: call fit"):
            ask()
    with pytest.raises(InputError, match="a str where a SparseTensor"):
        fresh.fit("matrix")
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        _ = fresh.colour


@pytest.mark.parametrize("name", ["lossless", "truncation", "kronfit", "neukron", "cur"])
def test_without_orders_a_file_says_so_and_its_error_is_of_what_it_answers(name: str, tmp_path: Path) -> None:
    X = small()
    model = make(name).fit(X)
    assert model.own_indices_
    model.save(tmp_path / "a.safetensors", orders=False)
    loaded = pipeline.load(tmp_path / "a.safetensors")
    assert loaded.own_indices_ == (name == "cur")
    dense = loaded.predict(np.argwhere(np.ones(loaded.shape_))).reshape(loaded.shape_)
    padded = SparseTensor(X.coords, X.values, loaded.shape_)
    assert loaded.error(padded)["error"] == pytest.approx(((padded.to_dense() - dense) ** 2).sum(), rel=1e-4)


def test_labels_travel_and_take_their_bytes_apart(tmp_path: Path) -> None:
    labels: list[list[Any]] = [
        ["ann", "bob, jr", "ça"],
        list(range(10**9, 10**9 + 900, 3)),
        [7],
        [-3, 5, 4],
        ["", "\n"],
    ]
    for one in labels:
        assert decoded_labels(coded_labels(one), 0) == one
    assert len(coded_labels(labels[1])) < 60
    model = METHODS["lossless"]().fit(small())
    bare, size = model.artifact(), model.size()
    model.about_.labels = {0: list("abcdefgh")}
    assert model.size() == size and len(model.artifact()) > len(bare) and model.artifact(labels=False) == bare
    model.save(tmp_path / "a.safetensors")
    assert pipeline.load(tmp_path / "a.safetensors").about_.labels_of(0) == list("abcdefgh")
    wrong: Any = [[["a"]], [None], {"steps": ["a"]}]
    for bad in (b"x", coded_labels(["a"])[:-3], *map(coded_labels, wrong[:2]), zlib.compress(b"[1, 2")):
        with pytest.raises(InputError, match="labels of mode 1"):
            decoded_labels(bad, 1)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_weights_are_those_of_torchs_modules(cell: str) -> None:
    levels = Levels((3, 5, 9))
    model = SequenceModel(levels, 5, 0, cell=cell)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "log_q"}
    assert weight_shapes(levels, 5, levels.head_alphabets, cell) == found


def test_the_smaller_of_two_short_forms_is_the_one_of_fewer_bits() -> None:
    model = make("neukron", hidden=8).fit(small())
    sizes = [model.quantised(kind).size()["bytes"] for kind in ("int8", "float16", "float32")]
    assert sizes == sorted(sizes)
    assert len(model.artifact()) - 4 * model.parameter_count() < 650


def test_the_shorter_of_int8_and_float16_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    for hidden in (1, 3, 8, 20):
        model = make("neukron", hidden=hidden, max_epochs=1).fit(small())
        chosen, short = model.quantised("int8"), model.quantised("float16")
        assert chosen.size()["bytes"] <= short.size()["bytes"]
        assert (chosen.weights_ == "float16") == ("float16 is chosen" in caplog.text)
        caplog.clear()


def test_a_frame_is_taken_where_it_is_needed_only() -> None:
    assert frame.Frame.of(small(), values=True).plain
    wide = SparseTensor([[0, 0], [2**21, 1]], [1.0, 2.0], (2**21 + 1, 2))
    own = frame.Frame.of(wide, values=True)
    assert own.inner_shape == (2, 2) and list(own.used) == [0]
    assert own.inward({0: 2**21, 1: 1}) == {0: 1, 1: 1} and own.inward({0: 7}) is None


def test_contents_check_numbers_and_arrays() -> None:
    contents = Contents({"i": np.array([0, 3]), "f": np.array([1.0, np.nan])}, {"n": True, "s": [2, 0], "x": 2**63})
    for wrong in (
        lambda: contents.whole("n"), lambda: contents.whole("x"), lambda: contents.whole("none"), contents.shape,
        lambda: contents.indices("i", 3), lambda: contents.reals("f", (3,)), lambda: contents.reals("i", (2,)),
        lambda: contents.pointers("i", 1, 2), lambda: contents.counts("i", 2, total=4), lambda: contents.code("i"),
        lambda: contents.flag("s"), lambda: contents.choice("n", ["a"]), lambda: contents.permitted(1e12, "it"),
    ):  # fmt: skip
        with pytest.raises(InputError):
            wrong()
    assert contents.pointers("i", 1, 3).tolist() == [0, 3]


def test_what_a_refusal_names_lets_an_artifact_unpack_to_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "LARGEST_LABELS", 1000)
    contents, code = Contents({"i": np.zeros(1)}, {}), coded_labels(["x" * 100_000])
    for refused in (lambda: contents.permitted(1e9, "a model"), lambda: decoded_labels(code, 0)):
        with pytest.raises(InputError, match="if that is meant, set KRONFLOW_UNPACKED"):
            refused()
    monkeypatch.setenv("KRONFLOW_UNPACKED", "2GB")
    contents.permitted(1e9, "a model")
    assert decoded_labels(code, 0) == ["x" * 100_000]
    with pytest.raises(InputError, match=r"would take 2\.1 GB of memory, more than 2 GB, from 8 bytes"):
        contents.permitted(2.1e9, "a model")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{}", '{"v": 2, "m": "cp"', '{"v": 3, "m": "cp"}', '{"v": NaN}', "[1]", '{"v":2,"m":"\\ud800"}'],
)
def test_metadata_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors", metadata={"kronflow": text})
    with pytest.raises(InputError, match=r"a\.safetensors"):
        pipeline.load(tmp_path / "a.safetensors")


def test_types_that_numpy_has_not_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1, dtype=torch.bfloat16)}, tmp_path / "a.safetensors", metadata={"kronflow": "{}"})
    with pytest.raises(InputError, match="of type BF16"):
        pipeline.load(tmp_path / "a.safetensors")


def test_a_state_that_was_changed_is_set_aside_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = small()
    whole = make("neukron", max_epochs=4).fit(X)
    for spoil in (lambda state: state | {"orders": state["orders"][:1]}, lambda state: {"step": 1}, None):
        state = Checkpoint({"run": 1}, tmp_path, seconds=0)
        make("neukron", max_epochs=2).fit(X, checkpoint=state)
        content = state.load()
        assert content is not None
        if spoil is None:
            damaged = bytearray(state.path.read_bytes())
            damaged[len(damaged) // 2] ^= 4
            state.path.write_bytes(damaged)
        else:
            state.save(spoil(content), force=True)
        capsys.readouterr()
        again = make("neukron", max_epochs=4).fit(X, checkpoint=state)
        line = capsys.readouterr().err
        assert "cannot be taken up" in line and "the run starts anew" in line and line.count("\n") == 1
        assert np.array_equal(again.predict(X.coords), whole.predict(X.coords))
        state.clear()
        assert not state.path.parent.exists()


def test_a_full_disk_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = Checkpoint({"run": 1}, tmp_path, seconds=0)
    state.save({"step": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", _full)
        state.save({"step": 2})
        line = capsys.readouterr().err
        assert "No space left" in line and line.endswith("the run goes on\n") and line.count("\n") == 1
        with pytest.raises(OSError, match="No space left"):
            state.save({"step": 3}, force=True)
    assert state.load() == {"step": 1}


def _full(path: Path, content: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_negative_values_are_told_before_neukron_is_fitted(caplog: pytest.LogCaptureFixture) -> None:
    make("neukron").fit(SparseTensor([[0, 0], [1, 1]], [3.0, -1.0], (4, 4)))
    assert "10.0% of the squared norm is in negative values" in caplog.text and "take t-svd" in caplog.text


def test_a_scipy_array_of_many_modes_is_taken() -> None:
    array = scipy.sparse.coo_array(
        (np.ones(2), (np.array([0, 1]), np.array([1, 0]), np.array([2, 2]))), shape=(2, 2, 3)
    )
    assert METHODS["cp"](rank=1).fit(array).shape_ == (2, 2, 3)
