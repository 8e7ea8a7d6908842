"""`python -m tests.faults.driver FLAGS`: the embed job, a commit for every piece, and a crash where one is set.

CRASH_AT names where the process ends as by SIGKILL: `written` (rows are on disk, no version names them), `committed`
(the rows are visible, nothing after them is done), `half` (the rows' ledger entries stand, the rows do not), `replaced`
(the rows of earlier versions of changed shards are gone, their records are not). With WAIT_AFTER_WORK the job stops
when all is committed, and goes on once the file `late.waits` in its gallery has been taken away. With WITHOUT_CLUSTER
pieces are embedded in this process.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cmir.gallery import commits
from cmir.gallery.ledger import Ledger
from cmir.gallery.table import SpaceTable
from jobs import cluster, committer, embed
from jobs.entrypoint import run_command
from tests.faults.process import embedded_here


def end_after(module: Any, name: str, *, calls: int, is_counted: Callable[..., bool] = lambda *given: True) -> None:
    """End this process, as if killed, once `name` has returned that many times."""
    function, seen = getattr(module, name), 0

    def watched(*given: Any, **named: Any) -> Any:
        nonlocal seen
        result = function(*given, **named)
        seen += is_counted(*given)
        if seen >= calls:
            os._exit(137)
        return result

    setattr(module, name, watched)


def wait_after_work() -> None:
    """Stop before what is stale is looked for."""
    stale_pieces = SpaceTable.stale_pieces

    def late(table: SpaceTable, versions: Mapping[str, str]) -> list[str]:
        waits = Path(table.gallery.uri) / "late.waits"
        waits.touch()
        while waits.exists():
            time.sleep(0.1)
        return stale_pieces(table, versions)

    SpaceTable.stale_pieces = late  # type: ignore[method-assign]


def _of_a_space(dataset: Any, *_: object) -> bool:
    return "/thumbnails.lance" not in dataset.uri


if __name__ == "__main__":
    committer.COMMIT_BYTES = 1  # type: ignore[misc]
    match os.environ.get("CRASH_AT"):
        case "written":
            end_after(commits, "_write", calls=3, is_counted=_of_a_space)
        case "committed":
            end_after(commits, "_commit", calls=3, is_counted=_of_a_space)
        case "half":
            end_after(Ledger, "add", calls=1, is_counted=lambda _, __, entries: bool(entries))
        case "replaced":
            end_after(commits, "delete", calls=1)
    if os.environ.get("WITHOUT_CLUSTER"):
        cluster.connect = lambda: None  # type: ignore[assignment]
        embed._embedded_pieces = embedded_here
    if os.environ.get("WAIT_AFTER_WORK"):
        wait_after_work()
    sys.exit(run_command("embed", embed.EmbedConfig, embed.run, sys.argv[1:]))
