"""What lossless and truncation share: cells held exactly, as a code in free orders or with the orders stored."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines import patterns
from pipeline.baselines.base import Baseline, Integers, Reals
from pipeline.baselines.coding import (
    blocks,
    column_sets,
    fibres,
    gaps,
    mixed,
    overlaps,
    repeated,
    scaled,
    steps,
    symmetric,
    unlabelled,
)
from pipeline.errors import InputError
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor
from pipeline.sparse.orders import pack_integers, unpack_integers

GAPS_AT_MOST = 1 << 18  # non-zeros
FEW_BLOCKS = 4  # a query that needs less than a fourth of the blocks decodes these alone
COLUMNS_AT_MOST = 1 << 13  # non-zeros of a matrix, beyond which the unlabelled code has learned more than it cost


class Labelled(NamedTuple):
    """A code and the orders that lead from its positions back to the tensor's indices.

    A mode that is not among `orders` stands in its own order. Of an order only the indices that have
    non-zeros are kept; the others follow by number.
    """

    code: bytes
    orders: dict[int, npt.NDArray[np.uint8]]
    used: dict[int, int]

    @property
    def bytes(self) -> int:
        """Bytes of the code and the packed orders."""
        return len(self.code) + sum(len(packed) for packed in self.orders.values())


class ExactCells(Baseline):
    """Cells held exactly; all others are zero.

    Attributes after ``fit``
    ------------------------
    free_bytes_
        Length of the shortest code that tells the tensor up to the orders of its modes.
    labelled_
        The cheapest code together with orders that give the tensor's own indices.
    """

    free_bytes_: int
    labelled_: Labelled
    _cells: CellTable | None = None
    _reader: blocks.Reader | None = None  # of a code in blocks, where the model was loaded
    _free_code: bytes | None = None  # of length `free_bytes_`; None where the model was loaded

    def _store(self, coords: Integers, values: Reals, in_blocks: bool = False) -> None:
        """Code the given cells, if so wished in blocks, and make sure that the codes give them back."""
        if in_blocks:
            candidates = [Labelled(blocks.pack(coords, values, self.inner_shape_), {}, {})]
        else:
            candidates = all_codes(coords, values, self.inner_shape_)
        free = min(candidates, key=lambda candidate: len(candidate.code))
        self._free_code, self.free_bytes_ = free.code, len(free.code)
        self.labelled_ = min(candidates, key=lambda candidate: candidate.bytes)
        kept = SparseTensor(coords, values, self.inner_shape_)
        for chosen in (free, self.labelled_):
            if _decode_labelled(chosen) != kept:
                raise RuntimeError(f"{self.name}: the code does not give back what was coded")
        self._cells = CellTable(kept.coords, kept.values)

    @property
    def cells_(self) -> CellTable:
        """All cells that were coded; a code in blocks is decoded whole for it."""
        if self._cells is None:
            if self._reader is None:
                raise AttributeError("cells_")
            coords, values, _ = self._reader.all_cells()
            self._cells = CellTable(coords, values)
        return self._cells

    def _predict(self, index: Integers) -> Reals:
        """Exact where they were coded and 0 elsewhere; of a code in blocks those alone that have a wanted cell."""
        if self._cells is None and self._reader is not None:
            wanted = len(np.unique(self._reader.blocks_of(index)))
            if wanted * FEW_BLOCKS <= self._reader.blocks:
                return self._reader.look_up(index)
        return self.cells_.look_up(index)[0]

    def largest(self, count: int, fixed: dict[int, int] | None = None) -> tuple[Integers, Reals]:
        """As of :class:`Compressor`; of a code in blocks only the block of a fixed column is decoded."""
        top = gaps.top_mode(self.inner_shape_)
        inside = self.frame_.inward({top: fixed[top]}) if fixed and 0 <= fixed.get(top, -1) < self.shape_[top] else None
        if self._cells is not None or self._reader is None or inside is None:
            return super().largest(count, fixed)
        self._cells = CellTable(*self._reader.near(inside[top]))
        try:
            return super().largest(count, fixed)
        finally:
            self._cells = None

    def held_cells(self) -> tuple[Integers, Reals]:
        """The cells that were coded: all that are not zero."""
        return self.frame_.outward(self.cells_.coords, self.cells_.values)

    def _squared_error(self, X: SparseTensor) -> float:
        values, place = self.cells_.look_up(X.coords)
        unmatched = np.ones(len(self.cells_.values), dtype=bool)
        unmatched[place[place >= 0]] = False
        return float(np.sum((X.values - values) ** 2) + np.sum(self.cells_.values[unmatched] ** 2))

    def _size(self) -> dict[str, int]:
        """Coded bytes, in free orders and with what is needed to answer in the tensor's own indices."""
        free = self.free_bytes_
        return {"bytes": free, "bytes_equal": free, "bytes_with_order": self.labelled_.bytes}

    def parameter_count(self) -> int:
        """None: a combinatorial code."""
        return 0

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """The code's kind and the shape."""
        return {"code": 1 + len(shape)}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Without `orders` it is smaller and answers in the code's own indices."""
        chosen = self.labelled_
        if not orders and self.own_indices_:
            if self._free_code is None and self._reader is not None:
                self._free_code = self.labelled_.code
            if self._free_code is None:
                codes = [one.code for one in all_codes(self.cells_.coords, self.cells_.values, self.inner_shape_)]
                self._free_code = min(codes, key=len)
            chosen = Labelled(self._free_code, {}, {})
        tensors: dict[str, npt.NDArray[Any]] = {"code": np.frombuffer(chosen.code, dtype=np.uint8)}
        tensors |= {f"order_{mode}": packed for mode, packed in chosen.orders.items()}
        used = {str(mode): count for mode, count in chosen.used.items()}
        content = {"orders": orders and self.own_indices_, "free_bytes": self.free_bytes_}
        return tensors, content | ({"used": used} if used else {})

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        """Decode the cells and, where orders are stored, move them to the tensor's own indices."""
        labelled = _labelled(contents)
        model = cls()
        if labelled.code[:1] in blocks.CODES and not labelled.used:
            model._reader = blocks.Reader(labelled.code)
            model.shape_ = model._reader.shape
        else:
            kept = _decode_labelled(labelled)
            model._cells, model.shape_ = CellTable(kept.coords, kept.values), kept.shape
        model.free_bytes_ = contents.whole("free_bytes")
        flag = contents.entry("orders")  # format version 1 has the lengths of the orders here
        free = not labelled.used and len(labelled.code) == model.free_bytes_
        model.own_indices_ = contents.flag("orders") if isinstance(flag, bool) else not free
        model.labelled_ = labelled
        return model


