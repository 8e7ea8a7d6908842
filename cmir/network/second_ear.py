"""A second ear: a recogniser trained on people, asked beside the speech tower what an utterance says. Off by default.

    waveform f32[T] at 16 kHz --SecondEar--> Said --heard_by_ear--> query vector f32[D], Heard

The tower hears what it was trained on, which may be synthetic voices alone; an ear knows a language, and of it only the
spoken forms of the bundle are asked for. Where it is sure, the query is the mean of the prototypes of the labels named;
where it is not, the tower's own vector stands. An ear never takes part in embedding: items of an archive have vectors
of the tower alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.network.hearing import Heard

F32 = npt.NDArray[np.float32]
LONGEST_S: Final = 8.0  # what follows is not heard, as by the towers
# From this confidence on an ear is believed: how it was chosen stands in docs/decisions.md.
SURE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Said:
    """What an ear understood: its `text`, the labels that it names, none where no form is in it, and how probably it
    says just that, 0..1."""

    text: str
    labels: tuple[str, ...]
    confidence: float

    @property
    def is_sure(self) -> bool:
        """Whether the labels are to be believed."""
        return bool(self.labels) and self.confidence >= SURE


class SecondEar(Protocol):
    """A recogniser that knows spoken forms. Safe to use from several threads; `name` is what it was opened by."""

    @property
    def name(self) -> str: ...
    def listen(self, waveform: F32) -> Said: ...


def heard_by_ear(said: Said, vector: F32, labels: Sequence[str], prototypes: F32) -> tuple[F32, Heard]:
    """The query vector f32[D] and the report for an utterance of which an ear is sure.

    The vector is the normalised mean of the prototypes f32[L,D] of the labels named; `vector` is the tower's, whose
    cosines to those labels are reported as ever.
    """
    places = [list(labels).index(label) for label in said.labels]
    mean = prototypes[places].mean(axis=0)
    named: F32 = (mean / np.linalg.norm(mean)).astype(np.float32)
    cosines = (prototypes[places] @ vector).tolist()
    return named, Heard(
        tuple(zip(said.labels, cosines, strict=True)), is_known=True, by="ear", confidence=said.confidence
    )


def cut(waveform: F32) -> F32:
    """What an ear hears of an utterance f32[T]."""
    return waveform[: round(LONGEST_S * SAMPLE_RATE_HZ)]
