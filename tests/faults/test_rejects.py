"""One archive of everything that can be wrong with a row or a shard: quarantined with its reason, counted, judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmir.archive.schema import Media
from cmir.archive.speech import pcm_media
from tests.faults.archive import BANDS, assert_same, nan_row, rows_of, vectors_of, write_shard
from tests.faults.process import embed_here

pytestmark = [pytest.mark.slow]
NUM_GOOD = 100


def test_everything_that_can_be_wrong_is_said_and_stops_nothing(
    tmp_path: Path, bundle: str, without_cluster: None
) -> None:
    folder = tmp_path / "in"
    pixels = np.zeros((3, 16, 16), np.uint8)
    other_shape = Media("rgb", pixels.tobytes(), "raw", "uint8", (3, 16, 17), BANDS["rgb"])
    other_dtype = Media("rgb", pixels.tobytes(), "raw", "complex64", (3, 16, 16), BANDS["rgb"])
    no_picture = Media("rgb", b"\x89PNG but no more", "png", bands=BANDS["rgb"])
    no_sound = replace(rows_of("speech", [50])[0], media=pcm_media(np.zeros(0, np.float32)))
    nan = np.full(800, np.nan, np.float32)
    nan_sound = Media("speech", nan.tobytes(), "raw", "float32", (800,), sample_rate_hz=16_000)
    no_tone = replace(rows_of("speech", [51])[0], media=nan_sound)
    no_file = replace(rows_of("speech", [52])[0], media=Media("speech", b"RIFF", "wav", sample_rate_hz=16_000))
    rgb = rows_of("rgb", range(60))
    bad = [
        replace(rows_of("rgb", [60 + i])[0], media=media)
        for i, media in enumerate((other_shape, other_dtype, no_picture))
    ]
    write_shard(
        str(folder / "rgb/train/part-00000.parquet"),
        [*rgb[:20], bad[0], nan_row(63), *rgb[20:60], bad[1], bad[2], rgb[0]],
    )
    write_shard(
        str(folder / "speech/train/part-00000.parquet"), [*rows_of("speech", range(20)), no_sound, no_tone, no_file]
    )
    whole = folder / "pan/train/part-00000.parquet"
    write_shard(str(whole), rows_of("pan", range(23)))
    damaged = bytearray(whole.read_bytes())
    start_of_data = pq.ParquetFile(whole).metadata.row_group(3).column(3).data_page_offset
    damaged[start_of_data + 30 : start_of_data + 60] = bytes(30)  # of one piece of three rows; the footer is whole
    whole.write_bytes(bytes(damaged))
    write_shard(str(folder / "pan/train/part-00001.parquet"), rows_of("pan", range(30, 40)))
    cut = folder / "pan/train/part-00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-40])

    gallery = str(tmp_path / "gallery")
    code, line = embed_here(bundle, [str(folder)], gallery, "--max-reject-ratio", "0.4")
    assert (code, line["num_rows_committed"], line["num_rows_quarantined"]) == (0, NUM_GOOD, 12), line
    good = [*rgb, *rows_of("speech", range(20)), *rows_of("pan", [*range(9), *range(12, 23)])]
    assert_same(gallery, vectors_of(bundle, good))
    entries = [row for file in (Path(gallery) / "_quarantine").iterdir() for row in pq.read_table(file).to_pylist()]
    reasons = sorted(entry["reason"] for entry in entries)
    assert len(reasons) == 12
    assert all(reasons)
    words = ("shape", "complex64", "png", "finite", "stands twice", "shard is damaged", "part-00001", "wav")
    assert [word for word in words if not any(word in reason for reason in reasons)] == []
    assert sum("shard is damaged" in reason for reason in reasons) == 4, "three rows of a piece, and a shard"

    code, line = embed_here(bundle, [str(folder)], gallery, "--max-reject-ratio", "0.05")
    assert (code, line["status"], line["num_rows_committed"]) == (1, "failed", 0)
    assert "too many rows rejected: seen 12 of 112" in line["error"]
