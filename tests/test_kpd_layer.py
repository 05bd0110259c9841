"""KPDLinear against torch.kron."""

from __future__ import annotations

import copy
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, functional, fused
from pipeline.kpd.conversion import Rule, convert
from pipeline.kpd.cost import training_memory
from pipeline.kpd.deployment import deploy


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
    torch.testing.assert_close(layer.weight, kron_weight(layer))


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
        weight = KPDLinear(512, 512, (4, 4), rank).weight
        assert weight.std().item() == pytest.approx((3 * 512) ** -0.5, rel=0.25)


def test_gauge_keeps_the_weight_and_normalises_b() -> None:
    layer = random_layer(6, 4, (2, 3), 2)
    with torch.no_grad():
        layer.B.mul_(torch.tensor([3.0, 0.2], dtype=torch.float64).view(2, 1, 1))
    before = layer.weight.detach()
    layer.fix_gauge()
    torch.testing.assert_close(layer.weight, before)
    torch.testing.assert_close(layer.B.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_shrink_is_the_soft_threshold() -> None:
    layer = KPDLinear(2, 2, (1, 1))
    with torch.no_grad():  # with |A| = |S| and B = 1 the gauge is fixed already
        layer.S.copy_(torch.tensor([[0.5, -0.25], [0.125, -2.0]]))
        layer.A.copy_(layer.S.abs())
        layer.B.fill_(1.0)
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
        ((6, 4, 4), "two numbers"),
        ((6, 4, None), "two numbers"),
        ((6, 4, ("a", 2)), "whole numbers"),
        ((6, 4, (2, 3), 1.5), "rank 1.5"),
        ((6, 4, (2, 3), True), "rank True"),
    ],
)
def test_impossible_layers_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        KPDLinear(*arguments)
    with pytest.raises(ValueError, match="last dimension"):
        KPDLinear(6, 4, (2, 3))(torch.ones(2, 5))


@pytest.mark.parametrize("options", [{}, {"path": "shape"}, {"path": "fused"}, {"path": "inner"}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_than_the_parameters_are_refused(options: dict, dtype: torch.dtype) -> None:
    layer = KPDLinear(64, 64, (8, 8), **options).to(dtype)
    with pytest.raises(InputError, match=rf"input: torch.float32 on cpu, parameters: {dtype} on cpu"):
        layer(torch.randn(200, 64))


@pytest.mark.parametrize("options", [{"variant": "group"}, {"init": "svd"}, {}])
def test_half_precision_layers_can_be_made(options: dict) -> None:
    layer = KPDLinear(64, 64, (8, 8), 2, dtype=torch.bfloat16, **options)
    assert layer(torch.ones(3, 64, dtype=torch.bfloat16)).isfinite().all()
    dense = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    near = KPDLinear.from_linear(dense, (8, 8), 64)
    torch.testing.assert_close(near.weight.float(), dense.weight.float(), rtol=0.05, atol=0.01)


def test_a_layer_of_one_entry_starts_finite() -> None:
    assert KPDLinear(1, 1, (1, 1), init="svd").weight.isfinite().all()


def test_blocks_outside_the_support_are_zero_whatever_the_factors_say() -> None:
    layer = KPDLinear(8, 8, (4, 4), 2)
    layer.set_support(torch.eye(2, dtype=torch.bool))
    with torch.no_grad():
        layer.A[:, 0, 1], layer.S[1, 0] = torch.nan, torch.inf
    assert layer.zero_blocks().tolist() == [[False, True], [True, False]]
    assert (layer(torch.ones(3, 8)) == layer.to_dense()(torch.ones(3, 8))).all()


def test_first_call_may_be_checkpointed() -> None:
    layer = KPDLinear(256, 512, (8, 8), 1)
    x = torch.randn(300, 256, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, layer.weight.sum(dim=0).expand(300, 256))


def test_serves_in_torchs_transformer_layer_in_training_and_evaluation() -> None:
    network = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    convert(network, {"linear*": Rule((4, 4))})
    x = torch.randn(2, 5, 16)
    trained = network(x)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), trained)
        for form in ("block-rows", "factored", "bsr"):
            torch.testing.assert_close(deploy(network, x, form)[0](x), trained, rtol=1e-4, atol=1e-5)


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


PATHS = list(functional.PATHS)


