"""What report.json holds: rankings become the figures of a direction, with chance, baseline and ceiling beside each."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from cmir.evaluation import baseline, chance, metrics
from cmir.evaluation.metrics import CUTOFFS, Floats, Rankings
from cmir.evaluation.naming import NamingFigures
from cmir.evaluation.trained_on import TrainedOn

At = dict[str, float]  # cut-off k as text -> value
Interval = tuple[float, float]  # the middle 95% of bootstrap means over the queries
_TENTH: Final = CUTOFFS.index(10)


class Figures(BaseModel):
    """Means over queries. None where a direction has no query to judge."""

    model_config = ConfigDict(frozen=True)

    map: float | None = None
    mean_precision_at_k: float | None = None
    precision_at: At = Field(default_factory=dict)
    recall_at: At = Field(default_factory=dict)
    hit_at: At = Field(default_factory=dict)
    ndcg_at: At = Field(default_factory=dict)
    mrr: float | None = None


class BaselineFigures(Figures):
    """The same figures of a ranking without learning; `name` says which."""

    name: str


class MeasuredFigures(Figures):
    """Figures with what they are worth: intervals, a random order, no learning ({} with speech), a perfect order.

    An interval is None for fewer than two queries.
    """

    num_queries: int
    map_ci95: Interval | None = None
    mean_precision_at_k_ci95: Interval | None = None
    precision_at_10_ci95: Interval | None = None
    hit_at_1_ci95: Interval | None = None
    mrr_ci95: Interval | None = None
    chance: Figures = Figures()
    baseline: BaselineFigures | None = None
    ceiling: Figures = Figures()

    @field_serializer("baseline")
    def _baseline_out(self, baseline: BaselineFigures | None) -> dict[str, object]:
        return {} if baseline is None else baseline.model_dump()

    @field_validator("baseline", mode="before")
    @classmethod
    def _baseline_in(cls, baseline: object) -> object:
        return None if baseline == {} else baseline


class GroupFigures(BaseModel):
    """The queries of one label, class, sensor, voice or engine, or of one number of right answers (0, 1-9, 10+).

    `ceiling_precision_at_10`: that of a perfect order; 1 only where ten items are right.
    """

    model_config = ConfigDict(frozen=True)

    num_queries: int
    map: float
    map_ci95: Interval | None = None
    chance_map: float
    baseline_map: float | None = None
    ceiling_map: float
    precision_at: At
    precision_at_10_ci95: Interval | None = None
    ceiling_precision_at_10: float | None = None
    hit_at: At = Field(default_factory=dict)
    hit_at_1_ci95: Interval | None = None
    mrr: float = 0.0


class WithoutOverlap(MeasuredFigures):
    """A direction once more, where for each query the other chips of its own ground are taken out of the gallery.

    `left_out` says which. Judged by labels or class the rest of the query's own pair is among them: a chip that shows
    the very ground says nothing of how others are found. `num_queries_concerned` have such chips, `num_items_concerned`
    gallery items are such a chip of some query, and `num_overlaps` counts query with item. Speech: utterances of the
    query's own speaker.
    """

    left_out: str = ""
    num_queries_concerned: int
    num_items_concerned: int
    num_overlaps: int


class WithinScene(MeasuredFigures):
    """Pairs ranked among the chips of their own scene only, of scenes that hold several chips of the gallery.

    `num_queries` of `num_scenes` scenes, against `mean_gallery_size` chips each.
    """

    num_scenes: int
    mean_gallery_size: float
    per_sensor: dict[str, GroupFigures] = Field(default_factory=dict)


class DirectionFigures(MeasuredFigures):
    """One direction. `num_queries_left_out`: queries that carry nothing to judge by; `num_queries_unanswerable`: those
    for which nothing in the gallery is relevant (they count as 0, in the ceiling too). `without_overlap` is None where
    no query has another chip of its ground in the gallery, `within_scene` where relevance is not pair or no scene holds
    several chips."""

    relevance: str
    gallery_size: int
    chance_map: float | None = None
    per_label: dict[str, GroupFigures] = Field(default_factory=dict)
    per_class: dict[str, GroupFigures] = Field(default_factory=dict)
    per_sensor: dict[str, GroupFigures] = Field(default_factory=dict)
    per_voice: dict[str, GroupFigures] = Field(default_factory=dict)
    per_engine: dict[str, GroupFigures] = Field(default_factory=dict)
    per_num_relevant: dict[str, GroupFigures] = Field(default_factory=dict)
    num_queries_left_out: int = 0
    num_queries_unanswerable: int = 0
    without_overlap: WithoutOverlap | None = None
    within_scene: WithinScene | None = None


class Difference(BaseModel):
    """Average precision of this bundle less that of the compared one, over the `num_queries` both were asked."""

    model_config = ConfigDict(frozen=True)

    num_queries: int
    map: float
    map_ci95: Interval | None = None


class Report(BaseModel):
    """report.json. `compare` is the same evaluation of another bundle, `differences` what lies between them.

    `unknown_labels` are labels of the items that the bundle was not trained on, where it was trained on labels;
    `naming` is what utterances were taken to name; `trained_on` says, by modality, what share of the items shows ground
    or is said by people that the bundle was trained on, None where the bundle does not tell.
    """

    model_config = ConfigDict(frozen=True)

    space_id: str
    bundle_uri: str = ""
    relevance: str
    query_splits: tuple[str, ...]
    gallery_splits: tuple[str, ...]
    directions: dict[str, DirectionFigures]
    num_items: dict[str, int] = Field(default_factory=dict)
    num_items_rejected: int = 0
    modalities_left_out: tuple[str, ...] = ()
    unknown_labels: tuple[str, ...] = ()
    naming: NamingFigures | None = None
    trained_on: dict[str, TrainedOn] | None = None
    compare: "Report | None" = None
    differences: dict[str, Difference] = Field(default_factory=dict)

    @property
    def met_in_training(self) -> dict[str, TrainedOn]:
        """Of `trained_on` the modalities of which anything was."""
        found = (self.trained_on or {}).items()
        return {name: share for name, share in found if share.queries > 0 or share.gallery > 0}

    @property
    def asked(self) -> dict[str, DirectionFigures]:
        """Without the directions in which no query has a right answer: of pairs, none lies within one modality."""
        found = self.directions.items()
        return {name: each for name, each in found if not 0 < each.num_queries == each.num_queries_unanswerable}


def mean_figures(rankings: Rankings, precision_cutoffs: Sequence[int]) -> Figures:
    """Means over the queries of `rankings`, at CUTOFFS; `precision_cutoffs` are those of mean_precision_at_k."""
    if not len(rankings.num_relevant):
        return Figures()
    return Figures(
        map=float(rankings.average_precision.mean()),
        mean_precision_at_k=float(rankings.mean_precision(precision_cutoffs).mean()),
        precision_at=_at(rankings.precision_at(k) for k in CUTOFFS),
        recall_at=_at(rankings.recall_at(k) for k in CUTOFFS),
        hit_at=_at(rankings.hit_at(k) for k in CUTOFFS),
        ndcg_at=_at(rankings.ndcg_at(k) for k in CUTOFFS),
        mrr=float(rankings.reciprocal_rank.mean()),
    )


def chance_figures(rankings: Rankings, precision_cutoffs: Sequence[int]) -> Figures:
    """What a random order of the same candidates scores, in expectation."""
    if not len(rankings.num_relevant):
        return Figures()
    counts = rankings.num_relevant, rankings.num_candidates
    return Figures(
        map=float(chance.chance_average_precision(*counts).mean()),
        mean_precision_at_k=float(np.mean([chance.chance_precision_at(rankings, k).mean() for k in precision_cutoffs])),
        precision_at=_at(chance.chance_precision_at(rankings, k) for k in CUTOFFS),
        recall_at=_at(chance.chance_recall_at(rankings, k) for k in CUTOFFS),
        hit_at=_at(chance.chance_hit_at(rankings, k) for k in CUTOFFS),
        ndcg_at=_at(chance.chance_ndcg_at(rankings, k) for k in CUTOFFS),
        mrr=float(chance.chance_reciprocal_rank(*counts).mean()),
    )


def measured(
    rankings: Rankings, reference: Rankings | None, precision_cutoffs: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """The fields of MeasuredFigures, for a model that extends it; `reference` is the ranking of the baseline."""
    kinds = {
        "map_ci95": rankings.average_precision,
        "mean_precision_at_k_ci95": rankings.mean_precision(precision_cutoffs),
        "precision_at_10_ci95": rankings.precision_at(10),
        "hit_at_1_ci95": rankings.hit_at(1),
        "mrr_ci95": rankings.reciprocal_rank,
    }
    intervals = chance.bootstrap_intervals(np.stack(list(kinds.values())), seed=seed)
    no_learning = None
    if reference is not None:
        no_learning = BaselineFigures(name=baseline.NAME, **mean_figures(reference, precision_cutoffs).model_dump())
    return {
        **mean_figures(rankings, precision_cutoffs).model_dump(),
        "num_queries": len(rankings.num_relevant),
        **dict(zip(kinds, intervals, strict=True)),
        "chance": chance_figures(rankings, precision_cutoffs),
        "baseline": no_learning,
        "ceiling": mean_figures(metrics.perfect(rankings), precision_cutoffs),
    }


def group_figures(
    rankings: Rankings, reference: Rankings | None, names_of: Sequence[Iterable[str]], *, seed: int
) -> dict[str, GroupFigures]:
    """Figures of every group of queries; `names_of` holds the groups of each query (a query may be of several)."""
    members: dict[str, list[int]] = {}
    for query, names in enumerate(names_of):
        for name in set(names):
            members.setdefault(name, []).append(query)
    by_chance = chance.chance_average_precision(rankings.num_relevant, rankings.num_candidates)
    precision = np.stack([rankings.precision_at(k) for k in CUTOFFS])
    hit = np.stack([rankings.hit_at(k) for k in CUTOFFS])
    found = {}
    for name, queries in sorted(members.items()):
        kinds = np.stack([rankings.average_precision[queries], hit[0, queries], precision[_TENTH, queries]])
        of_map, of_hit, of_precision = chance.bootstrap_intervals(kinds, seed=seed)
        found[name] = GroupFigures(
            num_queries=len(queries),
            map=float(rankings.average_precision[queries].mean()),
            map_ci95=of_map,
            chance_map=float(by_chance[queries].mean()),
            baseline_map=None if reference is None else float(reference.average_precision[queries].mean()),
            ceiling_map=float(np.mean(rankings.num_relevant[queries] > 0)),
            precision_at=_named(precision[:, queries].mean(axis=1)),
            precision_at_10_ci95=of_precision,
            ceiling_precision_at_10=float(np.minimum(rankings.num_relevant[queries], 10).mean() / 10),
            hit_at=_named(hit[:, queries].mean(axis=1)),
            hit_at_1_ci95=of_hit,
            mrr=float(rankings.reciprocal_rank[queries].mean()),
        )
    return found


def _at(values: Iterable[Floats]) -> At:
    """Means of the values of each query, at CUTOFFS."""
    return _named([each.mean() for each in values])


def _named(means: Iterable[float]) -> At:
    return {str(k): float(mean) for k, mean in zip(CUTOFFS, means, strict=True)}
