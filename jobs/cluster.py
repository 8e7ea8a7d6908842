"""A job's cluster: the one it was submitted to, the one RAY_ADDRESS names, or a small one of its own on loopback."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

from cmir.loopback import HOST, free_port
from jobs import signals

Outcome = TypeVar("Outcome")
_TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"
_USAGE_LOGGER = "ray.data._internal.usage"


def connect(*, for_training: bool = False) -> None:
    """Connect to the cluster of RAY_ADDRESS, else start one here that ends with this process; does nothing twice.

    Ray Train asks the dashboard whether its controller lives, and takes the workers away where it does not. Left to
    find the dashboard by itself it asks that of the cluster that `ray start` started last, alive or not; on a cluster
    that was given, that is the one.
    """
    # a thread of Ray Data asks Prometheus every 10 s and writes a traceback where there is none; making it parses code,
    # which another thread must not do meanwhile (a fault of Python before 3.11.8: "AST constructor recursion depth")
    logging.getLogger(_USAGE_LOGGER).setLevel(logging.INFO)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset it only warns
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        signals.take_back()
        return
    logging.getLogger(_TOKEN_LOGGER).setLevel(logging.ERROR)  # it says at every start that tokens guard this cluster
    port = free_port() if for_training else None
    if for_training:
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{HOST}:{port}"
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
    ray.init(
        address="local",
        include_dashboard=for_training,
        dashboard_host=HOST,
        dashboard_port=port,
        logging_level=logging.WARNING,
        _node_ip_address=HOST,
    )
    signals.take_back()


def num_cpus() -> int:
    """CPU cores of the cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def map_unordered(
    function: Callable[..., Outcome], calls: Iterable[tuple[Any, ...]], *, max_in_flight: int
) -> Iterator[Outcome]:
    """Run calls as Ray tasks of one core each, as they come, never more than `max_in_flight` at once; a task whose
    worker dies is run again."""
    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    pending: list[Any] = []
    for call in calls:
        if len(pending) >= max_in_flight:
            done, pending = ray.wait(pending, num_returns=1)
            yield _outcome(done[0])
        pending.append(remote.remote(*call))
    while pending:
        done, pending = ray.wait(pending, num_returns=1)
        yield _outcome(done[0])


def _outcome(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the worker's own error says it better than Ray's wrapping of it
        raise error.cause from error
