"""Settings and training data -> a learner with a network of its own, new or started from a bundle's tensors."""

import logging
import math
from typing import TypeAlias

import torch

from cmir.archive.schema import IMAGE_MODALITIES
from cmir.errors import ConfigError
from cmir.network.bundle import load_bundle
from cmir.network.cmirnet_learner import CmirNetLearner, check_stages, published_config
from cmir.network.cmirnet_model import CmirNet
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.learner import Learner
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.objectives.contrastive import ContrastiveObjective
from cmir.network.pretrained_training import check_towers, fill_towers, image_checkpoint, speech_checkpoint
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.training_data import TrainingData
from cmir.network.training_settings import TrainSettings

log = logging.getLogger("cmir")

AnyLearner: TypeAlias = Learner | CmirNetLearner


def build_learner(
    settings: TrainSettings, data: TrainingData, device: torch.device, init_from: str | None = None
) -> AnyLearner:
    """A network for the data's modalities and labels, its objective and optimiser; the same for the same seed.

    Raises ConfigError where the objective or a pretrained tower does not fit the data, or cannot start from a bundle.
    """
    if settings.objective == "cmirnet":
        return _published_learner(settings, data, device, init_from)
    images = tuple(name for name in data.modalities if name in IMAGE_MODALITIES)
    speech = SpeechTowerConfig()
    if data.preprocessing.features is not None:
        speech = SpeechTowerConfig(kind="features", input_dim=len(data.preprocessing.features.mean))
    check_towers(settings, data.modalities)
    seen, heard = image_checkpoint(settings), speech_checkpoint(settings, longest_s=data.preprocessing.max_speech_s)
    if heard is not None and speech.kind == "features":
        fix = "leave --speech-tower out, or use shards of sound"
        raise ConfigError("a pretrained speech tower takes sound", seen="speech as features", fix=fix)
    config = NetworkConfig(
        modalities=data.modalities,
        dim=settings.dim,
        labels=data.catalogue.label_names,
        image=ImageTowerConfig(
            modalities=images or IMAGE_MODALITIES, width=settings.image_width, depths=settings.image_depths
        ),
        speech=speech,
        pretrained_image=seen.config if seen else None,
        pretrained_speech=heard.config if heard else None,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        net = SharedSpaceNet(config)
        objective = ContrastiveObjective(
            settings.term_weights, dim=settings.dim, num_classes=len(data.catalogue.class_names)
        )
    fill_towers(net, seen, heard, tune=settings.tune_towers)
    labels = data.catalogue.labels
    if labels.any():  # start at the labels' prevalence: the first steps need not learn that most labels are absent
        share = float(labels[labels.any(axis=1)].mean())
        torch.nn.init.constant_(net.logit_bias, math.log(share / (1.0 - share + 1e-6)) - 1.0)
    if init_from is not None:
        _start_from(net, init_from)
    return Learner(net, objective, settings, device)


def _published_learner(
    settings: TrainSettings, data: TrainingData, device: torch.device, init_from: str | None
) -> CmirNetLearner:
    if init_from is not None:
        raise ConfigError("objective cmirnet starts from random weights", seen=init_from, fix="leave --init-from out")
    check_stages(settings, data.modalities, data.catalogue)
    config = published_config(data.modalities, data.catalogue, data.preprocessing, dim=settings.dim)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        net = CmirNet(config)
    return CmirNetLearner(net, settings.published_settings, settings.augmentation, seed=settings.seed, device=device)


def _start_from(net: SharedSpaceNet, bundle_uri: str) -> None:
    """Copy what has the same name and shape; prototypes by their label."""
    other = load_bundle(bundle_uri).net
    mine, theirs = net.state_dict(), other.state_dict()
    same = {k: v for k, v in theirs.items() if k in mine and v.shape == mine[k].shape and k != "prototypes"}
    net.load_state_dict(same, strict=False)
    if other.config.dim == net.config.dim:
        for place, label in enumerate(net.config.labels):
            if label in other.config.labels:
                net.prototypes.data[place] = theirs["prototypes"][other.config.labels.index(label)]
    log.info("started from %d of %d tensors of %s", len(same), len(mine), bundle_uri)