def _labelled(contents: Contents) -> Labelled:
    """Code and packed orders of an artifact."""
    flag = contents.entry("orders")
    lengths = contents.metadata.get("used", {}) if isinstance(flag, bool) else flag
    if not isinstance(lengths, dict) or not all(mode.isdecimal() and len(mode) < 3 for mode in lengths):
        raise InputError("its metadata has no usable lengths of orders")
    numbers = Contents({}, lengths)
    used = {int(mode): numbers.whole(mode, 1) for mode in lengths}
    stored = {mode: np.frombuffer(contents.code(f"order_{mode}"), dtype=np.uint8) for mode in used}
    return Labelled(contents.code("code"), stored, used)


class CellTable:
    """Values by coordinates, found by one binary search a mode; any order, any grid.

    Attributes
    ----------
    coords, values
        (n, D) int64 in lexicographic order and (n,) float64.
    """

    def __init__(self, coords: Integers, values: Reals) -> None:
        self.coords, self.values = coords, values
        self.levels: list[tuple[Integers, int]] = []
        number = np.zeros(len(coords), dtype=np.int64)
        for mode in range(coords.shape[1]):
            width = int(coords[:, mode].max()) + 1
            distinct, number = np.unique(number * width + coords[:, mode], return_inverse=True)
            self.levels.append((distinct, width))

    def look_up(self, coords: Integers) -> tuple[Reals, Integers]:
        """Values (0 where there is none) and places in `values` (-1 where there is none) of (n, D) `coords`."""
        number = np.zeros(len(coords), dtype=np.int64)
        known = np.ones(len(coords), dtype=bool)
        for mode, (distinct, width) in enumerate(self.levels):
            key = number * width + coords[:, mode]
            number = np.minimum(np.searchsorted(distinct, key), len(distinct) - 1)
            known &= (distinct[number] == key) & (coords[:, mode] < width)
        return np.where(known, self.values[number], 0.0), np.where(known, number, -1)


