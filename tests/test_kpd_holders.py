"""Attention and convolutions whose weights are block-sparse, beside torch's own with the same weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Rule, Sparsifier, convert, deploy, load, save
from pipeline.kpd.attention import Attention
from pipeline.kpd.blocks import block_layers
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.choice import BlockChoice
from pipeline.kpd.convolution import PatchConv2d
from pipeline.kpd.cost import inference_flops, inference_parameters
from pipeline.kpd.inference import dense_twin
from pipeline.kpd.sparsity_methods import SPARSITY_METHODS

SPARSE = [name for name, method in SPARSITY_METHODS.items() if "block_sparsity" in method.declared]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Attends(nn.Module):
    """Attention under a name."""

    def __init__(self, **more: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, **more)

    def forward(self, *inputs: Tensor, **more: object) -> tuple[Tensor, Tensor | None]:
        return self.attention(*inputs, **more)


def with_weights_of(module: Attends, converted: Attends) -> Attends:
    """The original with the weights that the converted one means, by torch.kron."""
    weights = {}
    for name in PROJECTIONS:
        layer = converted.attention.get_submodule(name)
        terms = zip(layer.scaled(), layer.B, strict=True)
        weights[name] = sum(torch.kron(a, b) for a, b in terms).detach()
    own = module.attention
    with torch.no_grad():
        if own._qkv_same_embed_dim:
            own.in_proj_weight.copy_(torch.cat([weights[name] for name in PROJECTIONS[:3]]))
        else:
            for name in PROJECTIONS[:3]:
                own.get_parameter(f"{name}_weight").copy_(weights[name])
        own.out_proj.weight.copy_(weights["out_proj"])
        if own.in_proj_bias is not None:
            biases = [converted.attention.get_submodule(name).bias for name in PROJECTIONS]
            own.in_proj_bias.copy_(torch.cat(biases[:3]))
            own.out_proj.bias.copy_(biases[3])
    return module


KINDS = {
    "packed": {},
    "separate": {"kdim": 8, "vdim": 12},
    "without bias, first the batch": {"bias": False, "batch_first": True},
    "bias and zeros for keys": {"add_bias_kv": True, "add_zero_attn": True},
}


def arguments(kind: str, is_batch: bool = True) -> tuple[Tensor, ...]:
    sizes = (16, KINDS[kind].get("kdim", 16), KINDS[kind].get("vdim", 16))
    lengths = (5, 7, 7)
    if not is_batch:
        return tuple(torch.randn(length, size) for length, size in zip(lengths, sizes, strict=True))
    first = KINDS[kind].get("batch_first", False)
    shapes = [(3, n, size) if first else (n, 3, size) for n, size in zip(lengths, sizes, strict=True)]
    return tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_computes_what_torchs_own_does_with_the_kronecker_products(kind: str, need_weights: bool) -> None:
    network = Attends(**KINDS[kind])
    plain = copy.deepcopy(network)
    report = convert(network, {"*": Rule((4, 4), 2)})
    assert report.swapped == [f"attention.{name}" for name in PROJECTIONS]
    plain = with_weights_of(plain, network)
    inputs = arguments(kind)
    padding = torch.arange(7) >= torch.tensor([7, 4, 6])[:, None]
    for more in (
        {},
        {"key_padding_mask": padding, "attn_mask": torch.rand(5, 7) > 0.8},
        {"attn_mask": torch.randn(3 * 4, 5, 7), "average_attn_weights": False},
        {"key_padding_mask": torch.randn(3, 7)},
    ):
        got, expected = (own(*inputs, need_weights=need_weights, **more) for own in (network, plain))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    single = arguments(kind, is_batch=False)
    if not KINDS[kind].get("add_bias_kv"):
        torch.testing.assert_close(network(*single), plain(*single), rtol=1e-4, atol=1e-5)
    for own in (network, plain):
        own(*inputs)[0].square().sum().backward()
    layer, m = network.attention.out_proj, 16
    dense = plain.attention.out_proj.weight.grad.view(4, m // 4, 4, 16 // 4).transpose(1, 2)  # (m1, n1, m2, n2)
    expected = torch.einsum("abjk,rjk->rab", dense, layer.B) * layer.S
    torch.testing.assert_close(layer.A.grad, expected.detach(), rtol=1e-3, atol=1e-4)
    assert all(network.attention.get_submodule(name).A.grad.abs().sum() > 0 for name in PROJECTIONS)


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_attention_keeps_weights_types_modes_and_hooks() -> None:
    network = Attends(dropout=0.3, batch_first=True).double().eval()
    network.attention.in_proj_weight.requires_grad_(requires_grad=False)
    seen = []
    network.attention.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    expected = network(x, x, x)
    del seen[:]
    report = convert(network, {"attention": Rule((2, 2), 4)}, keep_weights=True)
    assert len(report.swapped) == 4
    torch.testing.assert_close(network(x, x, x), expected)
    assert seen == [1]
    assert not network.attention.training
    assert not network.attention.q_proj.A.requires_grad
    assert network.attention.q_proj.bias.requires_grad
    assert network.attention.out_proj.A.requires_grad
    network.train()
    assert not torch.equal(network(x, x, x)[0], network(x, x, x)[0])  # dropout
    with pytest.raises(InputError, match="is_causal=True: it is a hint about attn_mask"):
        network(x, x, x, is_causal=True)


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_attention_stays_as_it_is_with_the_reason_where_it_cannot_be_opened() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:
            return x

    network = nn.ModuleDict({"linear": nn.Linear(8, 8), "own": Own(8, 2), "odd": nn.MultiheadAttention(9, 3)})
    network["tied"], network["twin"] = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)
    network["twin"].in_proj_weight = network["tied"].in_proj_weight
    report = convert(network, {"*": Rule((4, 4))})
    problems = {swap.name: swap.problem for swap in report.swaps if swap.problem}
    assert "a Own computes in a way of its own" in problems["own"]
    assert "4 rows do not divide out_features = 9" in problems["odd"]
    assert "its weight is shared with another layer" in problems["tied"]
    assert all(type(network[name]) is not Attention for name in problems if "." not in name)
    only = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    assert convert(only, {"*.out_proj": Rule((4, 4))}).swapped == ["attention.out_proj"]
    assert type(only["attention"].q_proj) is nn.Linear
    with pytest.raises(InputError, match="a MultiheadAttention alone has no name"):
        convert(nn.MultiheadAttention(8, 2), {"q": Rule((4, 4))})


@pytest.mark.filterwarnings("ignore:layer .* costs", "ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("method", ["kpd", "group-lasso"])
def test_an_encoder_with_block_sparse_attention_in_every_mode(method: str) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    network = nn.TransformerEncoder(layer, 2)
    rank = {"rank": 1} if method == "kpd" else {}
    sparsifier = Sparsifier(network, method, block=(4, 4), total_steps=1, **rank)
    sparsifier.step()
    sparsifier.finish()
    names = [*(f"self_attn.{name}" for name in PROJECTIONS), "linear1", "linear2"]
    assert list(block_layers(network)) == [f"layers.{i}.{name}" for i in (0, 1) for name in names]
    assert all(int(own.zero_blocks().sum()) * 2 == own.support.numel() for own in block_layers(network).values())
    x = torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([5, 2, 4])[:, None]
    expected = network.train()(x, src_key_padding_mask=padding)
    deployed = [deploy(network, x, form=form)[0] for form in ("dense", "block-rows")]
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    for own in (network.eval(), dense_twin(network), *deployed):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                got = own(x, src_key_padding_mask=padding)
                torch.testing.assert_close(got[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu"), torch.no_grad():
            torch.testing.assert_close(own(x), network(x).to(own(x).dtype), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("layer", [BTTLinear(16, 8, (4, 4), 2), BlockChoice(16, 8, [(4, 4), (2, 4)], 1)])
def test_sequences_of_different_lengths_and_lower_precision_pass_every_layer(layer: nn.Module) -> None:
    parts = [torch.randn(length, 16) for length in (3, 1, 5)]
    together = layer(torch.nested.as_nested_tensor(parts))
    for own, part in zip(together.unbind(), parts, strict=True):
        torch.testing.assert_close(own, layer(part), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(parts[0])
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(parts[0]), rtol=0.1, atol=0.05)


CONVOLUTIONS = {
    "patches": nn.Conv2d(4, 8, 4, stride=4),
    "patches with a margin": nn.Conv2d(4, 8, (2, 4), stride=(3, 4), padding=(1, 2), bias=False),
    "lenet": nn.Conv2d(4, 8, 5, padding=2),
    "strides, steps, mirrored": nn.Conv2d(4, 8, 3, stride=2, dilation=2, padding=2, padding_mode="reflect"),
    "same": nn.Conv2d(4, 8, 3, padding="same", padding_mode="circular"),
}


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_computes_what_torchs_own_does_with_the_kronecker_product(kind: str) -> None:
    network = nn.Sequential(copy.deepcopy(CONVOLUTIONS[kind]))
    plain = copy.deepcopy(network)
    block = (4, 4) if network[0].weight[0].numel() % 4 == 0 else (4, 2)
    assert convert(network, {"*": Rule(block, 2)}, convolutions=True).swapped == ["0"]
    layer = network[0].linear
    support = torch.rand(layer.grid) > 0.4
    layer.set_support(support)
    weight = sum(torch.kron(a, b) for a, b in zip(layer.scaled(), layer.B, strict=True)).detach()
    with torch.no_grad():
        plain[0].weight.copy_(weight.view_as(plain[0].weight))
        if plain[0].bias is not None:
            plain[0].bias.copy_(layer.bias)
    x = torch.randn(3, 4, 17, 18, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(network(x), plain(y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x[0]), plain(x[0]), rtol=1e-4, atol=1e-5)
    if kind == "lenet":
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), plain(y), rtol=1e-4, atol=1e-5)
    network(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    for form in ("dense", "block-rows", "factored"):
        twin, taken = deploy(network, x.detach(), form=form)
        assert taken == {"0.linear": form}
        torch.testing.assert_close(twin(x.detach()), plain(x).detach(), rtol=1e-4, atol=1e-5)
    rows = network(x)[:, 0].numel()
    used, size = int(support.sum()), block[0] * block[1]
    bias = 0 if layer.bias is None else 8
    assert inference_parameters(network) == min(used * size, 2 * (used + size)) + bias
    with FlopCounterMode(display=False) as counter:
        plain(x)
    assert counter.get_total_flops() == 2 * rows * weight.numel()
    assert inference_flops(network, x.detach()) < counter.get_total_flops()
    assert inference_flops(dense_twin(network), x.detach()) == counter.get_total_flops()


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_convolutions_are_taken_where_asked_and_named_where_not() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return x

    network = nn.Sequential(nn.Conv2d(4, 8, 2), nn.Conv2d(8, 8, 2, groups=2), Own(4, 8, 2), nn.Conv1d(4, 8, 2))
    with pytest.raises(InputError, match="layer '0': a convolution; convolutions=True takes it too"):
        convert(network, {"*": Rule((2, 2))})
    seen = []
    network[0].register_forward_hook(lambda *_: seen.append(1))
    network.eval()
    report = convert(network, {"*": Rule((2, 2))}, convolutions=True)
    assert report.swapped == ["0"]
    assert [swap.problem for swap in report.swaps[1:]] == [
        "a convolution in 2 groups is as many maps, not one",
        "a Own computes in a way of its own",
        "a Conv1d is no linear layer",
    ]
    assert not network[0].linear.training
    with pytest.raises(InputError, match="the second dimension must be 4"):
        network[0](torch.randn(2, 3, 5, 5))
    network[0](torch.randn(2, 4, 5, 5))
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("method", SPARSE)
def test_every_method_trains_a_convolution(method: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2), nn.Flatten(), nn.Linear(32, 4))
    blocks = {"blocks": [(2, 3), (4, 3)]} if method == "kpd-choice" else {"block": (2, 1)}
    more = {"layers": "[02]", "convolutions": True, "sparsity": 0.5} | blocks
    more["layers"] = "0" if method == "kpd-choice" else "[02]"
    sparsifier = Sparsifier(network, method, total_steps=20, keep_weights=False, **more)
    optimizer = torch.optim.Adam(sparsifier.parameter_groups(), lr=0.01)
    x, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
        sparsifier.step(optimizer)
    sparsifier.finish()
    layers = block_layers(network)
    assert list(layers) == (["0.linear"] if method == "kpd-choice" else ["0.linear", "2.linear"])
    for layer in layers.values():
        assert int(layer.zero_blocks().sum()) == layer.support.numel() // 2
    twin, _ = deploy(network, x)
    torch.testing.assert_close(twin(x), network.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_files_hold_attention_and_convolutions(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 16, 4, stride=4)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.attention(x, x, x)[0]

    network = Both()
    sparsifier = Sparsifier(network, block=(4, 4), rank=1, total_steps=1, convolutions=True, layers="*")
    assert sparsifier.report.swapped == ["patch", *(f"attention.{name}" for name in PROJECTIONS)]
    sparsifier.step()
    sparsifier.finish()
    x = torch.randn(2, 1, 8, 8)
    save(network, tmp_path / "both.safetensors")
    again = load(tmp_path / "both.safetensors", Both)
    assert isinstance(again.patch, PatchConv2d)
    assert isinstance(again.attention.v_proj, KPDLinear)
    torch.testing.assert_close(again(x), network.eval()(x), rtol=1e-5, atol=1e-6)
    twin, taken = deploy(network, x)
    assert taken.keys() == {"patch.linear", *(f"attention.{name}" for name in PROJECTIONS)}
    torch.testing.assert_close(twin(x), network(x), rtol=1e-4, atol=1e-5)
    for form in ("dense", "block-rows", "factored"):
        deploy(network, x, form=form).save(tmp_path / "deployed.safetensors")
        deployed = load(tmp_path / "deployed.safetensors", Both)
        torch.testing.assert_close(deployed(x), network(x), rtol=1e-4, atol=1e-5)
