"""The Serve application: its arguments, what it refuses before it starts, and both compositions on a real cluster."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from cmir.errors import ConfigError, GalleryError, SpaceMismatchError
from cmir.loopback import free_port
from cmir.network.embedder import Embedder
from serve.app import RemoteEncoder, ServeArgs, build
from tests.conftest import RayCluster
from tests.serve_doubles import pixels, png, tone, wav
from tests.serve_real import make_bundle, media, publish_gallery, published


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return published(tmp_path_factory.mktemp("app"))


def test_arguments_come_as_the_command_line_gives_them() -> None:
    args = ServeArgs.model_validate({"gallery": "g", "max_replicas": "4", "num_gpus": "0.5", "composition": "split"})
    assert (args.max_replicas, args.num_gpus, args.bundle, args.limits.max_in_flight) == (4, 0.5, None, 64)
    assert ServeArgs.model_validate({"gallery": "g", "limits": {"max_audio_s": 5}}).limits.max_audio_s == 5
    for wrong in ({"composition": "fussed"}, {"galery": "g"}, {"limits": {"max_pixel": 1}}, {"poll_s": 60}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ServeArgs.model_validate({"gallery": "g", **wrong})


@pytest.mark.parametrize(("composition", "num_deployments"), [("fused", 1), ("split", 2)])
def test_an_application_is_built(places: tuple[str, str], composition: str, num_deployments: int) -> None:
    args = ServeArgs.model_validate({"gallery": places[1], "bundle": places[0], "composition": composition})
    application = build(args)
    assert application._bound_deployment.name == "cmir"
    bound = application._bound_deployment.init_args
    assert len(bound) == num_deployments  # the arguments, and the encoders where they are apart


@pytest.mark.parametrize(("num_least", "num_first"), [(0, 1), (1, 1), (3, 3)])
def test_encoders_may_scale_to_zero_and_begin_with_one(places: tuple[str, str], num_least: int, num_first: int) -> None:
    asked = {"composition": "split", "min_encoders": num_least, "downscale_to_zero_delay_s": 90}
    application = build(ServeArgs.model_validate({"gallery": places[1], **asked}))
    encoders = application._bound_deployment.init_args[1]._bound_deployment
    scaling = encoders._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.initial_replicas) == (num_least, num_first)
    assert scaling.max_replicas == max(1, num_least)
    assert scaling.downscale_to_zero_delay_s == 90


class SleepingReplicas:
    """A handle of a deployment of which no replica runs."""

    def broadcast(self, method: str, *_: object) -> "SleepingReplicas":
        assert method == "warm"
        return self

    async def results_async(self) -> list[object]:
        raise DeploymentUnavailableError(DeploymentID("encoder"))


def test_no_replica_has_to_run_to_be_warm() -> None:
    encoder = RemoteEncoder(SleepingReplicas(), "s3://bundle", "s0", may_sleep=True)  # type: ignore[arg-type]
    asyncio.run(encoder.warm())


def test_it_is_refused_before_it_starts(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(str(tmp_path / "other"), seed=8)
    with pytest.raises(SpaceMismatchError, match="another space than the published gallery"):
        build(ServeArgs(gallery=places[1], bundle=str(tmp_path / "other")))
    with pytest.raises(GalleryError, match="not published"):
        build(ServeArgs(gallery=str(tmp_path)))
    monkeypatch.setenv("CMIR_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match="no API key can be read"):
        build(ServeArgs(gallery=places[1]))


@pytest.fixture(scope="module")
def services(ray_cluster: RayCluster, places: tuple[str, str]) -> Iterator[dict[str, str]]:
    """Both compositions on one cluster; their URLs."""
    import ray
    from ray import serve

    ray.init(ray_cluster.address, logging_level="WARNING")
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    for composition in ("fused", "split"):
        args = ServeArgs.model_validate(
            {"gallery": places[1], "composition": composition, "device": "cpu", "num_cpus": 0.1, "poll_s": 0.5}
        )
        serve.run(build(args), name=composition, route_prefix=f"/{composition}")
    yield {composition: f"http://127.0.0.1:{port}/{composition}" for composition in ("fused", "split")}
    serve.shutdown()
    ray.shutdown()


@pytest.mark.cluster
@pytest.mark.slow
def test_both_compositions_answer_the_same_and_take_up_a_publish(
    services: dict[str, str], places: tuple[str, str], tmp_path: Path
) -> None:
    def ask(url: str) -> tuple[list[str], list[str], str]:
        image = httpx.post(f"{url}/v1/search/image?target=rgb", content=png(pixels("rgb", 3)), timeout=60)
        speech = httpx.post(f"{url}/v1/search/speech?target=speech", content=wav(tone(2)), timeout=60)
        assert (image.status_code, speech.status_code) == (200, 200), (image.text, speech.text)
        both = [[hit["item_id"] for hit in response.json()["hits"]] for response in (image, speech)]
        return both[0], both[1], image.json()["space_id"]

    fused, split = (ask(services[name]) for name in ("fused", "split"))
    assert fused == split
    assert (fused[0][0], fused[1][0]) == ("rgb-3", "speech-2")
    expected = Embedder.open(places[0], device="cpu").embed([media("rgb", 3)])[0]
    for url in services.values():
        told = httpx.post(f"{url}/v1/embed/rgb", content=png(pixels("rgb", 3)), timeout=60).json()
        np.testing.assert_allclose(told["vector"], expected, atol=1e-5)
        refused = httpx.post(f"{url}/v1/search/image", content=b"GIF89a", timeout=60)
        assert (refused.status_code, refused.headers["content-type"]) == (415, "application/problem+json")
        assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        assert "cmir" in httpx.get(f"{url}/", timeout=60).text

    check_ray_shows_every_replica()
    check_every_request_is_logged()
    second = str(tmp_path / "bundle")
    make_bundle(second, seed=6)
    space_id = publish_gallery(places[1], second).space_id
    deadline = time.monotonic() + 30  # 10 s is the promise; the machine of a test may be busy with others
    waiting = dict(services)
    while waiting:
        assert time.monotonic() < deadline, waiting
        waiting = {name: url for name, url in waiting.items() if ask(url)[2] != space_id}
    assert ask(services["fused"]) == ask(services["split"])


def check_ray_shows_every_replica() -> None:
    """Both ingresses, and the encoder that has no route of its own."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    deadline, series = time.monotonic() + 60, dict[str, int]()
    wanted = {
        'ray_cmir_requests_total{.*route="/v1/search/image".*status="200".*} 1.0': 2,
        'ray_cmir_stage_seconds_count{.*stage="fetch".*} ': 2,
        'ray_cmir_batch_items_bucket{.*le="1.0".*stage="encode".*} ': 2,
        "ray_cmir_gallery_sequence{.*} ": 2,
    }
    while series != wanted:
        assert time.monotonic() < deadline, series
        time.sleep(1)
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        series = {name: len(re.findall(f"^{name}", page, re.MULTILINE)) for name in wanted}


def check_every_request_is_logged() -> None:
    """As a line of JSON in the log file of its replica, by both ingresses."""
    import ray

    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"
    lines = [json.loads(line) for file in folder.glob("replica_*_cmir_*") for line in file.read_text().splitlines()]
    asked = [line["http"] for line in lines if "http" in line]
    paths = [f"/{name}/v1/search/image" for name in ("fused", "split")]
    found = [(one["path"], one["status"]) for one in asked if one["path"] in paths]  # others' stand in the same session
    assert sorted(found) == [(path, status) for path in paths for status in (200, 415)]
    assert len({one["request_id"] for one in asked}) == len(asked)
