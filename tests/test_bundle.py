"""A bundle comes back as it was written; anything missing, cut, mixed or edited is refused and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
from moto.server import ThreadedMotoServer

from cmir.archive import storage
from cmir.archive.imagery import Chip
from cmir.archive.object_store import S3Settings
from cmir.errors import CmirError, DataError, SpaceMismatchError
from cmir.network.bundle import load_bundle, read_config, read_metrics, read_train_scenes, save_bundle
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.scenes import digest_of, digests_of
from cmir.network.space import DataCount, space_id_of
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics


def make_net(seed: int = 0, dim: int = 16) -> SharedSpaceNet:
    torch.manual_seed(seed)
    config = NetworkConfig(
        modalities=("pan", "speech"),
        dim=dim,
        labels=("sea", "ship"),
        image=ImageTowerConfig(width=32, depths=(1,)),
        speech=SpeechTowerConfig(width=32),
    )
    return SharedSpaceNet(config)


def make_preprocessing(level: int = 70) -> Preprocessing:
    running = RunningStatistics()
    pixels = np.random.default_rng(0).integers(0, level, (1, 16, 16)).astype(np.uint8)
    running.add_chip("pan", Chip(pixels, ("pan",), (675.0,), 2.0, "GF-1-PMS"))
    return Preprocessing.fit(running, chip_size_px={"pan": 32})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    save_bundle(
        str(folder),
        make_net(),
        make_preprocessing(),
        metrics={"pan_to_speech": {"map": 0.875, "num_queries": 3}},
        training={"preset": "all", "max_steps": 10},
        data=[DataCount(modality="pan", split="train", num_items=1234)],
    )
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy")


def test_it_comes_back_as_it_was_written(saved: Path) -> None:
    bundle = load_bundle(str(saved))
    net = make_net()
    assert bundle.preprocessing == make_preprocessing()
    assert bundle.config.network == net.config
    assert bundle.metrics == {"pan_to_speech": {"map": 0.875, "num_queries": 3}}
    assert bundle.config.training == {"preset": "all", "max_steps": 10}
    for name, tensor in net.state_dict().items():
        assert torch.equal(bundle.net.state_dict()[name], tensor), name


def test_the_loaded_network_is_ready_to_embed(saved: Path) -> None:
    net = load_bundle(str(saved)).net
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_files_and_contents(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"model.safetensors", "config.json", "preprocessing.json", "metrics.json", "README.md"}
    config = json.loads((saved / "config.json").read_text())
    assert [entry["label"] for entry in config["vocabulary"]] == ["sea", "ship"]
    np.testing.assert_allclose(np.linalg.norm([e["prototype"] for e in config["vocabulary"]], axis=1), 1, atol=1e-5)
    preprocessing = json.loads((saved / "preprocessing.json").read_text())
    assert {entry["sensor"] for entry in preprocessing["sensors"]} == {"", "GF-1-PMS"}


def test_the_scenes_of_training_stand_beside_and_outside_the_space(saved: Path, tmp_path: Path) -> None:
    assert read_train_scenes(str(saved), read_config(str(saved))) is None, "it does not say"
    scenes, place = digests_of(["b", "a", "a"]), str(tmp_path / "x")
    space_id = save_bundle(place, make_net(), make_preprocessing(), metrics={}, training={}, train_scenes=scenes)
    assert space_id == load_bundle(str(saved)).space_id
    found = read_train_scenes(place, read_config(place))
    assert found is not None
    assert found.tolist() == sorted(map(digest_of, "ab"))
    (tmp_path / "x" / "train_scenes.safetensors").write_bytes(b"another")
    with pytest.raises(DataError, match="broken"):
        read_train_scenes(place, read_config(place))


def test_space_id_does_not_depend_on_figures_or_place(saved: Path, tmp_path: Path) -> None:
    again = save_bundle(str(tmp_path / "x"), make_net(), make_preprocessing(), metrics={}, training={"seed": 7})
    assert again == read_config(str(saved)).space_id == load_bundle(str(saved)).space_id


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessing.json", "metrics.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"bundle is incomplete: .*expected {name}.*To mend it: copy the whole folder"):
        load_bundle(str(folder))


def test_no_folder_at_all_is_an_incomplete_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no bundle, or one whose writing never ended"):
        load_bundle(str(tmp_path / "nowhere"))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessing.json", "metrics.json"])
def test_a_file_cut_short_is_named(folder: Path, name: str) -> None:
    cut_in_half(folder / name)
    with pytest.raises(DataError, match=rf"bundle file is broken.*{name}"):
        load_bundle(str(folder))


def flip_last_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def edit_statistics(folder: Path) -> None:
    path = folder / "preprocessing.json"
    path.write_text(path.read_text().replace('"sample_rate_hz": 16000', '"sample_rate_hz": 8000'))


def edit_labels(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"ship"', '"boat"'))


def mix_tensors(folder: Path) -> None:
    other = make_net(seed=1).state_dict()
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(other))


def mix_with_matching_digest(folder: Path) -> None:
    other = folder.parent / "other"
    save_bundle(str(other), make_net(seed=1), make_preprocessing(), metrics={}, training={})
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    theirs = json.loads((other / "config.json").read_text())["sha256"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sha256": theirs}))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip_last_byte, r"broken.*model\.safetensors"),
        (edit_statistics, r"broken.*preprocessing\.json"),
        (edit_labels, r"space_id is not that of its content.*config\.json"),
        (mix_tensors, r"broken.*model\.safetensors"),
        (mix_with_matching_digest, r"space_id is not that of its content.*config\.json"),
    ],
)
def test_tampering_is_refused(folder: Path, tamper: Callable[[Path], None], message: str) -> None:
    tamper(folder)
    with pytest.raises(DataError, match=message):
        load_bundle(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("space_code_version", 999, SpaceMismatchError, "would embed differently.*seen space code 999"),
        ("bundle_format", 999, DataError, "unknown bundle format: seen 999"),
        ("space_id", "nonsense", DataError, "bundle file is broken: seen space_id: String should match"),
    ],
)
def test_a_config_of_other_times_is_refused(
    folder: Path, key: str, value: object, kind: type[CmirError], message: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(kind, match=message):
        load_bundle(str(folder))


def test_metrics_that_are_no_object_are_refused(folder: Path) -> None:
    (folder / "metrics.json").write_text("[1]")
    with pytest.raises(DataError, match=r"seen list, expected a JSON object.*metrics\.json"):
        read_metrics(str(folder))


def test_no_pickle_is_read(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_bundle(str(folder))


def test_it_lives_in_object_storage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        settings = S3Settings.from_environment()
        fsspec.filesystem("s3", key="any", secret="any", client_kwargs={"endpoint_url": settings.endpoint_url}).mkdir(
            "archive"
        )
        space_id = save_bundle("s3://archive/models/b", make_net(), make_preprocessing(), metrics={}, training={})
        assert load_bundle("s3://archive/models/b").space_id == space_id
        storage.delete_tree("s3://archive/models/b/config.json")
        with pytest.raises(DataError, match=r"incomplete.*s3://archive/models/b/config\.json"):
            load_bundle("s3://archive/models/b")
    finally:
        server.stop()


def test_a_bundle_from_before_a_setting_existed_still_loads(folder: Path) -> None:
    """Settings that a later version adds, with a default, must not orphan the bundles and galleries made before it."""
    config = json.loads((folder / "config.json").read_text())
    del config["network"]["cmirnet"]
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    preprocessing = json.loads((folder / "preprocessing.json").read_text())
    config["space_id"] = space_id_of(tensors, config["network"], preprocessing)
    (folder / "config.json").write_text(json.dumps(config))
    assert load_bundle(str(folder)).space_id == config["space_id"]
