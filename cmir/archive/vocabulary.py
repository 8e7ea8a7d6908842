"""Labels and the words that people say for them, from the table `vocabulary.yaml` beside this file.

A label that the table does not know is spoken as its own words: `storage-rack` as "storage rack". `other_words.yaml`
holds words that name no label.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict

from cmir.errors import DataError

# Chaudhuri et al. 2018, multi-label UC Merced: the columns of the published table, in its order.
UCMERCED_LABELS: Final = (
    "airplane",
    "bare-soil",
    "buildings",
    "cars",
    "chaparral",
    "court",
    "dock",
    "field",
    "grass",
    "mobile-home",
    "pavement",
    "sand",
    "sea",
    "ship",
    "tanks",
    "trees",
    "water",
)


class Vocabulary(BaseModel):
    """Spoken forms of labels; `ucmerced` holds the 17 of UC Merced, `other` those of other sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ucmerced: dict[str, tuple[str, ...]]
    other: dict[str, tuple[str, ...]]

    def forms(self, label: str) -> tuple[str, ...]:
        """Every spoken form of a label, its own name first; of an unknown label, its own words.

        >>> load_vocabulary().forms("airplane")[:2]
        ('airplane', 'plane')
        >>> load_vocabulary().forms("storage_rack")
        ('storage rack',)
        """
        return self.ucmerced.get(label) or self.other.get(label) or (own_words(label),)

    def label_of(self, form: str) -> str | None:
        """The label that a spoken form means, None where none does.

        >>> load_vocabulary().label_of("Tennis court")
        'court'
        """
        wanted = own_words(form).lower()
        tables = (*self.ucmerced.items(), *self.other.items())
        return next((label for label, forms in tables if wanted in forms), None)


@cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary of the package."""
    return Vocabulary.model_validate(_table("vocabulary.yaml"))


@cache
def other_words(language: str) -> tuple[str, ...]:
    """Words of a language that name no label of any set; none for a language that the table does not know."""
    return tuple(_table("other_words.yaml").get(language, ()))


def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(resources.files("cmir.archive").joinpath(name).read_text(encoding="utf-8"))
    return table


def own_words(label: str) -> str:
    """A label as words: hyphens and underscores become spaces.

    >>> own_words("mobile-home")
    'mobile home'
    """
    return " ".join(re.split(r"[\s_-]+", label.strip())).strip()


def check_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels as they came. Raises DataError: none, one twice, or one without a letter or digit to speak."""
    if not labels:
        raise DataError("no labels", seen="an empty list", expected="at least one label")
    for label in labels:
        if not any(sign.isalnum() for sign in label):
            raise DataError("a label cannot be spoken", seen=repr(label), expected="letters or digits")
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise DataError("a label stands twice", seen=", ".join(repeated), expected="each label once")
    return labels


def spoken_forms(labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The spoken forms of each label. Raises DataError as `check_labels` does."""
    return {label: load_vocabulary().forms(label) for label in check_labels(tuple(labels))}


def parse_labels(text: str) -> dict[str, tuple[str, ...]]:
    """Labels and their spoken forms from text: `a, b, c`, or a label a line, with `label: form, form` its own forms.

    Blank lines and lines that begin with # are left out. Raises DataError as `check_labels` does, and where a label has
    a colon and no form, or one form stands for two labels.

    >>> parse_labels("sea, ship")
    {'sea': ('sea', 'ocean'), 'ship': ('ship', 'ships', 'boat')}
    >>> parse_labels("car: Auto, Wagen")
    {'car': ('Auto', 'Wagen')}
    """
    forms: list[tuple[str, tuple[str, ...]]] = []
    for line in text.splitlines():
        label, colon, said = line.partition(":")
        if line.lstrip().startswith("#"):
            continue
        if colon:
            forms.append((label.strip(), check_labels(_parts(said))))
        else:
            forms += [(name, load_vocabulary().forms(name)) for name in _parts(line)]
    check_labels(tuple(label for label, _ in forms))
    meaning: dict[str, str] = {}
    for label, said_for_it in forms:
        for form in said_for_it:
            if meaning.setdefault(form.lower(), label) != label:
                raise DataError("one spoken form for two labels", seen=f"{form}: {meaning[form.lower()]}, {label}")
    return dict(forms)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
