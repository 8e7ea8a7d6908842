"""The parts by themselves: decoding off the loop, encoders of several bundles, searches that share a call."""

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.imagery import raw_media
from cmir.archive.speech import pcm_media
from cmir.errors import DataError, SpaceMismatchError
from cmir.gallery.filters import Filters
from cmir.gallery.footprints import NobodyWaitsError
from cmir.gallery.search import Hit
from cmir.network.embedder import Embedder, Prepared
from serve.batching import Timed
from serve.deployments import Decoder, EncoderPool, Finder, LocalEncoder, Wanted
from serve.limits import Limits
from serve.media import ImageBytes, ImageHints
from serve.metrics import Metrics
from serve.problems import ProblemError
from tests.serve_doubles import FakeEmbedder, FakeSearcher, gallery_rows, pixels, png, tone, vector_of
from tests.serve_real import make_bundle, media

LIMITS = Limits()


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_the_loop_goes_on_while_an_image_is_decoded(executor: Executor) -> None:
    async def talk() -> int:
        decoder, turns = Decoder(limits=LIMITS, executor=executor), 0
        source = ImageBytes(png(pixels("rgb", 0, 1500)), ImageHints())
        decoding = asyncio.ensure_future(decode(decoder, source))
        while not decoding.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert (await decoding).modality == "rgb"
        return turns

    assert asyncio.run(talk()) > 5


def test_an_image_that_cannot_be_decoded_is_a_data_error(executor: Executor) -> None:
    source = ImageBytes(png(pixels("rgb", 0))[:-30], ImageHints())
    with pytest.raises(DataError, match="cannot be decoded"):
        asyncio.run(decode(Decoder(limits=LIMITS, executor=executor), source))


