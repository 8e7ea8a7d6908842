"""What utterances are taken to name: the right label, by the nearest prototype, and none where there is none.

Three figures that a ranking of images does not show: how often the word itself is understood, by speaker and by engine;
how well words that name a label are told from silence, noise and other words (area under the ROC curve); and what the
bundle's own threshold does with both.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cmir.evaluation import chance
from cmir.evaluation.protocol import Items, Prototypes
from cmir.network.hearing import auroc, heard_scores

F32 = npt.NDArray[np.float32]
_NOT_SPOKEN = "noise"


class GroupNaming(BaseModel):
    """The utterances of one speaker or one engine."""

    model_config = ConfigDict(frozen=True)

    num_utterances: int
    named_right: float


class RejectionFigures(BaseModel):
    """Utterances that name a label of the bundle against those that name none.

    `auroc_by_kind`: against other words, and against noises, alone. With the bundle's `threshold`, the shares of the
    known that are heard and of the unknown that are refused.
    """

    model_config = ConfigDict(frozen=True)

    num_known: int
    num_unknown: int
    auroc: float
    auroc_by_kind: dict[str, float]
    threshold: float | None = None
    known_heard: float | None = None
    unknown_refused: float | None = None


class NamingFigures(BaseModel):
    """Of utterances of one label that the bundle knows: the share whose nearest prototype is that label's."""

    model_config = ConfigDict(frozen=True)

    num_utterances: int
    named_right: float | None = None
    named_right_ci95: tuple[float, float] | None = None
    per_speaker: dict[str, GroupNaming] = Field(default_factory=dict)
    per_engine: dict[str, GroupNaming] = Field(default_factory=dict)
    rejection: RejectionFigures | None = None


def name_utterances(
    items: Items, prototypes: Prototypes | None, *, splits: Sequence[str] = ("test",), seed: int = 0
) -> NamingFigures | None:
    """Figures of the utterances of `splits`; None where there is none, or the bundle knows no labels.

    `seed` is the bootstrap's.
    """
    spoken = items.where(modality="speech", splits=splits)
    if not len(spoken) or prototypes is None or not prototypes.labels:
        return None
    labels = prototypes.labels
    named = [set(items.columns["labels"][i]) for i in spoken]
    told = [json.loads(items.columns["attributes"][i] or "{}") for i in spoken]
    vectors, known = items.vectors[spoken], set(labels)
    single = np.array([place for place, names in enumerate(named) if len(names) == 1 and names <= known], np.int64)
    scores = heard_scores(vectors, prototypes.vectors)
    rejection = _rejection(scores, named, told, known, prototypes.heard_threshold)
    if not len(single):
        return NamingFigures(num_utterances=0, rejection=rejection)
    meant = np.array([labels.index(next(iter(named[place]))) for place in single])
    right = ((vectors[single] @ prototypes.vectors.T).argmax(axis=1) == meant).astype(np.float64)
    said_by = [told[place] for place in single]
    return NamingFigures(
        num_utterances=len(single),
        named_right=float(right.mean()),
        named_right_ci95=chance.bootstrap_intervals(right[None], seed=seed)[0],
        per_speaker=_by(said_by, "speaker", right),
        per_engine=_by(said_by, "engine", right),
        rejection=rejection,
    )


def _by(told: Sequence[Mapping[str, object]], key: str, right: npt.NDArray[np.float64]) -> dict[str, GroupNaming]:
    members: dict[str, list[float]] = {}
    for said, value in zip(told, right.tolist(), strict=True):
        if said.get(key):
            members.setdefault(str(said[key]), []).append(value)
    return {
        name: GroupNaming(num_utterances=len(values), named_right=float(np.mean(values)))
        for name, values in sorted(members.items())
    }


def _rejection(
    scores: F32,
    named: Sequence[set[str]],
    told: Sequence[Mapping[str, object]],
    labels: set[str],
    threshold: float | None,
) -> RejectionFigures | None:
    """None without either side. An utterance that names other labels only is unknown too."""
    is_known = np.array([bool(names & labels) for names in named])
    known, unknown = scores[is_known], scores[~is_known]
    if not len(known) or not len(unknown):
        return None
    kinds = np.array(["noises" if _NOT_SPOKEN in said else "words" for said in told])[~is_known]
    return RejectionFigures(
        num_known=len(known),
        num_unknown=len(unknown),
        auroc=auroc(known, unknown),
        auroc_by_kind={kind: auroc(known, unknown[kinds == kind]) for kind in sorted(set(kinds.tolist()))},
        threshold=threshold,
        known_heard=None if threshold is None else float((known >= threshold).mean()),
        unknown_refused=None if threshold is None else float((unknown < threshold).mean()),
    )
