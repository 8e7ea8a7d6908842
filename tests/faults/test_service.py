"""The service on a cluster under load: publishes, new versions of the app, killed replicas, and what readiness says."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from cmir.gallery import publish
from cmir.gallery.publish import Pointer
from cmir.loopback import free_port
from cmir.network.embedder import Embedder
from serve.app import ServeArgs, build
from tests.conftest import RayCluster
from tests.serve_doubles import pixels, png
from tests.serve_real import make_bundle, media, publish_gallery, published

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
NUM_ASKERS = 8


@dataclass
class Answers:
    """What eight askers were told, and when."""

    spaces: list[tuple[float, str]] = field(default_factory=list)  # seconds since the load began, space
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def last_of(self, space_id: str) -> float:
        """When an answer of that space last began to be asked for."""
        return max((at for at, space in self.spaces if space == space_id), default=0.0)


@dataclass
class Load:
    """Askers of one URL, each a chip of its own again and again: its item must come first, by its space's vector."""

    url: str
    vectors: dict[str, list[np.ndarray]]  # of the items "rgb-<i>", by space
    answers: Answers = field(default_factory=Answers)

    @contextmanager
    def running(self) -> Iterator[Answers]:
        """Ask while the block runs."""
        ended, self.began_at = threading.Event(), time.monotonic()
        askers = [threading.Thread(target=self._ask, args=(i, ended)) for i in range(NUM_ASKERS)]
        for asker in askers:
            asker.start()
        try:
            yield self.answers
        finally:
            ended.set()
            for asker in askers:
                asker.join()

    def _ask(self, which: int, ended: threading.Event) -> None:
        seed = which % 6
        data = png(pixels("rgb", seed))
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not ended.is_set():
                at = time.monotonic() - self.began_at
                try:
                    found = http.post("/v1/search/image?target=rgb&k=1", content=data)
                    embedded = http.post("/v1/embed/rgb", content=data)
                except httpx.HTTPError as error:
                    self.answers.failures.append(repr(error))
                    continue
                for answer in (found, embedded):
                    if answer.status_code != 200:
                        self.answers.failures.append(f"{answer.status_code} {answer.text[:200]}")
                if found.status_code == 200:
                    self._check_hit(found.json(), f"rgb-{seed}")
                    self.answers.spaces.append((at, found.json()["space_id"]))
                if embedded.status_code == 200:
                    self._check_vector(embedded.json(), seed)

    def _check_hit(self, answer: dict, item_id: str) -> None:  # type: ignore[type-arg]
        hit = answer["hits"][0]
        if hit["item_id"] != item_id or abs(hit["score"] - 1) > 1e-4:  # less against the rows of another space
            self.answers.wrong.append(f"{item_id}: {hit}")

    def _check_vector(self, answer: dict, seed: int) -> None:  # type: ignore[type-arg]
        expected = self.vectors[answer["space_id"]][seed]
        if not np.allclose(answer["vector"], expected, atol=1e-4):
            self.answers.wrong.append(f"rgb-{seed}: a vector that is not of {answer['space_id']}")