def test_what_is_decoded_and_not_yet_encoded_is_bounded(executor: Executor) -> None:
    source = ImageBytes(png(np.zeros((3, 4000, 4000), np.uint8)), ImageHints())  # 48 MB from 0.2 MB
    limits = Limits(max_decoded_bytes=2**26, max_pixels=2**26 // 4).model_copy(update={"max_pixels": 2**26})

    async def talk() -> None:
        decoder = Decoder(limits=limits, executor=executor)
        for _ in range(2):
            async with decoder.decoded(source, FakeEmbedder()) as prepared:
                assert prepared.modality == "rgb"
                with pytest.raises(ProblemError, match="48000000 bytes more, and 48000000 of 67108864") as refused:
                    await decode(decoder, source)
                await decode(decoder, ImageBytes(png(pixels("rgb", 0)), ImageHints()))
            assert refused.value.status_code == 429
            assert refused.value.headers == {"Retry-After": "1"}

    asyncio.run(talk())


def test_an_encoder_takes_no_more_bytes_than_it_may_hold() -> None:
    pool = EncoderPool(device="cpu", limits=Limits(max_decoded_bytes=2**26, max_pixels=2**20), metrics=Metrics())
    prepared = Prepared("speech", np.zeros(2**24 + 1, np.float32), None)
    with pytest.raises(ProblemError, match="67108868 bytes more") as refused:
        asyncio.run(pool.encode(prepared, "nowhere", "s0"))
    assert refused.value.status_code == 429
    assert pickle.loads(pickle.dumps(refused.value)).headers == {"Retry-After": "1"}, "it travels between replicas"


@pytest.mark.parametrize("limits", [Limits(max_encode_pixels=2 * 3 * 12 * 12), Limits(max_encode_audio_s=0.5)])
def test_a_pass_of_the_encoder_is_bounded_by_pixels_and_seconds(executor: Executor, limits: Limits) -> None:
    embedder = FakeEmbedder()
    modality = "rgb" if limits.max_encode_pixels < 2**25 else "speech"
    image = raw_media("rgb", pixels("rgb", 0), bands=("red", "green", "blue"))
    prepared = [embedder.pre(image if modality == "rgb" else pcm_media(tone(0, 0.25))) for _ in range(7)]

    async def talk() -> None:
        encoder = LocalEncoder(embedder, executor=executor, limits=limits, metrics=Metrics())
        await asyncio.gather(*map(encoder.encode, prepared))

    asyncio.run(talk())
    assert embedder.batch_sizes == [2, 2, 2, 1]


async def decode(decoder: Decoder, source: ImageBytes) -> Prepared:
    async with decoder.decoded(source, FakeEmbedder()) as prepared:
        return prepared


def test_the_encoder_batches_up_to_its_limit(executor: Executor) -> None:
    embedder = FakeEmbedder()
    prepared = [embedder.pre(media("pan", i)) for i in range(6)]

    async def talk() -> list[np.ndarray]:
        limits = Limits(max_encode_items=4)
        encoder = LocalEncoder(embedder, executor=executor, limits=limits, metrics=Metrics())
        return [timed.result for timed in await asyncio.gather(*map(encoder.encode, prepared))]

    for i, vector in enumerate(asyncio.run(talk())):
        np.testing.assert_array_equal(vector, vector_of(pixels("pan", i).tobytes()))
    assert max(embedder.batch_sizes) <= 4
    assert len(embedder.batch_sizes) <= 3


def test_searches_share_a_call_only_where_all_their_wishes_are_equal(executor: Executor) -> None:
    searcher = FakeSearcher(gallery_rows())
    water, pavement = Filters(labels=("water",)), Filters(labels=("pavement",))
    wishes = [
        (("rgb",), 2, None), (("rgb",), 2, None), (("ms",), 2, None), (("rgb",), 3, None), (("rgb",), 2, water),
        (("rgb",), 2, pavement), (("rgb",), 2, Filters(labels=("water",))),
    ]  # fmt: skip

    async def talk() -> list[list[str]]:
        finder = Finder(searcher, executor=executor, filtering=executor, limits=LIMITS, metrics=Metrics())
        queries = [
            Wanted(vector_of(bytes([i])), targets, k, filters)  # type: ignore[arg-type]
            for i, (targets, k, filters) in enumerate(wishes)
        ]
        first = asyncio.ensure_future(finder.find(queries[0]))  # the others wait for it, and so for each other
        rest = [asyncio.ensure_future(finder.find(query)) for query in queries[1:]]
        return [[hit.item_id for hit in (await found).result] for found in (first, *rest)]

    found = asyncio.run(talk())
    for i, ((targets, k, filters), hits) in enumerate(zip(wishes, found, strict=True)):
        alike = FakeSearcher(gallery_rows())
        [alone] = alike.tell(alike.rank(vector_of(bytes([i]))[None], targets=targets, k=k, filters=filters))
        assert hits == [hit.item_id for hit in alone]
    assert sum(call[0] for call in searcher.calls) == len(wishes)
    together = [call for call in searcher.calls if call[0] > 1]
    assert [call[3] for call in together if call[3]] == [water]


def test_a_slow_filter_holds_up_nobody_without_one_and_ends_with_its_askers(executor: Executor) -> None:
    searcher, begun = FakeSearcher(gallery_rows()), threading.Event()
    given_up: list[Filters] = []

    def compare(filters: Filters, is_wanted: Callable[[], bool]) -> None:
        begun.set()
        deadline = time.monotonic() + 10
        while is_wanted():
            assert time.monotonic() < deadline, "its askers have gone"
            time.sleep(0.005)
        given_up.append(filters)
        raise NobodyWaitsError

    slow, never = Filters(labels=("water",)), Filters(labels=("pavement",))

    async def talk(filtering: Executor) -> int:
        finder = Finder(searcher, executor=executor, filtering=filtering, limits=LIMITS, metrics=Metrics())

        def ask(filters: Filters | None) -> "asyncio.Future[Timed[list[Hit]]]":
            return asyncio.ensure_future(finder.find(Wanted(vector_of(b"0"), ("rgb",), 2, filters)))

        searcher.on_filters = compare
        askers = [ask(slow), ask(slow)]
        await asyncio.to_thread(begun.wait)
        waiting = ask(never)
        num_hits = len((await ask(None)).result)
        askers[0].cancel()
        await asyncio.sleep(0.05)
        assert given_up == [], "one of the two still waits"
        searcher.on_filters = lambda filters, is_wanted: None
        waiting.cancel()
        askers[1].cancel()
        assert len((await ask(slow)).result) == 2
        return num_hits

    with ThreadPoolExecutor(1) as filtering:
        assert asyncio.run(talk(filtering)) == 2
    assert given_up == [slow], "the search that nobody waited for any more was not begun"
    assert all(call[3] in (None, slow) for call in searcher.calls)


def test_an_encoder_pool_keeps_the_newest_bundles_and_loads_what_is_asked_for(tmp_path: Path) -> None:
    uris = [str(tmp_path / f"bundle-{seed}") for seed in range(3)]
    spaces = [make_bundle(uri, seed=seed) for seed, uri in enumerate(uris)]
    item = media("ms", 0)
    expected = [Embedder.open(uri, device="cpu").embed([item])[0] for uri in uris]
    prepared = Embedder.open(uris[0], device="cpu").pre(item)

    async def talk() -> list[np.ndarray]:
        pool = EncoderPool(device="cpu", limits=LIMITS, metrics=Metrics())
        await asyncio.gather(pool.warm(uris[0], spaces[0]), pool.warm(uris[0], spaces[0]))
        return [(await pool.encode(prepared, uris[i], spaces[i])).result for i in (0, 1, 2, 0)]

    for seen, i in zip(asyncio.run(talk()), (0, 1, 2, 0), strict=True):
        np.testing.assert_allclose(seen, expected[i], atol=1e-6)


def test_a_pool_that_encodes_no_more_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "bundle")
    space_id = make_bundle(uri)
    pool = EncoderPool(device="cpu", limits=LIMITS, metrics=Metrics())

    async def talk() -> None:
        await pool.check()  # nothing is loaded yet
        await pool.warm(uri, space_id)
        await pool.check()
        monkeypatch.setattr(Embedder, "post", lambda self, vectors: np.full((1, 16), np.nan, np.float32))
        with pytest.raises(RuntimeError, match=f"the probe of {uri} has no embedding"):
            await pool.check()

    asyncio.run(talk())


def test_a_bundle_trained_anew_in_its_place_is_another_one(tmp_path: Path) -> None:
    uri, item = str(tmp_path / "bundle"), media("ms", 0)
    pool = EncoderPool(device="cpu", limits=LIMITS, metrics=Metrics())

    def trained(seed: int) -> tuple[str, Embedder]:
        return make_bundle(uri, seed=seed), Embedder.open(uri, device="cpu")

    async def talk() -> None:
        spaces = [trained(0), trained(1)]
        await pool.warm(uri, spaces[1][0])
        with pytest.raises(SpaceMismatchError, match=f"seen {spaces[1][0]}, expected {spaces[0][0]}.*{uri}"):
            await pool.warm(uri, spaces[0][0])
        spaces.append(trained(2))
        for space_id, embedder in (spaces[2], spaces[1]):  # the new one, and the one before for those who still ask
            timed = await pool.encode(embedder.pre(item), uri, space_id)
            np.testing.assert_allclose(timed.result, embedder.embed([item])[0], atol=1e-6)
        with pytest.raises(SpaceMismatchError, match="another space than the one asked for"):
            await pool.encode(spaces[0][1].pre(item), uri, spaces[0][0])

    asyncio.run(talk())
