"""The synthetic source: exact counts, the same bytes everywhere, consistent rows, and scenes that can be told apart."""

import json
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from cmir.archive.schema import IMAGE_MODALITIES, ShardRow, content_hash
from cmir.archive.sources import Item
from cmir.archive.sources.synthetic import AERIAL, SATELLITE, SyntheticSource
from cmir.archive.world.covers import LABELS
from cmir.archive.world.scene import LAYOUTS
from cmir.errors import DataError

NUM_SCENES = 4 * len(LAYOUTS)

DIGESTS = """
from cmir.archive.schema import content_hash
from cmir.archive.sources.synthetic import SyntheticSource
source = SyntheticSource(scenes=4, seed=7)
print(" ".join(content_hash(row.media.data) for index in (0, 3) for row in source.scene_rows(index)))
"""


def pixels_of(row: ShardRow) -> np.ndarray:
    assert row.media.dtype is not None
    assert row.media.shape is not None
    return np.frombuffer(row.media.data, row.media.dtype).reshape(row.media.shape)


def scenes_of(source: SyntheticSource) -> list[Item]:
    return [item for item in source.items() if item.population == "scene"]


@pytest.fixture(scope="module")
def world() -> list[ShardRow]:
    source = SyntheticSource(scenes=NUM_SCENES, seed=1)
    return [row for index in range(source.scenes) for row in source.scene_rows(index)]


def test_n_scenes_are_n_chips_of_each_image_modality(world: list[ShardRow]) -> None:
    assert Counter(row.media.modality for row in world) == dict.fromkeys(IMAGE_MODALITIES, NUM_SCENES)
    assert len({row.item_id for row in world}) == len(world)
    assert {len([r for r in world if r.pair_id == row.pair_id]) for row in world[:9]} == {3}


def test_speech_is_listed_whatever_the_number_of_scenes() -> None:
    few, many = SyntheticSource(scenes=2, voices=2), SyntheticSource(scenes=9, voices=2)
    spoken = [[item.key for item in source.items() if item.population == "speech"] for source in (few, many)]
    assert spoken[0] == spoken[1]
    assert len(spoken[0]) >= 2 * len(LABELS)
    assert len(scenes_of(few)) == 2
    assert len(scenes_of(many)) == 9


def test_items_tell_the_scene_id_of_their_rows() -> None:
    source = SyntheticSource(scenes=3, seed=2, voices=1)
    for item in source.items():
        rows = list(source.rows(item))
        assert {row.scene_id for row in rows} == {item.scene_id}
        assert max(len(row.media.data) for row in rows) <= max(item.num_bytes, 100_000)
        if item.population == "speech":
            assert rows[0].media.modality == "speech"
            break


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    done = subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=True)
    source = SyntheticSource(scenes=4, seed=7)
    here = [content_hash(row.media.data) for index in (0, 3) for row in source.scene_rows(index)]
    assert done.stdout.split() == here


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    small, large = SyntheticSource(scenes=4, seed=3), SyntheticSource(scenes=1_000_000, seed=3)
    assert list(small.scene_rows(3)) == list(large.scene_rows(3))
    assert scenes_of(small)[3] == next(item for n, item in enumerate(large.items()) if n == 3)


def test_another_seed_gives_other_pixels_and_ids() -> None:
    one, other = (next(SyntheticSource(scenes=1, seed=seed).scene_rows(0)) for seed in (0, 1))
    assert one.media.data != other.media.data
    assert one.item_id != other.item_id
    assert one.scene_id != other.scene_id


def test_a_source_is_pickled_whole() -> None:
    source = SyntheticSource(scenes=5, seed=4, voices=3)
    assert pickle.loads(pickle.dumps(source)) == source


def test_rows_say_what_their_media_are(world: list[ShardRow]) -> None:
    pan, ms, rgb = world[:3]
    assert (pan.media.bands, ms.media.bands, rgb.media.bands) == (
        ("pan",),
        ("blue", "green", "red", "nir"),
        ("red", "green", "blue"),
    )
    assert (pan.media.gsd_m, ms.media.gsd_m, rgb.media.gsd_m) == (0.5, 2.0, 0.5)
    assert (pan.media.shape, ms.media.shape, rgb.media.shape) == ((1, 256, 256), (4, 64, 64), (3, 256, 256))
    assert (pan.media.sensor, ms.media.sensor, rgb.media.sensor) == (SATELLITE, SATELLITE, AERIAL)
    assert all(len(row.media.wavelength_nm) == len(row.media.bands) for row in (pan, ms, rgb))


