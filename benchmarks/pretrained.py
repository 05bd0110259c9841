"""From trained weights: accuracy of an MLP and a small vision transformer on digits, at once and trained on. Minutes.

    snakemake data/tensors/digits.parquet --config experiment=demo
    python -m benchmarks.pretrained

A dense network is trained, planned for a share of its bytes and trained on; or half of its blocks are zeroed. Writes
pretrained.json and pretrained.md.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core import step
from pipeline.kpd import Sparsifier, convert, plan
from pipeline.kpd.data import LabelledImages
from pipeline.kpd.networks import build
from pipeline.kpd.trainer import accuracy
from pipeline.train_kpd import read_images

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
BATCH, RATE, DENSE_EPOCHS, EPOCHS = 64, 2e-3, 30, 10
STOPS = (0, 1, 5, 10)  # epochs after which accuracy is taken
SHARES = {"mlp": (0.1, 0.05, 0.025), "vit": (0.5, 0.25, 0.1)}  # of dense's bytes, at most
BLOCK = (4, 4)


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) for digits: 16 patches of 2x2, 64 wide, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(1, 64, 2, 2), nn.Parameter(torch.randn(16, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8, 8) -> (N, 10)."""
        tokens = self.patches(x[:, None]).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": lambda: build("mlp", (8, 8), 10), "vit": ViT}


def trained(
    network: nn.Module, data: LabelledImages, seed: int, epochs: int, sparsifier: Sparsifier | None = None
) -> list[float]:
    """Train by AdamW, its rate brought to zero by a cosine; per cent of the test images at each of `STOPS`."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    generator, found = torch.Generator().manual_seed(seed), []
    steps = epochs * -(-len(data.train) // BATCH)
    groups: Any = network.parameters() if sparsifier is None else sparsifier.parameter_groups()
    optimizer = torch.optim.AdamW(groups, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs + 1):
        if epoch in STOPS:
            found.append(100 * accuracy(network, images, labels, data.test))
        order = torch.from_numpy(data.train)[torch.randperm(len(data.train), generator=generator)]
        for index in torch.split(order, BATCH) if epoch < epochs else ():
            network.train()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if sparsifier is not None:
                sparsifier.step(optimizer)
    return found


def rows_of(name: str, data: LabelledImages, seed: int) -> list[dict[str, Any]]:
    """Accuracies of one network with one seed, by what was done to its weights."""
    torch.manual_seed(seed)
    dense = NETWORKS[name]()
    trained(dense, data, seed, DENSE_EPOCHS)
    size = sum(4 * own.numel() for own in dense.parameters())
    rows = [
        {
            "what": "dense, trained on",
            "kilobytes": size / 1e3,
            "accuracies": trained(copy.deepcopy(dense), data, seed, EPOCHS),
        }
    ]
    for share in SHARES[name]:
        network = copy.deepcopy(dense)
        chosen = plan(network, bytes=int(share * size), cost=1.0)
        convert(network, chosen.rules, keep_weights=True)
        accuracies = trained(network, data, seed, EPOCHS)
        rows.append(
            {
                "what": f"`plan`, at most {100 * share:g} % of the bytes",
                "kilobytes": chosen.bytes / 1e3,
                "accuracies": accuracies,
            }
        )
    for method in ("group-lasso", "kpd"):
        network = copy.deepcopy(dense)
        more: dict[str, Any] = {"rank": 4} if method == "kpd" else {}
        steps = EPOCHS * -(-len(data.train) // BATCH)
        sparsifier = Sparsifier(network, method, block=BLOCK, sparsity=0.5, total_steps=steps, **more)
        accuracies = trained(network, data, seed, EPOCHS, sparsifier)
        rows.append({"what": f"`{method}`, half of 4x4 zero", "kilobytes": None, "accuracies": accuracies})
    return [{"network": name, "seed": seed} | row for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown: means over the seeds."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# From trained weights, digits",
        "",
        f"`python -m benchmarks.pretrained`: per cent of test images, mean (lowest to highest) of seeds {seeds},",
        f"after epochs of AdamW from weights that were trained for {DENSE_EPOCHS}; methods end after {EPOCHS}.",
        "",
        "| network | what | kilobytes | " + " | ".join(f"{epochs} epochs" for epochs in STOPS) + " |",
        "|---" * (3 + len(STOPS)) + "|",
    ]
    for network, what in dict.fromkeys((row["network"], row["what"]) for row in rows):
        own = [row for row in rows if (row["network"], row["what"]) == (network, what)]
        size = "" if own[0]["kilobytes"] is None else f"{own[0]['kilobytes']:,.0f}"
        cells = [
            f"{statistics.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})"
            for each in zip(*(row["accuracies"] for row in own), strict=True)
        ]
        lines.append(f"| {network} | {what} | {size} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    """Train, write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument("--tensors", type=Path, default=ROOT / "data" / "tensors", help="folder of digits.parquet")
    arguments.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="which to train"
    )
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of parameters, order and split")
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder of both files")
    options = arguments.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for seed in options.seeds:
        data = read_images(options.tensors / "digits.parquet", options.tensors / "digits.labels-2.parquet", seed)
        for name in options.networks:
            rows += rows_of(name, data, seed)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "pretrained.json").write_text(json.dumps(rows, indent=2) + "\n")
    (options.output / "pretrained.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    step.run(main)
