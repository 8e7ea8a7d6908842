"""A pretrained tower's folder -> its settings, checked before training starts, and its tensors.

Everything needed later goes into our bundle, which never asks for the folder again. Tensors come by transformers'
own loader, so that checkpoints of other versions, of a whole model or with another head are understood; what it leaves
at random values is an error here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

import torch
from pydantic import JsonValue
from torch import Tensor

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.errors import ConfigError
from cmir.network.pretrained_image import PHOTO_MEAN, PHOTO_STD, ImageFamily, PretrainedImageConfig, image_model
from cmir.network.pretrained_source import PROCESSOR_FILES, SETTINGS_FILE, folder_of
from cmir.network.pretrained_speech import PretrainedSpeechConfig, SpeechFamily, speech_model, whisper_positions
from cmir.network.transformers_import import import_transformers, refused

_FAMILIES: Final = {"image": get_args(ImageFamily), "speech": get_args(SpeechFamily)}
_PARTS: Final = {"siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}  # whole models -> our part of them
_SAYS_NOTHING: Final = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type")
_UNUSED_TENSORS: Final = ("mask_token", "masked_spec_embed")  # of pretraining; some checkpoints left them out
_USUAL_SIZE_PX: Final = 224
_ALL_POSITIONS: Final = 1500  # of Whisper: 30 s


@dataclass(frozen=True)
class ImageCheckpoint:
    """Where a vision transformer lies, what it is, and the side of the images it was trained on."""

    folder: Path
    config: PretrainedImageConfig
    size_px: int

    def tensors(self) -> dict[str, Tensor]:
        """Those of `PretrainedImageTower.backbone`. Raises ConfigError where they are not those of the settings."""
        model_type, arguments = image_model(self.config.family)
        return _tensors(model_type, self.config.transformer, self.folder, **arguments)


@dataclass(frozen=True)
class SpeechCheckpoint:
    """Where a speech encoder lies and what it is."""

    folder: Path
    config: PretrainedSpeechConfig

    def tensors(self) -> dict[str, Tensor]:
        """Those of `PretrainedSpeechTower.backbone`, of Whisper's positions the first ones. Raises ConfigError."""
        settings = self.config.transformer
        if self.config.family != "whisper":
            return _tensors(speech_model(self.config.family), settings, self.folder)
        num_positions = _json(self.folder / SETTINGS_FILE).get("max_source_positions", _ALL_POSITIONS)
        whole = {**settings, "max_source_positions": num_positions}
        tensors = _tensors(import_transformers().WhisperModel, whole, self.folder)
        encoder = {name.removeprefix("encoder."): kept for name, kept in tensors.items() if name.startswith("encoder.")}
        positions = encoder["embed_positions.weight"]
        return {**encoder, "embed_positions.weight": positions[: int(str(settings["max_source_positions"]))]}


