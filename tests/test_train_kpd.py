"""The step, on scikit-learn's digits."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline
from pipeline.config import load_config, setting_arguments
from pipeline.core import step
from pipeline.core.settings import settings_of, values_of
from pipeline.errors import InputError
from pipeline.kpd.data import labelled_images
from pipeline.kpd.settings import SETTINGS
from pipeline.kpd.sparsity_methods import SPARSITY_METHODS, make
from pipeline.kpd.trainer import Trainer, train
from pipeline.runs.metrics import NetworkMetrics, read_metrics
from pipeline.sparse import SparseTensor
from pipeline.train_kpd import main, read_images
from tests.test_files import small_disk


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tensor and labels as the convert step leaves them."""
    folder = tmp_path_factory.mktemp("tensors")
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    with gzip.open(package / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images = table[:, :64].reshape(-1, 8, 8)
    SparseTensor.from_dense(np.moveaxis(images, 0, -1)).write_parquet(folder / "digits.parquet")
    labels = pd.DataFrame({"index": np.arange(len(table)), "label": table[:, 64].astype(int)})
    labels.sample(frac=1, random_state=0).to_parquet(folder / "digits.labels-2.parquet")
    return folder / "digits.parquet", folder / "digits.labels-2.parquet"


def run(digits: tuple[Path, Path], folder: Path, *more: str) -> NetworkMetrics:
    tensor, labels = digits
    threads = torch.get_num_threads()
    try:
        main([str(tensor), str(folder), "--labels", str(labels), "--device", "cpu", *more])
    finally:
        torch.set_num_threads(threads)
    metrics = read_metrics(folder / "metrics.json")
    assert isinstance(metrics, NetworkMetrics)
    return metrics


def test_kpd_run_leaves_model_metrics_and_history(digits, tmp_path: Path) -> None:
    metrics = run(digits, tmp_path, "--setting", "b2x2", "--set", "block=[2,2]", "--set", "epochs=12")
    assert (metrics.dataset, metrics.method, metrics.setting, metrics.seed) == ("digits", "kpd", "b2x2", 0)
    assert metrics.model_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert metrics.block_sparsity == 0.5
    assert metrics.accuracy > 0.7
    assert metrics.parameters == metrics.train_parameters == 3 * 160 + 2 * 4 + 10
    assert metrics.inference_parameters == 2 * (80 + 4) + 10
    assert metrics.dense_inference_flops == 2 * 64 * 64 * 10
    assert metrics.inference_flops <= metrics.dense_inference_flops / 2
    assert metrics.step_seconds > 0
    assert metrics.dense_step_seconds > 0
    assert metrics.inference_seconds > 0
    assert metrics.dense_inference_seconds > 0
    history = pd.read_parquet(tmp_path / "history.parquet")
    assert list(history.columns) == ["epoch", "loss", "validation_accuracy", "block_sparsity", "seconds", "cpu_seconds"]
    assert history["epoch"].tolist() == list(range(1, 13))
    assert history["seconds"].is_monotonic_increasing  # since the start, as compressors' histories have them
    assert metrics.seconds == history["seconds"].iloc[-1]
    assert metrics.cpu_seconds == history["cpu_seconds"].iloc[-1] > 0
    assert metrics.setup_seconds is not None
    assert metrics.seconds_per_epoch == pytest.approx((metrics.seconds - history["seconds"].iloc[0]) / 11)

    model = pipeline.load(tmp_path / "model.safetensors")
    data = read_images(*digits, seed=0)
    raw = data.images * data.scale
    assert (model.predict(raw[data.test]) == data.labels[data.test]).mean() == metrics.accuracy
    assert model.logits(raw[:3]).shape == (3, 10)
    blocks = model.network[1].to_dense().weight.view(5, 2, 32, 2).abs().amax(dim=(1, 3))
    assert int((blocks == 0).sum()) == 80
    with pytest.raises(InputError, match=r"this network takes \(count, 8, 8\)"):
        model.predict(raw[:2, :4])


def test_the_candidates_of_a_choice_count_as_trained(digits, tmp_path: Path) -> None:
    settings = [f"--set={setting}" for setting in ("blocks=[[2,2],[2,4]]", "rank=1", "epochs=6", "lr=1e-2", "layers=1")]
    metrics = run(digits, tmp_path, "--method", "kpd-choice", *settings)
    assert metrics.train_parameters == 2 * 160 + 4 + 2 * 80 + 8 + 10
    assert metrics.parameters in (2 * 160 + 4 + 10, 2 * 80 + 8 + 10)
    assert metrics.train_flops > metrics.dense_train_flops / 2


def test_images_without_columns_are_not_shifted(tmp_path: Path) -> None:
    data = labelled_images(np.arange(1.0, 301).reshape(100, 3), np.arange(100) % 2, seed=0)
    with pytest.raises(InputError, match="augment=shift: needs images with rows and columns"):
        train(make("dense", {"augment": "shift", "epochs": 1}), data)


def test_dense_twin_run(digits, tmp_path: Path) -> None:
    metrics = run(digits, tmp_path, "--method", "dense")
    assert metrics.accuracy > 0.92
    assert metrics.block_sparsity == 0
    assert metrics.parameters == metrics.inference_parameters == 650
    assert metrics.train_flops == metrics.dense_train_flops
    model = pipeline.load(tmp_path / "model.safetensors")
    assert isinstance(model.network[1], torch.nn.Linear)
    assert model.trained_with["method"] == "dense"


def test_rerun_is_bit_identical(digits, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(digits, tmp_path / name, "--set", "epochs=4", "--seed", "3", "--threads", "1")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    timings = {"seconds", "seconds_per_epoch", "cpu_seconds", "step_seconds", "dense_step_seconds", "peak_rss_bytes"}
    timings |= {"setup_seconds", "date", "inference_seconds", "dense_inference_seconds"}
    contents = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second")]
    assert {k: v for k, v in contents[0].items() if k not in timings} == {
        k: v for k, v in contents[1].items() if k not in timings
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "blok=[2,2]"], "did you mean 'block'"),
        (["--set", "block=[3,2]"], "layer '1': block (3, 2): 3 rows do not divide out_features = 10"),
        (["--method", "dens"], "did you mean 'dense'"),
        (["--device", "cuda:99"], "not available here"),
        (["--set", "network=linea"], "did you mean 'linear'"),
        (["--set", "network=5"], "network=5: needs linear, mlp, lenet5, vit-tiny"),
        (["--set", "layers=7"], "no linear layer has a name like 7"),
        (["--seed", "-1"], "--seed -1: needs a whole number of at least 0"),
        (["--seed", "5000000000"], "and below 2,147,483,648"),
        (["--threads", "0"], "--threads 0: needs a whole number of at least 1"),
        (["--device", "meta"], "--device meta: neither cpu nor a GPU"),
        (["--method", "kpd-choice", "--set", "epochs=1", "--set", "batch=2000"], "1 steps are too few"),
    ],
)
def test_bad_input_is_one_line_and_status_2(digits, tmp_path: Path, capsys, arguments: list[str], words: str) -> None:
    tensor, labels = digits
    with pytest.raises(SystemExit) as stopped:
        step.run(main, [str(tensor), str(tmp_path), "--labels", str(labels), *arguments])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="label"), "no column 'label'"),
        (lambda table: table.iloc[1:], "1796 labels; the tensor has 1797"),
        (lambda table: table.assign(label="seven"), "label 'seven' is no class number"),
        (lambda table: table.assign(label=1.5), "label '1.5' is no class number"),
        (lambda table: table.assign(label=-1), "counted from 0"),
    ],
)
def test_wrong_labels_are_named(digits, tmp_path: Path, change, words: str) -> None:
    change(pd.read_parquet(digits[1])).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=words) as caught:
        read_images(digits[0], tmp_path / "labels.parquet", 0)
    assert str(tmp_path / "labels.parquet") in str(caught.value)
    (tmp_path / "no.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_images(digits[0], tmp_path / "no.parquet", 0)


def test_published_split_is_used(digits, tmp_path: Path) -> None:
    table = pd.read_parquet(digits[1])
    table["split"] = np.where(table["index"] >= 1500, "test", "train")
    table.to_parquet(tmp_path / "labels.parquet")
    data = read_images(digits[0], tmp_path / "labels.parquet", seed=5)
    assert data.test.tolist() == list(range(1500, 1797))


def test_channels_come_last_wherever_the_tensor_has_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 9, (12, 2, 4, 3)).astype(float)  # image, row, column, channel
    labels = pd.DataFrame({"index": np.arange(12), "label": np.arange(12) % 2})
    labels.to_parquet(tmp_path / "labels.parquet")
    orders = {(3, 1, 2, 0): ("channel", "row", "column", "image"), (1, 2, 3, 0): ("row", "column", "channel", "image")}
    for number, (order, names) in enumerate(orders.items()):
        whole = SparseTensor.from_dense(pixels.transpose(order))
        path = tmp_path / f"{number}.parquet"
        SparseTensor(whole.coords, whole.values, whole.shape, mode_names=names).write_parquet(path)
        data = read_images(path, tmp_path / "labels.parquet", 0)
        assert data.image_shape == (2, 4, 3)
        np.testing.assert_allclose(data.images * data.scale, pixels, rtol=1e-6)