def rounding(path: str) -> tuple[torch.dtype, dict[str, float]]:
    """The fused path is float32 only."""
    return (
        (torch.float32, {"rtol": 1e-4, "atol": 1e-4})
        if path == "fused"
        else (torch.float64, {"rtol": 1e-9, "atol": 1e-9})
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize(
    ("N", "grid", "block"), [(1, (1, 1), (1, 1)), (33, (5, 7), (3, 2)), (64, (16, 16), (4, 4)), (70, (9, 33), (5, 9))]
)
def test_every_path_gives_torch_krons_product_and_gradients(
    path: str, rank: int, N: int, grid: tuple[int, int], block: tuple[int, int]
) -> None:
    dtype, tolerance = rounding(path)
    torch.manual_seed(1)
    scaled = torch.randn(rank, *grid, dtype=dtype, requires_grad=True)
    B = torch.randn(rank, *block, dtype=dtype, requires_grad=True)
    x = torch.randn(N, grid[1] * block[1], dtype=dtype, requires_grad=True)
    dy = torch.randn(N, grid[0] * block[0], dtype=dtype)
    y = functional.kpd_product(x, scaled, B, path)
    got = torch.autograd.grad(y, (x, scaled, B), dy)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, scaled, B)]
    weight = sum(torch.kron(exact[1][i], exact[2][i]) for i in range(rank))
    expected = exact[0] @ weight.T
    gradients = torch.autograd.grad(expected, exact, dy.double())
    for own, true in zip((y, *got), (expected, *gradients), strict=True):
        scale = true.abs().max().item()
        torch.testing.assert_close(own.double() / scale, true / scale, **tolerance)


@pytest.mark.parametrize("path", ["inner", "outer", "dense"])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_gradcheck_of_every_path(path: str, rank: int) -> None:
    def product(x: torch.Tensor, scaled: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return functional.kpd_product(x, scaled, B, path)

    shapes = ((3, 6), (rank, 2, 3), (rank, 5, 2))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(product, inputs)
    inputs[0].requires_grad_(False)
    assert torch.autograd.gradcheck(product, inputs)


@pytest.mark.parametrize("path", ["inner", "outer", "dense"])
def test_second_derivatives(path: str) -> None:
    shapes = ((3, 4), (2, 2, 2), (2, 3, 2))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradgradcheck(lambda *tensors: functional.kpd_product(*tensors, path), inputs)


def test_fused_path_has_second_derivatives() -> None:
    x, scaled, B = (torch.randn(shape, requires_grad=True) for shape in ((5, 24), (2, 3, 4), (2, 2, 6)))
    seconds = []
    for path in ("fused", "dense"):
        y = functional.kpd_product(x, scaled, B, path)
        first = torch.autograd.grad(y.pow(3).sum(), (x, scaled, B), create_graph=True)
        seconds.append(torch.autograd.grad(sum(own.square().sum() for own in first), (x, scaled, B)))
    for own, true in zip(*seconds, strict=True):
        torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()))


@pytest.mark.parametrize("path", ["auto", *PATHS])
def test_transforms_of_torch_func_see_the_layer_as_the_dense_product(path: str) -> None:
    torch.manual_seed(0)
    layer = KPDLinear(12, 8, (2, 3), 2, path=path)
    layer.set_support(torch.rand(layer.grid) > 0.3)
    weight = layer.to_dense().weight.detach()
    x, t = torch.randn(5, 12), torch.randn(5, 12)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(torch.func.vmap(layer)(x), layer(x))
    close(torch.func.jacrev(layer)(x[0]), weight)
    close(torch.func.jvp(layer, (x,), (t,))[1], t @ weight.T)
    close(torch.func.hessian(lambda v: layer(v).square().sum())(x[0]), 2 * weight.T @ weight)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(own: dict, row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, own, (row,)).square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        close(of_each[name].sum(dim=0), parameter.grad)


def test_a_program_for_batches_of_any_size_computes_the_layer() -> None:
    layer = KPDLinear(64, 64, (8, 8)).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (torch.randn(4, 64),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(700, 64)
    torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_layer_without_memory_gives_shapes() -> None:
    layer = KPDLinear(8, 6, (2, 2), device="meta")
    assert layer(torch.empty(3, 8, device="meta")).shape == (3, 6)
    assert layer.weight.shape == (6, 8)


@pytest.mark.parametrize("path", PATHS)
def test_strided_inputs_and_frozen_parameters(path: str) -> None:
    layer, plain = (KPDLinear(8, 6, (3, 2), 2, path=name) for name in (path, "dense"))
    plain.load_state_dict(layer.state_dict())
    for own in (layer, plain):
        own.A.requires_grad_(False)
    wide = torch.randn(2, 5, 16)
    results = []
    for own in (layer, plain):
        y = own(wide[..., ::2])
        y.sum().backward()  # a gradient with strides of zero
        results.append((y.detach(), own.S.grad, own.B.grad, own.bias.grad))
        assert own.A.grad is None
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 200, 1500])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fused_path_gives_the_same_bits_on_every_run_and_any_number_of_threads(threads: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((rows, 24)).astype(np.float32) for _ in range(2))
    scaled, B = rng.standard_normal((2, 6, 8)).astype(np.float32), rng.standard_normal((2, 4, 3)).astype(np.float32)
    layer = fused.factors(scaled, B, rng.standard_normal(24).astype(np.float32))

    def computed(threads: int) -> list[np.ndarray]:
        dx, gradients = fused.backward([dy] * 3, x, [layer] * 3, threads, True)
        both, of_both = fused.backward_both(dy, x, layer, layer, True, threads, True)
        ys = fused.forward(x, [layer] * 3, threads), fused.forward_both(x, layer, layer, True, threads)
        return [*ys[0], ys[1], dx, both, *(array for own in (*gradients, *of_both) for array in own)]

    for left, right, single in zip(computed(threads), computed(threads), computed(1), strict=True):
        assert np.array_equal(left, right)
        assert np.array_equal(left, single)


