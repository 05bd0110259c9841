"""Every form of a pruned layer against the dense one."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pipeline
from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Rule, Sparsifier, convert, deployment, functional, inference, load, save
from pipeline.kpd.blocks import BlockLayer, BlockLinear, block_layers
from pipeline.kpd.cost import inference_flops, measured_costs, sparse_flops
from pipeline.kpd.deployment import deploy, measure_forms
from pipeline.kpd.inference import FORMS, dense_twin, forms_of
from pipeline.kpd.programs import export_onnx, export_program
from pipeline.runs.artifact import read_artifact, write_artifact


def pruned(kind: str, n: int, m: int, block: tuple[int, int], rank: int, zeros: float, seed: int = 0) -> BlockLayer:
    torch.manual_seed(seed)
    layer: BlockLayer = BlockLinear(n, m, block)
    if kind != "full":
        layer = KPDLinear(n, m, block, rank, variant="group" if kind == "group" else "selector")
    support = torch.rand(layer.grid) >= zeros
    support[0] = False  # a block row without any block
    layer.set_support(support)
    return layer


SPARSE = ["bsr", "block-rows", "factored"]
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


@pytest.mark.parametrize("name", SPARSE)
def test_gradients_pass_through_a_form_and_its_own_numbers_get_none(name: str) -> None:
    layer = pruned("selector", 32, 32, (4, 4), 2, 0.6)
    dense, form = layer.to_dense().requires_grad_(False), FORMS[name](layer)
    x = torch.randn(5, 32, requires_grad=True)

    def saliency(network: nn.Module) -> tuple[torch.Tensor, ...]:
        (first,) = torch.autograd.grad((x + torch.relu_(network(x))).pow(3).sum(), x, create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), x)

    for own, true in zip(saliency(form), saliency(dense), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()))
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(torch.func.jacrev(form)(x[0].detach()), dense.weight)
    close(torch.func.vmap(form)(x.detach()), dense(x).detach())
    close(torch.func.jvp(form, (x.detach(),), (x.detach(),))[1], x.detach() @ dense.weight.T)
    form.values.requires_grad_(True)
    with pytest.raises(InputError, match="the buffers of a deployed layer get no gradients"):
        form(x)


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
        for dtype in (torch.bfloat16, torch.float16):
            got = copy.deepcopy(form).to(dtype)(x.to(dtype))
            assert got.dtype == dtype
            torch.testing.assert_close(got.float(), layer.to_dense()(x), rtol=0.05, atol=0.05)
        if name != "dense":
            with pytest.raises(InputError, match="bring both to one type and device"):
                form(x)
            assert form.to("meta")(torch.empty(2, 32, dtype=torch.float64, device="meta")).shape == (2, 32)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("name", SPARSE)
def test_what_is_loaded_or_written_is_computed(name: str, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "HAS_FUSED", numba)
    if not numba:
        monkeypatch.setattr(inference.warnings, "warn", lambda *_, **__: None)
    for block in (4, 16):  # lower blocks and whole vectors of outputs
        one, other = (KPDLinear(64, 64, (block, block), 2) for _ in range(2))
        support = torch.rand(one.grid) > 0.4
        one.set_support(support)
        other.set_support(support.roll(1, dims=0).flip(1))  # other places, as many
        x = torch.randn(5, 64)

        form = FORMS[name](one)
        kept = copy.deepcopy(form)
        form(x)
        form.load_state_dict(FORMS[name](other).state_dict())
        torch.testing.assert_close(form(x), other.to_dense()(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(form.weight, other.weight)
        torch.testing.assert_close(kept(x), one.to_dense()(x), rtol=1e-4, atol=1e-5)

        with torch.no_grad():
            form.values.mul_(2)
            form.bias.add_(1)
        expected = 2 * other.to_dense()(x) + 1 - other.bias
        torch.testing.assert_close(form(x), expected, rtol=1e-4, atol=1e-5)
        form.values.data.div_(2)
        form.bias.numpy()[:] -= 1
        torch.testing.assert_close(form(x), other.to_dense()(x), rtol=1e-4, atol=1e-5)
        twin = copy.deepcopy(form)
        twin.values = torch.zeros_like(twin.values)
        torch.testing.assert_close(twin(x), other.bias.expand(5, 64))
        torch.testing.assert_close(form(x), other.to_dense()(x), rtol=1e-4, atol=1e-5)

        narrow = {key: value if value.is_floating_point() else value.int() for key, value in form.state_dict().items()}
        twin.load_state_dict(narrow, assign=True)
        torch.testing.assert_close(twin(x), other.to_dense()(x), rtol=1e-4, atol=1e-5)

        form.double().bias.add_(1)
        torch.testing.assert_close(form(x.double()).float(), other.to_dense()(x) + 1, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(form.float()(x), other.to_dense()(x) + 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPARSE)
def test_a_state_of_other_sizes_is_refused(name: str) -> None:
    one, other = pruned("selector", 32, 32, (8, 8), 1, 0.5), pruned("selector", 32, 32, (8, 8), 1, 0.8)
    form = FORMS[name](one)
    with pytest.raises(RuntimeError, match=r"size mismatch for values"):
        form.load_state_dict(FORMS[name](other).state_dict())


@pytest.mark.parametrize("name", ["block-rows", "factored"])
def test_places_out_of_bounds_never_reach_a_kernel(name: str) -> None:
    form = FORMS[name](pruned("selector", 32, 32, (8, 8), 1, 0.5))
    for buffer, at, value in (("columns", 3, -1), ("columns", 3, 1 << 40), ("starts", 1, 1 << 40), ("starts", -1, 0)):
        broken = copy.deepcopy(form)
        getattr(broken, buffer)[at] = value
        with pytest.raises(InputError, match="starts rise from 0 to"):
            broken(torch.randn(3, 32))


@pytest.mark.parametrize("name", SPARSE)
def test_traced_exported_and_compiled_networks_compute_the_same(name: str, tmp_path: Path) -> None:
    network = nn.Sequential(pruned("selector", 32, 32, (8, 8), 2, 0.5), nn.ReLU(), nn.Linear(32, 3))
    x, more = torch.randn(4, 7, 32), torch.randn(9, 7, 32)
    twin, _ = deploy(network, x, form=name)
    with torch.no_grad():
        expected = network(more)
        traced = torch.jit.trace(twin, x)
        torch.jit.save(traced, tmp_path / "traced.pt")
        program = torch.export.export(twin, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, tmp_path / "program.pt2")
        ways = {
            "trace": traced,
            "a traced file": torch.jit.load(tmp_path / "traced.pt"),
            "export": program.module(),
            "an exported file": torch.export.load(tmp_path / "program.pt2").module(),
            "compile": torch.compile(twin, backend="aot_eager", fullgraph=True),
            "fx": torch.fx.symbolic_trace(twin),
        }
        for way, run in ways.items():
            torch.testing.assert_close(
                run(more), expected, rtol=1e-4, atol=1e-5, msg=lambda text, way=way: f"{way}: {text}"
            )
    layer = twin[0]
    rows = more.flatten(0, 1)
    arguments = [layer.values, layer.columns, layer.starts, layer.bias]
    arguments = [layer.B, *arguments] if name == "factored" else arguments
    torch.library.opcheck(getattr(torch.ops.kronflow, name.replace("-", "_")).default, (rows, *arguments))


@pytest.mark.parametrize("name", ["", *FORMS])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_calls_its_layers_and_computes_what_they_mean(
    name: str, norm_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    convert(network, {"*.linear?": Rule((8, 8))})
    for own in block_layers(network).values():
        own.set_support(torch.rand(own.grid) > 0.3)
    plain = dense_twin(network)
    x = torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([5, 2, 4])[:, None]  # which torch makes a nested tensor of
    if name:
        network, _ = deploy(network, x, form=name)
    names = [f"layers.{a}.linear{b}" for a in (0, 1) for b in (1, 2)]
    sparse = [network.get_submodule(name) for name in names]
    called = []
    if name != "dense":
        for kind in {type(own) for own in sparse}:
            forward = kind.forward
            monkeypatch.setattr(
                kind, "forward", lambda own, x, forward=forward: (called.append(own), forward(own, x))[1]
            )
    together = name in ("block-rows", "factored")  # by one kernel
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(x), rtol=1e-4, atol=1e-5)
        assert called == ([] if name == "dense" or together else sparse)
        got, expected = (each(x, src_key_padding_mask=padding) for each in (network, plain))
        torch.testing.assert_close(got[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
        assert name == "dense" or together or set(called[4:]) == set(sparse)
    has_hooks = any(own._forward_pre_hooks for own in network.modules())
    assert has_hooks == (name != "dense")  # a dense network keeps torch's fast path


class Block(nn.Module):
    """Attention and a feed-forward part in every holder whose layers may go together."""

    def __init__(self, activation: str, width: int) -> None:
        super().__init__()
        act = {"gelu": nn.GELU(), "relu": nn.ReLU(), "tanh": nn.GELU("tanh")}[activation]
        plain = "relu" if activation == "relu" else nn.functional.gelu
        self.encoder = nn.TransformerEncoderLayer(32, 2, width, activation=plain)
        self.decoder = nn.TransformerDecoderLayer(32, 2, width, activation=plain, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, width), act, nn.Dropout(0.5), nn.Linear(width, 32), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.mlp(x), self.encoder(x))


@pytest.mark.parametrize(
    ("activation", "form", "block"),
    [("gelu", "block-rows", (4, 4)), ("gelu", "factored", (16, 8)), ("relu", "factored", (4, 4)),
     ("tanh", "block-rows", (16, 8))],
)  # fmt: skip
def test_layers_that_go_together_compute_what_they_do_one_by_one(activation: str, form: str, block: tuple) -> None:
    torch.manual_seed(0)
    network = Block(activation, 48).eval()
    convert(network, {"*": Rule(block)}, keep_weights=True)
    for layer in block_layers(network).values():
        layer.set_support(torch.rand(layer.grid) > 0.5)
    x = 3 * torch.randn(3, 35, 32)  # more than one tile of rows
    twin, _ = deploy(network, x, form=form)
    called = []
    with torch.no_grad():
        expected = network(x)
        for each in (twin, copy.deepcopy(twin), dense_twin(twin), twin.train().eval()):
            torch.testing.assert_close(each(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(twin(x[:0]), expected[:0])
        for layer in [own for own in twin.modules() if isinstance(own, inference.InferenceLayer)]:
            layer.register_forward_hook(lambda own, _, y: called.append((own, y.shape[-1] == own.out_features)))
        torch.testing.assert_close(twin(x), expected, rtol=1e-4, atol=1e-4)  # with hooks each is called
    assert len(called) == len(set(called)) == 18
    assert all(right for _, right in called)
    given = x.requires_grad_()
    own, true = (torch.autograd.grad(each(given).sum(), given)[0] for each in (twin, network))
    torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3)


def test_gelu_between_layers_is_exact_to_single_precision() -> None:
    eye = BlockLinear(16, 16, (16, 16), bias=False)
    eye.approximate(torch.eye(16))
    network, _ = deploy(nn.Sequential(eye, nn.GELU(), copy.deepcopy(eye)), torch.ones(1, 16), form="block-rows")
    x = torch.cat([torch.linspace(-12, 12, 40_000), torch.tensor([-1e30, 1e30, 0.0])]).repeat(16, 1).T.contiguous()
    with torch.no_grad():
        got, expected = network(x).double(), nn.functional.gelu(x.double())
        assert float(((got - expected).abs() / x.double().abs().clamp_min(1e-9)).max()) < 2e-7
        assert network(torch.full((1, 16), torch.nan)).isnan().all()


def test_operations_of_the_forms_are_counted() -> None:
    layer = KPDLinear(32, 48, (8, 8), 2)
    support = torch.ones(6, 4, dtype=torch.bool)
    support[2, 1] = support[0, 3] = False
    layer.set_support(support)
    counts = {"bsr": 22 * 64, "block-rows": 22 * 64, "factored": 2 * 8 * 32 + 2 * 22 * 8}
    for name, products in counts.items():
        form = FORMS[name](layer)
        with FlopCounterMode(display=False) as counter:
            form(torch.ones(10, 32))
        assert counter.get_total_flops() == 2 * 10 * products


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
    network = nn.Sequential(
        *(pruned("selector", 16, 16, (2, 2), 1, 0.5) for _ in range(6)),
        pruned("full", 16, 8, (2, 2), 1, 0.5),
        pruned("full", 8, 4, (2, 2), 1, 0.5),
    )
    measured = []

    def measure(samples: list) -> dict[str, float]:
        layers, rows = zip(*((layer, tuple(x.shape)) for layer, x in samples), strict=True)
        measured.append((len(layers), rows[0]))
        factored = {"factored": 0.5} if isinstance(layers[0], KPDLinear) else {}
        return {"dense": 2.0, "block-rows": 1.0 if layers[0].in_features == 16 else 1.95} | factored

    monkeypatch.setattr(deployment, "measure_forms", measure)
    monkeypatch.setattr(deployment, "seconds_of", lambda *_: 1.0)
    images = torch.randn(5, 16)
    twin, taken = deploy(network, images)
    assert list(taken.values()) == ["factored"] * 6 + ["block-rows", "dense"]  # less than a twentieth is no gain
    assert measured == [(deployment.SAMPLE, (5, 16)), (1, (5, 16)), (1, (5, 8))]  # six alike layers, four of them
    torch.testing.assert_close(twin(images), network(images), rtol=1e-4, atol=1e-5)
    assert isinstance(network[0], KPDLinear)


def test_a_network_that_is_faster_dense_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(pruned("selector", 16, 16, (2, 2), 1, 0.5))
    monkeypatch.setattr(deployment, "measure_forms", lambda _: {"dense": 2.0, "factored": 1.0})
    monkeypatch.setattr(deployment, "seconds_of", lambda own, _: 1.0 if isinstance(own[0], nn.Linear) else 1.1)
    twin, taken = deploy(network, torch.randn(3, 16))
    assert taken == {"0": "dense"}
    assert type(twin[0]) is nn.Linear


def test_measuring_covers_all_forms_but_those_that_our_kernels_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = pruned("selector", 16, 8, (2, 2), 1, 0.5), torch.randn(3, 16)
    assert set(measure_forms([(layer, x)] * 2, repeats=1)) == set(FORMS) - {"bsr"}
    assert set(measure_forms([(layer.double(), x.double())], repeats=1)) == set(FORMS)
    assert "factored" not in measure_forms([(pruned("full", 16, 8, (2, 2), 1, 0.5), x)], repeats=1)


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


def test_networks_of_several_inputs_are_deployed_from_a_tuple_or_a_mapping() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = KPDLinear(16, 8, (4, 4)), KPDLinear(8, 8, (4, 4))

        def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) + shift)

    network, given = Two(), {"x": torch.randn(5, 16), "shift": torch.randn(8)}
    expected = network(**given)
    for inputs in (given, tuple(given.values()), list(given.values())):
        deployed, taken = deploy(network, inputs)
        assert list(taken) == ["first", "second"]
        torch.testing.assert_close(deployed(**given), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="images: an empty batch"):
        deploy(network, (torch.randn(0, 16), given["shift"]))
    with pytest.raises(InputError, match="the weight is made of"):
        FORMS["block-rows"](network.first).weight.zero_()


class Own(nn.Module):
    """A network that no registry knows, with a buffer of whole numbers and a nested layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16, bias=False))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("method", ["kpd", "kpd-group", "group-lasso"])
