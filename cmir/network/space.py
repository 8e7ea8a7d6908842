"""What names a space: the digest of everything that decides an embedding, and the settings a bundle keeps of it.

Two bundles with one space_id give the same vector for the same bytes; anything that could change a vector (a tensor,
the architecture, the preprocessing, or the embedding code by SPACE_CODE_VERSION) changes the id. Metrics, the training
configuration and the model card do not belong to it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor

from cmir.archive.schema import Modality, Split
from cmir.network.model import NetworkConfig

# Raise it with every change of decoding, preprocessing, towers or embedder that changes their results.
SPACE_CODE_VERSION: Final = 5
BUNDLE_FORMAT: Final = 1

_FROZEN: Final = ConfigDict(frozen=True, extra="forbid")


class DataCount(BaseModel):
    """How many items of one modality and split the network was trained or measured on."""

    model_config = _FROZEN

    modality: Modality
    split: Split
    num_items: int = Field(ge=0)


class LabelPrototype(BaseModel):
    """A word of the vocabulary and its unit vector f32[D] in the space."""

    model_config = _FROZEN

    label: str
    prototype: tuple[float, ...]


class BundleConfig(BaseModel):
    """`config.json` of a bundle. `sha256` holds the digests of the other files that decide an embedding, and of the
    list of scenes, by name.

    `heard_threshold`: an utterance whose cosine to every prototype is below it names no known label; None where that
    was not measured. `spoken_forms`: what was said for each label in training; {} where that was not written down.
    `unspoken_labels`: labels of its chips that nobody said, though speech was trained.
    """

    model_config = _FROZEN

    bundle_format: int = BUNDLE_FORMAT
    space_id: str = Field(pattern=r"^s[0-9a-f]{16}$")
    space_code_version: int = SPACE_CODE_VERSION
    code_version: str
    created_at: str
    network: NetworkConfig
    vocabulary: tuple[LabelPrototype, ...]
    heard_threshold: float | None = None
    spoken_forms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unspoken_labels: tuple[str, ...] = ()
    data: tuple[DataCount, ...] = ()
    training: dict[str, JsonValue] = Field(default_factory=dict)
    sha256: dict[str, str]


def space_id_of(
    tensors: Mapping[str, Tensor], network: Mapping[str, JsonValue], preprocessing: Mapping[str, JsonValue]
) -> str:
    """`s` and 16 hex digits of the sha256 over tensors (names, dtypes, shapes, bytes), both settings and code version.

    `tensors` is a state dict; the order of its names and the device of the tensors do not matter. The settings are the
    JSON objects as they stand in the files (NetworkConfig, Preprocessing): a field that a later version adds, with a
    default, leaves the ids of earlier bundles alone.
    """
    digest = hashlib.sha256()
    for part in _parts(tensors, network, preprocessing):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return "s" + digest.hexdigest()[:16]


def _parts(tensors: Mapping[str, Tensor], *settings: Mapping[str, JsonValue]) -> Iterable[bytes | memoryview]:
    yield f"space code {SPACE_CODE_VERSION}".encode()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].detach().cpu().numpy())  # a scalar counts as one element
        yield f"{name} {array.dtype.newbyteorder('<').str} {array.shape}".encode()
        yield array.reshape(-1).view(np.uint8).data
    for part in settings:
        yield json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
