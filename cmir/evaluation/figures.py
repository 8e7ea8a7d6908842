"""What report.json holds: rankings become the figures of a direction, with chance, baseline and ceiling beside them."""

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from cmir.evaluation import metrics
from cmir.evaluation.metrics import CUTOFFS, Rankings

At = dict[str, float]  # cut-off k as text -> value


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


class GroupFigures(BaseModel):
    """The queries of one label, class, sensor or voice."""

    model_config = ConfigDict(frozen=True)

    num_queries: int
    map: float
    chance_map: float
    ceiling_map: float
    precision_at: At


class DirectionFigures(Figures):
    """One direction. `num_queries_left_out`: queries that carry nothing to judge by; `num_queries_unanswerable`: those
    for which nothing in the gallery is relevant (they count as 0, in the ceiling too). `baseline` is {} with speech."""

    relevance: str
    num_queries: int
    gallery_size: int
    map_ci95: tuple[float, float] | None = None
    chance_map: float | None = None
    baseline: BaselineFigures | None = None
    ceiling: Figures = Figures()
    per_label: dict[str, GroupFigures] = Field(default_factory=dict)
    per_class: dict[str, GroupFigures] = Field(default_factory=dict)
    per_sensor: dict[str, GroupFigures] = Field(default_factory=dict)
    per_voice: dict[str, GroupFigures] = Field(default_factory=dict)
    num_queries_left_out: int = 0
    num_queries_unanswerable: int = 0

    @field_serializer("baseline")
    def _baseline_out(self, baseline: BaselineFigures | None) -> dict[str, object]:
        return {} if baseline is None else baseline.model_dump()

    @field_validator("baseline", mode="before")
    @classmethod
    def _baseline_in(cls, baseline: object) -> object:
        return None if baseline == {} else baseline


class Report(BaseModel):
    """report.json. `compare` is the same evaluation of another bundle."""

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
    compare: "Report | None" = None

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
        precision_at={str(k): float(rankings.precision_at(k).mean()) for k in CUTOFFS},
        recall_at={str(k): float(rankings.recall_at(k).mean()) for k in CUTOFFS},
        hit_at={str(k): float(rankings.hit_at(k).mean()) for k in CUTOFFS},
        ndcg_at={str(k): float(rankings.ndcg_at(k).mean()) for k in CUTOFFS},
        mrr=float(rankings.reciprocal_rank.mean()),
    )


def group_figures(rankings: Rankings, names_of: Sequence[Iterable[str]]) -> dict[str, GroupFigures]:
    """Figures of every group of queries; `names_of` holds the groups of each query (a query may be of several)."""
    members: dict[str, list[int]] = {}
    for query, names in enumerate(names_of):
        for name in set(names):
            members.setdefault(name, []).append(query)
    chance = metrics.chance_average_precision(rankings.num_relevant, rankings.num_candidates)
    precision = {k: rankings.precision_at(k) for k in CUTOFFS}
    return {
        name: GroupFigures(
            num_queries=len(queries),
            map=float(rankings.average_precision[queries].mean()),
            chance_map=float(chance[queries].mean()),
            ceiling_map=float(np.mean(rankings.num_relevant[queries] > 0)),
            precision_at={str(k): float(precision[k][queries].mean()) for k in CUTOFFS},
        )
        for name, queries in sorted(members.items())
    }
