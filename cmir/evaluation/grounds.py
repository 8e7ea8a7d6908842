"""Which gallery items show a query's own ground once more: its pair, what overlaps it, or another date of it.

Such an item is found for a reason that says nothing of other ground, or counts as wrong for a pair although it shows
what was asked for. The rest of its own pair is such an item too, unless pairs are what is asked for. scene_id holds the
others together (it keeps them in one split too), but the chips cut from one large scene share it as well without
sharing ground. So: same pair, or same scene_id and, where both have a bbox, more than a tenth of the smaller one in
common (the boxes of neighbours overlap a little when a grid stands askew to north); chips cut by windows from scenes
without a place on earth do not overlap. For speech scene_id is the speaker.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeVar

import numpy as np

from cmir.evaluation.metrics import Bools, Floats, Ints
from cmir.evaluation.protocol import Direction, Items, Relevance

MIN_SHARE: Final = 0.1  # of the smaller box
Key = TypeVar("Key", str, int)
_NONE: Final[Ints] = np.zeros(0, np.int64)


class SameGround:
    """Of one direction: called with query numbers, bool[q,M], where the gallery shows the query's ground once more.

    `num_overlaps` i64[Q] counts them for each query; `is_seen` bool[M] says which gallery items are such.
    """

    def __init__(self, items: Items, direction: Direction, relevance: Relevance) -> None:
        self._items, self._direction = items, direction
        self._pairs_are_asked_for = relevance == "pair"
        places = enumerate(direction.gallery.tolist())
        keys = [(place, items.columns["scene_id"][item], int(items.pair_code[item])) for place, item in places]
        self._of_scene = _gathered((scene, place) for place, scene, _ in keys if scene is not None)
        self._of_pair = _gathered((pair, place) for place, _, pair in keys if pair >= 0)
        self.num_overlaps = np.zeros(len(direction.queries), np.int64)
        self.is_seen = np.zeros(len(direction.gallery), np.bool_)
        for query in range(len(direction.queries)):
            found = self._overlapping(query)
            self.num_overlaps[query] = len(found)
            self.is_seen[found] = True

    def __call__(self, queries: Ints) -> Bools:
        mask = np.zeros((len(queries), len(self._direction.gallery)), np.bool_)
        for row, query in enumerate(queries.tolist()):
            mask[row, self._overlapping(query)] = True
        return mask

    def _overlapping(self, query: int) -> Ints:
        """Places in the gallery, rising."""
        item, gallery = int(self._direction.queries[query]), self._direction.gallery
        pair = int(self._items.pair_code[item])
        near = self._of_scene.get(self._items.columns["scene_id"][item], _NONE)
        near = near[gallery[near] != item]
        if pair >= 0:
            near = near[self._items.pair_code[gallery[near]] != pair]
        near = near[_share_ground(self._items, item, gallery[near])]
        mates = _NONE if self._pairs_are_asked_for else self._of_pair.get(pair, _NONE)
        return np.asarray(np.union1d(near, mates[gallery[mates] != item]))


def what_is_own(direction: Direction, relevance: Relevance) -> str:
    """What SameGround finds, as a person says it."""
    if direction.query_modality == "speech":
        return "other utterances of the query's own voice"
    pair = "its own pair, which is asked for, excepted" if relevance == "pair" else "its own pair included"
    return f"other chips of the query's own ground (overlapping it, of another date or sensor), {pair}"


def within_scenes(items: Items, direction: Direction) -> list[Direction]:
    """The direction within each scene of which the gallery holds several chips."""
    queries, gallery = defaultdict(list), defaultdict(list)
    for item in direction.queries.tolist():
        queries[items.columns["scene_id"][item]].append(item)
    for item in direction.gallery.tolist():
        gallery[items.columns["scene_id"][item]].append(item)
    found = []
    for scene, asked in queries.items():
        answers = gallery[scene]
        if scene is not None and len(answers) > 1:
            indices = np.array(asked, np.int64), np.array(answers, np.int64)
            found.append(Direction(direction.name, direction.query_modality, direction.gallery_modality, *indices, 0))
    return found


def _gathered(pairs: Iterable[tuple[Key, int]]) -> dict[Key, Ints]:
    found: dict[Key, list[int]] = defaultdict(list)
    for key, place in pairs:
        found[key].append(place)
    return {key: np.array(places, np.int64) for key, places in found.items()}


def _share_ground(items: Items, item: int, others: Ints) -> Bools:
    """bool[n] for items of one scene_id."""
    box, boxes = items.bbox[item], items.bbox[others]
    placed = ~np.isnan(boxes[:, 0]) & ~np.isnan(box[0])
    windowed = items.has_window[others] & items.has_window[item]
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    smaller = np.minimum(_area(box), _area(boxes))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(placed, shared > MIN_SHARE * smaller, ~windowed), np.bool_)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
