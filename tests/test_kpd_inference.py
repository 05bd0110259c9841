"""Every form of a pruned layer against the dense one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, functional, inference
from pipeline.kpd.blocks import BlockLayer, BlockLinear
from pipeline.kpd.inference import FORMS, deploy, export_program, forms_of, measure_forms


def pruned(kind: str, n: int, m: int, block: tuple[int, int], rank: int, zeros: float, seed: int = 0) -> BlockLayer:
    torch.manual_seed(seed)
    layer: BlockLayer = BlockLinear(n, m, block)
    if kind != "full":
        layer = KPDLinear(n, m, block, rank, variant="group" if kind == "group" else "selector")
    support = torch.rand(layer.grid) >= zeros
    support[0] = False  # a block row without any block
    layer.set_support(support)
    return layer


SHAPES = [
    ((24, 16), (4, 4), 1),
    ((35, 22), (11, 5), 2),
    ((64, 64), (32, 32), 3),
    ((40, 144), (48, 8), 1),  # a whole panel of outputs and half of one
    ((6, 10), (1, 2), 1),
    ((20, 42), (14, 4), 4),
]


@pytest.mark.parametrize("kind", ["selector", "group", "full"])
@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize(("sizes", "block", "rank"), SHAPES)
def test_forms_agree_with_the_dense_layer(kind, numba, sizes, block, rank, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "group":
        rank = min(rank, block[0] * block[1])
    layer = pruned(kind, *sizes, block, rank, 0.6)
    monkeypatch.setattr(inference, "HAS_FUSED", numba)
    for batch in ((1,), (33,), (2, 40), (0,)):
        x = torch.randn(*batch, sizes[0])
        expected = layer.to_dense()(x)
        for name in forms_of(layer):
            make = FORMS[name]
            if name == "bsr" and batch == (0,):
                continue  # torch's kernel refuses an empty batch
            if numba or name in ("dense", "bsr"):
                got = make(layer)(x)
            else:
                with pytest.warns(UserWarning, match="Numba is missing"):
                    got = make(layer)(x)
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_forms_of_layers_without_bias_agree() -> None:
    for layer in (KPDLinear(24, 16, (4, 4), 2, bias=False), BlockLinear(24, 16, (4, 4), bias=False)):
        layer.set_support(torch.rand(layer.grid) > 0.5)
        x = torch.randn(70, 24)
        for name in forms_of(layer):
            torch.testing.assert_close(FORMS[name](layer)(x), layer.to_dense()(x), rtol=1e-4, atol=1e-5)


def test_forms_take_inputs_with_gradients_and_strides() -> None:
    layer = pruned("selector", 64, 64, (16, 8), 2, 0.7)
    x = torch.randn(64, 40, requires_grad=True).T
    for name in forms_of(layer):
        got = FORMS[name](layer)(x)
        torch.testing.assert_close(got, layer.to_dense()(x), rtol=1e-4, atol=1e-5)
        assert not got.requires_grad or name == "dense"


def test_a_layer_pruned_whole_gives_its_bias() -> None:
    layer = KPDLinear(8, 6, (2, 2), 2)
    layer.set_support(torch.zeros(3, 4, dtype=torch.bool))
    for name in ("dense", "block-rows", "factored"):
        y = FORMS[name](layer)(torch.ones(3, 8))
        torch.testing.assert_close(y, layer.bias.detach().expand(3, 6))


def test_deploy_takes_the_fastest_form_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(pruned("selector", 16, 8, (2, 2), 1, 0.5), nn.ReLU(), pruned("full", 8, 4, (2, 2), 1, 0.5))
    rows = []

    def measure(layer: BlockLayer, x: torch.Tensor) -> dict[str, float]:
        rows.append(tuple(x.shape))
        factored = {"factored": 0.5} if isinstance(layer, KPDLinear) else {}
        return {"dense": 2.0, "block-rows": 1.0} | factored

    monkeypatch.setattr(inference, "measure_forms", measure)
    images = torch.randn(5, 16)
    twin, taken = deploy(network, images)
    assert taken == {"0": "factored", "2": "block-rows"}
    assert rows == [(5, 16), (5, 8)]
    torch.testing.assert_close(twin(images), network(images), rtol=1e-4, atol=1e-5)
    assert isinstance(network[0], KPDLinear)


def test_measuring_covers_all_forms() -> None:
    layer = pruned("selector", 16, 8, (2, 2), 1, 0.5)
    assert set(measure_forms(layer, torch.randn(3, 16), repeats=1)) == set(FORMS)
    assert "factored" not in measure_forms(pruned("full", 16, 8, (2, 2), 1, 0.5), torch.randn(3, 16), repeats=1)


def test_unknown_and_impossible_forms_are_refused() -> None:
    network = nn.Sequential(pruned("full", 8, 4, (2, 2), 1, 0.5))
    with pytest.raises(InputError, match="did you mean 'block-rows'"):
        deploy(network, torch.ones(1, 8), form="block-row")
    with pytest.raises(InputError, match="needs a KPD layer, not BlockLinear"):
        deploy(network, torch.ones(1, 8), form="factored")
    with pytest.raises(InputError, match=r"no product for blocks of \(2, 4\)"):
        deploy(nn.Sequential(BlockLinear(8, 4, (2, 4))), torch.ones(1, 8), form="bsr")


def test_exported_program_runs_alone_with_exact_zeros(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), pruned("selector", 16, 8, (2, 2), 2, 0.5))
    images = torch.randn(4, 4, 4)
    export_program(network, images, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    more = torch.randn(9, 4, 4)
    torch.testing.assert_close(program(more), network(more), rtol=1e-4, atol=1e-5)
    (weight,) = [value for name, value in program.state_dict().items() if name.endswith("weight")]
    blocks = weight.view(4, 2, 8, 2).abs().amax(dim=(1, 3))
    assert torch.equal(blocks == 0, ~network[1].support)


def test_double_precision_uses_torch() -> None:
    layer = KPDLinear(8, 6, (2, 2), 2, dtype=torch.float64)
    x = torch.randn(3, 8, dtype=torch.float64)
    assert functional.available(x) == ["inner", "outer", "dense"]
    for name in FORMS:
        torch.testing.assert_close(FORMS[name](layer)(x), layer.to_dense()(x))
