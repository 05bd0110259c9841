"""Sparse matrices and tensors as named arrays: ``.npz`` of SciPy and pydata/sparse, ``.npy``, Binsparse in HDF5.

Sources: scipy.sparse.save_npz; Binary Sparse Format Specification 0.1 (GraphBLAS/binsparse-specification).
Every index is checked before it is used: a file from somewhere else cannot make SciPy read out of bounds.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from pipeline.core.sizes import UNPACKED, check_unpacked
from pipeline.datasets.archive import DAMAGE
from pipeline.datasets.places import check_range
from pipeline.datasets.raw import Array, Files, Mode, RawTensor, only_file
from pipeline.errors import InputError
from pipeline.sparse.reals import as_float64

HEAP_HEADER = 16  # bytes of the header of a heap in HDF5, and of one of its objects
NPZ_ARRAYS = (  # of SciPy's and of pydata/sparse's files
    "format", "shape", "coords", "row", "col", "data", "indices", "indptr", "offsets", "fill_value", "compressed_axes",
)  # fmt: skip
LARGEST_HEADER = 10_000  # characters of a .npy header
TEXTS = 64  # of no fixed length that are read at a time at least
MATRIX_NAMES = ("row", "column")
Arrays = Mapping[str, Array]


def read_npy(files: Files) -> RawTensor:
    """Read an array of NumPy's ``.npy``, cell by cell; its zeros are left out, and a line says what is read as what."""
    path = only_file(files)
    try:
        array = np.lib.format.open_memmap(path, mode="r", max_header_size=LARGEST_HEADER)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (*DAMAGE, ValueError, OSError, SyntaxError, TokenError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: not a readable .npy file of numbers ({error})") from error
    return dense_tensor(path, array)


def dense_tensor(path: Path, array: Array) -> RawTensor:
    """The non-zeros of a dense array.

    Raises
    ------
    InputError
        No real numbers, or no axis.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.ndim:
        kind = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"{path}: an array of type {kind} with {np.ndim(array)} axes; a tensor holds real numbers")
    indices = np.nonzero(array)
    sizes = " x ".join(map(str, array.shape))
    print(f"{path.name}: a dense array of {sizes}, {len(indices[0]):,} cells not zero", file=sys.stderr)
    if not len(indices[0]):
        raise InputError(f"{path}: empty tensor: all cells are zero")
    return _tensor(path, indices, np.asarray(array[indices]), array.shape)


def read_npz(files: Files) -> RawTensor:
    """Read ``.npz``: what ``scipy.sparse.save_npz`` writes (coo of any order, csr, csc, bsr, dia), what pydata/sparse
    writes (COO, GCXS), or one dense array alone.
    """
    path = only_file(files)
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            wanted = held if len(held) == 1 else [name for name in held if name in NPZ_ARRAYS]
            arrays = {name: _npz_array(path, archive, name) for name in wanted}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'") from error
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        if path.is_file() and path.open("rb").read(6) == b"\x93NUMPY":
            raise InputError(f"{path}: a single array where scipy.sparse.save_npz writes an archive") from error
        raise InputError(f"{path}: not a readable .npz file ({error})") from error
    except (*DAMAGE, ValueError, OSError, KeyError, TypeError, SyntaxError, TokenError) as error:
        raise InputError(f"{path}: not a readable .npz file ({' '.join(str(error).split())[:200]})") from error
    named = arrays.get("format", np.array("")) if "shape" in arrays else np.array("")
    layout = named.astype(np.str_).item() if named.dtype.kind in "SU" and named.size == 1 else ""
    if not layout and len(arrays) == 1:
        return dense_tensor(path, next(iter(arrays.values())))
    if (fill := arrays.get("fill_value")) is not None and (fill.dtype.kind not in "biuf" or fill.any()):
        raise InputError(f"{path}: cells that are not stored have the value {fill.tolist()}; only 0 is sparse")
    if not layout and {"data", "coords"} <= set(arrays):
        layout = "coo"  # of pydata/sparse before it named its formats
    readers: dict[str, Callable[[Path, Arrays, tuple[int, ...]], tuple[list[Array], Array]]] = {
        "coo": _coo,
        "csr": _csr,
        "csc": _csc,
        "bsr": _bsr,
        "dia": _dia,
        "gcxs": _gcxs,
    }
    if layout not in readers:
        holds = ", ".join(held[:5])
        raise InputError(
            f"{path}: no sparse matrix of scipy.sparse.save_npz; its 'format' is none of {list(readers)}; it holds the "
            f"arrays {holds}: save the one that is the tensor by numpy.save"
        )
    shape = _shape(path, _array(path, arrays, "shape").tolist())
    indices, values = readers[layout](path, arrays, shape)
    return _tensor(path, indices, values, shape)


def _coo(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    if "coords" in arrays:
        return list(np.atleast_2d(arrays["coords"])), _array(path, arrays, "data")
    return [_array(path, arrays, "row"), _array(path, arrays, "col")], _array(path, arrays, "data")


def _csr(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    inner = _array(path, arrays, "indices")
    outer = expand_pointers(path, _array(path, arrays, "indptr"), len(inner), shape[0])
    return [outer, inner], _array(path, arrays, "data")


def _csc(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    (column, row), values = _csr(path, arrays, shape[::-1])
    return [row, column], values


def _gcxs(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    """Pydata/sparse's rows of compressed axes, all others in one index, the last fastest."""
    rows = _array(path, arrays, "compressed_axes").tolist()
    columns = [axis for axis in range(len(shape)) if axis not in rows]
    if sorted([*rows, *columns]) != list(range(len(shape))) or math.prod(shape) >= 1 << 62:
        raise InputError(f"{path}: compressed axes {rows} of a tensor of shape {shape}")
    outer, inner = (tuple(shape[axis] for axis in axes) for axes in (rows, columns))
    column = _array(path, arrays, "indices")
    row = expand_pointers(path, _array(path, arrays, "indptr"), len(column), math.prod(outer))
    if column.dtype.kind not in "iu" or (len(column) and not 0 <= column.min() <= column.max() < math.prod(inner)):
        raise InputError(f"{path}: array 'indices' has an index outside 0..{math.prod(inner) - 1}")
    found = dict(zip(rows, np.unravel_index(row, outer), strict=True))
    found |= dict(zip(columns, np.unravel_index(column.astype(np.int64), inner) if inner else (), strict=True))
    return [found[axis] for axis in range(len(shape))], _array(path, arrays, "data")


def _bsr(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    """Blocks (n, r, c), each with its row and column of blocks."""
    blocks, inner = _array(path, arrays, "data"), _array(path, arrays, "indices")
    if blocks.ndim != 3 or inner.shape != (len(blocks),) or inner.dtype.kind not in "iu" or len(shape) != 2:
        raise InputError(f"{path}: blocks of shape {blocks.shape} with {inner.shape} indices")
    _, rows, columns = blocks.shape
    if not rows or not columns or shape[0] % rows or shape[1] % columns:
        raise InputError(f"{path}: blocks of {rows} x {columns} do not divide a shape {shape}")
    outer = expand_pointers(path, _array(path, arrays, "indptr"), len(inner), shape[0] // rows)
    if len(inner) and (inner.min() < 0 or inner.max() >= shape[1] // columns):
        raise InputError(f"{path}: an index of a block is outside 0..{shape[1] // columns - 1}")
    row = (outer * rows)[:, None, None] + np.arange(rows)[:, None]
    column = (inner.astype(np.int64) * columns)[:, None, None] + np.arange(columns)
    places = [np.broadcast_to(place, blocks.shape).ravel() for place in (row, column)]
    kept = blocks.ravel() != 0
    return [place[kept] for place in places], blocks.ravel()[kept]


def _dia(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    """Diagonals (k, n): what is at column j of the one with offset d lies in row j - d."""
    data, offsets = np.atleast_2d(_array(path, arrays, "data")), _array(path, arrays, "offsets")
    if data.ndim != 2 or offsets.shape != (len(data),) or offsets.dtype.kind not in "iu" or len(shape) != 2:
        raise InputError(f"{path}: diagonals of shape {data.shape} with {offsets.shape} offsets")
    if len(offsets) and (offsets.min() <= -shape[0] or offsets.max() >= shape[1]):
        raise InputError(f"{path}: an offset of a diagonal is outside a shape {shape}")
    column = np.broadcast_to(np.arange(data.shape[1]), data.shape)
    row = column - offsets.astype(np.int64)[:, None]
    kept = (row >= 0) & (row < shape[0]) & (column < shape[1]) & (data != 0)
    return [row[kept], column[kept]], data[kept]


def _npz_array(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    """One array, once its header is found to ask for no more than is stored."""
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    entry = archive.getinfo(f"{name}.npy")
    check_unpacked(path, entry.file_size, f"array '{name}'")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in read_header:
            raise InputError(f"{path}: array '{name}' has a header of version {version}")
        shape, fortran, kind = read_header[version](stream, max_header_size=LARGEST_HEADER)
        if kind.hasobject:
            raise InputError(f"{path}: not a readable .npz file (array '{name}' holds objects, which are not loaded)")
        if math.prod(shape) * kind.itemsize > entry.file_size or min(shape, default=0) < 0:
            raise InputError(f"{path}: array '{name}' of shape {shape} and type {kind} is more than what is stored")
        content = stream.read(math.prod(shape) * kind.itemsize + 1)
    if len(content) != math.prod(shape) * kind.itemsize:
        raise InputError(f"{path}: array '{name}' has {len(content):,} bytes, its shape {shape} is of other")
    return np.frombuffer(content, dtype=kind).reshape(shape, order="F" if fortran else "C")


def expand_pointers(path: Path, pointers: Array, entries: int, size: int) -> Array:
    """Turn the pointers of a compressed format into one index an entry.

    Raises
    ------
    InputError
        Pointers that do not rise from 0 to the number of entries, or not one more than `size`.
    """
    if pointers.dtype.kind not in "iu" or pointers.ndim != 1 or len(pointers) != size + 1:
        raise InputError(f"{path}: {pointers.shape} pointers of type {pointers.dtype} for a mode of size {size}")
    ends = pointers.astype(np.int64)
    counts = ends[1:] - ends[:-1]
    if pointers[0] != 0 or pointers[-1] != entries or (counts < 0).any():
        raise InputError(f"{path}: pointers do not rise from 0 to its {entries} entries")
    return np.repeat(np.arange(size), counts)


def read_binsparse(files: Files, *, group: str = "/") -> RawTensor:
    """Read a Binsparse file (HDF5): COO, COOR, COOC, CSR, CSC, DCSR, DCSC, VEC, CVEC, and tensors of one sparse level.

    Parameters
    ----------
    group
        Where in the file the tensor lies.
    """
    import h5py

    path = only_file(files)
    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    check_heaps(path)
    try:
        with h5py.File(path, "r") as file:
            place = own_object(path, file, group)
            descriptor = json.loads(place.attrs["binsparse"])["binsparse"]
            arrays = {name: own_array(path, place, name) for name in descriptor["data_types"] if name in place}
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable Binsparse file ({error})") from error
    return _from_descriptor(path, descriptor, arrays)


def own_object(path: Path, start: Any, name: str) -> Any:
    """Follow hard links alone: a soft or external link may lead out of the file, or in a circle."""
    import h5py

    found = start
    for part in filter(None, name.split("/")):
        if not isinstance(found, h5py.Group) or part not in set(found.keys()):
            raise InputError(f"{path}: no group '{name}'")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"{path}: '{part}' is a link to another place; only what lies in the file itself is read")
        found = found[part]
    return found


def own_array(path: Path, group: Any, name: str) -> Array:
    """Read an array whose bytes lie in the file: neither external storage nor a virtual data set."""
    import h5py

    found = own_object(path, group, name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: '{name}' is no array")
    if found.is_virtual or found.external:
        raise InputError(f"{path}: the values of array '{name}' lie in other files, which are not read")
    texts = found.dtype.kind == "S" or h5py.check_string_dtype(found.dtype) is not None
    if found.shape is None or (found.dtype.kind not in "biufc" and not texts):
        raise InputError(f"{path}: array '{name}' holds no numbers")
    chunk = math.prod(found.chunks or ()) * found.dtype.itemsize  # is unpacked whole, whatever is read of it
    check_unpacked(path, max(found.nbytes, chunk), f"array '{name}'")
    return _texts_of_any_length(path, found, name) if found.dtype.kind == "O" else np.asarray(found[...])


def _texts_of_any_length(path: Path, found: Any, name: str) -> Array:
    """Texts, many of which may be one and the same in the file."""
    flat, step = found.reshape(-1) if found.ndim != 1 else found, max(TEXTS, UNPACKED // path.stat().st_size)
    parts, total = [np.empty(0, dtype=object)], 0
    for start in range(0, len(flat), step):
        parts.append(flat[start : start + step])
        total += sum(map(len, parts[-1]))
        check_unpacked(path, total, f"array '{name}'")
    return np.concatenate(parts)


def check_heaps(path: Path) -> None:
    """Walk the global heaps of an HDF5 file as its library does, which does not stop at an object without size.

    Layout: HDF5 File Format Specification, "Level 1E: Global Heap" (sizes of eight bytes).
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path}: not a readable Binsparse file (it is empty)")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for heap in re.finditer(rb"GCOL\x01\0\0\0", content):
            place = heap.start() + HEAP_HEADER
            if place > len(content):
                break
            end = min(heap.start() + int.from_bytes(content[place - 8 : place], "little"), len(content))
            while place + HEAP_HEADER <= end:
                number = int.from_bytes(content[place : place + 2], "little")
                size = int.from_bytes(content[place + 8 : place + HEAP_HEADER], "little")
                taken = HEAP_HEADER + (size + 7) // 8 * 8 if number else size  # that of number 0 is what is free
                if taken < HEAP_HEADER or place + taken > end:
                    raise InputError(f"{path}: not a readable Binsparse file (heap damaged at byte {place})")
                place += taken


def _from_descriptor(path: Path, descriptor: dict[str, Any], arrays: Arrays) -> RawTensor:
    shape = _shape(path, descriptor.get("shape"))
    if descriptor.get("fill"):
        fill = _array(path, arrays, "fill_value")
        if fill.any():
            raise InputError(f"{path}: cells that are not stored have the value {fill.tolist()}; only 0 is sparse")
    layout, transpose = _layout(path, descriptor, len(shape))
    inner = [shape[mode] for mode in transpose]
    last = f"indices_{len(shape) - 1}"
    count = len(_array(path, arrays, last))
    if layout == "compressed":
        rows = expand_pointers(path, _array(path, arrays, "pointers_to_1"), count, inner[0])
        indices = [rows, arrays[last]]
    elif layout == "doubly compressed":
        kept = _array(path, arrays, "indices_0")
        place = expand_pointers(path, _array(path, arrays, "pointers_to_1"), count, len(kept))
        indices = [kept[place], arrays[last]]
    else:
        indices = [_array(path, arrays, f"indices_{mode}") for mode in range(len(shape))]
    values = _values(path, descriptor["data_types"].get("values", ""), _array(path, arrays, "values"), count)
    placed = [indices[transpose.index(mode)] for mode in range(len(shape))]
    return _tensor(path, *_mirrored(path, descriptor.get("structure"), placed, values, shape), shape)


PREDEFINED = {
    "VEC": ("coordinates", [0]),
    "CVEC": ("coordinates", [0]),
    "COO": ("coordinates", [0, 1]),
    "COOR": ("coordinates", [0, 1]),
    "COOC": ("coordinates", [1, 0]),
    "CSR": ("compressed", [0, 1]),
    "CSC": ("compressed", [1, 0]),
    "DCSR": ("doubly compressed", [0, 1]),
    "DCSC": ("doubly compressed", [1, 0]),
}


def _layout(path: Path, descriptor: dict[str, Any], order: int) -> tuple[str, list[int]]:
    """Return how entries are stored, and the tensor's mode behind each stored mode."""
    name = descriptor.get("format")
    if isinstance(name, str) and name in PREDEFINED:
        layout, transpose = PREDEFINED[name]
        if len(transpose) != order:
            raise InputError(f"{path}: format {name} with a shape of {order} sizes")
        return layout, transpose
    custom = descriptor.get("custom") if name == "custom" else name
    if not isinstance(custom, dict):
        raise InputError(f"{path}: format {name!r} is none of: {', '.join(PREDEFINED)}, a custom sparse level")
    nested = custom.get("level")
    level: dict[str, Any] = nested if isinstance(nested, dict) else custom
    kind = level.get("level_desc", level.get("level"))
    inner = level.get("subformat") or level.get("level")
    leaf = inner.get("level_desc", inner.get("level")) if isinstance(inner, dict) else None
    if kind != "sparse" or leaf != "element" or level.get("rank") != order:
        raise InputError(f"{path}: of custom formats, one sparse level of all {order} modes over elements is read")
    transpose = custom.get("transpose") or descriptor.get("swizzle") or list(range(order))
    if sorted(transpose) != list(range(order)):
        raise InputError(f"{path}: {transpose} is no order of {order} modes")
    return "coordinates", transpose


def _values(path: Path, kind: str, stored: Array, count: int) -> Array:
    if kind.startswith("iso["):
        if len(stored) != 1:
            raise InputError(f"{path}: {len(stored)} values of type {kind}, which has one")
        stored = np.repeat(stored, count)
    if "complex" in kind:
        raise InputError(f"{path}: complex values; a tensor here has real ones")
    return stored


def _mirrored(
    path: Path, structure: str | None, indices: list[Array], values: Array, shape: tuple[int, ...]
) -> tuple[list[Array], Array]:
    if structure is None:
        return indices, values
    sign = {"symmetric_lower": 1, "symmetric_upper": 1, "skew_symmetric_lower": -1, "skew_symmetric_upper": -1}
    if structure not in sign or len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"{path}: structure {structure!r} of shape {shape} is not known")
    row, column = indices
    off = row != column
    values = as_float64(values)
    mirrored = np.concatenate([values, sign[structure] * values[off]])
    return [np.concatenate([row, column[off]]), np.concatenate([column, row[off]])], mirrored


def compressed_tensor(path: Path, arrays: Arrays, shape: Sequence[Any], columns: bool) -> RawTensor:
    """A matrix of ``data``, ``indices`` and ``indptr``, compressed by rows or by `columns`."""
    sizes = _shape(path, [int(size) if isinstance(size, int) else size for size in shape])
    if len(sizes) != 2:
        raise InputError(f"{path}: a compressed matrix of {len(sizes)} sizes")
    indices, values = (_csc if columns else _csr)(path, arrays, sizes)
    return _tensor(path, indices, values, sizes)


def _tensor(path: Path, indices: Sequence[Array], values: Array, shape: tuple[int, ...]) -> RawTensor:
    """Check arrays of coordinates and values and wrap them."""
    if len(indices) != len(shape) or values.ndim != 1 or any(index.shape != values.shape for index in indices):
        raise InputError(f"{path}: arrays of different lengths for a shape {shape}")
    if any(index.dtype.kind not in "iu" for index in indices) or values.dtype.kind not in "iubf":
        raise InputError(f"{path}: indices are whole numbers and values real ones")
    names = MATRIX_NAMES if len(shape) == 2 else [f"mode_{mode}" for mode in range(len(shape))]
    modes = [Mode(name, indexed=True, size=size) for name, size in zip(names, shape, strict=True)]
    for mode, index in zip(modes, indices, strict=True):
        check_range(index, 0, mode, lambda entry: f"{path}: entry {entry}", fixed=True)
    return RawTensor(modes, [([index.astype(np.int64) for index in indices], as_float64(values))])


def _shape(path: Path, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(f"{path}: shape {shape} is no list of sizes of at least 1")
    if math.prod(shape) == 0 or max(shape) > 1 << 48:
        raise InputError(f"{path}: shape {shape} is too large")
    return tuple(shape)


def _array(path: Path, arrays: Arrays, name: str) -> Array:
    if name not in arrays:
        raise InputError(f"{path}: array '{name}' is missing")
    return np.atleast_1d(arrays[name])
