"""Every kind of source turns into shard rows the same way: list items cheaply, then read one item at a time.

Listing tells the ground (`scene_id`) of every item before a pixel is read, so that splits are drawn first and items
can then be read by many workers in any order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cmir.archive.schema import ShardRow, Split


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a source can read by itself, small enough to be listed by the million.

    `key` is the item's own name in the source, `scene_id` what must not be divided between splits, `split` set only
    where the source itself decides it; `population` keeps groups of unlike kinds (scenes, voices) apart when splits are
    drawn, so that each kind is divided by itself; `source_uri` is its file and `further_uris` are those it needs
    besides; `num_bytes` estimates the bytes of the largest modality it yields;
    `detail` is what `rows` needs to read it (picklable).
    """

    key: str
    scene_id: str
    num_bytes: int
    split: Split | None = None
    population: str = ""
    source_uri: str = ""
    further_uris: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A picklable reader of one kind of input."""

    def items(self) -> Iterator[Item]:
        """List the input, with little reading. Raises DataError where it is missing or its table unreadable."""
        ...

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """Read one item into its rows (one per modality or asset). Raises DataError: the item goes to quarantine."""
        ...