def read_image_checkpoint(tower: str) -> ImageCheckpoint:
    """What lies in a folder or at a hub id.

    Raises ConfigError: nothing there, no vision transformer we know, none with safetensors weights.
    """
    folder, stored = _read(tower, "image")
    family, processor = cast(ImageFamily, stored["model_type"]), _processor(folder)
    settings = _complete(image_model(family)[0], stored, folder)
    patch_px, num_channels = settings.get("patch_size"), settings.get("num_channels")
    if not isinstance(patch_px, int) or num_channels != 3:
        raise ConfigError(
            "vision transformer of another shape",
            seen=f"patches of {patch_px} px, {num_channels} channels",
            expected="square patches, 3 channels",
            where=tower,
        )
    mean, std = _normalisation(family, processor, folder)
    config = PretrainedImageConfig(family=family, transformer=settings, mean=mean, std=std)
    return ImageCheckpoint(folder, config, max(1, _own_size_px(settings, processor) // patch_px) * patch_px)


def read_speech_checkpoint(tower: str, *, longest_s: float) -> SpeechCheckpoint:
    """As `read_image_checkpoint`, of a speech encoder for utterances up to `longest_s`."""
    folder, stored = _read(tower, "speech")
    family, processor = cast(SpeechFamily, stored["model_type"]), _processor(folder)
    settings = _complete(speech_model(family), stored, folder)
    rate_hz = processor.get("sampling_rate", SAMPLE_RATE_HZ)
    if rate_hz != SAMPLE_RATE_HZ:
        what = "speech encoder of another sampling rate"
        raise ConfigError(what, seen=rate_hz, expected=SAMPLE_RATE_HZ, where=tower)
    if family == "whisper":
        positions = whisper_positions(longest_s, int(str(settings["max_source_positions"])))
        settings |= {"max_source_positions": positions, "decoder_layers": 0, "encoder_layerdrop": 0.0}
        return SpeechCheckpoint(folder, PretrainedSpeechConfig(family=family, transformer=settings))
    # our own augmentation varies what is heard; theirs draws from numpy, which a resumed step could not draw again
    settings |= {"apply_spec_augment": False, "layerdrop": 0.0}
    normalise = bool(processor.get("do_normalize", True))
    return SpeechCheckpoint(folder, PretrainedSpeechConfig(family=family, transformer=settings, normalise=normalise))


def _read(tower: str, kind: str) -> tuple[Path, dict[str, Any]]:
    """The folder, and of its settings the part that is a tower, checked to be one of `kind`."""
    import_transformers()
    folder = folder_of(tower)
    stored = _json(folder / SETTINGS_FILE)
    if (model_type := str(stored.get("model_type"))) in _PARTS:
        stored = {**stored.get("vision_config", {}), "model_type": _PARTS[model_type]}
    if stored.get("model_type") not in _FAMILIES[kind]:
        other = "speech" if kind == "image" else "image"
        raise ConfigError(
            f"the checkpoint is no {kind} tower we know",
            seen=f"model_type {model_type}",
            expected=", ".join(sorted({*_FAMILIES[kind], *(_PARTS if kind == "image" else ())})),
            where=tower,
            fix=f"give it as --{other}-tower" if stored.get("model_type") in _FAMILIES[other] else None,
        )
    return folder, stored


def _json(path: Path) -> dict[str, Any]:
    with refused("checkpoint cannot be read", where=str(path), expected="a JSON object"):
        return dict(json.loads(path.read_text()))


def _processor(folder: Path) -> dict[str, Any]:
    """How its pixels or samples are made: a file of its own, or a part of one beside a tokenizer; {} for none."""
    for path in (folder / name for name in PROCESSOR_FILES):
        if path.exists():
            whole = _json(path)
            return next((whole[part] for part in ("image_processor", "feature_extractor") if part in whole), whole)
    return {}


def _complete(model_type: Any, stored: Mapping[str, Any], folder: Path) -> dict[str, JsonValue]:
    """The settings with every default of this version of transformers written out, without names and labels."""
    with refused("checkpoint's settings do not fit", where=str(folder / SETTINGS_FILE), expected=model_type.__name__):
        config = model_type.config_class.from_dict(dict(stored))
        settings = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in settings.items() if name not in _SAYS_NOTHING}


def _own_size_px(settings: Mapping[str, JsonValue], processor: Mapping[str, Any]) -> int:
    """The side that its image processor brings images to, else that of its settings."""
    cut_to = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    for value in (cut_to, processor.get("size"), settings.get("image_size")):
        side = (value.get("height") or value.get("shortest_edge")) if isinstance(value, dict) else value
        if isinstance(side, int):
            return side
    num_patches = settings.get("num_patches")  # SigLIP 2 names how many patches, of an image of any shape
    is_counted = isinstance(num_patches, int)
    return int(int(str(num_patches)) ** 0.5) * int(str(settings["patch_size"])) if is_counted else _USUAL_SIZE_PX


def _normalisation(family: ImageFamily, processor: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """Mean and deviation for pixels of 0..1: its image processor's, else those that its family is trained with."""
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    is_dino = family.startswith("dino")
    mean = tuple(processor.get("image_mean") or (PHOTO_MEAN if is_dino else (0.5, 0.5, 0.5)))
    std = tuple(processor.get("image_std") or (PHOTO_STD if is_dino else (0.5, 0.5, 0.5)))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        what, seen = "image processor of another shape", f"mean {mean}, std {std}"
        raise ConfigError(what, seen=seen, expected="three numbers each", where=folder)
    return mean, std


def _tensors(model_type: Any, settings: Mapping[str, JsonValue], folder: Path, **arguments: bool) -> dict[str, Tensor]:
    with refused("checkpoint's tensors cannot be read", where=str(folder), expected=f"those of {model_type.__name__}"):
        model, found = model_type.from_pretrained(
            folder,
            config=model_type.config_class.from_dict(dict(settings)),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **arguments,
        )
    missing = sorted(name for name in found["missing_keys"] if not name.endswith(_UNUSED_TENSORS))
    if missing:
        seen = f"{len(missing)} not there, as {missing[0]}"
        raise ConfigError("checkpoint lacks tensors", seen=seen, expected=f"all of {model_type.__name__}", where=folder)
    return dict(model.state_dict())
