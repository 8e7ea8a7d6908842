"""Shards -> what a second ear understood of the spoken items, by item_id; kept piece by piece, to go on from."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from cmir.archive import shards, storage
from cmir.archive.speech import decode_speech
from cmir.errors import DataError
from cmir.evaluation.collection import PieceRows
from cmir.network.second_ear import Said, SecondEar

log = logging.getLogger("cmir")


def listen_items(
    listed: Sequence[PieceRows], ear: SecondEar, *, splits: Sequence[str], work_uri: str
) -> dict[str, Said]:
    """Listen to every listed utterance of the splits; those that cannot be decoded are left out.

    What is done is kept below `work_uri` and not done again.
    """
    found: dict[str, Said] = {}
    for rows in listed:
        if rows.modality == "speech":
            found |= _listen_piece(rows, ear, splits, storage.join(work_uri, "heard", f"{rows.piece.piece_id}.json"))
    log.info("%s listened to %d utterances", ear.name, len(found))
    return found


def _listen_piece(rows: PieceRows, ear: SecondEar, splits: Sequence[str], kept_uri: str) -> dict[str, Said]:
    if storage.exists(kept_uri):
        kept = json.loads(storage.read_bytes(kept_uri))
        return {item_id: Said(one["text"], tuple(one["labels"]), one["confidence"]) for item_id, one in kept.items()}
    asked = [place for place, split in enumerate(rows.metadata["split"].to_pylist()) if split in splits]
    if not asked:
        return {}
    table = shards.read_piece(rows.piece).take(pa.array(rows.rows[asked]))
    found: dict[str, Said] = {}
    for item_id, media in zip(table["item_id"].to_pylist(), shards.medias(table), strict=True):
        try:
            found[item_id] = ear.listen(decode_speech(media))
        except DataError:
            continue  # it has no vector either, and is counted there
    storage.put_atomic(kept_uri, json.dumps({item_id: asdict(said) for item_id, said in found.items()}).encode())
    return found
