"""Statistics against small tensors by hand and against networkx-free recounts; the page and its files."""

from __future__ import annotations

import base64
import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import describe as step_describe
from pipeline.core import step
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor, stats
from pipeline.sparse.stats import describe


def components_by_search(coords: np.ndarray) -> list[int]:
    """Sizes of the components by merging sets, one non-zero after the other."""
    groups: list[set[tuple[int, int]]] = []
    for row in coords.tolist():
        joined = set(enumerate(row))
        rest = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                rest.append(group)
        groups = [*rest, joined]
    return sorted(len(group) for group in groups)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.integers(1, 15),
    st.integers(0, 1000),
    st.sampled_from([1, 4, 100]),
)
def test_recount(shape: list[int], count: int, seed: int, joined_at_a_time: int) -> None:
    rng = np.random.default_rng(seed)
    coords = np.unique(np.stack([rng.integers(0, size, count) for size in shape], axis=1), axis=0)
    values = rng.integers(1, 4, len(coords)).astype(float)
    blocks = [(coords[start : start + 3], values[start : start + 3]) for start in range(0, len(coords), 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "EDGES", joined_at_a_time)
        found = describe(blocks, tuple(shape))
    assert (found.nnz, found.norm2) == (len(coords), float(np.sum(values**2)))
    for mode, size in enumerate(shape):
        degrees = pd.Series(coords[:, mode]).value_counts()
        expected = degrees.value_counts().sort_index()
        assert found.degrees[mode].numbers.tolist() == expected.index.tolist()
        assert found.degrees[mode].counts.tolist() == expected.tolist()
        assert found.empty[mode] == size - len(degrees)
        sums = pd.Series(values).groupby(coords[:, mode]).sum()
        assert np.repeat(found.sums[mode].numbers, found.sums[mode].counts) == pytest.approx(np.sort(sums), rel=1e-9)
    sizes = np.repeat(found.components.numbers, found.components.counts).tolist()
    assert sizes == components_by_search(coords)
    assert found.values.mean == pytest.approx(values.mean())
    assert found.values.largest == values.max()


def test_median_is_one_of_the_numbers() -> None:
    coords = np.array([[0, 0], [0, 1], [0, 2], [1, 0]])
    found = describe([(coords, np.array([1.0, 5, 5, 9]))], (2, 3))
    assert found.values.median == 5
    assert found.degrees[0].median == 1
    assert found.density == 4 / 6


def test_many_real_values_are_binned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MOST_VALUES", 10)
    values = np.concatenate([np.full(5, 100.0), np.linspace(1, 2, 20), [-7.0]])
    coords = np.stack([np.arange(26), np.zeros(26, int)], axis=1)
    found = describe([(coords[:8], values[:8]), (coords[8:], values[8:])], (26, 1))
    assert found.binned
    assert found.values.counts.sum() == 26
    assert len(found.values.numbers) < 12
    negative = found.values.numbers[0]
    assert negative == pytest.approx(-7, rel=0.06)  # half a bin
    assert found.values.counts[-1] == 5


def test_sums_that_cancel_out_are_zero_among_binned_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MOST_VALUES", 1)
    coords = np.array([[0, 0], [0, 1], [1, 0]])
    found = describe([(coords, np.array([2.0, -2.0, -10.0]))], (2, 2))
    assert found.sums[0].numbers.tolist() == pytest.approx([-10, 0], rel=0.06)
    assert 0.0 in found.sums[0].numbers


def test_sums_that_cancel_out_are_zero() -> None:
    coords = np.array([[0, 0], [0, 1], [1, 0]])
    found = describe([(coords, np.array([2.0, -2.0, 3.0]))], (2, 2))
    assert (found.sums[0].numbers.tolist(), found.sums[0].counts.tolist()) == ([0, 3], [1, 1])


def test_empty() -> None:
    with pytest.raises(InputError, match="nothing to describe"):
        describe([], (2, 2))


def write_tensor(folder: Path) -> Path:
    coords = [[0, 0, 0], [0, 1, 0], [1, 2, 1], [1, 2, 3]]
    tensor = SparseTensor(coords, [1, 2, 2, 8], (3, 3, 4), mode_names=["who", 'a, "b"', "<what>"])
    tensor.write_parquet(folder / "x&y.parquet")
    return folder / "x&y.parquet"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about that tensor, in a folder of its own; drawing it takes seconds."""
    folder = tmp_path_factory.mktemp("described")
    step_describe.main([str(write_tensor(folder)), str(folder / "out" / "x.html")])
    return folder / "out" / "x.html"


class TestStep:
    @pytest.fixture
    def tensor(self, tmp_path: Path) -> Path:
        return write_tensor(tmp_path)

    def test_page_and_its_files(self, output: Path) -> None:
        assert sorted(path.name for path in output.parent.iterdir()) == ["x.csv", "x.html", "x.summary.csv", "x.svg"]
        page = output.read_text()
        assert "<title>x&amp;y</title>" in page
        assert "&lt;what&gt;" in page
        assert "<td>4</td>" in page
        assert "http-equiv" not in page
        assert "src=" not in page
        assert "prefers-color-scheme: dark" in page
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        targets = re.findall(r'(?:url\(#|href="#)([^")]+)', page)
        assert targets
        assert set(targets) <= set(ids)
        [link] = re.findall(r'href="data:text/csv;base64,([^"]+)"', page)
        assert base64.b64decode(link).decode() == output.with_suffix(".csv").read_text()
        assert not re.search(r'href="(?!#|data:)', page)  # none is dead where the page is alone
        table = pd.read_csv(output.with_suffix(".csv"))
        assert table["quantity"].unique().tolist() == ["degree", "sum", "value", "component size"]
        assert table[table["quantity"] == "value"][["number", "count"]].to_numpy().tolist() == [[1, 1], [2, 2], [8, 1]]
        assert table[table["quantity"] == "component size"][["number", "count"]].to_numpy().tolist() == [[4, 2]]
        assert table["of"].unique().tolist() == ["who", 'a, "b"', "<what>", "non-zero", "component"]

    def test_summary(self, output: Path) -> None:
        with output.with_suffix(".summary.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["of"] for row in rows] == ["tensor", "who", 'a, "b"', "<what>"]
        assert rows[0]["size"] == "3x3x4"
        assert [row["empty"] for row in rows[1:]] == ["1", "0", "1"]
        # degrees 2, 2 and sums 3, 10 of the first mode's two indices
        assert [float(rows[1][name]) for name in ("mean", "largest")] == [2, 2]
        assert [float(rows[1][name]) for name in ("sum_mean", "sum_median", "sum_largest")] == [6.5, 3, 10]

    def test_figure_is_the_same_every_time(self, output: Path, tensor: Path, tmp_path: Path) -> None:
        step_describe.main([str(tensor), str(tmp_path / "again.html")])
        first, second = output.with_suffix(".svg").read_text(), (tmp_path / "again.svg").read_text()
        assert first == second
        ElementTree.fromstring(first)  # noqa: S314 - our own figure
        assert first.count("degree of a") == 3

    def test_missing_tensor(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            step.run(step_describe.main, [str(tmp_path / "none.parquet"), str(tmp_path / "x.html")])
        assert caught.value.code == 2
        assert "no such file" in capsys.readouterr().err

    def test_a_file_that_is_not_its_own_stays(self, tmp_path: Path) -> None:
        tensor, page = tmp_path / "x.parquet", tmp_path / "x.html"
        SparseTensor([[0], [2]], [1, 2], (3,)).write_parquet(tensor)
        page.write_text("<p>mine</p>")
        for name in ("x.csv", "x.svg", "x.summary.csv"):
            (tmp_path / name).write_text("user,item\nann,book\n")
            with pytest.raises(InputError, match=f"{name}: would be written beside .* is there already"):
                step_describe.main([str(tensor), str(page)])
            assert (tmp_path / name).read_text() == "user,item\nann,book\n"
            (tmp_path / name).unlink()
        for _ in range(2):
            step_describe.main([str(tensor), str(page)])
