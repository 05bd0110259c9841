"""Settings of sparsity methods and the way they reach their target."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear, Sparsifier, deploy, load, save
from pipeline.kpd.blocks import BlockLinear, block_layers
from pipeline.kpd.data import erased, jittered, labelled_images, mixed, shifted, shifted_and_flipped
from pipeline.kpd.inference import FORMS, forms_of
from pipeline.kpd.layer import forget_inputs, observe_inputs
from pipeline.kpd.networks import build
from pipeline.kpd.ordering import learn_order
from pipeline.kpd.sparsity_methods import (
    KPD,
    SPARSITY_METHODS,
    Dense,
    by_rows,
    erk_targets,
    largest,
    make,
    move_blocks,
    move_rows,
    row_counts,
    target_count,
    wanted_count,
)
from pipeline.kpd.trainer import (
    Trainer,
    block_sparsity,
    dense_twin,
    fresh_network,
    inference_seconds,
    step_seconds,
    train,
)
from pipeline.runs.artifact import read_artifact, write_artifact
from pipeline.runs.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def blobs():
    """200 images of 4 x 4 whose class decides which quadrant is bright."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    images = random.uniform(0, 4, (200, 4, 4))
    for image, label in zip(images, labels, strict=True):
        row, column = 2 * (label // 2), 2 * (label % 2)
        image[row : row + 2, column : column + 2] += 6
    return labelled_images(images, labels, seed=3)


@settings(deadline=None)
@given(st.floats(0, 0.999), st.integers(1, 500))
def test_target_is_reached_to_the_nearest_block(share: float, blocks: int) -> None:
    count = target_count(share, blocks)
    assert 0 <= count < blocks
    assert count == blocks - 1 or abs(count - share * blocks) <= 0.5


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=12), st.data())
def test_largest_keeps_an_exact_number_even_of_ties(scores: list[float], data: st.DataObject) -> None:
    zeros = data.draw(st.integers(0, len(scores) - 1))
    keep = largest(torch.tensor(scores), zeros)
    assert int((~keep).sum()) == zeros
    kept, gone = torch.tensor(scores)[keep], torch.tensor(scores)[~keep]
    assert zeros == 0 or kept.min() >= gone.max()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_training_reaches_the_sparsity_with_exact_zeros(blobs, share: float) -> None:
    method = make("kpd", {"epochs": 8, "batch": 32, "block": [2, 2], "block_sparsity": share})
    trained = train(method, blobs, seed=1)
    (layer,) = [module for module in trained.network.modules() if isinstance(module, KPDLinear)]
    zeros = target_count(share, 16)
    assert int((layer.S == 0).sum()) == zeros
    assert trained.block_sparsity == zeros / 16 == block_sparsity(trained.network)
    assert trained.history[-1]["block_sparsity"] == zeros / 16
    weight = dense_twin(trained.network)[1].weight.view(2, 2, 8, 2).abs().amax(dim=(1, 3))
    assert int((weight == 0).sum()) == zeros
    if share <= 0.5:
        assert trained.test_accuracy > 0.9


def test_sparsity_never_passes_the_target_on_the_way(blobs) -> None:
    trained = train(make("kpd", {"epochs": 10, "batch": 16, "block_sparsity": 0.5}), blobs)
    course = [entry["block_sparsity"] for entry in trained.history]
    assert max(course) == 0.5
    assert course[0] == 0.0


def test_dense_method_learns_and_counts_no_blocks(blobs) -> None:
    trained = train(make("dense", {"epochs": 5, "batch": 16}), blobs)
    assert trained.test_accuracy > 0.9
    assert trained.block_sparsity == 0.0
    assert trained.validation_accuracy == max(entry["validation_accuracy"] for entry in trained.history)


