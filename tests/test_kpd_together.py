"""KPD layers that are computed together in training, beside the same layers one by one through dense products."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Rule, Sparsifier, activation, convert, deploy, functional
from pipeline.kpd.blocks import block_layers
from pipeline.kpd.layer import observe_inputs
from pipeline.kpd.networks import build

pytestmark = pytest.mark.filterwarnings("ignore:layer .* costs")

close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)


class Block(nn.Module):
    """Attention and feed-forward parts in every holder whose layers may go together."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        act = {"gelu": nn.GELU(), "relu": nn.ReLU()}[activation]
        sizes = (32, 2, 48, 0.0, activation)
        self.encoder = nn.TransformerEncoderLayer(*sizes, norm_first=True)
        self.decoder = nn.TransformerDecoderLayer(*sizes, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 48, bias=False), act, nn.Dropout(0.0), nn.Linear(48, 32), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.mlp(x), self.encoder(x))
        return y


def pair(activation: str = "gelu", rank: int = 2, block: tuple[int, int] = (4, 8)) -> tuple[nn.Module, nn.Module]:
    """A network that computes layers together, and the same one that makes W of each and multiplies."""
    torch.manual_seed(0)
    network = Block(activation)
    convert(network, {"*": Rule(block, rank)}, path="fused")
    for layer in block_layers(network).values():
        layer.set_support(torch.rand(layer.grid) > 0.3)
    plain = copy.deepcopy(network)
    for layer in block_layers(plain).values():
        layer.path = "dense"
    return network, plain


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """The KPD layers that are called."""
    layers: list[nn.Module] = []
    forward = KPDLinear.forward

    def recorded(own: KPDLinear, x: Tensor) -> Tensor:
        layers.append(own)
        return forward(own, x)

    # the function itself tells whether a subclass computes in a way of its own
    monkeypatch.setattr(KPDLinear, "forward", recorded)
    yield layers


def gradients(network: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    own = [x, *network.parameters()]
    return [g for g in torch.autograd.grad((network(x) * dy).sum(), own, allow_unused=True) if g is not None]


@pytest.mark.parametrize(
    ("activation", "rank", "block"), [("gelu", 2, (4, 8)), ("relu", 1, (16, 16)), ("gelu", 3, (1, 2))]
)
def test_layers_that_go_together_have_the_outputs_and_gradients_of_the_dense_products(
    activation: str, rank: int, block: tuple[int, int], called: list[nn.Module]
) -> None:
    network, plain = pair(activation, rank, block)
    x, dy = torch.randn(3, 35, 32, requires_grad=True), torch.randn(3, 35, 32)
    got = gradients(network, x, dy)
    # attention's projections out, and those of queries alone in the decoder's second attention, which has two inputs
    assert len(called) == 2 + 1 + 3
    expected = gradients(plain, x, dy)
    close(network(x), plain(x))
    assert len(got) == len(expected)
    for own, true in zip(got, expected, strict=True):
        scale = float(true.abs().max()) + 1e-2  # what a bias adds to all keys alike changes nothing
        torch.testing.assert_close(own / scale, true / scale, rtol=1e-3, atol=3e-5)


def test_layers_that_go_together_are_differentiated_twice_in_batches_and_from_checkpoints() -> None:
    network, plain = pair()
    x, dys = torch.randn(2, 3, 32, requires_grad=True), torch.randn(4, 2, 3, 32)
    seconds = []
    for own in (network, plain):
        parameters = [x, *(p for p in own.parameters() if p.requires_grad)]
        with sdpa_kernel(SDPBackend.MATH):  # torch's others have no second derivatives
            first = torch.autograd.grad(own(x).square().sum(), parameters, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), x)[0])
    torch.testing.assert_close(*seconds, rtol=1e-3, atol=1e-3 * float(seconds[1].abs().max()))
    batched = [torch.autograd.grad(own(x), x, dys, is_grads_batched=True)[0] for own in (network, plain)]
    close(*batched)
    for own in (network, plain):
        own.zero_grad()
        checkpoint(own, x, use_reentrant=False).square().sum().backward()
    for left, right in zip(network.parameters(), plain.parameters(), strict=True):
        close(left.grad, right.grad)
    close(*(torch.func.vmap(own)(x.detach()[:, :, None]) for own in (network, plain)))
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(plain, (x.detach(),), (dys[0],))[1]
        close(torch.func.jvp(network, (x.detach(),), (dys[0],))[1], expected)
        with forward_ad.dual_level():
            close(forward_ad.unpack_dual(network(forward_ad.make_dual(x.detach(), dys[0]))).tangent, expected)


