"""Shards -> what training must know before its first step: catalogues of train and val, pixel statistics."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import MODALITIES, Modality, Split
from cmir.archive.shards import ShardFile, list_shards, medias, read_row_group
from cmir.archive.speech import decode_features, is_features
from cmir.errors import ConfigError, DataError
from cmir.network import checks
from cmir.network.catalogue import Catalogue, read_catalogue
from cmir.network.preprocessing import Preprocessing
from cmir.network.scenes import check_disjoint
from cmir.network.space import DataCount
from cmir.network.spoken_forms import read_spoken_forms
from cmir.network.statistics import RunningStatistics
from cmir.network.training_settings import Preset, TrainSettings, chosen_modalities, is_wanted

log = logging.getLogger("cmir")

_SAMPLE_PIECES: Final = 8  # row groups per modality that pixel statistics are taken from
_SAMPLE_ROWS: Final = 64  # rows of each of them


@dataclass(frozen=True)
class TrainingData:
    """Catalogues of the train and val splits, the preprocessing that the train split's statistics give, what is said in
    it for each label, and the labels of its chips that nobody says."""

    modalities: tuple[Modality, ...]
    catalogue: Catalogue
    validation: Catalogue | None
    preprocessing: Preprocessing
    spoken_forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unspoken_labels: tuple[str, ...] = ()

    def counts(self) -> list[DataCount]:
        """Items by modality and split, for the model card."""
        splits: list[tuple[Split, Catalogue | None]] = [("train", self.catalogue), ("val", self.validation)]
        return [
            DataCount(modality=modality, split=split, num_items=int((items.modality == index).sum()))
            for split, items in splits
            if items is not None
            for index, modality in enumerate(MODALITIES)
            if modality in self.modalities
        ]


def read_training_data(settings: TrainSettings, shard_uris: Sequence[str]) -> TrainingData:
    """Catalogues and preprocessing of the preset's modalities below the URIs. Raises as `fit`."""
    catalogues = read_catalogues(settings, shard_uris)
    sizes = {name: size for name, size in settings.working_size_px.items() if name in catalogues.modalities}
    preprocessing = Preprocessing.fit(
        sample_statistics(catalogues.train_files),
        chip_size_px=sizes,
        bands_by_wavelength=settings.objective != "cmirnet",  # its kernels are bound to the bands of training
    )
    forms = read_spoken_forms(catalogues.train_files)
    return TrainingData(
        catalogues.modalities,
        catalogues.train,
        catalogues.validation,
        preprocessing,
        forms,
        catalogues.unspoken_labels,
    )


@dataclass(frozen=True)
class Catalogues:
    """The train split and, where there is one, the val split of the preset's modalities; nothing decoded.

    `unspoken_labels`: labels of chips of train that no utterance of it says, where some speak.
    """

    modalities: tuple[Modality, ...]
    train_files: list[ShardFile]
    train: Catalogue
    validation: Catalogue | None
    unspoken_labels: tuple[str, ...] = ()


def read_catalogues(settings: TrainSettings, shard_uris: Sequence[str]) -> Catalogues:
    """What training knows before it decodes anything, checked.

    Raises ConfigError where it cannot train or be judged (see checks), DataError where shards cannot be read.
    """
    files = list_shards(shard_uris, splits=("train", "val"))
    train_files = [file for file in files if file.split == "train"]
    modalities = trainable_modalities(settings.preset, train_files)
    train_files = [file for file in train_files if file.modality in modalities and file.num_rows]
    train = read_catalogue(train_files)
    checks.check_train_positives(train)
    unspoken = checks.unspoken_labels(train, settings.unspoken_labels)
    held_out = [file for file in files if file.split == "val" and file.num_rows and file.modality in modalities]
    validation = checks.in_vocabulary(read_catalogue(held_out), train) if held_out else None
    if validation is not None:
        check_disjoint(train.scenes, validation.scenes, held_out)
    if settings.patience is not None and (validation is None or not checks.can_judge(validation)):
        fix = "add a val split with chips, or leave --patience out"
        raise ConfigError("early stopping has nothing to judge by", seen="no val split", expected="one", fix=fix)
    if validation is not None:
        checks.can_judge(validation)
    return Catalogues(modalities, train_files, train, validation, unspoken)


def trainable_modalities(preset: Preset, train: Sequence[ShardFile]) -> tuple[Modality, ...]:
    """The modalities that a preset trains on these shards of the train split.

    Raises ConfigError where there is nothing to train on, a modality is missing that the preset needs, or one it would
    train has shards but no rows.
    """
    for name in MODALITIES:
        # a shard without rows tells its modality by its folders alone
        empty = [file.uri for file in train if not file.num_rows and file.uri.split("/")[-3:-1] == [name, "train"]]
        if empty and is_wanted(preset, name) and not any(file.modality == name and file.num_rows for file in train):
            fix = "shard its source again, or leave its shards out of --shards"
            seen = f"{name}: 0 rows in {len(empty)} shards of split train"
            raise ConfigError("a modality has no rows", seen=seen, expected="at least one", where=empty[0], fix=fix)
    present = tuple(name for name in MODALITIES if any(file.modality == name and file.num_rows for file in train))
    if not present:
        fix = "shard the archive with a train split"
        raise ConfigError("nothing to train on", seen="no rows of split train", expected="at least one", fix=fix)
    return chosen_modalities(preset, present)


def sample_statistics(shard_files: Sequence[ShardFile]) -> RunningStatistics:
    """Pixel and feature statistics of evenly spread rows of every modality; the same on every worker."""
    statistics = RunningStatistics()
    for modality in MODALITIES:
        places = [(f.uri, i, n) for f in shard_files if f.modality == modality for i, n in enumerate(f.row_groups)]
        for uri, row_group, num_rows in places[:: max(1, len(places) // _SAMPLE_PIECES)]:
            rows = np.arange(0, num_rows, max(1, num_rows // _SAMPLE_ROWS))
            for media in medias(read_row_group(uri, row_group).take(rows)):
                try:
                    if modality != "speech":
                        statistics.add_chip(modality, decode_chip(media))
                    elif is_features(media):
                        statistics.add_features(decode_features(media))
                except DataError as error:
                    log.warning("left out of the statistics: %s: %s", uri, error)
    return statistics
