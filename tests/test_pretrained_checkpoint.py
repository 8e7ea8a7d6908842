"""A checkpoint becomes settings and tensors of a tower; what cannot is refused before training starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cmir.errors import ConfigError
from cmir.network.pretrained_checkpoint import read_image_checkpoint, read_speech_checkpoint
from cmir.network.pretrained_image import PHOTO_MEAN, PHOTO_STD, PretrainedImageTower
from cmir.network.pretrained_speech import PretrainedSpeechTower
from tests.tiny_towers import write_tower


def read_as(kind: str, tower: str) -> Any:
    return read_image_checkpoint(tower) if kind == "image" else read_speech_checkpoint(tower, longest_s=2.0)


def change_settings(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("kind", "family", "message"),
    [
        ("speech", "vit", r"no speech tower we know: seen model_type vit, expected hubert, .* --image-tower"),
        ("speech", "siglip", r"seen model_type siglip, .*give it as --image-tower"),
        ("image", "whisper", r"no image tower we know: seen model_type whisper, expected dinov2, .* --speech-tower"),
    ],
)
def test_a_tower_of_the_other_kind_is_refused(kind: str, family: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_as(kind, write_tower(tmp_path, family))


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("vit", {"model_type": "resnet"}, "no image tower we know: seen model_type resnet"),
        ("vit", {"model_type": None}, "seen model_type None"),
        ("vit", {"hidden_size": "wide"}, "settings do not fit: seen StrictDataclass.*hidden_size.*expected ViTModel"),
        ("vit", {"num_channels": 12}, "vision transformer of another shape: seen patches of 8 px, 12 channels"),
        ("dinov2", {"patch_size": [8, 4]}, "expected square patches"),
    ],
)
def test_settings_that_make_no_tower_are_refused(
    family: str, changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_tower(tmp_path, family)
    change_settings(tmp_path, **changed)
    with pytest.raises(ConfigError, match=message):
        read_image_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "family", "processor", "message"),
    [
        ("image", "vit", {"image_mean": [0.5], "image_std": [0.5]}, "image processor of another shape"),
        ("image", "vit", {"image_std": [0.5, 0.0, 0.5]}, "image processor of another shape"),
        ("speech", "wavlm", {"sampling_rate": 8000}, "another sampling rate: seen 8000, expected 16000"),
    ],
)
def test_a_front_end_we_do_not_have_is_refused(
    kind: str, family: str, processor: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_as(kind, write_tower(tmp_path, family, processor=processor))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    folder = Path(write_tower(tmp_path / "a", "vit"))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"checkpoint cannot be read: seen JSONDecodeError.*config\.json"):
        read_image_checkpoint(str(folder))
    folder = Path(write_tower(tmp_path / "b", "vit"))
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ConfigError, match="checkpoint's tensors cannot be read"):
        read_image_checkpoint(str(folder)).tensors()


def test_tensors_that_are_missing_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = Path(write_tower(tmp_path, "dinov2"))
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    norm = next(name for name in tensors if name.endswith("layernorm.weight"))
    safetensors.torch.save_file({name: kept for name, kept in tensors.items() if name != norm}, path)
    with pytest.raises(ConfigError, match=rf"checkpoint lacks tensors: seen 1 not there, as {norm}"):
        read_image_checkpoint(str(folder)).tensors()
    safetensors.torch.save_file({**tensors, norm: torch.ones(7)}, path)
    with pytest.raises(ConfigError, match="checkpoint's tensors cannot be read"):
        read_image_checkpoint(str(folder)).tensors()
    tokens = {name: kept for name, kept in tensors.items() if "mask_token" not in name}
    safetensors.torch.save_file(tokens, path)
    assert read_image_checkpoint(str(folder)).tensors(), "what only pretraining uses may be missing"


@pytest.mark.parametrize(("whole", "part"), [("siglip", "siglip_vision_model"), ("siglip2", "siglip2_vision_model")])
def test_of_a_whole_model_the_vision_part_is_taken(whole: str, part: str, tmp_path: Path) -> None:
    checkpoint = read_image_checkpoint(write_tower(tmp_path, whole))
    assert checkpoint.config.family == part
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tower = PretrainedImageTower(checkpoint.config, ("rgb",))
    tower.backbone.load_state_dict(checkpoint.tensors())
    weight = tower.backbone.state_dict()["embeddings.position_embedding.weight"]
    assert torch.equal(weight, stored["vision_model.embeddings.position_embedding.weight"])


def test_of_whisper_the_encoder_and_its_first_positions_are_taken(tmp_path: Path) -> None:
    checkpoint = read_speech_checkpoint(write_tower(tmp_path, "whisper"), longest_s=2.0)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors = checkpoint.tensors()
    assert torch.equal(tensors["embed_positions.weight"], stored["model.encoder.embed_positions.weight"][:100])
    assert torch.equal(tensors["layers.1.fc1.weight"], stored["model.encoder.layers.1.fc1.weight"])
    assert not any("decoder" in name for name in tensors)
    PretrainedSpeechTower(checkpoint.config).backbone.load_state_dict(tensors)


@pytest.mark.parametrize(
    ("family", "processor", "size_px", "mean", "std"),
    [
        ("vit", None, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("dinov2", None, 32, PHOTO_MEAN, PHOTO_STD),
        ("siglip2", None, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("vit", {"size": {"height": 52, "width": 52}, "image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 3.0]},
         48, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
        ("dinov2", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224,
         PHOTO_MEAN, PHOTO_STD),
        ("dinov2", {"size": 64, "crop_size": 56, "do_center_crop": False}, 64, PHOTO_MEAN, PHOTO_STD),
        ("vit", {"do_normalize": False}, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)  # fmt: skip
def test_size_and_normalisation_are_its_image_processors(
    family: str, processor: dict[str, Any] | None, size_px: int, mean: Any, std: Any, tmp_path: Path
) -> None:
    checkpoint = read_image_checkpoint(write_tower(tmp_path, family, processor=processor))
    assert (checkpoint.size_px, checkpoint.config.mean, checkpoint.config.std) == (size_px, mean, std)


def test_a_front_end_beside_a_tokenizer_is_found(tmp_path: Path) -> None:
    folder = write_tower(tmp_path, "wavlm")
    assert read_speech_checkpoint(folder, longest_s=1.0).config.normalise
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False}}))
    assert not read_speech_checkpoint(folder, longest_s=1.0).config.normalise


@pytest.mark.parametrize(("kind", "family"), [("image", "vit"), ("speech", "wav2vec2"), ("speech", "whisper")])
def test_settings_name_no_place(kind: str, family: str, tmp_path: Path) -> None:
    checkpoint = read_as(kind, write_tower(tmp_path, family))
    assert str(tmp_path) not in checkpoint.config.model_dump_json()
    assert type(checkpoint.config).model_validate_json(checkpoint.config.model_dump_json()) == checkpoint.config
