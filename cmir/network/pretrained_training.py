"""Pretrained towers in training: chips of their size, their tensors in the network, their part of the learning rate."""

from typing import Any

from torch import nn

from cmir.archive.schema import IMAGE_MODALITIES, Modality
from cmir.errors import ConfigError
from cmir.network.model import SharedSpaceNet
from cmir.network.pretrained_checkpoint import (
    ImageCheckpoint,
    SpeechCheckpoint,
    read_image_checkpoint,
    read_speech_checkpoint,
)
from cmir.network.pretrained_source import OWN_TOWER
from cmir.network.training_settings import TrainSettings


def check_towers(settings: TrainSettings, modalities: tuple[Modality, ...]) -> None:
    """Raises ConfigError where a tower that is asked for cannot be used, or would take none of the modalities."""
    for flag, tower, taken in (
        ("--image-tower", settings.image_tower, IMAGE_MODALITIES),
        ("--speech-tower", settings.speech_tower, ("speech",)),
    ):
        if tower != OWN_TOWER and not set(taken) & set(modalities):
            seen, fix = ", ".join(modalities), f"leave {flag} out, or choose another --preset"
            raise ConfigError(f"{flag} has nothing to do", seen=seen, expected=" or ".join(taken), fix=fix)
    image_checkpoint(sized_for_towers(settings))
    speech_checkpoint(settings, longest_s=1.0)


def sized_for_towers(settings: TrainSettings) -> TrainSettings:
    """The settings with chips of the size that a pretrained image tower was trained on, where none was chosen."""
    checkpoint = image_checkpoint(settings)
    if checkpoint is None or "chip_size_px" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"chip_size_px": dict.fromkeys(IMAGE_MODALITIES, checkpoint.size_px)})


def image_checkpoint(settings: TrainSettings) -> ImageCheckpoint | None:
    """The pretrained image tower, None for our own. Raises ConfigError where it, or the size of chips, will not do."""
    if settings.image_tower == OWN_TOWER:
        return None
    checkpoint = read_image_checkpoint(settings.image_tower)
    patch_px = checkpoint.config.patch_px
    odd = [size for size in settings.chip_size_px.values() if size % patch_px]
    if odd and "chip_size_px" in settings.model_fields_set:
        fix = f"use --chip-size-px {max(1, round(odd[0] / patch_px)) * patch_px}"
        raise ConfigError("chips are no whole patches", seen=f"{odd[0]} px", expected=f"a multiple of {patch_px}",
                          where=settings.image_tower, fix=fix)  # fmt: skip
    return checkpoint


def speech_checkpoint(settings: TrainSettings, *, longest_s: float) -> SpeechCheckpoint | None:
    """The pretrained speech tower for utterances up to `longest_s`, None for our own. Raises ConfigError."""
    if settings.speech_tower == OWN_TOWER:
        return None
    return read_speech_checkpoint(settings.speech_tower, longest_s=longest_s)


def fill_towers(
    net: SharedSpaceNet, image: ImageCheckpoint | None, speech: SpeechCheckpoint | None, *, tune: bool
) -> None:
    """Put the checkpoints' tensors into the towers; without `tune` they will stay as they are.

    What transformers itself does not train (Whisper's positions) stays as it is in any case.
    """
    for tower, checkpoint in ((net.image_tower, image), (net.speech_tower, speech)):
        if tower is not None and checkpoint is not None:
            backbone = tower.get_submodule("backbone")
            backbone.load_state_dict(checkpoint.tensors())
            if not tune:
                backbone.requires_grad_(False)


def backbone_groups(backbones: list[nn.Module], *, weight_decay: float, rate_scale: float) -> list[dict[str, Any]]:
    """Parameter groups of tuned backbones: matrices and kernels decay; norms, biases, tokens and positions do not.

    `rate_scale` is what part of the learning rate they have. No groups where all are frozen.
    """
    modules = [module for backbone in backbones for module in backbone.modules()]
    matrices = {id(m.weight) for m in modules if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    tuned = [p for backbone in backbones for p in backbone.parameters() if p.requires_grad]
    decaying = [p for p in tuned if id(p) in matrices]
    others = [p for p in tuned if id(p) not in matrices]
    groups = ({"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0})
    return [{**group, "rate_scale": rate_scale} for group in groups if group["params"]]
