"""A tiny archive of every modality in many small pieces, its bundle, and what a gallery of it must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from cmir.archive import shards
from cmir.archive.imagery import decode_chip
from cmir.archive.schema import Media, Modality, ShardRow, Split
from cmir.archive.shards import ShardFileWriter
from cmir.gallery.table import Gallery
from cmir.network.bundle import save_bundle
from cmir.network.embedder import Embedder
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics
from tests.tiny_archives import BANDS, LABELS, chip_row, tone_row

ROWS_PER_PIECE = 3


def make_bundle(uri: str) -> str:
    """Write an untrained network for every modality as a bundle."""
    import torch

    torch.manual_seed(0)
    config = NetworkConfig(
        modalities=("pan", "ms", "rgb", "speech"),
        dim=16,
        labels=LABELS,
        image=ImageTowerConfig(width=32, depths=(1,)),
        speech=SpeechTowerConfig(width=24, num_mels=32, channels=4, hidden=16, num_blocks=2),
    )
    running = RunningStatistics()
    for modality in ("pan", "ms", "rgb"):
        running.add_chip(modality, decode_chip(chip_row(0, modality).media))
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 16, "ms": 16, "rgb": 16})
    save_bundle(uri, SharedSpaceNet(config).eval(), preprocessing, metrics={}, training={})
    return uri


def write_shard(uri: str, rows: Sequence[ShardRow], split: Split = "train") -> list[str]:
    """Write rows as one shard, three of them a piece; returns their ids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", ROWS_PER_PIECE * len(rows[0].media.data) if rows else 1)
        writer = ShardFileWriter(uri, split)
        for row in rows:
            writer.add(row)
        writer.close()
    return [row.item_id for row in rows]


def write_archive(uri: str, num_rows: int, *, modalities: Sequence[Modality] = ("pan", "ms", "rgb", "speech")) -> str:
    """Write that many rows of every modality as two shards each; returns the archive's URI."""
    for modality in modalities:
        rows = rows_of(modality, range(num_rows))
        for part, chosen in enumerate((rows[: num_rows // 2], rows[num_rows // 2 :])):
            write_shard(f"{uri}/{modality}/train/part-{part:05d}.parquet", chosen)
    return uri


def vectors_of(bundle_uri: str, rows: Sequence[ShardRow]) -> dict[str, np.ndarray]:
    """The vector of every row as the network gives it, whatever a job does."""
    vectors = Embedder.open(bundle_uri, device="cpu").embed([row.media for row in rows])
    return {row.item_id: vector for row, vector in zip(rows, vectors, strict=True)}


def vectors_in(gallery_uri: str) -> dict[str, np.ndarray]:
    """The vector of every item of a gallery; fails where an id stands twice."""
    gallery = Gallery.open(gallery_uri)
    (space_id,) = gallery.space_ids()
    table = gallery.space(space_id).dataset().to_table(columns=["item_id", "vector"])
    ids = table["item_id"].to_pylist()
    assert len(set(ids)) == len(ids), f"{len(ids) - len(set(ids))} rows are there twice"
    return {item_id: np.array(vector) for item_id, vector in zip(ids, table["vector"].to_pylist(), strict=True)}


def assert_same(gallery_uri: str, expected: Mapping[str, np.ndarray]) -> None:
    """The gallery holds exactly these items, each once and with its vector."""
    found = vectors_in(gallery_uri)
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert (len(missing), len(foreign)) == (0, 0), f"{len(missing)} items are missing, {len(foreign)} are too many"
    for item_id, vector in expected.items():
        np.testing.assert_allclose(found[item_id], vector, atol=1e-5, err_msg=item_id)


def rows_of(modality: Modality, numbers: Sequence[int]) -> list[ShardRow]:
    """The archive's own rows of a modality by number."""
    return [tone_row(i) if modality == "speech" else chip_row(i, modality) for i in numbers]


def nan_row(i: int) -> ShardRow:
    """An rgb chip without a single number in it."""
    pixels = np.full((3, 16, 16), np.nan, np.float32)
    media = Media("rgb", pixels.tobytes(), "raw", "float32", pixels.shape, BANDS["rgb"])
    return replace(chip_row(i, "rgb"), media=media)
