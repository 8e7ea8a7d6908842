"""Mixed queries as arithmetic of unit vectors, one snapshot per question, readiness by a query that really ran."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from cmir.errors import DataError, QueryError, SpaceMismatchError
from cmir.gallery.filters import Filters
from serve.engine import Engine, combined
from serve.isolated import DecodingProcesses
from serve.media import ImageBytes, ImageHints, SpeechBytes
from serve.problems import ProblemError
from serve.query import GivenVector, ItemRef, LabelRef, Query, Source, single
from tests.serve_doubles import (
    DIM,
    LABELS,
    SPACE,
    FakeEmbedder,
    FakeGallery,
    gallery_rows,
    pixels,
    png,
    pointer,
    tone,
    vector_of,
    wav,
)

T = TypeVar("T")
OTHER_SPACE = "sffeeddccbbaa9988"


def image(seed: int, modality: str = "rgb") -> ImageBytes:
    return ImageBytes(png(pixels(modality, seed)), ImageHints())


def mixed(*parts: tuple[float, Source], k: int = 3) -> Query:
    return Query(tuple(source for _, source in parts), tuple(weight for weight, _ in parts), (), k, None)


def plain(source: Source, k: int = 1, filters: Filters | None = None) -> Query:
    return single(source, targets=(), k=k, filters=filters)


def run(
    gallery: FakeGallery,
    talk: Callable[[Engine], Coroutine[Any, Any, T]],
    processes: DecodingProcesses | None = None,
) -> T:
    async def whole() -> T:
        engine = gallery.engine(processes=processes)
        await engine.start()
        try:
            return await talk(engine)
        finally:
            await engine.stop()

    return asyncio.run(whole())


def expected_ids(query: np.ndarray, k: int) -> list[str]:
    rows = gallery_rows()
    return sorted(rows, key=lambda item_id: -float(rows[item_id][1] @ query))[:k]


@pytest.mark.parametrize("modality", ["pan", "rgb"])
def test_an_image_finds_itself_first(modality: str) -> None:
    [found] = run(FakeGallery(), lambda engine: engine.search([plain(image(4, modality), k=2)]))
    assert found.hits[0].item_id == f"{modality}-4"
    assert found.hits[0].score == pytest.approx(1.0)
    assert found.times.decode_s > 0
    assert found.times.encode_s > 0


def test_a_mixed_query_is_the_normalised_weighted_sum() -> None:
    parts = [(2.0, image(1)), (1.0, SpeechBytes(wav(tone(3)))), (-0.5, ItemRef("ms-2")), (-1.5, LabelRef("water"))]
    [found] = run(FakeGallery(), lambda engine: engine.search([mixed(*parts, k=24)]))
    rows = gallery_rows()
    total = 2 * vector_of(pixels("rgb", 1).tobytes()) + vector_of(tone(3).tobytes())
    total = total - 0.5 * rows["ms-2"][1] - 1.5 * np.eye(DIM)[LABELS.index("water")]
    total /= np.linalg.norm(total)
    assert [hit.item_id for hit in found.hits] == expected_ids(total, 24)
    assert found.hits[0].score == pytest.approx(float(rows[found.hits[0].item_id][1] @ total), abs=1e-6)


def test_combined_by_hand() -> None:
    first, second = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    np.testing.assert_allclose(combined([first, second], [3, -4]), [0.6, -0.8], atol=1e-7)
    np.testing.assert_array_equal(combined([first], [7.0]), first)
    with pytest.raises(QueryError, match="cancel"):
        combined([first, first], [1.0, -1.0])


def test_parts_that_are_not_there_are_named() -> None:
    def ask(source: Source) -> None:
        run(FakeGallery(), lambda engine: engine.search([plain(source)]))

    with pytest.raises(QueryError, match="no such label: seen 'sea', expected one of airplane, pavement, water"):
        ask(LabelRef("sea"))
    with pytest.raises(QueryError, match="no such item: seen x"):
        ask(ItemRef("x"))
    with pytest.raises(SpaceMismatchError, match=f"seen {OTHER_SPACE}, expected {SPACE}"):
        ask(GivenVector(np.ones(DIM, np.float32), OTHER_SPACE))
    with pytest.raises(QueryError, match="wrong length: seen 3, expected 8"):
        ask(GivenVector(np.ones(3, np.float32), SPACE))
    with pytest.raises(QueryError, match="no direction"):
        ask(GivenVector(np.zeros(DIM, np.float32), SPACE))
    with pytest.raises(DataError, match="cut short"):
        ask(SpeechBytes(wav(tone(0))[:500]))


def test_a_modality_without_a_tower_is_refused() -> None:
    gallery = FakeGallery()
    gallery.embedders[SPACE] = FakeEmbedder(modalities=("rgb",))
    with pytest.raises(QueryError, match="no tower for this modality: seen speech, expected rgb"):
        run(gallery, lambda engine: engine.search([plain(SpeechBytes(wav(tone(0))))]))


def test_many_at_once_keep_their_own_answers_and_share_batches() -> None:
    gallery = FakeGallery()
    asked = [plain(image(i % 6), k=1 + i % 3, filters=Filters(labels=(LABELS[i % 2],))) for i in range(24)]

    found = run(gallery, lambda engine: engine.search(asked))

    for query, answer in zip(asked, found, strict=True):
        [alone] = run(FakeGallery(), lambda engine, query=query: engine.search([query]))  # type: ignore[misc]
        assert [hit.item_id for hit in answer.hits] == [hit.item_id for hit in alone.hits]
        assert len(answer.hits) == query.k
    assert sum(gallery.embedders[SPACE].batch_sizes) == 24
    assert len(gallery.embedders[SPACE].batch_sizes) < 24
    assert len({(call[2], call[3]) for call in gallery.searcher.calls}) == 6


def test_a_bad_one_of_many_is_raised_as_itself() -> None:
    queries = [plain(image(0)), plain(LabelRef("sea")), plain(image(1))]
    with pytest.raises(QueryError, match="no such label"):
        run(FakeGallery(), lambda engine: engine.search(queries))


def test_ready_only_where_a_query_just_worked() -> None:
    gallery = FakeGallery()
    assert run(gallery, lambda engine: engine.check_ready()).pointer.space_id == SPACE
    gallery.embedders[SPACE].fails = True
    with pytest.raises(ProblemError, match="probe failed") as caught:
        run(gallery, lambda engine: engine.check_ready())
    assert caught.value.status_code == 503
    empty = FakeGallery()
    empty.searcher.rows.clear()
    with pytest.raises(ProblemError, match="no hit"):
        run(empty, lambda engine: engine.check_ready())


def test_readiness_is_told_as_it_was_until_a_probe_fails() -> None:
    gallery, told = FakeGallery(), list[float]()

    async def talk(engine: Engine) -> None:
        embedder = gallery.embedders[SPACE]
        core = embedder.core
        embedder.core = lambda prepared: (told.append(ready()), core(prepared))[1]  # type: ignore[method-assign]
        for _ in range(2):
            await engine.check_ready()
            engine._ready_until = 0.0
        embedder.fails = True
        with pytest.raises(ProblemError):
            await engine.check_ready()
        told.append(ready())

    def ready() -> float:
        value = gallery.metrics.registry.get_sample_value("cmir_ready")
        assert value is not None
        return value

    run(gallery, talk)
    assert told == [0.0, 1.0, 1.0, 0.0], "before the first, during the second and the third, after that"


def test_a_replica_is_unhealthy_where_another_in_its_place_would_do_better() -> None:
    gallery = FakeGallery()

    async def talk(engine: Engine) -> None:
        await engine.check_health()
        gallery.searcher.rows.clear()  # which any replica would find so
        await engine.check_health()
        gallery.embedders[SPACE].fails = True
        with pytest.raises(RuntimeError, match="the encoder's own words"):
            await engine.check_health()

    run(gallery, talk)
    asyncio.run(gallery.engine().check_health())  # one that has not started yet is no worse for it


def test_a_replica_whose_decoding_has_ended_is_unhealthy() -> None:
    gallery = FakeGallery()
    processes = DecodingProcesses(1, gallery.limits)

    async def talk(engine: Engine) -> None:
        await engine.check_health()
        await processes.stop()
        with pytest.raises(ProblemError, match="decoding has been stopped"):
            await engine.check_health()

    run(gallery, talk, processes)


def test_a_look_at_readiness_lets_an_encoder_sleep() -> None:
    gallery = FakeGallery()
    gallery.encoder_may_sleep = True
    gallery.embedders[SPACE].fails = True  # whoever asked it would be told
    assert run(gallery, lambda engine: engine.check_ready()).pointer.space_id == SPACE
    gallery.searcher.rows.clear()
    with pytest.raises(ProblemError, match="probe failed"):
        run(gallery, lambda engine: engine.check_ready())


def test_not_ready_where_decoding_does_not_work() -> None:
    gallery = FakeGallery()
    processes = DecodingProcesses(1, gallery.limits)

    async def talk(engine: Engine) -> None:
        await engine.check_ready()
        await processes.stop()
        await asyncio.sleep(2.1)  # a readiness that was seen holds for two seconds
        with pytest.raises(ProblemError, match="decoding has been stopped") as caught:
            await engine.check_ready()
        assert caught.value.status_code == 503

    run(gallery, talk, processes)


def test_an_embedding_that_is_not_finite_is_the_askers() -> None:
    gallery = FakeGallery()
    gallery.embedders[SPACE] = FakeEmbedder(sign=float("nan"))
    with pytest.raises(DataError, match="the query has no embedding"):
        run(gallery, lambda engine: engine.embed(image(0)))


def test_answers_are_of_one_space_while_the_publish_changes() -> None:
    gallery = FakeGallery(poll_s=0.01)
    gallery.embedders[OTHER_SPACE] = FakeEmbedder(space_id=OTHER_SPACE, sign=-1.0)

    async def talk(engine: Engine) -> list[tuple[str, str, float]]:
        seen = []
        for turn in range(60):
            if turn % 10 == 5:
                space_id = SPACE if gallery.published.space_id == OTHER_SPACE else OTHER_SPACE
                gallery.published = pointer(gallery.published.sequence + 1, space_id)
            answers = await engine.search([plain(image(turn % 6)), plain(image((turn + 1) % 6))])
            assert len({answer.pointer.space_id for answer in answers}) == 1
            seen += [(a.pointer.space_id, a.hits[0].item_id, a.hits[0].score) for a in answers]
            await asyncio.sleep(0.005)
        return seen

    seen = run(gallery, talk)
    # a query of one space against vectors of the other, which point the opposite way, would score about -1
    assert min(score for _, _, score in seen) > 0.999
    assert {space_id for space_id, _, _ in seen} == {SPACE, OTHER_SPACE}