@dataclass(frozen=True)
class Place:
    """A gallery of two spaces, the first published."""

    gallery: str
    bundles: tuple[str, str]
    spaces: tuple[str, str]
    vectors: dict[str, list[np.ndarray]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    first, gallery = published(tmp_path)
    second = str(tmp_path / "bundle-1")
    make_bundle(second, seed=1)
    embedders = [Embedder.open(uri, device="cpu") for uri in (first, second)]
    vectors = {one.space_id: list(one.embed([media("rgb", i) for i in range(6)])) for one in embedders}
    return Place(gallery, (first, second), (embedders[0].space_id, embedders[1].space_id), vectors)


Deploy = Callable[..., str]


@pytest.fixture
def deploy(ray_cluster: RayCluster, place: Place) -> Iterator[Deploy]:
    """Runs the application, or a new version of it, and tells its URL."""
    import ray
    from ray import serve

    ray.init(ray_cluster.address, logging_level="WARNING")
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})

    def deployed(**settings: object) -> str:
        told = {"gallery": place.gallery, "device": "cpu", "num_cpus": 0.1, "poll_s": 0.5, "decode_processes": 1}
        serve.run(build(ServeArgs.model_validate({**told, **settings})), name="cmir", route_prefix="/")
        return f"http://127.0.0.1:{port}"

    yield deployed
    serve.shutdown()
    ray.shutdown()


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas on this machine."""
    title = f"ServeReplica:cmir:{deployment}"
    return [p for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or ())]


def wait_until(holds: Callable[[], bool], within_s: float) -> float:
    """Seconds it took; fails after `within_s`."""
    began_at = time.monotonic()
    while not holds():
        assert time.monotonic() - began_at < within_s
        time.sleep(0.2)
    return time.monotonic() - began_at


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def test_publishes_and_rollbacks_under_load_fail_nobody_and_mix_nothing(deploy: Deploy, place: Place) -> None:
    url = deploy(min_replicas=2, max_replicas=2)
    load = Load(url, place.vectors)
    first, second = place.spaces
    changed_at: list[float] = []

    def changes(to: str, change: Callable[[], Pointer]) -> Pointer:
        changed_at.append(time.monotonic() - load.began_at)
        pointer = change()
        wait_until(lambda: answers.spaces[-1][1] == to, 30)
        time.sleep(10)  # what is asked later than that is of the new space, whichever replica answers
        return pointer

    with load.running() as answers:
        time.sleep(2)
        made = changes(second, lambda: publish_gallery(place.gallery, place.bundles[1]))
        changes(first, lambda: publish.rollback(place.gallery))
        how = {"table_version": made.table_version, "index": made.index, "search": made.search, "recall_at_10": 1.0}
        changes(second, lambda: publish.publish(place.gallery, second, **how))
        changes(first, lambda: publish.rollback(place.gallery))
    assert (answers.failures, answers.wrong) == ([], [])
    assert len(answers.spaces) > 200
    for which, at in enumerate(changed_at):
        until = changed_at[which + 1] if which + 1 < len(changed_at) else np.inf
        old = first if which % 2 == 0 else second
        late = [when for when, space in answers.spaces if at + 10 < when < until and space == old]
        assert not late, f"change {which}: an answer asked for {max(late) - at:.1f} s after it is of the space before"


def test_a_new_version_of_the_app_loses_no_request(deploy: Deploy, place: Place) -> None:
    url = deploy(min_replicas=2, max_replicas=2)
    before = {process.pid for process in replicas("cmir")}
    load = Load(url, place.vectors)
    with load.running() as answers:
        time.sleep(2)
        deploy(min_replicas=2, max_replicas=2, limits={"max_audio_s": 20})
        wait_until(lambda: not before & {process.pid for process in replicas("cmir")}, 120)
        assert httpx.get(f"{url}/v1/info").json()["limits"]["max_audio_s"] == 20
        time.sleep(2)
    assert (answers.failures, answers.wrong) == ([], [])
    assert len(answers.spaces) > 100


@pytest.mark.parametrize(("composition", "deployment"), [("fused", "cmir"), ("split", "cmir"), ("split", "encoder")])
def test_a_killed_replica_costs_what_it_had_under_way(
    deploy: Deploy, place: Place, composition: str, deployment: str
) -> None:
    two = {"min_replicas": 2, "max_replicas": 2, "min_encoders": 2, "max_encoders": 2}
    url = deploy(composition=composition, **two)
    wait_until(lambda: len(replicas(deployment)) == 2, 60)
    load = Load(url, place.vectors)
    with load.running() as answers:
        time.sleep(5)
        num_before = len(answers.spaces)
        replicas(deployment)[0].kill()
        wait_until(lambda: len(answers.spaces) > num_before + 50, 60)
        wait_until(lambda: len(replicas(deployment)) == 2, 120)
        wait_until(lambda: len(answers.spaces) > num_before + 400, 180)
    assert answers.wrong == []
    assert len(answers.failures) <= NUM_ASKERS + 0.001 * len(answers.spaces), answers.failures
    assert is_ready(url)


def test_encoders_sleep_while_nobody_asks_and_wake_for_the_first_who_does(deploy: Deploy, place: Place) -> None:
    url = deploy(composition="split", min_encoders=0, downscale_to_zero_delay_s=1)  # it may sleep before all is up
    was_ready: list[bool] = []

    def sleeps() -> bool:
        was_ready.append(is_ready(url))
        return not replicas("encoder")

    def served() -> str:
        body = {"parts": [{"kind": "label", "label": "water"}]}
        return str(httpx.post(f"{url}/v1/search", json=body, timeout=30).json()["space_id"])

    wait_until(sleeps, 180)
    assert served() == place.spaces[0], "what needs no encoder is answered without one"
    publish_gallery(place.gallery, place.bundles[1])
    wait_until(lambda: served() == place.spaces[1], 30)
    assert sleeps(), "neither a new space nor a look at readiness wakes it"
    assert all(was_ready)

    def woken() -> bool:
        response = httpx.post(f"{url}/v1/embed/rgb", content=png(pixels("rgb", 0)), timeout=60)
        assert response.status_code in (200, 504), response.text
        if response.status_code == 200:
            assert response.json()["space_id"] == place.spaces[1]
            np.testing.assert_allclose(response.json()["vector"], place.vectors[place.spaces[1]][0], atol=1e-4)
        return response.status_code == 200

    wait_until(woken, 120)
    assert is_ready(url)


@pytest.mark.parametrize("composition", ["fused", "split"])
def test_a_replica_that_works_stays_and_one_that_lives_and_decodes_no_more_is_replaced(
    deploy: Deploy, composition: str
) -> None:
    url = deploy(composition=composition, limits={"max_decode_s": 600})
    names = ("cmir", "encoder") if composition == "split" else ("cmir",)
    before = {name: [replica.pid for replica in replicas(name)] for name in names}
    time.sleep(30)  # six looks at its health
    assert {name: [replica.pid for replica in replicas(name)] for name in names} == before
    [replica] = replicas("cmir")
    for child in replica.children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.suspend()
    wait_until(lambda: replica.pid not in {one.pid for one in replicas("cmir")} and is_ready(url), 240)


def test_a_dead_encoder_ends_readiness_and_its_return_brings_it_back(deploy: Deploy, place: Place) -> None:
    url = deploy(composition="split")
    assert is_ready(url)
    [encoder] = replicas("encoder")
    encoder.kill()
    wait_until(lambda: not is_ready(url), 10)
    assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200
    wait_until(lambda: is_ready(url), 120)
