"""Settings of sparsity methods and the way they reach their target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import KPDLinear
from pipeline.kpd.convert import convert
from pipeline.kpd.data import labelled_images
from pipeline.kpd.methods import KPD, METHODS, Dense, largest, make, target_count
from pipeline.kpd.trainer import block_sparsity, dense_twin, fresh_network, step_seconds, train


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
    weights = [fresh_network(make("kpd", {}), blobs, seed)[1].A.detach() for seed in (0, 0, 1)]
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
    before = layer.weight().detach()
    layer.fix_gauge()
    torch.testing.assert_close(layer.weight(), before)
    norms = before.view(2, 2, 2, 2).square().sum(dim=(1, 3)).sqrt()
    torch.testing.assert_close(layer.block_norms(), norms)
    torch.testing.assert_close(layer.S.detach().abs(), norms.sqrt())
    assert layer.S[0, 1] < 0


def test_convert_names_what_it_swaps_and_what_does_not_fit() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    assert convert(network, (2, 2), 1, "0") == ["0"]
    assert isinstance(network[0], KPDLinear)
    with pytest.raises(InputError, match=r"layer '2': block .* 2 rows"):
        convert(network, (2, 2), 1)
    with pytest.raises(InputError, match="no linear layer has a name like 'x"):
        convert(network, (2, 2), 1, "x*")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("kdp", {}, "did you mean 'kpd'"),
        ("kpd", {"blok": [2, 2]}, "setting 'blok'.*did you mean 'block'"),
        ("dense", {"block": [2, 2]}, "setting 'block' does not exist for method 'dense'"),
        ("kpd", {"block": [2]}, "block=.*rows and columns"),
        ("kpd", {"block": "22"}, "block=22"),
        ("kpd", {"block": 2}, "wrong kind of value"),
        ("kpd", {"rank": 1.5}, "rank=1.5"),
        ("kpd", {"block_sparsity": 1.0}, "block_sparsity=1.0"),
        ("dense", {"epochs": 0}, "epochs=0"),
        ("dense", {"lr": -1.0}, "lr=-1.0"),
        ("dense", {"lr": "fast"}, "wrong kind of value"),
    ],
)
def test_wrong_settings_are_refused(name: str, values: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(name, values)


def test_unknown_network_is_refused(blobs) -> None:
    with pytest.raises(InputError, match="network 'liner' is unknown; did you mean 'linear'"):
        train(make("dense", {"network": "liner"}), blobs)


def test_methods_are_named_as_their_classes_say() -> None:
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert isinstance(KPD(), Dense)


def test_step_times_are_of_copies(blobs) -> None:
    network = fresh_network(make("kpd", {}), blobs, 0)
    before = network[1].A.detach().clone()
    images, labels = torch.from_numpy(blobs.images[:8]), torch.from_numpy(blobs.labels[:8])
    own, dense = step_seconds([network, dense_twin(network)], images, labels, repeats=3)
    assert own > 0
    assert dense > 0
    assert torch.equal(network[1].A, before)


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
