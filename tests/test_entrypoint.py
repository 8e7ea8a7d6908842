import json
import signal
from pathlib import Path

import pytest
from pydantic import Field

from cmir.errors import DataError
from jobs import entrypoint
from jobs.entrypoint import JobConfig, JobResult, run_command


class _Config(JobConfig):
    """A job for tests."""

    shards: tuple[str, ...] = Field(min_length=1, description="Shards.")
    dim: int = Field(128, gt=0, description="Components.")
    resume: bool = Field(False, description="Go on.")


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str], run=lambda config: JobResult({})) -> tuple:  # type: ignore[no-untyped-def]
    code = run_command("train", _Config, run, arguments)
    captured = capsys.readouterr()
    return code, json.loads(captured.out.strip().splitlines()[-1]), captured.err


def test_flags_win_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text("shards: [a, b]\ndim: 1\nresume: true\n")
    seen: list[_Config] = []

    def run(config: _Config) -> JobResult:
        seen.append(config)
        return JobResult({"bundle": "here"}, {"num_rows_committed": 4})

    code, line, _ = _run(["--config", str(settings)], capsys, run)
    monkeypatch.setenv("CMIR_TRAIN_DIM", "2")
    _run(["--config", str(settings)], capsys, run)
    _run(["--config", str(settings), "--dim", "3", "--shards", "c"], capsys, run)
    assert [(config.shards, config.dim, config.resume) for config in seen] == [
        (("a", "b"), 1, True),
        (("a", "b"), 2, True),
        (("c",), 3, True),
    ]
    assert code == 0
    assert {"job", "status", "seconds", "outputs", "num_rows_committed", "rows_per_s"} <= line.keys()
    assert (line["job"], line["status"], line["outputs"]) == ("train", "ok", {"bundle": "here"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "a"], "unknown flag --shard. To mend it: did you mean --shards?"),
        (["--shards", "a", "--dim", "no"], "--dim does not fit"),
        (["--shards", "a", "--dim", "0"], "greater than 0"),
        ([], "--shards is missing"),
        (["--shards", "a", "b"], "given several times"),
        (["--config", "gone.yaml"], "--config cannot be read"),
    ],
)
def test_wrong_flags_are_refused_with_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line, errors = _run(arguments, capsys)
    assert (code, line["status"]) == (2, "refused")
    assert message in line["error"]
    assert message in errors


def test_unknown_keys_of_file_and_environment_name_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text("shard: [a]\n")
    assert "did you mean shards?" in _run(["--config", str(settings)], capsys)[1]["error"]
    monkeypatch.setenv("CMIR_TRAIN_DIMS", "2")
    code, line, _ = _run(["--shards", "a"], capsys)
    assert code == 2
    assert "did you mean CMIR_TRAIN_DIM?" in line["error"]


def test_failure_before_work_is_2_and_during_it_1(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(config: _Config) -> JobResult:
        with entrypoint.before_work():
            raise DataError("input not found", where="x")

    def fail(config: _Config) -> JobResult:
        raise DataError("too many rows rejected")

    def break_down(config: _Config) -> JobResult:
        raise ZeroDivisionError("oops")

    outcomes = [_run(["--shards", "a"], capsys, run)[:2] for run in (refuse, fail, break_down)]
    assert [code for code, _ in outcomes] == [2, 1, 1]
    assert [line["status"] for _, line in outcomes] == ["refused", "failed", "failed"]
    assert outcomes[0][1]["error"] == "input not found (x)"


def test_our_own_error_is_told_whatever_wrapped_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_on_a_worker(config: _Config) -> JobResult:
        try:
            raise DataError("bundle file is broken", where="b/model.safetensors")
        except DataError as error:
            raise RuntimeError("worker died") from error

    code, line, _ = _run(["--shards", "a"], capsys, fail_on_a_worker)
    assert (code, line["error"]) == (1, "bundle file is broken (b/model.safetensors)")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "/x"), "[Errno 13] Permission denied: '/x'. To mend it: allow this"),
        (OSError("LanceError(IO): No space left on device (os error 28), /b/io.rs:9:1"), "28). To mend it: make room"),
        (OSError("something else"), "something else"),
    ],
)  # fmt: skip
def test_errors_of_the_system_say_what_to_do(error: OSError, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: _Config) -> JobResult:
        raise error

    code, line, _ = _run(["--shards", "a"], capsys, fail)
    assert code == 1
    assert told in line["error"]
    assert ".rs" not in line["error"]


def test_a_job_that_is_told_to_end_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def wait(config: _Config) -> JobResult:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    code, line, _ = _run(["--shards", "a"], capsys, wait)
    assert (code, line["status"]) == (1, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before


def test_reject_ratio_is_of_all_rows() -> None:
    result = JobResult({"gallery": "g"}, {"num_rows_quarantined": 11})
    entrypoint.check_reject_ratio(10, 100, 0.1, "q", result)
    with pytest.raises(entrypoint.TooManyRejectedError, match=r"seen 11 of 100 \(11.0%\), expected at most 10.0%"):
        entrypoint.check_reject_ratio(11, 100, 0.1, "q", result)


def test_a_failed_job_tells_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    def reject(config: _Config) -> JobResult:
        counts: dict[str, int | float] = {"num_rows_committed": 5, "num_rows_quarantined": 5}
        entrypoint.check_reject_ratio(5, 10, 0.1, "q", JobResult({"gallery": "g"}, counts))
        return JobResult({})

    code, line, _ = _run(["--shards", "a"], capsys, reject)
    assert (code, line["status"]) == (1, "failed")
    assert (line["num_rows_committed"], line["outputs"]) == (5, {"gallery": "g"})


def test_relative_places_are_refused_in_a_submitted_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, line, _ = _run(["--shards", "relative/folder"], capsys)
    assert code == 2
    assert "relative URI in a submitted job" in line["error"]
    assert _run(["--shards", "/absolute", "--shards", "s3://bucket/x"], capsys)[0] == 0
