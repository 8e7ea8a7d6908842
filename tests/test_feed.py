"""The feed's order is f(seed, epoch) for any number of workers, its cache is bounded, and bad rows do not stop it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cmir.archive.schema import MODALITIES
from cmir.archive.shards import list_shards
from cmir.errors import DataError
from cmir.network.batches import Batch
from cmir.network.catalogue import UNKNOWN, Catalogue, read_catalogue
from cmir.network.feed import FeedSettings, TrainingFeed
from cmir.network.item_loader import ItemLoader
from cmir.network.order import GroupOrder
from cmir.network.preprocessing import Preprocessing
from cmir.network.training_data import sample_statistics
from tests.tiny_archives import chip_row, features_row, tone_row, write_archive

PAN, MS, RGB, SPEECH = range(4)


def opened(uri: str) -> tuple[Catalogue, Preprocessing]:
    files = list_shards(uri)
    sizes = {file.modality: 16 for file in files if file.modality != "speech"}
    return read_catalogue(files), Preprocessing.fit(sample_statistics(files), chip_size_px=sizes)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalogue, Preprocessing]:
    """Ten grounds with pan and ms, five rgb chips of their own, six utterances."""
    rows = [chip_row(i, modality) for i in range(10) for modality in ("pan", "ms")]  # type: ignore[arg-type]
    rows += [chip_row(100 + i, "rgb", is_paired=False) for i in range(5)]
    rows += [tone_row(i) for i in range(6)]
    return opened(write_archive(tmp_path_factory.mktemp("archive"), rows))


def items_seen(feed: TrainingFeed, num_steps: int) -> list[tuple[int, ...]]:
    """What identifies the grounds of each batch: pairs by id, others by their pixels' sum."""
    return [fingerprint(feed.batch(step)) for step in range(num_steps)]


def fingerprint(batch: Batch) -> tuple[int, ...]:
    return tuple(int(value) for part in batch.images for value in part.quantised.long().sum((1, 2, 3)))


def test_the_catalogue_knows_labels_classes_and_pairs(archive: tuple[Catalogue, Preprocessing]) -> None:
    catalogue, _ = archive
    assert catalogue.modalities == MODALITIES
    assert catalogue.label_names == ("field", "sea", "trees")
    assert catalogue.labels.sum(axis=1).tolist() == [1] * 31
    grounds = catalogue.grounds()
    assert sorted(len(ground) for ground in grounds) == [1] * 5 + [2] * 10
    for ground in grounds:
        assert len(set(catalogue.pair_id[ground].tolist())) == 1
        assert (catalogue.pair_id[ground[0]] == UNKNOWN) == (len(ground) == 1)
    assert len(catalogue.utterances()) == 6


def test_labels_outside_a_given_vocabulary_are_dropped(tmp_path: Path) -> None:
    uri = write_archive(tmp_path, [chip_row(0, "rgb", labels=("sea", "moon")), chip_row(1, "rgb", labels=())])
    catalogue = read_catalogue(list_shards(uri), label_names=("field", "sea"), class_names=("sea",))
    assert catalogue.labels.tolist() == [[0, 1], [0, 0]]
    assert catalogue.class_id.tolist() == [UNKNOWN, 0]


def test_every_ground_comes_once_an_epoch_with_all_its_chips(archive: tuple[Catalogue, Preprocessing]) -> None:
    feed = TrainingFeed(*archive, FeedSettings(5, 2, seed=0))
    assert feed.steps_per_epoch == 3
    batches = [feed.batch(step) for step in range(3)]
    for batch in batches:
        pan, ms = (batch.targets.pair_id[batch.targets.modality == index] for index in (PAN, MS))
        assert sorted(pan.tolist()) == sorted(ms.tolist()), "the chips of a ground meet in one batch"
        assert int((batch.targets.modality == SPEECH).sum()) == 2
        assert batch.num_items == sum(len(part.gsd_m) for part in batch.images) + 2
    pairs = torch.cat([batch.targets.pair_id[batch.targets.modality == PAN] for batch in batches])
    assert len(set(pairs.tolist())) == 10
    feed.close()


def test_the_order_is_a_function_of_seed_and_step(archive: tuple[Catalogue, Preprocessing]) -> None:
    first, again, other = (TrainingFeed(*archive, FeedSettings(4, 0, seed=seed)) for seed in (1, 1, 2))
    order = items_seen(first, 8)
    assert [fingerprint(again.batch(step)) for step in (6, 2)] == [order[6], order[2]], "from any step on"
    assert items_seen(other, 8) != order
    assert order[:4] != order[4:], "another epoch, another order"
    stream = again.batches(5, lambda batch, step: (step, fingerprint(batch)))
    assert [next(stream) for _ in range(2)] == [(5, order[5]), (6, order[6])], "the thread changes nothing"
    stream.close()
    for feed in (first, again, other):
        feed.close()


