"""The scenes that a split holds, by a digest of 64 bits each: eight bytes say whether a ground or a speaker was met.

A scene_id is what no two splits may share. Splits are drawn archive by archive, so that two archives with other seeds,
or a copy, may bring one scene into both; and a bundle is asked about ground of which only its training knows. Of a
million scenes two have one digest once in forty million times.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from cmir.archive.shards import ShardFile, pieces, read_row_group
from cmir.errors import ConfigError, DataError

Digests = npt.NDArray[np.uint64]
_TENSOR: Final = "scenes"
_NUM_NAMED: Final = 3


def digest_of(scene_id: str) -> int:
    """The first 64 bits of its sha256.

    >>> digest_of("beach07") == digest_of("beach07") != digest_of("beach08")
    True
    """
    return int.from_bytes(hashlib.sha256(scene_id.encode()).digest()[:8], "big")


def digests_of(scene_ids: Iterable[str]) -> Digests:
    """u64[S], rising, of the different ones."""
    return np.array(sorted({digest_of(scene_id) for scene_id in scene_ids}), np.uint64)


def check_disjoint(train: Digests, held_out: Digests, held_out_files: Iterable[ShardFile]) -> None:
    """Raises ConfigError, naming a few, where a scene of train stands in val too; `held_out_files` are val's."""
    shared = np.intersect1d(train, held_out, assume_unique=True)
    if len(shared):
        named = "; ".join(f"{scene_id} ({source_uri})" for scene_id, source_uri in _named(shared, held_out_files))
        raise ConfigError(
            "ground or speakers stand in split train and in split val",
            seen=f"{len(shared)} of the {len(held_out)} scenes of val, such as {named}",
            expected="every scene_id in one split",
            fix="shard what shows the same ground, or is said by the same voices, with one --split-seed, and leave "
            "copies out of --shards",
        )


def packed(digests: Digests) -> bytes:
    """The bytes of a safetensors file."""
    return safetensors.numpy.save({_TENSOR: digests})


def unpacked(content: bytes, where: str) -> Digests:
    """What `packed` made. Raises DataError where it did not."""
    try:
        return np.asarray(safetensors.numpy.load(content)[_TENSOR], np.uint64)
    except (safetensors.SafetensorError, KeyError) as error:
        expected = f"a safetensors file with a tensor {_TENSOR}"
        raise DataError("no list of scenes", seen=str(error), expected=expected, where=where) from error


def _named(shared: Digests, files: Iterable[ShardFile]) -> list[tuple[str, str]]:
    """(scene_id, source_uri) of the first few of the scenes, read again from their shards."""
    wanted, found = set(shared.tolist()), dict[str, str]()
    for piece in (piece for file in files for piece in pieces(file)):
        table = read_row_group(piece.shard_uri, piece.row_group, ["scene_id", "source_uri"])
        for scene_id, source_uri in zip(table["scene_id"].to_pylist(), table["source_uri"].to_pylist(), strict=True):
            if scene_id not in found and digest_of(scene_id) in wanted:
                found[scene_id] = source_uri
            if len(found) == min(_NUM_NAMED, len(wanted)):
                return list(found.items())
    return list(found.items())
