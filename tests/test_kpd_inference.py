"""Every form of a pruned layer against the dense one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, functional, inference
from pipeline.kpd.blocks import BlockLayer, BlockLinear
from pipeline.kpd.cost import inference_flops, measured_costs, sparse_flops
from pipeline.kpd.inference import FORMS, deploy, export_program, forms_of, measure_forms
from pipeline.kpd.trainer import dense_twin


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


def test_a_wrong_width_is_refused_before_any_kernel_reads_it() -> None:
    layer = pruned("selector", 64, 64, (16, 8), 1, 0.5)
    for name in forms_of(layer):
        if name != "dense":
            for x in (torch.randn(10, 32), torch.randn(10, 128), torch.randn(3, 4, 1), torch.tensor(1.0)):
                with pytest.raises(InputError, match="the last dimension must be 64"):
                    FORMS[name](layer)(x)


def test_forms_can_be_copied_and_moved_to_other_types() -> None:
    layer = pruned("selector", 32, 32, (16, 16), 2, 0.5)
    x = torch.randn(5, 32)
    for name in forms_of(layer):
        form = FORMS[name](layer)
        torch.testing.assert_close(copy.deepcopy(form)(x), form(x))
        torch.testing.assert_close(form.weight, layer.weight)
        torch.testing.assert_close(form.double()(x.double()), layer.to_dense().double()(x.double()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_deployed_and_autocast_is_followed(dtype: torch.dtype) -> None:
    network = nn.Sequential(KPDLinear(32, 32, (8, 8), 2))
    x = torch.randn(6, 32)
    expected = network(x)
    twin, taken = deploy(copy.deepcopy(network).to(dtype), x.to(dtype))
    assert taken["0"] in ("dense", "block-rows")
    assert twin(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(twin(x.to(dtype)).float(), expected, rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype=dtype):
        assert network[0].to_dense().weight.dtype == torch.float32
        for name in forms_of(network[0]):
            got = FORMS[name](network[0])(x.to(dtype))
            assert got.dtype == dtype
            torch.testing.assert_close(got.float(), expected, rtol=0.1, atol=0.05)


def test_a_layer_in_two_places_is_replaced_in_both() -> None:
    shared = pruned("selector", 16, 16, (4, 4), 1, 0.8)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    x = torch.randn(3, 16)
    twin, taken = deploy(network, x, form="factored")
    assert list(taken) == ["0"]
    assert twin[0] is twin[2]
    torch.testing.assert_close(twin(x), network(x), rtol=1e-4, atol=1e-5)
    assert inference_flops(network, x) == 2 * sparse_flops(shared, len(x))
    assert not any(isinstance(layer, KPDLinear) for layer in dense_twin(network).modules())


def test_a_single_layer_and_one_that_no_batch_reaches_are_deployed() -> None:
    layer = pruned("selector", 16, 16, (4, 4), 1, 0.8)
    x = torch.randn(3, 16)
    twin, taken = deploy(layer, x, form="block-rows")
    assert taken == {"": "block-rows"}
    torch.testing.assert_close(twin(x), layer(x), rtol=1e-4, atol=1e-5)
    assert inference_flops(layer, x) == sparse_flops(layer, len(x))

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = layer, pruned("selector", 16, 16, (4, 4), 1, 0.8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x=x)

    assert deploy(Half(), x)[1]["spare"] == "dense"
    assert list(measured_costs(Half(), x, repeats=1)) == ["used"]


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
    with pytest.raises(InputError, match=r"'factored': a BlockLinear .* has only dense, bsr, block-rows"):
        deploy(network, torch.ones(1, 8), form="factored")
    with pytest.raises(InputError, match=r"'bsr': a BlockLinear with blocks of 2 x 4.* has only dense, block-rows"):
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
