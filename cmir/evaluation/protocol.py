"""Which items ask, which answer, and which answers are right: embedded items become directions with their relevance.

A direction names the query first (`pan_to_ms`). Relevance is a gain, above 0 where relevant: 1, or, between images
judged by their labels, the Jaccard index of the two label sets. Utterances of several labels get directions of their
own (`speech_many_to_rgb`), since "all spoken labels" asks more of the answer than one label does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive.schema import MODALITIES
from cmir.errors import ConfigError, DataError
from cmir.evaluation.metrics import Bools, Floats, Ints

Relevance = Literal["labels", "class", "pair"]
RELEVANCES: Final[tuple[Relevance, ...]] = get_args(Relevance)
_TEXT_COLUMNS: Final = (
    "item_id", "modality", "split", "labels", "scene_class", "pair_id", "scene_id", "sensor", "attributes"
)  # fmt: skip
ITEM_COLUMNS: Final = (*_TEXT_COLUMNS, "bbox", "window")
_COLUMN: Final = {"labels": "labels", "class": "scene_class", "pair": "pair_id"}
_SCORE_STEP: Final = np.float32(
    2.0**-20
)  # above the rounding error of a float32 dot product: what differs less is a tie


@dataclass(frozen=True, slots=True)
class Items:
    """N embedded items. `metadata` holds ITEM_COLUMNS, a row per item; `vectors` f32[N,D] unit vectors of one space;
    `grey` f32[N,P], unit vectors of the no-learning baseline, rows of zeros for speech, or None for no baseline.

    Made of them: `columns`, the texts by name; `pair_code` i64[N], equal for items of one pair, -1 for none;
    `bbox` f64[N,4] west, south, east, north in degrees, NaN where not known; `has_window` bool[N].

    Raises DataError where rows do not match, a vector is not finite or not of length 1, or an id occurs twice.
    """

    metadata: pa.Table
    vectors: npt.NDArray[np.float32]
    grey: npt.NDArray[np.float32] | None = None
    columns: dict[str, list[Any]] = field(init=False, repr=False)
    pair_code: Ints = field(init=False, repr=False)
    bbox: Floats = field(init=False, repr=False)
    has_window: Bools = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.metadata.select(list(_TEXT_COLUMNS)).to_pydict())
        object.__setattr__(self, "pair_code", _codes(self.columns["pair_id"]))
        object.__setattr__(self, "bbox", _boxes(self.metadata.column("bbox")))
        object.__setattr__(self, "has_window", self.metadata.column("window").is_valid().to_numpy())
        num_items = self.metadata.num_rows
        if self.vectors.shape[0] != num_items or (self.grey is not None and len(self.grey) != num_items):
            raise DataError("vectors do not match items", seen=self.vectors.shape[0], expected=num_items)
        norms = np.linalg.norm(self.vectors, axis=1)
        if not np.all(np.abs(norms - 1.0) < 1e-2):  # NaN compares false
            bad = int(np.flatnonzero(~(np.abs(norms - 1.0) < 1e-2))[0])
            raise DataError("not a unit vector", seen=f"length {norms[bad]}", where=self.columns["item_id"][bad])
        if len(set(self.columns["item_id"])) != num_items:
            raise DataError("an item_id occurs twice", expected=f"{num_items} different ids")

    def where(self, *, modality: str, splits: Sequence[str]) -> Ints:
        """Indices of the items of one modality and any of the splits."""
        kinds = zip(self.columns["modality"], self.columns["split"], strict=True)
        return np.array([i for i, (kind, split) in enumerate(kinds) if kind == modality and split in splits], np.int64)


@dataclass(frozen=True, slots=True)
class Prototypes:
    """What a bundle knows of words: `labels`, their unit vectors f32[L,D] in its space, and the cosine from which on an
    utterance counts as naming one."""

    labels: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    heard_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Direction:
    """Queries and gallery of one direction, as indices into Items. `num_left_out`: queries of the modality that carry
    nothing the relevance could judge by. `own` i64[Q]: where a query stands in the gallery, -1 where it does not."""

    name: str
    query_modality: str
    gallery_modality: str
    queries: Ints
    gallery: Ints
    num_left_out: int

    @property
    def own(self) -> Ints:
        place = {item: position for position, item in enumerate(self.gallery.tolist())}
        return np.array([place.get(item, -1) for item in self.queries.tolist()], np.int64)

    @property
    def has_speech(self) -> bool:
        return "speech" in (self.query_modality, self.gallery_modality)

    @property
    def precision_cutoffs(self) -> tuple[int, ...]:
        """Cut-offs of mean_precision_at_k: 10..50 between images, 10..100 with speech (as in the paper's code)."""
        return tuple(range(10, 101 if self.has_speech else 51, 10))


def check_relevance(metadata: pa.Table, relevance: Relevance) -> None:
    """Refuse a relevance nothing can be judged by. Raises ConfigError naming the one that would do.

    Of `metadata` only the columns labels, scene_class and pair_id are read. A pair needs two items that share it.
    """
    usable = {kind: _num_carriers(metadata, kind) for kind in RELEVANCES}
    if usable[relevance]:
        return
    others = [kind for kind in RELEVANCES if usable[kind]]
    raise ConfigError(
        f"nothing to judge by with relevance {relevance}",
        seen=f"no item with {_COLUMN[relevance]}" + (" shared by two items" if relevance == "pair" else ""),
        expected=f"{_COLUMN[relevance]} on some of the {metadata.num_rows} items",
        fix=f"--relevance {others[0]}" if others else "shards whose items carry labels, scene_class or pair_id",
    )


def directions(
    items: Items, relevance: Relevance, query_splits: Sequence[str], gallery_splits: Sequence[str]
) -> Iterator[Direction]:
    """Every ordered pair of the modalities present, a modality with itself included, in the order of MODALITIES."""
    for query_modality in MODALITIES:
        asked = items.where(modality=query_modality, splits=query_splits)
        for gallery_modality in MODALITIES:
            gallery = items.where(modality=gallery_modality, splits=gallery_splits)
            for many_asked, many_found in _utterances(query_modality, gallery_modality):
                queries = _of_count(items, asked, many_asked, relevance)
                answers = _of_count(items, gallery, many_found, relevance)
                if len(queries) and len(answers):
                    judged = np.array([i for i in queries if _carries(items, i, relevance)], np.int64)
                    name = f"{_named(query_modality, many_asked)}_to_{_named(gallery_modality, many_found)}"
                    left_out = len(queries) - len(judged)
                    yield Direction(name, query_modality, gallery_modality, judged, answers, left_out)


class Judge:
    """Gains of one direction: called with a slice of its queries, or their numbers, it gives f32[q,M]."""

    def __init__(self, items: Items, direction: Direction, relevance: Relevance) -> None:
        self._by_labels = relevance == "labels"
        column = items.columns[_COLUMN[relevance]]
        asked = [column[i] for i in direction.queries]
        found = [column[i] for i in direction.gallery]
        if self._by_labels:
            names = sorted(
                {name for labels in asked for name in labels} | {name for labels in found for name in labels}
            )
            code = {name: i for i, name in enumerate(names)}
            self._asked, self._found = _multi_hot(asked, code), _multi_hot(found, code)
        else:
            code = {name: i for i, name in enumerate(sorted({name for name in asked if name is not None}))}
            self._asked = np.array([code[name] for name in asked], np.int64)
            self._found = np.array([code.get(name, -1) for name in found], np.int64)
        self._query_speaks = direction.query_modality == "speech"
        self._gallery_speaks = direction.gallery_modality == "speech"

    def __call__(self, rows: slice | Ints) -> Floats:
        asked = self._asked[rows]
        if not self._by_labels:
            return np.equal(asked[:, None], self._found[None]).astype(np.float32)
        shared = asked @ self._found.T
        num_asked, num_found = asked.sum(axis=1)[:, None], self._found.sum(axis=1)[None]
        if self._query_speaks:  # the item carries all spoken labels
            return np.asarray((shared == num_asked) & (num_asked > 0), np.float32)
        if self._gallery_speaks:  # all spoken labels are the item's
            return np.asarray((shared == num_found) & (num_found > 0), np.float32)
        return np.asarray(shared / np.maximum(num_asked + num_found - shared, 1))


class Scorer:
    """Cosines of one direction: called with a slice of its queries, or their numbers, it gives f32[q,M].

    They come in steps of 2^-20.
    The steps make ties of what differs by rounding only, such as two copies of one chip.
    """

    def __init__(self, vectors: npt.NDArray[np.float32], direction: Direction) -> None:
        self._asked = vectors[direction.queries]
        self._found = vectors[direction.gallery]

    def __call__(self, rows: slice | Ints) -> Floats:
        scores = self._asked[rows] @ self._found.T
        return np.asarray(np.rint(scores / _SCORE_STEP) * _SCORE_STEP)


def _utterances(query_modality: str, gallery_modality: str) -> list[tuple[bool, bool]]:
    """Which sides are utterances of several labels: (query, gallery) of each direction of this pair of modalities."""
    if query_modality == gallery_modality == "speech":
        return [(False, False), (True, True)]  # one label can never hold several, so the mixed ones say nothing
    return (
        [(False, False)]
        + [(True, False)] * (query_modality == "speech")
        + [(False, True)] * (gallery_modality == "speech")
    )


def _named(modality: str, many: bool) -> str:
    return f"{modality}_many" if many else modality


def _of_count(items: Items, indices: Ints, many: bool, relevance: Relevance) -> Ints:
    """Of utterances those of several labels, or those of one (exactly one, judged by labels); images as they are."""
    if not len(indices) or items.columns["modality"][indices[0]] != "speech":
        return indices
    num_labels = np.array([len(set(items.columns["labels"][i])) for i in indices])
    if many:
        return indices[num_labels > 1]
    return indices[num_labels == 1] if relevance == "labels" else indices[num_labels <= 1]


def _carries(items: Items, index: int, relevance: Relevance) -> bool:
    return bool(items.columns[_COLUMN[relevance]][index])


def _num_carriers(metadata: pa.Table, relevance: Relevance) -> int:
    values = [value for value in metadata.column(_COLUMN[relevance]).to_pylist() if value]
    return len(values) - len(set(values)) if relevance == "pair" else len(values)


def _codes(names: Sequence[str | None]) -> Ints:
    code: dict[str, int] = {}
    return np.array([-1 if name is None else code.setdefault(name, len(code)) for name in names], np.int64)


def _boxes(column: pa.ChunkedArray) -> Floats:
    sides = [pc.struct_field(column, side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")]
    return np.stack(sides, axis=1).astype(np.float64)


def _multi_hot(labels_of: Sequence[Sequence[str]], code: dict[str, int]) -> npt.NDArray[np.float32]:
    hot = np.zeros((len(labels_of), len(code)), np.float32)
    for row, labels in enumerate(labels_of):
        hot[row, [code[name] for name in labels]] = 1.0
    return hot
