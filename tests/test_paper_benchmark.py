"""`benchmark.py paper`: what it trains, that it goes on where it stopped, and what its tables hold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmir.archive.shards import list_shards
from cmir.errors import DataError
from jobs.benchmark import BENCHMARKS
from jobs.benchmarks import paper, paper_tables
from jobs.benchmarks.paper import PaperBenchmark, PlannedRun
from jobs.benchmarks.paper_tables import RunFigures
from jobs.entrypoint import run_choice
from tests.tiny_archives import chip_row, elsewhere, features_row, write_archive


@pytest.fixture
def archive(tmp_path: Path) -> str:
    rows = [chip_row(i, name) for i in range(12) for name in ("pan", "ms", "rgb")]  # type: ignore[arg-type]
    rows += [features_row(i) for i in range(12)]
    for split in ("train", "val", "test"):
        here = rows if split == "train" else elsewhere(rows)
        write_archive(tmp_path / "in", here, split=split)  # type: ignore[arg-type]
    return str(tmp_path / "in")


def row_of(planned: PlannedRun, direction: str, key: str, value: float = 0.5) -> RunFigures:
    return RunFigures(
        scenario=planned.scenario,
        objective=planned.settings.objective,
        dim=planned.settings.dim,
        without=planned.without,
        alpha=planned.alpha,
        direction=direction,
        num_queries=4,
        gallery_size=4,
        map=value,
        map_ci95=(value - 0.1, value + 0.1),
        mean_precision_at_k=value / 2,
        precision_at_10=value / 4,
        chance_map=0.25,
        ceiling_map=1.0,
        ceiling_mean_precision_at_k=0.6,
        ceiling_precision_at_10=0.8,
        baseline_map=None,
        validation_score=None,
        num_steps=1,
        seconds=1.0,
        key=key,
    )


class Fake:
    """Stands for training and measuring; `fails_at` is the run at which the process would have been killed."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.names: list[str] = []
        self.fails_at = fails_at

    def __call__(self, planned: PlannedRun, *rest: Any) -> Iterator[RunFigures]:
        if len(self.names) == self.fails_at:
            raise DataError("stopped here")
        self.names.append(planned.name)
        for direction in paper_tables.DIRECTIONS[planned.scenario]:
            yield row_of(planned, direction, rest[3])


def job(capsys: pytest.CaptureFixture[str], output: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    code = run_choice("benchmark", BENCHMARKS, ["paper", "--output", str(output), *flags])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]), printed.err


def test_every_published_run_is_planned_with_the_same_budget() -> None:
    config = PaperBenchmark(output="x.json", max_minutes=3, seed=5)
    planned = {name: list(paper.planned_runs(config, name)) for name in ("pan-ms", "image-speech")}
    published = [one.settings for one in planned["pan-ms"] if one.settings.objective == "cmirnet"]
    assert [settings.dim for settings in published] == [16, 32, 64] + [64] * 6
    assert [settings.dim for settings in (one.settings for one in planned["image-speech"])] == [
        32,
        64,
        128,
        128,
        128,
        128,
    ]
    ablated = {one.without for one in planned["pan-ms"] if one.without}
    assert ablated == {"latent", "classifier", "norm", "decoder", "regulariser", "orthogonality"}
    for one in planned["pan-ms"]:
        if one.without:
            assert getattr(one.settings.published_settings.weights, one.without) == 0.0
    alphas = [one.settings.published.weights.alpha for one in planned["image-speech"]]
    assert alphas == [1.0, 1.0, 1.0, 1.0, 0.0, 2.0]
    for runs in planned.values():
        (ours,) = [one.settings for one in runs if one.settings.objective == "contrastive"]
        assert ours.dim == max(one.settings.dim for one in runs)
        assert {(one.settings.max_minutes, one.settings.max_steps, one.settings.seed) for one in runs} == {(3, None, 5)}
    assert published[0].working_size_px["pan"] == 256
    assert published[0].grounds_per_batch == 64


def test_smaller_chips_are_for_the_published_network_only() -> None:
    config = PaperBenchmark(output="x.json", chip_size_px=96)
    first, *_, last = list(paper.planned_runs(config, "pan-ms"))
    assert first.settings.working_size_px == {"pan": 96, "ms": 64, "rgb": 96}
    ours = next(one for one in paper.planned_runs(config, "pan-ms") if one.settings.objective == "contrastive")
    assert ours.settings.working_size_px["pan"] == 128
    assert last.settings.working_size_px["pan"] == 96


