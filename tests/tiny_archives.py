"""Small archives to train on: chips whose colour says their label, of several sensors, and tones that name a label."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cmir.archive.imagery import raw_media
from cmir.archive.schema import Media, Modality, ShardRow, Split, make_group_id, make_item_id
from cmir.archive.shards import ShardFileWriter
from cmir.archive.speech import pcm_media
from cmir.network.augment import ImageAugmentation, VariedBatch
from cmir.network.feed import TrainingFeed
from cmir.network.learner import Learner
from cmir.network.new_learner import build_learner
from cmir.network.training import feed_settings
from cmir.network.training_data import read_training_data
from cmir.network.training_settings import TrainSettings

LABELS = ("field", "sea", "trees")
BANDS = {"rgb": ("red", "green", "blue"), "pan": ("pan",), "ms": ("blue", "green", "red", "nir")}


def chip_row(i: int, modality: Modality, *, labels: Sequence[str] | None = None, is_paired: bool = True) -> ShardRow:
    """Chip number `i`: its label is `LABELS[i % 3]`, its texture is its own and shared by all its sensors."""
    label = LABELS[i % 3]
    ground = np.random.default_rng(i).integers(0, 80, (16, 16))
    tint = {"field": (160, 40, 90, 120), "sea": (20, 60, 150, 10), "trees": (60, 140, 30, 170)}[label]
    bands = BANDS[modality]
    pixels = np.stack([ground + tint[k] for k in range(len(bands))]).astype(np.uint8)
    return ShardRow(
        item_id=make_item_id("tiny", str(i), modality),
        media=raw_media(modality, pixels, bands=bands, sensor="tiny", gsd_m=1.0),
        scene_id=make_group_id("scene", str(i)),
        source_uri=f"tiny-{i}",
        labels=(label,) if labels is None else tuple(labels),
        scene_class=label,
        pair_id=make_group_id("pair", str(i)) if is_paired else None,
    )


def tone_row(i: int) -> ShardRow:
    """Utterance number `i`: a tone whose pitch says its label `LABELS[i % 3]`."""
    time_s = np.arange(4800) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (300, 900, 2500)[i % 3] * time_s * (1 + 0.01 * (i // 3 % 5)))
    return _spoken(i, pcm_media(tone.astype(np.float32)), (LABELS[i % 3],))


def features_row(i: int) -> ShardRow:
    """Speech number `i` as a feature vector f32[8]; every fifth names two labels."""
    vector = np.random.default_rng(i).normal(size=8).astype(np.float32) * 0.1
    vector[i % 3] += 1.0
    labels = (LABELS[i % 3], LABELS[(i + 1) % 3]) if i % 5 == 0 else (LABELS[i % 3],)
    return _spoken(i, Media("speech", vector.tobytes(), "raw", dtype="float32", shape=(8,)), labels)


def elsewhere(rows: Sequence[ShardRow]) -> list[ShardRow]:
    """The same items of other grounds and other speakers."""
    return [replace(row, scene_id=make_group_id("elsewhere", row.scene_id)) for row in rows]


def write_archive(folder: Path, rows: Sequence[ShardRow], *, split: Split = "train", part: int = 0) -> str:
    """Write rows as one shard per modality below `folder`; returns its URI."""
    for modality in {row.media.modality for row in rows}:
        writer = ShardFileWriter(str(folder / modality / split / f"part-{part:05d}.parquet"), split)
        for row in rows:
            if row.media.modality == modality:
                writer.add(row)
        writer.close()
    return str(folder)


def nameless_row(i: int) -> ShardRow:
    """A hiss: an utterance that names no label."""
    hiss = (np.random.default_rng(i).normal(0, 0.1, 8_000)).astype(np.float32)
    return _spoken(i, pcm_media(hiss), ())


def tiny_settings(**changed: object) -> TrainSettings:
    """Settings of a network that trains in seconds."""
    values: dict[str, object] = {
        "dim": 16,
        "chip_size_px": {"pan": 16, "ms": 16, "rgb": 16},
        "image_width": 32,
        "image_depths": (1,),
        "grounds_per_batch": 8,
        "utterances_per_batch": 6,
        "warmup_steps": 3,
        "max_steps": 10,
        "precision": "fp32",  # whatever the machine has units for
        "augmentation": ImageAugmentation(noise=0.05, gain=0.05, offset=0.05, band_offset=0.02),
        **changed,
    }
    return TrainSettings.model_validate(values)


def _spoken(i: int, media: Media, labels: tuple[str, ...]) -> ShardRow:
    return ShardRow(
        item_id=make_item_id("tiny", f"speech-{i}", "speech"),
        media=media,
        scene_id=make_group_id("voice", str(i // 8)),
        source_uri=f"tiny-speech-{i}",
        labels=labels,
    )


def one_step(settings: TrainSettings, uri: str) -> tuple[Learner, VariedBatch]:
    """A new learner of the archive at `uri`, on the CPU, and its first batch, ready for `step`."""
    data = read_training_data(settings, [uri])
    learner = build_learner(settings, data, torch.device("cpu"))
    assert isinstance(learner, Learner)
    feed = TrainingFeed(data.catalogue, data.preprocessing, feed_settings(settings))
    batch = learner.prepare(feed.batch(0), step=0, fraction=0.0)
    feed.close()
    return learner, batch
