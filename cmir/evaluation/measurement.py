"""Embedded items become an evaluation: the figures of every direction, and the rankings behind them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmir.evaluation import baseline, metrics
from cmir.evaluation.figures import BaselineFigures, DirectionFigures, Report, group_figures, mean_figures
from cmir.evaluation.metrics import Rankings
from cmir.evaluation.protocol import Direction, Items, Judge, Relevance, Scorer, check_relevance, directions


@dataclass(frozen=True, slots=True)
class DirectionResult:
    """One direction measured: `rankings` of the model, `baseline` of the thumbnails (None with speech)."""

    direction: Direction
    figures: DirectionFigures
    rankings: Rankings
    baseline: Rankings | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All directions of one bundle, by name, in the order of the modalities; `report` is what goes into report.json."""

    items: Items
    report: Report
    results: dict[str, DirectionResult]


def evaluate(
    items: Items,
    *,
    space_id: str,
    relevance: Relevance = "labels",
    query_splits: Sequence[str] = ("test",),
    gallery_splits: Sequence[str] = ("test",),
    bundle_uri: str = "",
    num_rejected: int = 0,
    modalities_left_out: Sequence[str] = (),
    seed: int = 0,
) -> Evaluation:
    """Measure every direction between the items' modalities.

    `seed` is the bootstrap's; `bundle_uri`, `num_rejected` and `modalities_left_out` are said in the report.

    Raises ConfigError where no item carries what the relevance needs.
    """
    check_relevance(items.metadata, relevance)
    results = {
        direction.name: _measure(items, direction, relevance, seed)
        for direction in directions(items, relevance, query_splits, gallery_splits)
    }
    report = Report(
        space_id=space_id,
        bundle_uri=bundle_uri,
        relevance=relevance,
        query_splits=tuple(query_splits),
        gallery_splits=tuple(gallery_splits),
        directions={name: result.figures for name, result in results.items()},
        num_items={name: items.columns["modality"].count(name) for name in sorted(set(items.columns["modality"]))},
        num_items_rejected=num_rejected,
        modalities_left_out=tuple(modalities_left_out),
    )
    return Evaluation(items, report, results)


def _measure(items: Items, direction: Direction, relevance: Relevance, seed: int) -> DirectionResult:
    rankings = _rank(items.vectors, items, direction, relevance)
    reference = None
    if items.grey is not None and not direction.has_speech:
        reference = _rank(items.grey, items, direction, relevance)
    return DirectionResult(
        direction, _figures(items, direction, relevance, seed, rankings, reference), rankings, reference
    )


def _rank(vectors: npt.NDArray[np.float32], items: Items, direction: Direction, relevance: Relevance) -> Rankings:
    item_ids = [items.columns["item_id"][i] for i in direction.gallery]
    score, gain = Scorer(vectors, direction), Judge(items, direction, relevance)
    return metrics.measure(score, gain, item_ids=item_ids, own=direction.own)


def _figures(
    items: Items, direction: Direction, relevance: Relevance, seed: int, rankings: Rankings, reference: Rankings | None
) -> DirectionFigures:
    num_queries, gallery_size = len(direction.queries), len(direction.gallery)
    if not num_queries:
        left_out = direction.num_left_out
        return DirectionFigures(
            relevance=relevance, num_queries=0, gallery_size=gallery_size, num_queries_left_out=left_out
        )
    cutoffs = direction.precision_cutoffs
    no_learning = None
    if reference is not None:
        no_learning = BaselineFigures(name=baseline.NAME, **mean_figures(reference, cutoffs).model_dump())
    chance = metrics.chance_average_precision(rankings.num_relevant, rankings.num_candidates)
    return DirectionFigures(
        relevance=relevance,
        num_queries=num_queries,
        gallery_size=gallery_size,
        **mean_figures(rankings, cutoffs).model_dump(),
        map_ci95=metrics.bootstrap_interval(rankings.average_precision, seed=seed),
        chance_map=float(chance.mean()),
        baseline=no_learning,
        ceiling=mean_figures(metrics.perfect(rankings), cutoffs),
        per_label=group_figures(rankings, [_labels(items, i, relevance) for i in direction.queries]),
        per_class=group_figures(rankings, [_known(items.columns["scene_class"][i]) for i in direction.queries]),
        per_sensor=group_figures(rankings, [_known(items.columns["sensor"][i]) for i in direction.queries]),
        per_voice=group_figures(rankings, [_voice(items, i) for i in direction.queries]),
        num_queries_left_out=direction.num_left_out,
        num_queries_unanswerable=int((rankings.num_relevant == 0).sum()),
    )


def _labels(items: Items, index: int, relevance: Relevance) -> Sequence[str]:
    """What a query is about: its class where judged by class, else its labels, else its class."""
    scene_class = _known(items.columns["scene_class"][index])
    return scene_class if relevance == "class" else items.columns["labels"][index] or scene_class


def _known(value: str | None) -> list[str]:
    return [] if value is None else [value]


def _voice(items: Items, index: int) -> list[str]:
    """The voice of an utterance, as its source wrote it into `attributes`."""
    text = items.columns["attributes"][index]
    if items.columns["modality"][index] != "speech" or not text:
        return []
    attributes: dict[str, Any] = json.loads(text)
    return _known(attributes.get("voice") or attributes.get("speaker"))
