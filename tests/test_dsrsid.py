"""The DSRSID source on a small file of the same layout: every pixel of every band where it belongs."""

import json
import pickle
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from cmir.archive.imagery import decode_chip
from cmir.archive.sources.dsrsid import LAND_COVERS, DsrsidSource
from cmir.errors import DataError
from cmir.evaluation.report import read_report
from jobs import evaluate, shard, train
from jobs.benchmark import BENCHMARKS
from jobs.entrypoint import run_choice, run_command
from tests.conftest import RayCluster

NUM = 16


def as_matlab_stores(images: np.ndarray) -> np.ndarray:
    """[N,C,H,W] with its spatial axes as MATLAB's order leaves them in HDF5: column first."""
    return np.ascontiguousarray(np.transpose(images, (0, 1, 3, 2)))


def write_file(
    path: Path, *, num_per_class: int = NUM // 8, chunks: bool = True, size_px: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """DSRSID.mat with PAN size_px, MS size_px / 4; returns PAN [N,1,H,W] and MS [N,4,h,w] as a viewer shows them."""
    num = 8 * num_per_class
    rng = np.random.default_rng(0)
    pan = rng.integers(0, 256, (num, 1, size_px, size_px), dtype=np.uint8)
    ms = rng.integers(0, 256, (num, 4, size_px // 4, size_px // 4), dtype=np.uint8)
    with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB v7.3 puts its text header before the HDF5 part
        extra = {"chunks": (3, 1, size_px // 2, size_px // 2), "compression": "gzip"} if chunks else {}
        file.create_dataset("PAN_IMAGES", data=as_matlab_stores(pan), **extra)
        file.create_dataset("MUL_IMAGES", data=as_matlab_stores(ms))
        file["LAND_COVER_TYPES"] = np.repeat(np.arange(1, 9), num_per_class)[None].astype(np.float64)
    return pan, ms


@pytest.mark.parametrize("chunks", [True, False])
def test_every_band_comes_back_as_it_was_seen(tmp_path: Path, chunks: bool) -> None:
    pan, ms = write_file(tmp_path / "DSRSID.mat", chunks=chunks)
    source = pickle.loads(pickle.dumps(DsrsidSource(str(tmp_path))))
    items = list(source.items())
    assert len(items) == NUM
    for index in (0, 5, NUM - 1):
        first, second = source.rows(items[index])
        chip, under = decode_chip(first.media), decode_chip(second.media)
        np.testing.assert_array_equal(chip.pixels, pan[index])
        for band in range(4):
            np.testing.assert_array_equal(under.pixels[band], ms[index, band])
        assert under.bands == ("blue", "green", "red", "nir")
        assert (chip.gsd_m, under.gsd_m, chip.sensor) == (2.0, 8.0, "GF-1-PMS")
        assert first.pair_id == second.pair_id
        assert first.item_id != second.item_id
        assert first.scene_class == LAND_COVERS[index // 2]


def test_ids_do_not_depend_on_the_place_of_the_file(tmp_path: Path) -> None:
    write_file(tmp_path / "DSRSID.mat", size_px=16)
    by_folder, by_file = DsrsidSource(str(tmp_path)), DsrsidSource(str(tmp_path / "DSRSID.mat"))
    first = [next(by_folder.rows(item)).item_id for item in by_folder.items()]
    assert first == [next(by_file.rows(item)).item_id for item in by_file.items()]
    assert len(set(first)) == NUM


def test_no_split_is_set_unless_the_official_one_is_asked_for(tmp_path: Path) -> None:
    write_file(tmp_path / "DSRSID.mat", num_per_class=32, size_px=4)
    assert {item.split for item in DsrsidSource(str(tmp_path)).items()} == {None}
    official = list(DsrsidSource(str(tmp_path), official_split=True).items())
    assert Counter(item.split for item in official) == {"train": 8 * 30, "test": 8 * 2}
    per_class = Counter(item.detail["scene_class"] for item in official if item.split == "test")
    assert set(per_class.values()) == {2}


def test_the_official_test_set_has_625_of_each_class(tmp_path: Path) -> None:
    write_file(tmp_path / "DSRSID.mat", num_per_class=700, size_px=4, chunks=False)
    items = list(DsrsidSource(str(tmp_path), official_split=True).items())
    per_class = Counter(item.detail["scene_class"] for item in items if item.split == "test")
    assert per_class == dict.fromkeys(LAND_COVERS, 625)
    chosen = [int(item.key) for item in items if item.split == "test"]
    assert chosen[:625] != list(range(625))
    assert chosen == [int(i.key) for i in DsrsidSource(str(tmp_path), official_split=True).items() if i.split == "test"]


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "DSRSID.mat"
    with pytest.raises(DataError, match="input not found"):
        list(DsrsidSource(str(tmp_path / "gone")).items())
    with pytest.raises(DataError, match=r"no DSRSID file: seen no \.mat file"):
        list(DsrsidSource(str(tmp_path)).items())
    write_file(path, size_px=4)
    with h5py.File(path, "r+") as file:
        file["LAND_COVER_TYPES"][0, 3] = 9
    with pytest.raises(DataError, match=r"unknown land cover: seen \[9.0\], expected 1 to 8"):
        list(DsrsidSource(str(tmp_path)).items())
    with h5py.File(path, "r+") as file:
        del file["MUL_IMAGES"]
    with pytest.raises(DataError, match="not the layout of DSRSID"):
        list(DsrsidSource(str(tmp_path)).items())
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match="MATLAB file cannot be read"):
        list(DsrsidSource(str(tmp_path)).items())


@pytest.mark.cluster
@pytest.mark.slow
def test_the_official_protocol_from_the_file_to_its_figures(
    tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path / "DSRSID.mat", num_per_class=32)
    archive, bundle, report = (str(tmp_path / name) for name in ("archive", "bundle", "evaluation"))
    made = ("--source", "dsrsid", "--split", "official", "--input", str(tmp_path / "DSRSID.mat"), "--output", archive)
    assert run_command("shard", shard.ShardConfig, shard.run, [*made]) == 0
    learnt = ("--shards", archive, "--preset", "pan-ms", "--objective", "cmirnet", "--dim", "16", "--output", bundle)
    small = ("--max-steps", "2", "--grounds-per-batch", "8", "--num-workers", "1", "--device", "cpu")
    assert run_command("train", train.TrainConfig, train.run, [*learnt, *small]) == 0
    asked = ("--bundle", bundle, "--shards", archive, "--query-split", "test", "--gallery-split", "train")
    told = (*asked, "--relevance", "class", "--device", "cpu", "--output", report)
    assert run_command("evaluate", evaluate.EvaluateConfig, evaluate.run, [*told]) == 0
    found = read_report(report)
    assert (found.query_splits, found.gallery_splits) == (("test",), ("train",))
    assert set(found.directions) == {"pan_to_ms", "ms_to_pan", "pan_to_pan", "ms_to_ms"}
    for figures in found.directions.values():
        assert (figures.num_queries, figures.gallery_size) == (8 * 2, 8 * 30)
        assert figures.chance_map == pytest.approx(1 / 8, abs=0.02)
        assert set(figures.per_class) == set(LAND_COVERS)
    assert found.directions["pan_to_ms"].mean_precision_at_k is not None
    capsys.readouterr()
    output = tmp_path / "paper.json"
    compared = ("--shards", archive, "--gallery-split", "train", "--chip-size-px", "16", "--max-steps", "1")
    assert run_choice("benchmark", BENCHMARKS, ["paper", "--output", str(output), *compared, "--device", "cpu"]) == 0
    figures = json.loads(output.read_text())["figures"]
    assert figures["data"][0]["note"].startswith("DSRSID;")
    assert {(row["num_queries"], row["gallery_size"]) for row in figures["runs"]} == {(16, 240)}
