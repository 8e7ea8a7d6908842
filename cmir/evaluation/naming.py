"""What utterances are taken to name: the right label, by the nearest prototype, and none where there is none.

Three figures that a ranking of images does not show: how often the word itself is understood, by speaker and by engine;
how well words that name a label are told from silence, noise and other words (area under the ROC curve); and what the
bundle's own threshold does with both. A second ear, where one was asked, has figures of its own; no other figure knows
of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cmir.evaluation import chance
from cmir.evaluation.protocol import Items, Prototypes
from cmir.network.hearing import auroc, heard_scores
from cmir.network.second_ear import SURE, Said

F32 = npt.NDArray[np.float32]
_NOT_SPOKEN = "noise"


class GroupNaming(BaseModel):
    """The utterances of one speaker or one engine."""

    model_config = ConfigDict(frozen=True)

    num_utterances: int
    named_right: float
    named_right_ci95: tuple[float, float] | None = None


class RejectionFigures(BaseModel):
    """Utterances that name a label of the bundle against those that name none.

    `auroc_by_kind`: against other words, and against noises, alone. With the bundle's `threshold`, the shares of the
    known that are heard and of the unknown that are refused.
    """

    model_config = ConfigDict(frozen=True)

    num_known: int
    num_unknown: int
    auroc: float
    auroc_ci95: tuple[float, float] | None = None
    auroc_by_kind: dict[str, float]
    threshold: float | None = None
    known_heard: float | None = None
    unknown_refused: float | None = None


class SecondEarFigures(BaseModel):
    """What a second ear made of the same utterances of one label: shares named right, named wrong and refused, together
    1. `guessed_right` is its best guess, sure or not, which is what compares with the tower's `named_right`.

    `rejection` is by its confidence, 0 where it found no form; the threshold is that from which it is believed.
    """

    model_config = ConfigDict(frozen=True)

    ear: str
    num_utterances: int
    named_right: float | None = None
    named_wrong: float | None = None
    refused: float | None = None
    guessed_right: float | None = None
    guessed_right_ci95: tuple[float, float] | None = None
    rejection: RejectionFigures | None = None


@dataclass(frozen=True, slots=True)
class HeardItems:
    """What a second ear understood, by item_id, and which one it was."""

    ear: str
    said: Mapping[str, Said]


class NamingFigures(BaseModel):
    """Of utterances of one label that the bundle knows: the share whose nearest prototype is that label's; `chance` is
    one label of all that it knows."""

    model_config = ConfigDict(frozen=True)

    num_utterances: int
    named_right: float | None = None
    named_right_ci95: tuple[float, float] | None = None
    chance: float | None = None
    per_speaker: dict[str, GroupNaming] = Field(default_factory=dict)
    per_engine: dict[str, GroupNaming] = Field(default_factory=dict)
    rejection: RejectionFigures | None = None
    second_ear: SecondEarFigures | None = None


def name_utterances(
    items: Items,
    prototypes: Prototypes | None,
    *,
    splits: Sequence[str] = ("test",),
    seed: int = 0,
    heard: HeardItems | None = None,
) -> NamingFigures | None:
    """Figures of the utterances of `splits`; None where there is none, or the bundle knows no labels.

    `seed` is the bootstrap's; `heard`, of these very utterances, gives those of the second ear.
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
    rejection = _rejection(scores, named, told, known, prototypes.heard_threshold, seed=seed)
    second_ear = None
    if heard is not None:
        said = [heard.said[items.columns["item_id"][i]] for i in spoken]
        second_ear = ear_figures(heard.ear, said, named, told, known, seed=seed)
    if not len(single):
        return NamingFigures(num_utterances=0, rejection=rejection, second_ear=second_ear)
    meant = np.array([labels.index(next(iter(named[place]))) for place in single])
    right = ((vectors[single] @ prototypes.vectors.T).argmax(axis=1) == meant).astype(np.float64)
    said_by = [told[place] for place in single]
    return NamingFigures(
        num_utterances=len(single),
        named_right=float(right.mean()),
        named_right_ci95=chance.bootstrap_intervals(right[None], seed=seed)[0],
        chance=1.0 / len(labels),
        per_speaker=_by(said_by, "speaker", right, seed=seed),
        per_engine=_by(said_by, "engine", right, seed=seed),
        rejection=rejection,
        second_ear=second_ear,
    )


def ear_figures(
    ear: str,
    said: Sequence[Said],
    named: Sequence[set[str]],
    told: Sequence[Mapping[str, object]],
    known: set[str],
    *,
    seed: int = 0,
) -> SecondEarFigures:
    """Figures of what an ear said of utterances that name `named`; `told` are their attributes, `known` the labels."""
    scores = np.array([one.confidence if one.labels else 0.0 for one in said], np.float32)
    rejection = _rejection(scores, named, told, known, SURE, seed=seed)
    single = [(one, names) for one, names in zip(said, named, strict=True) if len(names) == 1 and names <= known]
    if not single:
        return SecondEarFigures(ear=ear, num_utterances=0, rejection=rejection)
    right = np.array([set(one.labels) == names for one, names in single])
    sure = np.array([one.is_sure for one, _ in single])
    return SecondEarFigures(
        ear=ear,
        num_utterances=len(single),
        named_right=float((right & sure).mean()),
        named_wrong=float((~right & sure).mean()),
        refused=float((~sure).mean()),
        guessed_right=float(right.mean()),
        guessed_right_ci95=chance.bootstrap_intervals(right.astype(np.float64)[None], seed=seed)[0],
        rejection=rejection,
    )


def _by(
    told: Sequence[Mapping[str, object]], key: str, right: npt.NDArray[np.float64], *, seed: int
) -> dict[str, GroupNaming]:
    members: dict[str, list[float]] = {}
    for said, value in zip(told, right.tolist(), strict=True):
        if said.get(key):
            members.setdefault(str(said[key]), []).append(value)
    return {
        name: GroupNaming(
            num_utterances=len(values),
            named_right=float(np.mean(values)),
            named_right_ci95=chance.bootstrap_intervals(np.array([values]), seed=seed)[0],
        )
        for name, values in sorted(members.items())
    }


def _rejection(
    scores: F32,
    named: Sequence[set[str]],
    told: Sequence[Mapping[str, object]],
    labels: set[str],
    threshold: float | None,
    *,
    seed: int,
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
        auroc_ci95=chance.auroc_interval(known, unknown, seed=seed),
        auroc_by_kind={kind: auroc(known, unknown[kinds == kind]) for kind in sorted(set(kinds.tolist()))},
        threshold=threshold,
        known_heard=None if threshold is None else float((known >= threshold).mean()),
        unknown_refused=None if threshold is None else float((unknown < threshold).mean()),
    )
