"""jobs/evaluate.py from shards to report: splits, refusals, a bad item, resuming, two bundles side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import Media, ShardRow, Split, make_item_id
from cmir.archive.shards import ShardFileWriter
from cmir.archive.speech import pcm_media
from cmir.errors import DataError
from cmir.network.bundle import save_bundle
from cmir.network.embedder import Embedder
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.scenes import Digests, digests_of
from cmir.network.second_ear import Said
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics
from jobs import evaluate
from jobs.entrypoint import run_command

LABELS = ("field", "water", "ship")
BANDS = {"pan": ("pan",), "rgb": ("red", "green", "blue")}


def media_of(modality: str, i: int) -> Media:
    rng = np.random.default_rng(i)
    if modality == "speech":
        time_s = np.arange(8000 + 400 * i) / 16_000
        return pcm_media((0.4 * np.sin(2 * np.pi * (300 + 200 * (i % 3)) * time_s)).astype(np.float32))
    pixels = rng.integers(0, 80, (len(BANDS[modality]), 32, 32)) + 60 * (i % 3)
    return raw_media(modality, pixels.astype(np.uint8), bands=BANDS[modality], sensor="camera", gsd_m=0.5)  # type: ignore[arg-type]


def row_of(modality: str, i: int) -> ShardRow:
    labels = (LABELS[i % 3],) if modality != "speech" or i % 4 else LABELS[:2]
    return ShardRow(
        item_id=make_item_id("test", str(i), modality),
        media=media_of(modality, i),
        scene_id=f"scene-{i}",
        source_uri=f"{modality}-{i}",
        labels=labels,
        scene_class=None if modality == "speech" else f"class-{i % 3}",
        attributes=json.dumps({"voice": f"v{i % 2}", "engine": f"e{i % 3}"}) if modality == "speech" else None,
    )


def write(archive: Path, rows: Sequence[ShardRow], split: Split) -> None:
    for modality in {row.media.modality for row in rows}:
        writer = ShardFileWriter(str(archive / modality / split / "part-00000.parquet"), split)
        for row in rows:
            if row.media.modality == modality:
                writer.add(row)
        writer.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "archive"
    write(folder, [row_of(modality, i) for modality in ("pan", "rgb", "speech") for i in range(12)], "test")
    write(folder, [row_of(modality, i) for modality in ("pan", "rgb") for i in range(20, 29)], "val")
    return folder


def make_bundle(uri: str, modalities: tuple[str, ...], seed: int, train_scenes: Digests | None = None) -> str:
    torch.manual_seed(seed)
    running = RunningStatistics()
    for modality in ("pan", "rgb"):
        running.add_chip(modality, decode_chip(media_of(modality, 0)))  # type: ignore[arg-type]
    config = NetworkConfig(
        modalities=modalities,  # type: ignore[arg-type]
        dim=16,
        labels=LABELS,
        image=ImageTowerConfig(width=32, depths=(1,)),
        speech=SpeechTowerConfig(width=32),
    )
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 32, "rgb": 32}, max_speech_s=2.0)
    save_bundle(uri, SharedSpaceNet(config), preprocessing, metrics={}, training={}, train_scenes=train_scenes)
    return uri


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(str(tmp_path_factory.mktemp("evaluate") / "bundle"), ("pan", "rgb", "speech"), 0)


@pytest.fixture(scope="module")
def images_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(str(tmp_path_factory.mktemp("evaluate") / "images"), ("pan", "rgb"), 1)


@pytest.fixture
def job(bundle: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Job":
    return Job(bundle, archive, tmp_path / "out", capsys)


class Job:
    """Runs the command in this process; `line` is its last line on stdout."""

    def __init__(self, bundle: str, archive: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bundle, self.archive, self.output, self._capsys = bundle, archive, output, capsys
        self.line: dict[str, Any] = {}

    def __call__(self, *flags: str, bundle: str | None = None, archive: Path | None = None) -> int:
        given = ["--bundle", bundle or self.bundle, "--shards", str(archive or self.archive)]
        arguments = [*given, "--output", str(self.output), "--device", "cpu", *flags]
        code = run_command("evaluate", evaluate.EvaluateConfig, evaluate.run, arguments)
        self.line = json.loads(self._capsys.readouterr().out.strip().splitlines()[-1])
        return code

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.output / "report.json").read_text())
        return found


def test_every_direction_of_the_held_out_items(job: Job) -> None:
    assert job() == 0, job.line
    names = [f"{query}_to_{gallery}" for query in ("pan", "rgb", "speech") for gallery in ("pan", "rgb", "speech")]
    many = ["speech_many_to_pan", "speech_many_to_rgb", "pan_to_speech_many", "rgb_to_speech_many"]
    assert set(job.report["directions"]) == {*names, *many, "speech_many_to_speech_many"}
    assert job.report["directions"]["speech_to_rgb"]["num_queries"] == 9
    assert job.report["directions"]["speech_many_to_rgb"]["num_queries"] == 3
    assert job.report["directions"]["pan_to_rgb"]["baseline"]["map"] > 0
    assert sorted(job.report["directions"]["speech_to_rgb"]["per_voice"]) == ["v0", "v1"]
    assert sorted(job.report["directions"]["speech_to_rgb"]["per_engine"]) == ["e0", "e1", "e2"]
    assert job.report["space_id"] == Embedder.open(job.bundle, device="cpu").space_id
    assert job.line["num_items"] == 36
    assert job.line["map"]["pan_to_rgb"] == job.report["directions"]["pan_to_rgb"]["map"]
    page = (job.output / "report.html").read_text()
    assert page.count("data:image/webp") >= 12
    assert sorted(path.name for path in job.output.iterdir()) == ["failures.html", "report.html", "report.json"]


def test_another_gallery_split(job: Job, images_bundle: str) -> None:
    assert job("--gallery-split", "val,test", "--relevance", "class", bundle=images_bundle) == 0, job.line
    figures = job.report["directions"]["rgb_to_pan"]
    assert (figures["num_queries"], figures["gallery_size"]) == (12, 21)
    assert job.line["num_items"] == 42
    assert job.report["gallery_splits"] == ["val", "test"]


def test_ground_that_the_bundle_was_trained_on_is_told(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    met = make_bundle(str(tmp_path / "met"), ("pan", "rgb"), 1, digests_of(["scene-0", "scene-1", "scene-2", "else"]))
    assert job("--gallery-split", "val,test", bundle=met) == 0, job.line
    expected = {"num_queries": 12, "num_gallery": 21, "queries": 3 / 12, "gallery": 3 / 21}
    assert job.report["trained_on"] == {"pan": expected, "rgb": expected} == job.line["trained_on"]
    assert "pan 25.0% of queries, 14.3% of gallery, rgb 25.0%" in caplog.text
    assert "PAN 25.00% of 12 queries and 14.29% of 21 items" in (job.output / "report.html").read_text()
    unmet = make_bundle(str(tmp_path / "unmet"), ("pan", "rgb"), 1, digests_of(["else"]))
    assert job("--overwrite", bundle=unmet) == 0, job.line
    assert job.report["trained_on"]["rgb"]["queries"] == 0.0
    assert "trained_on" not in job.line
    assert "trained on scenes" not in (job.output / "report.html").read_text()


def test_a_bundle_that_does_not_tell_its_scenes_is_said_to(job: Job) -> None:
    assert job() == 0, job.line
    assert job.report["trained_on"] is None
    assert "does not tell on which ground" in (job.output / "report.html").read_text()


def test_two_bundles_side_by_side(job: Job, images_bundle: str) -> None:
    assert job("--compare", images_bundle) == 0, job.line
    compared = job.report["compare"]
    assert compared["space_id"] != job.report["space_id"]
    assert set(compared["directions"]) == {"pan_to_pan", "pan_to_rgb", "rgb_to_pan", "rgb_to_rgb"}
    assert "compared bundle" in (job.output / "report.html").read_text()


def test_a_bundle_that_can_answer_none_of_it_is_not_compared_with(job: Job, images_bundle: str, tmp_path: Path) -> None:
    speech_bundle = make_bundle(str(tmp_path / "speech"), ("speech",), 2)
    assert job("--compare", speech_bundle, bundle=images_bundle) == 2
    assert "nothing to compare" in job.line["error"]
    assert not job.output.with_name("out.partial").exists()


def test_an_output_that_exists_is_refused_or_replaced_and_missing_towers_are_named(
    job: Job, images_bundle: str
) -> None:
    assert job(bundle=images_bundle) == 0, job.line
    assert job.report["modalities_left_out"] == ["speech"]
    assert job(bundle=images_bundle) == 2
    assert "output exists" in job.line["error"]
    assert job("--overwrite", "--relevance", "class", bundle=images_bundle) == 0
    assert job.report["relevance"] == "class"


def test_a_bad_item_is_counted_and_named_but_stops_nothing(job: Job, tmp_path: Path) -> None:
    rows = [row_of("rgb", i) for i in range(8)]
    rows[3] = replace(rows[3], media=replace(rows[3].media, data=rows[3].media.data[:-5]))
    write(tmp_path / "bad", rows, "test")
    assert job(archive=tmp_path / "bad") == 0, job.line
    assert (job.line["num_items"], job.line["num_items_rejected"]) == (7, 1)
    assert job.report["num_items_rejected"] == 1
    assert (job.output / "_quarantine" / "rejected.parquet").exists()


def test_what_is_left_after_the_bad_items_must_be_judged_by(job: Job, tmp_path: Path) -> None:
    """Pairs in the shards, none among what can be read: that is a failure of the run, not of its flags."""
    rows = [replace(row_of(modality, i), pair_id=f"p{i}") for i in range(3) for modality in ("pan", "rgb")]
    rows = [
        replace(row, media=replace(row.media, data=row.media.data[:-5])) if row.media.modality == "pan" else row
        for row in rows
    ]
    write(tmp_path / "bad", rows, "test")
    assert job("--relevance", "pair", archive=tmp_path / "bad") == 1
    assert "3 items could not be embedded" in job.line["error"]


def test_no_right_answer_anywhere_is_said(job: Job, tmp_path: Path) -> None:
    write(tmp_path / "odd", [replace(row_of("rgb", i), labels=(f"only {i}",)) for i in range(4)], "test")
    assert job(archive=tmp_path / "odd") == 0
    assert job.report["directions"]["rgb_to_rgb"]["num_queries_unanswerable"] == 4
    assert "only 3" in job.report["unknown_labels"]


def test_nothing_readable_fails(job: Job, tmp_path: Path) -> None:
    rows = [replace(row_of("rgb", i), media=replace(media_of("rgb", i), data=b"x")) for i in range(3)]
    write(tmp_path / "bad", rows, "test")
    assert job(archive=tmp_path / "bad") == 1
    assert "no item could be embedded" in job.line["error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--relevance", "pair"), "--relevance labels"),
        (("--query-split", "train"), "no items in --query-split train"),
        (("--gallery-split", "tests"), "unknown split tests"),
        (("--bundle", "nowhere"), "nowhere"),
        (("--compare", "nowhere"), "nowhere"),
        (("--shards", "nowhere"), "nowhere"),
    ],
)
def test_refuses_before_work_begins(job: Job, flags: tuple[str, str], message: str) -> None:
    assert job(*flags) == 2
    assert message in job.line["error"]
    assert not job.output.exists()
    assert not job.output.with_name("out.partial").exists()


def test_resume_embeds_only_what_is_missing(job: Job, images_bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate.evaluate
    embedded: list[int] = []
    embed_each = Embedder.embed_each

    def count(self: Embedder, media: Sequence[Media]) -> list[np.ndarray | DataError]:
        embedded.append(len(media))
        return embed_each(self, media)

    def die(*given: object, **named: object) -> None:
        raise DataError("killed here")

    monkeypatch.setattr(Embedder, "embed_each", count)
    monkeypatch.setattr(evaluate, "evaluate", die)
    assert job(bundle=images_bundle) == 1
    assert sum(embedded) == 24
    monkeypatch.setattr(evaluate, "evaluate", whole)
    assert job(bundle=images_bundle) == 2
    assert "--resume" in job.line["error"]
    assert job("--resume", bundle=images_bundle) == 0, job.line
    assert sum(embedded) == 24
    assert job.report["directions"]["pan_to_rgb"]["num_queries"] == 12


class ToneEar:
    """Names every tone by its pitch, that of the first label wrongly, and counts how often it was asked."""

    name = "tones"

    def __init__(self) -> None:
        self.num_asked = 0

    def listen(self, waveform: np.ndarray) -> Said:
        self.num_asked += 1
        pitch_hz = np.abs(np.fft.rfft(waveform)).argmax() * 16_000 / len(waveform)
        place = round((pitch_hz - 300) / 200)
        label = LABELS[place or 1]
        return Said(label, (label,), 0.9 if place < 2 else 0.6)


def test_a_second_ear_is_reported_apart_and_listens_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ear = ToneEar()
    monkeypatch.setattr(evaluate, "open_ear_of", lambda *_, **__: ear)
    assert job() == 0
    alone = job.report
    monkeypatch.setattr(evaluate, "write_report", _fails)
    job.output = job.output.with_name("with-ear")
    assert job("--second-ear", "tones") == 1
    monkeypatch.undo()
    monkeypatch.setattr(evaluate, "open_ear_of", lambda *_, **__: ear)
    assert job("--resume", "--second-ear", "tones") == 0
    assert ear.num_asked == 12, "what a killed job heard is kept"
    naming = job.report["naming"]
    found = naming.pop("second_ear")
    assert alone["naming"].pop("second_ear") is None
    assert naming == alone["naming"]
    assert job.report["directions"] == alone["directions"]
    # 9 utterances of one label: i % 4 of 1, 2, 3; labels by i % 3
    assert (found["ear"], found["num_utterances"]) == ("tones", 9)
    assert (found["named_right"], found["named_wrong"], found["refused"]) == pytest.approx((3 / 9, 3 / 9, 3 / 9))
    assert found["guessed_right"] == pytest.approx(6 / 9)
    page = (job.output / "report.html").read_text()
    assert "A second ear, tones, was asked of the same 9 utterances" in page


def test_a_second_ear_that_cannot_be_opened_is_refused_before_work(job: Job, images_bundle: str) -> None:
    assert job("--second-ear", "no/such/folder") == 2
    assert "cannot open the second ear" in job.line["error"]
    assert job("--second-ear", "pocketsphinx", bundle=images_bundle) == 2
    assert "a second ear has nothing to listen for" in job.line["error"]


def _fails(*_: object, **__: object) -> None:
    raise DataError("disk full")
