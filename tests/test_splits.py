from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cmir.archive.sources import Item
from cmir.archive.splits import draw_splits, split_by_quota


def _items(num_groups: int, per_group: int = 2, population: str = "") -> list[Item]:
    return [
        Item(f"{g}/{i}", f"{population}-scene-{g}", 1, population=population)
        for g in range(num_groups)
        for i in range(per_group)
    ]


@given(st.integers(1, 250), st.integers(0, 5))
def test_a_group_never_stands_on_two_sides(num_groups: int, seed: int) -> None:
    drawn = list(draw_splits(_items(num_groups), seed))
    assert len(drawn) == 2 * num_groups
    sides: dict[str, set[str]] = {}
    for item, split in drawn:
        sides.setdefault(item.scene_id, set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values())
    if num_groups >= 3 and num_groups < 100:
        assert {split for _, split in drawn} == {"train", "val", "test"}


def test_few_groups_are_divided_by_quota() -> None:
    assert Counter(split_by_quota([str(i) for i in range(50)], 0).values()) == {"train": 40, "val": 5, "test": 5}
    assert Counter(split_by_quota(["a"], 0).values()) == {"train": 1}
    assert Counter(split_by_quota(["a", "b"], 0).values()) == {"train": 1, "test": 1}


def test_many_groups_keep_their_split_when_others_are_added() -> None:
    few = {item.scene_id: split for item, split in draw_splits(_items(1000), 7)}
    more = {item.scene_id: split for item, split in draw_splits(_items(2000), 7)}
    assert all(more[group] == split for group, split in few.items())
    shares = Counter(more.values())
    assert abs(shares["train"] / 2000 - 0.8) < 0.03
    assert abs(shares["test"] / 2000 - 0.1) < 0.03


def test_populations_are_divided_by_themselves_and_an_items_own_split_is_kept() -> None:
    voices = _items(8, population="speech")
    forced = Item("flite/1", "flite", 1, split="test", population="speech")
    drawn = list(draw_splits([*_items(500), *voices, forced], 0))
    spoken = Counter(split for item, split in drawn if item.population == "speech" and item is not forced)
    assert spoken == {"train": 12, "val": 2, "test": 2}
    assert (forced, "test") in drawn


def test_one_split_for_all() -> None:
    assert {split for _, split in draw_splits(_items(200), 0, "val")} == {"val"}
