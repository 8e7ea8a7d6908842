"""Embedded items for tests of the evaluation: what they are is given, their vectors say it more or less clearly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmir.evaluation.protocol import Items


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
