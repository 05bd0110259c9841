"""KPD layers beside dense ones: a training step, inference of pruned layers, memory. Losses are printed too.

Every number is a ratio of times taken in turn in one run on one machine. Writes kpd.json and kpd.md.

    python -m benchmarks.bench_kpd --threads 2
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.about import RESULTS, processor
from pipeline.core import step

WIDTH = 1024
TRAINING = [  # rows, block, rank, wanted speed-up
    (4096, 8, 1, 3.0),
    (4096, 4, 1, 2.0),
    (4096, 8, 2, 1.5),
    (4096, 16, 1, None),
    (4096, 32, 1, None),
    (4096, 8, 4, None),
    (4096, 4, 4, None),
    (4096, 2, 1, None),
    (256, 8, 1, None),
    (256, 4, 4, None),
    (64, 8, 1, None),
]
INFERENCE = [  # batch, block, zero blocks, wanted speed-up
    (256, 32, 0.9, 5.0),
    (256, 8, 0.9, 2.5),
    (256, 4, 0.9, 1.5),
    (256, 2, 0.9, None),
    (256, 32, 0.5, None),
    (256, 8, 0.5, None),
    (256, 4, 0.5, None),
    (256, 4, 0.0, None),
    (8, 8, 0.9, None),
    (1, 8, 0.9, None),
]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(calls: dict[str, Callable[[], object]], repeats: int, device: str, clock: str) -> dict[str, float]:
    """Median seconds of each call, taken in turn so that all see the same machine."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            started = CLOCKS[clock]()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat >= 2:
                times[name].append(CLOCKS[clock]() - started)
    return {name: statistics.median(own) for name, own in times.items()}


def training(rows: int, block: int, rank: int, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """Forward and backward of 1024 -> 1024, every way of the KPD product beside nn.Linear."""
    import torch

    from pipeline.kpd import KPDLinear, functional

    torch.manual_seed(0)
    x = torch.randn(rows, WIDTH, device=device, requires_grad=True)
    dy = torch.randn(rows, WIDTH, device=device)

    def step(layer: torch.nn.Module) -> Callable[[], object]:
        inputs = (x, *layer.parameters())
        return lambda: torch.autograd.grad(layer(x), inputs, dy)

    layers: dict[str, torch.nn.Module] = {"nn.Linear": torch.nn.Linear(WIDTH, WIDTH, device=device)}
    layer = KPDLinear(WIDTH, WIDTH, (block, block), rank, device=device)
    for name in functional.available(x):
        layers[name] = KPDLinear(WIDTH, WIDTH, (block, block), rank, device=device, path=name)
    seconds = timed({name: step(own) for name, own in layers.items()}, repeats, device, clock)
    dense = seconds.pop("nn.Linear")
    chosen = functional.choose(x, layer.scaled(), layer.B, measured=True)
    (m1, n1), (m2, n2) = layer.grid, layer.block
    return {
        "rows": rows,
        "block": block,
        "rank": rank,
        "dense_seconds": dense,
        "seconds": seconds,
        "chosen": chosen,
        "speedup": dense / seconds[chosen],
        "by_shape": functional.choose(x, layer.scaled(), layer.B, measured=False),
        "predicted": 1 / (rank * min(1 / m1 + 1 / n2, 1 / n1 + 1 / m2)),
    }


def inference(batch: int, block: int, zeros: float, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """Forward of a pruned 1024 -> 1024 layer in every form beside nn.Linear."""
    import torch

    from pipeline.kpd import KPDLinear
    from pipeline.kpd.inference import FORMS, forms_of
    from pipeline.kpd.sparsity_methods import largest

    torch.manual_seed(0)
    layer = KPDLinear(WIDTH, WIDTH, (block, block), 1, device=device)
    layer.set_support(largest(torch.rand(layer.grid, device=device), round(zeros * layer.support.numel())))
    x = torch.randn(batch, WIDTH, device=device)
    with torch.no_grad():
        forms = {name: FORMS[name](layer) for name in forms_of(layer)}
        seconds = timed({name: lambda form=form: form(x) for name, form in forms.items()}, repeats, device, clock)
    dense = seconds.pop("dense")
    # The KPD factors give 'factored' its advantage; the others serve any block-sparse weight.
    general = {name: value for name, value in seconds.items() if name != "factored"}
    return {
        "batch": batch,
        "block": block,
        "zeros": zeros,
        "dense_seconds": dense,
        "seconds": seconds,
        "speedup": dense / min(seconds.values()),
        "speedup_without_factors": dense / min(general.values()),
        "fastest": min(seconds, key=seconds.__getitem__),
    }


def memory(device: str) -> dict[str, Any]:
    """Bytes that one training step keeps, 8 x 8 blocks, two terms, beside nn.Linear."""
    import torch

    from pipeline.kpd import KPDLinear
    from pipeline.kpd.cost import training_memory

    x, labels = torch.randn(4096, WIDTH, device=device), torch.zeros(4096, dtype=torch.long, device=device)
    own = training_memory(torch.nn.Sequential(KPDLinear(WIDTH, WIDTH, (8, 8), 2, device=device)), x, labels)
    dense = training_memory(torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, device=device)), x, labels)
    return {"kpd": own, "dense": dense, "activations_ratio": own["activations"] / dense["activations"]}


