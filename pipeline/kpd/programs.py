"""Networks as programs that run without Kronflow: :mod:`torch.export` and ONNX."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.files import atomic_path
from pipeline.errors import InputError
from pipeline.kpd.inference import dense_twin


def export_program(network: nn.Module, images: Tensor, path: str | Path) -> None:
    """Write `network` with its layers dense as a :mod:`torch.export` program that takes batches of any size.

    ``torch.export.load(path).module()(images)`` runs it. `network` has block-sparse layers or was deployed; `images`
    is a batch of at least two.
    """
    content = io.BytesIO()  # of a disk that is full torch would not say so
    with _layers_called():
        torch.export.save(_program(network, images), content)
    _write(path, content)


def export_onnx(network: nn.Module, images: Tensor, path: str | Path) -> None:
    """Write `network` with its layers dense as an ONNX model that takes batches of any size; needs the extra ``onnx``.

    Arguments as of :func:`export_program`. onnxruntime runs it; zero blocks are zeros there.

    Raises
    ------
    InputError
        The extra is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"an ONNX model needs onnx and onnxscript ({error}): pip install -e '.[onnx]' in Kronflow's folder"
        ) from error
    content = io.BytesIO()
    with _layers_called():
        model: Any = torch.onnx.export(_program(network, images), dynamo=True, external_data=False, verbose=False)
    model.save(content)
    _write(path, content)


def _program(network: nn.Module, images: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(dense_twin(network).eval(), (images,), dynamic_shapes=({0: batch},))


@contextmanager
def _layers_called() -> Iterator[None]:
    """Keep torch's transformers from their own fused operator, which no other program knows, and from gradients."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _write(path: str | Path, content: io.BytesIO) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