def test_an_interrupted_benchmark_goes_on_where_it_was(
    archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, flags = tmp_path / "paper.json", ("--shards", archive, "--max-steps", "1")
    stopped = Fake(fails_at=5)
    monkeypatch.setattr(paper, "measure", stopped)
    assert job(capsys, output, *flags)[0] == 1
    assert len({row["key"] for row in json.loads(output.read_text())["figures"]["runs"]}) == 5
    resumed = Fake()
    monkeypatch.setattr(paper, "measure", resumed)
    code, line, told = job(capsys, output, *flags)
    assert code == 0, line
    assert not set(stopped.names) & set(resumed.names)
    assert len(stopped.names) + len(resumed.names) == 16
    assert line["pan_to_ms_cmirnet"] == line["speech_to_rgb_contrastive"] == 0.5
    assert "stand-in data" in told.replace("\n", " ")
    other = Fake()
    monkeypatch.setattr(paper, "measure", other)
    assert job(capsys, output, *flags, "--seed", "1", "--preset", "pan-ms")[0] == 0
    assert len(other.names) == 10, "other settings are other runs"
    write_archive(Path(archive), [chip_row(20, "pan")], part=1)
    assert job(capsys, output, *flags, "--seed", "1", "--preset", "pan-ms")[0] == 0
    assert len(other.names) == 20, "another content of the shards makes other runs"


def test_the_tables_hold_the_published_numbers_beside_ours(archive: str) -> None:
    config = PaperBenchmark(output="x.json")
    rows = [
        row_of(one, direction, "k", 0.7 if one.settings.objective == "contrastive" else 0.5)
        for name in ("pan-ms", "image-speech")
        for one in paper.planned_runs(config, name)  # type: ignore[arg-type]
        for direction in paper_tables.DIRECTIONS[name]  # type: ignore[index]
    ]
    tables = {name: [row.model_dump() for row in found] for name, found in paper_tables.tables_of(rows).items()}
    by_dim = tables["pan_ms_by_dimension_percent"]
    assert len(by_dim) == 4 * (3 + 1)
    assert by_dim[2]["paper_mean_p"] == 99.05
    assert (by_dim[2]["mean_p"], by_dim[2]["p10"], by_dim[2]["ap"], by_dim[2]["max_mean_p"]) == (25.0, 12.5, 50.0, 60.0)
    spoken = tables["image_speech_by_dimension_percent"]
    assert [row["objective"] for row in spoken[:4]] == ["cmirnet"] * 3 + ["contrastive"]
    found = [(row["direction"], row["dim"], row["paper_mean_p"], row["paper_p10"]) for row in spoken]
    assert ("rgb_to_speech", 128, 62.11, 64.81) in found
    assert ("speech_to_rgb", 128, 54.21, 56.0) in found
    left_out = {row["changed"]: row["paper_mean_p"] for row in tables["pan_to_ms_without_a_term_percent"]}
    assert left_out == {
        "nothing left out": 99.05, "latent": 6.0, "decoder": 12.4, "classifier": 94.18,
        "norm": None, "regulariser": None, "orthogonality": None,
    }  # fmt: skip
    alphas = tables["image_speech_by_alpha_percent"]
    by_alpha = {(row["direction"], row["changed"]): row["paper_mean_p"] for row in alphas}
    assert by_alpha["rgb_to_speech", "alpha 2"] == 32.09
    assert by_alpha["speech_to_rgb", "alpha 2"] == 33.64
    assert by_alpha["speech_to_rgb", "alpha 1"] == 54.21
    assert all(row["is_better"] for row in tables["pan_ms_cmirnet_and_contrastive_percent"])
    data = paper_tables.data_of("pan-ms", list_shards(archive, modalities=["pan", "ms"]))
    assert (data.num_train, data.num_val, data.num_test) == (12, 12, 12)
    assert "stand-in data (sensor tiny, 3 classes)" in data.note


@pytest.mark.parametrize(("scenario", "objective"), [("pan-ms", "cmirnet"), ("image-speech", "contrastive")])
def test_a_run_is_trained_and_measured_on_the_test_split(
    scenario: paper.Scenario, objective: str, archive: str, tmp_path: Path
) -> None:
    config = PaperBenchmark(output="x.json", max_steps=2, chip_size_px=16)
    planned = next(one for one in paper.planned_runs(config, scenario) if one.settings.objective == objective)
    protocol = paper.protocol_of(config, scenario, [archive])
    device = paper.resolve_device("cpu")
    rows = list(paper.measure(planned, protocol, [archive], device, "k", str(tmp_path / "work")))
    assert [row.direction for row in rows] == list(paper_tables.DIRECTIONS[scenario])
    for row in rows:
        assert row.num_steps == 2
        assert row.map is not None
        assert row.ceiling_map is not None
        assert 0 < row.map <= row.ceiling_map <= 1
        assert (row.baseline_map is None) == (scenario == "image-speech")
    assert rows[0].num_queries == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preset", "image-speech", "--shards", "{rgb}"), "preset image-speech needs other modalities"),
        (("--shards", "{rgb}"), "nothing to compare: seen rgb"),
        (("--shards", "{all}", "--gallery-split", "val", "--preset", "pan-ms"), "no items of pan-ms in split val"),
        (("--shards", "{all}", "--chip-size-px", "512"), "--chip-size-px does not fit"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb = write_archive(tmp_path / "rgb", [chip_row(i, "rgb") for i in range(3)])
    rows = [chip_row(i, name) for i in range(3) for name in ("pan", "ms")]  # type: ignore[arg-type]
    for split in ("train", "test"):
        write_archive(tmp_path / "all", rows, split=split)  # type: ignore[arg-type]
    given = [flag.format(rgb=rgb, all=tmp_path / "all") for flag in flags]
    code, line, _ = job(capsys, tmp_path / "out.json", *given)
    assert (code, line["status"]) == (2, "refused")
    assert message in line["error"]
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_it_runs_on_nothing_but_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "_NUM_SCENES", 40)
    code, line, told = job(capsys, tmp_path / "paper.json", "--max-steps", "2", "--chip-size-px", "16")
    assert code == 0, line
    figures = json.loads((tmp_path / "paper.json").read_text())["figures"]
    assert len(figures["runs"]) == 10 * 4 + 6 * 2
    assert "by alpha" in told
