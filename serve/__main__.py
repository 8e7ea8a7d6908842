"""`python -m serve --gallery URI`: the service on a small Ray cluster of its own, until it is interrupted.

What `cmir serve` and the demo start; a cluster takes the same application by `serve run` or `serve deploy`.
"""

import logging
import os
import signal
import sys
import threading
from typing import Annotated

import typer

from cmir.errors import CmirError

log = logging.getLogger("cmir")


def main(
    gallery: Annotated[str, typer.Option(help="Gallery to serve: what is published there.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle; the published one otherwise.")] = None,
    composition: Annotated[str, typer.Option(help="fused or split.")] = "fused",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve a gallery over HTTP."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        _serve(gallery, bundle, composition, device, host, port)
    except CmirError as error:
        print(f"serve: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def _serve(gallery: str, bundle: str | None, composition: str, device: str, host: str, port: int) -> None:
    import ray
    from pydantic import ValidationError
    from ray import serve

    from cmir.archive import storage
    from cmir.errors import ConfigError
    from serve.app import ServeArgs, build

    try:
        args = ServeArgs.model_validate(
            {
                "gallery": storage.absolute(gallery),
                "bundle": storage.absolute(bundle) if bundle else None,
                "composition": composition,
                "device": device,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg']}", seen=repr(first.get("input"))) from error
    application = build(args)
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, _node_ip_address="127.0.0.1")
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(application, name="cmir", route_prefix="/")
        print(f"cmir serves {args.gallery} at http://{host}:{port} (Ctrl-C ends it)", flush=True)
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
