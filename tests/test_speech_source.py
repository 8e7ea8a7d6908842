"""Source speech: recordings in label folders or named by a manifest become rows; bad ones name their file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cmir.archive.schema import ShardRow, make_item_id
from cmir.archive.sources.speech import SpeechSource
from cmir.archive.speech import decode_speech
from cmir.errors import DataError


def record(path: Path, frequency_hz: float = 300.0, rate_hz: int = 8_000) -> Path:
    """A short tone as an audio file of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(rate_hz // 2) / rate_hz), rate_hz)
    return path


def rows_of(source: SpeechSource) -> list[ShardRow]:
    return [row for item in source.items() for row in source.rows(item)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """<label>/<speaker>_<n>.*: two labels, two speakers, several formats."""
    root = tmp_path / "words"
    for name in ("seven/jackson_0.wav", "seven/anna_maria_1.flac", "tree/jackson_3.ogg", "tree/jackson_4.mp3"):
        record(root / name)
    (root / "README.txt").write_text("no audio")
    return root


def test_folders_name_the_label_and_files_the_speaker(folder: Path) -> None:
    rows = {row.source_uri.removeprefix(f"{folder}/"): row for row in rows_of(SpeechSource(str(folder)))}
    assert {name: row.labels for name, row in rows.items()} == {
        "seven/anna_maria_1.flac": ("seven",),
        "seven/jackson_0.wav": ("seven",),
        "tree/jackson_3.ogg": ("tree",),
        "tree/jackson_4.mp3": ("tree",),
    }
    speakers = {name: json.loads(row.attributes or "")["speaker"] for name, row in rows.items()}
    assert speakers["seven/anna_maria_1.flac"] == "anna_maria"
    assert rows["seven/jackson_0.wav"].scene_id == rows["tree/jackson_3.ogg"].scene_id
    assert rows["seven/jackson_0.wav"].scene_id != rows["seven/anna_maria_1.flac"].scene_id
    assert [row.media.encoding for row in rows.values()] == ["flac", "wav", "ogg", "mp3"]
    assert all(len(decode_speech(row.media)) > 7_000 for row in rows.values())


def test_ids_do_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "deep")
    here, there = rows_of(SpeechSource(str(folder))), rows_of(SpeechSource(f"{moved}/"))
    assert [row.item_id for row in here] == [row.item_id for row in there]
    assert [row.scene_id for row in here] == [row.scene_id for row in there]
    assert make_item_id("speech", "seven/jackson_0.wav", "speech") in {row.item_id for row in here}


def test_a_manifest_names_paths_labels_and_speakers(tmp_path: Path) -> None:
    record(tmp_path / "takes" / "a.wav")
    away = record(tmp_path.parent / f"{tmp_path.name}-away" / "b.wav")
    text = f"\ufeffspeaker, path ,labels\nann,takes/a.wav,airplane; grass\n\n,{away},water\n"
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    for uri in (tmp_path, tmp_path / "manifest.csv"):
        first, second = rows_of(SpeechSource(str(uri)))
        assert first.labels == ("airplane", "grass")
        assert json.loads(first.attributes or "") == {"speaker": "ann"}
        assert first.item_id == make_item_id("speech", "takes/a.wav", "speech")
        assert second.item_id == make_item_id("speech", "b.wav", "speech")
        assert (second.labels, second.attributes) == (("water",), None)
        assert first.scene_id != second.scene_id


def test_absolute_paths_of_one_name_keep_apart(tmp_path: Path) -> None:
    lines = [f"{record(tmp_path / language / 'sand.ogg')},sand,{language}" for language in ("de", "fr")]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,labels,speaker", *lines]))
    assert len({row.item_id for row in rows_of(SpeechSource(str(tmp_path)))}) == 2


def test_a_bad_recording_is_refused_by_itself(folder: Path) -> None:
    whole = folder / "seven" / "jackson_0.wav"
    (folder / "tree" / "kim_0.wav").write_bytes(whole.read_bytes()[:500])
    (folder / "tree" / "kim_1.wav").write_bytes(b"")
    source = SpeechSource(str(folder))
    reasons = {}
    for item in source.items():
        if "kim" in item.key:
            with pytest.raises(DataError, match=r"kim_[01]\.wav") as caught:
                list(source.rows(item))
            reasons[item.key] = str(caught.value)
        else:
            assert len(list(source.rows(item))) == 1
    assert "cut short" in reasons["tree/kim_0.wav"]
    assert "0 bytes" in reasons["tree/kim_1.wav"]


def test_a_missing_recording_is_refused_by_itself(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,labels\ngone.wav,sea\n")
    source = SpeechSource(str(tmp_path))
    with pytest.raises(DataError, match=r"input not found.*gone\.wav"):
        list(source.rows(next(source.items())))


def test_an_unreadable_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,labels\na.wav,sea\n")
    with pytest.raises(DataError, match="lacks columns: seen file, labels, expected path, labels"):
        list(SpeechSource(str(tmp_path)).items())


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input not found"):
        list(SpeechSource(str(tmp_path / "none")).items())
    record(tmp_path / "loose.wav")
    with pytest.raises(DataError, match="no recordings found"):
        list(SpeechSource(str(tmp_path)).items())
