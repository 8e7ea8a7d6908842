"""Query vectors become ranked hits of the published version, many vectors that share a filter in one call.

Small versions are searched in memory (`held_vectors`), others, and the first query of an indexed one, by Lance.

A searcher never changes: it stands on one tagged version of one table, so every answer is whole and of one space.
`refresh` gives the searcher of a newer pointer, or itself. Scores are exact cosines also where the index is
approximate, and hits with equal scores are ordered by the sha256 of their item_id, so an answer never depends on how
rows lie in the table: more candidates than asked for are fetched until the last one scores below the k-th.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import lance
import numpy as np
import pyarrow as pa

from cmir.archive import storage
from cmir.archive.schema import IMAGE_MODALITIES, METADATA_COLUMNS, MODALITIES
from cmir.errors import QueryError, SpaceMismatchError
from cmir.gallery import commits
from cmir.gallery.filters import Filters
from cmir.gallery.footprints import is_row_of, picked, rows_touching
from cmir.gallery.held_vectors import Nearest, Vectors, VectorsOnDemand
from cmir.gallery.hit_rows import HitRows, RowIds
from cmir.gallery.publish import INDEX_NAME, IndexSettings, Pointer, SearchSettings, read_pointer
from cmir.gallery.thumbnails import ThumbnailReader

MAX_K: Final = 1000
_SPARE_HITS: Final = 16  # fetched beyond k, to see whether the k-th score is shared
_MOST_SPARE_HITS: Final = 4096
_VECTORS_AT_ONCE: Final = 256
_ROWS_COMPARED: Final = 200_000  # at most, of those that pass a filter: each is copied
_ROWS_NAMED: Final = 20_000  # at most, in a condition
_HIT_COLUMNS: Final = (
    *("item_id", "modality", "labels", "scene_class", "sensor", "acquired_at", "bbox", "source_uri"),
)

_EXACTLY: Final = (IndexSettings(), SearchSettings())

BBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: `score` is the cosine (-1..1), `rank` counts from 1, `bbox` is (w, s, e, n) in degrees."""

    item_id: str
    rank: int
    score: float
    modality: str
    labels: tuple[str, ...]
    scene_class: str | None
    sensor: str | None
    acquired_at: datetime | None
    bbox: BBox | None
    source_uri: str
    has_thumbnail: bool


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """All that the gallery knows of one item but its vector; fields as in the shard row."""

    item_id: str
    modality: str
    split: str
    bands: tuple[str, ...]
    wavelength_nm: tuple[float | None, ...]
    sensor: str | None
    gsd_m: float | None
    sample_rate_hz: int | None
    labels: tuple[str, ...]
    scene_class: str | None
    pair_id: str | None
    scene_id: str
    acquired_at: datetime | None
    cloud_cover: float | None
    crs: str | None
    bbox: BBox | None
    geometry: bytes | None
    source_uri: str
    window: tuple[int, ...] | None
    content_hash: str
    attributes: str | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Row ids of the nearest rows of one query and their cosine distances, ascending: `k` of them and their ties."""

    row_ids: RowIds
    distances: Vectors
    k: int


class Searcher:
    """Searches one published version of a gallery; safe to use from several threads."""

    def __init__(self, gallery_uri: str, pointer: Pointer) -> None:
        self.gallery_uri, self.pointer = gallery_uri, pointer
        self._dataset = commits.open_table(storage.join(gallery_uri, f"{pointer.table}.lance"), pointer.tag)
        self._rows = HitRows(self._dataset, _HIT_COLUMNS)
        self._thumbnails = ThumbnailReader(gallery_uri, pointer.tag)
        self._vectors = VectorsOnDemand(self._dataset, None if pointer.index.kind == "exact" else INDEX_NAME)
        self.dim = int(self._dataset.schema.field("vector").type.list_size)
        self.num_rows = int(self._dataset.count_rows())

    @classmethod
    def open(cls, gallery_uri: str, *, space_id: str | None = None) -> "Searcher":
        """The published version of a gallery; with `space_id`, only if it is of that space.

        Raises GalleryError where nothing is published, SpaceMismatchError where another space is.
        """
        searcher = cls(gallery_uri, read_pointer(gallery_uri))
        if space_id is not None:
            searcher.check_space(space_id)
        return searcher

    @property
    def space_id(self) -> str:
        return self.pointer.space_id

    def warm(self) -> None:
        """Read now what later searches would hold in memory; the first query then takes no longer than the others."""
        self._vectors.get(at_once=True)
        self._rows.hold()

    def check_space(self, space_id: str) -> None:
        """Raises SpaceMismatchError unless the published space is `space_id`."""
        if space_id != self.space_id:
            fix = "use the bundle the gallery was embedded with, or publish its other space"
            where = self.gallery_uri
            raise SpaceMismatchError("spaces differ", seen=space_id, expected=self.space_id, where=where, fix=fix)

    def refresh(self) -> "Searcher":
        """The searcher of what is published now: this one where nothing changed. Raises GalleryError as `open` does."""
        pointer = read_pointer(self.gallery_uri)
        return self if pointer == self.pointer else Searcher(self.gallery_uri, pointer)

    def search(
        self, vectors: Vectors, *, targets: Sequence[str] = (), k: int = 10, filters: Filters | None = None
    ) -> list[list[Hit]]:
        """The k best hits of every vector, f32[N,D] of any length; fewer where fewer match.

        `targets` are the modalities to search, all where empty. Raises QueryError for a k, target or vector that cannot
        be used, SpaceMismatchError for vectors of another dimension.
        """
        queries = self._checked(vectors, k)
        answers: list[list[Hit]] = []
        for start in range(0, len(queries), _VECTORS_AT_ONCE):
            part = queries[start : start + _VECTORS_AT_ONCE]
            answers += self.tell(self._ranked(part, targets, k, filters))
        return answers

    def rank(
        self,
        vectors: Vectors,
        *,
        targets: Sequence[str] = (),
        k: int = 10,
        filters: Filters | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Ranking]:
        """The first half of `search`, of few vectors: where the hits of each lie.

        Raises as `search` does, and NobodyWaitsError where `is_wanted` says no while a polygon is compared.
        """
        return self._ranked(self._checked(vectors, k), targets, k, filters, is_wanted)

    def tell(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        """The second half: what lies there, best first, equal scores in the order of their item's sha256."""
        rows = self._rows.read(np.unique(np.concatenate([ranking.row_ids for ranking in rankings])))
        answers = [
            [
                {**rows[row_id], "_distance": far}
                for row_id, far in zip(ranking.row_ids.tolist(), ranking.distances.tolist(), strict=True)
            ]
            for ranking in rankings
        ]
        best = [sorted(answer, key=_order)[: ranking.k] for answer, ranking in zip(answers, rankings, strict=True)]
        found = {row["item_id"] for answer in best for row in answer if row["modality"] in IMAGE_MODALITIES}
        pictured = self._thumbnails.among(found)
        return [[_hit(row, rank, row["item_id"] in pictured) for rank, row in enumerate(a, 1)] for a in best]

    def item(self, item_id: str) -> GalleryItem:
        """All metadata of an item. Raises QueryError where the published version has none of that id."""
        row = self._row(item_id, list(METADATA_COLUMNS))
        lists = {name: tuple(row[name] or ()) for name in ("bands", "wavelength_nm", "labels")}
        window = None if row["window"] is None else tuple(row["window"])
        return GalleryItem(**{**row, **lists, "window": window, "bbox": _bbox(row["bbox"])})

    def vector(self, item_id: str) -> Vectors:
        """The unit vector of an item, f32[D]. Raises QueryError where the published version has none of that id."""
        return np.asarray(self._row(item_id, ["vector"])["vector"], dtype=np.float32)

    def sample(self, num_rows: int, seed: int) -> Vectors:
        """The vectors f32[N,D] of so many random rows of the version, of all of them where there are fewer."""
        count = min(num_rows, self.num_rows)
        places = np.random.default_rng(seed).choice(self.num_rows, size=count, replace=False)
        vectors = self._dataset.take(np.sort(places).tolist(), columns=["vector"])["vector"].combine_chunks()
        return np.asarray(vectors.flatten(), dtype=np.float32).reshape(count, self.dim)

    def distances(self, vectors: Vectors, k: int, *, exact: bool = False) -> list[Vectors]:
        """Ascending cosine distances of the k nearest rows of every vector f32[N,D]: as published, or all looked at."""
        queries = self._checked(vectors, k)
        found = self._in_table(queries, k, "", _EXACTLY) if exact else self._nearest(queries, k, (), "")
        return [near for _, near in found]

    def thumbnail(self, item_id: str) -> bytes | None:
        """The WebP thumbnail of an item, None where it has none. Raises QueryError where there is no such item."""
        self._row(item_id, ["item_id"])
        return self._thumbnails.read(item_id)

    def _row(self, item_id: str, columns: list[str]) -> dict[str, Any]:
        wanted = commits.is_one_of("item_id", [item_id])
        rows = self._dataset.to_table(columns=columns, filter=wanted, limit=1).to_pylist()
        if not rows:
            raise QueryError("no such item", seen=item_id[:100], expected="an item_id of the published gallery")
        return dict(rows[0])

    def _checked(self, vectors: Vectors, k: int) -> Vectors:
        if not 1 <= k <= MAX_K:
            raise QueryError("k out of range", seen=k, expected=f"1..{MAX_K}")
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            seen, expected = f"shape {vectors.shape}", f"N x {self.dim}, space {self.space_id}"
            raise SpaceMismatchError("query vectors are of another space", seen=seen, expected=expected)
        queries = vectors.astype(np.float32, copy=False)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise QueryError("query vector has no direction", seen="zero, NaN or infinite", expected="finite, not zero")
        return np.asarray(queries / lengths, dtype=np.float32)

    def _ranked(
        self,
        queries: Vectors,
        targets: Sequence[str],
        k: int,
        filters: Filters | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Ranking]:
        asked, spare = filters.sql() if filters else "", _SPARE_HITS
        area = filters.area() if filters else None
        condition = _condition(targets, asked)
        touching = None if area is None else rows_touching(self._dataset, condition, area, is_wanted)
        while True:
            ranked = self._nearest(queries, k + spare, targets, asked, touching)
            if spare >= _MOST_SPARE_HITS or not any(_is_cut_in_tie(near, k, k + spare) for _, near in ranked):
                break
            spare *= 8
        return [_needed(row_ids, near, k) for row_ids, near in ranked]

    def _nearest(
        self,
        queries: Vectors,
        num_hits: int,
        targets: Sequence[str],
        asked: str,
        touching: RowIds | None = None,
    ) -> list[Nearest]:
        """As published: from memory where the version is held there, else from the table; of `touching` where given."""
        condition = _condition(targets, asked)
        way = (self.pointer.index, self.pointer.search.under(is_filtered=bool(asked)))
        if (held := self._vectors.get()) is not None:
            if not asked:
                return held.nearest(queries, num_hits, targets, way[1].nprobes)
            passing = self._passing(condition) if touching is None else touching
            if len(passing) <= _ROWS_COMPARED:
                return held.nearest_among(queries, num_hits, passing)
        if touching is not None and len(touching) > _ROWS_NAMED:
            return picked(touching, num_hits, lambda number: self._in_table(queries, number, condition, way))
        named = condition if touching is None else is_row_of(touching)
        return self._in_table(queries, num_hits, named, way)

    def _passing(self, condition: str) -> RowIds:
        found = self._dataset.to_table(columns=[], filter=condition, with_row_id=True)["_rowid"]
        return np.asarray(found.combine_chunks())

    def _in_table(
        self, queries: Vectors, num_hits: int, condition: str, way: tuple[IndexSettings, SearchSettings]
    ) -> list[Nearest]:
        found = nearest_rows(self._dataset, queries, num_hits, condition, way, ("_rowid", "_distance"))
        return _by_query(found, len(queries))


