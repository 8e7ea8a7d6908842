"""Embedded items become an evaluation: the figures of every direction, and the rankings behind them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmir.evaluation import chance, metrics
from cmir.evaluation.figures import (
    Difference,
    DirectionFigures,
    Report,
    WithinScene,
    WithoutOverlap,
    group_figures,
    measured,
)
from cmir.evaluation.grounds import SameGround, what_is_own, within_scenes
from cmir.evaluation.metrics import Ints, Rankings
from cmir.evaluation.naming import HeardItems, name_utterances
from cmir.evaluation.protocol import (
    Direction,
    Items,
    Judge,
    Prototypes,
    Relevance,
    Scorer,
    check_relevance,
    directions,
)
from cmir.evaluation.trained_on import trained_on
from cmir.network.scenes import Digests

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DirectionResult:
    """One direction measured: `rankings` of the model, `baseline` of the thumbnails (None with speech)."""

    direction: Direction
    figures: DirectionFigures
    rankings: Rankings
    baseline: Rankings | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All directions of one bundle, by name, in the order of the modalities; `report` is what goes into report.json.

    `seed` is that of the bootstrap and of the map of the space.
    """

    items: Items
    prototypes: Prototypes | None
    relevance: Relevance
    seed: int
    report: Report
    results: dict[str, DirectionResult]


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all directions of an evaluation are measured by."""

    items: Items
    relevance: Relevance
    seed: int


def evaluate(
    items: Items,
    *,
    space_id: str,
    relevance: Relevance = "labels",
    query_splits: Sequence[str] = ("test",),
    gallery_splits: Sequence[str] = ("test",),
    prototypes: Prototypes | None = None,
    bundle_uri: str = "",
    num_rejected: int = 0,
    modalities_left_out: Sequence[str] = (),
    seed: int = 0,
    heard: HeardItems | None = None,
    train_scenes: Digests | None = None,
) -> Evaluation:
    """Measure every direction between the items' modalities.

    `seed` is the bootstrap's and the map's; `prototypes` are the labels the bundle knows; `bundle_uri`, `num_rejected`
    and `modalities_left_out` are said in the report; `heard` is what a second ear understood of the queries;
    `train_scenes` are digests of the scenes that the bundle was trained on, where it tells.

    Raises ConfigError where no item carries what the relevance needs.
    """
    check_relevance(items.metadata, relevance)
    setting = _Setting(items, relevance, seed)
    results = {
        direction.name: _measure(setting, direction)
        for direction in directions(items, relevance, query_splits, gallery_splits)
    }
    asked, searched = tuple(query_splits), tuple(gallery_splits)
    met = None
    if train_scenes is not None:
        met = trained_on(items, train_scenes, query_splits=asked, gallery_splits=searched)
    report = Report(
        space_id=space_id,
        bundle_uri=bundle_uri,
        relevance=relevance,
        query_splits=asked,
        gallery_splits=searched,
        directions={name: result.figures for name, result in results.items()},
        num_items={name: items.columns["modality"].count(name) for name in sorted(set(items.columns["modality"]))},
        num_items_rejected=num_rejected,
        modalities_left_out=tuple(modalities_left_out),
        unknown_labels=_unknown_labels(items, prototypes),
        naming=name_utterances(items, prototypes, splits=asked, seed=seed, heard=heard),
        trained_on=met,
    )
    return Evaluation(items, prototypes, relevance, seed, report, results)


def differences(evaluation: Evaluation, compared: Evaluation) -> dict[str, Difference]:
    """For each direction of both, how much better the first answers the same queries; the interval is of pairs."""
    found = {}
    for name, result in evaluation.results.items():
        other = compared.results.get(name)
        if other is None:
            continue
        ids = [evaluation.items.columns["item_id"][i] for i in result.direction.queries]
        other_ids = [compared.items.columns["item_id"][i] for i in other.direction.queries]
        _, here, there = np.intersect1d(ids, other_ids, return_indices=True)
        if len(here):
            gain = result.rankings.average_precision[here] - other.rankings.average_precision[there]
            (interval,) = chance.bootstrap_intervals(gain[None], seed=evaluation.seed)
            found[name] = Difference(num_queries=len(here), map=float(gain.mean()), map_ci95=interval)
    return found


def _measure(setting: _Setting, direction: Direction) -> DirectionResult:
    rankings = _rank(setting.items.vectors, setting, direction)
    reference = None
    if setting.items.grey is not None and not direction.has_speech:
        reference = _rank(setting.items.grey, setting, direction)
    return DirectionResult(direction, _figures(setting, direction, rankings, reference), rankings, reference)


def _rank(
    vectors: F32, setting: _Setting, direction: Direction, same_ground: tuple[SameGround, Ints] | None = None
) -> Rankings:
    """Rankings of all queries, or, without the items of their ground, of those numbered."""
    items = setting.items
    item_ids = [items.columns["item_id"][i] for i in direction.gallery]
    score, gain = Scorer(vectors, direction), Judge(items, direction, setting.relevance)
    if same_ground is None:
        return metrics.measure(score, gain, item_ids=item_ids, own=direction.own)
    ground, numbers = same_ground
    return metrics.measure(
        lambda rows: score(numbers[rows]),
        lambda rows: gain(numbers[rows]),
        item_ids=item_ids,
        own=direction.own[numbers],
        taken_out=lambda rows: ground(numbers[rows]),
    )


def _figures(
    setting: _Setting, direction: Direction, rankings: Rankings, reference: Rankings | None
) -> DirectionFigures:
    gallery_size, left_out = len(direction.gallery), direction.num_left_out
    named: dict[str, Any] = {
        "relevance": setting.relevance,
        "gallery_size": gallery_size,
        "num_queries_left_out": left_out,
    }
    if not len(direction.queries):
        return DirectionFigures(num_queries=0, **named)

    items, seed = setting.items, setting.seed
    columns, queries = items.columns, direction.queries
    described = [_attributes(items, i) for i in queries]
    names: dict[str, list[Sequence[str]]] = {
        "per_label": [_labels(items, i, setting.relevance) for i in queries],
        "per_class": [_known(columns["scene_class"][i]) for i in queries],
        "per_sensor": [_known(columns["sensor"][i]) for i in queries],
        "per_voice": [_known(each.get("voice") or each.get("speaker")) for each in described],
        "per_engine": [_known(each.get("engine")) for each in described],
        "per_num_relevant": [[how_many(int(count))] for count in rankings.num_relevant],
    }
    fields = measured(rankings, reference, direction.precision_cutoffs, seed=seed)
    groups: dict[str, Any] = {kind: group_figures(rankings, reference, of, seed=seed) for kind, of in names.items()}
    return DirectionFigures(
        **named,
        **fields,
        **groups,
        chance_map=fields["chance"].map,
        num_queries_unanswerable=int((rankings.num_relevant == 0).sum()),
        without_overlap=_without_overlap(setting, direction, rankings, reference),
        within_scene=_within_scene(setting, direction) if setting.relevance == "pair" else None,
    )


def _without_overlap(
    setting: _Setting, direction: Direction, rankings: Rankings, reference: Rankings | None
) -> WithoutOverlap | None:
    """Only the queries concerned are ranked again."""
    ground = SameGround(setting.items, direction, setting.relevance)
    numbers = np.flatnonzero(ground.num_overlaps)
    if not len(numbers) or not rankings.num_relevant.any():
        return None
    kept = metrics.replaced(rankings, numbers, _rank(setting.items.vectors, setting, direction, (ground, numbers)))
    kept_reference = None
    if reference is not None and setting.items.grey is not None:
        part = _rank(setting.items.grey, setting, direction, (ground, numbers))
        kept_reference = metrics.replaced(reference, numbers, part)
    return WithoutOverlap(
        **measured(kept, kept_reference, direction.precision_cutoffs, seed=setting.seed),
        left_out=what_is_own(direction, setting.relevance),
        num_queries_concerned=len(numbers),
        num_items_concerned=int(ground.is_seen.sum()),
        num_overlaps=int(ground.num_overlaps.sum()),
    )


def _within_scene(setting: _Setting, direction: Direction) -> WithinScene | None:
    if direction.query_modality == direction.gallery_modality:
        return None  # no pair lies within one modality
    scenes = within_scenes(setting.items, direction)
    if not scenes:
        return None
    items = setting.items
    rankings = metrics.joined([_rank(items.vectors, setting, within) for within in scenes])
    reference = None
    if items.grey is not None and not direction.has_speech:
        reference = metrics.joined([_rank(items.grey, setting, within) for within in scenes])
    sensors = [_known(items.columns["sensor"][i]) for within in scenes for i in within.queries]
    return WithinScene(
        **measured(rankings, reference, direction.precision_cutoffs, seed=setting.seed),
        num_scenes=len(scenes),
        mean_gallery_size=float(rankings.num_candidates.mean()),
        per_sensor=group_figures(rankings, reference, sensors, seed=setting.seed),
    )


def _labels(items: Items, index: int, relevance: Relevance) -> Sequence[str]:
    """What a query is about: its class where judged by class, else its labels, else its class."""
    scene_class = _known(items.columns["scene_class"][index])
    return scene_class if relevance == "class" else items.columns["labels"][index] or scene_class


def how_many(num_relevant: int) -> str:
    """The group of a query by its right answers: P@10 can be 1 only where there are ten.

    >>> [how_many(count) for count in (0, 9, 10)]
    ['0', '1-9', '10+']
    """
    return "0" if num_relevant == 0 else "1-9" if num_relevant < 10 else "10+"


def _known(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _attributes(items: Items, index: int) -> dict[str, Any]:
    """What the source of an utterance wrote of it; {} for images and where it is no JSON object."""
    text = items.columns["attributes"][index]
    if items.columns["modality"][index] != "speech" or not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _unknown_labels(items: Items, prototypes: Prototypes | None) -> tuple[str, ...]:
    if prototypes is None:
        return ()
    return tuple(sorted({label for labels in items.columns["labels"] for label in labels} - set(prototypes.labels)))
