"""What a tensor takes without our methods: in general compressors, in usual formats, by a model without structure."""

from __future__ import annotations

import gzip
import lzma
import math
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps
from pipeline.baselines.lossless import csf_bytes
from pipeline.sparse import SparseTensor

PROGRAMS = {"zstd": ["zstd", "-q", "--ultra", "-22", "-f", "-o"], "zpaq": ["zpaq", "a"]}  # before target and source
DISCOUNTS = np.arange(0.0, 1.0, 0.05)
STRENGTHS = np.concatenate(([0.0], np.geomspace(0.1, 1e7, 33)))
REAL_BITS = 64
LARGEST_BITMAP = 1 << 28  # cells


def plain(X: SparseTensor) -> bytes:
    """Sorted coordinates as differences of 4 bytes (8 in ranges that need them), mode by mode, and the values."""
    steps = np.diff(X.coords, axis=0, prepend=0).astype("<i4" if max(X.shape) < 2**31 else "<i8")
    _, constant, numbers = gaps.encode_values(X.values)
    return np.ascontiguousarray(steps.T).tobytes() + constant + numbers.tobytes()


def by_program(name: str, content: bytes) -> int | None:
    """Bytes by a program of the system; None where it is not installed or fails, for want of room say."""
    if shutil.which(name) is None:
        return None
    with suppress(OSError, subprocess.CalledProcessError), tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "plain", Path(folder) / f"packed.{name}"
        source.write_bytes(content)
        tail = ["-method", "5"] if name == "zpaq" else []
        subprocess.run([*PROGRAMS[name], str(target), str(source), *tail], check=True, capture_output=True)
        return target.stat().st_size
    return None