def vit_tiny() -> Any:
    """ViT-tiny in plain torch: 224 x 224 images, patches of 16, 12 layers 192 wide, 3 heads, 100 classes."""
    import torch
    from torch import nn

    class VisionTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 192, 16, 16)
            self.token = nn.Parameter(torch.zeros(1, 1, 192))
            self.positions = nn.Parameter(torch.randn(1, 197, 192) * 0.02)
            layer = nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 12, nn.LayerNorm(192), enable_nested_tensor=False)
            self.head = nn.Linear(192, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.positions
            return self.head(self.blocks(tokens)[:, 0])

    return VisionTransformer()


def encoder() -> Any:
    """torch's encoder of two layers, 512 wide, 2048 in between, 8 heads."""
    from torch import nn

    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def sparse(network: Any, block: int, zeros: float, layers: str = "*") -> Any:
    """`network` with its linear layers, attention's and patches too, as KPD layers of rank 1, blocks at random zero."""
    import torch

    from pipeline.kpd import Rule, convert
    from pipeline.kpd.blocks import block_layers
    from pipeline.kpd.sparsity_methods import largest

    convert(network, {layers: Rule((block, block))}, keep_weights=True, convolutions=True)
    for layer in block_layers(network).values():
        layer.set_support(largest(torch.rand(layer.grid), round(zeros * layer.support.numel())))
    return network


NETWORKS = [  # name, block, zero blocks, wanted speed-up
    ("ViT-tiny, 8 images", 16, 0.9, 2.5),
    ("ViT-tiny, 8 images", 4, 0.5, None),
    ("encoder 2 x 512/2048, 8 x 128 tokens", 16, 0.9, 3.0),
]


def deployed(name: str, block: int, zeros: float, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """A whole network in evaluation without gradients, torch's fast path on, deployed beside dense."""
    import torch

    from pipeline.kpd import deploy

    torch.manual_seed(0)
    is_vit = name.startswith("ViT")
    plain = (vit_tiny() if is_vit else encoder()).to(device).eval()
    x = torch.randn(*((8, 3, 224, 224) if is_vit else (8, 128, 512)), device=device)
    network = sparse(copy.deepcopy(plain), block, zeros)
    with torch.no_grad():
        started = CLOCKS[clock]()
        twin, forms = deploy(network, x)
        seconds_of_deploy = CLOCKS[clock]() - started
        seconds = timed({"dense": lambda: plain(x), "deployed": lambda: twin(x)}, repeats, device, clock)
    return {
        "network": name,
        "block": block,
        "zeros": zeros,
        "seconds": seconds,
        "speedup": seconds["dense"] / seconds["deployed"],
        "deploy_seconds": seconds_of_deploy,
        "forms": dict(collections.Counter(forms.values())),
    }


STEPS = [  # layers, block, wanted share of dense
    ("the MLPs", "blocks.layers.*.linear?", 8, 0.6),
    ("the MLPs and attention", "blocks.layers.*", 8, 0.5),
]


def whole_step(what: str, layers: str, block: int, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """ViT-tiny's whole training step on 8 images: forward, backward, AdamW; ours and the sparsifier's share of it."""
    import torch

    from pipeline.kpd import Sparsifier

    torch.manual_seed(0)
    plain = vit_tiny().to(device)
    own = copy.deepcopy(plain)
    total = 2 * (repeats + 2)  # ends before the support is frozen
    sparsifier = Sparsifier(own, "kpd", block=(block, block), rank=1, sparsity=0.5, layers=layers, total_steps=total)
    x, labels = torch.randn(8, 3, 224, 224, device=device), torch.randint(100, (8,), device=device)
    optimizers = {
        "dense": torch.optim.AdamW(plain.parameters(), lr=1e-4),
        "kpd": torch.optim.AdamW(sparsifier.parameter_groups(), lr=1e-4),
    }
    ours: list[float] = []

    def step(name: str) -> None:
        network = plain if name == "dense" else own
        torch.nn.functional.cross_entropy(network(x), labels).backward()
        optimizers[name].step()
        if name == "kpd":
            started = CLOCKS[clock]()
            sparsifier.step(optimizers[name])
            ours.append(CLOCKS[clock]() - started)
        optimizers[name].zero_grad()

    seconds = timed({name: functools.partial(step, name) for name in optimizers}, repeats, device, clock)
    return {
        "layers": what,
        "block": block,
        "seconds": seconds,
        "share": seconds["kpd"] / seconds["dense"],
        "sparsifier_seconds": statistics.median(ours[len(ours) // 3 :]),
    }


def files() -> dict[str, int]:
    """Bytes of ViT-tiny, half of the 4 x 4 blocks zero, in every way to store it."""
    import torch

    from pipeline.kpd import save
    from pipeline.kpd.blocks import block_layers
    from pipeline.kpd.inference import dense_twin

    torch.manual_seed(0)
    network = sparse(vit_tiny(), 4, 0.5)
    state = dense_twin(network).state_dict()
    content = b"".join(tensor.numpy().tobytes() for tensor in state.values())
    half = b"".join(tensor.half().numpy().tobytes() for tensor in state.values())
    matrices = sum(layer.in_features * layer.out_features for layer in block_layers(network).values())
    rest = sum(tensor.numel() for tensor in state.values()) - matrices
    sizes = {
        "dense float32": len(content),
        "dense float32, zip": len(zlib.compress(content, 9)),
        "dense float16, zip": len(zlib.compress(half, 9)),
        "2:4 float16 (two of four and 4 bits)": 2 * rest + matrices // 4 * (2 * 2) + matrices // 4 // 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("as they are", "float16", "int8"):
            sizes[f"KPD, {weights}"] = save(network, Path(folder) / "network", weights).bytes
    return sizes


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = results["machine"]
    lines = [
        "# KPD layers beside dense ones",
        "",
        f"`python -m benchmarks.bench_kpd --threads {machine['threads']} --repeats {machine['repeats']}"
        f" --clock {machine['clock']}{' --only networks' if machine['only'] else ''}`: "
        f"{machine['processor']}, {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"load {machine['load']:.1f} at the start, {machine['priority']} priority; kernels run on "
        f"{machine['kernels_on']}. Medians of {machine['repeats']} calls taken in turn by the {machine['clock']} "
        "clock; speed-up is nn.Linear's time by ours, so that below 1 KPD loses.",
        "",
    ]
    if results["training"]:
        lines += layer_tables(results)
    lines += [
        "",
        "## Whole networks for inference, eval and no_grad, torch's fast path on",
        "",
        "| network | block | zero blocks | dense ms | deployed ms | speed-up | wanted | deploy took | forms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["networks"]:
        dense, own = (1e3 * row["seconds"][name] for name in ("dense", "deployed"))
        forms = ", ".join(f"{count} {form}" for form, count in row["forms"].items())
        lines.append(
            f"| {row['network']} | {row['block']}x{row['block']} | {row['zeros']:.0%} | {dense:.0f} | {own:.0f} | "
            f"{times(row['speedup'])} | {judged(row['speedup'], row['wanted'])} | {row['deploy_seconds']:.1f} s | "
            f"{forms} |"
        )
    lines += [
        "",
        "## ViT-tiny's whole training step (AdamW, 8 images), rank 1",
        "",
        "| layers | block | dense ms | KPD ms | share of dense | wanted | of it after the optimiser |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["steps"]:
        dense, own = (1e3 * row["seconds"][name] for name in ("dense", "kpd"))
        goal = f"at most {row['wanted']:g} {'met' if row['share'] <= row['wanted'] else 'MISSED'}"
        lines.append(
            f"| {row['layers']} | {row['block']}x{row['block']} | {dense:.0f} | {own:.0f} | {row['share']:.2f} | "
            f"{goal} | {1e3 * row['sparsifier_seconds']:.1f} ms |"
        )
    lines += ["", "## Bytes of ViT-tiny, half of the 4x4 blocks zero", "", "| stored | bytes |", "|---|---|"]
    lines += [f"| {name} | {size:,} |" for name, size in results["files"].items()]
    return "\n".join([*lines, ""])


def layer_tables(results: dict[str, Any]) -> list[str]:
    """The lines on single layers."""
    lines = [
        "## Training step (forward and backward), 1024 -> 1024",
        "",
        "| rows | block | rank | nn.Linear ms | KPD ms | way | speed-up | wanted | by operations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["training"]:
        own = 1e3 * row["seconds"][row["chosen"]]
        lines.append(
            f"| {row['rows']} | {row['block']}x{row['block']} | {row['rank']} | {1e3 * row['dense_seconds']:.1f} | "
            f"{own:.1f} | {row['chosen']} | {times(row['speedup'])} | {judged(row['speedup'], row['wanted'])} | "
            f"{row['predicted']:.2f}x |"
        )
    lines += [
        "",
        "## Inference, 1024 -> 1024",
        "",
        "Without factors: any block-sparse weight. With: a KPD layer of rank 1, which may go through B first;",
        "wanted is what such a layer reaches in its fastest form.",
        "",
        "| batch | block | zero blocks | nn.Linear ms | without factors | with factors | fastest | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["inference"]:
        dense = 1e3 * row["dense_seconds"]
        general, goal = row["speedup_without_factors"], judged(row["speedup"], row["wanted"])
        if row["wanted"] is not None and general < row["wanted"] <= row["speedup"]:
            goal += ", without factors missed"
        lines.append(
            f"| {row['batch']} | {row['block']}x{row['block']} | {row['zeros']:.0%} | {dense:.2f} | "
            f"{times(general)} | {times(row['speedup'])} | {row['fastest']} | {goal} |"
        )
    ratio = results["memory"]["activations_ratio"]
    return [
        *lines,
        "",
        f"Activations kept by a training step, 8x8, rank 2: {ratio:.2f} of dense (wanted: at most 1.2).",
    ]


def times(speedup: float) -> str:
    """A speed-up, and whether it is none."""
    return f"{speedup:.2f}x" + (" (loses)" if speedup < 1 else "")


def judged(speedup: float, wanted: float | None) -> str:
    """What was wanted and whether it is reached."""
    return "" if wanted is None else f"{wanted:g}x {'met' if speedup >= wanted else 'MISSED'}"


def main(argv: list[str] | None = None) -> None:
    """Run everything, write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of torch and our kernels; default: %(default)s"
    )
    arguments.add_argument("--repeats", type=int, default=9, help="measurements of each row; default: %(default)s")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    arguments.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: for one thread on a busy machine"
    )
    arguments.add_argument("--only", choices=["networks"], help="whole networks alone, a table of its own")
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables; default: %(default)s")
    options = arguments.parse_args(argv)
    import torch

    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
            "threads": options.threads,
            "torch": torch.__version__,
            "load": os.getloadavg()[0],
            "priority": priority(),
            "kernels_on": threads_of_kernels(),
            "repeats": options.repeats,
            "clock": options.clock,
            "only": options.only,
        },
        "training": [],
        "inference": [],
        "networks": [],
        "steps": [],
        "memory": memory(options.device) if options.only is None else None,
        "files": files(),
    }
    how = (options.device, options.clock)
    for *sizes, wanted in TRAINING if options.only is None else []:
        row = training(*sizes, options.repeats, *how) | {"wanted": wanted}
        print(sizes, f"{row['speedup']:.2f}x", file=sys.stderr, flush=True)
        results["training"].append(row)
        write(results, options)
    for *sizes, wanted in INFERENCE if options.only is None else []:
        row = inference(*sizes, 3 * options.repeats, *how) | {"wanted": wanted}
        print(sizes, f"{row['speedup_without_factors']:.2f}x", file=sys.stderr, flush=True)
        results["inference"].append(row)
        write(results, options)
    for *sizes, wanted in NETWORKS:
        row = deployed(*sizes, options.repeats, *how) | {"wanted": wanted}
        print(sizes, f"{row['speedup']:.2f}x", file=sys.stderr, flush=True)
        results["networks"].append(row)
        write(results, options)
    for *what, wanted in STEPS:
        row = whole_step(*what, options.repeats, *how) | {"wanted": wanted}
        print(what, f"{row['share']:.2f}", file=sys.stderr, flush=True)
        results["steps"].append(row)
        write(results, options)
    print(table(results))


def threads_of_kernels() -> str:
    """Whose threads compute the ways of this project's own."""
    from pipeline.kpd.functional import HAS_FUSED

    if not HAS_FUSED:
        return "none, since Numba is missing"
    from pipeline.kpd import team

    return "torch's own threads" if team.is_of_torch() else "a pool of threads"


def priority() -> str:
    """Whether other work can take the cores meanwhile; ``chrt -r 1 python ..`` keeps it off."""
    is_real_time = hasattr(os, "SCHED_RR") and os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)
    return "real-time" if is_real_time else "usual"


def write(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write both files; each row at once, so that a run cut short leaves what it has."""
    options.output.mkdir(parents=True, exist_ok=True)
    name = "-".join(["kpd", *(["gpu"] if options.device != "cpu" else []), *([options.only] if options.only else [])])
    (options.output / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / f"{name}.md").write_text(table(results))


if __name__ == "__main__":
    step.run(main)
