"""Compile all kernels for this processor, so that no first use waits for it; ``make setup`` calls this."""

from __future__ import annotations

import time

from pipeline.core import step

ORDERS = (2, 3)  # matrices, and tensors of any order


def main(argv: list[str] | None = None) -> None:
    """Fit every method to a handful of cells, train and deploy a layer, read a table: whatever calls a kernel."""
    step.parser(
        "Compile all kernels for this processor; `make setup` does it once.",
        "example:\n  python -m pipeline.compile_kernels",
    ).parse_args(argv)
    from pipeline.kernels import compiling
    from pipeline.methods import COMPRESSORS, METHODS

    started = time.perf_counter()
    for method in COMPRESSORS:
        for order in ORDERS:
            METHODS[method].load()().warm_up(order)
    _layers()
    _readers()
    _twins()
    _blocks()
    took, compiled = time.perf_counter() - started, compiling.seconds()
    print(f"kernels: ready; {took:.0f} s, {compiled:.0f} of them for compiling")


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


if __name__ == "__main__":
    step.run(main)
