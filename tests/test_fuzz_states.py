"""States of interrupted runs, damaged: the run ends as one that was never interrupted, or with an InputError."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.kpd.data import LabelledImages
from pipeline.kpd.sparsity_methods import make
from pipeline.kpd.trainer import train
from pipeline.methods import NETWORKS
from pipeline.neukron import NeuKron
from pipeline.runs.checkpoint import Checkpoint
from tests.fuzz import Target, check, fingerprint
from tests.test_fuzz_artifacts import OTHERS, damaged_bytes, tensor


def fitted(checkpoint: Checkpoint, stop: int | None = None) -> Any:
    """What NeuKron answers after a fit; `stop` after so many epochs."""
    X = tensor()

    def after_epoch(state: Any) -> None:
        if state.epoch == stop:
            signal.raise_signal(signal.SIGTERM)

    model = NeuKron(hidden=3, max_epochs=4, order_init="degree", threads=1, device="cpu")
    with checkpoint.stopping_on_signals():
        model.fit(X, after_epoch, checkpoint)
    model.artifact()
    return model.predict(X.coords), model.error(X)["error"]


def trained(checkpoint: Checkpoint, stop: int | None = None, method: str = "kpd") -> Any:
    """What a network answers after training."""
    rng = np.random.default_rng(0)
    images = rng.random((60, 16), dtype=np.float32)
    labels = rng.integers(0, 3, 60)
    parts = np.split(np.arange(60), [30, 45])
    data = LabelledImages(images, labels, 3, 1.0, *parts)

    def after_epoch(entry: dict[str, Any]) -> None:
        if entry["epoch"] == stop:
            signal.raise_signal(signal.SIGTERM)

    blocks = {"dense": {}, "kpd-choice": {"blocks": [[1, 4], [1, 2]]}}.get(method, {"block": [1, 4]})
    made = make(method, {"network": "linear", "epochs": 3, "batch": 5} | blocks)
    with checkpoint.stopping_on_signals():
        found = train(made, data, progress=after_epoch, state=checkpoint)
    found.network.eval()
    with torch.no_grad():
        return found.network(torch.from_numpy(images)).numpy(), found.validation_accuracy


def state_of(run: Any) -> bytes:
    """The state that a run leaves when it is stopped after an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint({"run": 1}, Path(folder), seconds=0)
        try:
            run(checkpoint, stop=2)
        except KeyboardInterrupt:
            return checkpoint.path.read_bytes()
    raise AssertionError("it was not stopped")


def damaged_state(content: bytes, rng: np.random.Generator) -> bytes:
    """Other numbers, shapes and entries within a state that is well-formed; its checksum made anew."""
    state = torch.load(io.BytesIO(content.rpartition(b"\n")[0]), weights_only=True)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(state)
    for _ in range(int(rng.integers(1, 3))):
        node, key = places[int(rng.integers(len(places)))]
        if key not in node if isinstance(node, dict) else key >= len(node):
            continue
        value, kind = node[key], int(rng.integers(4))
        if isinstance(value, torch.Tensor) and kind:
            flat = value.clone().reshape(-1)
            if kind == 1 and len(flat):
                special = [float("nan"), float("inf"), 1e30, -1.0, 7.0]
                other = special[int(rng.integers(5 if flat.is_floating_point() else 2)) - 2]
                flat[int(rng.integers(len(flat)))] = torch.tensor(other).to(flat.dtype)  # -1 is 255 where it must
                node[key] = flat.reshape(value.shape)
            elif kind == 2:
                node[key] = flat[: int(rng.integers(len(flat) + 1))]
            else:
                node[key] = value.to([torch.int8, torch.float64, torch.complex64][int(rng.integers(3))])
        elif kind == 0:
            del node[key]
        else:
            others = [*OTHERS, float("nan"), -1, 10**9, 10**30, torch.zeros(3)]
            node[key] = others[int(rng.integers(len(others)))]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue() + b"\n" + hashlib.sha256(buffer.getvalue()).hexdigest().encode()


def targets() -> list[Target]:
    """States of a NeuKron and of a network: with the checksum kept, and made anew."""

    def asking(run: Any) -> Any:
        def ask(paths: dict[str, Path]) -> Any:
            (path,) = paths.values()
            checkpoint = Checkpoint({"run": 1}, path.parent)
            checkpoint.path = path
            return run(checkpoint)

        return ask

    found = []
    for name, run in {"neukron": fitted, "kpd": trained}.items():
        files = {"state.pt": state_of(run)}
        found += [
            Target("state, checksum kept", name, files, damaged_bytes, asking(run), kept=True),
            Target("state, checksum made anew", name, files, damaged_state, asking(run)),
        ]
    return found


def test_damaged_states() -> None:
    check(targets(), 10)


@pytest.mark.parametrize("name", ["neukron", *NETWORKS])
def test_a_whole_state_is_taken_up(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted if name == "neukron" else partial(trained, method=name)
    checkpoint = Checkpoint({"run": 1}, tmp_path)
    checkpoint.path.parent.mkdir()
    checkpoint.path.write_bytes(state_of(run))
    answer = run(checkpoint)
    assert "cannot be taken up" not in capsys.readouterr().err
    assert fingerprint(answer) == fingerprint(run(Checkpoint({"run": 2}, tmp_path)))


@pytest.mark.parametrize("name", ["neukron", "kpd"])
def test_a_disk_that_is_full_when_a_signal_comes_leaves_the_state_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fitted if name == "neukron" else trained
    whole = fingerprint(run(Checkpoint({"run": 0}, tmp_path)))
    checkpoint = Checkpoint({"run": 1}, tmp_path, seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, stop=1)
    before = checkpoint.path.read_bytes()
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full))
        with pytest.raises(OSError, match="what was reached since the last one is lost") as raised:
            run(Checkpoint({"run": 1}, tmp_path, seconds=0), stop=2)
    assert raised.value.filename == str(checkpoint.path)  # which makes it a line
    assert [path.read_bytes() for path in checkpoint.path.parent.iterdir()] == [before]
    assert fingerprint(run(Checkpoint({"run": 1}, tmp_path))) == whole
