"""KPDLinear against torch.kron."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear


def kron_weight(layer: KPDLinear) -> torch.Tensor:
    return sum(torch.kron(layer.S * layer.A[i], layer.B[i]) for i in range(layer.rank))


def random_layer(n: int, m: int, block: tuple[int, int], rank: int, **options: object) -> KPDLinear:
    layer = KPDLinear(n, m, block, rank, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.S.normal_()
    return layer


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize(
    ("n", "m", "block"), [(6, 4, (2, 3)), (35, 9, (3, 7)), (5, 7, (1, 1)), (8, 8, (8, 8)), (12, 10, (5, 1))]
)
def test_forward_is_the_kronecker_sum(n: int, m: int, block: tuple[int, int], rank: int) -> None:
    layer = random_layer(n, m, block, rank)
    x = torch.randn(11, n, dtype=torch.float64)
    expected = x @ kron_weight(layer).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.to_dense()(x), expected)
    torch.testing.assert_close(layer.weight(), kron_weight(layer))


@settings(deadline=None, max_examples=25)
@given(*(st.integers(1, 4) for _ in range(5)), st.lists(st.integers(1, 3), max_size=3))
def test_any_shape_and_leading_dimensions(m1: int, n1: int, m2: int, n2: int, r: int, lead: list[int]) -> None:
    layer = random_layer(n1 * n2, m1 * m2, (m2, n2), r, bias=False)
    x = torch.randn(*lead, n1 * n2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ kron_weight(layer).T)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_gradients(rank: int) -> None:
    layer = random_layer(6, 10, (5, 2), rank)
    names = ["S", "A", "B", "bias"]

    def output(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *(getattr(layer, name) for name in names)))


def test_parameter_count_and_representation() -> None:
    layer = KPDLinear(64, 10, (2, 4), rank=3)
    m1, n1 = 5, 16
    assert layer.S.shape == (m1, n1)
    assert layer.A.shape == (3, m1, n1)
    assert layer.B.shape == (3, 2, 4)
    count = 4 * m1 * n1 + 3 * 2 * 4 + 10
    assert sum(p.numel() for p in layer.parameters()) == count
    assert f"parameters={count} (dense: 650)" in repr(layer)


def test_start_has_the_dense_layers_deviation() -> None:
    torch.manual_seed(0)
    for rank in (1, 4):
        weight = KPDLinear(512, 512, (4, 4), rank).weight()
        assert weight.std().item() == pytest.approx((3 * 512) ** -0.5, rel=0.25)


def test_gauge_keeps_the_weight_and_normalises_b() -> None:
    layer = random_layer(6, 4, (2, 3), 2)
    with torch.no_grad():
        layer.B.mul_(torch.tensor([3.0, 0.2], dtype=torch.float64).view(2, 1, 1))
    before = layer.weight().detach()
    layer.fix_gauge()
    torch.testing.assert_close(layer.weight(), before)
    torch.testing.assert_close(layer.B.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_shrink_is_the_soft_threshold() -> None:
    layer = KPDLinear(2, 2, (1, 1))
    with torch.no_grad():
        layer.S.copy_(torch.tensor([[0.5, -0.25], [0.2, -2.0]]))
    layer.shrink(0.25)
    assert layer.S.tolist() == [[0.25, 0.0], [0.0, -1.75]]
    assert layer.zero_blocks().tolist() == [[False, True], [True, False]]


def test_pruned_blocks_stay_zero_and_get_no_gradient() -> None:
    layer = KPDLinear(8, 6, (3, 2), rank=2)
    support = torch.tensor([[True, False, True, False], [False, True, True, True]])
    layer.set_support(support)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(5, 8)).square().sum().backward()
        assert torch.all(layer.S.grad[~support] == 0)
        optimizer.step()
    blocks = layer.to_dense().weight.view(2, 3, 4, 2).abs().amax(dim=(1, 3))
    assert torch.equal(blocks == 0, ~support)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((6, 4, (3, 3)), "3 rows do not divide out_features = 4; possible: 1, 2, 4"),
        ((6, 4, (2, 4)), "4 columns do not divide in_features = 6"),
        ((6, 4, (2, 0)), "0 columns"),
        ((6, 4, (2, 3), 0), "rank 0"),
        ((6, 4, (2,)), "two numbers"),
    ],
)
def test_impossible_layers_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        KPDLinear(*arguments)
    with pytest.raises(ValueError, match="last dimension"):
        KPDLinear(6, 4, (2, 3))(torch.ones(2, 5))


def test_state_travels() -> None:
    layer = KPDLinear(8, 6, (3, 2), rank=2)
    layer.set_support(torch.rand(2, 4) > 0.5)
    x = torch.randn(3, 8)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = KPDLinear(8, 6, (3, 2), rank=2)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
