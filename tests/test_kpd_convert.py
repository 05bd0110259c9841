"""Swapping layers, counting what that costs, and the networks it is done to."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Rule, Sparsifier, convert, plan
from pipeline.kpd.blocks import BlockLinear, block_layers
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.choice import BlockChoice
from pipeline.kpd.cost import inference_flops, inference_parameters, measured_costs, sparse_flops, training_flops
from pipeline.kpd.data import labelled_images
from pipeline.kpd.deployment import deploy
from pipeline.kpd.inference import dense_twin
from pipeline.kpd.networks import build
from pipeline.kpd.sparsity_methods import SPARSITY_METHODS, make, target_count
from pipeline.kpd.trainer import Trainer

ZEROING = [name for name, method in SPARSITY_METHODS.items() if "block_sparsity" in method.declared]


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3)))


def test_first_rule_that_matches_decides_and_the_report_says_what_happened() -> None:
    network = small()
    report = convert(network, {"0": Rule((4, 4)), "2.*": Rule((2, 2), rank=1)})
    assert report.swapped == ["0", "2.0"]
    assert (network[0].block, network[2][0].block) == ((4, 4), (2, 2))
    assert type(network[2][1]) is nn.Linear
    assert "2 rows do not divide out_features = 3" in report.swaps[2].problem
    first = report.swaps[0]
    assert (first.parameters, first.dense_parameters) == (4 + 4 + 16 + 8, 72)
    assert first.predicted_cost == 1 / 2 + 1 / 4
    text = str(report)
    assert "left dense: block (2, 2)" in text
    assert "0.444 of dense" in text


def test_none_leaves_a_layer_and_other_kinds_are_not_touched() -> None:
    network = small()
    network.append(BlockLinear(4, 4, (2, 2)))
    assert convert(network, {"0": None, "*": Rule((2, 2))}).swapped == ["2.0"]
    assert type(network[0]) is nn.Linear
    assert isinstance(network[3], BlockLinear)


def test_a_layer_that_costs_more_than_dense_is_warned_about() -> None:
    network = nn.Sequential(nn.Linear(16, 16))
    with pytest.warns(UserWarning, match="layer '0' costs 2.00 times its dense twin"):
        report = convert(network, {"*": Rule((4, 4), rank=4)})
    assert "more than dense" in str(report)
    with FlopCounterMode(display=False) as counter:
        KPDLinear(16, 16, (4, 4), 4, path="inner")(torch.ones(10, 16))
    assert counter.get_total_flops() == report.swaps[0].predicted_cost * 2 * 10 * 16 * 16


def test_nothing_to_swap_is_an_error_with_the_reasons() -> None:
    with pytest.raises(InputError, match=r"layer '0': block \(3, 3\): 3 rows do not divide"):
        convert(nn.Sequential(nn.Linear(4, 4)), {"*": Rule((3, 3))})
    with pytest.raises(InputError, match="no linear layer has a name like head"):
        convert(small(), {"head": Rule((2, 2))})


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_a_layer_in_two_places_stays_one() -> None:
    shared = nn.Linear(8, 8)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    assert convert(network, {"*": Rule((4, 4))}).swapped == ["0"]
    assert isinstance(network[0], KPDLinear)
    assert network[2] is network[0]


def test_a_weight_shared_with_another_layer_stays_and_is_reported() -> None:
    network = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8), nn.Linear(8, 8))
    network[1].weight = network[0].weight
    report = convert(network, {"*": Rule((2, 2))})
    assert report.swapped == ["2"]
    assert "its weight is shared with another layer" in str(report)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"*": (2, 2)}, r"rule for '\*': \(2, 2\) is no Rule"),
        ({0: Rule((2, 2))}, "0 is no pattern of names; give '0'"),
        (Rule((2, 2)), "a Rule is no mapping"),
        ({"0": Rule((2, 2)), "2": Rule((2, 2), rank=0)}, "rank 0: needs a whole number of terms"),
        ({"0": Rule((2, 2)), "2": Rule((2, 2), 5, "group")}, "at most 4 orthonormal terms"),
        ({"*": Rule((2, 2))}, "layer '2': its weight is not finite"),
    ],
)
def test_what_cannot_be_converted_leaves_the_network_as_it_was(rules: object, words: str) -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with torch.no_grad():
        network[2].weight[1, 2] = math.inf
    with pytest.raises(InputError, match=words):
        convert(network, rules, keep_weights="finite" in words)
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear]
    with pytest.raises(InputError, match="8 -> 8 is not finite"):
        plan(network, error=0.5)


def test_a_linear_layer_alone_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"use KPDLinear\.from_linear"):
        convert(nn.Linear(8, 8), {"*": Rule((4, 4))})


def test_weights_can_be_kept() -> None:
    network = small()
    x = torch.randn(5, 8)
    expected = network(x)
    convert(network, {"0": Rule((2, 2), rank=4), "2.0": Rule((2, 2), rank=4, variant="group")}, keep_weights=True)
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-4)


def test_training_flops_are_torchs_own() -> None:
    network = nn.Sequential(nn.Flatten(), KPDLinear(32, 8, (4, 4), 2, path="inner"), nn.ReLU(), nn.Linear(8, 4))
    x, labels = torch.randn(6, 32), torch.zeros(6, dtype=torch.long)
    inner = 2 * 6 * 2 * 4 * 8 * (2 + 4)  # N r m2 n1 (m1 + n2)
    gradients = 2 * 6 * 2 * 4 * 8 * (4 + 2 + 2 + 4)  # made again; S * A, B x and B; the input's is not needed
    last = 3 * 2 * 6 * 8 * 4
    assert training_flops(network, x, labels) == inner + gradients + last


def test_measured_costs_are_of_every_layer_and_leave_the_network_alone() -> None:
    network = nn.Sequential(KPDLinear(16, 8, (4, 4)), nn.ReLU(), BlockLinear(8, 4, (2, 2)))
    before = copy.deepcopy(network.state_dict())
    costs = measured_costs(network, torch.randn(6, 16), repeats=1)
    assert list(costs) == ["0", "2"]
    assert all(own > 0 and dense > 0 for own, dense in costs.values())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network[0].A.grad is None


def test_inference_counts_skip_zero_blocks() -> None:
    network = nn.Sequential(nn.Flatten(), KPDLinear(32, 8, (4, 4), 1), nn.ReLU(), BlockLinear(8, 4, (2, 2)))
    x = torch.randn(6, 32)
    first, second = network[1], network[3]
    support = torch.zeros(2, 8, dtype=torch.bool)
    support[0, :3] = True
    first.set_support(support)
    second.set_support(torch.tensor([[True, False, False, False], [False, True, True, False]]))
    # factored: 3 columns of blocks through B, then 3 blocks; as blocks it would be 3 * 16
    assert sparse_flops(first, 6) == 2 * 6 * min(3 * 16, 3 * 16 + 3 * 4)
    assert sparse_flops(second, 6) == 2 * 6 * 3 * 4
    assert inference_flops(network, x) == 2 * 6 * (48 + 12)
    assert inference_flops(dense_twin(network), x) == 2 * 6 * (32 * 8 + 8 * 4)
    assert inference_parameters(network) == (3 + 16) + 8 + 3 * 4 + 4
    assert sparse_flops(KPDLinear(32, 8, (4, 4), 1), 6) == 2 * 6 * (8 * 16 + 16 * 4)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32, 3)])
def test_lenet_takes_small_and_coloured_images(shape: tuple[int, ...]) -> None:
    network = build("lenet5", shape, 10)
    assert network(torch.rand(2, *shape)).shape == (2, 10)
    if shape == (28, 28):
        assert sum(p.numel() for p in network.parameters()) == 61706


def test_the_wide_network_has_two_hidden_layers_of_1024() -> None:
    network = build("mlp", (8, 8), 10)
    sizes = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
    assert sizes == [(64, 1024), (1024, 1024), (1024, 10)]
    assert network(torch.rand(2, 8, 8)).shape == (2, 10)


def test_networks_refuse_what_they_cannot_take() -> None:
    with pytest.raises(InputError, match="needs rows and columns"):
        build("lenet5", (64,), 10)


needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="the extra 'vit' is not installed")


@needs_timm
@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize(
    ("block", "rank", "count"), [((4, 4), 1, 882_836), ((4, 4), 4, 1_884_116), ((8, 8), 4, 662_308)]
)
def test_vit_tiny_has_the_true_number_of_parameters(block: tuple[int, int], rank: int, count: int) -> None:
    network = build("vit-tiny", (32, 32, 3), 100)
    report = convert(network, {"*": Rule(block, rank)})
    assert sum(p.numel() for p in network.parameters()) == count
    assert len(report.swaps) == 50  # the convolution that makes patches is named too
    assert len(report.swapped) == (49 if block == (4, 4) else 48)  # 8 does not divide 100 classes


@needs_timm
@pytest.mark.parametrize("name", ["vit-tiny", "vit-base", "swin-tiny"])
def test_recipe_of_a_transformer_runs_a_step(root: Path, name: str) -> None:
    runs = load_config(root / "params.yaml").runs("cifar")
    settings = {run.method: run.settings for run in runs if run.settings["network"] == name}
    assert set(settings) >= {"dense", "kpd"}
    random = np.random.default_rng(0)
    data = labelled_images(random.uniform(0, 1, (10, 32, 32, 3)), np.arange(10), seed=0)
    method = make("kpd", dict(settings["kpd"]))
    trainer = Trainer(method, data)
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.loss(trainer.images[:2], trainer.labels[:2]).backward()
    trainer.optimizer.step()
    method.after_step(1.0)
    layers = block_layers(trainer.network).values()
    assert len(layers) > 40
    for layer in layers:
        assert int(layer.zero_blocks().sum()) == target_count(method.block_sparsity, layer.support.numel())
    assert any(not torch.equal(before[key], value) for key, value in trainer.network.state_dict().items())


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[vit\]' in Kronflow's folder"):
        build("vit-tiny", (32, 32, 3), 100)


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("name", ZEROING)
def test_a_trained_model_is_kept(name: str) -> None:
    torch.manual_seed(0)
    network = small().double().eval()
    network[0].requires_grad_(requires_grad=False)
    seen = []
    network[2][0].register_forward_hook(lambda *_: seen.append(1))
    before = [network[0].weight.clone(), network[2][0].weight.clone()]
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = network(x)
    more = {"blocks": [(2, 2), (1, 2)]} if name == "kpd-choice" else {"block": (2, 2)}
    exact = {"rank": 2 if name == "kpd-choice" else 4} if name.startswith("kpd") else {}
    sparsifier = Sparsifier(network, name, sparsity=0.0, total_steps=9, **more, **exact)
    swapped = sparsifier.report.swapped
    assert swapped == ["0", "2.0"]
    del seen[:]
    got = network(x)
    assert seen == [1]
    assert got.dtype == torch.float64
    assert not network[0].training
    assert not any(p.requires_grad for p in network[0].parameters())
    assert all(p.requires_grad for p in network[2][0].parameters())
    errors = [swap.fit_error for swap in sparsifier.report.swaps if swap.problem is None]
    if name == "kpd-choice":
        assert all(0 <= error < 1 for error in errors)
    else:
        torch.testing.assert_close(got, expected)
        assert max(errors) < 1e-12
        for index, layer in enumerate((network[0], network[2][0])):
            torch.testing.assert_close(layer.weight.detach(), before[index])


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_the_error_of_the_fit_is_that_of_the_truncated_svd() -> None:
    network = small()
    weight = network[0].weight.detach().numpy().copy()
    report = convert(network, {"0": Rule((2, 4), 2)}, keep_weights=True)
    rearranged = weight.reshape(4, 2, 2, 4).transpose(0, 2, 1, 3).reshape(8, 8)
    s = np.linalg.svd(rearranged, compute_uv=False)
    assert report.swaps[0].fit_error == pytest.approx(np.sqrt((s[2:] ** 2).sum() / (s**2).sum()), rel=1e-5)
    assert "error of the weights kept" in str(report)


@pytest.mark.filterwarnings("ignore:layer .* costs")
def test_layers_converted_before_are_taken_as_they_are() -> None:
    network = small()
    convert(network, {"0": Rule((4, 4), 2)}, keep_weights=True)
    before = network[0].weight.detach()
    sparsifier = Sparsifier(network, "kpd", sparsity=0.5, total_steps=1)
    torch.testing.assert_close(network[0].weight.detach(), before)
    assert list(block_layers(network)) == ["0"]
    sparsifier.step()
    sparsifier.finish()
    assert int(network[0].zero_blocks().sum()) == 2


def loop(name: str, stop: int | None = None, taken_up: dict | None = None) -> tuple:
    """Ten-line training of one's own; stops after `stop` steps or goes on from a state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    more = {"blocks": [(2, 2), (4, 4)]} if name == "kpd-choice" else {"block": (2, 2)} if name != "dense" else {}
    more |= {"interval": 5} if name.endswith("rigl") else {}
    share = {"sparsity": 0.5} if name in ZEROING else {}
    sparsifier = Sparsifier(model, name, total_steps=40, **share, **more)
    optimizer = torch.optim.AdamW(sparsifier.parameter_groups(), lr=0.02)
    if taken_up is not None:
        sparsifier.load_state_dict(taken_up["sparsifier"])
        model.load_state_dict(taken_up["model"])
        optimizer.load_state_dict(taken_up["optimizer"])
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    while sparsifier.steps < (stop or 40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :4].argmax(dim=1)).backward()
        optimizer.step()
        sparsifier.step(optimizer)
    state = {"sparsifier": sparsifier.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return model, sparsifier, copy.deepcopy(state)


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("name", SPARSITY_METHODS)
def test_any_loop_reaches_the_sparsity_and_resumes(name: str) -> None:
    model, sparsifier, _ = loop(name)
    sparsifier.finish()
    layers = block_layers(model).values()
    assert len(layers) == (2 if name in ZEROING else 0)
    for layer in layers:
        assert int(layer.zero_blocks().sum()) == target_count(0.5, layer.support.numel())
    again, resumed, _ = loop(name, taken_up=loop(name, stop=12)[2])
    resumed.finish()
    for own, true in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(own, true)


def test_the_dense_twin_teaches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Dropout(0.5))
    x = torch.randn(64, 8)
    dense = copy.deepcopy(model).eval()(x).detach()
    sparsifier = Sparsifier(model, "kpd", block=(2, 2), rank=1, sparsity=0.5, layers="0", total_steps=200, distil=True)
    torch.testing.assert_close(sparsifier.teacher(x), dense)  # without dropout
    assert not any(p.requires_grad for p in sparsifier.teacher.parameters())
    outputs = torch.randn(64, 4)
    p, q = (dense / 3).softmax(dim=1), (outputs / 3).softmax(dim=1)
    by_hand = 9 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(sparsifier.distillation(outputs, x, 3.0), by_hand)
    torch.testing.assert_close(sparsifier.distillation(dense, x), torch.zeros(()), atol=1e-6, rtol=0)
    model.eval()
    before = float(sparsifier.distillation(model(x), x).detach())
    optimizer = torch.optim.Adam(sparsifier.parameter_groups(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        sparsifier.distillation(model(x), x).backward()
        optimizer.step()
        sparsifier.step(optimizer)
    sparsifier.finish()
    assert float(sparsifier.distillation(model(x), x).detach()) < before / 3
    held = type("Output", (), {"logits": outputs})
    for own in ({"logits": outputs}, (outputs, None), held):
        torch.testing.assert_close(sparsifier.distillation(own, x, 3.0), by_hand)
    torch.testing.assert_close(sparsifier.distillation(outputs[0], x[0]), sparsifier.distillation(outputs[:1], x[:1]))
    for temperature in (0, -1.0, math.nan):
        with pytest.raises(InputError, match="needs a number above 0"):
            sparsifier.distillation(outputs, x, temperature)
    with pytest.raises(InputError, match="a dict is no tensor of logits and holds none"):
        sparsifier.distillation({"loss": outputs}, x)
    with pytest.raises(InputError, match="no teacher: make the Sparsifier with distil=True"):
        Sparsifier(small(), block=(2, 2), total_steps=1).distillation(outputs, x)


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("name", [*ZEROING, "btt"])
def test_type_mode_hooks_and_what_is_fixed_outlast_training_and_deployment(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("after 0"))
    model[2].register_forward_pre_hook(lambda *_: seen.append("before 2"))
    more = {"blocks": [(2, 2), (4, 4)]} if name == "kpd-choice" else {"block": (2, 2)}
    sparsifier = Sparsifier(model, name, total_steps=3, **more)
    for _ in range(3):
        sparsifier.step()
    sparsifier.finish()
    x = torch.randn(3, 8, dtype=torch.float64)
    networks = [model, dense_twin(model)]
    networks += [deploy(model, x, form).network for form in ("dense", "block-rows")] if name in ZEROING else []
    for network in networks:
        seen.clear()
        torch.testing.assert_close(network(x), model(x))
        assert seen == 2 * ["after 0", "before 2"]
        assert not any(module.training for module in network.modules())
        assert all(own.dtype == torch.float64 for own in network.parameters())
        trained = {key for key, own in network.named_parameters() if own.requires_grad}
        assert not any(key.startswith("0.") or key == "2.bias" for key in trained)
        assert trained or not list(network.parameters())


@pytest.mark.parametrize("name", ["kpd", "rigl", "btt"])
def test_an_optimiser_of_parameters_that_were_swapped_away_is_refused(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, name, block=(2, 2), total_steps=3)
    with pytest.raises(InputError, match=r"the optimiser holds no parameter .* of sparsifier.parameter_groups\(\)"):
        sparsifier.step(optimizer)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"total_steps": 0}, "total_steps=0: needs the number of steps"),
        ({"total_steps": "10"}, "total_steps='10': needs"),
        ({"blok": (2, 2)}, "^blok: kpd has no such setting; did you mean 'block'"),
        ({"block": 4}, r"^block=4: needs rows and columns of a block, such as \[2, 4\]"),
        ({"method": "group-lasso", "rank": 1}, "rank: group-lasso has no such setting"),
        ({"method": make("kpd", {})}, "block: method 'kpd' is made already"),
        ({"method": ["kpd"]}, "is unknown"),
        ({"sparsity": 0.5, "block_sparsity": 0.3}, "block_sparsity: is given twice"),
        ({"keep_weights": "no"}, "keep_weights='no': needs True or False"),
        ({"distil": 0.5}, "distil=0.5: needs True or False"),
        ({"epochs": 3, "batch": 8}, "epochs, batch: the training loop's own"),
        ({"model": [nn.Linear(4, 4)]}, "model: a list is no torch.nn.Module"),
    ],
)
def test_a_sparsifier_refuses_what_cannot_be(given: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Sparsifier(**({"model": small(), "block": (2, 2), "total_steps": 5} | given))


def test_a_sparsifier_takes_numpys_numbers() -> None:
    given = {"block": np.array([2, 2]), "rank": np.int64(1), "sparsity": np.float32(0.5), "total_steps": np.int64(3)}
    assert Sparsifier(small(), **given).method.block == (2, 2)


@pytest.mark.parametrize("name", ["kpd", "magnitude"])
def test_a_batch_that_says_nothing_leaves_the_scores_by_outputs_as_they_are(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    sparsifier = Sparsifier(model, name, block=(2, 2), score="output", total_steps=5)
    for x in (torch.full((3, 4), 2.0), torch.ones(0, 4), torch.tensor([[1.0, math.nan, math.inf, 2.0]])):
        model(x)
    torch.testing.assert_close(model[0].input_squares, torch.tensor([0.24, 0.2, 0.2, 0.39]))
    for _ in range(5):  # as a loop does that leaves out what is not finite
        sparsifier.step()
    sparsifier.finish()
    assert int(model[0].zero_blocks().sum()) == 2


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("name", ["kpd", "group-lasso", "magnitude", "rigl"])
def test_lbfgs_without_a_line_search_trains_while_blocks_go(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    sparsifier = Sparsifier(model, name, block=(2, 2), total_steps=40)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=4)
    x = torch.randn(64, 16)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x[:, :8].argmax(dim=1))
        loss.backward()
        return loss

    for _ in range(40):
        optimizer.step(closure)
        sparsifier.step(optimizer)
    if name == "kpd":  # whose support is fixed: no number changed after the step
        assert optimizer.state[next(model.parameters())]["n_iter"] > 4
    sparsifier.finish()
    assert float(closure().detach()) < 0.1  # 1e14 with the curvature of weights that blocks were taken out of


def test_a_training_that_is_not_over_is_not_finished() -> None:
    sparsifier = Sparsifier(small(), block=(2, 2), total_steps=5)
    assert sparsifier.before_step() is sparsifier.before_step() is False
    sparsifier.step()
    assert sparsifier.steps == 1
    with pytest.raises(InputError, match="1 of total_steps=5 steps were taken: the zero blocks of method 'kpd'"):
        sparsifier.finish()


@pytest.mark.parametrize("name", ["kpd", "kpd-choice", "magnitude"])
def test_a_state_that_is_not_the_sparsifiers_own_is_refused(name: str) -> None:
    more = {"blocks": [(2, 2), (1, 2)]} if name == "kpd-choice" else {"block": (2, 2)}
    own = Sparsifier(small(), name, total_steps=5, **more).state_dict()
    method = own["method"]
    others = [
        {}, None, own | {"steps": -1}, own | {"steps": 1.5}, own | {"name": "rigl"}, own | {"method": {}},
        own | {"method": method | {"is_frozen": "yes"}}, own | {"method": method | {"left": ["9x9"]}},
        own | {"method": method | {"thresholds": [float("nan")] * 2}}, own | {"method": method | {"thresholds": [0.1]}},
    ]  # fmt: skip
    for other in others:
        sparsifier = Sparsifier(small(), name, total_steps=5, **more)
        with pytest.raises(InputError, match="the state does not fit this Sparsifier"):
            sparsifier.load_state_dict(other)
    with pytest.raises(InputError, match="the state is of a training of 5; give the same"):
        Sparsifier(small(), name, total_steps=6, **more).load_state_dict(own)


@pytest.mark.filterwarnings("ignore:layer .* costs")
@pytest.mark.parametrize("name", ["kpd", "kpd-choice", "group-lasso", "btt"])
def test_two_sparsifiers_share_a_model_layer_by_layer(name: str) -> None:
    more = {"blocks": [(2, 2), (1, 2)]} if name == "kpd-choice" else {"block": (2, 2)}
    model = small()
    first = Sparsifier(model, name, layers="0", total_steps=6, **more)
    with pytest.raises(InputError, match="layer '0': another Sparsifier works on it and has not finished"):
        Sparsifier(model, name, total_steps=6, **more)
    second = Sparsifier(
        model, name, layers="2.0", total_steps=4, **more, **({} if name == "btt" else {"sparsity": 0.25})
    )
    assert (first.report.swapped, second.report.swapped) == (["0"], ["2.0"])
    optimizer = torch.optim.SGD(first.parameter_groups(), lr=1e-3)
    for _ in range(8):
        model(torch.ones(2, 8)).square().sum().backward()
        optimizer.step()
        for sparsifier in (second, first):
            sparsifier.step(optimizer)
        if first.progress == 1:
            second.finish()  # and trained on
    first.finish()
    layers = block_layers(model)
    shares = {own: float(layer.zero_blocks().float().mean()) for own, layer in layers.items()}
    assert shares == ({} if name == "btt" else {"0": 0.5, "2.0": 0.25})
    if name != "kpd-choice":  # whose choice is made
        assert Sparsifier(model, name, layers="0", total_steps=2, **more).report.swapped == []


def test_the_readmes_loop_runs_as_it_stands(root: Path) -> None:
    blocks = (root / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = [block.partition("```")[0] for block in blocks if "Sparsifier(" in block]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    for layer in (names["model"][0], names["model"][2]):
        assert int(layer.zero_blocks().sum()) == layer.support.numel() // 2


class Scaled(nn.Linear):
    """A subclass that computes otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Named(nn.Linear):
    """A subclass that computes as its base does."""


class Conv1D(nn.Module):
    """A linear layer whose weight lies the other way round, as Hugging Face's GPT-2 has it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:layer .* costs")
def test_every_kind_of_layer_is_swapped_or_named() -> None:
    network = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 4),
            "named": Named(8, 4),
            "conv1d": Conv1D(4, 8),
            "scaled": Scaled(8, 4),
            "lazy": nn.LazyLinear(4),
            "pruned": prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5),
            "old_norm": torch.nn.utils.weight_norm(nn.Linear(8, 4)),
            "norm": torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
            "spectral": torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)),
            "old_spectral": torch.nn.utils.spectral_norm(nn.Linear(8, 4)),
            "attention": nn.MultiheadAttention(8, 2),
            "conv": nn.Conv2d(2, 4, 3),
            "lstm": nn.LSTM(8, 4),
            "bilinear": nn.Bilinear(4, 4, 4),
            "relu": nn.ReLU(),
        }
    )
    x = torch.randn(3, 8)
    expected = {name: network[name](x) for name in ("plain", "named", "conv1d")}
    report = convert(network, {"*": Rule((2, 2), 4)}, keep_weights=True)
    projections = [f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert report.swapped == [*expected, *projections]
    for name, value in expected.items():
        torch.testing.assert_close(network[name](x), value, rtol=1e-4, atol=1e-5)
    problems = {swap.name: swap.problem for swap in report.swaps if swap.problem is not None}
    words = {
        "scaled": "a Scaled computes in a way of its own",
        "lazy": "its sizes are not known yet; run a batch",
        **dict.fromkeys(("pruned", "old_norm", "norm", "spectral", "old_spectral"), "remove_parametrizations"),
        "conv": "a convolution; convolutions=True takes it too",
        "lstm": "a LSTM is no linear layer",
        "bilinear": "a Bilinear is no linear layer",
    }
    assert problems.keys() == words.keys()
    assert all(words[name] in problems[name] for name in words)
    assert all(f"{name} " in str(report) for name in words)


@pytest.mark.parametrize(
    "layer", [KPDLinear(8, 4, (2, 2)), BTTLinear(8, 4, (2, 2)), BlockChoice(8, 4, [(2, 2), (4, 4)], 1)]
)
def test_a_derived_weight_is_read_and_never_written_in_silence(layer: nn.Module) -> None:
    for write in (
        lambda weight: nn.init.kaiming_uniform_(weight),
        lambda weight: nn.init.zeros_(weight),
        lambda weight: weight.data.normal_(),
        lambda weight: weight.data.copy_(torch.zeros(4, 8)),
        lambda weight: weight.__setitem__((0, 0), 1.0),
        lambda weight: weight.__imul__(2.0),
        lambda weight: torch.add(weight, 1.0, out=weight),
        lambda weight: setattr(weight, "data", torch.zeros(4, 8)),
        lambda weight: weight.detach().zero_(),
        lambda weight: weight[0].zero_(),
        lambda weight: weight.T[3:].fill_(1.0),
        lambda weight: weight.chunk(2)[1].mul_(2.0),
    ):
        with pytest.raises(InputError, match=r"the weight is made of .* layer\.approximate"), torch.no_grad():
            write(layer.weight)
    for value in (torch.zeros(4, 8), nn.Parameter(torch.zeros(4, 8))):
        with pytest.raises(InputError, match="weight: the weight is made of"):
            layer.weight = value
    for read in (layer.weight * 1, layer.weight[[0, 2]], nn.functional.linear(torch.ones(2, 3, 8), layer.weight)):
        assert type(read) is torch.Tensor
    layer.zero_grad()
    layer.weight[1:].sum().backward()
    assert all(own.grad is not None for name, own in layer.named_parameters() if name != "bias")
