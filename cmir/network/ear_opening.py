"""The name of a second ear -> the ear: `pocketsphinx`, or a speech recogniser of transformers by folder or hub id."""

import torch

from cmir.archive import storage
from cmir.errors import ConfigError
from cmir.network import pretrained_source
from cmir.network.second_ear import SecondEar
from cmir.network.space import BundleConfig
from cmir.network.sphinx_ear import POCKETSPHINX, SphinxEar
from cmir.network.spoken_forms import Forms, forms_of
from cmir.network.transformers_ear import TransformersEar


def open_ear(name: str, forms: Forms, *, device: torch.device | None = None) -> SecondEar:
    """The ear of that name: `pocketsphinx`, or a recogniser of transformers in a folder or at a hub id.

    `forms`: spoken forms by label; `device`: where one of transformers runs (default: the CPU). Raises ConfigError
    where it cannot be opened, naming what to install, or knows none of the forms.
    """
    try:
        if name == POCKETSPHINX:
            return SphinxEar(forms)
        return TransformersEar(name, forms, device=device or torch.device("cpu"))
    except ConfigError as error:
        raise ConfigError(
            f"cannot open the second ear: {error.what}",
            seen=error.seen,
            expected=error.expected or f"{POCKETSPHINX}, or a recogniser of transformers in a folder or at a hub id",
            where=error.where or name,
            fix=error.fix,
        ) from error


def open_ear_of(name: str, config: BundleConfig, *, device: torch.device | None = None) -> SecondEar:
    """The ear of that name for the labels of a bundle. Raises ConfigError as `open_ear` does, and for a bundle without
    spoken labels or one whose speech is features."""
    network = config.network
    if "speech" not in network.modalities or not network.labels or network.speech.kind == "features":
        kind = "speech as features" if network.speech.kind == "features" else "no spoken labels"
        what, fix = "a second ear has nothing to listen for", "leave --second-ear out"
        raise ConfigError(what, seen=kind, expected="a bundle that hears labels as sound", where=name, fix=fix)
    return open_ear(name, forms_of(config), device=device)


def absolute(name: str) -> str:
    """A folder by its absolute path, for other processes; anything else as it is."""
    return storage.absolute(name) if name != POCKETSPHINX and pretrained_source.is_folder(name) else name
