"""The name of a pretrained tower -> a folder of JSON and safetensors: a local one as it is, or the hub's, fetched.

A folder is read without asking any network. Of a hub id exactly the files named here are fetched, or found in the local
cache: no pickle, no code of a checkpoint's own. Access and cache are set by the hub client's own variables (HF_TOKEN,
HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cmir.archive import storage
from cmir.errors import ConfigError
from cmir.network.transformers_import import import_transformers, refused

OWN_TOWER: Final = "default"
SETTINGS_FILE: Final = "config.json"
PROCESSOR_FILES: Final = ("preprocessor_config.json", "processor_config.json")
TENSORS_FILES: Final = ("model.safetensors", "model.safetensors.index.json")
_PARTS_OF_TENSORS: Final = "model-*-of-*.safetensors"
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_folder(tower: str) -> bool:
    """Whether a tower is named by a local folder, there or not, and not by a hub id or as our own.

    >>> is_folder("/models/dinov2"), is_folder("facebook/dinov2-base"), is_folder("default")
    (True, False, False)
    """
    return tower != OWN_TOWER and (not _HUB_ID.fullmatch(tower) or Path(tower).is_dir())


def absolute(tower: str) -> str:
    """A folder by its absolute path, for other processes; anything else as it is."""
    return storage.absolute(tower) if is_folder(tower) else tower


def folder_of(tower: str, *, also: Sequence[str] = ()) -> Path:
    """The folder in which a tower's files lie; from the hub those named `also`, where it has them, are fetched too.

    Raises ConfigError where there is no such folder, or none with weights to read.
    """
    folder = _local(tower) if is_folder(tower) else _fetched(tower, also)
    if not any((folder / name).exists() for name in TENSORS_FILES):
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".h5")))
        raise ConfigError(
            "checkpoint has no safetensors weights",
            seen=there or "none",
            expected=TENSORS_FILES[0],
            where=tower,
            fix="load it with transformers where you trust it, and save_pretrained() it again",
        )
    return folder


def _local(tower: str) -> Path:
    if storage.is_s3(tower):
        fix = "copy it to a folder that every worker sees"
        raise ConfigError("a tower is no s3 URI", seen=tower, expected="a folder or a hub id", fix=fix)
    folder = storage.local_path(tower)
    if not (folder / SETTINGS_FILE).is_file():
        seen = f"a folder without {SETTINGS_FILE}" if folder.is_dir() else "no such folder"
        expected = f"a folder with {SETTINGS_FILE} and {TENSORS_FILES[0]}, or a hub id OWNER/NAME"
        raise ConfigError("no pretrained tower there", seen=seen, expected=expected, where=tower)
    return folder


def _fetched(tower: str, also: Sequence[str]) -> Path:
    import_transformers()  # installs the hub's client
    from huggingface_hub import snapshot_download

    files = [SETTINGS_FILE, *PROCESSOR_FILES, *TENSORS_FILES, _PARTS_OF_TENSORS, *also]
    fix = "check the id, the network and HF_TOKEN, or give a folder that exists"
    with refused("cannot get the tower from the hub", where=tower, expected="a repository that can be read", fix=fix):
        return Path(snapshot_download(tower, allow_patterns=files))
