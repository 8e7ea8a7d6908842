"""What the speech benchmark asks with, and the commands it runs."""

import csv
from pathlib import Path

import pytest

from cmir.archive.vocabulary import parse_labels
from cmir.errors import ConfigError
from jobs.benchmarks import speech
from jobs.benchmarks.speech import Recording, SpeechBenchmark, recordings, steps_of, with_other_words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "fsdd/3_anna_0.wav",
        "fsdd/7_otto_1.wav",
        "fsdd/readme.txt",
        "gcompris/de/street.ogg",
        "gcompris/fr/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    return tmp_path


def test_labels_and_speakers_are_told_by_file_names(folder: Path) -> None:
    found = recordings(speech._task("digits"), str(folder))
    assert [(one.label, one.speaker) for one in found] == [("3", "anna"), ("7", "otto")]
    assert [one.label for one in recordings(speech._task("german"), str(folder))] == ["road"], "one word for both"
    with pytest.raises(ConfigError, match="no recordings: seen none"):
        recordings(speech._task("french"), str(folder))


def test_words_of_other_tasks_name_nothing(folder: Path) -> None:
    found = {name: recordings(speech._task(name), str(folder)) for name in ("digits", "german")}
    asked = with_other_words("digits", found)
    assert [one.label for one in asked] == ["3", "7", ""]
    many = [Recording(f"{i}.wav", "tree", "") for i in range(200)]
    assert len(with_other_words("digits", {"digits": found["digits"], "german": many})) == 2 + 40


def test_every_task_can_be_spoken_and_trained(tmp_path: Path) -> None:
    for name in ("digits", "german", "french"):
        task = speech._task(name)
        speech._write_inputs(tmp_path, task, [Recording("a.wav", "water", "x")])
        assert parse_labels((tmp_path / "labels.txt").read_text()) == task.forms
        with (tmp_path / "manifest.csv").open() as file:
            assert list(csv.reader(file)) == [["path", "labels", "speaker"], ["a.wav", "water", "x"]]
    config = SpeechBenchmark(output=str(tmp_path / "out.json"), max_minutes=2, voices=8)
    steps = list(steps_of(config, speech._task("german"), tmp_path, has_recordings=True))
    assert [(step.job, step.name) for step in steps] == [
        ("shard", "voices"),
        ("train", "bundle"),
        ("evaluate", "by-voices"),
        ("shard", "people"),
        ("evaluate", "by-people"),
    ]
    assert "de" in steps[0].flags
    assert len(list(steps_of(config, speech._task("german"), tmp_path, has_recordings=False))) == 3


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task: seen dutch, expected digits, german, french"):
        speech._task("dutch")