def nearest_rows(
    dataset: lance.LanceDataset,
    queries: Vectors,
    num_hits: int,
    condition: str,
    publication: tuple[IndexSettings, SearchSettings],
    columns: Sequence[str] = ("item_id", "_distance"),
) -> pa.Table:
    """The nearest rows by cosine of every query, f32[N,D]: a table with query_index and the columns, best first.

    `condition` is evaluated before ranking. With an index `nprobes` partitions are looked at; a query that then has
    fewer than `num_hits` rows is searched again, on to further partitions until it has them, so that a selective filter
    does not leave answers empty. A fixed number is what Lance looks at for all queries in one pass, in half the time.
    """
    index, search = publication
    nearest: dict[str, Any] = {"column": "vector", "k": num_hits, "metric": "cosine"}
    nearest["use_index"] = index.kind != "exact"
    if search.refine_factor is not None:
        nearest["refine_factor"] = search.refine_factor

    def ranked(vectors: Vectors, **partitions: float) -> pa.Table:
        asked = {**nearest, **partitions, "q": vectors}
        is_narrowed = bool(condition)
        return dataset.to_table(columns=list(columns), nearest=asked, filter=condition or None, prefilter=is_narrowed)

    if search.nprobes is None:
        return ranked(queries)
    found = ranked(queries, nprobes=search.nprobes)
    if search.nprobes >= index.params.get("num_partitions", math.inf):
        return found
    of_query = found["query_index"].to_numpy()
    short = np.flatnonzero(np.bincount(of_query, minlength=len(queries)) < num_hits)
    if not len(short):
        return found
    more = ranked(queries[short], minimum_nprobes=search.nprobes, search_effort=0.0)
    places = pa.array(short[more["query_index"].to_numpy()], found.schema.field("query_index").type)
    more = more.set_column(more.schema.get_field_index("query_index"), found.schema.field("query_index"), places)
    return pa.concat_tables([found.filter(pa.array(~np.isin(of_query, short))), more])


