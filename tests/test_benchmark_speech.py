"""What the speech benchmark asks with, and the commands it runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cmir.archive.vocabulary import parse_labels
from cmir.errors import ConfigError
from cmir.network.second_ear import Said
from jobs.benchmarks import speech
from jobs.benchmarks.speech import Recording, SpeechBenchmark, recordings, steps_of, with_other_words
from tests.serve_doubles import tone, wav


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
        ("shard", "people"),
        ("evaluate", "by-people"),
    ]
    assert "de" in steps[0].flags
    assert "--split train" in " ".join(steps[0].flags), "people are asked: every voice is trained on"
    without = list(steps_of(config, speech._task("german"), tmp_path, has_recordings=False))
    assert [step.name for step in without] == ["voices", "bundle", "by-voices"]
    assert "--split" not in without[0].flags, "voices are asked: some are held out"


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task: seen dutch, expected digits, german, french"):
        speech._task("dutch")


class LengthEar:
    """Hears "3" in anything longer than 0.2 s."""

    name = "lengths"

    def listen(self, waveform: np.ndarray) -> Said:
        return Said("three", ("3",), 0.9 if len(waveform) > 3_200 else 0.1)


def test_the_yardstick_is_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = {"fsdd/3_anna_0.wav": 0.3, "fsdd/3_otto_0.wav": 0.1, "fsdd/7_otto_1.wav": 0.1, "gcompris/de/boat.ogg": 0.1}
    for name, seconds in sounds.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(wav(tone(1, seconds)))
    monkeypatch.setattr(speech, "open_ear", lambda *_: LengthEar())
    monkeypatch.setattr(speech, "run_step", lambda step: pytest.fail(f"{step.job} ran"))
    config = SpeechBenchmark(
        output=str(tmp_path / "out.json"),
        input=str(tmp_path),
        tasks="digits,german",
        second_ear="pocketsphinx",
        skip_training=True,
    )
    details = speech.run(config).details
    assert details["digits by people, second ear"] == pytest.approx(2 / 3, abs=1e-4)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert list(figures) == ["second ear"]
    [found] = figures["second ear"]  # German words are no words of pocketsphinx
    assert (found["num_words"], found["num_utterances"]) == (10, 3)
    assert (found["named_right"], found["named_wrong"], found["refused"]) == pytest.approx((1 / 3, 0, 2 / 3))
    assert found["unknown_refused"] == 1.0


def test_a_yardstick_without_recordings_or_english_is_refused(tmp_path: Path) -> None:
    output = str(tmp_path / "out.json")
    with pytest.raises(ValidationError, match="give --second-ear"):
        SpeechBenchmark(output=output, input=str(tmp_path), skip_training=True)
    with pytest.raises(ValidationError, match="give --input"):
        SpeechBenchmark(output=output, second_ear="pocketsphinx")
    with pytest.raises(ConfigError, match="the second ear knows English alone: seen pocketsphinx for german"):
        speech._open_ears("pocketsphinx", {"german": speech._task("german")})
