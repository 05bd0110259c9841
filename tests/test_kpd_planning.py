"""Block and rank by the spectrum of trained weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Rule, Sparsifier, convert, plan, save
from pipeline.kpd.blocks import block_layers
from pipeline.kpd.layer import kronecker_spectrum


def network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    with torch.no_grad():  # one term of 4x4, and two of 2x2
        network[0].weight.copy_(torch.kron(torch.randn(2, 4), torch.randn(4, 4)))
        network[2].weight.copy_(sum(torch.kron(torch.randn(4, 4), torch.randn(2, 2)) for _ in range(2)))
    return network


def test_the_spectrum_is_that_of_the_rearranged_weight() -> None:
    weight = torch.randn(6, 8)
    for block in ((2, 4), (3, 2), (6, 8), (1, 1)):
        m2, n2 = block
        rows = weight.numpy().reshape(6 // m2, m2, 8 // n2, n2).transpose(0, 2, 1, 3).reshape(-1, m2 * n2)
        expected = np.linalg.svd(rows.astype(np.float64), compute_uv=False) ** 2
        np.testing.assert_allclose(kronecker_spectrum(weight, block), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_for_an_error_each_layer_takes_the_fewest_bytes_that_keep_it() -> None:
    model = network()
    made = plan(model, error=1e-5, blocks=((2, 2), (4, 4), (4, 2)))
    assert made.rules == {"0": Rule((4, 4), 1), "2": Rule((2, 2), 2), "3": None}
    assert made.choices["0"].bytes == 4 * (8 + 16) + 1
    x = torch.randn(5, 16)
    expected = model(x)
    report = convert(model, made.rules, keep_weights=True)
    assert report.swapped == ["0", "2"]
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    for swap in report.swaps:
        assert swap.fit_error == pytest.approx(made.choices[swap.name].error, abs=1e-5)
    text = str(made)
    assert "0                              4x4         1" in text
    assert "3                              dense       -" in text
    assert f"whole network: {made.bytes / 1e3:.2f} of {4 * (136 + 72 + 27) / 1e3:.2f} kilobytes" in text


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_what_is_planned_is_what_the_conversion_gives() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    made = plan(model, error=0.8)
    report = convert(model, made.rules, keep_weights=True)
    for swap in report.swaps:
        choice = made.choices[swap.name]
        assert swap.fit_error == pytest.approx(choice.error, abs=1e-5)
        assert swap.fit_error <= 0.8
        assert swap.predicted_cost == choice.cost


def test_a_form_may_cost_no_more_than_asked() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    free, bound = (plan(model, error=0.5, cost=cost) for cost in (9.9, 1.0))
    assert free.choices["0"].cost > 1 >= bound.choices["0"].cost
    assert free.bytes < bound.bytes


def test_for_a_size_no_other_choice_that_fits_is_better_at_its_price() -> None:
    model = network()
    whole = 4 * (136 + 72 + 27)
    for room in (whole, 700, 500, 430):
        made = plan(model, bytes=room, blocks=((2, 2), (4, 4)))
        assert made.bytes <= room
        squares = sum(choice.error**2 for choice in made.choices.values())
        # no choice of all layers takes as few bytes with less error
        options = []
        for name in made.choices:
            layer = model.get_submodule(name)
            own = [(0.0, 4 * layer.weight.numel())]
            for block in ((2, 2), (4, 4)):
                if layer.out_features % block[0] or layer.in_features % block[1]:
                    continue
                spectrum, size = kronecker_spectrum(layer.weight, block), block[0] * block[1]
                places = layer.weight.numel() // size
                own += [
                    (float(spectrum[r:].sum() / spectrum.sum()), 4 * r * (places + size) + -(-places // 8))
                    for r in range(1, len(spectrum) + 1)
                ]
            options.append(own)
        for chosen in itertools.product(*options):
            cost = sum(size for _, size in chosen) + made.others
            if cost <= made.bytes:
                assert sum(error for error, _ in chosen) >= squares - 1e-6
    assert plan(model, bytes=whole).rules == {"0": None, "2": None, "3": None}


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_the_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    made = plan(model, bytes=9_000)
    convert(model, made.rules, keep_weights=True)
    save(model, tmp_path / "model.safetensors")
    assert made.bytes < (tmp_path / "model.safetensors").stat().st_size < made.bytes + 1_500  # its header


def test_attention_and_convolutions_are_planned_under_the_names_they_get() -> None:
    model = nn.ModuleDict({"patch": nn.Conv2d(1, 8, 4, stride=4), "attention": nn.MultiheadAttention(8, 2)})
    made = plan(model, error=0.9, convolutions=True)
    names = ["patch", *(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))]
    assert list(made.choices) == names
    assert type(model["attention"]) is nn.MultiheadAttention  # as it was
    assert convert(model, made.rules, keep_weights=True, convolutions=True).swapped == [
        name for name, rule in made.rules.items() if rule is not None
    ]


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_a_planned_network_is_trained_on_with_blocks_of_different_sizes() -> None:
    model = network()
    convert(model, plan(model, error=1e-5, blocks=((2, 2), (4, 4))).rules, keep_weights=True)
    sparsifier = Sparsifier(model, "kpd", sparsity=0.5, total_steps=1)
    sparsifier.step()
    sparsifier.finish()
    assert {name: layer.block for name, layer in block_layers(model).items()} == {"0": (4, 4), "2": (2, 2)}
    assert all(isinstance(layer, KPDLinear) for layer in block_layers(model).values())


def test_a_plan_refuses_what_cannot_be() -> None:
    for limits in ({}, {"error": 0.1, "bytes": 1000}):
        with pytest.raises(InputError, match="error, bytes: give one of both"):
            plan(network(), **limits)
    with pytest.raises(InputError, match="error=-1: needs a share"):
        plan(network(), error=-1)
    with pytest.raises(InputError, match=r"bytes=1.5: needs a whole number"):
        plan(network(), bytes=1.5)
    with pytest.raises(InputError, match="bytes: too few by"):
        plan(network(), bytes=50)
    with pytest.raises(InputError, match="no linear layer has a name like head"):
        plan(network(), error=0.1, layers="head")


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_the_example_of_the_docs_runs_as_it_stands(root: Path) -> None:
    (code,) = (root / "docs" / "kpd.md").read_text(encoding="utf-8").split("```python\n")[1:]
    names: dict = {}
    exec(compile(code.partition("```")[0], "kpd.md", "exec"), names)  # noqa: S102
    assert 0 < names["chosen"].bytes <= 12_000
    assert len(block_layers(names["model"])) > 0
