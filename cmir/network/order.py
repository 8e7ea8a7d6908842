"""Which groups of items a step takes: f(seed, epoch), and never of how many workers there are.

Groups (grounds, utterances) are dealt to lanes. A step takes about one group of every lane, and a worker owns a run of
lanes. So the batch of a step is the same however many workers share it, after a resize every group of the epoch still
comes once, and a worker reads only its own lanes' part of the archive. An epoch has a whole number of steps of nearly
equal size; a step never holds a group twice.

What fits the cache is dealt at random. What does not is dealt as it lies in the shards, and a lane goes through it
window by window, in another order every epoch and shuffled within each: a batch then mixes as many places of the
archive as there are lanes, and only the windows in use need memory. Windows are whole row groups where the cache has
room for them, since of a row group all is read to decode any of it; so a small cache means few lanes.
"""

import itertools
from typing import Final

import numpy as np

from cmir.network.catalogue import Array

MAX_LANES: Final = 64  # more workers than lanes would leave some without work
_MIN_LANES: Final = 8  # even where the cache has no room for so many row groups
_GOLDEN: Final = (5**0.5 - 1) / 2  # its multiples spread evenly over 0..1, whatever run of them is taken


class GroupOrder:
    """The endless order of N groups.

    Args:
        sizes: bytes i64[N] that each group takes in the cache.
        pieces: row group i64[N] in which each begins; groups stand in the order of the shards.
        per_step: groups of a step of all workers together; what an epoch leaves over makes its steps a little smaller.
        cache_bytes: of one worker.
    """

    def __init__(self, sizes: Array, pieces: Array, *, per_step: int, seed: int, cache_bytes: int) -> None:
        count = len(sizes)
        self.fits = int(sizes.sum()) <= cache_bytes
        self.steps_per_epoch = -(-count // per_step)
        self.num_lanes = min(-(-count // self.steps_per_epoch), MAX_LANES)
        if not self.fits:
            largest = int(np.bincount(np.unique(pieces, return_inverse=True)[1], sizes).max())
            self.num_lanes = min(self.num_lanes, max(_MIN_LANES, cache_bytes // (2 * largest)))
        self.bounds = np.arange(self.num_lanes + 1) * count // self.num_lanes
        self._lane = np.repeat(np.arange(self.num_lanes), np.diff(self.bounds))
        self._seed = seed
        # groups by place: lane after lane
        self.groups = np.random.default_rng(seed).permutation(count) if self.fits else np.arange(count)
        window_bytes = max(1, cache_bytes // (2 * self.num_lanes))  # of every lane the window in use and the next
        self.window = np.zeros(count, np.int64) if self.fits else self._windows(sizes, pieces, window_bytes)
        self._orders: dict[int, Array] = {}

    def lanes(self, rank: int, world_size: int) -> range:
        """The lanes of one worker; none where there are more workers than lanes."""
        return range(rank * self.num_lanes // world_size, (rank + 1) * self.num_lanes // world_size)

    def positions(self, step: int, lane: int) -> tuple[int, range]:
        """The epoch of a step, and which of the lane's positions in it the step takes."""
        epoch, part = divmod(step, self.steps_per_epoch)
        count = int(self.bounds[lane + 1] - self.bounds[lane])
        phase = int(lane * _GOLDEN % 1.0 * self.steps_per_epoch)  # lanes skip a step at different times
        first, end = ((part + i) * count + phase for i in range(2))
        return epoch, range(first // self.steps_per_epoch, end // self.steps_per_epoch)

    def place(self, epoch: int, lane: int, position: int) -> int:
        """Where in `groups` and `window` the group at a lane's position stands."""
        return int(self._order(epoch)[self.bounds[lane] + position])

    def following_window(self, epoch: int, lane: int, position: int) -> int:
        """The window that a lane comes to after the one at a position."""
        mine = slice(self.bounds[lane], self.bounds[lane + 1])
        windows = self.window[self._order(epoch)[mine]]
        later = windows[position:][windows[position:] != windows[position]]
        return int(later[0]) if len(later) else int(self.window[self._order(epoch + 1)[mine][0]])

    def members(self, window: int, lanes: range) -> Array:
        """The groups of a window that lie in these lanes."""
        mine = slice(self.bounds[lanes.start], self.bounds[lanes.stop])
        found: Array = self.groups[mine][self.window[mine] == window]
        return found

    def _order(self, epoch: int) -> Array:
        """Places i64[N] lane after lane: windows of a lane in random order, groups shuffled within each."""
        if epoch not in self._orders:
            random = np.random.default_rng((self._seed, epoch))
            rank_of_window = random.permutation(int(self.window.max()) + 1)
            within = random.permutation(len(self.window))
            self._orders = {old: kept for old, kept in self._orders.items() if abs(old - epoch) <= 1}
            self._orders[epoch] = np.lexsort((within, rank_of_window[self.window], self._lane))
        return self._orders[epoch]

    def _windows(self, sizes: Array, pieces: Array, window_bytes: int) -> Array:
        """Numbers of windows i64[N]: of every lane as many row groups as fit one; a larger row group is cut evenly."""
        changes = (np.diff(pieces, prepend=-1) != 0) | (np.diff(self._lane, prepend=-1) != 0)
        starts = np.flatnonzero(changes)
        windows = np.zeros(len(sizes), np.int64)
        window, lane, filled = -1, -1, 0
        for first, end in itertools.pairwise([*starts.tolist(), len(sizes)]):
            run_bytes = int(sizes[first:end].sum())
            if self._lane[first] != lane or filled + run_bytes > window_bytes:
                window, filled = window + 1, 0
            num_parts = min(end - first, -(-run_bytes // window_bytes))
            windows[first:end] = window + np.arange(end - first) * num_parts // (end - first)
            window, lane, filled = window + num_parts - 1, int(self._lane[first]), filled + run_bytes // num_parts
        return windows
