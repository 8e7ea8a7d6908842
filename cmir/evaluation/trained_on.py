"""What share of queries and gallery shows ground, or is said by people, that the bundle was trained on.

A bundle keeps digests of its training's scenes; the splits of an archive say nothing of a bundle trained on another
archive, or with another --split-seed.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from cmir.evaluation.protocol import Items
from cmir.network.scenes import Digests, digest_of


class TrainedOn(BaseModel):
    """Of one modality: how many queries and gallery items there are, and the shares whose scene was trained on."""

    model_config = ConfigDict(frozen=True)

    num_queries: int
    num_gallery: int
    queries: float
    gallery: float


def trained_on(
    items: Items, train_scenes: Digests, *, query_splits: Sequence[str], gallery_splits: Sequence[str]
) -> dict[str, TrainedOn]:
    """By modality; `train_scenes` are the bundle's."""
    scene_ids = items.columns["scene_id"]
    digests = {scene_id: digest_of(scene_id) for scene_id in set(scene_ids)}
    is_known = np.isin(np.array([digests[scene_id] for scene_id in scene_ids], np.uint64), train_scenes)
    found = {}
    for modality in sorted(set(items.columns["modality"])):
        queries, gallery = (items.where(modality=modality, splits=of) for of in (query_splits, gallery_splits))
        found[modality] = TrainedOn(
            num_queries=len(queries),
            num_gallery=len(gallery),
            queries=float(is_known[queries].mean()) if len(queries) else 0.0,
            gallery=float(is_known[gallery].mean()) if len(gallery) else 0.0,
        )
    return found
