"""A tower's name leads to a folder of JSON and safetensors, or is refused and says why."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from cmir.errors import ConfigError
from cmir.network.pretrained_source import absolute, folder_of, is_folder


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_a_folder_a_hub_id_and_our_own_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "models" / "dino", "config.json")
    assert [is_folder(name) for name in ("default", "models/dino", "./models", "/models/dino", "dino")] == [
        *(False, False, True, True, True)
    ]
    monkeypatch.chdir(tmp_path)
    assert is_folder("models/dino"), "what lies here comes before the hub"
    assert absolute("models/dino") == str(tmp_path / "models" / "dino")
    assert (absolute("facebook/dinov2-base"), absolute("default")) == ("facebook/dinov2-base", "default")


def test_a_folder_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # nothing asks the hub
    for weights in ("model.safetensors", "model.safetensors.index.json"):
        folder = files(tmp_path / weights, "config.json", weights)
        assert folder_of(str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("nowhere", (), "no pretrained tower there: seen no such folder, expected a folder with config.json"),
        ("empty", (), "no pretrained tower there"),
        ("other", ("model.safetensors",), "seen a folder without config.json"),
        ("pickle", ("config.json", "pytorch_model.bin"), "no safetensors weights: seen pytorch_model.bin"),
        ("none", ("config.json",), "no safetensors weights: seen none, expected model.safetensors"),
    ],
)
def test_a_folder_that_is_no_tower_is_refused(name: str, there: tuple[str, ...], message: str, tmp_path: Path) -> None:
    if there:
        files(tmp_path / name, *there)
    with pytest.raises(ConfigError, match=message):
        folder_of(str(tmp_path / name))


def test_object_storage_is_refused() -> None:
    with pytest.raises(ConfigError, match="a tower is no s3 URI"):
        folder_of("s3://models/dino")


def test_of_the_hub_only_json_and_safetensors_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(files(tmp_path / "snapshot", "config.json", "model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert folder_of("owner/name-1.0") == tmp_path / "snapshot"
    [(repo_id, patterns)] = asked
    assert repo_id == "owner/name-1.0"
    assert {Path(pattern).suffix for pattern in patterns} == {".json", ".safetensors"}


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("Got: ConnectError\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    message = (
        r"cannot get the tower from the hub: seen LocalEntryNotFoundError: Got: ConnectError, .*owner/name.*HF_TOKEN"
    )
    with pytest.raises(ConfigError, match=message):
        folder_of("owner/name")
