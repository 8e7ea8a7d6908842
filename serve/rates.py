"""How often a bearer may ask: a bucket that fills at the rate it was given and holds a second's worth, or one request.

Each replica counts for itself, so that a bearer may ask as many times as often as there are replicas.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

_RATE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)/(?P<unit>s|min)")
_SECONDS: Final = {"s": 1.0, "min": 60.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a second."""

    per_s: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """`20/s` or `5/min`. Raises ValueError for anything else, and for none at all.

        >>> Rate.parse("30/min").per_s
        0.5
        """
        match = _RATE.fullmatch(text)
        if match is None or not float(match["number"]):
            raise ValueError(f"{text!r} is no rate, expected N/s or N/min")
        return cls(float(match["number"]) / _SECONDS[match["unit"]])


class Bucket:
    """What is left of one bearer's rate.

    >>> bucket = Bucket(Rate.parse("2/s"), clock=lambda: 0.0)
    >>> [bucket.take() for _ in range(3)]
    [0.0, 0.0, 0.5]
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._most = max(1.0, rate.per_s)
        self._left, self._seen_s = self._most, clock()

    def take(self) -> float:
        """Take one request; 0 where there was one, else the seconds until there is."""
        self._fill()
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self.rate.per_s

    def owe(self, num_requests: int) -> None:
        """Take so many, whether they are there or not."""
        self._fill()
        self._left -= num_requests

    def _fill(self) -> None:
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._seen_s) * self.rate.per_s)
        self._seen_s = now_s


def whole_seconds(seconds: float) -> int:
    """As Retry-After takes it: rounded up, at least one."""
    return max(1, math.ceil(seconds))
