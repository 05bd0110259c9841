"""Readers of published sets that no file is at hand for: fixtures in the documented layout, and archives."""

from __future__ import annotations

import bz2
import gzip
import io
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import archive, raw, read_raw
from pipeline.datasets.assemble import Assembled, assemble
from pipeline.errors import InputError


def convert(format_: str, path: Path, **options: Any) -> Assembled:
    return assemble(read_raw(format_, {path.name: path}, options), {})


def labels(result: Assembled) -> list[list[Any]]:
    return [columns["label"].tolist() for columns in result.labels if columns]


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    mode = {".gz": "w:gz", ".bz2": "w:bz2"}[path.suffix]
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one whenever a .tar is opened."""
    opened: list[Any] = []
    unpack = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *names, **more: (opened.append(names), unpack(*names, **more))[1])
    return opened


class TestCheckins:
    LINE = '{}\t{}\t4bf58dd8\tCaf\xe9 "Bar\tone\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012\n'

    def archive(self, folder: Path, lines: str) -> Path:
        lines = lines.replace('"Bar\tone', '"Bar')
        return make_zip(
            folder / "dataset_tsmc2014.zip",
            {
                "dataset_tsmc2014/dataset_TSMC2014_NYC.txt": lines.encode("latin-1"),
                "dataset_tsmc2014/dataset_TSMC2014_TKY.txt": b"",
                "dataset_tsmc2014/readme.txt": b"about",
            },
        )

    def test_counts(self, tmp_path: Path) -> None:
        visits = [(10, "v1"), (9, "v2"), (10, "v1"), (9, "v3")]
        path = self.archive(tmp_path, "".join(self.LINE.format(*visit) for visit in visits))
        result = convert("checkins", path, member="dataset_TSMC2014_NYC.txt")
        assert result.tensor.mode_names == ("user", "venue")
        assert result.tensor.to_dense().tolist() == [[0, 1, 1], [2, 0, 0]]
        assert labels(result) == [[9, 10], ["v1", "v2", "v3"]]

    def test_broken_line_and_unknown_city(self, tmp_path: Path) -> None:
        path = self.archive(tmp_path, self.LINE.format(1, "v") + "2\tv\n")
        with pytest.raises(InputError, match=r"dataset_TSMC2014_NYC.txt:2: 2 fields where the first line has 8"):
            convert("checkins", path, member="dataset_TSMC2014_NYC.txt")
        with pytest.raises(InputError, match=r"the archive has no file 'dataset_TSMC2014_LA.txt'"):
            convert("checkins", path, member="dataset_TSMC2014_LA.txt")
        with pytest.raises(InputError, match="format 'checkins' needs the option 'member'"):
            convert("checkins", path)


class TestKasandr:
    HEADER = "userid\tofferid\tcountrycode\tcategory\tmerchant\tutcdate\timplicit feedback\n"

    @pytest.mark.parametrize("header", [HEADER, HEADER.replace("implicit feedback", "Implicit_Feedback")])
    def test_clicks_of_both_files(self, tmp_path: Path, header: str) -> None:
        line = "{}\t{}\tde\t100\tm\t2016-06-01 02:00:17.0\t{}\n"
        train = header + line.format("u1", "o1", 1) + line.format("u2", "o1", 0) + line.format("u1", "o1", 1)
        test = header + line.format("u3", "o2", 1)
        files = {"de/train_de.csv": train.encode(), "de/test_de.csv": test.encode(), "de/readme": b""}
        result = convert("kasandr", make_tar(tmp_path / "de.tar.bz2", files))
        assert labels(result) == [["o1", "o2"], ["u1", "u3"]]
        assert result.tensor.to_dense().tolist() == [[2, 0], [0, 1]]

    def test_archive_is_unpacked_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = "u1\to1\tde\t1\tm\tt\t1\n"
        files = {f"de/{name}_de.csv": (self.HEADER + line).encode() for name in ("train", "test")}
        path = make_tar(tmp_path / "de.tar.bz2", files)
        opened = count_passes(monkeypatch)
        assert convert("kasandr", path).tensor.values.tolist() == [2]
        assert len(opened) == 1

    def test_place_of_a_bad_line(self, tmp_path: Path) -> None:
        files = {"de/train_de.csv": (self.HEADER + "u1\to1\tde\t1\tm\tt\t1\nu1\to1\n").encode()}
        with pytest.raises(InputError, match=r"de.tar.bz2:de/train_de.csv:3: 2 fields where the first line has 7"):
            convert("kasandr", make_tar(tmp_path / "de.tar.bz2", files))

    def test_other_archives(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"the archive has no file '\*_de.csv'"):
            convert("kasandr", make_tar(tmp_path / "de.tar.bz2", {"de/readme": b"x"}))
        with pytest.raises(InputError, match="no single column 'offerid'"):
            convert("kasandr", make_tar(tmp_path / "x.tar.bz2", {"de/train_de.csv": b"a\tb\n1\t2\n"}))

    def test_truncated(self, tmp_path: Path) -> None:
        path = make_tar(
            tmp_path / "de.tar.bz2", {"de/train_de.csv": (self.HEADER + "u1\to1\tde\t1\tm\tt\t1\n" * 10_000).encode()}
        )
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match=r"de.tar.bz2: truncated or damaged"):
            convert("kasandr", path)


class TestTwitch:
    def test_time_is_summed(self, tmp_path: Path) -> None:
        lines = "1,33842865744,mithrain,154,156\n1,33842865744,alptv,166,169\n2,34,mithrain,5,6\n1,35,mithrain,9,19\n"
        (tmp_path / "full_a.csv.gz").write_bytes(gzip.compress(lines.encode()))
        result = convert("twitch", tmp_path / "full_a.csv.gz")
        assert labels(result) == [["alptv", "mithrain"], [1, 2]]
        assert result.tensor.to_dense().tolist() == [[3, 0], [12, 1]]

    def test_time_that_is_no_number(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("1,3,a,154,156\n1,3,b,x,156\n")
        with pytest.raises(InputError, match=r"x.csv:2: value 'x' is no finite number"):
            convert("twitch", tmp_path / "x.csv")


class TestCoha:
    def test_decades_are_summed_over_all_files(self, tmp_path: Path) -> None:
        files = {
            "w3_a.txt": "4\ta\tlight\tblue\t12\r\n6\ta\tlight\tblue\t13\r\n".encode("latin-1"),
            "w3_l.txt": "f\xe9e".join(["3\tlight\t", '\t"\t20\r\n']).encode("latin-1"),
        }
        result = convert("coha", make_zip(tmp_path / "coha.zip", files), order=3)
        assert labels(result) == [["a", "light"], ["f\xe9e", "light"], ['"', "blue"]]
        assert result.tensor.values.tolist() == [10, 3]

    def test_order_beyond_the_line(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "coha.zip", {"a.txt": b"4\ta\tlight\t12\n"})
        with pytest.raises(InputError, match="no single column '4'"):
            convert("coha", path, order=4)


class TestFrostt:
    def test_year_is_summed_out(self, tmp_path: Path) -> None:
        lines = "# paper author word year\n1 2 3 1 2\n1 2 3 2 5\n2 1 1 2 1\n"
        path = tmp_path / "nips.tns.gz"
        path.write_bytes(gzip.compress(lines.encode()))
        result = convert("tns", path, drop=[3], names=["paper", "author", "word"])
        table = pd.read_csv(io.StringIO(lines), sep=" ", comment="#", header=None)
        expected = table.groupby([0, 1, 2])[4].sum()
        assert {tuple(c + 1): v for c, v in zip(result.tensor.coords, result.tensor.values, strict=True)} == dict(
            expected
        )
        assert result.tensor.mode_names == ("paper", "author", "word")

    @pytest.mark.parametrize(("option", "problem"), [({"drop": [4]}, "mode 4 of"), ({"drop": [0, 1]}, "leaves none")])
    def test_modes_that_cannot_be_dropped(self, tmp_path: Path, option: dict[str, Any], problem: str) -> None:
        (tmp_path / "x.tns").write_text("1 2 1\n")
        with pytest.raises(InputError, match=problem):
            convert("tns", tmp_path / "x.tns", **option)


def python2_pickle(entries: dict[bytes, Any]) -> bytes:
    """A pickle as Python 2 wrote it (protocol 2, byte strings), of byte arrays and lists of small numbers."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def array(value: np.ndarray) -> bytes:
        rows, columns = value.shape
        built = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R" + b"(K\x03" + text(b"|") + b"NNN"
        kind += number(-1) * 2 + b"K\x00tb"
        return (
            built
            + b"(K\x01"
            + number(rows)
            + number(columns)
            + b"\x86"
            + kind
            + b"\x89"
            + text(value.tobytes())
            + b"tb"
        )

    content = b"\x80\x02}("
    for key, value in entries.items():
        content += text(key)
        content += array(value) if isinstance(value, np.ndarray) else b"](" + b"".join(map(number, value)) + b"e"
    return content + b"u."


class TestCifar:
    def images(self, count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)

    def test_fixture_is_a_pickle_of_numpy(self) -> None:
        images = self.images(2, 0)
        content = python2_pickle({b"data": images, b"labels": [3, 4]})
        batch = pickle.loads(content, encoding="bytes")  # noqa: S301 - our own bytes
        assert np.array_equal(batch[b"data"], images)
        assert batch[b"labels"] == [3, 4]

    def python10(self, folder: Path, change: dict[str, bytes] | None = None) -> tuple[Path, list[np.ndarray]]:
        parts = [self.images(2, seed) for seed in range(6)]
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        files = {
            f"cifar-10-batches-py/{name}": python2_pickle({b"batch_label": [], b"labels": [number, 9], b"data": part})
            for number, (name, part) in enumerate(zip(names, parts, strict=True))
        }
        files["cifar-10-batches-py/batches.meta"] = b"unread"
        return make_tar(folder / "cifar-10-python.tar.gz", files | (change or {})), parts

    def test_python_version(self, tmp_path: Path) -> None:
        path, parts = self.python10(tmp_path)
        result = convert("cifar", path)
        assert result.tensor.mode_names == ("channel", "image", "row", "column")  # 12 images only
        expected = np.concatenate(parts).reshape(12, 3, 32, 32).transpose(1, 0, 2, 3)
        assert np.array_equal(result.tensor.to_dense(), expected)
        columns = result.labels[1]
        assert columns is not None
        assert columns["label"].tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
        assert columns["split"].tolist() == ["train"] * 10 + ["test"] * 2

    def test_archive_is_unpacked_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, parts = self.python10(tmp_path)
        opened = count_passes(monkeypatch)
        assert convert("cifar", path).tensor.nnz == np.count_nonzero(parts)
        assert len(opened) == 1

    def test_binary_version_gives_the_same(self, tmp_path: Path) -> None:
        path, parts = self.python10(tmp_path)
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        files = {
            f"cifar-10-batches-bin/{name}.bin": b"".join(
                bytes([label]) + image.tobytes() for label, image in zip([number, 9], part, strict=True)
            )
            for number, (name, part) in enumerate(zip(names, parts, strict=True))
        }
        other = convert("cifar", make_tar(tmp_path / "cifar-10-binary.tar.gz", files))
        assert other.tensor == convert("cifar", path).tensor

    def test_hundred_classes_both_versions(self, tmp_path: Path) -> None:
        parts = {"train": self.images(3, 0), "test": self.images(2, 1)}
        python = {
            f"cifar-100-python/{name}": python2_pickle(
                {b"coarse_labels": [19] * len(part), b"fine_labels": list(range(len(part))), b"data": part}
            )
            for name, part in parts.items()
        }
        binary = {
            f"cifar-100-binary/{name}.bin": b"".join(
                bytes([19, number]) + image.tobytes() for number, image in enumerate(part)
            )
            for name, part in parts.items()
        }
        left = convert("cifar", make_tar(tmp_path / "cifar-100-python.tar.gz", python))
        right = convert("cifar", make_tar(tmp_path / "cifar-100-binary.tar.gz", binary))
        assert left.tensor == right.tensor
        for result in (left, right):
            columns = result.labels[result.tensor.mode_names.index("image")]
            assert columns is not None
            assert {name: values.tolist() for name, values in columns.items()} == {
                "coarse": [19] * 5,
                "label": [0, 1, 2, 0, 1],
                "split": ["train"] * 3 + ["test"] * 2,
            }

    def test_pickle_of_this_python(self, tmp_path: Path) -> None:
        batch = pickle.dumps({b"data": self.images(2, 0), b"labels": [0, 1]}, protocol=2)
        path, _ = self.python10(tmp_path, {"cifar-10-batches-py/data_batch_1": batch})
        assert convert("cifar", path).entries > 0

    def test_published_data_sets_come_without_a_pickle(self) -> None:
        registry = (Path(__file__).parent.parent / "params.yaml").read_text()
        names = re.findall(r"cifar-\S+\.tar\.gz(?=:)", registry)
        assert names == ["cifar-10-binary.tar.gz", "cifar-100-binary.tar.gz"]

    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path) -> None:
        evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
        path, _ = self.python10(tmp_path, {"cifar-10-batches-py/data_batch_1": evil})
        with pytest.raises(InputError, match=r"names os.system, which a batch of images does not need"):
            convert("cifar", path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "not a batch of CIFAR-10"),
            (pickle.dumps([1]), "not a batch of CIFAR-10"),
            (python2_pickle({b"labels": [1]}), "not a batch of CIFAR-10"),
            (python2_pickle({b"labels": [1, 2], b"data": np.zeros((1, 3072), np.uint8)}), "images of"),
            (python2_pickle({b"labels": [1], b"data": np.zeros((1, 3071), np.uint8)}), "images of"),
            (python2_pickle({b"labels": [10], b"data": np.zeros((1, 3072), np.uint8)}), "labels outside 0..9"),
            (pickle.dumps({b"labels": [[1]], b"data": np.zeros((1, 3072), np.uint8)}, 2), "no list of whole numbers"),
            (b"\x80\x02}r\xff\xff\xff\x7f.", "a memo of 2,147,483,647 in 9 bytes"),  # 17 GB for Python's unpickler
            (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"a.", "only 2 remain"),
        ],
    )
    def test_broken_batches(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path, _ = self.python10(tmp_path, {"cifar-10-batches-py/data_batch_1": content})
        with pytest.raises(InputError, match=problem):
            convert("cifar", path)

    def test_missing_batch_and_odd_size(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds none of the folders"):
            convert("cifar", make_tar(tmp_path / "a.tar.gz", {"cifar-10-batches-py/data_batch_1": b""}))
        files = {"cifar-100-binary/train.bin": bytes(3075), "cifar-100-binary/test.bin": bytes(3074)}
        with pytest.raises(InputError, match="3,075 bytes are no records of 3,074"):
            convert("cifar", make_tar(tmp_path / "b.tar.gz", files))


class TestArchives:
    def tar_with(self, path: Path, **attributes: Any) -> Path:
        with tarfile.open(path, "w:gz") as file:
            entry = tarfile.TarInfo("x")
            for name, value in attributes.items():
                setattr(entry, name, value)
            file.addfile(entry, io.BytesIO(bytes(entry.size)))
        return path

    @pytest.mark.parametrize("name", ["../x.csv", "a/../../x.csv", "/etc/x.csv", "..\\x.csv", "C:/x.csv"])
    def test_places_outside(self, tmp_path: Path, name: str) -> None:
        for path in (self.tar_with(tmp_path / "x.tar.gz", name=name), make_zip(tmp_path / "x.zip", {name: b"1"})):
            with pytest.raises(InputError, match="a place outside its folder"):
                raw.members(path, "*")

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_links_and_devices_in_tar(self, tmp_path: Path, kind: bytes) -> None:
        path = self.tar_with(tmp_path / "x.tar.gz", type=kind, linkname="/etc/passwd")
        with pytest.raises(InputError, match="'x', a link or device"):
            raw.members(path, "*")

    @pytest.mark.parametrize("length", range(0, 40, 3))
    def test_tar_that_breaks_off_at_its_start(self, tmp_path: Path, length: int) -> None:
        path = make_tar(tmp_path / "x.tar.gz", {"a": b"1\n"})
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(InputError, match=r"x.tar.gz: truncated or damaged"):
            raw.members(path, "*")

    def test_file_without_a_name(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "x.zip", {"a": b"1\n"})
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 28] = 0  # length of the name in the directory
        content[content.index(b"PK\x01\x02") + 32] = 1  # which then is a comment
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x.zip: "):
            raw.members(path, "*")

    def test_link_in_zip(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
            entry = zipfile.ZipInfo("x.csv")
            entry.external_attr = 0o120777 << 16
            file.writestr(entry, "/etc/passwd")
        with pytest.raises(InputError, match=r"'x.csv', a link or device"):
            raw.members(tmp_path / "x.zip", "*")

    def test_too_much(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archive, "LIMIT", 100)
        for path in (
            make_zip(tmp_path / "x.zip", {"a": bytes(60), "b": bytes(60)}),
            make_tar(tmp_path / "x.tar.gz", {"a": bytes(60), "b": bytes(60)}),
        ):
            with pytest.raises(InputError, match="unpacks to more than 100 bytes"):
                raw.members(path, "*")

    @pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.txt.gz", "x.txt.bz2", "x.txt.xz"])
    def test_garbage(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"garbage " * 100)
        with pytest.raises(InputError, match=f"{name}: truncated or damaged"), raw.open_raw(tmp_path / name) as stream:
            stream.read()

    def test_zip_with_a_broken_file(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "x.zip", {"a.txt": bytes(range(256)) * 50})
        content = bytearray(path.read_bytes())
        content[60:80] = b"\xff" * 20
        path.write_bytes(bytes(content))
        with pytest.raises(InputError, match=r"x.zip: truncated or damaged"), raw.open_raw(path) as stream:
            stream.read()

    def test_packed_single_files(self, tmp_path: Path) -> None:
        (tmp_path / "x.bz2").write_bytes(bz2.compress(b"content"))
        with raw.open_raw(tmp_path / "x.bz2") as stream:
            assert stream.read() == b"content"
        with raw.open_raw(make_tar(tmp_path / "x.tar.bz2", {"a/b": b"content"})) as stream:
            assert stream.read() == b"content"
        two = make_zip(tmp_path / "x.zip", {"a": b"", "b": b""})
        with pytest.raises(InputError, match="2 files in the archive where one belongs"), raw.open_raw(two):
            pass
