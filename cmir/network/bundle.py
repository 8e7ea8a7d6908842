"""A trained network <-> a folder of tensors and JSON, never a pickle, local or on s3, named by its space_id.

    model.safetensors  every tensor          preprocessing.json  bands, scale, mean, std per sensor; speech
    config.json        all else, digests     metrics.json        figures             README.md  the model card
    train_scenes.safetensors                 digests of the scenes it was trained on, where they are known

`config.json` is written last: a folder without it is an unfinished bundle. Loading compares the digests of the files
and computes the space_id anew, so that a truncated copy, a mixture of two bundles or an edited file is refused by name.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import safetensors
import safetensors.torch
from pydantic import BaseModel, JsonValue, ValidationError
from torch import Tensor

import cmir
from cmir.archive import storage
from cmir.errors import DataError, SpaceMismatchError
from cmir.network.build import Network, build_network
from cmir.network.model_card import model_card
from cmir.network.preprocessing import Preprocessing
from cmir.network.scenes import Digests, packed, unpacked
from cmir.network.space import (
    BUNDLE_FORMAT,
    SPACE_CODE_VERSION,
    BundleConfig,
    DataCount,
    LabelPrototype,
    space_id_of,
)

TENSORS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
PREPROCESSING_FILE: Final = "preprocessing.json"
METRICS_FILE: Final = "metrics.json"
SCENES_FILE: Final = "train_scenes.safetensors"
CARD_FILE: Final = "README.md"
_Model = TypeVar("_Model", bound=BaseModel)
_RESTORE: Final = "copy the whole folder again from where it was trained, or train again"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; `net` is in eval mode and needs no gradients."""

    uri: str
    net: Network
    preprocessing: Preprocessing
    config: BundleConfig
    metrics: Mapping[str, JsonValue]

    @property
    def space_id(self) -> str:
        """The name of the space, checked against the tensors."""
        return self.config.space_id


def save_bundle(
    uri: str,
    net: Network,
    preprocessing: Preprocessing,
    *,
    metrics: Mapping[str, JsonValue],
    training: Mapping[str, JsonValue],
    data: Sequence[DataCount] = (),
    heard_threshold: float | None = None,
    spoken_forms: Mapping[str, tuple[str, ...]] | None = None,
    unspoken_labels: Sequence[str] = (),
    train_scenes: Digests | None = None,
) -> str:
    """Write a bundle into the folder `uri` and return its space_id.

    Args:
        metrics: figures for metrics.json, any nesting of JSON.
        training: the resolved training configuration; no local paths, no run ids.
        data: what it was trained and validated on, for the model card.
        heard_threshold, spoken_forms, unspoken_labels: see BundleConfig.
        train_scenes: digests of the scenes it was trained on (see scenes); they do not belong to the space_id.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    files = {
        TENSORS_FILE: safetensors.torch.save(tensors),
        PREPROCESSING_FILE: _json_bytes(preprocessing),
        METRICS_FILE: (json.dumps(metrics, indent=2) + "\n").encode(),
    }
    if train_scenes is not None:
        files[SCENES_FILE] = packed(train_scenes)
    config = BundleConfig(
        space_id=space_id_of(tensors, net.config.model_dump(mode="json"), preprocessing.model_dump(mode="json")),
        code_version=cmir.__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        network=net.config,
        vocabulary=_vocabulary(net),
        heard_threshold=heard_threshold,
        spoken_forms=dict(spoken_forms or {}),
        unspoken_labels=tuple(unspoken_labels),
        data=tuple(data),
        training=dict(training),
        sha256={name: _sha256(content) for name, content in files.items() if name != METRICS_FILE},
    )
    files[CARD_FILE] = model_card(config, preprocessing, metrics).encode()
    files[CONFIG_FILE] = _json_bytes(config)  # last: it declares the folder complete
    for name, content in files.items():
        storage.put_atomic(storage.join(uri, name), content)
    return config.space_id


def load_bundle(uri: str) -> Bundle:
    """Read and verify a bundle onto the CPU.

    Raises DataError, naming the file, where one is missing, broken, incomplete or does not belong to the others;
    SpaceMismatchError where the bundle was made by embedding code of another version.
    """
    config = read_config(uri)
    tensors_bytes = _verified(uri, TENSORS_FILE, config)
    preprocessing_bytes = _verified(uri, PREPROCESSING_FILE, config)
    preprocessing = _parsed(uri, PREPROCESSING_FILE, preprocessing_bytes, Preprocessing)
    tensors = _tensors(uri, tensors_bytes)
    network_as_stored = json.loads(_read(uri, CONFIG_FILE))["network"]
    seen = space_id_of(tensors, network_as_stored, json.loads(preprocessing_bytes))
    if seen != config.space_id:
        what = "the bundle's space_id is not that of its content"
        raise _broken(uri, CONFIG_FILE, seen=seen, expected=config.space_id, what=what)
    net = build_network(config.network)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        first_line = str(error).splitlines()[0]
        raise _broken(uri, TENSORS_FILE, seen=first_line, expected="the tensors of its architecture") from error
    net.eval().requires_grad_(False)
    return Bundle(uri, net, preprocessing, config, read_metrics(uri))


def verify_bundle(uri: str) -> BundleConfig:
    """A bundle's config.json, after a look at whether tensors and preprocessing are the files that it was written with.

    No network is made. Raises DataError, naming the file, where one is missing or another; else as `read_config`.
    """
    config = read_config(uri)
    for name in (TENSORS_FILE, PREPROCESSING_FILE):
        _verified(uri, name, config)
    return config


def read_config(uri: str) -> BundleConfig:
    """A bundle's config.json without its tensors: space_id, network, labels. Raises as `load_bundle` does."""
    config = _parsed(uri, CONFIG_FILE, _read(uri, CONFIG_FILE), BundleConfig)
    where = storage.join(uri, CONFIG_FILE)
    if config.bundle_format != BUNDLE_FORMAT:
        fix = "load it with the cmir that wrote it, and train again for this one"
        raise DataError(
            "unknown bundle format", seen=config.bundle_format, expected=BUNDLE_FORMAT, where=where, fix=fix
        )
    if config.space_code_version != SPACE_CODE_VERSION:
        raise SpaceMismatchError(
            "this cmir would embed differently from the one that made the bundle",
            seen=f"space code {config.space_code_version} (cmir {config.code_version})",
            expected=f"space code {SPACE_CODE_VERSION}",
            where=where,
            fix="use the cmir version of the bundle, or train and embed again",
        )
    return config


