"""What goes wrong: of every direction the queries furthest from a right answer, and what is taken for what."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from cmir.evaluation.groups import grouping
from cmir.evaluation.measurement import DirectionResult, Evaluation
from cmir.evaluation.panels import Panel, worst_panels
from cmir.evaluation.protocol import Items, Relevance

NUM_WORST: Final = 8  # of each direction
_NUM_MIXUPS: Final = 8


@dataclass(frozen=True, slots=True)
class Mixup:
    """`num_queries` of the `num_asked` queries for `asked` got a wrong item of group `got` in the first place."""

    asked: str
    got: str
    num_queries: int
    num_asked: int


@dataclass(frozen=True, slots=True)
class Failures:
    """One direction: `num_failed` of `num_answerable` queries found nothing right in the first place."""

    name: str
    num_failed: int
    num_answerable: int
    mixups: tuple[Mixup, ...]
    panels: tuple[Panel, ...]


def failures(evaluation: Evaluation) -> list[Failures]:
    """Of every direction; mix-ups where answers are judged by labels or class."""
    found = []
    for name, result in evaluation.results.items():
        answerable = result.rankings.num_relevant > 0
        num_failed = int((answerable & (result.rankings.hits[:, 0] == 0)).sum())
        panels = tuple(worst_panels(result, evaluation.items, NUM_WORST))
        relevance = result.figures.relevance
        mixups = () if relevance == "pair" else tuple(_mixups(result, evaluation.items, evaluation.relevance))
        found.append(Failures(name, num_failed, int(answerable.sum()), mixups, panels))
    return found


def _mixups(result: DirectionResult, items: Items, relevance: Relevance) -> list[Mixup]:
    """The most frequent ones. What shares its word with the query is left out: the word does not tell them apart."""
    rankings, direction = result.rankings, result.direction
    asked = grouping(items, direction.queries, relevance).names
    got = grouping(items, direction.gallery, relevance).names
    wrong = np.flatnonzero((rankings.num_relevant > 0) & (rankings.hits[:, 0] == 0) & (rankings.shown[:, 0] >= 0))
    pairs = Counter((asked[query], got[int(rankings.shown[query, 0])]) for query in wrong.tolist())
    num_asked = Counter(asked)
    named = [(a, b, num) for (a, b), num in pairs.items() if a is not None and b is not None and a != b]
    named.sort(key=lambda entry: (-entry[2], entry[0], entry[1]))
    return [Mixup(a, b, num, num_asked[a]) for a, b, num in named[:_NUM_MIXUPS]]