def test_whoever_watches_a_layer_sees_it_called_and_counted(called: list[nn.Module]) -> None:
    network, _ = pair()
    x = torch.randn(2, 3, 32)
    layers = list(block_layers(network).values())
    with FlopCounterMode(display=False) as counter:
        network(x)
    assert set(called) == set(layers)
    assert counter.get_flop_counts()["Global"][torch.ops.kronflow.kpd] > 0
    called.clear()
    seen: list[nn.Module] = []
    handles = [layer.register_forward_hook(lambda own, _, __: seen.append(own)) for layer in layers]
    network(x)
    assert set(called) == set(seen) == set(layers)
    for handle in handles:
        handle.remove()
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        called.clear()
        handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *_: None)
        network(x)
        handle.remove()
        assert set(called) == set(layers)
    called.clear()
    for layer in layers:
        observe_inputs(layer)
    network(x)
    assert set(called) == set(layers)
    assert all(bool((layer.input_squares > 0).any()) for layer in layers)
    called.clear()
    network.eval()(x)
    assert set(called) < set(layers)


def test_a_network_joined_in_training_is_the_kind_it_was() -> None:
    network, _ = pair()
    shown, names = repr(network), {type(own).__name__ for own in Block("gelu").modules()}
    assert isinstance(network.mlp, nn.Sequential)
    assert isinstance(network.encoder, nn.TransformerEncoderLayer)
    assert names - {"NonDynamicallyQuantizableLinear", "Linear", "MultiheadAttention"} <= {
        own._get_name() for own in network.modules()
    }
    assert "_Encoder" not in shown
    assert isinstance(network.mlp[:2], nn.Sequential)


@pytest.mark.parametrize("method", ["kpd", "kpd-choice", "magnitude", "btt"])
def test_layers_and_their_holders_are_traced_by_fx_as_torchs_own_are(method: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 32, 3), nn.Flatten(2), Block("gelu"), nn.Linear(36, 8))
    network[2].register_forward_pre_hook(lambda _, given: (given[0].transpose(1, 2),))
    network[2].register_forward_hook(lambda _, __, y: y.transpose(1, 2))
    block = {"blocks": [(4, 4), (2, 2)]} if method == "kpd-choice" else {"block": (4, 4) if method != "btt" else (4, 2)}
    score = {} if method == "btt" else {"score": "output"}  # whose hook sees what is traced, too
    Sparsifier(network, method, **block, **score, convolutions=True, total_steps=9)
    x = torch.randn(3, 2, 8, 8)
    traced = torch.fx.symbolic_trace(network)
    kinds = {type(traced.get_submodule(node.target)) for node in traced.graph.nodes if node.op == "call_module"}
    assert type(network[2].encoder) in kinds
    close(traced(x), network(x))
    grown = [torch.autograd.grad(own(x).square().sum(), list(network.parameters())) for own in (traced, network)]
    for left, right in zip(*grown, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()) + 1e-6)
    again = copy.deepcopy(network[2].decoder)  # by what pickle would write
    assert type(again) is type(network[2].decoder)


def test_attention_is_traced_by_fx_with_its_arguments_and_a_layer_alone_is_not() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            y, weights = self.attention(x, x, x, key_padding_mask=padding, average_attn_weights=False)
            return y.sum() + weights.square().sum()

    network = Masked()
    convert(network, {"*": Rule((4, 4))})
    x, padding = torch.randn(5, 3, 16), torch.arange(5).expand(3, 5) > 2
    close(torch.fx.symbolic_trace(network)(x, padding), network(x, padding))
    with pytest.raises(InputError, match=r"put it into a torch.nn.Sequential"):
        torch.fx.symbolic_trace(network.attention.q_proj)