def read_metrics(uri: str) -> Mapping[str, JsonValue]:
    """A bundle's metrics.json. Raises DataError where it is missing or no JSON object."""
    try:
        metrics = json.loads(_read(uri, METRICS_FILE))
    except ValueError as error:
        raise _broken(uri, METRICS_FILE, seen=str(error), expected="JSON") from error
    if not isinstance(metrics, dict):
        raise _broken(uri, METRICS_FILE, seen=type(metrics).__name__, expected="a JSON object")
    return metrics


def read_train_scenes(uri: str, config: BundleConfig) -> Digests | None:
    """The digests of the scenes that a bundle was trained on; None where it does not say. Raises as `load_bundle`."""
    if SCENES_FILE not in config.sha256:
        return None
    return unpacked(_verified(uri, SCENES_FILE, config), storage.join(uri, SCENES_FILE))


def _vocabulary(net: Network) -> tuple[LabelPrototype, ...]:
    vectors = net.unit_prototypes().detach().cpu().tolist()
    return tuple(
        LabelPrototype(label=label, prototype=tuple(vector))
        for label, vector in zip(net.config.labels, vectors, strict=True)
    )


def _json_bytes(model: BaseModel) -> bytes:
    return (model.model_dump_json(indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(uri: str, name: str) -> bytes:
    where = storage.join(uri, name)
    try:
        return storage.read_bytes(where)
    except DataError as error:
        if error.what != "input not found":
            raise
        unfinished = "no bundle, or one whose writing never ended" if name == CONFIG_FILE else "nothing"
        raise DataError("bundle is incomplete", seen=unfinished, expected=name, where=where, fix=_RESTORE) from error


def _verified(uri: str, name: str, config: BundleConfig) -> bytes:
    content = _read(uri, name)
    expected = config.sha256.get(name, "a digest in config.json")
    if _sha256(content) != expected:
        raise _broken(uri, name, seen=f"sha256 {_sha256(content)[:16]}", expected=f"sha256 {expected[:16]}")
    return content


def _parsed(uri: str, name: str, content: bytes, kind: type[_Model]) -> _Model:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        seen = f"{'.'.join(map(str, first['loc'])) or 'the whole file'}: {first['msg']}"
        raise _broken(uri, name, seen=seen, expected=f"a {kind.__name__}") from error


def _tensors(uri: str, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _broken(uri, TENSORS_FILE, seen=str(error), expected="a safetensors file") from error


def _broken(uri: str, name: str, *, seen: str, expected: str, what: str = "bundle file is broken") -> DataError:
    return DataError(what, seen=seen, expected=expected, where=storage.join(uri, name), fix=_RESTORE)
