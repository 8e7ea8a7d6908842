"""benchmark.py scaling at tiny sizes: its archive is what it says, its steps are there, its exponents are right."""

import json
from pathlib import Path

import pytest

from cmir.archive import shards
from cmir.gallery.table import Gallery
from jobs.benchmark import BENCHMARKS
from jobs.benchmarks import scaling, scaling_steps
from jobs.benchmarks.scaling import StepFigures, exponent_of, fit
from jobs.benchmarks.scaling_steps import Given
from jobs.entrypoint import run_choice


def given(folder: Path, num_pieces: int) -> Given:
    return Given(num_pieces, rows_per_piece=2, pieces_per_commit=100, gallery_uri=str(folder / "gallery"))


def figures(num_pieces: int, step: str, seconds: float, peak_mb: float = 10.0) -> StepFigures:
    return StepFigures(num_pieces=num_pieces, step=step, seconds=seconds, cpu_s=2 * seconds, peak_mb=peak_mb)


def test_exponent_is_the_slope_of_the_logarithms() -> None:
    sizes = [10_000, 100_000, 1_000_000]
    assert exponent_of(sizes, [2.0, 20.0, 200.0]) == pytest.approx(1)
    assert exponent_of(sizes, [3e-7 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent_of(sizes, [0.1, 0.1, 0.1]) == pytest.approx(0)
    assert exponent_of([10, 1000], [1.0, 10.0]) == pytest.approx(0.5)


def test_every_step_of_several_sizes_is_fitted_and_small_memory_is_not() -> None:
    found = [figures(10, "plan", 1), figures(1000, "plan", 100), figures(10, "commit", 1), figures(1000, "commit", 10)]
    plan, commit = fit([*found[:2], *(one.model_copy(update={"peak_mb": 0.2}) for one in found[2:])])
    assert (plan.step, plan.of_seconds, plan.of_cpu_s) == ("plan", pytest.approx(1), pytest.approx(1))
    assert plan.of_peak_mb == pytest.approx(0)
    assert (commit.of_seconds, commit.of_peak_mb) == (pytest.approx(0.5), None)
    assert fit(found[:1]) == []


def test_the_archive_is_of_so_many_pieces_and_is_committed_once(tmp_path: Path) -> None:
    files = scaling_steps.made_up_shards(250)
    assert [len(file.row_groups) for file in (files[0], files[-1])] == [4, 2]
    names = [piece.piece_id for file in files for piece in shards.pieces(file)]
    assert len(set(names)) == len(names) == 250
    filled = scaling_steps.fill(given(tmp_path, 250))
    assert filled.num_rows == 2 * (250 - 2), "every hundredth piece has no row"
    space = Gallery.open(str(tmp_path / "gallery")).space("s0000000000000000")
    assert space.committed_pieces() == set(names)
    assert [step.name for step in filled.steps] == ["all commits", "first commits", "last commits"]
    [resumed] = scaling_steps.plan(given(tmp_path, 250)).steps
    assert resumed.name == "resume"
    worked = scaling_steps.at_work(given(tmp_path, 250))
    assert [step.name for step in worked.steps] == ["read what is committed", "commit", "compact", "commit, compacted"]
    assert len(space.committed_pieces()) == 250 + 998, "ten commits more, from the next shard on"
    assert min(step.seconds for step in (*filled.steps, resumed, *worked.steps)) > 0


def test_shard_files_are_listed_as_what_they_are(tmp_path: Path) -> None:
    half, whole = scaling.measure_listing(str(tmp_path / "archive"), 4)
    assert (half.num_files, whole.num_files) == (2, 4)
    assert whole.ms_per_file == pytest.approx(1000 * whole.seconds / 4)
    assert {file.row_groups for file in shards.list_shards(str(tmp_path / "archive"))} == {(1, 1, 1, 1)}


def test_sizes_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sizes in ("many", "0,10", ""):
        flags = ["scaling", "--output", str(tmp_path / "figures.json"), "--pieces", sizes]
        assert run_choice("benchmark", BENCHMARKS, flags) == 2
        assert "numbers as a,b,c" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_writes_steps_places_and_exponents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["scaling", "--output", str(tmp_path / "figures.json"), "--pieces", "100,300", "--pieces-per-commit", "50"]
    assert run_choice("benchmark", BENCHMARKS, [*flags, "--shard-files", "4", "--chips", "3"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [one["dtype"] for one in found["feeding"]] == ["uint8", "uint16"]
    by_step = {(one["num_pieces"], one["step"]): one for one in found["steps"]}
    assert by_step[(300, "all commits")]["seconds"] > by_step[(300, "first commits")]["seconds"]
    assert [one["num_rows"] for one in found["galleries"]] == [99, 297]
    assert {one["place"] for one in found["places"]} >= {"thumbnails.lance", "_ledger.lance", "_shards.lance"}
    told = {one["step"]: one["of_cpu_s"] for one in found["exponents"]}
    assert line["exponent_plan"] == pytest.approx(told["plan"], abs=1e-4)