def _condition(targets: Sequence[str], asked: str) -> str:
    unknown = [target for target in targets if target not in MODALITIES]
    if unknown:
        raise QueryError("unknown target", seen=", ".join(unknown)[:100], expected=", ".join(MODALITIES))
    wanted = sorted(set(targets))
    parts = [commits.is_one_of("modality", wanted)] if wanted else []
    return " AND ".join([*parts, asked] if asked else parts)


def _order(row: dict[str, Any]) -> tuple[float, str]:
    return row["_distance"], hashlib.sha256(row["item_id"].encode()).hexdigest()


def _by_query(found: pa.Table, num_queries: int) -> list[Nearest]:
    """Row ids and distances of every query, the nearest first."""
    of_query, row_ids = found["query_index"].to_numpy(), found["_rowid"].to_numpy()
    distances = found["_distance"].to_numpy()
    order = np.lexsort((distances, of_query))
    ends = np.cumsum(np.bincount(of_query, minlength=num_queries))[:-1]
    return list(zip(np.split(row_ids[order], ends), np.split(distances[order], ends), strict=True))


def _is_cut_in_tie(distances: Vectors, k: int, num_asked: int) -> bool:
    """True where the k-th score is also the last one fetched, so that equal ones may have been left out."""
    return len(distances) >= num_asked and bool(distances[k - 1] == distances[-1])


def _needed(row_ids: RowIds, distances: Vectors, k: int) -> Ranking:
    """Those of the ascending distances that are no farther than the k-th."""
    count = int(np.searchsorted(distances, distances[k - 1], side="right")) if len(distances) > k else len(distances)
    return Ranking(row_ids[:count], distances[:count], k)


def _hit(row: dict[str, Any], rank: int, has_thumbnail: bool) -> Hit:
    return Hit(
        item_id=row["item_id"],
        rank=rank,
        score=min(1.0, max(-1.0, 1.0 - row["_distance"])),  # rounding leaves cosines such as 1.0000001
        modality=row["modality"],
        labels=tuple(row["labels"]),
        scene_class=row["scene_class"],
        sensor=row["sensor"],
        acquired_at=row["acquired_at"],
        bbox=_bbox(row["bbox"]),
        source_uri=row["source_uri"],
        has_thumbnail=has_thumbnail,
    )


def _bbox(value: dict[str, float | None] | None) -> BBox | None:
    """(w, s, e, n) of a bbox struct; Arrow readers give a null struct as one of nulls as well."""
    if value is None or value["xmin"] is None:
        return None
    return cast(BBox, tuple(value[side] for side in ("xmin", "ymin", "xmax", "ymax")))