def test_a_layer_that_stands_in_two_places_has_the_gradients_of_both() -> None:
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    network.append(network[0])
    convert(network, {"*": Rule((4, 4))}, path="fused")
    plain = copy.deepcopy(network)
    plain[0].path = "dense"
    x, seconds = torch.randn(5, 16, requires_grad=True), []
    for own in (network, plain):
        first = torch.autograd.grad(own(x).square().sum(), [x, *own.parameters()], create_graph=True)
        again = torch.autograd.grad(own(x).square().sum(), [x, *own.parameters()])
        seconds.append([*first, *again, *torch.autograd.grad(sum(g.square().sum() for g in first), own.parameters())])
    for left, right in zip(*seconds, strict=True):
        scale = float(right.detach().abs().max())
        torch.testing.assert_close(left / scale, right / scale, rtol=1e-3, atol=1e-4)


class Mlp(nn.Module):
    """What timm's has, where timm is not installed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.drop1, self.norm, self.drop2 = nn.Dropout(0.0), nn.Identity(), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))
        return y


Mlp.__module__ = "timm.layers.mlp"


@pytest.mark.parametrize("is_real", [True, False])
def test_timms_feed_forward_part_goes_together_in_training_deployed_and_from_a_pickle(
    is_real: bool, called: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_real:
        if importlib.util.find_spec("timm") is None:
            pytest.skip("the extra 'vit' is not installed")
        build("vit-tiny", (32, 32, 3), 10)  # which makes timm importable beside any build of torchvision
        network = nn.Sequential(importlib.import_module("timm.layers.mlp").Mlp(16, 32))
    else:
        for name in ("timm", "timm.layers", "timm.layers.mlp"):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(Mlp=Mlp))
        network = nn.Sequential(Mlp(16, 32))
    convert(network, {"*": Rule((4, 4))}, path="fused")
    plain = copy.deepcopy(network)
    for layer in block_layers(plain).values():
        layer.path = "dense"
    x = torch.randn(40, 16, requires_grad=True)
    expected = gradients(plain, x, torch.ones(40, 16))
    del called[:]
    for own in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):  # noqa: S301  # our own
        for got, true in zip(gradients(own, x, torch.ones(40, 16)), expected, strict=True):
            close(got, true)
    deployed = deploy(network, x.detach(), form="factored").network
    with torch.no_grad():
        for own in (deployed, pickle.loads(pickle.dumps(deployed))):  # noqa: S301
            close(own(x), plain.eval()(x))
    assert called == [layer for _ in range(2) for layer in block_layers(plain).values()]
    assert type(network[0]).__name__ == "Mlp"


def test_a_first_call_that_measures_may_be_checkpointed(
    called: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "_measured", {})
    monkeypatch.setattr(functional, "WORTH_MEASURING", 0)
    measured: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        functional, "measure", lambda x, *_: (measured.append(tuple(x.shape)), {"fused": 1.0, "dense": 2.0})[1]
    )
    network = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
    convert(network, {"*": Rule((2, 2))})
    x = torch.ones(5, 8, requires_grad=True)
    checkpoint(network, x, use_reentrant=False).sum().backward()
    assert called == []
    assert measured == [(5, 8), (5, 12)]
    close(x.grad, torch.autograd.grad(network(x).sum(), x)[0])


def test_gelu_and_its_slope_are_exact_to_single_precision() -> None:
    v = np.concatenate([np.linspace(-14, 14, 40_001), [-1e30, 1e30, 0.0, -1e-40, 1e-40]]).astype(np.float32)
    values, slopes = v.copy(), np.empty_like(v)
    activation.gelu_and_slope(values, slopes)
    x = torch.from_numpy(v).double().requires_grad_()
    y = nn.functional.gelu(x)
    (expected,) = torch.autograd.grad(y.sum(), x)
    x, y = x.detach(), y.detach()
    assert float(((torch.from_numpy(values) - y).abs() / x.abs().clamp_min(1e-9)).max()) < 2e-7
    assert float((torch.from_numpy(slopes) - expected).abs().max()) < 4e-7
    values, slopes = np.array([np.nan, -1.0, 0.0, 2.0], dtype=np.float32), np.empty(4, dtype=np.float32)
    activation.relu_and_slope(values, slopes)
    assert slopes[1:].tolist() == [0.0, 0.0, 1.0]
    assert np.isnan(values[0])
    assert values[1:].tolist() == [0.0, 0.0, 2.0]
