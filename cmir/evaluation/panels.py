"""Which queries a person should look at: a fair spread of each direction from good to bad, and its worst failures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from cmir.evaluation.measurement import DirectionResult
from cmir.evaluation.metrics import tie_ranks
from cmir.evaluation.protocol import Items

NUM_HITS: Final = 8
# Share of the direction's queries that did worse. Not chosen by eye: the same five places for every model.
_SPREAD: Final = (
    ("among the best", 0.95),
    ("good", 0.75),
    ("middling", 0.5),
    ("poor", 0.25),
    ("among the worst", 0.05),
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One item as shown; `rank` 0 for a query, `gain` above 0 for a hit."""

    item_id: str
    modality: str
    caption: str
    rank: int = 0
    score: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Panel:
    """A query with its first hits; `expected` is the best placed relevant item, where none is among them."""

    direction: str
    note: str
    query: Tile
    average_precision: float
    num_relevant: int
    hits: tuple[Tile, ...]
    expected: Tile | None


def spread_panels(result: DirectionResult, items: Items) -> list[Panel]:
    """Queries at five fixed places between the best and the worst average precision, equal ones in order of hashes."""
    places = _by_average_precision(result, items)
    if not len(places):
        return []
    chosen: dict[int, str] = {}
    for note, share in _SPREAD:
        chosen.setdefault(int(places[min(len(places) - 1, int(share * len(places)))]), note)
    return [_panel(result, items, query, note) for query, note in chosen.items()]


def worst_panels(result: DirectionResult, items: Items, num: int) -> list[Panel]:
    """The queries furthest from a right answer: those whose first relevant item comes last, unless it comes first."""
    rankings = result.rankings
    failed = [query for query in _by_average_precision(result, items) if rankings.hits[query, 0] == 0]
    failed.sort(key=lambda query: float(rankings.reciprocal_rank[query]))
    notes = {query: f"first right one at rank {round(1 / rankings.reciprocal_rank[query]):,}" for query in failed[:num]}
    return [_panel(result, items, query, note) for query, note in notes.items()]


def item_ids(panels: Iterable[Panel]) -> Iterator[str]:
    """Every item a panel shows, so that its picture can be made."""
    for panel in panels:
        yield panel.query.item_id
        yield from (hit.item_id for hit in panel.hits)
        if panel.expected is not None:
            yield panel.expected.item_id


def _by_average_precision(result: DirectionResult, items: Items) -> list[int]:
    """The queries that have an answer, from the worst to the best."""
    ties = tie_ranks([items.columns["item_id"][i] for i in result.direction.queries])
    order = np.lexsort((ties, result.rankings.average_precision))
    return [int(query) for query in order if result.rankings.num_relevant[query] > 0]


def _panel(result: DirectionResult, items: Items, query: int, note: str) -> Panel:
    direction, rankings = result.direction, result.rankings
    hits = tuple(
        _tile(items, int(direction.gallery[found]), rank, float(score), float(gain))
        for rank, (found, score, gain) in enumerate(
            zip(rankings.shown[query], rankings.shown_score[query], rankings.shown_gain[query], strict=True), 1
        )
        if found >= 0 and rank <= NUM_HITS
    )
    expected = None
    if not any(hit.gain > 0 for hit in hits) and rankings.first_relevant[query] >= 0:
        place = round(1 / float(rankings.reciprocal_rank[query]))
        expected = _tile(items, int(direction.gallery[rankings.first_relevant[query]]), place, 0.0, 1.0)
    asked = _tile(items, int(direction.queries[query]))
    found_ap, num_relevant = float(rankings.average_precision[query]), int(rankings.num_relevant[query])
    return Panel(direction.name, note, asked, found_ap, num_relevant, hits, expected)


def _tile(items: Items, index: int, rank: int = 0, score: float = 0.0, gain: float = 0.0) -> Tile:
    columns = items.columns
    caption = ", ".join(columns["labels"][index]) or columns["scene_class"][index] or columns["pair_id"][index] or ""
    return Tile(columns["item_id"][index], columns["modality"][index], caption, rank, score, gain)