def all_codes(coords: Integers, values: Reals, shape: tuple[int, ...]) -> list[Labelled]:
    """All orders stored, the top mode left as it is, all modes left as they are; by every code able to.

    The code of each tells the tensor up to the orders of its modes. Of a symmetric matrix each pair of cells is told
    once; values are told as whole numbers where they have a scale.
    """
    scale = scaled.find(values)
    if scale is None:
        return _regular_too(coords, values, shape)
    found = _regular_too(coords, scale.numbers(values), shape)
    found = [each._replace(code=scaled.wrapped(scale, each.code)) for each in found]
    return found + (_regular_too(coords, values, shape) if scaled.doubtful(scale, values) else [])


def _regular_too(coords: Integers, values: Reals, shape: tuple[int, ...]) -> list[Labelled]:
    """As :func:`all_codes`, of values as they are."""
    found = _codes(coords, values, shape)
    regular = steps.pack(coords, values, shape, min(each.bytes for each in found))
    return found if regular is None else [*found, Labelled(regular, {}, {})]


def _codes(coords: Integers, values: Reals, shape: tuple[int, ...]) -> list[Labelled]:
    """As :func:`all_codes`, by codes that tell which indices meet, of values as they are."""
    if symmetric.able(coords, values, shape):
        return _symmetric_codes(coords, values, shape)
    code, orders = free_code(coords, values, shape)
    top = gaps.top_mode(shape)
    candidates = [Labelled(code, *_pack(dict(enumerate(orders)), coords))]
    kept_orders = [{mode: order for mode, order in enumerate(orders) if mode != top}, dict[int, Integers]()]
    for kept in kept_orders if gaps_pay(coords, shape) else []:
        moved = _move(coords, [kept.get(mode, np.arange(size)) for mode, size in enumerate(shape)])
        candidates.append(Labelled(gaps.encode(moved, values, shape), *_pack(kept, coords)))
    if column_sets.able(coords, shape):
        kept_columns, stored = column_sets.pack(coords, values, shape, free=False)
        candidates.append(Labelled(kept_columns, *_pack(stored, coords)))
    if fibres.able(coords, shape):
        candidates.append(Labelled(fibres.pack(coords, values, shape, free=False)[0], {}, {}))
    kept_codes = _tree_codes(coords, values, shape)
    if unlabelled.keeps(coords, shape):
        kept_codes.append(unlabelled.pack_kept(coords, values, shape))
    candidates += [Labelled(code, {}, {}) for code in kept_codes if code is not None]
    return candidates


def _symmetric_codes(coords: Integers, values: Reals, shape: tuple[int, ...]) -> list[Labelled]:
    """In an order of the code's own choice, and in the tensor's by every code able to."""
    one = symmetric.upper(coords)
    triangle = [each.code for each in _codes(coords[one], values[one], shape) if not each.orders]
    candidates = [Labelled(symmetric.mirrored(code), {}, {}) for code in triangle]
    packed = symmetric.pack(coords, values, shape)
    if packed is not None:
        candidates.append(Labelled(packed[0], *_pack({0: packed[1], 1: packed[1]}, coords)))
    return candidates


def _tree_codes(coords: Integers, values: Reals, shape: tuple[int, ...]) -> list[bytes | None]:
    """Codes that mix contexts: of windows on a sequence where it is one, and the general one where few cells are."""
    windows = overlaps.pack(coords, values, shape)
    return [windows] if windows and len(coords) > COLUMNS_AT_MOST else [windows, mixed.pack(coords, values, shape)]


