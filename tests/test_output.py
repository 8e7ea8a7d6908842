import subprocess
import sys
from pathlib import Path

import pytest

from cmir.archive import storage
from cmir.archive.output import Output
from cmir.errors import ConfigError


def _fill(output: Output, content: bytes) -> None:
    storage.put_atomic(storage.join(output.working_uri, "result"), content)


def test_the_place_appears_only_when_whole(tmp_path: Path) -> None:
    output = Output.claim(str(tmp_path / "out"), {"a": 1})
    _fill(output, b"1")
    assert not (tmp_path / "out").exists()
    output.finish()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "result"]


def test_what_exists_is_refused_complete_or_partial(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    _fill(Output.claim(uri, {}), b"half")  # its job ends here, as one that is killed does
    with pytest.raises(ConfigError, match="a partial output exists"):
        Output.claim(uri, {})
    output = Output.claim(uri, {}, resume=True)
    _fill(output, b"1")
    output.finish()
    for resume in (False, True):
        with pytest.raises(ConfigError, match="output exists"):
            Output.claim(uri, {}, resume=resume)


def test_resume_goes_on_with_its_own_and_starts_afresh_where_there_is_none(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    _fill(Output.claim(uri, {"seed": 1}, resume=True), b"half")
    resumed = Output.claim(uri, {"seed": 1}, resume=True)
    assert storage.read_bytes(storage.join(resumed.working_uri, "result")) == b"half"
    del resumed  # its job ends
    with pytest.raises(ConfigError, match="resumed with other settings: seen seed=2, expected seed=1"):
        Output.claim(uri, {"seed": 2}, resume=True)


def test_overwrite_keeps_the_old_until_the_new_is_whole(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    first = Output.claim(uri, {})
    _fill(first, b"old")
    storage.put_atomic(storage.join(first.working_uri, "extra"), b"old")
    first.finish()
    second = Output.claim(uri, {}, overwrite=True)
    assert storage.read_bytes(storage.join(uri, "result")) == b"old"
    _fill(second, b"new")
    second.finish()
    assert storage.read_bytes(storage.join(uri, "result")) == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "result"]


def test_both_flags_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Output.claim(str(tmp_path / "out"), {}, resume=True, overwrite=True)


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_job_that_lives_is_not_taken_over_from(tmp_path: Path, flags: dict[str, bool]) -> None:
    uri = str(tmp_path / "out")
    living = Output.claim(uri, {})
    _fill(living, b"its own")
    with pytest.raises(ConfigError, match="another job is at work on this output"):
        Output.claim(uri, {}, **flags)
    living.finish()
    assert storage.read_bytes(storage.join(uri, "result")) == b"its own"


def test_a_lock_is_gone_with_its_process(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")
    script = "import sys, time; from cmir.archive.output import Output; held = Output.claim(sys.argv[1], {}); "
    script += "print('claimed', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, uri], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigError, match="another job"):
            Output.claim(uri, {}, resume=True)
        process.kill()
        process.wait()
        Output.claim(uri, {}, resume=True).finish()
    assert (tmp_path / "out").is_dir()
