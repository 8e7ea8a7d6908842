"""Whether an utterance names a known label at all: how near its vector lies to the nearest label, and from where on.

Silence, noise and words that name no label are trained to lie far from every prototype. `known` and `unknown` below are
the highest cosines of utterances that name a label and of those that name none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
HeardBy = Literal["tower", "ear"]
NOTHING_HEARD: Final = "no known label heard"
_MOST_LABELS: Final = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """The labels that an utterance is taken to name, nearest first, with their cosines; where `is_known` is false, the
    nearest one is all there is, and it was not near enough.

    `by`: the speech tower, or a second ear (second_ear), which names them in the order said, with its `confidence`.
    """

    labels: tuple[tuple[str, float], ...]
    is_known: bool
    by: HeardBy = "tower"
    confidence: float | None = None


def hear(vector: Floats, labels: Sequence[str], prototypes: Floats, threshold: float | None) -> Heard | None:
    """What an utterance f32[D] names; None where the bundle knows no labels or has no threshold to judge by."""
    if threshold is None or not labels:
        return None
    scores = prototypes @ vector
    nearest = np.argsort(-scores, kind="stable")[:_MOST_LABELS]
    kept = [place for place in nearest if scores[place] >= threshold]
    return Heard(tuple((labels[i], float(scores[i])) for i in kept or nearest[:1]), is_known=bool(kept))


def heard_scores(vectors: Floats, prototypes: Floats) -> npt.NDArray[np.float32]:
    """The cosine f32[N] of each unit vector f32[N,D] to the nearest of the prototypes f32[L,D], L at least 1."""
    scores: npt.NDArray[np.float32] = (vectors @ prototypes.T).max(axis=1).astype(np.float32)
    return scores


def auroc(known: Floats, unknown: Floats) -> float:
    """The share of (known, unknown) pairs in which the known one scores higher, a tie counting half.

    The area under the ROC curve, by the rank sum (Hanley and McNeil, 1982). Neither may be empty.

    >>> auroc(np.array([0.9, 0.4]), np.array([0.1, 0.4]))
    0.875
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left")
    ties = np.searchsorted(ordered, known, side="right") - below
    return float((below + ties / 2).sum() / (len(known) * len(unknown)))


def heard_threshold(known: Floats, unknown: Floats) -> float:
    """The score from which on an utterance counts as heard: where the two error rates together are least.

    Of equally good ones the middle (Youden's J, 1950). Neither may be empty.

    >>> round(heard_threshold(np.array([0.9, 0.8]), np.array([0.1, 0.2])), 3)
    0.5
    """
    cuts = np.unique(np.concatenate([known, unknown]).astype(np.float64))
    between = np.concatenate([cuts[:1], (cuts[1:] + cuts[:-1]) / 2, np.nextafter(cuts[-1:], 2.0)])
    kept = 1.0 - np.searchsorted(np.sort(known), between, side="left") / len(known)
    refused = np.searchsorted(np.sort(unknown), between, side="left") / len(unknown)
    best = np.flatnonzero(np.isclose(kept + refused, (kept + refused).max()))
    return float(between[best].mean())