def test_empty_batches_pass() -> None:
    for path in PATHS:
        layer = KPDLinear(6, 4, (2, 3), 2, path=path)
        y = layer(torch.ones(0, 6))
        assert y.shape == (0, 4)
        y.sum().backward()
        assert torch.all(layer.A.grad == 0)


def test_choice_is_measured_once_and_by_shape_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(x: torch.Tensor, *_: object) -> dict[str, float]:
        calls.append(len(x))
        return {"inner": 2.0, "outer": 1.0, "dense": 3.0}

    monkeypatch.setattr(functional, "measure", measure)
    monkeypatch.setattr(functional, "WORTH_MEASURING", 0)
    x, scaled, B = torch.randn(40, 15), torch.randn(1, 7, 3), torch.randn(1, 11, 5)  # sizes of no other test's
    assert [functional.choose(x, scaled, B, measured=True) for _ in range(3)] == ["outer"] * 3
    assert calls == [40]
    with FlopCounterMode(display=False) as counter:
        functional.kpd_product(x, scaled, B)
    assert counter.get_total_flops() == 2 * 40 * 7 * 5 * (3 + 11)
    by_shape = {functional.choose(x, scaled, B, measured=False) for _ in range(3)}
    assert len(by_shape) == 1


def test_measuring_times_every_available_path() -> None:
    seconds = functional.measure(
        torch.randn(8, 12), torch.randn(1, 2, 3), torch.randn(1, 2, 4), training=True, repeats=1
    )
    assert set(seconds) == set(functional.PATHS)
    assert all(value > 0 for value in seconds.values())
    double = torch.randn(8, 12, dtype=torch.float64)
    assert "fused" not in functional.available(double)


def test_without_numba_it_says_so_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "HAS_FUSED", False)
    layer = KPDLinear(8, 8, (2, 2))
    with pytest.warns(UserWarning, match="Numba is missing"):
        layer(torch.ones(2, 8))
    with pytest.raises(InputError, match="needs Numba"):
        KPDLinear(8, 8, (2, 2), path="fused")


def test_large_layers_take_a_cheaper_way_than_dense_by_shape() -> None:
    x = torch.randn(4096, 1024)
    assert functional.choose(x, torch.randn(1, 128, 128), torch.randn(1, 8, 8), measured=False) == "fused"
    assert functional.choose(x[:64], torch.randn(16, 512, 512), torch.randn(16, 2, 2), measured=False) == "dense"


@pytest.mark.parametrize("path", ["fused", "inner", "outer"])
def test_a_training_step_keeps_little_more_than_dense(path: str) -> None:
    x, labels = torch.randn(512, 256), torch.zeros(512, dtype=torch.long)
    own = training_memory(torch.nn.Sequential(KPDLinear(256, 256, (8, 8), rank=2, path=path)), x, labels)
    dense = training_memory(torch.nn.Sequential(torch.nn.Linear(256, 256)), x, labels)
    assert own["activations"] <= 1.2 * dense["activations"]
    assert own["optimizer"] == 2 * own["parameters"]
    assert own["parameters"] < dense["parameters"]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_autocast_and_half_precision(rank: int) -> None:
    layer = KPDLinear(32, 16, (4, 4), rank)
    x = torch.randn(9, 32)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.sum().backward()
    assert layer.A.grad.dtype == torch.float32