def test_a_network_of_ones_own_is_a_file(method: str, tmp_path: Path) -> None:
    network = Own()
    sparsifier = Sparsifier(network, method, block=(4, 4), sparsity=0.5, layers="body.*", total_steps=1)
    sparsifier.step()
    sparsifier.finish()
    network(torch.randn(9, 32))
    network.eval()
    x = torch.randn(5, 32)
    path = tmp_path / "own.safetensors"
    save(network, path)
    again = load(path, Own)
    assert torch.equal(again(x), network(x))
    assert not again.training
    for name, layer in block_layers(network).items():
        assert torch.equal(block_layers(again)[name].zero_blocks(), layer.zero_blocks())
    torch.testing.assert_close(deploy(again, x)[0](x), network(x), rtol=1e-4, atol=1e-5)
    whole = path.stat().st_size
    save(network, path, weights="float16")
    torch.testing.assert_close(load(path, Own)(x), network(x), rtol=1e-2, atol=1e-2)
    assert path.stat().st_size < whole
    assert load(path, lambda: Own().double()).head.weight.dtype == torch.float64


def test_files_of_networks_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    network, path = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), tmp_path / "own.safetensors"
    with pytest.raises(InputError, match="weights 'float61' is unknown; did you mean 'float16'"):
        save(network, path, weights="float61")
    convert(network, {"0": Rule((4, 4))})
    save(network, path)
    with pytest.raises(InputError, match=r"own.safetensors: does not fit the network that model_factory makes"):
        load(path, lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)))
    with pytest.raises(InputError, match=r"pipeline\.kpd\.load\(path, model_factory\) opens"):
        pipeline.load(path)
    with torch.no_grad():
        network[1].weight.fill_(1e6)
    with pytest.raises(InputError, match=r"array '1\.weight' has numbers that float16 cannot hold"):
        save(network, path, weights="float16")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum differs"):
        load(path, lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))


