"""Propositions 2 and 3 against counts made by hand, their simplified forms and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pipeline.kpd import KPDLinear
from pipeline.kpd.flops import dense_one_layer, dense_two_layer, kpd_one_layer, kpd_two_layer

size = st.integers(1, 9)


@settings(deadline=None)
@given(size, size, size)
def test_dense_one_layer_simplifies_as_in_the_text(N: int, m: int, n: int) -> None:
    counts = dense_one_layer(N, m, n)
    assert counts["forward"] == 2 * N * m * (n + 1) - 1
    assert counts["backward"] == N * m * (2 * n + 1) - m * n


@settings(deadline=None)
@given(size, size, size, size, size, size)
def test_kpd_one_layer_simplifies_as_in_the_text(N: int, m1: int, n1: int, m2: int, n2: int, r: int) -> None:
    m = m1 * m2
    counts = kpd_one_layer(N, m1, n1, m2, n2, r)
    # equation (18) and, with the terms without N that (25) leaves out, equation (25)
    inner = 2 * N * m1 * m2 * n1 - N * m1 * m2 + m1 * n1 + 2 * N * m2 * n1 * n2 - N * m2 * n1
    assert counts["forward"] == r * inner + (r - 1) * N * m + 3 * N * m - 1
    leading = N * m + N * r * (4 * m1 * m2 * n1 - m2 * n1 + 2 * m2 * n1 * n2)
    assert counts["backward"] == leading + (2 * r - 1) * m1 * n1 - r * m2 * n2


@settings(deadline=None)
@given(size, size, size, size)
def test_dense_two_layer_simplifies_as_in_the_text(N: int, m1: int, m2: int, m3: int) -> None:
    counts = dense_two_layer(N, m1, m2, m3)
    assert counts["forward"] == 2 * N * m1 * m2 + 2 * N * m2 * m3 + 2 * N * m3 - 1
    assert counts["backward"] == 2 * N * m1 * m2 + 4 * N * m2 * m3 + N * m3 - m1 * m2 - m2 * m3


def test_kpd_two_layer_is_two_layers_an_activation_and_an_input_gradient() -> None:
    N, m1, m2, r = 5, (2, 3, 4), (6, 2, 3), (2, 3)
    counts = kpd_two_layer(N, m1, m2, r)
    first = kpd_one_layer(N, 3, 2, 2, 6, 2)
    second = kpd_one_layer(N, 4, 3, 3, 2, 3)
    hidden = 6
    assert counts["forward"] == first["forward"] - (3 * N * hidden - 1) + N * hidden + second["forward"]
    # B_i^T (2 x 3) times (3 x N 3), three times, two sums of N x 6, then the activation's derivative
    input_gradient = 3 * (2 * N * 3 * (2 * 3 - 1)) + 2 * N * hidden
    assert counts["backward"] == first["backward"] - N * hidden + second["backward"] + input_gradient + N * hidden


def counted(network: torch.nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Forward and backward operations of the matrix products, by torch."""
    with FlopCounterMode(display=False) as counter:
        y = network(x)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        y.square().sum().backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("r", [1, 2, 4])
@pytest.mark.parametrize("path", ["fused", "inner"])
def test_leading_terms_equal_torchs_count(r: int, path: str) -> None:
    # Large N: what torch does not count (sums, losses, S * A) is below a twentieth of the rest.
    N, m1, n1, m2, n2 = 512, 16, 32, 8, 8
    layer = KPDLinear(n1 * n2, m1 * m2, (m2, n2), r, bias=False, path=path)
    forward, backward = counted(layer, torch.randn(N, n1 * n2))
    assert forward == 2 * N * r * m2 * n1 * (m1 + n2)
    recomputed = 2 * N * r * m2 * n1 * n2  # B X, made again instead of kept
    assert backward == 2 * N * r * m2 * n1 * (2 * m1 + n2) + recomputed
    counts = kpd_one_layer(N, m1, n1, m2, n2, r)
    assert counts["forward"] == pytest.approx(forward, rel=0.05)
    assert counts["backward"] == pytest.approx(backward - recomputed, rel=0.05)


def test_other_order_and_dense_build_count_as_they_cost() -> None:
    N, m1, n1, m2, n2, r = 64, 4, 6, 3, 5, 2
    x = torch.randn(N, n1 * n2, requires_grad=True)
    forward, backward = counted(KPDLinear(n1 * n2, m1 * m2, (m2, n2), r, bias=False, path="outer"), x)
    assert forward == 2 * N * r * m1 * n2 * (n1 + m2)
    assert backward == 2 * N * r * m1 * n2 * (n1 + 2 * n1 + 2 * m2)
    forward, backward = counted(KPDLinear(n1 * n2, m1 * m2, (m2, n2), r, bias=False, path="dense"), x)
    dense, building = 2 * N * m1 * m2 * n1 * n2, 2 * r * m1 * m2 * n1 * n2
    assert (forward, backward) == (dense + building, 2 * dense + 2 * building)


@pytest.mark.parametrize("path", ["fused", "inner"])
def test_two_layers_count_as_proposition_3(path: str) -> None:
    N, m1, m2, r = 512, (16, 16, 8), (8, 8, 4), (2, 3)
    network = torch.nn.Sequential(
        KPDLinear(128, 128, (8, 8), 2, bias=False, path=path),
        torch.nn.ReLU(),
        KPDLinear(128, 32, (4, 8), 3, bias=False, path=path),
    )
    forward, backward = counted(network, torch.randn(N, 128))
    recomputed = 2 * N * (2 * 8 * 16 * 8 + 3 * 4 * 16 * 8)
    counts = kpd_two_layer(N, m1, m2, r)
    assert counts["forward"] == pytest.approx(forward, rel=0.05)
    assert counts["backward"] == pytest.approx(backward - recomputed, rel=0.05)


def test_dense_leading_terms_equal_torchs_count() -> None:
    N, m, n = 512, 96, 128
    forward, backward = counted(torch.nn.Linear(n, m, bias=False), torch.randn(N, n))
    assert (forward, backward) == (2 * N * m * n, 2 * N * m * n)
    counts = dense_one_layer(N, m, n)
    assert counts["forward"] == pytest.approx(forward, rel=0.02)
    assert counts["backward"] == pytest.approx(backward, rel=0.02)
