"""Recordings by people, heard by a second ear: the yardstick that `benchmark.py speech` sets beside its towers."""

from collections.abc import Sequence

from cmir.archive import storage
from cmir.archive.speech import decode_speech, file_media
from cmir.evaluation.naming import ear_figures
from cmir.network.second_ear import SecondEar
from jobs.benchmarks.record import Findings


class YardstickFigures(Findings):
    """The recordings of people by a second ear: `guessed_right`, its best guess, sure or not, compares with a tower's
    `named_right`; named right, named wrong and refused are what it does as a second ear. `auroc` is by its confidence.
    """

    task: str
    ear: str
    num_words: int
    num_utterances: int
    guessed_right: float | None
    ci95: str | None
    named_right: float | None
    named_wrong: float | None
    refused: float | None
    auroc: float | None
    unknown_refused: float | None


def yardstick(
    task: str, ear: SecondEar, labels: Sequence[str], asked: Sequence[tuple[str, str]], *, seed: int
) -> YardstickFigures:
    """What an ear makes of `asked`: URIs of recordings and the label each names, "" for none of `labels`.

    Raises DataError where a recording cannot be read.
    """
    said = [ear.listen(decode_speech(file_media(storage.read_bytes(uri)))) for uri, _ in asked]
    named = [{label} if label else set[str]() for _, label in asked]
    found = ear_figures(ear.name, said, named, [{}] * len(said), set(labels), seed=seed)
    rejection = found.rejection
    return YardstickFigures(
        task=task,
        ear=found.ear,
        num_words=len(labels),
        num_utterances=found.num_utterances,
        guessed_right=found.guessed_right,
        ci95=interval_text(found.guessed_right_ci95),
        named_right=found.named_right,
        named_wrong=found.named_wrong,
        refused=found.refused,
        auroc=None if rejection is None else rejection.auroc,
        unknown_refused=None if rejection is None else rejection.unknown_refused,
    )


def interval_text(ends: tuple[float, float] | None) -> str | None:
    """Both ends to three digits.

    >>> interval_text((0.5, 0.75))
    '0.500 .. 0.750'
    """
    return None if ends is None else "{:.3f} .. {:.3f}".format(*ends)
