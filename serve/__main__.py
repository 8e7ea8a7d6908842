"""`python -m serve --gallery URI [...]`: the service on a Ray of its own on this machine, until it is told to end.

For a laptop and for `cmir serve`; on a cluster the same application runs by `serve run` or a RayService. Everything
listens on loopback unless --host says otherwise, which needs API keys, or --open-to-all. RAY_SERVE_ENABLE_HA_PROXY=1
saves some 5 ms a request, but HAProxy opens its statistics (ports 8404 and 9101) to the network, so it is for machines
behind a firewall. Exit 2 where the service is refused before it starts, 1 where it fails to start.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from cmir.errors import CmirError, ConfigError
from cmir.loopback import check_port_is_free, is_loopback

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class Composition(StrEnum):
    """fused: one process does all; split: encoders apart."""

    FUSED = "fused"
    SPLIT = "split"


class Device(StrEnum):
    """Where to encode."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def serve_here(
    gallery: Annotated[str, typer.Option(help="Gallery to serve: what is published there.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle; the published one otherwise.")] = None,
    composition: Annotated[
        Composition, typer.Option(help="One process for all, or encoders apart.")
    ] = Composition.FUSED,
    second_ear: Annotated[
        str | None, typer.Option(help="Recogniser beside the speech tower: pocketsphinx, a folder, a hub id.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to encode.")] = Device.AUTO,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="Hashed API keys; CMIR_API_KEYS_FILE otherwise.", show_default=False)
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open-to-all", help="Other hosts than loopback without keys.")] = False,
) -> None:
    """Serve a gallery until interrupted."""
    if not open_to_all:
        check_who_may_ask(host, api_keys_file or os.environ.get("CMIR_API_KEYS_FILE"))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset it only warns
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # what Ray does by itself, with a warning
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for batch work: any other program would go first
    import ray
    from ray import serve

    from serve.app import ServeArgs, build

    args = ServeArgs(
        gallery=gallery,
        bundle=bundle,
        composition=composition.value,
        second_ear=second_ear,
        device=device.value,
        num_cpus=0.5,
        num_gpus=_num_gpus(device),
        api_keys_file=api_keys_file,
    )
    application = build(args)
    check_port_is_free(host, port)
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # what Ray forks below runs exec at once
    ray.init(
        address="local",
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,  # Ray keeps the logs of its processes in its session folder
        _node_ip_address="127.0.0.1",
        object_store_memory=256 * 2**20,
    )
    try:
        for number in _ENDING:  # only now: ray.init installs handlers of its own
            signal.signal(number, _end)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        serve.run(application, name="cmir")
        print(f"http://{host}:{port}/", flush=True)
        threading.Event().wait()
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # what is started must be ended, whoever is impatient
        serve.shutdown()
        ray.shutdown()


def check_who_may_ask(host: str, keys_file: Path | str | None) -> None:
    """Raises ConfigError where a service that asks for no key could be reached from other machines."""
    if not keys_file and not is_loopback(host):
        raise ConfigError(
            "whoever reaches this address could ask",
            seen="no API keys",
            expected="a host of this machine alone, or API keys",
            where=f"--host {host}",
            fix="give --api-keys-file (python -m serve.keys NAME makes a key and its line), or --open-to-all",
        )


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handler of a signal: leave by way of what cleans up, also where the service is not up yet."""
    raise SystemExit(0)


def main() -> None:
    """Run the command; a refusal is one line on stderr and exit 2."""
    try:
        typer.run(serve_here)
    except CmirError as error:
        print(f"cmir serve: {error}", file=sys.stderr)
        sys.exit(2)


def _num_gpus(device: Device) -> float:
    """One where the device is, or turns out to be, CUDA."""
    import torch

    wants_gpu = device is Device.CUDA or (device is Device.AUTO and torch.cuda.is_available())
    return 1.0 if wants_gpu else 0.0


if __name__ == "__main__":
    main()
