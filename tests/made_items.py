"""Embedded items for tests of the evaluation: what they are is given, their vectors say it more or less clearly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmir.archive.schema import BBOX_TYPE
from cmir.evaluation.protocol import Items

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Made:
    """One item to make; ids default to its place."""

    modality: str
    labels: tuple[str, ...] = ()
    scene_class: str | None = None
    pair_id: str | None = None
    split: str = "test"
    item_id: str = ""
    sensor: str | None = None
    attributes: str | None = None
    scene_id: str = ""
    window: tuple[int, int, int, int] | None = None
    bbox: tuple[float, float, float, float] | None = None


def metadata_of(made: Sequence[Made]) -> pa.Table:
    """The table the evaluation reads."""
    return pa.table(
        {
            "item_id": pa.array([item.item_id or f"item-{i}" for i, item in enumerate(made)], pa.string()),
            "modality": pa.array([item.modality for item in made], pa.string()),
            "split": pa.array([item.split for item in made], pa.string()),
            "labels": pa.array([list(item.labels) for item in made], pa.list_(pa.string())),
            "scene_class": pa.array([item.scene_class for item in made], pa.string()),
            "pair_id": pa.array([item.pair_id for item in made], pa.string()),
            "scene_id": pa.array([item.scene_id or f"scene-{i}" for i, item in enumerate(made)], pa.string()),
            "window": pa.array([item.window for item in made], pa.list_(pa.int32())),
            "bbox": pa.array([item.bbox and dict(zip(SIDES, item.bbox, strict=True)) for item in made], BBOX_TYPE),
            "sensor": pa.array([item.sensor for item in made], pa.string()),
            "attributes": pa.array([item.attributes for item in made], pa.string()),
        }
    )


def items_of(made: Sequence[Made], vectors: np.ndarray | None = None, *, noise: float = 0.0, seed: int = 0) -> Items:
    """Items with the given vectors, or with the normalised sum of one random direction per label, class and pair."""
    rng = np.random.default_rng(seed)
    if vectors is None:
        words = sorted({word for item in made for word in _words(item)})
        of = dict(zip(words, rng.normal(size=(len(words), 48)), strict=True))
        vectors = np.array([sum((of[word] for word in _words(item)), np.zeros(48)) for item in made])
        vectors = vectors + noise * rng.normal(size=vectors.shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    grey = rng.normal(size=(len(made), 256))
    grey /= np.linalg.norm(grey, axis=1, keepdims=True)
    return Items(metadata_of(made), unit.astype(np.float32), grey.astype(np.float32))


def _words(item: Made) -> list[str]:
    return [word for word in (*item.labels, item.scene_class, item.pair_id) if word]