def epoch_of(archive: tuple[Catalogue, Preprocessing], settings: FeedSettings, sizes: list[int]) -> list[list[int]]:
    """Items seen in each step of an epoch by all ranks together; the world has `sizes[step]` workers in a step."""
    steps: list[list[int]] = []
    for step, world_size in enumerate(sizes):
        feeds = [TrainingFeed(*archive, settings, rank=rank, world_size=world_size) for rank in range(world_size)]
        steps.append(sorted(item for feed in feeds for item in taken(feed, step)))
        for feed in feeds:
            feed.close()
    return steps


def taken(feed: TrainingFeed, step: int) -> list[int]:
    return [item.item for stream in feed._streams for item in stream.take(step)]


def shares(archive: tuple[Catalogue, Preprocessing], settings: FeedSettings, step: int, world_size: int) -> list[int]:
    feeds = [TrainingFeed(*archive, settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    counts = [len(taken(feed, step)) for feed in feeds]
    for feed in feeds:
        feed.close()
    return counts


@pytest.mark.parametrize("cache_bytes", [2**30, 12_000])
def test_after_a_resize_every_item_of_the_epoch_is_seen_once(
    archive: tuple[Catalogue, Preprocessing], cache_bytes: int
) -> None:
    settings = FeedSettings(4, 2, seed=3, cache_bytes=cache_bytes)
    alone = epoch_of(archive, settings, [1] * 4)
    resized = epoch_of(archive, settings, [2, 8, 1, 3])
    assert resized == alone, "a step holds the same items however many workers share it"
    chips = [item for step in resized for item in step if archive[0].modality[item] != SPEECH]
    assert sorted(chips) == list(range(25)), "every chip once, none twice"
    speech = [item for step in resized[:3] for item in step if archive[0].modality[item] == SPEECH]
    assert sorted(speech) == list(range(25, 31)), "three steps are an epoch of the utterances"


def test_ranks_divide_a_step_evenly_and_one_may_have_nothing(archive: tuple[Catalogue, Preprocessing]) -> None:
    assert shares(archive, FeedSettings(15, 0, seed=0), 0, 1) == [25]
    even = shares(archive, FeedSettings(12, 6, seed=0), 0, 2)
    assert max(even) - min(even) <= 4, "grounds of one or two chips, and three utterances"
    few = shares(archive, FeedSettings(2, 1, seed=0), 0, 8)
    assert few.count(0) >= 5
    assert sum(few) == len(epoch_of(archive, FeedSettings(2, 1, seed=0), [1])[0])
    feed = TrainingFeed(*archive, FeedSettings(2, 1, seed=0), rank=few.index(0), world_size=8)
    batch = feed.batch(0)
    assert (batch.num_items, batch.images, batch.speech) == (0, (), ())
    feed.close()


def uniform(count: int, per_piece: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and row groups of `count` groups of one byte."""
    return np.ones(count, np.int64), np.arange(count) // per_piece


def test_windows_are_whole_row_groups_where_the_cache_has_room() -> None:
    order = GroupOrder(*uniform(6400, 10), per_step=32, seed=0, cache_bytes=3000)
    assert order.num_lanes == 32
    lanes_of = {(int(window), int(lane)) for window, lane in zip(order.window, order._lane, strict=True)}
    assert len(lanes_of) == order.window.max() + 1, "a window lies in one lane"
    assert np.bincount(order.window).max() <= 3000 // 64
    reads = {(int(window), place // 10) for place, window in enumerate(order.window)}
    assert len(reads) == 640, "an epoch reads every row group once"
    small = GroupOrder(*uniform(6400, 100), per_step=32, seed=0, cache_bytes=800)
    assert small.num_lanes == 8, "few lanes, so that little is read twice"
    assert np.bincount(small.window).max() <= 800 // 16


def test_steps_of_an_epoch_are_nearly_equal_and_never_too_large() -> None:
    for count, per_step in ((33, 32), (1, 8), (100, 7), (1000, 32), (500, 200)):
        order = GroupOrder(*uniform(count, 8), per_step=per_step, seed=0, cache_bytes=2**20)
        sizes = [
            sum(len(order.positions(step, lane)[1]) for lane in range(order.num_lanes))
            for step in range(order.steps_per_epoch)
        ]
        assert sum(sizes) == count
        assert max(sizes) <= per_step
        assert max(sizes) - min(sizes) <= max(2, per_step // 16)


def test_a_small_cache_reads_windows_and_still_gives_everything_once(
    archive: tuple[Catalogue, Preprocessing], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, preprocessing = archive
    total = sum(ItemLoader(catalogue, preprocessing).estimated_bytes(ground) for ground in catalogue.grounds())

    def loads_of(cache_bytes: int, num_epochs: int) -> tuple[TrainingFeed, list[int], int]:
        feed = TrainingFeed(catalogue, preprocessing, FeedSettings(2, 0, seed=0, cache_bytes=cache_bytes))
        loads: list[int] = []
        load = feed.loader.load
        monkeypatch.setattr(feed.loader, "load", lambda items: loads.append(len(items)) or load(items))
        most = 0
        for epoch in range(num_epochs):
            seen = []
            for step in range(feed.steps_per_epoch):
                seen += taken(feed, epoch * feed.steps_per_epoch + step)
                most = max(most, sum(window.num_bytes for window in feed._streams[0]._windows.values()))
            assert sorted(seen) == list(range(25))
        feed.close()
        return feed, loads, most

    utterances = 4  # a quarter of the cache is theirs
    feed, loads, most = loads_of(total * utterances // 6, 2)
    assert max(loads) < 13, "no window holds half of the archive"
    assert sum(loads) > 25, "what does not fit is read again"
    largest = max(feed.loader.estimated_bytes(ground) for ground in catalogue.grounds())
    assert most <= total // 2 + 4 * largest, "a window may end with one ground more than fits"
    order = feed._streams[0].order
    for lane in range(order.num_lanes):
        places = [order.place(0, lane, position) for position in range(order.bounds[lane + 1] - order.bounds[lane])]
        windows = order.window[places]
        assert (np.diff(windows) != 0).sum() == len(set(windows.tolist())) - 1, "a lane goes once through each window"
    _, loads, most = loads_of(2 * total, 3)
    assert sum(loads) == 25, "what fits is read once"
    assert most == total


def test_threads_that_decode_and_vary_use_one_core_each_and_the_step_all(
    archive: tuple[Catalogue, Preprocessing], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        feed = TrainingFeed(*archive, FeedSettings(4, 0, seed=0))
        decode, seen = feed.loader.decode, []
        monkeypatch.setattr(
            feed.loader, "decode", lambda item, media: seen.append(torch.get_num_threads()) or decode(item, media)
        )
        batches = feed.batches(0, lambda batch, step: seen.append(torch.get_num_threads()))
        next(batches)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        batches.close()
        feed.close()
    finally:
        torch.set_num_threads(before)


def test_a_bad_row_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = chip_row(0, "rgb"), chip_row(1, "rgb")
    bad = dataclasses.replace(bad, media=dataclasses.replace(bad.media, data=bad.media.data[:-1]))
    catalogue, preprocessing = opened(write_archive(tmp_path, [good, bad]))
    feed = TrainingFeed(catalogue, preprocessing, FeedSettings(2, 0, seed=0))
    assert feed.batch(0).num_items == 1
    assert feed.loader.num_rejected == 1
    assert "row 1: raw pixels have the wrong size" in caplog.text
    feed.close()


def test_an_archive_of_bad_rows_ends_with_an_error_in_the_training_thread(tmp_path: Path) -> None:
    good, bad = chip_row(0, "rgb"), chip_row(1, "rgb")
    _, preprocessing = opened(write_archive(tmp_path / "good", [good]))
    bad = dataclasses.replace(bad, media=dataclasses.replace(bad.media, data=b"x"))
    catalogue = read_catalogue(list_shards(write_archive(tmp_path / "bad", [bad])))
    feed = TrainingFeed(catalogue, preprocessing, FeedSettings(2, 0, seed=0))
    with pytest.raises(DataError, match="no item of a batch could be read"):
        next(feed.batches(0, lambda batch, step: batch))
    feed.close()


def test_cached_chips_are_what_inference_sees(archive: tuple[Catalogue, Preprocessing]) -> None:
    catalogue, preprocessing = archive
    loader = ItemLoader(catalogue, preprocessing, margin=1.0)
    rows = np.flatnonzero(catalogue.modality == MS)
    cached = loader.load(rows[:1])[int(rows[0])]
    from cmir.archive.imagery import decode_chip

    chip = decode_chip(chip_row(0, "ms").media)
    exact = preprocessing.image_input("ms", [chip])[0]
    assert (torch.from_numpy(cached.pixels).float() / 16 - exact).abs().max() <= 1 / 32 + 1e-6  # type: ignore[union-attr]


def test_speech_as_sound_and_as_features(archive: tuple[Catalogue, Preprocessing], tmp_path: Path) -> None:
    batch = TrainingFeed(*archive, FeedSettings(1, 3, seed=0)).batch(0)
    (sound,) = batch.speech
    assert sound.waveform.shape == (3, 8000), "padded to a bucket of half a second"
    assert sound.num_samples.tolist() == [4800] * 3
    assert 0.25 < float(sound.waveform.abs().max()) < 0.35
    catalogue, preprocessing = opened(write_archive(tmp_path, [features_row(i) for i in range(10)]))
    (features,) = TrainingFeed(catalogue, preprocessing, FeedSettings(1, 10, seed=0)).batch(0).speech
    assert features.is_features
    assert features.waveform.shape == (10, 8)
    assert float(features.waveform.mean().abs()) < 1e-5, "normalised as in inference"
