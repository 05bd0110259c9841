"""Compile all kernels for this processor, so that no first use waits for it; ``make setup`` calls this."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from pipeline.core import step

ORDERS = (2, 3)  # matrices, and tensors of any order
LONGEST = ("lossless", "neukron")  # begun first


def main(argv: list[str] | None = None) -> None:
    """Fit every method to a handful of cells, train and deploy a layer, read a table: whatever calls a kernel."""
    arguments = step.parser(
        "Compile all kernels for this processor; `make setup` does it once.",
        "example:\n  python -m pipeline.compile_kernels",
    )
    arguments.add_argument(
        "--processes",
        action=step.WholeNumber,
        least=1,
        default=len(os.sched_getaffinity(0)),
        help="processes that share the work; default: one a core, here %(default)s",
    )
    processes: int = arguments.parse_args(argv).processes
    started = time.perf_counter()
    compiled = _in_processes(processes) if processes > 1 else 0.0
    # What two processes compiled at once may have been lost on disk: this comes from there, or is compiled here.
    compiled += sum(map(_compile, _parts()))
    print(f"kernels: ready; {time.perf_counter() - started:.0f} s, {compiled:.0f} s of compiling")


def _parts() -> list[str]:
    """What is compiled by itself, that which takes longest first: methods, and functions of this module."""
    from pipeline.methods import COMPRESSORS

    return [*sorted(COMPRESSORS, key=lambda method: method not in LONGEST), *OTHERS]


def _compile(part: str) -> float:
    """Call all kernels of a part; seconds that went into compiling."""
    from pipeline.kernels import compiling
    from pipeline.methods import METHODS

    before = compiling.seconds()
    if part in OTHERS:
        OTHERS[part]()
    else:
        for order in ORDERS:
            METHODS[part].load()().warm_up(order)
    return compiling.seconds() - before


def _in_processes(count: int) -> float:
    """Let so many processes compile the parts; seconds of all of them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (context.Value("i", 0),)) as pool:
        return sum(pool.map(_compile, _parts()))


def _begin(begun: Any) -> None:
    """In a new process: let the first one alone say that it compiles."""
    with begun.get_lock():
        begun.value += 1
        if begun.value > 1:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _layers() -> None:
    """KPD layers with low and high blocks, in training, in every form for inference and several at once."""
    import torch

    from pipeline.kpd import KPDLinear, Rule, convert, deploy
    from pipeline.kpd.inference import FORMS, forms_of

    for block in (2, 16):
        layer = KPDLinear(32, 32, (block, block), path="fused")
        x = torch.ones(3, 32, requires_grad=True)
        layer(x).sum().backward()
        layer.shrink_adaptively([layer], 0, [0.0])
        for form in forms_of(layer):
            FORMS[form](layer)(x.detach())
    network = torch.nn.Sequential(torch.nn.TransformerEncoderLayer(32, 1, 32, 0.0, "gelu"))
    convert(network, {"*": Rule((16, 16))}, path="fused")
    network(torch.ones(3, 1, 32)).sum().backward()
    with torch.no_grad():
        deploy(network, torch.ones(3, 1, 32), form="factored").network(torch.ones(3, 1, 32))


def _readers() -> None:
    """Numbers of 32 and of 64 bits, and cells that occur twice."""
    import numpy as np

    from pipeline.datasets.scan import scan_integers
    from pipeline.datasets.sums import sum_packed

    for line in (b"1 2 3\n", b"1 2 12345678901\n"):
        scan_integers(line, 3)
    sum_packed(np.array([5, 7]), 2, np.empty(2, np.int64))


def _twins() -> None:
    """Alignment of modes that differ in length."""
    import numpy as np

    from pipeline.baselines.coding.overlap_loops import align

    align(np.ones(3), np.ones(2), 2)


def _blocks() -> None:
    """A matrix in blocks, there and back."""
    import numpy as np

    from pipeline.baselines.coding import blocks

    blocks.unpack(blocks.pack(np.array([[0, 0], [0, 1], [1, 1]]), np.array([1.0, 2.0, 1.0]), (2, 2)))


OTHERS = {"layers": _layers, "readers": _readers, "twins": _twins, "blocks": _blocks}


if __name__ == "__main__":
    step.run(main)