def final(method: str = "kpd") -> Own:
    torch.manual_seed(0)
    network = Own()
    sparsifier = Sparsifier(network, method, block=(4, 4), sparsity=0.5, layers="body.*", total_steps=1)
    sparsifier.step()
    sparsifier.finish()
    return network.eval()


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("method", ["kpd", "group-lasso"])
def test_a_deployed_network_is_a_file(method: str, form: str, tmp_path: Path) -> None:
    network, x, path = final(method), torch.randn(5, 32), tmp_path / "own.safetensors"
    if form == "factored" and method != "kpd":
        return
    deployed = deploy(network, x, form=form)
    report = deployed.save(path)
    assert report.bytes == path.stat().st_size
    assert report.dense_bytes == sum(4 * p.numel() for p in Own().parameters()) + 4 * 2 * 64 + 8
    again = load(path, Own)
    torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-5)
    for name in deployed.forms:
        assert type(again.get_submodule(name)) is type(deployed.network.get_submodule(name))
    save(network, tmp_path / "before.safetensors")  # factors stay factors
    assert report.bytes <= (tmp_path / "before.safetensors").stat().st_size + 80
    save(deployed.network, path)  # without what it was made of
    torch.testing.assert_close(load(path, Own)(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_into_a_deployed_network_is_what_its_file_holds(form: str, tmp_path: Path) -> None:
    network, x, path = final(), torch.randn(5, 32), tmp_path / "own.safetensors"
    deployed = deploy(network, x, form=form)
    layer = deployed.network.body[0]
    with torch.no_grad():
        (layer.weight if form == "dense" else layer.values).mul_(2)
        layer.bias.add_(1)
    deployed.save(path)
    torch.testing.assert_close(load(path, Own)(x), deployed.network(x), rtol=1e-4, atol=1e-5)


def test_a_layer_in_two_places_and_a_single_one_are_files(tmp_path: Path) -> None:
    def make() -> nn.Module:
        shared = nn.Linear(16, 16)
        return nn.Sequential(shared, nn.ReLU(), shared)

    path, x = tmp_path / "own.safetensors", torch.randn(3, 16)
    network = make()
    convert(network, {"*": Rule((4, 4))})
    for each in (network, deploy(network, x, form="factored")):
        save(each, path)
        again = load(path, make)
        assert again[0] is again[2]
        torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-5)
    single = pruned("full", 16, 16, (4, 4), 1, 0.5)
    for each in (single, deploy(single, x, form="block-rows")):
        save(each, path)
        torch.testing.assert_close(load(path, lambda: nn.Linear(16, 16))(x), single(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["kpd", "group-lasso"])
def test_int8_rounds_each_row_by_its_own_scale_and_accuracy_is_measured_again(method: str, tmp_path: Path) -> None:
    network, x, path = final(method), torch.randn(200, 32), tmp_path / "own.safetensors"
    with torch.no_grad():
        network.head.weight[0] *= 1e-3  # a row of small numbers keeps its precision
    labels = network(x).argmax(dim=1)
    for each in (network, deploy(network, x, form="block-rows")):
        report = save(each, path, weights="int8", data=(x, labels))
        assert report.accuracy_before == 1.0
        again = load(path, Own)
        assert report.accuracy == float((again(x).argmax(dim=1) == labels).double().mean()) > 0.9
        assert f"accuracy {report.accuracy:.2%}, before: 100.00%" in str(report)
        for own, true in zip(again.head.weight, network.head.weight, strict=True):
            assert float((own - true).abs().max()) <= 1.01 * float(true.abs().max()) / 254
        weight, true = again.body[0].weight, network.body[0].weight
        blocks = [own.view(16, 4, 8, 4).abs().amax(dim=(1, 3)) for own in (weight, true)]
        assert torch.equal(blocks[0] == 0, blocks[1] == 0)
        assert {key: array.dtype for key, array in read_artifact(path)[0].items()}["body.0.values"] == np.int8
        peaks = true.abs().amax(dim=1, keepdim=True)
        assert bool(((weight - true).abs() <= peaks / (254 if method != "kpd" else 50)).all())
    whole = save(network, path).bytes
    half = save(network, path, weights="float16", data=[(x, labels)] * 2)
    assert half.bytes < whole
    assert half.accuracy > 0.9


class Masked(Own):
    """With what decoders keep beside their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.register_buffer("lowest", torch.full((2, 3), torch.finfo(torch.float32).min))
        self.register_buffer("odd", torch.tensor(math.nan))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.mask[1] + self.lowest[0].clamp_min(-1.0)


@pytest.mark.parametrize("weights", ["as they are", "float16", "int8"])
def test_masks_are_saved_exactly_and_weights_that_are_not_finite_are_not(weights: str, tmp_path: Path) -> None:
    network, path = Masked(), tmp_path / "own.safetensors"
    network.load_state_dict(final().state_dict(), strict=False)
    convert(network, {"body.0": Rule((4, 4))})
    network.eval()
    save(network, path, weights)
    again = load(path, Masked)
    for name, buffer in network.named_buffers():
        tolerance = {"rtol": 1e-3, "atol": 1e-3} if name.startswith("body") else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(again.get_buffer(name), buffer, equal_nan=True, **tolerance)
    x = torch.randn(4, 32)
    torch.testing.assert_close(again(x), network(x), rtol=0.1, atol=0.1)
    tensors, metadata = read_artifact(path)
    write_artifact(path, "kpd", tensors | {"mask/odd": np.full((3, 3), 4, np.uint8)}, metadata)
    with pytest.raises(InputError, match="'mask/odd' has 4, which stands for no number"):
        load(path, Masked)
    with torch.no_grad():
        network.head.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"'head\.weight' has a number that is not finite; nothing was saved"):
        save(network, tmp_path / "other.safetensors", weights)
    assert not (tmp_path / "other.safetensors").exists()
    with pytest.raises(InputError, match="model_factory: a Masked; give what makes the network"):
        load(path, network)


def test_files_of_deployed_networks_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    deploy(final(), torch.randn(5, 32), form="block-rows").save(path, weights="int8")
    tensors, metadata = read_artifact(path)

    def refused(reason: str, arrays: dict | None = None, **layer: object) -> None:
        own = metadata["layers"] | {"body.0": metadata["layers"]["body.0"] | layer}
        write_artifact(path, "kpd", tensors | (arrays or {}), {"network": "own", "layers": own})
        with pytest.raises(InputError, match=f"own.safetensors: does not fit .*{reason}") as caught:
            load(path, Own)
        assert "\n" not in str(caught.value)

    refused("form='block-row': is unknown; did you mean 'block-rows'", form="block-row")
    refused("form=", form=[3])
    refused("grid=", grid=[0, 5])
    refused("bits of blocks", grid=[1 << 20, 1 << 20])
    refused("bits of blocks", arrays={"body.0.blocks": np.zeros(1, np.uint8)})
    refused("for 64 blocks", arrays={"body.0.values": tensors["body.0.values"][:, :5]})
    refused("values/scale' of shape", arrays={"body.0.values/scale": np.ones(3, np.float32)})
    refused("", rank=1 << 40)
    refused("", block=[0, 4])
    refused("", block=None)


class Vision(nn.Module):
    """Patches, attention and feed-forward parts whose layers go together."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 8)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(dim=1))


TO_EXPORT = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), (16,)),
    "transformer": (Vision, (3, 8, 8)),
}


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("form", ["", "block-rows"])
@pytest.mark.parametrize("name", TO_EXPORT)
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_exported_networks_run_elsewhere_with_equal_outputs(name: str, form: str, kind: str, tmp_path: Path) -> None:
    make, shape = TO_EXPORT[name]
    torch.manual_seed(0)
    given = make()
    sparsifier = Sparsifier(given, block=(4, 4), convolutions=True, total_steps=1)
    sparsifier.step()
    sparsifier.finish()
    given.eval()
    assert len(block_layers(given)) == {"mlp": 2, "transformer": 8}[name]
    x, more = torch.randn(3, *shape), torch.randn(5, *shape)
    if form:
        deploy(given, x, form=form).save(tmp_path / "own.safetensors", "float16")
        given = load(tmp_path / "own.safetensors", make)
    with torch.no_grad():
        expected = given(more)
    if kind == "torch":
        export_program(given, x, tmp_path / "model.pt2")
        got = torch.export.load(tmp_path / "model.pt2").module()(more)
    else:
        runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
        pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
        export_onnx(given, x, tmp_path / "model.onnx")
        session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: more.numpy()})[0])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_onnx_model_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[onnx\]' in Kronflow's folder"):
        export_onnx(nn.Sequential(KPDLinear(8, 4, (2, 2))), torch.ones(2, 8), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
