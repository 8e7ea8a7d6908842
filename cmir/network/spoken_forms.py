"""The words that people say for a bundle's labels: read from the shards it is trained on, and looked up in a text.

Training writes them into the bundle, so that a recogniser beside the network knows what to listen for. Source tts
writes the form of each utterance into its attributes; a label that only people said is spoken as the vocabulary has it.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from cmir.archive.shards import ShardFile, pieces, read_row_group
from cmir.archive.torchaudio_import import import_torchaudio
from cmir.archive.vocabulary import load_vocabulary
from cmir.network.space import BundleConfig

Forms = Mapping[str, Sequence[str]]
_COLUMNS: Final = ["labels", "attributes"]
# Between labels, or before one, in the languages that source tts speaks: they name nothing.
_LITTLE_WORDS: Final = frozenset({"and", "with", "a", "an", "the", "und", "mit", "et", "avec", "un", "une"})
_LETTERS_PER_SLIP: Final = 5
_MOST_SLIPS: Final = 2


def read_spoken_forms(shard_files: Sequence[ShardFile]) -> dict[str, tuple[str, ...]]:
    """The forms in which utterances of one label say it, by label, both sorted. Raises DataError as reading does."""
    found: dict[str, set[str]] = {}
    for file in shard_files:
        if file.modality == "speech":
            for piece in pieces(file):
                for label, form in _said(read_row_group(piece.shard_uri, piece.row_group, _COLUMNS)):
                    found.setdefault(label, set()).add(form)
    return {label: tuple(sorted(forms)) for label, forms in sorted(found.items())}


def forms_of(config: BundleConfig) -> dict[str, tuple[str, ...]]:
    """The spoken forms of each label of a bundle; the vocabulary's where it was trained without or before them."""
    known, vocabulary = config.spoken_forms, load_vocabulary()
    return {label: known.get(label) or vocabulary.forms(label) for label in config.network.labels}


class FormIndex:
    """Spoken forms by label, looked up in what a recogniser wrote down."""

    def __init__(self, forms: Forms) -> None:
        self.label_of = {plain(form): label for label, said_for_it in forms.items() for form in said_for_it}
        self._most_words = max((len(form.split()) for form in self.label_of), default=0)

    def labels_in(self, text: str) -> tuple[str, ...]:
        """The labels that a text names, in its order, each once; () where any part of it is no form.

        A form may be misspelt by a letter in five, at most two, where no other label comes as near.

        >>> index = FormIndex({"court": ("tennis court",), "sea": ("sea", "ocean")})
        >>> index.labels_in("The ocean, and a Tenis court."), index.labels_in("sea lion"), index.labels_in("tea")
        (('sea', 'court'), (), ())
        """
        words = plain(text).split()
        labels: list[str] = list(self._exact(words))
        if not labels:
            for run in _runs(words):
                found = self._exact(run) or self._nearest(" ".join(run))
                if not found:
                    return ()
                labels += found
        return tuple(dict.fromkeys(labels))

    def _exact(self, words: Sequence[str]) -> tuple[str, ...]:
        """Forms end to end, the longest first; () where a word is left."""
        labels, place = [], 0
        while place < len(words):
            longest = range(min(self._most_words, len(words) - place), 0, -1)
            num_words = next((n for n in longest if " ".join(words[place : place + n]) in self.label_of), 0)
            if num_words:
                labels.append(self.label_of[" ".join(words[place : place + num_words])])
            elif words[place] not in _LITTLE_WORDS:
                return ()
            place += num_words or 1
        return tuple(labels)

    def _nearest(self, phrase: str) -> tuple[str, ...]:
        """The one label with a form within the slips that are allowed; () for none and for several."""
        edit_distance = import_torchaudio().functional.edit_distance
        near: set[str] = set()
        for form, label in self.label_of.items():
            allowed = min(_MOST_SLIPS, min(len(form), len(phrase)) // _LETTERS_PER_SLIP)
            if abs(len(form) - len(phrase)) <= allowed and edit_distance(form, phrase) <= allowed:
                near.add(label)
        return tuple(near) if len(near) == 1 else ()


def plain(text: str) -> str:
    """A text as words alone: small letters, without punctuation.

    >>> plain(" Bare-soil, SAND!")
    'bare soil sand'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(sign if sign.isalnum() else " " for sign in folded).split())


def _runs(words: Sequence[str]) -> list[list[str]]:
    """Words between the little ones."""
    runs: list[list[str]] = [[]]
    for word in words:
        if word in _LITTLE_WORDS:
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _said(rows: pa.Table) -> list[tuple[str, str]]:
    told = zip(rows["labels"].to_pylist(), rows["attributes"].to_pylist(), strict=True)
    said = [(labels[0], _form(attributes)) for labels, attributes in told if len(labels or ()) == 1]
    return [(label, form) for label, form in said if form]


def _form(attributes: str | None) -> str:
    """The form that a source wrote down; empty where it is no JSON object or names none."""
    try:
        told: Any = json.loads(attributes or "{}")
    except ValueError:
        return ""
    form = told.get("form") if isinstance(told, dict) else None
    return form if isinstance(form, str) else ""
