"""Codes of symmetric matrices: each edge once, one naming of the vertices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.coding import exact, scaled, steps, symmetric, unlabelled
from pipeline.baselines.lossless import Lossless
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole
from tests.test_baselines_exact import KINDS


def graph(seed: int, kind: str = "ones", nodes: int = 0, edges: int = 0, loops: bool = True) -> SparseTensor:
    """A random symmetric matrix in which a few vertices have most edges."""
    random = np.random.default_rng(seed)
    nodes = nodes or int(random.integers(2, 50))
    edges = edges or int(random.integers(1, 3 * nodes))
    ends = np.sort((nodes * random.random((edges, 2)) ** (1, 3)).astype(np.int64), axis=1)
    ends = np.unique(np.append(ends if loops else ends[ends[:, 0] < ends[:, 1]], [[0, nodes - 1]], axis=0), axis=0)
    cells, values = symmetric.both(ends, random.choice(KINDS[kind], len(ends)))
    return SparseTensor(cells, values, (nodes, nodes))


@given(st.integers(0, 99), st.sampled_from(list(KINDS)))
@settings(deadline=None, max_examples=20)
def test_a_code_and_its_order_give_back_what_was_coded(seed: int, kind: str) -> None:
    X = graph(seed, kind)
    for packed in (symmetric.pack(X.coords, X.values, X.shape), symmetric.edges_code(X.coords, X.values, X.shape)):
        assert packed is not None
        coords, values, shape = exact.decode(packed[0])
        assert SparseTensor(packed[1][coords], values, shape) == X


@pytest.mark.parametrize("kind", KINDS)
def test_all_codes_of_a_symmetric_matrix_give_it_back(kind: str) -> None:
    X = graph(5, kind)
    found = exact.all_codes(X.coords, X.values, X.shape)
    kinds = {symmetric.FREE, symmetric.MIRRORED, steps.CODE}
    assert {
        scaled.unwrapped(each.code)[1][:1] if each.code[:1] == scaled.CODE else each.code[:1] for each in found
    } <= kinds
    for each in found:
        if not each.orders:
            assert SparseTensor(*exact.decode(each.code)) == X


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_half_of_a_symmetric_matrix_costs_what_the_whole_does(seed: int) -> None:
    X = graph(seed, nodes=60, edges=150)
    one = symmetric.upper(X.coords)
    half = [each.bytes for each in exact.all_codes(X.coords[one], X.values[one], X.shape)]
    size = Lossless().fit(X).size()
    assert size["bytes"] <= size["bytes_with_order"] <= min(half) + 1


def test_names_of_vertices_cost_nothing() -> None:
    # A random forest of 2,000 vertices, each joined to an earlier one: log2(2000!) bits are its names.
    random = np.random.default_rng(0)
    parent = (np.arange(1, 2000) * random.random(1999)).astype(np.int64)
    cells, values = symmetric.both(np.stack((parent, np.arange(1, 2000)), axis=1), np.ones(1999))
    X = SparseTensor(random.permutation(2000)[cells], values, (2000, 2000))
    size = Lossless().fit(X).size()
    assert size["bytes"] < size["bytes_with_order"] - 0.5 * math.lgamma(2001) / math.log(2) / 8
    moved = SparseTensor(cells, values, X.shape)
    assert abs(Lossless().fit(moved).size()["bytes"] - size["bytes"]) < 0.03 * size["bytes"]


def test_one_order_is_told_of_a_free_code(monkeypatch: pytest.MonkeyPatch) -> None:
    X = graph(3, nodes=300, edges=500, loops=False)
    mine = Lossless().fit(X).size()["bytes"]
    monkeypatch.setattr(symmetric, "able", lambda *_: False)
    packed = unlabelled.pack(X.coords, X.values, X.shape)
    assert packed is not None
    assert mine < 0.7 * len(packed[0])


@pytest.mark.parametrize("changed", ["a value", "a cell"])
def test_a_matrix_that_is_not_quite_symmetric_is_no_graph(changed: str) -> None:
    X = graph(1, "whole", nodes=30, edges=60)
    off = int(np.flatnonzero(X.coords[:, 0] != X.coords[:, 1])[0])
    values, kept = X.values.copy(), np.arange(X.nnz)
    if changed == "a value":
        values[off] += 1
    else:
        kept = np.delete(kept, off)
    assert symmetric.able(X.coords, X.values, X.shape)
    assert not symmetric.able(X.coords[kept], values[kept], X.shape)
    Y = SparseTensor(X.coords[kept], values[kept], X.shape)
    assert Lossless().fit(Y).error(Y)["error"] == 0


@given(st.binary(max_size=60), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_a_damaged_code_is_refused(noise: bytes, place: int) -> None:
    X = graph(4, "whole", nodes=30, edges=60)
    packed = symmetric.edges_code(X.coords, X.values, X.shape)
    assert packed is not None
    for code in (packed[0], min((each.code for each in exact.all_codes(X.coords, X.values, X.shape)), key=len)):
        for damaged in (code[: 1 + place] + noise + code[1 + place + len(noise) :], code[: 6 + place]):
            refused_or_whole(exact.decode, damaged)