def test_damaged_artifacts_are_refused(digits, tmp_path: Path) -> None:
    from pipeline.runs.artifact import read_artifact, write_artifact

    run(digits, tmp_path, "--set", "epochs=1")
    tensors, metadata = read_artifact(tmp_path / "model.safetensors")
    missing = {key: value for key, value in tensors.items() if not key.endswith("values")}
    write_artifact(tmp_path / "bad.safetensors", "kpd", missing, metadata)
    with pytest.raises(InputError, match=r"bad.safetensors.*do not fit"):
        pipeline.load(tmp_path / "bad.safetensors")


def test_sections_of_params_yaml_are_the_methods_defaults(root: Path) -> None:
    config = load_config(root / "params.yaml")
    assert SPARSITY_METHODS.keys() == SETTINGS.keys()
    for name, method in SPARSITY_METHODS.items():
        assert config.method_defaults(name) == values_of(method())
        assert settings_of(method) == settings_of(SETTINGS[name])


def test_settings_travel_through_the_command_line(root: Path) -> None:
    config = load_config(root / "params.yaml")
    runs = [run for name in config.experiments for run in config.runs(name) if run.rule == "train_kpd"]
    assert {run.dataset for run in runs} >= {"digits", "mnist"}
    for run in runs:
        pairs = setting_arguments(run.settings)[1::2]
        assert values_of(make(run.method, step.parse_settings(pairs))) == values_of(make(run.method, run.settings))


