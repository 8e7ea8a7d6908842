"""The published network in training: the same calls as `learner.Learner` has for ours, so that `fit` takes either.

As published: Adam, two stages for two image modalities, one for image and speech. No running average of the weights
(`average` is the network itself). Chips and utterances are varied as for our network.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from cmir.archive.schema import IMAGE_MODALITIES, Modality
from cmir.errors import ConfigError
from cmir.network.augment import ImageAugmentation, VariedBatch, vary_batch
from cmir.network.augment_speech import SpeechAugmenter
from cmir.network.batches import Batch, SpeechPart
from cmir.network.catalogue import Catalogue
from cmir.network.cmirnet_model import CmirNet
from cmir.network.learner import average_gradients, finite_values, step_seed
from cmir.network.model import CmirNetConfig, NetworkConfig
from cmir.network.objectives.cmirnet import STAGE_1, STAGE_2, CmirNetObjective, CmirNetSettings, CmirNetWeights
from cmir.network.preprocessing import Preprocessing
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.training_settings import TrainSettings

_HIDDEN_DIM: Final = 512  # of the published image side beside speech: 4096 -> 512 -> 128


class CmirNetLearner:
    """Network, objective and optimiser; `step` takes a batch.

    `is_judged`: whether the encoders that are searched by have been trained in the last step. Stage 1 leaves them as
    they were made, so that figures of it say nothing.
    """

    def __init__(
        self,
        net: CmirNet,
        settings: CmirNetSettings,
        augmentation: ImageAugmentation,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.net = net.to(device)
        self.average = self.net
        self.device, self.seed = device, seed
        self.augmentation = augmentation.model_copy(update={"fewer_bands": 0.0})  # kernels are bound to their bands
        self.learning_rate = settings.learning_rate
        self.objective = CmirNetObjective(settings.weights, stage1_share=settings.stage1_share)
        self.is_judged = self.objective.stage(self.net, 0.0) == 2
        self.augment_speech = SpeechAugmenter().to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate)

    def prepare(self, batch: Batch, *, step: int, fraction: float, rank: int = 0) -> VariedBatch:
        """What `step` takes; touches nothing that a step changes, so it may run ahead in a thread."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, rank))
        return vary_batch(batch, self.net.settings.chip_size_px, self.augmentation, generator, self.device)

    def step(self, batch: VariedBatch, *, step: int, fraction: float, rank: int = 0) -> dict[str, float]:
        """One update; `fraction` 0..1 is how much of the whole training has passed. Returns the terms and their sum.

        Raises DivergedError, the weights as they were, where the loss or its gradient is not finite.
        """
        self.objective.begin_step(self.net, fraction)
        self.optimizer.zero_grad()
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if self.device.type == "cuda" else ()):
            torch.manual_seed(step_seed(self.seed, step, rank))
            terms = self.loss_terms(batch, fraction)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        average_gradients(trained)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        values = finite_values(terms, norm, step)
        self.optimizer.step()
        self.is_judged = self.objective.stage(self.net, fraction) == 2
        return {**values, "learning_rate": self.learning_rate}

    def loss_terms(self, batch: VariedBatch, fraction: float) -> dict[str, Tensor]:
        """The weighted terms of the stage for a varied batch."""
        z = [self.net.image_features(part.modality, part.pixels) for part in batch.images]
        z += [self._speech_features(part) for part in batch.speech]
        terms: dict[str, Tensor] = self.objective(self.net, torch.cat(z), batch.targets, fraction=fraction)
        return terms

    def state(self) -> dict[str, Any]:
        """Tensors and numbers from which `load_state` goes on."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same settings."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _speech_features(self, part: SpeechPart) -> Tensor:
        sound, num_samples = part.waveform, part.num_samples
        if not part.is_features:
            sound, num_samples = self.augment_speech(sound, num_samples)
        return self.net.speech_features(sound, num_samples)


def is_multi_label(modalities: tuple[Modality, ...], catalogue: Catalogue) -> bool:
    """Whether the network tells labels apart, and learns all at once; else scene classes, in two stages."""
    return "speech" in modalities or len(catalogue.class_names) < 2


def check_stages(settings: TrainSettings, modalities: tuple[Modality, ...], catalogue: Catalogue) -> None:
    """Raises ConfigError where stage 1 would have nothing to learn, or is to be changed and there is none."""
    weights = settings.published_settings.weights
    if not is_multi_label(modalities, catalogue):
        if not any(getattr(weights, name) > 0 for name in STAGE_1):
            fix = f"give one of {', '.join(STAGE_1)} a weight"
            raise ConfigError("stage 1 of objective cmirnet has nothing to learn", seen="weights of 0", fix=fix)
        return
    usual = CmirNetWeights()
    changed = [name for name in STAGE_1 if getattr(weights, name) != getattr(usual, name)]
    if changed:
        why = "speech" if "speech" in modalities else "no scene classes"
        raise ConfigError(
            f"{' and '.join(changed)} cannot be changed: the network has no stage 1",
            seen=f"{why}, so it tells labels apart and learns all at once",
            expected=f"one of {', '.join(STAGE_2)}",
            fix="leave it out of --ablate and --weights, or train two image modalities with scene classes",
        )


def published_config(
    modalities: tuple[Modality, ...], catalogue: Catalogue, preprocessing: Preprocessing, *, dim: int
) -> NetworkConfig:
    """The published network for these data: labels with sigmoids for image and speech, else scene classes.

    Two image modalities whose items know no scene class are told apart by labels. Raises ConfigError: not two
    modalities, nothing to tell apart, or an image modality with chips of several numbers of bands.
    """
    if len(modalities) != 2:
        seen = ", ".join(modalities)
        raise ConfigError(
            "objective cmirnet joins two modalities",
            seen=seen,
            expected="two",
            fix="use --preset pan-ms or image-speech",
        )
    multi_label = is_multi_label(modalities, catalogue)
    classes = catalogue.label_names if multi_label else catalogue.class_names
    if len(classes) < 2:
        raise ConfigError(
            "nothing to tell apart", seen=f"{len(classes)} classes", expected="two labels or scene classes"
        )
    images = [name for name in modalities if name in IMAGE_MODALITIES]
    features = preprocessing.features
    return NetworkConfig(
        modalities=modalities,
        dim=dim,
        labels=catalogue.label_names if multi_label else (),
        speech=SpeechTowerConfig(kind="features", input_dim=len(features.mean)) if features else SpeechTowerConfig(),
        architecture="cmirnet",
        cmirnet=CmirNetConfig(
            classes=classes,
            multi_label=multi_label,
            num_bands={name: _num_bands(name, preprocessing) for name in images},
            chip_size_px={name: preprocessing.chip_size_px[name] for name in images},
            hidden_dim=_HIDDEN_DIM if "speech" in modalities else None,
        ),
    )


def _num_bands(modality: Modality, preprocessing: Preprocessing) -> int:
    counts = sorted({len(entry.bands) for entry in preprocessing.sensors if entry.modality == modality})
    if len(counts) != 1:
        seen = ", ".join(map(str, counts))
        raise ConfigError(f"objective cmirnet needs {modality} chips of one number of bands", seen=seen, expected="one")
    return counts[0]
