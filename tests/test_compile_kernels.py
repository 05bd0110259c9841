"""What is compiled before the first use, what the first compilation says, and what no clock counts."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

import pipeline
from pipeline import compile_kernels
from pipeline.kernels import compiling
from pipeline.kpd import KPDLinear
from pipeline.kpd.deployment import deploy
from pipeline.methods import COMPRESSORS, METHODS
from pipeline.sparse import SparseTensor
from tests.quick import QUICK

KERNELS = ("pipeline.neukron", "pipeline.baselines", "pipeline.kpd", "pipeline.datasets", "pipeline.kernels")

SETTINGS = {name: QUICK[name] for name in ("neukron", "accams", "baccams", "hybrid")}  # others are quick by default


def kept_kernels() -> dict[str, Dispatcher]:
    """Every function whose machine code is kept between processes."""
    found: dict[str, Dispatcher] = {}
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if module.name.startswith(KERNELS) and not module.ispkg:
            for name, value in vars(importlib.import_module(module.name)).items():
                own = isinstance(value, Dispatcher) and value.py_func.__module__ == module.name
                if own and not isinstance(value._cache, NullCache):
                    found[f"{module.name}.{name}"] = value
    return found


def random_tensor(seed: int, order: int, values: str) -> SparseTensor:
    random = np.random.default_rng(seed)
    coords = np.unique(random.integers(0, 30, (300, order)), axis=0)
    drawn = {"ones": np.ones, "whole": lambda count: random.integers(1, 9, count), "real": random.random}[values]
    return SparseTensor(coords, drawn(len(coords)).astype(np.float64), (30,) * order)


def test_no_use_compiles_what_setup_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    compile_kernels.main(["--processes", "1"])  # what is compiled is looked at in this one
    assert capsys.readouterr().out.startswith("kernels: ready; ")
    kernels = kept_kernels()
    before = {name: set(kernel.signatures) for name, kernel in kernels.items()}
    assert len(before) > 30
    for method in COMPRESSORS:
        for order, values in ((2, "whole"), (3, "real"), (4, "ones")):
            if order == 2 or not METHODS[method].load().matrices_only:
                model = METHODS[method].load()(**SETTINGS.get(method, {})).fit(random_tensor(order, order, values))
                model.error(random_tensor(order, order, values))
    import torch

    network = torch.nn.Sequential(KPDLinear(24, 48, (4, 4), 2), torch.nn.ReLU(), KPDLinear(48, 16, (8, 8)))
    images = torch.rand(40, 24)
    network(images).sum().backward()
    deploy(network, images)
    added = {name: set(kernel.signatures) - before[name] for name, kernel in kernels.items()}
    assert {name: new for name, new in added.items() if new} == {}


# Each module in a fork of a process that has imported nothing of ours, and compiled nothing.
SHOWN = """
import importlib, os, sys
import h5py, numba, numpy, pandas, pyarrow.parquet, pydantic, scipy.sparse, torch
assert numba.config.CPU_FEATURES is None
for module in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(module)
        print(numba.config.CPU_NAME, numba.config.CPU_FEATURES, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, module
"""


def test_what_is_imported_first_does_not_change_what_is_compiled_for() -> None:
    modules = sorted({name.rpartition(".")[0] for name in kept_kernels()})
    assert {"pipeline.baselines.coding.loops", "pipeline.neukron.tree_kernels", "pipeline.datasets.sums"} <= set(
        modules
    )
    shown = subprocess.run([sys.executable, "-c", SHOWN, *modules], check=True, capture_output=True, text=True).stdout
    assert len(shown.splitlines()) == len(modules) and len(set(shown.splitlines())) == 1


def test_the_first_compilation_says_so_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "cold.py").write_text(
        "import numba\nfrom pipeline.kernels import compiling\n"
        "def twice(x):\n    return 2 * x\n"
        "twice.__module__ = 'pipeline.cold'\n"
        "kernel = numba.njit(twice)\n"
        "assert compiling.seconds() == 0.0\n"
        "print(kernel(3), kernel(0.5))\n"
        "assert compiling.seconds() > 0.0\n"
    )
    run = subprocess.run(
        [sys.executable, tmp_path / "cold.py"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.stdout == "6 1.0\n"
    assert run.stderr == compiling.LINE + "\n"


@pytest.mark.parametrize("method", COMPRESSORS)
def test_a_warm_up_leaves_no_trace_in_a_fit(method: str) -> None:
    X = random_tensor(1, 2, "whole")
    settings = SETTINGS.get(method, {})
    first, second = (METHODS[method].load()(**settings).fit(X) for _ in range(2))  # the second without a warm-up
    assert np.array_equal(first.predict(X.coords), second.predict(X.coords))
    assert len(first.history_) == len(second.history_)
    times = first.times_
    assert times.seconds > 0 and times.cpu_seconds >= 0 and times.setup_seconds >= 0
    if method in ("neukron", "kronfit"):
        assert times.order_seconds is not None and times.model_seconds is not None
        assert times.order_seconds + times.model_seconds == pytest.approx(times.seconds)
    else:
        assert times.order_seconds is None and times.model_seconds is None
