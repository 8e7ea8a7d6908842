"""A spoken query says what was heard, and finds nothing where no known label was."""

import base64
from pathlib import Path

import pytest

from cmir.asking import Question, ask_service
from cmir.client import Client
from cmir.errors import QueryError
from cmir.network.hearing import NOTHING_HEARD, hear
from serve.asgi import create_app
from tests.serve_doubles import LABELS, SPACE, FakeEmbedder, FakeGallery, running, tone, vector_of, wav

SPEECH = "/v1/search/speech?target=rgb&k=3"


def gallery(threshold: float | None) -> FakeGallery:
    made = FakeGallery()
    made.embedders[SPACE] = FakeEmbedder(heard_threshold=threshold)
    return made


def test_what_was_heard_stands_in_the_answer() -> None:
    cosines = dict(zip(LABELS, vector_of(tone(1).tobytes())[: len(LABELS)].tolist(), strict=True))
    with running(create_app(gallery(-1.0).engine())) as http:
        told = http.post(SPEECH, content=wav(tone(1))).json()
    assert len(told["hits"]) == 3
    [heard] = told["heard"]
    assert heard["message"] is None
    assert [near["label"] for near in heard["labels"]] == sorted(cosines, key=lambda label: -cosines[label])


def test_an_unknown_word_finds_nothing_and_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "word.wav").write_bytes(wav(tone(1)))
    with running(create_app(gallery(0.999).engine())) as http:
        response = http.post(SPEECH, content=wav(tone(1)))
        assert response.status_code == 200
        told = response.json()
        parts = [
            {"kind": "label", "label": "water"},
            {"kind": "speech", "data": base64.b64encode(wav(tone(1))).decode()},
        ]
        mixed = http.post("/v1/search", json={"parts": parts}).json()
        mapped = http.post(SPEECH, content=wav(tone(1)), headers={"accept": "application/geo+json"}).json()
        with Client(str(http.base_url)) as client:
            answer = client.search_speech(wav(tone(1)))
        with pytest.raises(QueryError, match="no known label heard: seen nearest"):
            ask_service(str(http.base_url), Question(speech=str(tmp_path / "word.wav")))
    assert told["hits"] == mixed["hits"] == mapped["features"] == []
    assert told["heard"] == mixed["heard"] == mapped["heard"]
    [heard] = told["heard"]
    assert heard["message"] == answer.heard[0].message == NOTHING_HEARD
    assert len(heard["labels"]) == 1


def test_a_bundle_that_cannot_judge_answers_as_ever() -> None:
    with running(create_app(gallery(None).engine())) as http:
        told = http.post(SPEECH, content=wav(tone(1))).json()
        by_label = http.post("/v1/search", json={"parts": [{"kind": "label", "label": "water"}]}).json()
    assert told["heard"] == by_label["heard"] == []
    assert len(told["hits"]) == 3


def test_a_phrase_names_every_label_that_is_near() -> None:
    prototypes = FakeEmbedder().prototypes
    phrase = (prototypes[0] + prototypes[2]) / 2**0.5
    heard = hear(phrase, LABELS, prototypes, 0.5)
    assert heard is not None
    assert [label for label, _ in heard.labels] == [LABELS[0], LABELS[2]]
    assert heard.is_known
