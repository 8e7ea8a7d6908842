"""The feed's order is f(seed, epoch), its cache is bounded, ranks divide the work, and bad rows do not stop it."""

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
from cmir.network.feed import FeedSettings, ItemLoader, TrainingFeed, WindowedItems
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
    stream = again.batches(5)
    assert [fingerprint(next(stream)) for _ in range(2)] == order[5:7], "the thread changes nothing"
    stream.close()
    for feed in (first, again, other):
        feed.close()


def test_two_ranks_divide_the_grounds(archive: tuple[Catalogue, Preprocessing]) -> None:
    feeds = [TrainingFeed(*archive, FeedSettings(6, 2, seed=0), rank=rank, world_size=2) for rank in range(2)]
    seen = [{value for batch in items_seen(feed, feed.steps_per_epoch) for value in batch} for feed in feeds]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 25
    assert {len(feed.batch(0).targets.modality[feed.batch(0).targets.modality == SPEECH]) for feed in feeds} == {1}
    for feed in feeds:
        feed.close()


def test_a_small_cache_reads_windows_and_still_gives_everything_once(
    archive: tuple[Catalogue, Preprocessing], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, preprocessing = archive
    loader = ItemLoader(catalogue, preprocessing)
    loads: list[int] = []
    load = loader.load
    monkeypatch.setattr(loader, "load", lambda items: loads.append(len(items)) or load(items))
    grounds = catalogue.grounds()
    total = sum(loader.estimated_bytes(ground) for ground in grounds)
    small = WindowedItems(grounds, loader, cache_bytes=total // 2, seed=0)
    taken = [item.item for place in range(0, 15, 5) for item in small.take(place, 5)]
    assert sorted(taken) == list(range(25))
    assert max(loads) < 15, "no window holds half of the archive"
    assert len(loads) >= 6
    window = small._window_of_group[small.order(0)]
    assert (np.diff(window) != 0).sum() == window.max(), "an epoch goes through each window once"
    small.close()
    loads.clear()
    large = WindowedItems(grounds, loader, cache_bytes=total, seed=0)
    for epoch in range(3):
        large.take(15 * epoch, 15)
    assert loads == [25], "what fits is read once"
    large.close()


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
        next(feed.batches(0))
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
