"""Block tensor trains beside the sum over their indices."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import InputError
from pipeline.kpd import Sparsifier, load, save
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.cost import inference_parameters
from pipeline.kpd.inference import dense_twin
from pipeline.kpd.sparsity_methods import make


def by_hand(layer: BTTLinear) -> np.ndarray:
    """W, entry by entry."""
    (m1, n1), (m2, n2), r = layer.grid, layer.block, layer.rank
    L, R = layer.L.detach().double().numpy(), layer.R.detach().double().numpy()
    weight = np.zeros((m1 * m2, n1 * n2))
    for a, j, b, k in np.ndindex(m1, m2, n1, n2):
        for i in range(r):
            weight[a * m2 + j, b * n2 + k] += L[j, a, b * r + i] * R[b, i * m2 + j, k]
    return weight


@pytest.mark.parametrize(("sizes", "block", "rank"), [((12, 8), (2, 4), 1), ((12, 8), (4, 3), 2), ((6, 10), (5, 6), 1)])
def test_the_layer_is_the_sum_over_its_indices(sizes: tuple[int, int], block: tuple[int, int], rank: int) -> None:
    layer = BTTLinear(*sizes, block, rank, dtype=torch.float64)
    weight = torch.from_numpy(by_hand(layer))
    torch.testing.assert_close(layer.weight.detach() * 1, weight)
    x = torch.randn(3, 5, sizes[0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)
    torch.testing.assert_close(layer.to_dense()(x), layer(x))
    assert torch.autograd.gradcheck(
        lambda x, R, L: torch.func.functional_call(layer, {"R": R, "L": L}, (x,)), (x, layer.R, layer.L)
    )
    (m1, n1), (m2, n2) = layer.grid, block
    own = rank * n1 * m2 * (n2 + m1)
    assert sum(parameter.numel() for parameter in layer.parameters()) == own + sizes[1]
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 15 * own
    assert torch.compile(layer, backend="aot_eager", fullgraph=True)(x).shape == (3, 5, sizes[1])
    assert copy.deepcopy(layer)(x).shape == (3, 5, sizes[1])


def test_the_nearest_train_is_a_truncated_svd_of_each_slice() -> None:
    layer, exact = BTTLinear(12, 8, (2, 4), 2), BTTLinear(12, 8, (2, 4), 3)
    weight = torch.randn(8, 12)
    layer.approximate(weight)
    error = 0.0
    for j in range(2):
        for b in range(3):
            piece = weight.view(4, 2, 3, 4)[:, j, b, :].numpy().astype(np.float64)
            error += (np.linalg.svd(piece, compute_uv=False)[2:] ** 2).sum()
    assert float((layer.weight.detach() - weight).square().sum()) == pytest.approx(error, rel=1e-4)
    layer.approximate(exact.weight.detach())
    assert float((layer.weight.detach() - exact.weight.detach()).norm()) > 0
    again = BTTLinear(12, 8, (2, 4), 3)
    again.approximate(exact.weight.detach())
    torch.testing.assert_close(again.weight.detach() * 1, exact.weight.detach() * 1)


def test_fresh_layers_have_a_dense_layers_deviation_and_factors_by_the_rule() -> None:
    torch.manual_seed(0)
    layer = BTTLinear(1024, 512, (16, 32), 2)
    assert float(layer.weight.detach().std()) == pytest.approx(1 / np.sqrt(3 * 1024), rel=0.03)
    rule = (np.sqrt(32) / 32) / (np.sqrt(32) / 64)  # R: 32 inputs to 32; L: 64 to 32
    assert float(layer.R.detach().std() / layer.L.detach().std()) == pytest.approx(rule, rel=0.02)


def test_each_factor_has_its_own_rate() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    sparsifier = Sparsifier(model, "btt", block=(4, 8), rank=2, layers="0", total_steps=2, lr=1e-3)
    optimizer = torch.optim.AdamW(sparsifier.parameter_groups(), lr=1e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == 5
    assert rates[id(model[0].R)] == pytest.approx(1e-3 * 64 / 8)
    assert rates[id(model[0].L)] == pytest.approx(1e-3 * 64 / 16)
    assert rates[id(model[2].weight)] == rates[id(model[0].bias)] == 1e-3
    groups = make("monarch", {"block": (4, 8)}).parameter_groups(model)
    assert all("lr" not in group for group in groups)


@pytest.mark.parametrize("name", ["monarch", "btt"])
def test_trains_in_any_loop_and_comes_back_from_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    sparsifier = Sparsifier(model, name, block=(4, 4), total_steps=200, keep_weights=False, lr=3e-3)
    assert sparsifier.report.swapped == ["0", "2"]
    assert sparsifier.report.swaps[0].predicted_cost < 1
    optimizer = torch.optim.AdamW(sparsifier.parameter_groups(), lr=3e-3)
    x = torch.randn(128, 16)
    labels = x[:, :4].argmax(dim=1)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        sparsifier.step(optimizer)
    sparsifier.finish()
    assert float((model(x).argmax(dim=1) == labels).float().mean()) > 0.85
    twin = dense_twin(model)
    assert type(twin[0]) is nn.Linear
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-5)
    assert inference_parameters(model) == sum(p.numel() for p in model.parameters())
    for weights in ("as they are", "int8"):
        save(model, tmp_path / "model.safetensors", weights=weights)
        again = load(
            tmp_path / "model.safetensors", lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        )
        assert isinstance(again[2], BTTLinear)
        torch.testing.assert_close(again(x), model(x), rtol=0.1 if weights == "int8" else 1e-5, atol=0.2)


def test_a_train_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="rank 4: slices of 4 x 3 have a whole number of terms, 1 to 3"):
        BTTLinear(12, 8, (2, 3), 4)
    with pytest.raises(InputError, match="3 rows do not divide out_features = 8"):
        BTTLinear(12, 8, (3, 3))
    with pytest.raises(InputError, match="the last dimension must be 12"):
        BTTLinear(12, 8, (2, 3))(torch.ones(2, 8))
    with pytest.raises(InputError, match="the weight is made of"):
        BTTLinear(12, 8, (2, 3)).weight = torch.zeros(8, 12)
