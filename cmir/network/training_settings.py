"""What a training run is: one frozen model, saved in the bundle; its defaults suit UC Merced on two cores."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from cmir.archive.schema import Modality
from cmir.errors import ConfigError
from cmir.network.augment import ImageAugmentation
from cmir.network.objectives import cmirnet, contrastive
from cmir.network.objectives.cmirnet import CmirNetSettings, CmirNetWeights
from cmir.network.objectives.contrastive import ContrastiveWeights
from cmir.network.precision import TrainingPrecision
from cmir.network.pretrained_source import OWN_TOWER, is_folder

Preset = Literal["pan-ms", "image-speech", "all"]
Objective = Literal["contrastive", "cmirnet"]
Compile = Literal["cuda", "never", "always"]
Unspoken = Literal["refuse", "keep"]
_TERMS: Final[dict[Objective, tuple[str, ...]]] = {"contrastive": contrastive.TERMS, "cmirnet": cmirnet.TERMS}
# The published network sees chips whole (PAPER, section 2); its layers are bound to these sizes.
_PUBLISHED_SIZE_PX: Final[dict[Modality, int]] = {"pan": 256, "ms": 64, "rgb": 256}
# What a preset changes of the defaults, chosen on a val split (docs/decisions.md).
_PRESET_SIZE_PX: Final[dict[Preset, dict[Modality, int]]] = {"pan-ms": {"pan": 128, "ms": 96}}
_PRESET_WEIGHTS: Final[dict[Preset, dict[str, float]]] = {"pan-ms": {"classes": 0.75, "pairs": 0.35}}
_PRESET_AUGMENTATION: Final[dict[Preset, dict[str, float]]] = {
    "pan-ms": {"min_area": 0.35},
    "image-speech": {"min_area": 0.35},
}
_SIZE_STEP_PX: Final = 16  # what the image tower divides sides by
_LEAST_GROWN_PX: Final = 64
_NEEDED: Final[dict[Preset, tuple[Modality, ...]]] = {
    "pan-ms": ("pan", "ms"),
    "image-speech": ("rgb", "speech"),
    "all": (),
}


class TrainSettings(BaseModel):
    """How a network is trained. A batch holds `grounds_per_batch` places, each with all its chips, plus utterances.

    Training ends after `max_steps` or `max_minutes`, whichever comes first; minutes count from the start of `fit`,
    reading included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "all"
    objective: Objective = "contrastive"
    dim: int = Field(default=128, ge=2, le=4096)
    max_steps: int | None = Field(default=None, ge=1)
    max_minutes: float = Field(default=19.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    ablate: str | None = None
    weights: ContrastiveWeights = Field(default_factory=ContrastiveWeights)
    published: CmirNetSettings = Field(default_factory=CmirNetSettings, description="read by objective cmirnet")
    augmentation: ImageAugmentation = Field(default_factory=ImageAugmentation)
    chip_size_px: dict[Modality, int] = Field(default={"pan": 64, "ms": 64, "rgb": 128})
    growth: tuple[tuple[float, float], ...] = Field(
        default=((0.5, 2 / 3), (0.75, 5 / 6)),
        description="up to a fraction of the training, chips have this part of their side; empty: always the whole",
    )
    speech_strength: tuple[float, float] = Field(
        default=(0.2, 0.6), description="strength of speech augmentation at the start; when it has grown to 1"
    )
    image_width: int = Field(default=192, ge=32, multiple_of=4)
    image_depths: tuple[int, ...] = (2, 2, 2)
    image_tower: str = Field(default=OWN_TOWER, description="ours, or a pretrained one: a folder or a hub id")
    speech_tower: str = Field(default=OWN_TOWER, description="ours, or a pretrained one: a folder or a hub id")
    tune_towers: bool = Field(default=False, description="train pretrained towers too; else they stay as they are")
    tower_learning_rate: float = Field(default=3e-5, gt=0, description="highest one of tuned pretrained towers")
    grounds_per_batch: int = Field(default=32, ge=1)
    utterances_per_batch: int = Field(default=24, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    kernel_learning_rate: float = Field(default=0.02, gt=0, description="highest one of kernels inside our own towers")
    kernel_decay: float = Field(default=0.0, ge=0, description="weight decay of those kernels")
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=150, ge=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    average_decay: float = Field(default=0.995, ge=0, lt=1)
    validate_every_s: float = Field(default=120.0, gt=0)
    cache_bytes: int = Field(default=2 * 2**30, gt=0)
    accumulation_steps: int = Field(
        default=1, ge=1, description="parts in which a step's chips go through the tower; the gradient is that of all"
    )
    patience: int | None = Field(
        default=None, ge=1, description="validations in a row without a better score after which training ends"
    )
    unspoken_labels: Unspoken = Field(
        default="refuse", description="labels of chips that no utterance says, where there is speech: refuse, or keep"
    )
    compile: Compile = Field(default="cuda", description="whether the trunk is compiled: on CUDA, never, or always")

    precision: TrainingPrecision = Field(default="auto", description="bf16 where the device has units for it, or fp32")

    @model_validator(mode="after")
    def _ablates_a_term_of_the_objective(self) -> Self:
        check_term(self.objective, self.ablate)
        return self

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        given = _given(self.published.weights if self.objective == "cmirnet" else self.weights)
        check_terms_left(self.objective, self.preset, given, self.ablate)
        return self

    @model_validator(mode="after")
    def _divides_what_can_be(self) -> Self:
        check_accumulation(self.objective, self.accumulation_steps)
        check_precision(self.objective, self.precision)
        return self

    @model_validator(mode="after")
    def _pretrained_towers_fit(self) -> Self:
        for tower in (self.image_tower, self.speech_tower):
            check_tower(self.objective, tower)
        check_tuning(self.tune_towers, self.image_tower, self.speech_tower)
        return self

    def recorded(self) -> dict[str, JsonValue]:
        """What a bundle keeps of them: of a tower's folder only the name, since bundles hold no local paths."""
        towers = {"image_tower": self.image_tower, "speech_tower": self.speech_tower}
        names = {field: PurePath(tower).name for field, tower in towers.items() if is_folder(tower)}
        used: dict[str, JsonValue] = {"chip_size_px": {str(name): px for name, px in self.working_size_px.items()}}
        if self.objective == "contrastive":
            used["weights"] = self.term_weights.model_dump()
            used["augmentation"] = self.image_augmentation.model_dump()
        return {**self.model_dump(mode="json"), **used, **names}

    @property
    def term_weights(self) -> ContrastiveWeights:
        """The contrastive weights: those given, else the preset's; the ablated term is left out."""
        told = {**_PRESET_WEIGHTS.get(self.preset, {}), **_given(self.weights)}
        return ContrastiveWeights.model_validate({**told, self.ablate: 0.0} if self.ablate else told)

    @property
    def image_augmentation(self) -> ImageAugmentation:
        """How chips vary under the contrastive objective: as given, else as the preset has it."""
        told = {**_PRESET_AUGMENTATION.get(self.preset, {}), **_given(self.augmentation)}
        return ImageAugmentation.model_validate(told)

    @property
    def published_settings(self) -> CmirNetSettings:
        """The published objective's settings with the ablated term left out."""
        weights = self.published.weights.model_copy(update={self.ablate: 0.0} if self.ablate else {})
        return self.published.model_copy(update={"weights": weights})

    @property
    def working_size_px(self) -> dict[Modality, int]:
        """The side to which chips are resized: as set, else the published network's or the preset's own."""
        if "chip_size_px" in self.model_fields_set:
            return self.chip_size_px
        is_published = self.objective == "cmirnet"
        return _PUBLISHED_SIZE_PX if is_published else {**self.chip_size_px, **_PRESET_SIZE_PX.get(self.preset, {})}

    def size_px_at(self, modality: Modality, fraction: float) -> int:
        """The side of training chips when `fraction` of the training has passed, a multiple of 16 or the whole.

        Most of what is to be learned shows in small chips at less than half the work; the last part of the training
        sees them as inference does (progressive learning: Tan and Le, "EfficientNetV2", 2021). Chips of 64 px have
        nothing to spare and are never made smaller.
        """
        whole_px = self.working_size_px[modality]
        scale = next((scale for until, scale in self.growth if fraction < until), 1.0)
        grown_px = math.ceil(whole_px * scale / _SIZE_STEP_PX) * _SIZE_STEP_PX
        return min(whole_px, max(_LEAST_GROWN_PX, grown_px))

    def speech_strength_at(self, fraction: float) -> float:
        """How strong speech augmentation is, 0..1, when `fraction` of the training has passed: words come first."""
        start, full_at = self.speech_strength
        return min(1.0, start + (1.0 - start) * fraction / full_at) if full_at > 0 else 1.0


def _given(settings: BaseModel) -> dict[str, Any]:
    """The fields that somebody set, which go before a preset's."""
    return settings.model_dump(include=settings.model_fields_set)


def check_term(objective: Objective, term: str | None) -> None:
    """Raises ValueError where the objective has no such term; None is none."""
    terms = _TERMS[objective]
    if term is not None and term not in terms:
        raise ValueError(f"objective {objective} has no term {term}, only {', '.join(terms)}")


def check_terms_left(objective: Objective, preset: Preset, weights: Mapping[str, float], ablate: str | None) -> None:
    """Raises ValueError where no term of the objective is left with a weight; of the published one, none of stage 2,
    which alone trains what is searched by. `weights` are those given."""
    terms: tuple[str, ...] = contrastive.TERMS
    told = {**ContrastiveWeights().model_dump(), **_PRESET_WEIGHTS.get(preset, {}), **weights}
    if objective == "cmirnet":
        terms, told = cmirnet.STAGE_2, {**CmirNetWeights().model_dump(), **weights}
    if not any(told[name] > 0 for name in terms if name != ablate):
        raise ValueError(f"nothing would be learnt: one of the weights {', '.join(terms)} has to be above 0")


def check_accumulation(objective: Objective, accumulation_steps: int) -> None:
    """Raises ValueError where the objective's step cannot be divided."""
    if objective == "cmirnet" and accumulation_steps > 1:
        raise ValueError("objective cmirnet has batch norm over whole steps, which cannot be divided")


def check_precision(objective: Objective, precision: TrainingPrecision) -> None:
    """Raises ValueError where the objective has no such precision."""
    if objective == "cmirnet" and precision == "bf16":
        raise ValueError("objective cmirnet trains in fp32")


def is_wanted(preset: Preset, modality: Modality) -> bool:
    """Whether a preset would train the modality where it is there."""
    return not _NEEDED[preset] or modality in _NEEDED[preset]


def weight_settings(objective: Objective, weights: Mapping[str, float]) -> dict[str, Any]:
    """The fields of TrainSettings for weights by name, of those terms that are not to have their default.

    Raises ValueError where the objective has no such weight.
    """
    known = CmirNetWeights.model_fields if objective == "cmirnet" else ContrastiveWeights.model_fields
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise ValueError(f"objective {objective} has no weight {', '.join(unknown)}, only {', '.join(known)}")
    return {"published": {"weights": dict(weights)}} if objective == "cmirnet" else {"weights": dict(weights)}


def check_tower(objective: Objective, tower: str) -> None:
    """Raises ValueError where the objective takes no pretrained tower."""
    if objective == "cmirnet" and tower != OWN_TOWER:
        raise ValueError("objective cmirnet has towers of its own")


def check_tuning(tune: bool, *towers: str) -> None:
    """Raises ValueError where there is nothing to tune: our own towers are trained anyway."""
    if tune and set(towers) <= {OWN_TOWER}:
        raise ValueError("there is no pretrained tower to tune, name one")


def chosen_modalities(preset: Preset, present: tuple[Modality, ...]) -> tuple[Modality, ...]:
    """The modalities a preset trains, of those present. Raises ConfigError where one it needs is missing."""
    needed = _NEEDED[preset]
    missing = [name for name in needed if name not in present]
    if missing:
        raise ConfigError(
            f"preset {preset} needs other modalities",
            seen=", ".join(present) or "none",
            expected=", ".join(needed),
            fix=f"add shards of {' and '.join(missing)} with --shards, or choose another --preset",
        )
    return tuple(name for name in present if name in needed) if needed else present