def test_georeferencing_agrees_between_the_chips_of_a_scene(world: list[ShardRow]) -> None:
    for pan, ms, rgb in zip(world[::3], world[1::3], world[2::3], strict=True):
        assert (pan.bbox, pan.geometry, pan.crs, pan.acquired_at) == (ms.bbox, ms.geometry, ms.crs, ms.acquired_at)
        assert pan.acquired_at != rgb.acquired_at
        assert pan.crs == rgb.crs
        corners = [json.loads(row.attributes or "")["north_west_corner_m"] for row in (pan, rgb)]
        assert max(abs(a - b) for a, b in zip(*corners, strict=True)) <= 3.0


def test_scenes_of_one_ground_share_place_and_class_but_not_their_date(world: list[ShardRow]) -> None:
    pans = world[::3]
    again = [(a, b) for n, a in enumerate(pans) for b in pans[n + 1 :] if a.scene_id == b.scene_id]
    assert len(again) > 5
    for first, second in again:
        assert (first.bbox, first.scene_class) == (second.bbox, second.scene_class)
        assert first.acquired_at != second.acquired_at
        assert first.pair_id != second.pair_id


def test_every_class_and_every_label_appears(world: list[ShardRow]) -> None:
    assert {row.scene_class for row in world} == {name for name, _ in LAYOUTS}
    assert {label for row in world for label in row.labels} == set(LABELS)
    assert all(row.labels for row in world if not row.cloud_cover)
    assert 2.5 < np.mean([len(row.labels) for row in world]) < 4.5


def test_cloud_is_told_and_only_seen_from_orbit(world: list[ShardRow]) -> None:
    cover = [row.cloud_cover or 0.0 for row in world if row.media.modality != "rgb"]
    assert 0 < sum(value > 0 for value in cover) < len(cover) / 3
    assert all(0.0 <= value <= 40.0 for value in cover)
    assert all(row.cloud_cover == 0.0 for row in world if row.media.modality == "rgb")


def test_plants_and_water_have_their_spectra_in_ms(world: list[ShardRow]) -> None:
    ms = {row.scene_class: pixels_of(row).astype(float) for row in world[1::3] if not row.cloud_cover}
    assert ms["forest"][3].mean() > 1.8 * ms["forest"][2].mean()
    assert np.median(ms["open sea"][3]) < 0.5 * np.median(ms["open sea"][0])


def features(row: ShardRow) -> np.ndarray:
    """Mean, spread, and fineness of each band: what a linear look at a chip can know."""
    chip = pixels_of(row).astype(np.float64)
    steps = np.abs(np.diff(chip, axis=2)).mean(axis=(1, 2)), np.abs(chip[:, 4:, :] - chip[:, :-4, :]).mean(axis=(1, 2))
    parts = [chip.mean(axis=(1, 2)), chip.std(axis=(1, 2)), *steps, *np.quantile(chip, (0.05, 0.5, 0.95), axis=(1, 2))]
    return np.log1p(np.concatenate(parts))


@pytest.mark.parametrize("modality", IMAGE_MODALITIES)
def test_the_nearest_class_mean_of_simple_features_is_far_above_chance(world: list[ShardRow], modality: str) -> None:
    rows = [row for row in world if row.media.modality == modality]
    known = np.stack([features(row) for row in rows])
    known = (known - known.mean(axis=0)) / known.std(axis=0)
    classes, grounds = np.array([str(row.scene_class) for row in rows]), np.array([row.scene_id for row in rows])
    hits = []
    for own, name, ground in zip(known, classes, grounds, strict=True):
        others = grounds != ground  # nothing is guessed from its own ground
        names = np.unique(classes[others])
        centres = np.stack([known[others & (classes == other)].mean(axis=0) for other in names])
        hits.append(names[np.linalg.norm(centres - own, axis=1).argmin()] == name)
    assert np.mean(hits) > 4 / len(LAYOUTS)


@pytest.mark.parametrize(("scenes", "seed", "seen"), [(0, 0, "0 scenes"), (5, -1, "seed -1")])
def test_an_impossible_world_is_refused(scenes: int, seed: int, seen: str) -> None:
    with pytest.raises(DataError, match=seen):
        SyntheticSource(scenes=scenes, seed=seed)
