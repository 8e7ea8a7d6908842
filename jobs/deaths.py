"""Which pieces were under way when their worker died."""

import ray
from ray.actor import ActorHandle

PATIENCE = 2  # deaths of workers under a piece before its rows are looked at one by one


class _Deaths:
    """Pieces that were begun and not ended, and how often: a worker that dies ends none of its own."""

    def __init__(self) -> None:
        self._num_begun: dict[str, int] = {}

    def begin(self, piece_id: str) -> int:
        """How many workers have begun the piece before, and not ended it."""
        num_before = self._num_begun.get(piece_id, 0)
        self._num_begun[piece_id] = num_before + 1
        return num_before

    def end(self, piece_id: str) -> None:
        """The piece came to an end, whatever came of it."""
        self._num_begun.pop(piece_id, None)


class Deaths:
    """What the workers of one job tell each other, through an actor; a copy of this goes to each of them.

    The count starts anew where the actor's own node is lost, so a piece is tried more often then, never less.
    """

    def __init__(self) -> None:
        self._actor: ActorHandle = (
            ray.remote(_Deaths).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        )

    def begin(self, piece_id: str) -> int:
        """Workers that died with this piece under way so far, the innocent deaths counted in."""
        num_before: int = ray.get(self._actor.begin.remote(piece_id))
        return num_before

    def end(self, piece_id: str) -> None:
        """The piece came to an end."""
        self._actor.end.remote(piece_id)
