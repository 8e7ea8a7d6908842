"""What a replica counts and times, told to Ray as well, whose endpoints show every replica of every node.

`GET /metrics` shows the one replica that the request fell to, and encoders of their own have no route at all.
"""

import logging
import math
import threading
import time
from collections.abc import Collection
from typing import Final

from prometheus_client import CollectorRegistry
from ray.util.metrics import Gauge

_PREFIX: Final = "cmir_"
_EVERY_S: Final = 5.0
_log = logging.getLogger(__name__)


class RayExport:
    """Tells Ray every few seconds, from a thread of its own, the samples of a registry that are named `cmir_...`; with
    `families`, only those.

    Ray puts `ray_` before each name and the worker's id among its labels. All are gauges there, the counts and buckets
    of histograms too: queries that take rates of them are the same.
    """

    def __init__(
        self, registry: CollectorRegistry, *, families: Collection[str] = (), every_s: float = _EVERY_S
    ) -> None:
        self._registry, self._families, self._every_s = registry, families, every_s
        self._gauges: dict[str, Gauge] = {}
        threading.Thread(target=self._run, name="cmir-ray-export", daemon=True).start()

    def tell(self) -> None:
        """Tell them now."""
        for family in self._registry.collect():
            if not family.name.startswith(_PREFIX) or (self._families and family.name not in self._families):
                continue
            for sample in family.samples:
                if sample.name.endswith("_created") or math.isnan(sample.value):  # the latter: not known yet
                    continue
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                self._gauges[sample.name].set(sample.value, sample.labels)

    def _run(self) -> None:
        while True:
            time.sleep(self._every_s)
            try:
                self.tell()
            except Exception as error:  # the thread must outlive whatever Ray raises, and say so
                _log.error("Ray cannot be told the metrics: %s", error, exc_info=error)
