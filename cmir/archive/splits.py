"""Items become train, val and test by their scene_id, so that no ground and no speaker stands on two sides.

From 100 groups on a seeded hash decides each group by itself (80/10/10), which streams and never moves a group when
others are added. Under 100 the hash only orders the groups and quotas are filled, since a hash alone could leave a
split empty. Groups are drawn within their population: eight voices beside a thousand scenes are divided as eight.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cmir.archive.schema import Split
from cmir.archive.sources import Item

VAL_SHARE: Final = 0.1
TEST_SHARE: Final = 0.1
NUM_GROUPS_FOR_HASH: Final = 100


def draw_splits(items: Iterable[Item], seed: int, only: Split | None = None) -> Iterator[tuple[Item, Split]]:
    """Each item with its split; `only` puts all into one, an item's own `split` is kept.

    Holds back the items of at most 100 groups per population, nothing more.
    """
    waiting: dict[str, _Population] = {}
    for item in items:
        if only or item.split:
            yield item, only or item.split  # type: ignore[misc]  # one of the two is set
            continue
        population = waiting.setdefault(item.population, _Population())
        population.items.append(item)
        population.groups.add(item.scene_id)
        if len(population.groups) >= NUM_GROUPS_FOR_HASH:
            yield from ((held, split_by_hash(held.scene_id, seed)) for held in population.items)
            population.items.clear()
    for population in waiting.values():
        if population.items:
            quotas = split_by_quota(population.groups, seed)
            yield from ((item, quotas[item.scene_id]) for item in population.items)


def split_by_hash(scene_id: str, seed: int) -> Split:
    """The split of one group among many: its hash as a share of 1 against 0.8 and 0.9."""
    share = int(_hash(scene_id, seed)[:13], 16) / 16**13
    if share < 1 - VAL_SHARE - TEST_SHARE:
        return "train"
    return "val" if share < 1 - TEST_SHARE else "test"


def split_by_quota(groups: Iterable[str], seed: int) -> dict[str, Split]:
    """Splits of a few groups: ordered by their hash, at least one per split from three groups on.

    >>> sorted(split_by_quota({"a", "b", "c"}, seed=0).values())
    ['test', 'train', 'val']
    """
    ordered = sorted(groups, key=lambda group: _hash(group, seed))
    num = len(ordered)
    num_test = max(1, round(num * TEST_SHARE)) if num >= 2 else 0
    num_val = max(1, round(num * VAL_SHARE)) if num >= 3 else 0
    num_train = num - num_val - num_test
    return {
        group: "train" if i < num_train else "val" if i < num_train + num_val else "test"
        for i, group in enumerate(ordered)
    }


@dataclass(slots=True)
class _Population:
    items: list[Item] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def _hash(scene_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{scene_id}".encode()).hexdigest()
