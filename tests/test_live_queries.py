from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.schema import Media
from cmir.archive.speech import decode_speech
from cmir.client import Answer, ClientHeard, ClientHit
from cmir.errors import DataError
from cmir.evaluation.measurement import evaluate
from cmir.live_queries import (
    DIRECTIONS,
    LiveAnswer,
    LiveQuery,
    choose_queries,
    hits_table,
    image_file,
    wav_file,
    write_live_report,
)
from tests import serve_real, tiny_archives
from tests.made_items import Made, items_of


def _hit(item_id: str, modality: str, labels: tuple[str, ...]) -> ClientHit:
    return ClientHit(item_id, 1, 0.5, modality, labels, None, None, None, None, "somewhere", None)


def _answered(modality: str, labels: tuple[str, ...], hits: list[ClientHit]) -> LiveAnswer:
    query = LiveQuery(serve_real.media(modality, 1), "rgb", labels, "q")
    return LiveAnswer(query, Answer(tuple(hits), "s0", 1, {"total": 3.0}, "r"), {})


def test_relevance_is_the_evaluations() -> None:
    found = [_hit("a", "rgb", ("sea", "ship")), _hit("b", "rgb", ("sea",)), _hit("c", "rgb", ())]
    spoken = _answered("speech", ("sea", "ship"), found)
    assert [spoken.is_relevant(hit) for hit in found] == [True, False, False]
    seen = _answered("pan", ("ship", "dock"), found)
    assert [seen.is_relevant(hit) for hit in found] == [True, False, False]
    words = [_hit("d", "speech", ("ship",)), _hit("e", "speech", ("ship", "sea")), _hit("f", "speech", ())]
    assert [seen.is_relevant(hit) for hit in words] == [True, False, False]


@pytest.mark.parametrize("modality", ["pan", "ms", "rgb"])
def test_a_chip_comes_back_from_its_file(modality: str) -> None:
    chip = decode_chip(serve_real.media(modality, 3))
    data = image_file(chip)
    encoding = "png" if data[:4] == b"\x89PNG" else "tiff"
    again = decode_chip(Media(modality, data, encoding))  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.pixels, chip.pixels)
    assert again.bands == chip.bands


def test_sixteen_bits_survive_the_file() -> None:
    pixels = np.arange(16 * 16, dtype=np.uint16).reshape(1, 16, 16) * 7
    again = decode_chip(Media("pan", image_file(Chip(pixels, ("pan",), (None,), None, None)), "tiff"))
    np.testing.assert_array_equal(again.pixels, pixels)


def test_an_utterance_comes_back_from_its_file() -> None:
    media = serve_real.media("speech", 3)
    again = decode_speech(Media("speech", wav_file(media), "wav"))
    np.testing.assert_allclose(again, decode_speech(media), atol=1 / 32768)


def test_queries_come_from_the_test_split_only(tmp_path: Path) -> None:
    for split in ("train", "test"):
        first = 0 if split == "train" else 100
        rows = [tiny_archives.chip_row(first + i, name) for i in range(4) for name in ("pan", "ms", "rgb")]  # type: ignore[arg-type]
        rows += [tiny_archives.tone_row(first + i) for i in range(4)]
        tiny_archives.write_archive(tmp_path / "archive", rows, split=split)  # type: ignore[arg-type]
    tested = {tiny_archives.chip_row(100 + i, name).item_id for i in range(4) for name in ("pan", "ms", "rgb")}  # type: ignore[arg-type]
    tested |= {tiny_archives.tone_row(100 + i).item_id for i in range(4)}
    queries = choose_queries([str(tmp_path / "archive")])
    assert [(query.media.modality, query.target) for query in queries] == list(DIRECTIONS)
    assert {query.item_id for query in queries} <= tested
    assert queries == choose_queries([str(tmp_path / "archive")])


def test_nothing_to_ask_by_is_said(tmp_path: Path) -> None:
    archive = tiny_archives.write_archive(tmp_path / "archive", [tiny_archives.chip_row(1, "rgb")], split="test")
    with pytest.raises(DataError, match="no labelled pan item in the test split"):
        choose_queries([archive])


def test_the_table_marks_hits_and_misses() -> None:
    answered = _answered("speech", ("sea",), [_hit("a", "rgb", ("sea",)), _hit("b", "rgb", ("ship",))])
    table = hits_table(answered)
    assert table.row_count == 2
    assert list(table.columns[2].cells) == ["[green]hit[/green]", "[red]miss[/red]"]


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (ClientHeard((("sea", 0.214),), "no known label heard"), "no known label heard (nearest: sea 0.21)"),
        (ClientHeard((("sea", 0.714), ("sand", 0.4)), None), "heard: sea 0.71, sand 0.40"),
        (None, None),
    ],
)
def test_what_was_heard_is_said_in_table_and_page(heard: ClientHeard | None, said: str | None, tmp_path: Path) -> None:
    asked = replace(
        _answered("speech", ("sea",), []), answer=Answer((), "s0", 1, {"total": 3.0}, "r", (heard,) if heard else ())
    )
    assert hits_table(asked).caption == said
    report = evaluate(items_of([Made("pan", ("sea",)), Made("rgb", ("sea",))]), space_id="s0").report
    write_live_report(tmp_path / "report.html", [asked], {"figures.html": report}, {})
    assert (said or "no hits") in (tmp_path / "report.html").read_text()
