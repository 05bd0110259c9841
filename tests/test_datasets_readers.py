"""Readers against files small enough to check by hand, and against every kind of bad file."""

from __future__ import annotations

import gzip
import io
import itertools
import sqlite3
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import READERS, read_raw, text
from pipeline.datasets.assemble import Assembled, assemble
from pipeline.datasets.readers import kjv
from pipeline.errors import InputError


def convert(format_: str, files: dict[str, Path] | Path, **options: Any) -> Assembled:
    named = {files.name: files} if isinstance(files, Path) else files
    return assemble(read_raw(format_, named, options), {})


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def entries(result: Assembled) -> dict[tuple[int, ...], float]:
    tensor = result.tensor
    return dict(zip(map(tuple, tensor.coords.tolist()), tensor.values.tolist(), strict=True))


class TestFlights:
    TABLE = (
        "year,month,dest,tailnum\n2013,9,MIA,N2\n2013,10,ATL,N1\n2013,9,MIA,N2\n"
        "2013,9,ATL,NA\n2013,9,ATL,\n2013,9,ATL,N3\n"
    )

    def test_counts_flights_and_drops_those_without_aircraft(self, tmp_path: Path) -> None:
        result = convert("flights", write(tmp_path / "flights.csv", self.TABLE))
        assert result.tensor.shape == (2, 3)
        assert entries(result) == {(0, 0): 1, (0, 2): 1, (1, 1): 2}
        assert [labels["label"].tolist() for labels in result.labels if labels] == [["ATL", "MIA"], ["N1", "N2", "N3"]]

    def test_months_sort_as_numbers_and_modes_by_size(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
            archive.writestr("flights.csv", self.TABLE)
        result = convert("flights", tmp_path / "flights.csv.zip", modes=["tailnum", "month"])
        assert result.tensor.mode_names == ("month", "tailnum")
        assert result.labels[0] is not None
        assert result.labels[0]["label"].tolist() == [9, 10]

    def test_line_with_missing_field(self, tmp_path: Path) -> None:
        path = write(tmp_path / "flights.csv", self.TABLE + "2013,9\n")
        with pytest.raises(InputError, match=r"flights.csv:8: 2 fields where the first line has 4"):
            convert("flights", path)

    def test_unknown_column(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no single column 'tailnumber'; did you mean 'tailnum'"):
            convert("flights", write(tmp_path / "f.csv", self.TABLE), modes=["dest", "tailnumber"])


class TestKJV:
    def database(self, path: Path, passages: list[tuple[str, str]]) -> Path:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE Bible (TestamentID, BookID, ChapterID, VerseID, Passage1, Passage2)")
            rows = [(1, 1, 1, number, *passage) for number, passage in enumerate(passages)]
            connection.executemany("INSERT INTO Bible VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.close()
        return path

    def test_ngrams_stay_within_their_verse(self, tmp_path: Path) -> None:
        passages = [("1:1 The king's son: 1:2 the king's", "son came"), ("A heading", ""), ("1:3 Son.", "")]
        path = self.database(tmp_path / "Bible.db", passages)
        assert [kjv.words(verse) for verse in kjv.verses(path)] == [
            ["the", "king's", "son"],
            ["the", "king's", "son", "came"],
            ["son"],
        ]
        result = convert("kjv", path, order=2)
        assert result.tensor.shape == (3, 3)
        assert entries(result) == {(0, 2): 2, (1, 0): 1, (2, 1): 2}
        assert [labels["label"].tolist() for labels in result.labels if labels] == [
            ["king's", "son", "the"],
            ["came", "king's", "son"],
        ]

    @pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(InputError, match=r"Bible.db: not the SQLite file"):
            convert("kjv", write(tmp_path / "Bible.db", content))

    def test_order_below_two(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="option order"):
            convert("kjv", self.database(tmp_path / "Bible.db", []), order=1)


class TestSimplices:
    def files(self, folder: Path, sizes: str, nodes: str) -> dict[str, Path]:
        return {
            "x-nverts.txt": write(folder / "x-nverts.txt", sizes),
            "x-simplices.txt.gz": write(folder / "x-simplices.txt.gz", nodes),
        }

    def test_columns_are_distinct_ordered_lists(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, "2\n2\n2\n1\n", "7\n3\n3\n7\n7\n3\n9\n")
        result = convert("simplices", files)
        assert result.tensor.shape == (3, 3)
        assert entries(result) == {(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 1): 1, (2, 2): 1}
        assert result.tensor.source["repeated_simplices"] == 1
        assert result.labels[0] is not None
        assert result.labels[0]["label"].tolist() == [3, 7, 9]
        assert result.labels[1] is None

    def test_sizes_and_nodes_disagree(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"3 nodes where the sizes in x-nverts.txt add up to 4"):
            convert("simplices", self.files(tmp_path, "2\n2\n", "1\n2\n3\n"))

    @pytest.mark.parametrize(
        ("nodes", "problem"),
        [
            ("1\n-2\n", r"simplices.txt.gz:2: -2 is below 0"),
            ("1\nx\n", r"simplices.txt.gz:2: 'x' is no whole number"),
            ("1\n\n2\n", r"simplices.txt.gz:2: '' is no whole number"),
            ("1\n9223372036854775808\n", r"simplices.txt.gz:2: '9223372036854775808' is no whole number of 64 bits"),
            ("1\n2.5\n", r"simplices.txt.gz:2: '2.5' is no whole number"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, nodes: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            convert("simplices", self.files(tmp_path, "2\n", nodes))

    def test_truncated_gzip(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, "2\n", "1\n2\n")
        path = files["x-simplices.txt.gz"]
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(InputError, match=r"x-simplices.txt.gz: truncated or damaged"):
            convert("simplices", files)

    def test_file_missing_from_the_entry(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="exactly one with 'nverts' in its name"):
            convert("simplices", write(tmp_path / "simplices.txt", "1\n"))


class TestDigits:
    def test_pixels_labels_and_split(self, tmp_path: Path) -> None:
        lines = [[0] * 64 + [3], [0] * 64 + [4], [16] + [0] * 63 + [5]]
        path = write(tmp_path / "digits.csv.gz", "\n".join(",".join(map(str, line)) for line in lines))
        result = convert("digits", path, test=1)
        assert result.tensor.shape == (8, 8, 3) or result.tensor.shape == (3, 8, 8)
        assert result.tensor.norm2 == 256
        assert result.tensor.source["maximum"] == 16
        labels = result.labels[result.tensor.mode_names.index("image")]
        assert labels is not None
        assert labels["label"].tolist() == [3, 4, 5]
        assert labels["split"].tolist() == ["train", "train", "test"]

    @pytest.mark.parametrize("line", ["1,2", ",".join(["17"] * 64 + ["1"]), ",".join(["1"] * 64 + ["x"])])
    def test_bad_lines(self, tmp_path: Path, line: str) -> None:
        good = ",".join(["1"] * 65)
        with pytest.raises(InputError, match=r"digits.csv:2: "):
            convert("digits", write(tmp_path / "digits.csv", f"{good}\n{line}\n"), test=0)


class TestIdx:
    def files(self, folder: Path, train: np.ndarray, test: np.ndarray) -> dict[str, Path]:
        files = {}
        for prefix, images in (("train", train), ("t10k", test)):
            header = struct.pack(">2xBB3I", 8, 3, *images.shape)
            name = f"{prefix}-images-idx3-ubyte.gz"
            files[name] = write(folder / name, header + images.astype(np.uint8).tobytes())
            name = f"{prefix}-labels-idx1-ubyte"
            content = struct.pack(">2xBBI", 8, 1, len(images)) + bytes(range(len(images)))
            files[name] = write(folder / name, content)
        return files

    def test_test_images_follow_training_images(self, tmp_path: Path) -> None:
        train = np.arange(18).reshape(3, 2, 3)
        test = np.full((1, 2, 3), 255)
        result = convert("idx", self.files(tmp_path, train, test))
        assert result.tensor.mode_names == ("row", "column", "image")
        expected = np.concatenate([train, test]).transpose(1, 2, 0)
        assert np.array_equal(result.tensor.to_dense(), expected)
        labels = result.labels[2]
        assert labels is not None
        assert labels["label"].tolist() == [0, 1, 2, 0]
        assert labels["split"].tolist() == ["train"] * 3 + ["test"]

    def test_images_that_end_early(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, np.ones((3, 2, 3)), np.ones((1, 2, 3)))
        path = files["train-images-idx3-ubyte.gz"]
        write(path, gzip.decompress(path.read_bytes())[:-1])
        with pytest.raises(InputError, match=r"17 bytes of data where its header \(3, 2, 3\) asks for 18"):
            convert("idx", files)

    def test_other_magic(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, np.ones((3, 2, 3)), np.ones((1, 2, 3)))
        write(files["t10k-labels-idx1-ubyte"], b"\0\0\x0d\x01")
        with pytest.raises(InputError, match="starts with 00000d01"):
            convert("idx", files)

    def test_counts_disagree(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, np.ones((3, 2, 3)), np.ones((1, 2, 3)))
        write(files["t10k-labels-idx1-ubyte"], struct.pack(">2xBBI", 8, 1, 0))
        with pytest.raises(InputError, match="1 images for 0 labels"):
            convert("idx", files)


class TestCoordinates:
    def test_separators_comments_line_ends_and_duplicates(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.txt", "# a comment\r\n0 1 2.5\r\n\r\n 2,\t0, -1e1 \n\n%more\n0;1;1\n2   0 3")
        result = convert("coo", path)
        assert result.tensor.shape == (2, 3)
        assert result.tensor.mode_names == ("mode_1", "mode_0")
        assert entries(result) == {(1, 0): 3.5, (0, 2): -7.0}
        assert result.duplicates == 2

    def test_one_based_without_values(self, tmp_path: Path) -> None:
        result = convert("coo", write(tmp_path / "x.csv", "1,1,1\n2,1,3\n2,1,3\n"), base=1, values=False)
        assert result.tensor.mode_names == ("mode_1", "mode_0", "mode_2")
        assert entries(result) == {(0, 0, 0): 1, (0, 1, 2): 2}

    def test_two_whole_numbers_a_line_are_read_as_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "x.txt", "# FromNodeId ToNodeId\n\n0 10000\n3\t2\n")
        with pytest.raises(InputError, match=r"x.txt:3: two whole numbers: set the option values: false .* edge"):
            convert("coo", path)
        assert convert("coo", path, values=False, base=None).tensor.to_dense().tolist() == [[0, 1], [1, 0]]
        assert entries(convert("coo", path, values=True)) == {(0,): 10000, (3,): 2}
        capsys.readouterr()
        assert entries(convert("coo", write(tmp_path / "y.txt", "0 1.5\n3 2\n"))) == {(0,): 1.5, (3,): 2}
        assert "y.txt: a line is an index and a value" in capsys.readouterr().err
        assert entries(convert("coo", write(tmp_path / "z.txt", "0 1 9\n1 0 9\n"))) == {(0, 1): 9, (1, 0): 9}
        assert "z.txt: a line is 2 indices and a value (without values: option values: false)" in (
            capsys.readouterr().err
        )

    def test_relabel_drop_and_names(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.tns.gz", "500 1 -7 2\n10 1 8 3\n10 2 8 4\n")
        result = convert("coo", path, base=None, drop=[1], names=["who", "what"])
        assert result.tensor.mode_names == ("who", "what")
        assert entries(result) == {(0, 1): 7, (1, 0): 2}
        assert [labels["label"].tolist() for labels in result.labels if labels] == [[10, 500], [-7, 8]]

    def test_shape_option(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.txt", "0 1 2\n")
        assert convert("coo", path, shape=[5, 7]).tensor.shape == (5, 7)
        with pytest.raises(InputError, match=r"x.txt:1: index 1 in mode 'mode_1' is outside 0..0"):
            convert("coo", path, shape=[5, 1])

    def test_says_that_a_file_looks_one_based(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        convert("coo", write(tmp_path / "x.txt", "1 1 2\n1 2 2\n"))
        assert "set the option 'base: 1'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("line", "options", "problem"),
        [
            ("1 2", {}, "2 fields where 3 belong"),
            ("1 2 3 4", {}, "4 fields where 3 belong"),
            ("-1 2 3", {}, "index -1 in mode 'mode_0' is outside 0"),
            ("0 2 3", {"base": 1}, "index 0 in mode 'mode_0' is outside 1"),
            ("1 99999999999999999999 3", {}, "index '99999999999999999999' does not fit 64 bits"),
            ("1 9223372036854775807 3", {}, "index 9223372036854775807 in mode 'mode_1' is outside"),
            ("1 -9223372036854775808 3", {"base": 1}, "index -9223372036854775808 in mode"),
            ("1 1.5 3", {}, "index '1.5' is no whole number"),
            ("1 1_0 3", {}, "index '1_0' is no whole number"),
            ("1 0x10 3", {}, "index '0x10' is no whole number"),
            ("1 2 nan", {}, "value 'nan' is no finite number"),
            ("1 2 -inf", {}, "value '-inf' is no finite number"),
            ("1 2 1e999", {}, "value '1e999' is no finite number"),
            ("1 2 three", {}, "value 'three' is no finite number"),
            ('1 2 "3"', {}, "is no finite number"),
            ("1 2 \xe9", {}, "is no finite number"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, options: dict[str, Any], problem: str) -> None:
        path = write(tmp_path / "x.txt", f"# head\n\n1 1 1\n{line}\n1 1 1\n")
        with pytest.raises(InputError, match=r"x.txt:4: ") as caught:
            convert("coo", path, **options)
        assert problem in str(caught.value)

    @pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
    def test_empty(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(InputError, match="empty tensor"):
            convert("coo", write(tmp_path / "x.txt", content))

    def test_zeros_alone_are_an_empty_tensor(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="empty tensor"):
            convert("coo", write(tmp_path / "x.txt", "0 0 1\n0 0 -1\n0 1 0\n"))

    def test_single_field(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"x.txt:2: needs at least one index and a value"):
            convert("coo", write(tmp_path / "x.txt", "#\n1\n"))

    def test_line_numbers_go_on_from_block_to_block(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "BLOCK_BYTES", 16)
        lines = [f"{number} 0 1" for number in range(50)]
        assert convert("coo", write(tmp_path / "x.txt", "\n".join(lines))).tensor.nnz == 50
        lines[40] = "40 x 1"
        with pytest.raises(InputError, match=r"x.txt:41: index 'x'"):
            convert("coo", write(tmp_path / "x.txt", "\n".join(lines)))
        lines[40] = "40 -3 1"
        with pytest.raises(InputError, match=r"x.txt:41: index -3"):
            convert("coo", write(tmp_path / "x.txt", "\n".join(lines)))

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False)),
            min_size=1,
        ),
        st.sampled_from([" ", ",", "\t", " ; "]),
        st.sampled_from(["\n", "\r\n"]),
    )
    def test_fast_and_careful_parsing_agree(self, rows: list[tuple[int, int, float]], separator: str, end: str) -> None:
        block = end.join(separator.join(map(repr, row)) for row in rows).encode()
        fast = text.parse_fast(block, 2, True)
        careful = text.parse_lines(Path("x"), 1, block, 2, values=True)
        if fast is None:  # what reads as zero may be a number too small for 64 bits, which careful parsing tells
            assert 0.0 in careful[1]
        else:
            for left, right in zip([*fast[0], fast[1]], [*careful[0], careful[1]], strict=True):
                assert left.tolist() == right.tolist()
        assert careful[1].tolist() == [row[2] for row in rows]

    @settings(deadline=None)
    @given(
        st.lists(st.lists(st.integers(0, 10**17), min_size=3, max_size=3), min_size=1),
        st.sampled_from([" ", ",", "\t", " ; "]),
        st.sampled_from(["\n", "\r\n", "\n\n"]),
    )
    def test_all_three_parsers_agree_on_whole_numbers(self, rows: list[list[int]], separator: str, end: str) -> None:
        block = end.join(separator.join(map(str, row)) for row in rows).encode()
        careful = text.parse_lines(Path("x"), 1, block, 2, values=True)
        for other in (text.parse_integers(block, 2, True)[0], text.parse_fast(block, 2, True)):
            assert other is not None
            for left, right in zip(other[0], careful[0], strict=True):
                assert left.tolist() == right.tolist()
            # values are float64 in the end; whole ones may stay exact until their duplicates are summed
            assert other[1].astype(np.float64).tolist() == careful[1].tolist()

    @pytest.mark.parametrize(
        "block",
        [
            b"1 2\n",
            b"1 2 3 4\n",
            b"1 2 -3",
            b"1 2 3.5",
            b"1 2 3. 0",
            b"1 2 3.0.0",
            b"1 2 .0",
            b"1 2 3 .0",
            b"1 2.0 3",
            b"1 2 x",
            b"1 2 3\0",
            b"1 2 1234567890123456789",
        ],
    )
    def test_compiled_parser_refuses_the_rest(self, block: bytes) -> None:
        assert text.parse_integers(block, 2, True) == (None, 0)

    @pytest.mark.parametrize("value", ["3.0", "3.", "3.000", "12345678.0", "123456789.0"])
    def test_compiled_parser_reads_whole_values_with_a_point(self, value: str) -> None:
        table, lines = text.parse_integers(f"7 123456789012 {value}\n\n8 9 1\n".encode(), 2, True)
        assert table is not None
        assert lines == 3
        assert [column.tolist() for column in (*table[0], table[1])] == [[7, 8], [123456789012, 9], [float(value), 1]]

    def test_lines_across_the_chunks_of_the_compiled_parser(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(0)
        rows = rng.integers(0, 10 ** rng.integers(1, 9, (20_000, 3)))
        path = write(tmp_path / "x.txt", "".join(f"{a} {b} {c}\n" for a, b, c in rows.tolist()))
        for size in (1 << 22, 50_000):
            monkeypatch.setattr(text, "BLOCK_BYTES", size)
            parts = [(*keys, values) for keys, values in text.read_numbers(path, 2)]
            assert np.array_equal(np.stack([np.concatenate(column) for column in zip(*parts, strict=True)], 1), rows)


class TestMatrixMarket:
    @pytest.mark.parametrize(
        ("field", "symmetry"),
        [
            *itertools.product(["real", "integer"], ["general", "symmetric", "skew-symmetric"]),
            *itertools.product(["pattern"], ["general", "symmetric"]),
        ],
    )
    def test_same_as_scipy(self, tmp_path: Path, field: str, symmetry: str) -> None:
        value = {"real": " -2.5e0", "integer": " 7", "pattern": ""}[field]
        content = (
            f"%%MatrixMarket matrix coordinate {field} {symmetry}\n% comment\n\n4 4 3\n"
            f"2 1{value}\n4 1{value}\n4 3{value}\n"
        )
        expected = scipy.sparse.coo_array(scipy.io.mmread(io.StringIO(content))).toarray()
        result = convert("mtx", write(tmp_path / "x.mtx.gz", content))
        assert np.array_equal(result.tensor.to_dense(), expected)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("1 2 3\n", "x.mtx:1: no Matrix Market file"),
            ("%%MatrixMarket matrix array real general\n2 2\n", "0 values where its sizes ask for 4"),
            ("%%MatrixMarket matrix coordinate complex general\n", "'complex' values"),
            ("%%MatrixMarket matrix coordinate real general\n% no sizes\n", "needs the numbers of rows"),
            ("%%MatrixMarket matrix coordinate real general\n2 2 0\n", "x.mtx:2: empty matrix"),
            ("%%MatrixMarket matrix coordinate real symmetric\n2 3 1\n1 1 1\n", "is not square"),
            ("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n", "1 entries where its line 2 promises 2"),
            ("%%MatrixMarket matrix coordinate real general\n2 2 1\n\n0 1 1\n", "x.mtx:4: index 0 in mode 'row'"),
            ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 3 1\n", "x.mtx:3: index 3 in mode 'column'"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, content: str, problem: str) -> None:
        with pytest.raises(InputError) as caught:
            convert("mtx", write(tmp_path / "x.mtx", content))
        assert problem in str(caught.value)


def test_every_format_refuses_unknown_options_and_missing_files(tmp_path: Path) -> None:
    for name in READERS:
        with pytest.raises(InputError, match=f"format '{name}' has no option 'bases'"):
            read_raw(name, {}, {"bases": 1})
    with pytest.raises(InputError, match=r"no such file; fetch it"):
        convert("coo", tmp_path / "none.txt")
    with pytest.raises(InputError, match="format 'coordinates' does not exist"):
        read_raw("coordinates", {}, {})
