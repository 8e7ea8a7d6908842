"""Queries sent by one client after another answer, or by several at once; how long each took and which failed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cmir.archive.schema import Media, Modality
from cmir.client import Client
from cmir.errors import CmirError


@dataclass(frozen=True, slots=True)
class Question:
    """A file as a user sends it, and the same bytes as media for asking without a service."""

    media: Media

    @property
    def modality(self) -> Modality:
        return self.media.modality

    def ask(self, client: Client, k: int = 10) -> None:
        """Ask a service. Raises CmirError where it refuses."""
        if self.modality == "speech":
            client.search_speech(self.media.data, k=k)
        else:
            media = self.media
            client.search_image(media.data, modality=media.modality, sensor=media.sensor, gsd_m=media.gsd_m, k=k)


@dataclass
class Answers:
    """Milliseconds of every answer, the errors, and the seconds that all of it took."""

    ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.ms) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Milliseconds within which `share` of the answers came; not a number where there are none."""
        return float(np.percentile(self.ms, 100 * share)) if self.ms else float("nan")


def ask_at_once(questions: Sequence[Question], url: str, *, num_clients: int, seconds: float) -> Answers:
    """So many clients, each asking again as soon as it is answered, for so long; refused questions are errors."""
    answers, ends_at = [Answers() for _ in range(num_clients)], time.monotonic() + seconds
    threads = [
        threading.Thread(target=_ask_until, args=(questions, first, url, ends_at, found))
        for first, found in enumerate(answers)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ms, errors = [ms for found in answers for ms in found.ms], [error for found in answers for error in found.errors]
    return Answers(ms, errors, time.perf_counter() - began)


def timed_ms(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def _ask_until(questions: Sequence[Question], first: int, url: str, ends_at: float, found: Answers) -> None:
    """One client, beginning at a question of its own."""
    with Client(url, timeout_s=60, max_attempts=1) as client:
        number = first
        while time.monotonic() < ends_at:
            question = questions[number % len(questions)]
            try:
                found.ms.append(timed_ms(partial(question.ask, client)))
            except CmirError as error:
                found.errors.append(str(error))
            number += 1
