"""A service with a second ear: whom it believes, what it says of it, and that others are answered while it listens."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cmir.asking import Question, ask_gallery, ask_service, hear_file
from cmir.client import Client
from cmir.errors import ConfigError, QueryError
from cmir.network.embedder import Embedder
from cmir.network.hearing import Heard
from cmir.network.second_ear import Said
from serve.app import ServeArgs, build
from serve.asgi import create_app
from serve.limits import Limits
from serve.opening import build_engine
from tests.serve_doubles import LABELS, SPACE, FakeEmbedder, FakeGallery, running, tone, vector_of, wav
from tests.serve_real import published

SPEECH = "/v1/search/speech?target=rgb&k=3"


class FixedEar:
    """Hears one thing in everything; waits for `go` where it is to take long."""

    name = "fixed"

    def __init__(self, said: Said, *, takes_long: bool = False) -> None:
        self.said, self.go, self.began = said, threading.Event(), threading.Event()
        self.most_at_once = self._at_once = 0
        if not takes_long:
            self.go.set()

    def listen(self, waveform: np.ndarray) -> Said:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.began.set()
        assert self.go.wait(20)
        self._at_once -= 1
        return self.said


def gallery(ear: FixedEar, *, threshold: float | None = 0.999) -> FakeGallery:
    made = FakeGallery()
    made.embedders[SPACE], made.ear = FakeEmbedder(heard_threshold=threshold), ear
    return made


def test_labels_that_the_ear_is_sure_of_are_the_query() -> None:
    with running(create_app(gallery(FixedEar(Said("water", ("water",), 0.9))).engine())) as http:
        told = http.post(SPEECH, content=wav(tone(1))).json()
        by_label = http.post(
            "/v1/search", json={"parts": [{"kind": "label", "label": "water"}], "target": "rgb", "k": 3}
        )
        with Client(str(http.base_url)) as client:
            [heard] = client.search_speech(wav(tone(1))).heard
        info = http.get("/v1/info").json()
    assert told["hits"] == by_label.json()["hits"]
    [said] = told["heard"]
    cosine = float(vector_of(tone(1).tobytes())[LABELS.index("water")])
    assert said == {
        "labels": [{"label": "water", "score": pytest.approx(cosine, abs=1e-5)}],
        "message": None,
        "by": "ear",
        "confidence": 0.9,
    }
    assert (heard.by, heard.confidence, heard.message) == ("ear", 0.9, None)
    assert info["second_ear"] == "fixed"


def test_two_labels_are_the_mean_of_their_prototypes() -> None:
    ear = FixedEar(Said("water and airplane", ("water", "airplane"), 0.9))
    parts = [{"kind": "label", "label": label} for label in ("water", "airplane")]
    with running(create_app(gallery(ear).engine())) as http:
        told = http.post(SPEECH, content=wav(tone(1))).json()
        by_labels = http.post("/v1/search", json={"parts": parts, "target": "rgb", "k": 3}).json()
    assert [hit["item_id"] for hit in told["hits"]] == [hit["item_id"] for hit in by_labels["hits"]]
    assert told["hits"][0]["score"] == pytest.approx(by_labels["hits"][0]["score"], abs=1e-6)


@pytest.mark.parametrize("said", [Said("water", ("water",), 0.3), Said("elephant", (), 0.9)])
def test_where_the_ear_is_not_sure_the_tower_answers(said: Said) -> None:
    with running(create_app(gallery(FixedEar(said), threshold=-1.0).engine())) as http:
        told = http.post(SPEECH, content=wav(tone(1))).json()
        vector = http.post("/v1/embed/speech", content=wav(tone(1))).json()["vector"]
        own = {"vector": vector, "space_id": SPACE, "target": "rgb", "k": 3}
        by_vector = http.post("/v1/search/embedding", json=own).json()
    with running(create_app(gallery(FixedEar(said), threshold=0.999).engine())) as http:
        refused = http.post(SPEECH, content=wav(tone(1))).json()
    assert [hit["item_id"] for hit in told["hits"]] == [hit["item_id"] for hit in by_vector["hits"]]
    assert (told["heard"][0]["by"], told["heard"][0]["confidence"]) == ("tower", None)
    assert refused["hits"] == []
    assert refused["heard"][0]["message"] is not None


def test_an_embedding_is_the_towers_whatever_the_ear_hears() -> None:
    with running(create_app(gallery(FixedEar(Said("water", ("water",), 0.9))).engine())) as http:
        told = http.post("/v1/embed/speech", content=wav(tone(1))).json()
    np.testing.assert_allclose(told["vector"], vector_of(tone(1).tobytes()), atol=1e-6)


def test_others_are_answered_while_it_listens_to_one_at_a_time() -> None:
    ear = FixedEar(Said("water", ("water",), 0.9), takes_long=True)
    with running(create_app(gallery(ear).engine())) as http, ThreadPoolExecutor(4) as pool:
        spoken = [pool.submit(http.post, SPEECH, content=wav(tone(i))) for i in range(4)]
        assert ear.began.wait(20)
        by_label = http.post("/v1/search", json={"parts": [{"kind": "label", "label": "water"}]})
        assert http.get("/healthz").status_code == by_label.status_code == 200
        assert not any(answer.done() for answer in spoken)
        ear.go.set()
        assert [answer.result(20).status_code for answer in spoken] == [200] * 4
    assert ear.most_at_once == 1


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of a bundle and of a gallery, both real."""
    return published(tmp_path_factory.mktemp("ear"))


def test_a_search_without_a_service_asks_the_ear_too(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word.wav").write_bytes(wav(tone(1)))
    word = str(tmp_path / "word.wav")
    ear = FixedEar(Said("water", ("water",), 0.9))
    monkeypatch.setattr("cmir.asking.open_ear_of", lambda *_, **__: ear)
    told: list[Heard] = []
    spoken = ask_gallery(places[1], Question(speech=word, second_ear="fixed"), on_heard=told.append)
    assert [hit.item_id for hit in spoken] == [hit.item_id for hit in ask_gallery(places[1], Question(label="water"))]
    assert [(heard.by, heard.confidence, heard.labels[0][0]) for heard in told] == [("ear", 0.9, "water")]
    embedder = Embedder.open(places[0], device="cpu")
    ear.said = Said("water", ("water",), 0.1)
    vector, heard = hear_file(embedder, word, "fixed")
    np.testing.assert_array_equal(vector, hear_file(embedder, word)[0])
    assert heard is None, "this bundle cannot tell"


def test_an_ear_is_asked_of_recordings_and_by_whom_it_belongs_to() -> None:
    with pytest.raises(QueryError, match="a second ear hears recordings: seen --label"):
        Question(label="water", second_ear="pocketsphinx")
    with pytest.raises(ConfigError, match="a service has its own second ear"):
        ask_service("http://127.0.0.1:1", Question(speech="a.wav", second_ear="pocketsphinx"))


def test_the_service_opens_its_ear_or_is_refused(places: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="cannot open the second ear"):
        build(ServeArgs(gallery=places[1], second_ear="no/such/folder"))
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    assert build(ServeArgs(gallery=places[1], second_ear="pocketsphinx")) is not None
    engine = build_engine(places[1], device="cpu", limits=Limits(), second_ear="pocketsphinx")
    with running(create_app(engine)) as http:
        assert http.get("/v1/info").json()["second_ear"] == "pocketsphinx"
        assert http.post(SPEECH, content=wav(tone(1))).status_code == 200
