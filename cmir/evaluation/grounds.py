"""Which gallery items show a query's own ground once more: what overlaps it, or another date of it.

Such an item is found for a reason that says nothing of other ground, or counts as wrong for a pair although it shows
what was asked for. scene_id holds them together (it keeps them in one split too), but the chips cut from one large
scene share it as well without sharing ground. So: same scene_id, not the same pair, and, where both have a bbox, more
than a tenth of the smaller one in common (the boxes of neighbours overlap a little when a grid stands askew to north);
chips cut by windows from scenes without a place on earth do not overlap. For speech scene_id is the speaker.
"""

from collections import defaultdict
from typing import Final

import numpy as np

from cmir.evaluation.metrics import Bools, Floats, Ints
from cmir.evaluation.protocol import Direction, Items

MIN_SHARE: Final = 0.1  # of the smaller box


class SameGround:
    """Of one direction: called with query numbers, bool[q,M], where the gallery shows the query's ground once more.

    `num_overlaps` i64[Q] counts them for each query; `is_seen` bool[M] says which gallery items are such.
    """

    def __init__(self, items: Items, direction: Direction) -> None:
        self._items, self._direction = items, direction
        places = defaultdict(list)
        for place, item in enumerate(direction.gallery.tolist()):
            places[items.columns["scene_id"][item]].append(place)
        self._places = {scene: np.array(found, np.int64) for scene, found in places.items() if scene is not None}
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
        """Places in the gallery."""
        item = int(self._direction.queries[query])
        places = self._places.get(self._items.columns["scene_id"][item])
        if places is None:
            return np.zeros(0, np.int64)
        others = self._direction.gallery[places]
        alike = others != item
        pair = self._items.pair_code[item]
        if pair >= 0:
            alike &= self._items.pair_code[others] != pair
        places, others = places[alike], others[alike]
        return np.asarray(places[_share_ground(self._items, item, others)]) if len(others) else places


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