def general(X: SparseTensor) -> dict[str, int | None]:
    """Bytes by gzip, xz and what the system has of `PROGRAMS` on :func:`plain`, as Parquet, and in CSF.

    None stands for a program that is not installed, or fails. All of these hold the tensor in its own indices.
    """
    content = plain(X)
    found: dict[str, int | None] = {
        "gzip": len(gzip.compress(content, 9)),
        "xz": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }
    found |= {name: by_program(name, content) for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensor.parquet"
        X.write_parquet(path)
        found["Parquet"] = path.stat().st_size
    return found | {"CSF": csf_bytes(X)}


def bitmap_bytes(X: SparseTensor) -> dict[str, int | None]:
    """Bytes of a binary matrix as a bitmap by JBIG (ITU-T T.82), in its own indices, and sorted as gaps are.

    None where ``pbmtojbg`` is not installed or fails; nothing of a tensor that is no binary matrix or of a bitmap too
    large.
    """
    if X.order != 2 or len(np.unique(X.values)) > 1 or X.shape[0] * X.shape[1] > LARGEST_BITMAP:
        return {}
    orders = gaps.free_orders(X.coords, X.shape)
    moved = np.stack([gaps.positions(order)[X.coords[:, mode]] for mode, order in enumerate(orders)], axis=1)
    return {"JBIG": _jbig(X.coords, X.shape), "JBIG, sorted": _jbig(moved, X.shape)}


def _jbig(coords: Integers, shape: tuple[int, ...]) -> int | None:
    if shutil.which("pbmtojbg") is None:
        return None
    bits = np.zeros(shape, dtype=np.uint8)
    bits[tuple(coords.T)] = 1
    portable = f"P4\n{shape[1]} {shape[0]}\n".encode() + np.packbits(bits, axis=1).tobytes()
    with suppress(OSError, subprocess.CalledProcessError):
        return len(subprocess.run(["pbmtojbg", "-q"], input=portable, check=True, capture_output=True).stdout)
    return None


def structureless_bytes(X: SparseTensor, orders: bool) -> int:
    """Bytes of an exchangeable model that knows how often indices and values occur, and nothing of which meet.

    The indices of every mode are tables of a Pitman-Yor process (discount and strength from a grid), each non-zero a
    customer, the non-zeros a set; with `orders` stored each table's index is drawn from those left. What an exact code
    takes less than this is structure that it has found. A calculated length, not a file.

    What can change places must not be saved twice. Where orders are free, log2 m! bits are added for m slices that are
    equal but for indices that occur in no other non-zero (leaves of one hub, say), and for m non-zeros that share no
    index; larger symmetric parts are neglected: where many small parts are alike, the length is too low.
    """
    from scipy.special import gammaln

    bits = -float(gammaln(X.nnz + 1)) / math.log(2)  # the non-zeros' own sequence
    degrees = [_degrees(X.coords[:, mode]) for mode in range(X.order)]
    alone = np.all([degree == 1 for degree in degrees], axis=0)
    for mode, size in enumerate(X.shape):
        counts = np.unique(X.coords[:, mode], return_counts=True)[1]
        bits += partition_bits(counts)
        if orders:
            bits += float(gammaln(size + 1) - gammaln(size - len(counts) + 1)) / math.log(2)
        elif not alone.all():
            bits += float(np.sum(gammaln(_equal_slices(X, mode, degrees, ~alone) + 1))) / math.log(2)
    if not orders:
        bits += float(gammaln(np.count_nonzero(alone) + 1)) / math.log(2)
    values, times = np.unique(X.values, return_counts=True)
    bits += partition_bits(times) + _value_bits(values)
    return max(0, math.ceil(bits / 8))


def _degrees(index: Integers) -> Integers:
    """Of every non-zero, how often its index occurs."""
    _, number, counts = np.unique(index, return_inverse=True, return_counts=True)
    return np.asarray(counts[number])


def _equal_slices(X: SparseTensor, mode: int, degrees: list[Integers], among: npt.NDArray[np.bool_]) -> Integers:
    """How many slices of a mode share each content, indices that occur once taken for equal.

    Contents are told apart by sums of 64 random bits a non-zero.
    """
    content = X.values.view(np.uint64)[among]
    for other in range(X.order):
        if other != mode:
            named = np.where(degrees[other] > 1, X.coords[:, other], -1)[among]
            content = (content ^ (content >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + named.astype(np.uint64)
    content = (content ^ (content >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    content ^= content >> np.uint64(32)
    index = X.coords[among, mode]
    by_slice = np.argsort(index, kind="stable")
    start = np.flatnonzero(np.diff(index[by_slice], prepend=-1))
    return np.unique(np.add.reduceat(content[by_slice], start), return_counts=True)[1]


def partition_bits(counts: Integers) -> float:
    """Bits of a sequence of draws in which new kinds are named as they appear.

    By the best Pitman-Yor process, or by telling how many kinds occur how often and which such sequence it is.

    Parameters
    ----------
    counts
        (K,) how often each kind occurs, all above 0.

    References
    ----------
    Pitman, Combinatorial Stochastic Processes, 2006, equation 3.6.
    """
    from scipy.special import gammaln

    times, kinds = np.unique(counts, return_counts=True)
    total, number = int(counts.sum()), len(counts)
    if number == 1:
        return 0.0
    discount, strength = DISCOUNTS[:, None], STRENGTHS[None, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        new = np.where(
            discount > 0,
            (number - 1) * np.log(np.maximum(discount, 1e-9))
            + gammaln(strength / np.maximum(discount, 1e-9) + number)
            - gammaln(strength / np.maximum(discount, 1e-9) + 1),
            (number - 1) * np.log(strength),
        )
    again = sum(kinds[place] * (gammaln(one - discount) - gammaln(1 - discount)) for place, one in enumerate(times))
    all_of_it = gammaln(strength + total) - gammaln(strength + 1)
    which = gammaln(total + 1) - np.sum(kinds * gammaln(times + 1) + gammaln(kinds + 1))
    listed = np.sum(_elias_bits(np.diff(times, prepend=0)) + _elias_bits(kinds))
    nats = min(float(np.min(all_of_it - new - again)), float(which) + float(listed) * math.log(2))
    return nats / math.log(2)


def _value_bits(values: Reals) -> float:
    """Bits that tell which values occur: Elias' gamma and a sign of whole ones, `REAL_BITS` of others."""
    if len(values) == 1 and values[0] == 1.0:
        return 0.0
    if not np.all(values == np.rint(values)):
        return float(REAL_BITS * len(values))
    return float(np.sum(_elias_bits(np.abs(values)))) + (len(values) if values.min() < 0 else 0)


def _elias_bits(numbers: Integers | Reals) -> Reals:
    """Length of Elias' gamma code of whole numbers from 1 on."""
    bits: Reals = 2 * np.floor(np.log2(numbers)) + 1
    return bits
