"""What cannot train, or could not be judged, is refused with its reason before the first step.

Refused are a spoken vocabulary that lacks a label, a split in which nothing matches anything, an archive that the
workers do not see alike. A label is missing from the vocabulary where chips carry it and no utterance of split train
says it: it could never be found by voice. Archives with labels that nobody is to speak say so (`unspoken_labels`).
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from cmir.archive.schema import IMAGE_MODALITIES, MODALITIES, Modality, Split
from cmir.errors import CmirError, ConfigError
from cmir.network.batches import targets_of
from cmir.network.catalogue import UNKNOWN, Array, Catalogue
from cmir.network.training_settings import Unspoken
from cmir.network.validation import class_figures, judged_items, label_figures, pair_figures, word_figures

log = logging.getLogger("cmir")
Outcome = TypeVar("Outcome")
_NAMES_SHOWN: Final = 20


def in_vocabulary(held_out: Catalogue, train: Catalogue) -> Catalogue:
    """The validation split with the train split's numbers for labels and classes.

    Raises ConfigError where labels are spoken and it carries one that the train split lacks, or says one that no
    utterance of train says: what has no word can never be found. Where nothing is spoken, labels are an aid; an unknown
    one is dropped, with a log line.
    """
    unknown = [name for name in held_out.label_names if name not in train.label_names]
    if unknown:
        columns = [held_out.label_names.index(name) for name in unknown]
        seen = f"{_listed(unknown)} on {int(held_out.labels[:, columns].any(axis=1).sum())} items of split val"
        if "speech" in train.modalities:
            raise ConfigError(
                "a label is missing from the vocabulary",
                seen=seen,
                expected=f"labels of split train: {_listed(train.label_names)}",
                fix="add utterances or chips with it to split train, shard again with another --split-seed, "
                "or correct the label",
            )
        log.warning("labels that split train lacks are not looked at: %s", seen)
    elif "speech" in train.modalities:
        _check_words(held_out, train)
    labels = np.zeros((len(held_out), len(train.label_names)), np.uint8)
    for column, name in enumerate(held_out.label_names):
        if name in train.label_names:
            labels[:, train.label_names.index(name)] = held_out.labels[:, column]
    class_numbers = {name: number for number, name in enumerate(train.class_names)}
    number = np.array([*(class_numbers.get(name, UNKNOWN) for name in held_out.class_names), UNKNOWN], np.int64)
    return replace(
        held_out,
        label_names=train.label_names,
        class_names=train.class_names,
        labels=labels,
        class_id=number[held_out.class_id],  # UNKNOWN is -1, the last
    )


def check_train_positives(train: Catalogue) -> None:
    """Raises ConfigError where a modality has nothing that matches: no labels, classes or pairs to learn it by, or,
    between the modalities, none in common."""
    images = [name for name in train.modalities if name in IMAGE_MODALITIES]
    for name in images:
        others = [other for other in images if other != name]
        knows_itself = _labels(train, name).any() or len(_classes(train, name)) > 1
        if not knows_itself and not any(_match(train, name, other) for other in others):
            raise _no_positives("train", name, "labels, two scene classes, or pairs with another modality")
    if len(images) == 2 == len(train.modalities) and not _match(train, *images):
        raise _no_positives("train", " and ".join(images), "a label, a scene class or a pair in common")
    if "speech" in train.modalities:
        spoken = _labels(train, "speech")
        if images and not any((spoken & _labels(train, name)).any() for name in images):
            words = _said(train, spoken) or "nothing"
            raise _no_positives("train", f"speech, which says {words},", "a label that chips carry")


def unspoken_labels(train: Catalogue, unspoken: Unspoken) -> tuple[str, ...]:
    """The labels of chips that no utterance says, where some speak at all; none may be unless they are to be kept.

    Raises ConfigError.
    """
    images = [name for name in train.modalities if name in IMAGE_MODALITIES]
    if not images or "speech" not in train.modalities:
        return ()
    said = _labels(train, "speech")
    silent = np.any([_labels(train, name) for name in images], axis=0) & ~said
    names = tuple(name for name, is_silent in zip(train.label_names, silent, strict=True) if is_silent)
    if names:
        chips = train.modality != MODALITIES.index("speech")
        seen = f"{_listed(names)} on {int(train.labels[chips][:, silent].any(axis=1).sum())} chips of split train"
        if unspoken == "refuse":
            raise ConfigError(
                "a label is missing from the vocabulary",
                seen=f"{seen}, and no utterance of it says so",
                expected=f"labels that utterances of split train say: {_said(train, said)}",
                fix="add utterances of it or correct the label; or give --unspoken-labels keep, and it is found by "
                "text and by chips, never by voice",
            )
        log.warning("labels that nobody says cannot be found by voice: %s", seen)
    return names


def can_judge(held_out: Catalogue) -> bool:
    """Whether a validation split can tell one network from another; of speech alone, utterances of one label can.

    Raises ConfigError where it holds chips of which none matches anything.
    """
    targets = targets_of(judged_items(held_out), held_out)
    nowhere, no_prototypes = torch.zeros(len(targets.modality), 1), torch.zeros(len(held_out.label_names), 1)
    if not any(name in IMAGE_MODALITIES for name in held_out.modalities):
        return bool(word_figures(nowhere, targets, no_prototypes))
    figures = label_figures(nowhere, targets, no_prototypes)
    if not (figures or pair_figures(nowhere, targets) or class_figures(nowhere, targets)):
        expected = "two items with a label, a scene class or a pair in common"
        raise _no_positives("val", " and ".join(held_out.modalities), expected)
    return True


def together(work: Callable[[], Outcome], facts: Callable[[Outcome], dict[str, Any]]) -> Outcome:
    """Do the same on every worker of a group; all go on, or all raise the same error.

    Raises the first worker's CmirError, or ConfigError where `facts` of the results differ between workers.
    """
    outcome: Outcome | None = None
    told: tuple[CmirError | None, dict[str, str]] = None, {}
    try:
        outcome = work()
        told = None, {name: json.dumps(value, default=_digest) for name, value in facts(outcome).items()}
    except CmirError as error:
        told = error, {}
    heard: list[tuple[CmirError | None, dict[str, str]]] = [told]
    if dist.is_available() and dist.is_initialized():
        heard = [told] * dist.get_world_size()
        dist.all_gather_object(heard, told)
    for failure, _ in heard:
        if failure is not None:
            raise failure
    for name, first in heard[0][1].items():
        for rank, (_, other) in enumerate(heard):
            if other[name] != first:
                fix = "give --shards that every node sees alike, and leave them as they are while training reads them"
                seen = f"{name}: worker 0 {first[:200]}, worker {rank} {other[name][:200]}"
                raise ConfigError("workers see different archives", seen=seen, expected="the same on all", fix=fix)
    assert outcome is not None
    return outcome


def facts_of(catalogue: Catalogue) -> dict[str, Any]:
    """What all workers must agree on of the items they train on."""
    return {
        "classes": catalogue.class_names,
        "labels": catalogue.label_names,
        "modalities": catalogue.modalities,
        "number of items": len(catalogue),
        "items": [catalogue.modality, catalogue.labels, catalogue.class_id, catalogue.pair_id],
    }


def _check_words(held_out: Catalogue, train: Catalogue) -> None:
    """Raises ConfigError where an utterance of val says what no utterance of train says."""
    heard = {name for name, is_said in zip(train.label_names, _labels(train, "speech"), strict=True) if is_said}
    said = _labels(held_out, "speech")
    columns = [i for i, name in enumerate(held_out.label_names) if said[i] and name not in heard]
    if columns:
        utterances = held_out.labels[_rows(held_out, "speech")][:, columns]
        names = _listed([held_out.label_names[i] for i in columns])
        raise ConfigError(
            "a label is missing from the vocabulary",
            seen=f"{names}, said by {int(utterances.any(axis=1).sum())} utterances of split val alone",
            expected=f"labels that utterances of split train say: {_listed(sorted(heard))}",
            fix="add utterances with it to split train, or shard the speech again with another --split-seed",
        )


def _said(items: Catalogue, spoken: Array) -> str:
    return _listed([name for name, is_said in zip(items.label_names, spoken, strict=True) if is_said])


def _digest(value: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]


def _match(items: Catalogue, left: Modality | str, right: Modality | str) -> bool:
    """Whether items of two modalities have a label, a scene class or a pair in common."""
    if (_labels(items, left) & _labels(items, right)).any():
        return True
    pairs = [items.pair_id[_rows(items, name) & (items.pair_id != UNKNOWN)] for name in (left, right)]
    return bool(set(_classes(items, left)) & set(_classes(items, right)) or len(np.intersect1d(*pairs)))


def _rows(items: Catalogue, modality: str) -> Array:
    rows: Array = items.modality == MODALITIES.index(modality)
    return rows


def _labels(items: Catalogue, modality: str) -> Array:
    """bool[L]: the labels that items of a modality carry."""
    carried: Array = np.any(items.labels[_rows(items, modality)], axis=0)
    return carried


def _classes(items: Catalogue, modality: str) -> list[int]:
    known = items.class_id[_rows(items, modality)]
    return [number for number in np.unique(known).tolist() if number != UNKNOWN]


def _no_positives(split: Split, what: str, expected: str) -> ConfigError:
    fix = "shard the source with its labels or pairs, or leave these shards out of --shards"
    return ConfigError("a split has no positives", seen=f"{what} without", expected=expected, where=split, fix=fix)


def _listed(names: Any) -> str:
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
