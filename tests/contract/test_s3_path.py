"""From a source folder to an answered query with every URI on an object store (moto's server)."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmir.archive import shards, storage
from cmir.archive.output import Output
from cmir.errors import ConfigError
from cmir.gallery.publish import read_pointer
from cmir.gallery.search import Searcher
from jobs import embed, index, shard
from jobs.entrypoint import run_command
from tests.conftest import RayCluster, make_tiny_bundle

pytestmark = pytest.mark.cluster


def _job(capsys: pytest.CaptureFixture[str], module: Any, config_type: Any, *arguments: str) -> dict[str, Any]:
    name = module.__name__.rpartition(".")[2]
    code = run_command(name, config_type, module.run, list(arguments))
    line: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == 0, line
    return line


def test_the_path_from_source_to_search_on_an_object_store(
    s3_bucket: str, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    check_path_from_source_to_search(s3_bucket, capsys)


def test_conditional_puts_and_outputs_hold_on_an_object_store(s3_bucket: str) -> None:
    check_conditional_puts_and_outputs(s3_bucket)


def check_path_from_source_to_search(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Images become shards, a gallery, an index and an answer, every URI in the bucket."""
    for i in range(12):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        storage.put_atomic(f"{bucket}/in/kind{i % 2}/{i}.png", buffer.getvalue())
    storage.put_atomic(f"{bucket}/in/kind0/bad.png", b"not an image")
    bundle = make_tiny_bundle(f"{bucket}/bundle")
    archive, gallery = f"{bucket}/archive", f"{bucket}/gallery"

    line = _job(capsys, shard, shard.ShardConfig, "--source", "folder", "--input", f"{bucket}/in", "--output", archive)
    assert (line["num_rows_committed"], line["num_rows_quarantined"]) == (12, 1)
    flags = ("--bundle", bundle, "--shards", archive, "--gallery", gallery)
    assert _job(capsys, embed, embed.EmbedConfig, *flags)["num_rows_committed"] == 12
    assert _job(capsys, embed, embed.EmbedConfig, *flags)["num_rows_skipped"] == 12
    _job(capsys, index, index.IndexConfig, "--gallery", gallery, "--publish")

    assert read_pointer(gallery).bundle_uri == bundle
    searcher = Searcher.open(gallery)
    table = shards.read_piece(shards.pieces(shards.list_shards(archive)[0])[0])
    item_id = table["item_id"][0].as_py()
    (hits,) = searcher.search(searcher.vector(item_id)[None], k=3)
    assert (len(hits), hits[0].item_id) == (3, item_id)
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert searcher.thumbnail(item_id)


def check_conditional_puts_and_outputs(bucket: str) -> None:
    """One of several puts wins, and an output is replaced whole."""
    uri = f"{bucket}/pointer.json"
    storage.put_atomic(uri, b"1", if_absent=True)
    with pytest.raises(FileExistsError, match=r"pointer\.json"):
        storage.put_atomic(uri, b"2", if_absent=True)
    assert storage.read_bytes(uri) == b"1"

    place = f"{bucket}/out"
    for content, overwrite in ((b"old", False), (b"new", True)):
        output = Output.claim(place, {}, overwrite=overwrite)
        storage.put_atomic(f"{output.working_uri}/result", content)
        storage.put_atomic(f"{output.working_uri}/extra-{content.decode()}", content)
        output.finish()
    assert [file.uri for file in storage.list_files(place)] == [f"{place}/extra-new", f"{place}/result"]
    assert storage.read_bytes(f"{place}/result") == b"new"
    with pytest.raises(ConfigError, match="output exists"):
        Output.claim(place, {})
    first, second = (Output.claim(place, {}, overwrite=True) for _ in range(2))
    storage.put_atomic(f"{second.working_uri}/result", b"newer")
    with pytest.raises(ConfigError, match="another job is at work"):
        first.finish()
    second.finish()
    assert storage.read_bytes(f"{place}/result") == b"newer"
