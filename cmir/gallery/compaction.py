"""Many small fragments become few: a commit lists every fragment of its table, so that none may stay small for good.

Meant to be called after every commit, by the one who commits: mostly it does nothing, and looks at the table only when
as many commits have passed as could have made its small fragments many, since a look costs as much as a commit. What is
written at once is bounded, and fragments of a commit of full size are left alone: they are `upkeep.compact`'s.
"""

from collections.abc import Callable
from typing import Final

from lance.fragment import FragmentMetadata
from lance.optimize import Compaction, CompactionOptions

from cmir.gallery import commits

SMALL_ROWS: Final = 16_384  # a commit of 64 MiB has about 64,000
MERGED_ROWS: Final = 65_536
MANY_SMALL: Final = 64
FULL_ROWS: Final = 1_048_576
COMPACT_ABOVE_FRAGMENTS: Final = 8

Announce = Callable[[list[FragmentMetadata], list[FragmentMetadata]], None]


class Merger:
    """Merges the small fragments of a table whenever there are many; `announce` is told of old and new ones before.

    Other writers win: where one commits meanwhile, nothing is changed, and it is tried again when there are many more.
    """

    def __init__(self, uri: str, announce: Announce | None = None) -> None:
        self._uri, self._announce = uri, announce
        self._many = MANY_SMALL
        self._unlooked = 0  # commits that may pass without a look

    def merge(self) -> int:
        """After a commit, which adds a fragment: merge where there are many; returns how many fewer there are.

        Where others commit too, there may be as many times more before it is seen.
        """
        if self._unlooked:
            self._unlooked -= 1
            return 0
        return self._merge(SMALL_ROWS, MERGED_ROWS, self._many)

    def compact(self) -> int:
        """Merge all but full fragments: for between jobs, since it may write all of the table anew."""
        return self._merge(FULL_ROWS // 2, FULL_ROWS, COMPACT_ABOVE_FRAGMENTS + 1)

    def _merge(self, small_rows: int, merged_rows: int, many: int) -> int:
        dataset = commits.find_table(self._uri)
        standing = dataset.get_fragments() if dataset is not None else []
        num_rows = {fragment.fragment_id: fragment.metadata.num_rows for fragment in standing}
        large = [number for number, rows in num_rows.items() if rows >= small_rows]
        num_small = len(num_rows) - len(large)
        if dataset is None or num_small < many:
            self._unlooked = max(0, many - num_small - 1)
            return 0
        options = CompactionOptions(target_rows_per_fragment=merged_rows, excluded_fragment_ids=large)
        done = [task.execute(dataset) for task in Compaction.plan(dataset, options).tasks]
        if self._announce is not None:
            for result in done:
                self._announce(result.original_fragments, result.new_fragments)
        try:
            Compaction.commit(dataset, done)
        except OSError as error:
            if not commits.is_conflict(error):
                raise
            self._many = num_small + MANY_SMALL
            return 0
        self._many = MANY_SMALL
        return len(num_rows) - len(commits.open_table(self._uri).get_fragments())
