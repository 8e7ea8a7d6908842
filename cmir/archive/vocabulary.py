"""Labels and the words that people say for them, from the table `vocabulary.yaml` beside this file.

A label that the table does not know is spoken as its own words: `storage-rack` as "storage rack".
"""

import re
from functools import cache
from importlib import resources
from typing import Final

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
    text = resources.files("cmir.archive").joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    return Vocabulary.model_validate(yaml.safe_load(text))


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


def parse_labels(text: str) -> tuple[str, ...]:
    """Labels from text: one per line or separated by commas; blank lines and lines that begin with # are left out.

    >>> parse_labels("airplane, bare-soil")
    ('airplane', 'bare-soil')
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    labels = tuple(part.strip() for line in lines for part in line.split(",") if part.strip())
    return check_labels(labels)