def test_same_seed_same_network_other_seed_another(blobs) -> None:
    weights = [fresh_network(make("kpd", {}), blobs, seed)[0][1].A.detach() for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_decay_spares_selector_blocks_and_biases() -> None:
    network = nn.Sequential(nn.Linear(4, 4), KPDLinear(4, 2, (1, 2)))
    decayed, free = make("kpd", {"weight_decay": 0.5}).parameter_groups(network)
    assert decayed["weight_decay"] == 0.5
    assert {id(p) for p in decayed["params"]} == {id(network[0].weight), id(network[1].A)}
    assert free["weight_decay"] == 0.0
    assert len(free["params"]) == 4


def test_gauge_balances_selector_and_coefficients() -> None:
    layer = KPDLinear(4, 4, (2, 2), rank=2, dtype=torch.float64)
    with torch.no_grad():
        layer.S.copy_(torch.tensor([[5.0, -0.1], [0.0, 1.0]]))
    before = layer.weight.detach()
    layer.fix_gauge()
    torch.testing.assert_close(layer.weight, before)
    norms = before.view(2, 2, 2, 2).square().sum(dim=(1, 3)).sqrt()
    torch.testing.assert_close(layer.block_norms(), norms)
    torch.testing.assert_close(layer.S.detach().abs(), norms.sqrt())
    assert layer.S[0, 1] < 0


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("kdp", {}, "did you mean 'kpd'"),
        ("kpd", {"blok": [2, 2]}, "blok: kpd has no such setting; did you mean 'block'"),
        ("dense", {"block": [2, 2]}, "block: dense has no such setting"),
        ("kpd", {"block": [2]}, "block=.*rows and columns"),
        ("kpd", {"block": "22"}, "block=22"),
        ("kpd", {"block": 2}, "block=2: needs rows and columns"),
        ("kpd", {"rank": 1.5}, "rank=1.5"),
        ("kpd", {"block_sparsity": 1.0}, "block_sparsity=1.0"),
        ("dense", {"epochs": 0}, "epochs=0"),
        ("dense", {"lr": -1.0}, "lr=-1.0"),
        ("dense", {"lr": "fast"}, "lr=fast: needs a finite number above 0"),
        ("dense", {"augment": "shfit"}, "did you mean 'shift'"),
        ("dense", {"warmup": 1.0}, "warmup=1.0"),
        ("dense", {"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ("dense", {"mixup": -1}, "mixup=-1"),
        ("rigl", {"distribution": "erg"}, "did you mean 'erk'"),
        ("rigl", {"drop": 1.5}, "drop=1.5"),
        ("rigl", {"interval": 0}, "interval=0"),
        ("elastic-group-lasso", {"l2": -1}, "l2=-1"),
    ],
)
def test_wrong_settings_are_refused(name: str, values: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(name, values)


def test_unknown_network_is_refused(blobs) -> None:
    with pytest.raises(InputError, match="network=liner: is unknown; did you mean 'linear'"):
        make("dense", {"network": "liner"})
    with pytest.raises(InputError, match="network 'liner' is unknown; did you mean 'linear'"):
        build("liner", blobs.image_shape, blobs.classes)


def test_methods_are_named_as_their_classes_say() -> None:
    assert {name: method.name for name, method in SPARSITY_METHODS.items()} == {name: name for name in SPARSITY_METHODS}
    assert isinstance(KPD(), Dense)


def test_step_times_are_of_copies(blobs) -> None:
    network, _ = fresh_network(make("kpd", {}), blobs, 0)
    before = network[1].A.detach().clone()
    images, labels = torch.from_numpy(blobs.images[:8]), torch.from_numpy(blobs.labels[:8])
    own, dense = step_seconds([network, dense_twin(network)], images, labels, repeats=3)
    assert own > 0
    assert dense > 0
    assert torch.equal(network[1].A, before)


def test_inference_times_are_of_copies(blobs) -> None:
    network, _ = fresh_network(make("kpd", {}), blobs, 0)
    before = copy.deepcopy(network.state_dict())
    assert min(inference_seconds(network, torch.from_numpy(blobs.images[:8]), repeats=3)) > 0
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_published_test_part_is_kept_apart() -> None:
    published = np.zeros(50, dtype=bool)
    published[40:] = True
    data = labelled_images(np.ones((50, 2, 2)), np.arange(50) % 3, seed=0, published_test=published)
    assert data.test.tolist() == list(range(40, 50))
    assert len(data.validation) == 4
    assert sorted([*data.train, *data.validation, *data.test]) == list(range(50))
    other = labelled_images(np.ones((50, 2, 2)), np.arange(50) % 3, seed=1, published_test=published)
    assert other.test.tolist() == data.test.tolist()
    assert other.validation.tolist() != data.validation.tolist()


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.ones((3, 2)), np.zeros(2, dtype=int), "labels for 3 images"),
        (np.ones((3, 2)), np.array([0, -1, 1]), "counted from 0"),
        (np.zeros((30, 2)), np.zeros(30, dtype=int), "all values are zero"),
        (np.ones((3, 2)), np.zeros(3, dtype=int), "leave no"),
    ],
)
def test_wrong_images_are_refused(images: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        labelled_images(images, labels, seed=0)


SPARSE = [name for name, method in SPARSITY_METHODS.items() if "block_sparsity" in method.declared]


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_every_method_reaches_its_target_with_exact_zeros(blobs, name: str, share: float) -> None:
    settings = {"epochs": 8, "batch": 16, "block_sparsity": share}
    settings |= {"blocks": [[2, 2], [4, 4]]} if name == "kpd-choice" else {"block": [2, 2]}
    if name.endswith("rigl"):
        settings["interval"] = 5
    trained = train(make(name, settings), blobs, seed=1)
    (layer,) = block_layers(trained.network).values()
    (m1, n1), (m2, n2) = layer.grid, layer.block
    zeros = target_count(share, m1 * n1)
    assert trained.block_sparsity == zeros / (m1 * n1)
    weight = dense_twin(trained.network)[1].weight.view(m1, m2, n1, n2).abs().amax(dim=(1, 3))
    assert int((weight == 0).sum()) == zeros
    # two blocks a row are too few for srigl to tell four quadrants apart
    assert name in ("kpd-choice", "srigl") or trained.test_accuracy > (0.7 if share == 0.3 else 0.3)
    assert trained.report.swapped == ["1"]


def test_rigl_conserves_the_number_of_active_blocks_and_moves_them(blobs) -> None:
    method = make("rigl", {"epochs": 6, "batch": 16, "interval": 4, "block_sparsity": 0.5})
    trainer = Trainer(method, blobs, seed=0)
    layer = trainer.network[1]
    first = layer.support.clone()
    before_step = method.before_step
    seen = []

    def watched(*arguments) -> bool:
        old = layer.support.clone()
        taken = before_step(*arguments)
        seen.append((taken, int(layer.support.sum()), int((old != layer.support).sum())))
        return taken

    method.before_step = watched
    trainer.run()
    assert {active for _, active, _ in seen} == {8}
    moves = [changed for taken, _, changed in seen if taken]
    assert moves[0] == 2 * int(0.3 * 8 * 0.999)
    assert len(moves) == sum(1 for step in range(4, 55, 4) if step / 54 < 0.75)
    assert all(changed == 0 for taken, _, changed in seen if not taken)
    assert not torch.equal(first, layer.support)


def test_rigl_drops_the_weakest_and_grows_where_the_gradient_is_largest() -> None:
    layer = BlockLinear(4, 2, (1, 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]))
    layer.set_support(torch.tensor([[True, True], [False, False]]))
    # the first block's values cancel when pooled with their sign, its norm is the larger one
    layer.weight.grad = torch.tensor([[9.0, 9.0, 9.0, 9.0], [5.0, -5.0, 3.0, 3.0]])
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 4), "exp_avg_sq": torch.ones(2, 4)}
    move_blocks(layer, 0.5, state)
    assert layer.support.tolist() == [[True, False], [True, False]]
    assert layer.weight.tolist() == [[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert state["exp_avg"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert state["step"] == 3.0


def test_rigl_takes_up_no_block_that_would_stay_at_zero(blobs) -> None:
    images = blobs.images.copy()
    images[:, 2:] = 0.0  # as the border of MNIST: half of all inputs are always zero
    data = replace(blobs, images=images)
    for share in (0.1, 0.2, 0.5):
        trained = train(make("rigl", {"epochs": 6, "batch": 16, "block_sparsity": share, "interval": 5}), data)
        (layer,) = block_layers(trained.network).values()
        assert int(layer.zero_blocks().sum()) == target_count(share, layer.support.numel())


def test_networks_that_draw_numbers_are_reproducible_and_resumable(blobs, tmp_path, monkeypatch) -> None:
    def dropping(image_shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, classes))

    monkeypatch.setattr("pipeline.kpd.networks.linear", dropping)

    def method() -> Dense:
        return make("kpd", {"network": "linear", "epochs": 4, "batch": 32})

    before = torch.random.get_rng_state()
    whole = train(method(), blobs, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = Trainer(method(), blobs, seed=1)
    first.epoch()
    Checkpoint({"run": 1}, tmp_path, seconds=0).save(first.state_dict())
    torch.rand(7)
    resumed = train(method(), blobs, seed=1, state=Checkpoint({"run": 1}, tmp_path))
    for own, true in zip(resumed.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(own, true)


def test_erk_gives_small_layers_more_and_meets_the_whole() -> None:
    grids = [(2, 2), (30, 10), (50, 60)]
    zeros = erk_targets(grids, 0.8)
    assert zeros[0] == 0
    densities = [1 - z / (a * b) for z, (a, b) in zip(zeros, grids, strict=True)]
    assert densities[0] > densities[1] > densities[2]
    total = sum(a * b for a, b in grids)
    assert abs(sum(zeros) - 0.8 * total) <= 1.5


def test_group_lasso_step_is_the_group_soft_threshold() -> None:
    layer = BlockLinear(4, 2, (2, 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0, 0.1, 0.0], [0.0, 4.0, 0.0, 0.1]]))
    layer.shrink(1.0)
    expected = torch.tensor([[2.4, 0.0, 0.0, 0.0], [0.0, 3.2, 0.0, 0.0]])
    torch.testing.assert_close(layer.weight.detach(), expected)
    assert layer.zero_blocks().tolist() == [[False, True]]


def test_elastic_group_lasso_also_shrinks_everything() -> None:
    elastic, plain = make("elastic-group-lasso", {"l2": 0.5, "lr": 0.1}), make("group-lasso", {"lr": 0.1})
    weights = []
    for method in (elastic, plain):
        network = nn.Sequential(nn.Linear(4, 4))
        torch.nn.init.constant_(network[0].weight, 2.0)
        method.prepare(network)
        torch.nn.init.constant_(network[0].weight, 2.0)
        method.after_step(0.3)
        weights.append(network[0].weight.detach())
    torch.testing.assert_close(weights[0], weights[1] / 1.1)


@pytest.mark.parametrize(("method", "rank"), [("kpd", 1), ("kpd", 2), ("kpd-group", 2)])
def test_kernels_take_the_same_proximal_steps_as_torch(method: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped() -> tuple[dict, dict]:
        torch.manual_seed(0)
        network = nn.ModuleList([nn.Linear(24, 36), nn.Linear(24, 36), nn.Linear(12, 8)])
        sparsifier = Sparsifier(network, method, block=(4, 4), rank=rank, sparsity=0.7, total_steps=120)
        for _ in range(80):
            sparsifier.step()
        return network.state_dict(), sparsifier.state_dict()

    (own, state), (true, expected) = stepped(), monkeypatch.setattr(KPDLinear, "shrinks_fused", False) or stepped()
    assert state == expected
    assert all(torch.equal(own[name], true[name]) for name in true)
    scaled = own["0.S" if method == "kpd" else "0.A"]
    assert 0 < int((scaled == 0).sum()) < scaled.numel()


def test_a_copy_made_in_training_outlasts_the_end_of_training() -> None:
    network = nn.Sequential(nn.Linear(16, 8))
    sparsifier = Sparsifier(network, "kpd", block=(4, 4), total_steps=1)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    averaged.update_parameters(network)
    x = torch.randn(3, 16)
    expected = averaged(x)
    sparsifier.step()
    sparsifier.finish()
    torch.testing.assert_close(averaged(x), expected)
    assert "B" in dict(network[0].named_parameters())
    averaged.module[0].free_terms()
    torch.testing.assert_close(averaged(x), expected)


@settings(deadline=None)
@given(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_ramp_rises_from_nothing_to_the_target(target: int, early: float, late: float) -> None:
    early, late = min(early, late), max(early, late)
    assert 0 <= wanted_count(target, early) <= wanted_count(target, late) <= target
    assert wanted_count(target, 0.1) == 0
    assert wanted_count(target, 0.6) == target


@pytest.mark.parametrize("name", SPARSITY_METHODS)
def test_resumed_run_equals_an_uninterrupted_one(blobs, tmp_path, name: str) -> None:
    def method() -> Dense:
        more = {"rigl": {"interval": 7}, "kpd-choice": {"blocks": [[2, 2], [4, 4], [1, 2]]}}
        more |= {name: {"permutation": "learned"} for name in ("group-lasso", "magnitude")}
        return make(name, {"epochs": 7, "batch": 32, **more.get(name, {})})

    def facts(trained) -> list[tuple]:
        return [tuple(fact for key, fact in one.items() if not key.endswith("seconds")) for one in trained.history]

    whole = train(method(), blobs, seed=2)
    for stop in (2, 5):
        checkpoint = Checkpoint({"run": name, "stop": stop}, tmp_path, seconds=0)
        first = Trainer(method(), blobs, seed=2)
        for _ in range(stop):
            first.epoch()
        checkpoint.save(first.state_dict())
        torch.rand(3)  # the global generator plays no part
        seen = []
        resumed = train(
            method(), blobs, seed=2, state=Checkpoint({"run": name, "stop": stop}, tmp_path), progress=seen.append
        )
        assert facts(resumed) == facts(whole)
        assert len(seen) == 7
        for own, true in zip(resumed.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
            assert torch.equal(own, true)


class Interrupted:
    """Keeps states; interrupts the run after three epochs, once."""

    asked_to_stop = False
    kept = None

    def load(self):
        return self.kept

    def save(self, state: dict, *, force: bool = False) -> None:
        self.kept = copy.deepcopy(state)
        if len(state["history"]) == 3:
            raise KeyboardInterrupt


def test_a_dense_network_that_is_trained_first_teaches_and_outlasts_an_interruption(blobs) -> None:
    def method(share: float) -> Dense:
        return make("magnitude", {"epochs": 5, "batch": 40, "distil": share})

    whole = Trainer(method(0.5), blobs, seed=2)
    trained = whole.run()
    alone = train(make("dense", {"epochs": 5, "batch": 40}), blobs, seed=2)
    for own, true in zip(whole.sparsifier.teacher.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(own, true)
    state = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        train(method(0.5), blobs, seed=2, state=state)
    resumed = train(method(0.5), blobs, seed=2, state=state)
    plain = train(method(0.0), blobs, seed=2)
    for own, true, other in zip(*(run.network.parameters() for run in (resumed, trained, plain)), strict=True):
        assert torch.equal(own, true)
        assert not torch.equal(own, other)


def test_checkpoint_of_another_run_or_a_broken_one_is_not_taken(tmp_path) -> None:
    one = Checkpoint({"seed": 0}, tmp_path, seconds=0)
    one.save({"step": 3, "values": torch.ones(2)})
    assert Checkpoint({"seed": 1}, tmp_path).load() is None
    assert Checkpoint({"seed": 0}, tmp_path).load()["step"] == 3
    one.path.write_bytes(one.path.read_bytes()[:20])
    assert Checkpoint({"seed": 0}, tmp_path).load() is None
    one.clear()
    assert not one.path.parent.exists()
    lazy = Checkpoint({"seed": 2}, tmp_path, seconds=3600)
    lazy.save({"step": 1})
    assert lazy.load() is None
    lazy.save({"step": 1}, force=True)
    assert lazy.load() == {"step": 1}


def test_layers_pattern_limits_the_work(blobs) -> None:
    trained = train(make("kpd", {"network": "lenet5", "epochs": 1, "layers": "8", "block": [4, 4]}), blobs)
    assert list(block_layers(trained.network)) == ["8"]


def test_divergence_is_said_plainly(blobs) -> None:
    with pytest.raises(InputError, match="training diverged in epoch"):
        train(make("dense", {"network": "lenet5", "lr": 1.0e30, "epochs": 2}), blobs)


@pytest.fixture(scope="module")
def stripes():
    """Images whose class shows in one row of pixels."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 240)
    images = random.uniform(0, 3, (240, 4, 4))
    images[np.arange(240), 1, labels] += 6
    return labelled_images(images, labels, seed=0)


def test_choice_leaves_one_candidate_and_reaches_the_sparsity(stripes) -> None:
    blocks = [(4, 1), (2, 2), (4, 4)]
    method = make("kpd-choice", {"epochs": 12, "batch": 16, "blocks": blocks, "rank": 1})
    trainer = Trainer(method, stripes, seed=0)
    sizes = [2 * (4 // rows) * (16 // columns) + rows * columns for rows, columns in blocks]
    assert sum(p.numel() for p in trainer.network.parameters()) == 4 + sum(sizes)
    trained = trainer.run()
    (layer,) = [module for module in trained.network.modules() if isinstance(module, KPDLinear)]
    assert trained.network[1] is layer
    assert layer.block == method.block
    assert trained.block_sparsity == target_count(0.5, layer.support.numel()) / layer.support.numel()
    assert trained.report.swapped == ["1"]


def test_choice_removes_candidates_one_by_one_for_good(stripes) -> None:
    method = make("kpd-choice", {"epochs": 10, "batch": 16, "blocks": [[1, 1], [2, 2], [4, 4]]})
    trainer = Trainer(method, stripes, seed=0)
    left = []
    for _ in range(10):
        trainer.epoch()
        left.append(list(trainer.network[1].candidates))
    assert left[0] == ["1x1", "2x2", "4x4"]
    assert len(left[3]) == 1
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(left))
    layer = trainer.network[1].survivor()
    x = torch.rand(3, 16)
    torch.testing.assert_close(layer(x), trainer.network[1](x))


@pytest.mark.parametrize(("steps", "start"), [(10, 0.4), (250, 0.4), (400, 0.25), (1000, 0.2)])
def test_candidates_of_a_choice_learn_for_50_steps_but_no_longer_than_blocks_can_wait(steps: int, start: float) -> None:
    method = make("kpd-choice", {"blocks": [[1, 1], [2, 2]]})
    method.prepare(nn.Sequential(nn.Linear(4, 4)))
    for step in range(1, steps):
        method.after_step(step / steps)
        assert len(method.state_dict()["left"]) == (2 if step / steps < start else 1)
        if step / steps >= start:
            break
    assert method.ramp_start == pytest.approx(start)


@pytest.mark.parametrize("planted", [(2, 2), (4, 4), (2, 8)])
def test_choice_finds_the_planted_block(planted: tuple[int, int]) -> None:
    torch.manual_seed(0)
    teacher = KPDLinear(16, 16, planted, bias=False)
    with torch.no_grad():
        teacher.A.copy_(torch.randn_like(teacher.A).sign() * (0.5 + torch.rand_like(teacher.A)))
    teacher.set_support(largest(torch.rand(teacher.grid), teacher.support.numel() // 2))
    network = nn.Sequential(nn.Linear(16, 16))
    sparsifier = Sparsifier(
        network, "kpd-choice", blocks=[(2, 2), (4, 4), (2, 8)], rank=1, total_steps=250, keep_weights=False
    )
    optimizer = torch.optim.Adam(sparsifier.parameter_groups(), lr=0.03)
    for _ in range(250):
        x = torch.randn(64, 16)
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x), teacher(x).detach()).backward()
        optimizer.step()
        sparsifier.step(optimizer)
    sparsifier.finish()
    assert network[0].block == planted
    assert torch.equal(network[0].zero_blocks(), teacher.zero_blocks())
    torch.testing.assert_close(network[0].weight, teacher.weight, atol=0.05, rtol=0.0)


@pytest.mark.parametrize("blocks", [[[2, 2]], [[2, 2], [2, 2]], [[2, 2], [2]]])
def test_choice_needs_different_candidates(blocks: list) -> None:
    with pytest.raises(InputError, match="block"):
        make("kpd-choice", {"blocks": blocks})


def test_shifts_move_whole_images() -> None:
    images = torch.arange(1.0, 33.0).view(2, 4, 4)
    places = {
        value: (row, column)
        for image in images.tolist()
        for row, line in enumerate(image)
        for column, value in enumerate(line)
    }
    seen = set()
    for seed in range(40):
        for moved in shifted(images, torch.Generator().manual_seed(seed)):
            moves = {
                (row - places[value][0], column - places[value][1])
                for row, line in enumerate(moved.tolist())
                for column, value in enumerate(line)
                if value
            }
            assert len(moves) == 1
            seen |= moves
    assert seen == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_flips_mirror_half_of_the_images() -> None:
    images = torch.ones(200, 8, 8) * torch.arange(1.0, 9.0)
    flipped = shifted_and_flipped(images, torch.Generator().manual_seed(0))
    rising = (flipped[:, 4, 4] > flipped[:, 4, 3]).float().mean()
    assert 0.3 < rising < 0.7
    assert torch.equal(flipped, shifted_and_flipped(images, torch.Generator().manual_seed(0)))


def test_augmented_training_learns_and_resumes(blobs, tmp_path) -> None:
    settings = {"epochs": 4, "batch": 16, "augment": "shift"}
    whole = train(make("dense", settings), blobs)
    first = Trainer(make("dense", settings), blobs)
    first.epoch()
    Checkpoint({}, tmp_path, 0).save(first.state_dict())
    resumed = train(make("dense", settings), blobs, state=Checkpoint({}, tmp_path))
    assert resumed.train_loss == whole.train_loss
    assert train(make("dense", settings | {"augment": "none"}), blobs).train_loss != whole.train_loss


def test_erasing_puts_noise_into_one_rectangle_of_every_fourth_image() -> None:
    images = torch.full((400, 12, 10, 3), 2.0)
    got = erased(images, torch.Generator().manual_seed(0))
    changed = (got != 2.0).any(dim=3)
    assert torch.equal(changed, (got != 2.0).all(dim=3))
    touched = changed.flatten(1).any(dim=1)
    assert 0.15 < touched.float().mean() < 0.35
    for box in changed[touched]:
        places = box.nonzero()
        (top, left), (bottom, right) = places.amin(dim=0), places.amax(dim=0)
        assert bool(box[top : bottom + 1, left : right + 1].all())
        assert len(places) == (bottom - top + 1) * (right - left + 1) <= 0.4 * 120
    assert got[got != 2.0].min() >= 0 and got[got != 2.0].max() < 1
    assert torch.equal(got, erased(images, torch.Generator().manual_seed(0)))


def test_jitter_changes_each_image_as_one_and_keeps_the_range() -> None:
    images = torch.rand(50, 6, 6)
    got = jittered(images, torch.Generator().manual_seed(0))
    assert got.min() >= 0 and got.max() <= 1
    for before, after in zip(images, got, strict=True):
        inside = (after > 0) & (after < 1)
        x, y = before[inside], after[inside]
        slope = (x * y).mean() - x.mean() * y.mean()
        slope /= x.var(correction=0)
        assert 0.49 < slope < 1.7
        torch.testing.assert_close(y, y.mean() + slope * (x - x.mean()), atol=1e-4, rtol=0)


def test_mixing_takes_a_share_of_a_second_image() -> None:
    images = torch.arange(6.0).view(6, 1, 1)
    got, partner, share = mixed(images, 0.5, torch.Generator().manual_seed(1))
    assert 0 <= share <= 1
    assert sorted(partner.tolist()) == list(range(6))
    torch.testing.assert_close(got, share * images + (1 - share) * images[partner])


def test_rate_rises_in_the_warm_up_and_falls_to_nothing() -> None:
    method = make("dense", {"warmup": 0.25})
    assert [method.rate(progress) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.0, 0.5 * (1 + np.cos(np.pi / 8)) / 2, (1 + np.cos(np.pi / 4)) / 2, 0.5, 0.0]
    )
    assert make("dense", {}).rate(0.0) == 1.0


def test_recipe_of_transformers_learns_and_resumes(blobs, tmp_path) -> None:
    recipe = {"warmup": 0.2, "label_smoothing": 0.1, "mixup": 0.8, "augment": "strong"}
    settings = {"epochs": 5, "batch": 16, **recipe}
    whole = train(make("kpd", settings), blobs)
    first = Trainer(make("kpd", settings), blobs)
    assert 0 < first.optimizer.param_groups[0]["lr"] < 0.01 * 0.2
    first.epoch()
    first.epoch()
    Checkpoint({}, tmp_path, 0).save(first.state_dict())
    resumed = train(make("kpd", settings), blobs, state=Checkpoint({}, tmp_path))
    assert resumed.train_loss == whole.train_loss
    for name in recipe:
        assert (
            train(make("kpd", {k: v for k, v in settings.items() if k != name}), blobs).train_loss != whole.train_loss
        )


OPTIMISERS = {
    "sgd": (lambda groups, lr: torch.optim.SGD(groups, lr), (0.3, 1.0)),
    "momentum": (lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9), (0.1, 0.5)),
    "adam": (lambda groups, lr: torch.optim.Adam(groups, lr), (0.01, 0.1)),
    "adamw": (lambda groups, lr: torch.optim.AdamW(groups, lr), (0.01, 0.1)),
    "adafactor": (lambda groups, lr: torch.optim.Adafactor(groups, lr), (0.05, 0.2)),
    "lbfgs": (
        lambda groups, lr: torch.optim.LBFGS(
            [p for group in groups for p in group["params"]], lr, max_iter=3, line_search_fn="strong_wolfe"
        ),
        (0.1, 1.0),
    ),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["kpd", "kpd-group"])
def test_every_optimiser_trains_the_factors_where_it_trains_the_dense_layer(blobs, name: str, optimiser: str) -> None:
    images, labels = torch.from_numpy(blobs.images).flatten(1), torch.from_numpy(blobs.labels)
    make_optimiser, rates = OPTIMISERS[optimiser]
    for rate in rates:
        for chosen in ("dense", name):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(16, 4))
            method = make(chosen, {"block": [2, 2], "block_sparsity": 0.5} if chosen == name else {})
            method.prepare(network)
            optimizer = make_optimiser(method.parameter_groups(network), rate)

            def closure(network=network, optimizer=optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(images), labels)
                loss.backward()
                return loss

            for step in range(80):
                optimizer.step(closure)
                method.after_step((step + 1) / 80)
            method.finish(network)
            with torch.no_grad():
                right = (network(images).argmax(dim=1) == labels).double().mean()
            assert right > 0.85, (chosen, rate, float(right))
        (layer,) = block_layers(network).values()
        assert int(layer.zero_blocks().sum()) == 8
        assert {key for key, _ in layer.named_parameters()} == {"A", "B", "bias"} | ({"S"} if name == "kpd" else set())
        torch.testing.assert_close(layer.B.detach().flatten(1).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("variant", ["selector", "group"])
def test_the_proximal_step_does_not_depend_on_how_the_factors_share_the_scale(variant: str) -> None:
    torch.manual_seed(0)
    layer = KPDLinear(8, 4, (2, 2), 2, variant=variant, dtype=torch.float64)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.A.mul_(5.0)
        other.B.div_(5.0)
        if other.S is not None:
            scale = torch.rand(2, 4, dtype=torch.float64) + 0.5
            other.S.mul_(-scale)
            other.A.div_(-scale)
    layer.fix_gauge()
    torch.testing.assert_close(other.block_scores(), layer.block_scores())
    threshold = float(layer.block_scores().median())
    layer.shrink(threshold)
    other.shrink(threshold)
    torch.testing.assert_close(other.weight, layer.weight)
    assert int(layer.zero_blocks().sum()) == int(other.zero_blocks().sum()) == 4


def test_bound_terms_stay_on_the_sphere_and_are_given_back() -> None:
    layer = KPDLinear(8, 4, (2, 2), 2, dtype=torch.float64)
    with torch.no_grad():
        layer.B.mul_(torch.tensor([2.0, 0.5]).view(2, 1, 1))
    before = layer.weight.detach()
    layer.bind_terms()
    torch.testing.assert_close(layer.weight.detach(), before)
    layer(torch.randn(3, 8, dtype=torch.float64)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), 1e3).step()
    after = layer.weight.detach()
    torch.testing.assert_close(layer.B.detach().flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))
    layer.free_terms()
    torch.testing.assert_close(layer.weight.detach(), after)
    assert isinstance(layer.B, nn.Parameter)


def two_spots(seed: int = 0):
    """Images of 2 x 8 of which the left half is almost dark: weights there stay large and add next to nothing."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 300)
    images = random.uniform(0, 1, (300, 2, 8)) + labels[:, None, None]
    images[:, :, :4] *= 1e-3
    return labelled_images(images, labels, seed=1)


@pytest.mark.parametrize("layer", [BlockLinear(8, 4, (2, 2)), KPDLinear(8, 4, (2, 2), 2),
                                   KPDLinear(8, 4, (2, 2), 2, variant="group")])  # fmt: skip
def test_the_score_by_outputs_is_the_norm_of_the_weighted_blocks(layer) -> None:
    layer = copy.deepcopy(layer).train()
    plain = layer.block_scores()
    observe_inputs(layer)
    batches = [torch.randn(5, 3, 8) * torch.arange(8.0) for _ in range(3)]
    for x in batches:
        layer(x)
    layer.eval()(100 * batches[0])  # is not observed
    running = torch.zeros(8)
    for x in batches:
        running = 0.95 * running + 0.05 * x.square().mean(dim=(0, 1))
    torch.testing.assert_close(layer.input_squares, running)
    weighted = (layer.weight.detach() * running.sqrt()).view(2, 2, 4, 2)
    expected = weighted.square().sum(dim=(1, 3)).sqrt()
    expected = expected.sqrt() if isinstance(layer, KPDLinear) and layer.S is not None else expected
    torch.testing.assert_close(layer.block_scores(), expected)
    threshold = float(expected.flatten().sort().values[3:5].mean())  # between two, whose last digits do not matter
    layer.shrink(threshold)
    assert torch.equal(layer.zero_blocks(), expected <= threshold)
    forget_inputs(layer)
    assert "input_squares" not in layer.state_dict()
    assert not torch.equal(layer.block_scores(), plain)
    layer.train()(batches[0])


@pytest.mark.parametrize("name", ["kpd", "kpd-group", "kpd-choice", "group-lasso", "magnitude", "rigl", "srigl"])
def test_scored_by_outputs_blocks_of_dark_pixels_go_first(name: str) -> None:
    more = {"blocks": [(1, 2), (1, 1)]} if name == "kpd-choice" else {"block": (1, 2)}
    more |= {"interval": 10, "drop": 0.5} if name.endswith("rigl") else {}
    settings = {"epochs": 10, "batch": 24, "score": "output", "lr": 0.02, "weight_decay": 0.0} | more
    data = two_spots()
    trained = train(make(name, settings), data)
    (layer,) = block_layers(trained.network).values()
    used = ~layer.zero_blocks()
    dark = layer.grid[1] // 4  # blocks across a row's left half, for both rows of the image
    columns = torch.arange(layer.grid[1]) % (layer.grid[1] // 2) < dark
    assert int(used[:, columns].sum()) <= int(used[:, ~columns].sum()) // 4
    assert not hasattr(layer, "input_squares")


def held(layer: BlockLinear, kept: int) -> float:
    """What the best blocks hold of the squared weights."""
    return float(layer.block_norms().square().flatten().sort(descending=True).values[:kept].sum())


def test_a_learned_order_finds_the_inputs_that_belong_together() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        layer = BlockLinear(24, 8, (2, 4))
        layer.order = torch.arange(24)
        before = held(layer, 9)
        learn_order(layer, 9)
        assert torch.equal(layer.order.sort().values, torch.arange(24))
        assert held(layer, 9) > before
        planted = torch.rand(4, 6).argsort(dim=1) < 3  # three of six blocks in every block row
        with torch.no_grad():
            layer.set_support(planted)
            layer.weight.copy_(layer.weight[:, torch.randperm(24)])
        learn_order(layer, 12)
        assert held(layer, 12) >= 0.9 * float(layer.weight.square().sum().detach())  # nearly all of it, from about half


def test_an_order_of_the_inputs_means_blocks_of_the_ordered_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, plain = BlockLinear(24, 8, (2, 4)), BlockLinear(24, 8, (2, 4))
    layer.order = torch.randperm(24)
    x = torch.randn(5, 24)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[:, layer.order])
        plain.bias.copy_(layer.bias)
    torch.testing.assert_close(layer.block_scores(), plain.block_scores())
    for own in (layer, plain):
        own.shrink(float(plain.block_scores().median()))
    assert torch.equal(layer.zero_blocks(), plain.zero_blocks())
    support = torch.rand(layer.grid) > 0.6
    for own in (layer, plain):
        own.set_support(support & ~plain.zero_blocks())
    assert torch.equal(layer.zero_blocks(), ~layer.support)
    torch.testing.assert_close(layer(x), plain(x[:, layer.order]))
    assert "bsr" not in forms_of(layer)
    network = nn.Sequential(layer)
    deployed = deploy(network, x, "block-rows")
    torch.testing.assert_close(deployed.network(x), layer(x), rtol=1e-4, atol=1e-5)
    assert len(deployed.network[0].values) == len(FORMS["block-rows"](plain).values)  # an order costs nothing
    for name, saved in (("layer", network), ("form", deployed)):
        save(saved, tmp_path / name)
        again = load(tmp_path / name, lambda: nn.Sequential(nn.Linear(24, 8)))
        torch.testing.assert_close(again(x), layer(x), rtol=1e-4, atol=1e-5)
    tensors, metadata = read_artifact(tmp_path / "layer")
    assert tensors["0.order"].dtype == np.uint8
    tensors["0.order"][0] = tensors["0.order"][1]
    write_artifact(tmp_path / "broken", "kpd", tensors, metadata)
    with pytest.raises(InputError, match="no permutation of 24"):
        load(tmp_path / "broken", lambda: nn.Sequential(nn.Linear(24, 8)))


@pytest.mark.parametrize("name", ["group-lasso", "elastic-group-lasso", "magnitude"])
def test_a_learned_permutation_keeps_scattered_pixels(name: str) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    images = random.uniform(0, 1, (300, 2, 8)) + labels[:, None, None]
    images[:, :, ::2] *= 1e-3  # dark beside bright
    data = labelled_images(images, labels, seed=1)
    settings = {"epochs": 10, "batch": 24, "block": (1, 2), "score": "output", "lr": 0.02, "weight_decay": 0.0}
    used = {}
    for permutation in ("none", "learned"):
        trained = train(make(name, settings | {"permutation": permutation}), data)
        (layer,) = block_layers(trained.network).values()
        assert int(layer.zero_blocks().sum()) == 8
        used[permutation] = int((layer.weight[:, 1::2] != 0).sum())
    assert used == {"none": 8, "learned": 16}


def test_srigl_keeps_as_many_blocks_in_every_row_and_drops_rows_as_a_whole() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(12, 8, (2, 2))
    support = by_rows(torch.rand(4, 6), torch.tensor([3, 3, 3, 3]))
    layer.set_support(support)
    with torch.no_grad():  # the last row's blocks are weak, and its gradients small
        layer.weight[6:] *= 1e-3
    layer.weight.grad = torch.randn(8, 12)
    layer.weight.grad[6:] *= 1e-6
    norms, gradients = layer.block_norms(), torch.linalg.vector_norm(layer.blocks(layer.weight.grad), dim=(1, 3))
    moments = {"exp_avg": torch.ones(8, 12), "step": torch.tensor(3.0)}
    whole = copy.deepcopy(layer)
    whole.weight.grad = layer.weight.grad.clone()
    move_rows(layer, 0.25, 0.5, moments)
    # by hand: three of twelve go, those of the last row; three of the largest gradients are taken up, one too few for
    # the row to stay; so four blocks in each of three rows
    gone = torch.zeros(4, 6, dtype=torch.bool)
    gone.flatten()[torch.argsort(norms.masked_fill(~support, 9e9).flatten())[:3]] = True
    assert gone[3].sum() == 3
    expected = torch.zeros(4, 6, dtype=torch.bool)
    for row in range(3):
        expected[row] = support[row]
        expected[row, gradients[row].masked_fill(support[row], -1).argmax()] = True
    assert torch.equal(layer.support, expected)
    fresh = (expected & ~support).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(moments["exp_avg"] == 0, fresh)
    assert float(layer.weight.detach()[fresh].abs().sum()) == 0
    move_rows(whole, 0.25, 0.0, {})  # no ablation
    assert whole.support.sum(dim=1).tolist() == [3, 3, 3, 3]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.integers(1, 23))
def test_srigl_moves_keep_the_number_of_blocks(seed: int, share: float, ablation: float, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = BlockLinear(12, 8, (2, 2))
    layer.set_support(by_rows(torch.rand(4, 6, generator=generator), row_counts(count, 4)))
    for _ in range(3):
        layer.weight.grad = torch.randn(8, 12, generator=generator)
        layer.weight.grad[:, :2] = 0  # an input that is always zero
        move_rows(layer, share, ablation, {})
        assert int(layer.support.sum()) == count
        rows = layer.support.sum(dim=1)
        assert int(rows[rows > 0].max() - rows[rows > 0].min()) <= 1 or count < 4


def test_a_finite_explosion_is_divergence(blobs, monkeypatch) -> None:
    monkeypatch.setattr(Trainer, "loss", lambda self, images, labels: self.parallel(images).sum() * 0 + 1e9)
    with pytest.raises(InputError, match=r"training diverged in epoch 1 \(loss .*e\+0"):
        train(make("kpd", {"epochs": 2}), blobs)
    method = make("kpd", {})
    network = nn.Sequential(nn.Linear(4, 4))
    method.prepare(network)
    with torch.no_grad():
        network[0].A.fill_(float("nan"))
    with pytest.raises(InputError, match="method 'kpd': training diverged"):
        method.after_step(1.0)


@pytest.mark.parametrize(
    ("name", "rank"), [("kpd", 1), ("kpd", 3), ("kpd-group", 2), ("group-lasso", None), ("elastic-group-lasso", None)]
)
def test_alike_layers_are_shrunk_together_exactly_as_one_by_one(name: str, rank: int | None) -> None:
    settings = {"block": (2, 4), "block_sparsity": 0.6} | ({} if rank is None else {"rank": rank})

    def steps(networks: list[nn.Module]) -> list[torch.Tensor]:
        """Steps on each network by a method of its own; the layers' blocks go by the same gradient everywhere."""
        for network in networks:
            method = make(name, dict(settings))
            method.prepare(network, keep_weights=True)
            optimizer = torch.optim.SGD(method.parameter_groups(network), lr=0.1, momentum=0.9)
            for step in range(1, 41):
                optimizer.zero_grad()
                sum(layer.weight.sin().sum() for layer in block_layers(network).values()).backward()
                optimizer.step()
                method.after_step(step / 50)
            method.finish(network)
        return [layer.weight for network in networks for layer in block_layers(network).values()]

    torch.manual_seed(0)
    layers = [nn.Linear(*sizes) for sizes in ((16, 12), (16, 12), (8, 20), (16, 12))]
    alone = steps([nn.Sequential(copy.deepcopy(layer)) for layer in layers])
    together = steps([nn.Sequential(*layers)])
    for own, true in zip(together, alone, strict=True):
        assert int((own == 0).sum()) > 0
        assert torch.equal(own, true)
