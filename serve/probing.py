"""A small query that goes all the way: warms a snapshot before it serves, and tells whether the service is ready.

Content does not matter (probe_items.py), that a finite unit vector and a hit come out does.
"""

import asyncio

import numpy as np

from cmir.archive.schema import Media
from serve.deployments import Snapshot, Wanted
from serve.problems import ProblemError
from serve.query import F32


async def probe(snapshot: Snapshot, media: Media) -> None:
    """Embed `media`, search with it, and read a row of the table, which a search of vectors in memory does not.

    An encoder that may sleep is let sleep: that row's vector is searched with. Raises ProblemError 503 where the vector
    is not a finite unit vector or nothing is found, else whatever a part raises.
    """
    vector = await (_of_a_row(snapshot) if snapshot.encoder.may_sleep else embedded(snapshot, media))
    found = await snapshot.finder.find(Wanted(vector, targets=(), k=1, filters=None))
    if not found.result:
        raise ProblemError(503, "the gallery answers the probe with no hit")
    await _of_a_row(snapshot)


async def _of_a_row(snapshot: Snapshot) -> F32:
    [vector] = await asyncio.to_thread(snapshot.searcher.sample, 1, 0)
    unit: F32 = vector
    return unit


async def embedded(snapshot: Snapshot, media: Media) -> F32:
    """The vector f32[D] of a probe. Raises ProblemError 503 where it is not a finite unit vector."""
    prepared = await snapshot.prepare(media)
    vector = (await snapshot.encoder.encode(prepared)).result
    if not np.isclose(float(np.linalg.norm(vector)), 1.0, atol=1e-2):  # false for nan; 1e-2 leaves room for bf16
        raise ProblemError(503, f"the encoder answers the {media.modality} probe with no unit vector")
    return vector