@pytest.mark.parametrize("path", ["shape", *PATHS])
def test_compiles_without_a_break(path: str) -> None:
    layer = KPDLinear(32, 16, (4, 4), 2, path=path)
    x = torch.randn(9, 32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    gradient = layer.A.grad.clone()
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(gradient, layer.A.grad)


def test_works_in_distributed_data_parallel(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = KPDLinear(8, 6, (3, 2), rank=2)
        plain = copy.deepcopy(layer)
        parallel = torch.nn.parallel.DistributedDataParallel(layer)
        x = torch.randn(10, 8)
        parallel(x).square().mean().backward()
        plain(x).square().mean().backward()
        for own, expected in zip(layer.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, expected.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_van_loan_start_is_the_best_approximation() -> None:
    torch.manual_seed(0)
    dense = torch.nn.Linear(12, 10, dtype=torch.float64)
    errors = []
    for rank in (1, 2, 4):
        layer = KPDLinear.from_linear(dense, (2, 2), rank)
        errors.append((layer.weight - dense.weight).norm().item())
        # a term's error is the rest of the singular values of the rearranged weight (Eckart and Young)
        rearranged = dense.weight.view(5, 2, 6, 2).transpose(1, 2).reshape(30, 4)
        rest = torch.linalg.svdvals(rearranged)[rank:].norm().item()
        assert errors[-1] == pytest.approx(rest, abs=1e-12)
        assert torch.equal(layer.bias, dense.bias)
    assert errors[0] > errors[1] > errors[2] == pytest.approx(0, abs=1e-12)
    x = torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(KPDLinear.from_linear(dense, (2, 2), 4)(x), dense(x))


def test_svd_start_has_the_dense_layers_deviation() -> None:
    layer = KPDLinear(64, 64, (4, 4), rank=2, init="svd")
    assert layer.weight.std(correction=0).item() == pytest.approx((3 * 64) ** -0.5, rel=1e-4)
    B = layer.B.detach().flatten(1)
    torch.testing.assert_close(B @ B.T, torch.eye(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_group_variant_has_orthonormal_blocks_and_their_norms(rank: int) -> None:
    layer = KPDLinear(6, 8, (2, 2), rank, variant="group", dtype=torch.float64)
    assert layer.S is None
    assert sum(p.numel() for p in layer.parameters()) == rank * 12 + rank * 4 + 8
    with torch.no_grad():
        layer.B.add_(torch.randn_like(layer.B))
    before = layer.weight.detach()
    layer.fix_gauge()
    torch.testing.assert_close(layer.weight, before)
    B = layer.B.detach().flatten(1)
    torch.testing.assert_close(B @ B.T, torch.eye(rank, dtype=torch.float64))
    norms = before.view(4, 2, 3, 2).square().sum(dim=(1, 3)).sqrt()
    torch.testing.assert_close(layer.block_scores(), norms)
    threshold = norms.median()
    layer.shrink(threshold)
    expected = before.view(4, 2, 3, 2) * (1 - threshold / norms).clamp_min(0)[:, None, :, None]
    torch.testing.assert_close(layer.weight.detach(), expected.reshape(8, 6))
    torch.testing.assert_close(
        layer(torch.eye(6, dtype=torch.float64)).detach() - layer.bias.detach(), expected.reshape(8, 6).T
    )


def test_group_variant_solves_block_group_lasso() -> None:
    # min 1/2 |X W^T - Y|^2 / N + weight sum_g |W_g|_F has one solution; find it twice.
    torch.manual_seed(0)
    N, n, m, weight, rate = 60, 8, 6, 0.15, 0.5
    X, Y = torch.randn(N, n, dtype=torch.float64), torch.randn(N, m, dtype=torch.float64)
    W = torch.zeros(m, n, dtype=torch.float64)
    for _ in range(400):  # proximal gradient on the full matrix
        W = W - rate * (X @ W.T - Y).T @ X / N
        blocks = W.view(3, 2, 4, 2)
        norms = blocks.square().sum(dim=(1, 3), keepdim=True).sqrt()
        W = (blocks * (1 - rate * weight / norms).clamp_min(0)).nan_to_num().view(m, n)
    layer = KPDLinear(n, m, (2, 2), rank=4, bias=False, variant="group", dtype=torch.float64, path="inner")
    for _ in range(400):
        layer.zero_grad()
        (0.5 * (layer(X) - Y).square().sum() / N).backward()
        with torch.no_grad():
            layer.A.sub_(rate * layer.A.grad)
        layer.shrink(rate * weight)
    torch.testing.assert_close(layer.weight.detach(), W, atol=1e-8, rtol=0)
    zero = W.view(3, 2, 4, 2).abs().amax(dim=(1, 3)) == 0
    assert 0 < int(zero.sum()) < 12
    assert torch.equal(layer.zero_blocks(), zero)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "groups"}, "did you mean 'group'"),
        ({"init": "sdv"}, "did you mean 'svd'"),
        ({"path": "fussed"}, "did you mean 'fused'"),
        ({"path": None}, "path 'None' is unknown"),
        ({"variant": None}, "variant 'None' is unknown"),
        ({"variant": "group", "rank": 7}, "at most 6 orthonormal terms"),
    ],
)
def test_unknown_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        KPDLinear(6, 4, (2, 3), **options)


def test_fused_path_refuses_what_it_cannot_take() -> None:
    layer = KPDLinear(6, 4, (2, 3), dtype=torch.float64, path="fused")
    with pytest.raises(InputError, match=r"takes float32 on a CPU, not torch.float64"):
        layer(torch.ones(2, 6, dtype=torch.float64))
