"""manifest.csv: where its files lie and what they are called, wherever the input is."""

from pathlib import Path

import pytest

from cmir.archive.sources.manifest import is_manifest, read_manifest
from cmir.errors import DataError


def written(folder: Path, text: str) -> str:
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return str(folder)


def test_the_file_and_its_folder_are_the_same_manifest(tmp_path: Path) -> None:
    folder = written(tmp_path, "\ufeffspeaker, path \nann, a/b.wav\n\n,c.wav,more\n")
    for uri in (folder, f"{folder}/manifest.csv"):
        assert is_manifest(uri)
        manifest = read_manifest(uri, ("path",))
        assert [row.line for row in manifest.rows] == [2, 4]
        assert [row.cells for row in manifest.rows] == [
            {"speaker": "ann", "path": "a/b.wav"},
            {"speaker": "", "path": "c.wav"},
        ]
        assert manifest.resolve("a/b.wav") == f"{folder}/a/b.wav"
    assert not is_manifest(str(tmp_path / "other"))


def test_absolute_paths_and_uris_stay(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, "path\n/data/x.wav\n"), ("path",))
    assert manifest.resolve("/data/x.wav") == "/data/x.wav"
    assert manifest.resolve("s3://bucket/x.wav") == "s3://bucket/x.wav"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x.wav", "a/x.wav"], ["x.wav", "a/x.wav"]),
        (["/data/x.wav", "s3://bucket/y.wav"], ["x.wav", "y.wav"]),
        (["/data/de/x.wav", "/data/fr/x.wav", "/data/fr/y.wav"], ["de/x.wav", "fr/x.wav", "y.wav"]),
        (["/one/a/x.wav", "/two/a/x.wav", "x.wav"], ["one/a/x.wav", "two/a/x.wav", "x.wav"]),
        (["/x.wav", "/a/x.wav"], ["/x.wav", "a/x.wav"]),
        (["/a/x.wav", "/a/x.wav"], ["x.wav", "x.wav"]),
    ],
)
def test_own_names_tell_the_files_apart(tmp_path: Path, paths: list[str], names: list[str]) -> None:
    manifest = read_manifest(written(tmp_path, "\n".join(["path", *paths])), ("path",))
    assert manifest.own_names("path") == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lacks columns: seen an empty file"),
        (b"file,labels\na.wav,sea\n", "lacks columns: seen file, labels, expected path, labels"),
        (b"path,labels\n", "no rows"),
        (b"path,labels\n\xff\xfe,sea\n", "expected a table in UTF-8"),
    ],
)
def test_unreadable_manifests_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_manifest(str(tmp_path), ("path", "labels"))
