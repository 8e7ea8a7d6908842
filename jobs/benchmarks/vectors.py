"""Vectors to search: drawn ones, or a copy of what a gallery has published, in a gallery of the benchmark's own.

A benchmark builds indexes, and those are versions of a table: the gallery it is given is only read.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import lance
import numpy as np
import pyarrow as pa

from cmir.archive import storage
from cmir.archive.schema import gallery_schema
from cmir.gallery import publish
from cmir.gallery.held_vectors import Vectors
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable

_ROWS_AT_ONCE: Final = 50_000
_NOISE: Final = 0.5  # length of what a vector adds to its centre, or a query to its row: a cosine of about 0.9


@dataclass(frozen=True, eq=False)
class Collection:
    """A table and what is in it: item_ids and vectors f32[N,D] in the same order; `source` says where from.

    `modality` is that of the first row.
    """

    space: SpaceTable
    source: str
    modality: str
    item_ids: list[str]
    vectors: Vectors


def synthetic_collection(uri: str, num_rows: int, dim: int, clusters: int, seed: int) -> Collection:
    """A new gallery at `uri` of drawn vectors, see `synthetic_vectors`."""
    space = Gallery.create(uri).space("s0000000000000000", dim, "none")
    tables = _synthetic_tables(synthetic_vectors(num_rows, dim, clusters, seed))
    kind = f"around {clusters} centres" if clusters else "of random directions"
    return _filled(space, tables, f"synthetic vectors {kind}")


def copied_collection(uri: str, gallery_uri: str) -> Collection:
    """A new gallery at `uri` with the published rows of another. Raises GalleryError where nothing is published."""
    pointer = publish.read_pointer(gallery_uri)
    place = storage.join(gallery_uri, f"{pointer.table}.lance")
    dataset = lance.dataset(place, version=pointer.tag, storage_options=storage.lance_options(gallery_uri))
    dim = dataset.schema.field("vector").type.list_size
    space = Gallery.create(uri).space(pointer.space_id, dim, pointer.bundle_uri)
    tables = (pa.Table.from_batches([batch]) for batch in dataset.to_batches(batch_size=_ROWS_AT_ONCE))
    return _filled(space, tables, f"version {pointer.table_version} of {gallery_uri}")


def draw_queries(vectors: Vectors, num_queries: int, seed: int) -> Vectors:
    """Unit vectors f32[Q,D] near random rows."""
    draw = np.random.default_rng((seed, 1))
    rows = vectors[draw.integers(0, len(vectors), num_queries)]
    return _unit(rows + draw.standard_normal(rows.shape, dtype=np.float32) * (_NOISE / math.sqrt(rows.shape[1])))


def synthetic_vectors(num_rows: int, dim: int, clusters: int, seed: int) -> Vectors:
    """Unit vectors f32[N,D] around so many random centres, as embeddings of kinds of things lie; 0 is any direction."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((num_rows, dim), dtype=np.float32)
    if clusters:
        centres = _unit(draw.standard_normal((clusters, dim), dtype=np.float32))
        vectors = centres[draw.integers(0, clusters, num_rows)] + vectors * (_NOISE / math.sqrt(dim))
    return _unit(vectors)


def _filled(space: SpaceTable, tables: Iterable[pa.Table], source: str) -> Collection:
    item_ids: list[str] = []
    modality = ""
    parts: list[Vectors] = []
    schema = gallery_schema(space.dim)
    for number, table in enumerate(tables):
        piece_id = f"benchmark.0.{number}"
        place = table.schema.get_field_index("piece_id")
        named = table.set_column(place, schema.field("piece_id"), pa.array([piece_id] * len(table), pa.string()))
        space.commit([CommittedPiece(piece_id, named.select(schema.names))])
        item_ids += table["item_id"].to_pylist()
        modality = modality or table["modality"][0].as_py()
        parts += [chunk.flatten().to_numpy().reshape(-1, space.dim) for chunk in table["vector"].chunks]
    return Collection(space, source, modality, item_ids, np.concatenate(parts))


def _synthetic_tables(vectors: Vectors) -> list[pa.Table]:
    schema, dim = gallery_schema(vectors.shape[1]), vectors.shape[1]
    tables, draw = [], np.random.default_rng(0)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = vectors[start : start + _ROWS_AT_ONCE]
        ids = [f"{number:024x}" for number in range(start, start + len(part))]
        told: dict[str, Any] = {
            "item_id": ids,
            "scene_id": ids,
            "modality": [("rgb", "ms")[number % 2] for number in range(len(part))],
            "split": ["test"] * len(part),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), dim),
            "piece_id": [""] * len(part),
            "source_uri": ["synthetic:"] * len(part),
            "content_hash": [""] * len(part),
            **_drawn_columns(len(part), draw),
        }
        columns = [pa.array(told[f.name], f.type) if f.name in told else pa.nulls(len(part), f.type) for f in schema]
        tables.append(pa.table(columns, schema=schema))
    return tables


def _drawn_columns(num_rows: int, draw: np.random.Generator) -> dict[str, Any]:
    """What filters ask for: sensors of 1%, 10% and the rest, three of 100 labels, a year of dates, all of the world."""
    west, south = draw.uniform(-180, 179.99, num_rows), draw.uniform(-90, 89.99, num_rows)
    seconds = draw.uniform(0, 3.15e7, num_rows)
    return {
        "sensor": draw.choice(["rare", "some", "often"], num_rows, p=[0.01, 0.1, 0.89]),
        "labels": [[f"l{label}" for label in chosen] for chosen in draw.integers(0, 100, (num_rows, 3))],
        "acquired_at": (np.datetime64("2020-01-01", "us") + (1e6 * seconds).astype("timedelta64[us]")),
        "cloud_cover": draw.uniform(0, 100, num_rows).astype(np.float32),
        "gsd_m": draw.uniform(0, 10, num_rows).astype(np.float32),
        "bbox": [{"xmin": x, "ymin": y, "xmax": x + 0.01, "ymax": y + 0.01} for x, y in zip(west, south, strict=True)],
    }


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
