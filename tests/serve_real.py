"""A small real bundle and a real published gallery for tests of the service: untrained towers, true spaces."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cmir.archive.imagery import decode_chip, raw_media, thumbnail
from cmir.archive.schema import THUMBNAIL_SCHEMA, Media
from cmir.archive.speech import pcm_media
from cmir.gallery import publish
from cmir.gallery.publish import IndexSettings, Pointer, SearchSettings
from cmir.gallery.table import CommittedPiece, Gallery
from cmir.network.bundle import save_bundle
from cmir.network.embedder import Embedder
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics
from tests.gallery_rows import piece_name, rows
from tests.serve_doubles import LABELS, pixels, tone

BANDS = {"pan": ("pan",), "rgb": ("red", "green", "blue"), "ms": ("blue", "green", "red", "nir")}


def media(modality: str, seed: int) -> Media:
    """The item "<modality>-<seed>"."""
    if modality == "speech":
        return pcm_media(tone(seed))
    return raw_media(modality, pixels(modality, seed), bands=BANDS[modality])  # type: ignore[arg-type]


def make_bundle(uri: str, *, seed: int = 0) -> str:
    """Write a bundle of random weights; another seed, another space. Returns its space_id."""
    torch.manual_seed(seed)
    statistics = RunningStatistics()
    for modality in BANDS:
        for i in range(3):
            statistics.add_chip(modality, replace(decode_chip(media(modality, i)), sensor="camera"))  # type: ignore[arg-type]
    config = NetworkConfig(
        modalities=("pan", "ms", "rgb", "speech"),
        dim=16,
        labels=LABELS,
        image=ImageTowerConfig(width=32, depths=(1, 1)),
        speech=SpeechTowerConfig(width=32),
    )
    preprocessing = Preprocessing.fit(statistics, chip_size_px={"pan": 16, "ms": 16, "rgb": 16}, max_speech_s=2.0)
    return save_bundle(uri, SharedSpaceNet(config), preprocessing, metrics={}, training={})


def publish_gallery(gallery_uri: str, bundle_uri: str) -> Pointer:
    """Embed six items of each modality with a bundle, commit them with thumbnails, publish; returns the pointer."""
    embedder = Embedder.open(bundle_uri, device="cpu")
    names = [(modality, i) for modality in (*BANDS, "speech") for i in range(6)]
    vectors = embedder.embed([media(*name) for name in names])
    items = [
        {"item_id": f"{modality}-{i}", "modality": modality, "labels": [LABELS[i % 3]], "vector": vector}
        for (modality, i), vector in zip(names, vectors, strict=True)
    ]
    piece_id = piece_name("a", 0)
    gallery = Gallery.create(gallery_uri)
    space = gallery.space(embedder.space_id, embedder.dim, bundle_uri)
    webps = {f"{m}-{i}": thumbnail(decode_chip(media(m, i))) for m, i in names if m != "speech"}
    pictures = pa.table({"item_id": list(webps), "webp": list(webps.values())}, schema=THUMBNAIL_SCHEMA)
    gallery.add_thumbnails({piece_id: pictures})
    space.commit([CommittedPiece(piece_id, rows(piece_id, items, embedder.dim))])
    return publish.publish(
        gallery_uri,
        embedder.space_id,
        table_version=space.dataset().version,
        index=IndexSettings(),
        search=SearchSettings(),
        recall_at_10=1.0,
    )


def published(folder: Path, *, seed: int = 0) -> tuple[str, str]:
    """A new bundle and a new gallery of it under `folder`; returns their URIs."""
    bundle_uri, gallery_uri = str(folder / f"bundle-{seed}"), str(folder / "gallery")
    make_bundle(bundle_uri, seed=seed)
    publish_gallery(gallery_uri, bundle_uri)
    return bundle_uri, gallery_uri


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length one."""
    return vector / np.linalg.norm(vector)