def test_interrupted_run_goes_on(digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.runs.checkpoint.Checkpoint.__init__.__defaults__", (Path(".cache/checkpoints"), 0.0))
    epoch = Trainer.epoch

    def dies_after_three(self: Trainer) -> None:
        if len(self.history) == 3:
            raise KeyboardInterrupt
        epoch(self)

    arguments = ("--set", "epochs=6")
    with monkeypatch.context() as context:
        context.setattr(Trainer, "epoch", dies_after_three)
        with pytest.raises(KeyboardInterrupt):
            run(digits, tmp_path / "broken", *arguments)
    assert not (tmp_path / "broken").exists()
    assert len(list((tmp_path / ".cache" / "checkpoints").iterdir())) == 1
    run(digits, tmp_path / "broken", *arguments)
    run(digits, tmp_path / "whole", *arguments)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("broken", "whole")]
    assert models[0] == models[1]
    assert not list((tmp_path / ".cache" / "checkpoints").iterdir())


def test_help_shows_an_example(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "python -m pipeline.train_kpd data/tensors/digits.parquet" in capsys.readouterr().out


def test_half_of_the_blocks_do_for_the_real_digits(mirror: Path) -> None:
    folder = mirror / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no mnist in {mirror}")

    def raw(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=header)

    images = np.concatenate([raw(f"{part}-images-idx3-ubyte.gz", 16)[: 20000 * 784] for part in ("train", "t10k")])
    labels = np.concatenate([raw(f"{part}-labels-idx1-ubyte.gz", 8)[:20000] for part in ("train", "t10k")])
    is_test = np.arange(len(labels)) >= 20000
    assert is_test.sum() == 10000
    data = labelled_images(images.reshape(-1, 28, 28), labels.astype(np.int64), seed=0, published_test=is_test)
    trained = train(make("kpd", {"epochs": 4, "batch": 128, "block": [2, 2]}), data)
    assert trained.block_sparsity == 0.5
    assert trained.test_accuracy > 0.88


def test_a_full_disk_is_one_line_that_names_the_file(digits, tmp_path: Path, capsys) -> None:
    settings = ["--set", "epochs=1", "--set", "block=[2,4]"]
    with small_disk(500), pytest.raises(SystemExit) as stopped:
        step.run(lambda _: run(digits, tmp_path, *settings) and None)
    assert stopped.value.code == 2
    assert f"error: {tmp_path}/model.safetensors: cannot write: " in capsys.readouterr().err.splitlines()[-1]
