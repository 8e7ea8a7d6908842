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
    output = Output.claim(uri, {})
    with pytest.raises(ConfigError, match="a partial output exists"):
        Output.claim(uri, {})
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
