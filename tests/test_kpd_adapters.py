"""Callbacks of other trainers, where those are installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import Sparsifier
from pipeline.kpd.adapters import for_hugging_face, for_lightning
from pipeline.kpd.blocks import block_layers


class Classifier(nn.Module):
    """What Hugging Face's trainer calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def examples() -> list[dict[str, torch.Tensor]]:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row[:4].argmax()} for row in x]


def check(model: nn.Module, sparsifier: Sparsifier) -> None:
    assert sparsifier.steps == sparsifier.total_steps
    for layer in block_layers(model).values():
        assert int(layer.zero_blocks().sum()) == layer.support.numel() // 2


@pytest.mark.parametrize(("make", "module"), [(for_hugging_face, "transformers"), (for_lightning, "lightning.pytorch")])
def test_a_missing_package_is_named(make: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    sparsifier = Sparsifier(Classifier(), block=(2, 2), total_steps=2)
    with pytest.raises(InputError, match=f"pip install {module.partition('.')[0]}"):
        make(sparsifier)


@pytest.mark.parametrize("method", ["kpd", "rigl"])
def test_hugging_faces_trainer_steps_a_sparsifier(method: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = Classifier()
    more = {"rank": 1} if method == "kpd" else {"interval": 5}
    sparsifier = Sparsifier(model, method, block=(2, 2), total_steps=16, **more)  # 64 / (4 x 2) x 2 epochs
    optimizer = torch.optim.AdamW(sparsifier.parameter_groups(), lr=0.01)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(
        model,
        arguments,
        train_dataset=examples(),
        optimizers=(optimizer, None),
        callbacks=[for_hugging_face(sparsifier)],
    ).train()
    check(model, sparsifier)


def test_lightnings_trainer_steps_a_sparsifier(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    model = Classifier()
    sparsifier = Sparsifier(model, block=(2, 2), rank=1, total_steps=16)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(sparsifier.parameter_groups(), lr=0.01)

    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=2, default_root_dir=tmp_path,
        callbacks=[for_lightning(sparsifier)],
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(examples(), batch_size=4))
    check(model, sparsifier)