def free_code(coords: Integers, values: Reals, shape: tuple[int, ...]) -> tuple[bytes, list[Integers]]:
    """Shortest code of the cells in orders of its own choice, and those orders (position -> index)."""
    candidates = [gap_code(coords, values, shape)] if gaps_pay(coords, shape) else []
    candidates += [_by_value(coords, values, shape)] if len(shape) == 1 else []
    packed = [fibres.pack(coords, values, shape, free=True)] if fibres.able(coords, shape) else []
    unnamed = unnamed_code(coords, values, shape) if unlabelled.able(coords, shape) else None
    if unnamed is not None:
        packed.append(unnamed)
    if (unnamed is None or len(coords) <= COLUMNS_AT_MOST) and column_sets.able(coords, shape):
        packed.append(column_sets.pack(coords, values, shape, free=True))
    candidates += [(code, [chosen[mode] for mode in range(len(shape))]) for code, chosen in packed]
    return min(candidates, key=lambda candidate: len(candidate[0]))


def _by_value(coords: Integers, values: Reals, shape: tuple[int, ...]) -> tuple[bytes, list[Integers]]:
    """Code of a vector whose indices may change places: the values as they rise."""
    told = coords[np.argsort(values, kind="stable"), 0]
    order = np.concatenate((told, np.setdiff1d(np.arange(shape[0]), told)))
    return gaps.encode(_move(coords, [order]), values, shape), [order]


def unnamed_code(coords: Integers, values: Reals, shape: tuple[int, ...]) -> tuple[bytes, dict[int, Integers]] | None:
    """Shorter one of the codes that name no columns: of all of them, or of one of every g that are alike."""
    top = gaps.top_mode(shape)
    packed = [unlabelled.pack(coords, values, shape)]
    if len(np.unique(values)) == 1:
        found, which = patterns.distinct(coords[:, top], coords[:, 1 - top], shape[top])
        if len(found.times) and np.gcd.reduce(found.times) > 1:
            columns = np.flatnonzero(which >= 0)
            packed.append(repeated.pack(coords, values, shape, columns, which[columns]))
    return min((each for each in packed if each is not None), key=lambda each: len(each[0]), default=None)


def quick_code(coords: Integers, values: Reals, shape: tuple[int, ...]) -> bytes:
    """A code that is made in seconds, for comparing what might be kept."""
    if len(shape) > 2 and fibres.able(coords, shape):
        return fibres.pack(coords, values, shape, free=True)[0]
    return gap_code(coords, values, shape)[0]


def quick_length(coords: Integers, values: Reals, shape: tuple[int, ...], orders: bool) -> int:
    """Bytes that :class:`ExactCells` does not exceed, for comparing choices of cells by a code that is mostly best.

    A few cells are coded in every way; so are those that this code does not take.
    """
    codes: list[bytes | None] = []
    if len(coords) > COLUMNS_AT_MOST and len(shape) > 2:
        codes = _tree_codes(coords, values, shape)
    elif len(coords) > COLUMNS_AT_MOST and orders and unlabelled.keeps(coords, shape):
        codes = [unlabelled.pack_kept(coords, values, shape)]
    elif len(coords) > COLUMNS_AT_MOST and not orders and unlabelled.able(coords, shape):
        packed = unnamed_code(coords, values, shape)
        codes = [packed[0] if packed else None]
        codes += [gap_code(coords, values, shape)[0]] if gaps_pay(coords, shape) else []
    lengths = [len(code) for code in codes if code is not None]
    lengths = lengths or [one.bytes if orders else len(one.code) for one in all_codes(coords, values, shape)]
    return min(lengths)


def gaps_pay(coords: Integers, shape: tuple[int, ...]) -> bool:
    """Whether to try gaps: in a large tensor LZMA takes minutes and comes out a fifth longer than sets of children."""
    return len(coords) <= GAPS_AT_MOST or not fibres.able(coords, shape)


