"""Turn a checkpoint of the authors' program into a fitted :class:`NeuKron`.

The file is read by torch's weights-only loader, which runs no code from it.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.files import read_text
from pipeline.errors import InputError
from pipeline.neukron.estimator import NeuKron
from pipeline.neukron.levels import Levels
from pipeline.sparse import SparseTensor
from pipeline.sparse.orders import Order


def read_reference_text(path: str | Path) -> SparseTensor:
    """Read the authors' text format: sizes on the first line (a tensor's preceded by its order), then entries.

    A matrix starts with ``N_1, N_2``, a tensor with ``D, N_1, .., N_D``; each further line is
    ``index, .., index, value``, 0-based.

    Raises
    ------
    InputError
        A line that does not fit, with its number.
    """
    path = Path(path)
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    header = _numbers(path, 1, lines[0] if lines else "")
    sizes = header if len(header) == 2 else header[1:]
    if (len(header) != 2 and header[:1] != [len(sizes)]) or not all(size.is_integer() and size > 0 for size in sizes):
        raise InputError(f"{path}:1: '{''.join(lines[:1])}': needs 'N_1, N_2' or 'D, N_1, .., N_D'")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            row = _numbers(path, number, line)
            if len(row) != len(sizes) + 1:
                raise InputError(f"{path}:{number}: '{line}': needs {len(sizes)} indices and a value")
            rows.append(row)
    entries = np.array(rows).reshape(len(rows), len(sizes) + 1)
    try:
        return SparseTensor(entries[:, :-1], entries[:, -1], [int(size) for size in sizes])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _numbers(path: Path, number: int, line: str) -> list[float]:
    try:
        return [float(part) for part in line.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"{path}:{number}: '{line}': {error}") from error


def import_checkpoint(path: str | Path, X: SparseTensor) -> NeuKron:
    """Read the authors' checkpoint for tensor `X` (modes in ascending size).

    Raises
    ------
    InputError
        The file is no such checkpoint, would need to run code, or does not fit the tensor.
    """
    path = Path(path)
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        state = {name.removeprefix("module."): tensor for name, tensor in checkpoint["model_state_dict"].items()}
        orders = _orders(checkpoint)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own message advises to load the file in full, which would run code from it
        raise InputError(
            f"{path}: cannot be read by torch's weights-only loader: no checkpoint, or one with code"
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no NeuKron checkpoint: {error} is missing") from error
    levels = Levels(X.shape)
    if [len(order) for order in orders] != [2**bits for bits in levels.bits]:
        raise InputError(
            f"{path}: orders of lengths {[len(order) for order in orders]} where the tensor's {X.shape} need "
            f"{[2**bits for bits in levels.bits]}; give the data file the checkpoint was trained on"
        )
    if not all(np.array_equal(np.sort(order), np.arange(len(order))) for order in orders):
        raise InputError(f"{path}: an order names a position twice or not at all")
    try:
        return _wrapped(levels, state, orders, X)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: weights do not fit the tensor's shape {X.shape} ({error})") from error


def _orders(checkpoint: dict[str, Any]) -> list[Order]:
    tensors = checkpoint["perms"] if "perms" in checkpoint else [checkpoint["node_perm"], checkpoint["edge_perm"]]
    return [tensor.to(torch.int64).numpy() for tensor in tensors]


def _wrapped(levels: Levels, state: dict[str, Tensor], orders: list[Order], X: SparseTensor) -> NeuKron:
    """The authors' weights under this program's names."""
    heads: dict[int, str] = {}
    for name, weight in state.items():
        if name.startswith("linear") and name.endswith(".weight"):
            heads[len(weight)] = name.removesuffix("weight")
    sizes = tuple(sorted(heads, reverse=True))
    own = {"first": state["sos"], "embedding": state["input_emb.weight"]}
    own |= {name: tensor for name, tensor in state.items() if name.startswith("rnn.")}
    for size, name in heads.items():
        own |= {f"heads.{size}.{part}": state[name + part] for part in ("weight", "bias")}
    arrays = {name: tensor.detach().to(torch.float32).numpy() for name, tensor in own.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError("a weight is not finite")
    arrays["log_q"] = np.array(math.log(float(state["level_sq_sum"])))
    return NeuKron.from_parts(levels, state["input_emb.weight"].shape[1], sizes, arrays, orders, X)
