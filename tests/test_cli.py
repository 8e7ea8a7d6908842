"""The console script, as a person types it, on a small published gallery and archive."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from cmir.archive.speech import pcm_media
from cmir.archive.voices import Voice, speak
from cmir.cli import app
from cmir.errors import CmirError, GalleryError, SpaceMismatchError
from cmir.live_queries import image_file, wav_file
from cmir.loopback import free_port
from cmir.network.embedder import Embedder
from cmir.network.hearing import Heard
from serve.__main__ import serve_here
from tests import serve_real, tiny_archives

run = CliRunner()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return serve_real.published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cmir.archive.imagery import decode_chip

    folder = tmp_path_factory.mktemp("files")
    (folder / "chip.png").write_bytes(image_file(decode_chip(serve_real.media("rgb", 2))))
    (folder / "chip.tif").write_bytes(image_file(decode_chip(serve_real.media("ms", 2))))
    (folder / "word.wav").write_bytes(wav_file(serve_real.media("speech", 2)))
    return folder


def _json(*arguments: str) -> object:
    result = run.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "flag", "found"),
    [("chip.png", "--image", "rgb-2"), ("chip.tif", "--image", "ms-2"), ("word.wav", "--speech", "speech-2")],
)
def test_a_file_finds_itself_first(published: tuple[str, str], files: Path, name: str, flag: str, found: str) -> None:
    hits = _json("search", flag, str(files / name), "--gallery", published[1], "-k", "3", "--json")
    assert isinstance(hits, list)
    assert len(hits) == 3
    assert hits[0]["item_id"] == found
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_a_recording_without_a_known_label_is_refused(
    published: tuple[str, str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "hear", lambda self, vector: Heard((("water", 0.12),), is_known=False))
    result = run.invoke(app, ["search", "--speech", str(files / "word.wav"), "--gallery", published[1]])
    assert result.exit_code != 0
    assert "no known label heard: seen nearest water, 0.12" in str(result.exception) + result.output


def test_a_second_ear_hears_what_an_untrained_tower_does_not(published: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    word = tmp_path / "word.wav"
    word.write_bytes(wav_file(pcm_media(speak(Voice("espeak-ng", "en-us", "f5"), "water"))))
    asked = ["search", "--gallery", published[1], "--json"]
    spoken = run.invoke(app, [*asked, "--speech", str(word), "--second-ear", "pocketsphinx"], catch_exceptions=False)
    by_label = _json(*asked, "--label", "water")
    assert isinstance(by_label, list)
    assert [hit["item_id"] for hit in json.loads(spoken.stdout)] == [hit["item_id"] for hit in by_label]
    assert re.fullmatch(r"heard: water \(second ear, 0\.[789]\d\)", spoken.stderr.strip().splitlines()[-1])
    with_service = run.invoke(
        app, ["search", "--speech", str(word), "--second-ear", "pocketsphinx", "--url", "http://x"]
    )
    assert "a service has its own second ear" in str(with_service.exception)


def test_labels_and_items_ask_too_and_targets_hold(published: tuple[str, str]) -> None:
    by_item = _json("search", "--item", "pan-1", "--target", "ms,rgb", "--gallery", published[1], "--json")
    assert isinstance(by_item, list)
    assert {hit["modality"] for hit in by_item} == {"ms", "rgb"}
    result = run.invoke(app, ["search", "--label", "water", "--gallery", published[1]])
    assert result.exit_code == 0
    assert "score" in result.stdout


def test_what_cannot_be_asked_is_refused(published: tuple[str, str], tmp_path: Path) -> None:
    asked = ["search", "--gallery", published[1]]
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    for arguments, message in (
        ([*asked, "--label", "moon"], "no such label"),
        ([*asked, "--label", "water", "--item", "pan-1"], "ask by one thing"),
        ([*asked, "--image", str(tmp_path / "chip.xyz")], "input not found"),
        ([*asked, "--image", str(empty)], str(empty)),
        (
            [*asked, "--image", "word.wav"],
            "a sound file is no image",
        ),
        (["search", "--label", "water", "--gallery", str(tmp_path)], "gallery not published"),
    ):
        result = run.invoke(app, arguments)
        assert isinstance(result.exception, CmirError)
        assert message in str(result.exception)


def test_a_refusal_is_one_line_and_exit_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cmir.cli", "search", "--label", "water", "--gallery", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cmir: gallery not published")
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_fails_when_work_had_begun_is_one_line_and_exit_1(published: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder must be")
    output = str(tmp_path / "file" / "items.parquet")
    command = [sys.executable, "-m", "cmir.cli", "export", "--gallery", published[1], "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cmir: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_bundle_that_was_replaced_is_not_asked(published: tuple[str, str], tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    shutil.copytree(published[1], gallery)
    pointer = json.loads((gallery / "published.json").read_text())
    serve_real.make_bundle(str(tmp_path / "other"), seed=9)
    (gallery / "published.json").write_text(json.dumps({**pointer, "bundle_uri": str(tmp_path / "other")}))
    result = run.invoke(app, ["search", "--label", "water", "--gallery", str(gallery)])
    assert isinstance(result.exception, SpaceMismatchError)


def test_embed_gives_the_vector_of_the_space(published: tuple[str, str], files: Path) -> None:
    told = _json("embed", str(files / "chip.png"), "--bundle", published[0])
    assert isinstance(told, dict)
    assert len(told["vector"]) == 16
    assert sum(value * value for value in told["vector"]) == pytest.approx(1.0, abs=1e-5)
    assert told["space_id"].startswith("s")


def test_info_tells_bundles_galleries_and_archives_apart(published: tuple[str, str], tmp_path: Path) -> None:
    archive = tiny_archives.write_archive(tmp_path / "archive", [tiny_archives.chip_row(i, "rgb") for i in range(4)])
    kinds = {uri: _json("info", uri, "--json") for uri in (*published, archive)}
    assert [kinds[uri]["kind"] for uri in (*published, archive)] == ["bundle", "gallery", "archive"]  # type: ignore[index]
    assert kinds[archive]["rows"] == {"rgb/train": 4}  # type: ignore[index]
    assert kinds[published[1]]["published"]["space_id"] == kinds[published[0]]["space_id"]  # type: ignore[index]


def test_validate_counts_what_cannot_be_read(tmp_path: Path) -> None:
    archive = tiny_archives.write_archive(tmp_path / "archive", [tiny_archives.chip_row(i, "rgb") for i in range(4)])
    assert run.invoke(app, ["validate", archive]).exit_code == 0
    tiny_archives.write_archive(tmp_path / "archive", [tiny_archives.chip_row(1, "rgb")], part=1)
    (tmp_path / "archive" / "rgb" / "train" / "part-00002.parquet").write_bytes(b"PAR1")
    result = run.invoke(app, ["validate", archive])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"num_rows": 5, "num_bad": 2, "num_shards": 3}


def test_export_writes_vectors_and_metadata(published: tuple[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out" / "items.parquet"
    assert _json("export", "--gallery", published[1], "--output", str(output)) == {
        "output": str(output),
        "num_rows": 24,
    }
    table = pq.read_table(output)
    assert table.num_rows == 24
    assert {"item_id", "vector", "labels"} <= set(table.column_names)
    assert json.loads(table.schema.metadata[b"geo"])["primary_column"] in table.column_names
    before = output.read_bytes()
    result = run.invoke(app, ["export", "--gallery", published[1], "--output", str(output)])
    assert "output exists" in str(result.exception)
    assert output.read_bytes() == before


def test_doctor_finds_what_the_project_needs() -> None:
    result = run.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "log-mel of one second" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_becomes_the_service_so_that_signals_reach_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "__init__.py").touch()
    (tmp_path / "serve" / "__main__.py").write_text(  # stands before the real one, in the folder it is run from
        "import os, signal, sys\n"
        "both = {signal.SIGTERM, signal.SIGINT}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, both)\n"
        "print(os.getpid(), *sys.argv[1:], flush=True)\n"
        "print(signal.sigwait(both).name, flush=True)\n"
        "sys.exit(7)\n"
    )
    command = [sys.executable, "-m", "cmir.cli", "serve", "--gallery", "g", "--port", "8123", "--bundle", "b"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().split()
        process.send_signal(number)
        rest = process.communicate(timeout=20)[0]
    flags = ["--gallery", "g", "--composition", "fused", "--host", "127.0.0.1", "--port", "8123", "--bundle", "b"]
    assert first == [str(process.pid), *flags]
    assert (rest.strip(), process.returncode) == (number.name, 7)


def test_a_service_without_keys_is_reached_from_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CMIR_API_KEYS_FILE", raising=False)
    command = [sys.executable, "-m", "cmir.cli", "serve", "--gallery", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "whoever reaches this address could ask" in done.stderr
    assert "--api-keys-file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "flags", [["--open-to-all"], ["--api-keys-file", "keys.txt"], ["--host", "localhost"], ["--host", "::1"]]
)
def test_a_service_with_keys_or_said_to_be_open_listens_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    arguments = ["serve", "--gallery", str(tmp_path), "--host", "0.0.0.0", *flags]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(GalleryError, match="not published"):  # the next thing that is looked at
        typer.run(serve_here)


@pytest.mark.slow
def test_serve_that_is_told_to_end_leaves_no_process(published: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "cmir.cli", "serve", "--gallery", published[1], "--port", str(free_port())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("http://") for line in process.stdout)
        process.terminate()
        assert process.wait(40) == 0
    deadline = time.monotonic() + 10
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline, "a process of the service is left"
        time.sleep(0.1)


def group_is_alive(group: int) -> bool:
    """Whether any process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