def gap_code(coords: Integers, values: Reals, shape: tuple[int, ...]) -> tuple[bytes, list[Integers]]:
    """Code of gaps between sorted indices in free orders: made at once, for tensors of any order."""
    orders = gaps.free_orders(coords, shape)
    return gaps.encode(_move(coords, orders), values, shape), orders


def decode(code: bytes) -> gaps.Cells:
    """Coordinates (n, D) in lexicographic order, values (n,) and shape from a code of any kind.

    Raises
    ------
    InputError
        The code is damaged.
    """
    if code[:1] == gaps.KIND:
        return gaps.decode(code)
    if code[:1] in blocks.CODES:
        return blocks.unpack(code)
    if code[:1] == repeated.CODE:
        return repeated.unpack(code)
    if code[:1] == symmetric.FREE:
        return symmetric.unpack(code)
    if code[:1] == symmetric.MIRRORED:
        return _mirrored(code[1:])
    if code[:1] == scaled.CODE:
        return _scaled(code)
    if code[:1] == steps.CODE:
        return steps.unpack(code)
    if code[:1] == mixed.CODE:
        return mixed.unpack(code)
    if code[:1] == overlaps.CODE:
        return overlaps.unpack(code)
    if code[:1] in unlabelled.FREE_CODES:
        return unlabelled.unpack(code)
    if code[:1] in unlabelled.KEPT_CODES:
        return unlabelled.unpack_kept(code)
    return fibres.unpack(code) if code[:1] in (fibres.FREE, fibres.KEPT) else column_sets.unpack(code)


@gaps.decoder
def _mirrored(code: bytes) -> gaps.Cells:
    """A symmetric matrix, given the code of its upper triangle."""
    if code[:1] in (symmetric.MIRRORED, scaled.CODE):
        raise ValueError("mirrored twice, or before values are scaled")
    coords, values, shape = decode(code)
    if len(shape) != 2 or shape[0] != shape[1] or np.any(coords[:, 0] > coords[:, 1]):
        raise ValueError("no upper triangle")
    return *symmetric.both(coords, values), shape


@gaps.decoder
def _scaled(code: bytes) -> gaps.Cells:
    """Cells whose values are told as whole numbers."""
    scale, inner = scaled.unwrapped(code)
    if inner[:1] == scaled.CODE:
        raise ValueError("scaled twice")
    coords, numbers, shape = decode(inner)
    return coords, scale.values(numbers), shape


def _move(coords: Integers, orders: list[Integers]) -> Integers:
    """Indices -> positions."""
    return np.stack([gaps.positions(order)[coords[:, mode]] for mode, order in enumerate(orders)], axis=1)


def _unmove(places: Integers, orders: list[Integers]) -> Integers:
    """Positions -> indices."""
    return np.stack([order[places[:, mode]] for mode, order in enumerate(orders)], axis=1)


def _pack(orders: dict[int, Integers], coords: Integers) -> tuple[dict[int, npt.NDArray[np.uint8]], dict[int, int]]:
    """The used part of each order in as few bits an index as its mode needs, and how long that part is."""
    used = {mode: int(gaps.positions(order)[coords[:, mode]].max()) + 1 for mode, order in orders.items()}
    packed = {mode: pack_integers(order[: used[mode]], (len(order) - 1).bit_length()) for mode, order in orders.items()}
    return packed, used


def _decode_labelled(labelled: Labelled) -> SparseTensor:
    places, values, shape = decode(labelled.code)
    orders = [np.arange(size) for size in shape]
    for mode, packed in labelled.orders.items():
        head = unpack_integers(packed, (shape[mode] - 1).bit_length(), labelled.used[mode])
        orders[mode] = np.concatenate((head, np.setdiff1d(orders[mode], head)))
        if len(orders[mode]) != shape[mode]:
            raise ValueError(f"the order of mode {mode} is no order of {shape[mode]} indices")
    return SparseTensor(_unmove(places, orders), values, shape)
