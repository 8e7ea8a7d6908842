"""Embedded items become a map: points in the plane, near where their vectors are near.

t-SNE (van der Maaten and Hinton 2008, scikit-learn's Barnes-Hut) of a bounded sample; two axes of principal components
would show a fifth of such a space. The prototypes of the labels lie in the same space and are laid out with the items.
Distances between far groups mean nothing, and the page says so.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.archive.schema import MODALITIES
from cmir.evaluation.groups import grouping
from cmir.evaluation.metrics import Floats
from cmir.evaluation.protocol import Items, Prototypes, Relevance

NUM_ITEMS: Final = 1600  # 4 s of one core; more than the eye tells apart at the page's size
NUM_COLOURS: Final = 12
NUM_NAMED: Final = 30  # groups whose name stands in the map
_PERPLEXITY: Final = 30.0
_STEPS: Final = 500
WIDTH: Final = 640.0
HEIGHT: Final = 520.0
_MARGIN: Final = 30.0
_STAR_PX: Final = 15.0  # from a prototype down to its name
_LINE_PX: Final = 13.0
_LETTER_PX: Final = 7.0


@dataclass(frozen=True, slots=True)
class Point:
    """An item, or a prototype (`modality` is "label"), at x, y of WIDTH x HEIGHT; `colour` -1 for small groups."""

    x: float
    y: float
    modality: str
    colour: int
    caption: str


@dataclass(frozen=True, slots=True)
class Name:
    """A group's name under its prototype, or at the item in its middle; moved down where it would cover another."""

    x: float
    y: float
    text: str
    colour: int
    num_items: int


@dataclass(frozen=True, slots=True)
class SpaceMap:
    """Points by modality in the order of MODALITIES, prototypes last; `grouped_by` is what colours and names mean."""

    points: tuple[Point, ...]
    names: tuple[Name, ...]
    grouped_by: str
    num_shown: Mapping[str, int]
    num_items: int
    num_groups: int

    @property
    def scale(self) -> float:
        """How large the points are drawn: few are drawn larger."""
        return float(np.clip(np.sqrt(NUM_ITEMS / max(1, len(self.points))), 1.0, 1.7))


def space_map(items: Items, prototypes: Prototypes | None, relevance: Relevance, *, seed: int = 0) -> SpaceMap | None:
    """The map of at most NUM_ITEMS items, as many of each modality as of any other; None of fewer than three points."""
    chosen = _sample(items)
    known = prototypes.labels if prototypes is not None else ()
    vectors = items.vectors[chosen]
    if prototypes is not None and len(known):
        vectors = np.concatenate([vectors, prototypes.vectors])
    if len(vectors) < 3:
        return None
    places = _fitted(_layout(vectors, seed))
    grouped = grouping(items, chosen, relevance)
    groups = grouped.names
    order = [name for name, _ in sorted(Counter(filter(None, groups)).items(), key=lambda entry: (-entry[1], entry[0]))]
    colour = {name: place % NUM_COLOURS for place, name in enumerate(order[:NUM_NAMED])}
    modalities = [items.columns["modality"][i] for i in chosen]
    captions = [_caption(items, i) for i in chosen]
    found = zip(places.tolist(), modalities, groups, captions, strict=False)
    points = [Point(x, y, kind, colour.get(group or "", -1), text) for (x, y), kind, group, text in found]
    for (x, y), label in zip(places[len(chosen) :].tolist(), known, strict=True):
        points.append(Point(x, y, "label", colour.get(label, -1), label))
    return SpaceMap(
        points=tuple(points),
        names=_names(order[:NUM_NAMED], colour, places, groups, known),
        grouped_by=grouped.kind,
        num_shown={kind: modalities.count(kind) for kind in MODALITIES if kind in modalities},
        num_items=len(items.vectors),
        num_groups=len(order),
    )


def _sample(items: Items) -> list[int]:
    """The same share of every modality, in the order of hashes; a small modality leaves its room to the others."""
    ids = items.columns["item_id"]
    of: dict[str, list[int]] = {}
    for i, modality in enumerate(items.columns["modality"]):
        of.setdefault(modality, []).append(i)
    left, chosen = NUM_ITEMS, []
    for done, modality in enumerate(sorted(of, key=lambda kind: len(of[kind]))):
        hashed = sorted(of[modality], key=lambda i: hashlib.sha256(ids[i].encode()).digest())
        taken = hashed[: left // (len(of) - done)]
        left -= len(taken)
        chosen += taken
    return sorted(chosen, key=lambda i: (MODALITIES.index(items.columns["modality"][i]), ids[i]))


def _layout(vectors: npt.NDArray[np.float32], seed: int) -> Floats:
    """f32[n,2]. One thread: several add in changing order, and wait for each other where the cores are shared."""
    from sklearn.manifold import TSNE  # a second that only a report needs
    from threadpoolctl import threadpool_limits

    spread = bool(np.ptp(vectors, axis=0).max() > 1e-6)  # else there are no principal components to begin with
    layout = TSNE(
        perplexity=min(_PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca" if spread else "random",
        max_iter=_STEPS,
        random_state=seed,
        n_jobs=1,
    )
    with threadpool_limits(limits=1):
        return np.asarray(layout.fit_transform(vectors))


def _fitted(places: Floats) -> Floats:
    """Scaled into WIDTH x HEIGHT; the outermost thousandth may lie at the border."""
    low, high = np.percentile(places, [0.1, 99.9], axis=0)
    share = np.clip((places - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    return np.asarray(_MARGIN + share * (np.array([WIDTH, HEIGHT]) - 2 * _MARGIN))


def _names(
    order: Sequence[str], colour: Mapping[str, int], places: Floats, groups: Sequence[str | None], known: Sequence[str]
) -> tuple[Name, ...]:
    """Names of the groups in `order` and of the prototypes `known`, whose places come after those of the items."""
    names: list[Name] = []
    for group in (*order, *(label for label in known if label not in colour)):
        members = places[: len(groups)][[each == group for each in groups]]
        if group in known:
            x, y = (places[len(groups) + known.index(group)] + np.array([0.0, _STAR_PX])).tolist()
        else:
            x, y = members[np.abs(members - np.median(members, axis=0)).sum(axis=1).argmin()].tolist()
        names.append(Name(x, y, group, colour.get(group, -1), len(members)))
    return _apart(names)


def _apart(names: Sequence[Name]) -> tuple[Name, ...]:
    """From the top down, each moved below those it would cover, as far as the map goes."""
    placed: list[Name] = []
    for name in sorted(names, key=lambda each: each.y):
        y = name.y
        for above in placed:
            near = abs(name.x - above.x) < _LETTER_PX * (len(name.text) + len(above.text)) / 2
            if near and abs(y - above.y) < _LINE_PX:
                y = min(above.y + _LINE_PX, HEIGHT - _LINE_PX / 2)
        placed.append(replace(name, y=y))
    return tuple(placed)


def _caption(items: Items, index: int) -> str:
    columns = items.columns
    said = ", ".join(columns["labels"][index])
    parts = [columns["modality"][index], columns["scene_class"][index], said, columns["item_id"][index]]
    return " · ".join(part for part in parts if part)
