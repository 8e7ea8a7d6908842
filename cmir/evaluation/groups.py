"""One word for an item: what its colour in the map means, and what it is called where two are mixed up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cmir.evaluation.metrics import Ints
from cmir.evaluation.protocol import Items, Relevance


@dataclass(frozen=True, slots=True)
class Grouping:
    """`names[i]` of item i, None where it carries nothing; `kind` is "class" or "label"."""

    kind: str
    names: Sequence[str | None]


def grouping(items: Items, indices: Ints | Sequence[int], relevance: Relevance) -> Grouping:
    """Groups of the items at `indices`, in their order: by class where class or pair is judged and items have one, else
    by label; of several labels the one that says most, that of the fewest of these items."""
    classes = [items.columns["scene_class"][i] for i in indices]
    if relevance != "labels" and any(classes):
        return Grouping("class", classes)
    labels = [items.columns["labels"][i] for i in indices]
    count = Counter(label for each in labels for label in set(each))
    return Grouping("label", [min(each, key=lambda name: (count[name], name)) if each else None for each in labels])
