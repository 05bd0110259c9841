"""Several processes that share the work of one run, as ``torchrun`` starts them.

Every function also works in a process of its own, where it costs nothing: a trainer needs one code for both.

    torchrun --standalone --nproc-per-node 2 -m pipeline.<step> ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from pipeline.errors import InputError

T = TypeVar("T")
Array = TypeVar("Array", npt.NDArray[np.int64], npt.NDArray[np.float64])


def available_device(name: str) -> str:
    """Check the device a user names; ``auto`` is a GPU where there is one.

    Raises
    ------
    InputError
        There is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.empty(0, device=name).device.type not in ("cpu", "cuda"):
            raise InputError(f"--device {name}: neither cpu nor a GPU; use cpu")
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({error}); use cpu") from error
    return name


@contextmanager
def joined(device: str = "cpu") -> Iterator[str]:
    """Join the processes that a launcher has started, and leave them at the end.

    Parameters
    ----------
    device
        Where the run computes: processes on a GPU talk through NCCL, others through gloo.

    Yields
    ------
    str
        The device of this process: with several GPUs one each, in the order of the launcher's ``LOCAL_RANK``.

    Raises
    ------
    InputError
        More processes on this machine than it has GPUs.

    Notes
    -----
    Without ``WORLD_SIZE`` in the environment, or with 1, nothing is joined. The address of the meeting
    point (``MASTER_ADDR``, ``MASTER_PORT``), ``RANK`` and ``LOCAL_RANK`` are the launcher's as well.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        own, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= count:
            raise InputError(f"process {own} of this machine finds {count} GPUs; start at most {count} processes")
        device = f"cuda:{own}"
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def sum_over_processes(*tensors: Tensor) -> None:
    """Replace each tensor, in place, by its sum over all processes; the same bits everywhere.

    One message a type of number, however many tensors; all processes give tensors of the same shapes and
    types in the same order, on the same kind of device.
    """
    if size() == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for same in kinds.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all get the same answer, so that all can stop together."""
    if size() == 1:
        return flag
    count = torch.tensor([int(flag)], device=_device())
    distributed.all_reduce(count)
    return bool(count.item())


def total(number: float) -> float:
    """Sum of every process's `number`; all get the same."""
    if size() == 1:
        return number
    sum_ = torch.tensor([number], dtype=torch.float64, device=_device())
    distributed.all_reduce(sum_)
    return float(sum_.item())


def from_first(value: T) -> T:
    """Return the first process's `value` in all of them (pickled between processes of the same run)."""
    if size() == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0, device=_device())
    return holder[0]


def summed(array: Array) -> Array:
    """Elementwise sum of the arrays of all processes, which have one shape; all get the same bits."""
    return _reduced(array, distributed.ReduceOp.SUM)


def smallest(array: Array) -> Array:
    """Elementwise least."""
    return _reduced(array, distributed.ReduceOp.MIN)


def largest(array: Array) -> Array:
    """Elementwise greatest."""
    return _reduced(array, distributed.ReduceOp.MAX)


def _reduced(array: Array, how: Any) -> Array:
    if size() == 1:
        return array
    tensor = torch.tensor(array, device=_device())
    distributed.all_reduce(tensor, op=how)
    result: Array = tensor.cpu().numpy()
    return result


def gathered(value: T) -> list[T]:
    """Every process's `value`, in the order of their numbers (pickled between processes of the same run)."""
    if size() == 1:
        return [value]
    holders: list[T | None] = [None] * size()
    distributed.all_gather_object(holders, value)
    return holders  # type: ignore[return-value]


def exchanged(arrays: Sequence[npt.NDArray[Any]], target: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
    """Send each row of this process's `arrays` to the process that `target` names, and return the rows received.

    Rows come in the order of the processes that sent them, those of one in the order that they had there.
    """
    if size() == 1:
        return list(arrays)
    order = np.argsort(target, kind="stable")
    sent = np.bincount(target, minlength=size()).tolist()
    received = [counts[rank()] for counts in gathered(sent)]
    results = []
    for array in arrays:
        columns = []
        for column in array.reshape(len(array), -1).T:  # one at a time, so that little lies in two places
            out = torch.empty(sum(received), dtype=torch.from_numpy(column[:0].copy()).dtype, device=_device())
            own = torch.from_numpy(column[order]).to(_device())
            distributed.all_to_all_single(out, own, received, sent)
            columns.append(out.cpu().numpy())
        results.append(np.stack(columns, axis=1) if array.ndim > 1 else columns[0])
    return results


def _device() -> torch.device:
    """Where the group's small messages lie."""
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
