"""`serve run serve.app:build gallery=URI [bundle=URI] [composition=fused|split]`: the service on Ray Serve.

fused (the default, best on CPUs): one deployment decodes, encodes and searches; every hop saved is milliseconds.
split: CPU replicas take requests, decode and search, replicas with GPUs encode. Both answer the same.
"""

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from cmir.archive import storage
from cmir.errors import CmirError, SpaceMismatchError
from cmir.gallery.publish import read_pointer
from cmir.network import ear_opening
from cmir.network.bundle import read_config
from cmir.network.embedder import Device, Embedder, Prepared
from serve.asgi import create_app
from serve.batching import Timed
from serve.deployments import Encoder, EncoderPool
from serve.engine import Engine
from serve.keys import KeyRing
from serve.limits import RETRY_AFTER_S, Limits
from serve.metrics import BATCH_FAMILIES, Metrics
from serve.opening import build_engine, check_bundle
from serve.problems import ProblemError
from serve.query import F32
from serve.ray_metrics import RayExport
from serve.tracing import carried, stage_span, tracer

_LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False)  # of a request, asgi.py tells more
_LOGGERS = ("cmir", "serve")  # of our modules
_BACKPRESSURE = {"status_code": 429, "retry_after_s": RETRY_AFTER_S}


class ServeArgs(BaseModel):
    """What `build` takes: key=value on the command line, `args` in a Serve configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gallery: str = Field(description="URI of the gallery; what is published there is served")
    bundle: str | None = Field(default=None, description="URI of the bundle; default: the one that was published")
    composition: Literal["fused", "split"] = "fused"
    second_ear: str | None = Field(
        default=None, description="recogniser asked beside the speech tower: pocketsphinx, a folder, a hub id"
    )
    device: Device = "auto"
    min_replicas: int = Field(default=1, ge=0, description="of the deployment that takes requests; 0 scales to zero")
    max_replicas: int = Field(default=1, ge=1)
    min_encoders: int = Field(default=1, ge=0, description="split: replicas that encode; 0 scales to zero")
    max_encoders: int = Field(default=1, ge=1)
    downscale_to_zero_delay_s: float = Field(
        default=600.0, ge=0, description="how long nobody asks before the last replica goes, where that may be, seconds"
    )
    num_cpus: float = Field(default=1.0, ge=0, description="CPUs reserved by a replica")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs reserved by a replica that encodes")
    api_keys_file: Path | None = Field(default=None, description="hashed keys, see serve/keys.py; default: open to all")
    cors_origins: tuple[str, ...] = ()
    poll_s: float = Field(default=2.0, gt=0, le=5, description="how often to look for a new publish, seconds")
    canary_s: float = Field(default=60.0, ge=0, description="how often recall is measured, seconds; 0: never")
    decode_processes: int = Field(
        default=2, ge=0, description="processes of a replica that decode queries; 0: threads in the replica itself"
    )
    limits: Limits = Limits()


class RemoteEncoder:
    """The encoder of one space, in the replicas of another deployment, of which none may run while nobody asks."""

    def __init__(self, handle: DeploymentHandle, bundle_uri: str, space_id: str, *, may_sleep: bool) -> None:
        self._handle, self._bundle_uri, self._space_id = handle, bundle_uri, space_id
        self.may_sleep = may_sleep

    async def warm(self) -> None:
        """Have every replica that runs now load the bundle; any other loads it when it is first asked."""
        with contextlib.suppress(DeploymentUnavailableError):  # none runs
            await self._handle.broadcast("warm", self._bundle_uri, self._space_id).results_async()

    async def encode(self, prepared: Prepared) -> Timed[F32]:
        """The unit vector f32[D]; the way there and back counts as queue.

        Raises ProblemError 429 where the replicas have too much waiting, or one too many bytes, 503 where a replica
        finds another space's bundle in the place of this one, CmirError where the encoder refuses the item.
        """
        started_at = time.perf_counter()
        try:
            timed: Timed[F32] = await self._handle.encode.remote(prepared, self._bundle_uri, self._space_id, carried())
        except BackPressureError as error:
            raise ProblemError(429, "the encoders are busy", headers={"Retry-After": str(RETRY_AFTER_S)}) from error
        except RayTaskError as error:
            if isinstance(error.cause, ProblemError):
                raise error.cause from error
            if isinstance(error.cause, SpaceMismatchError):
                raise ProblemError(503, str(error.cause)) from error  # nothing that the asker sent
            if isinstance(error.cause, CmirError):  # without the remote traceback that Ray puts into its text
                raise error.cause from error
            raise
        whole_s = time.perf_counter() - started_at
        return Timed(timed.result, queue_s=whole_s - timed.run_s, run_s=timed.run_s)


class EncoderReplica:
    """Deployment of the split composition: encodes, in batches, what others have decoded."""

    async def __init__(self, args: ServeArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        """Ready once the bundle that is served first is warm."""
        _log_beside_serve()
        pointer = read_pointer(args.gallery)
        metrics = Metrics()
        RayExport(metrics.registry, families=BATCH_FAMILIES)
        self._pool = EncoderPool(device=args.device, limits=args.limits, metrics=metrics)
        await self._pool.warm(args.bundle or pointer.bundle_uri, pointer.space_id)

    async def warm(self, bundle_uri: str, space_id: str) -> None:
        """Load a bundle, if it is not; SpaceMismatchError where it is not of that space."""
        await self._pool.warm(bundle_uri, space_id)

    async def check_health(self) -> None:
        """Serve replaces a replica of which this raises three times in a row."""
        await self._pool.check()

    async def encode(self, prepared: Prepared, bundle_uri: str, space_id: str, carrier: dict[str, str]) -> Timed[F32]:
        """The unit vector f32[D] of a prepared item in that space, by the bundle at that URI; `carrier` names the span
        of the request."""
        with stage_span("encode.replica", carrier):
            return await self._pool.encode(prepared, bundle_uri, space_id)


@serve.ingress()
class Ingress:
    """Deployment that takes the requests; with `encoders` it is the split composition, without the fused one."""

    def __init__(self, args: ServeArgs, encoders: DeploymentHandle | None = None) -> None:
        _log_beside_serve()
        self._args, self._encoders = args, encoders
        self._engine: Engine | None = None

    async def check_health(self) -> None:
        """Serve replaces a replica of which this raises three times in a row."""
        if self._engine is not None:
            await self._engine.check_health()

    def __serve_build_asgi_app__(self) -> FastAPI:
        args = self._args
        engine = self._engine = build_engine(
            args.gallery,
            bundle_uri=args.bundle,
            device="cpu" if self._encoders else args.device,
            limits=args.limits,
            poll_s=args.poll_s,
            make_encoder=self._remote_encoder if self._encoders else None,
            second_ear=args.second_ear,
            canary_s=args.canary_s,
            decode_processes=args.decode_processes,
        )
        RayExport(engine.metrics.registry)
        keys = KeyRing(args.api_keys_file) if args.api_keys_file else None
        return create_app(engine, keys=keys, cors_origins=args.cors_origins)

    async def _remote_encoder(self, embedder: Embedder) -> Encoder:
        assert self._encoders is not None
        may_sleep = self._args.min_encoders == 0
        encoder = RemoteEncoder(self._encoders, embedder.bundle.uri, embedder.space_id, may_sleep=may_sleep)
        await encoder.warm()
        return encoder


def build(args: ServeArgs) -> Application:
    """The Serve application.

    Raises, before anything is started, GalleryError where nothing is published, DataError where its bundle cannot be
    read, SpaceMismatchError where the bundle is of another space, ConfigError where the keys file admits nobody, the
    second ear cannot be opened or traces cannot be sent.
    """
    keys_file = args.api_keys_file or os.environ.get("CMIR_API_KEYS_FILE")
    places = {
        "gallery": storage.absolute(args.gallery),
        "bundle": args.bundle and storage.absolute(args.bundle),
        "second_ear": args.second_ear and ear_opening.absolute(args.second_ear),
        "api_keys_file": Path(keys_file).absolute() if keys_file else None,
    }
    args = args.model_copy(update=places)
    pointer = check_bundle(args.gallery, args.bundle)
    if args.second_ear:  # opened here only to refuse it before anything starts; each replica opens its own
        ear_opening.open_ear_of(args.second_ear, read_config(args.bundle or pointer.bundle_uri))
    if args.api_keys_file:
        KeyRing(args.api_keys_file)
    tracer()
    fused = args.composition == "fused"
    ingress = serve.deployment(Ingress).options(
        name="cmir",
        autoscaling_config=_autoscaling(args.min_replicas, args.max_replicas, args),
        max_ongoing_requests=_ongoing(args.limits),
        max_queued_requests=args.limits.max_in_flight,
        backpressure_config=_BACKPRESSURE,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus if fused else 0},
        logging_config=_LOGGING,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=args.limits.deadline_s + 5,
    )
    return ingress.bind(args) if fused else ingress.bind(args, _encoders(args))


def _encoders(args: ServeArgs) -> Application:
    deployment = serve.deployment(EncoderReplica).options(
        name="encoder",
        autoscaling_config=_autoscaling(args.min_encoders, args.max_encoders, args),
        max_ongoing_requests=_ongoing(args.limits),
        max_queued_requests=args.limits.max_in_flight,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        logging_config=_LOGGING,
        graceful_shutdown_timeout_s=args.limits.deadline_s + 5,
    )
    return deployment.bind(args)


def _log_beside_serve() -> None:
    """In a replica: what our modules log goes where Serve's own lines go, the log file of the replica."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = logging.getLogger("ray.serve").handlers  # the very list: Serve may set it up anew
        logger.propagate = False


def _ongoing(limits: Limits) -> int:
    """Requests a replica has under way: a few more than the gate lets in, so that probes and the page still pass."""
    return limits.max_in_flight + 8


def _autoscaling(min_replicas: int, max_replicas: int, args: ServeArgs) -> AutoscalingConfig:
    """Scales out when half of what a replica takes is under way, on average; begins with one replica at least."""
    return AutoscalingConfig(
        min_replicas=min_replicas,
        initial_replicas=max(1, min_replicas),
        max_replicas=max(min_replicas, max_replicas),
        target_ongoing_requests=max(1, args.limits.max_in_flight // 2),
        downscale_to_zero_delay_s=args.downscale_to_zero_delay_s,
    )
