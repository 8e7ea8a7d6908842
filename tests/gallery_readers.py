"""Readers that search one gallery while it is published and rolled back; processes import what stands here."""

from dataclasses import dataclass, field
from typing import Protocol

from cmir.gallery.search import Searcher
from tests.gallery_rows import vector_of

K = 10


class Signal(Protocol):
    """An Event of threads or of processes."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


@dataclass
class Seen:
    """What a reader saw: answers of each space, sequence numbers that went back, and answers that were not whole."""

    num_answers: dict[str, int] = field(default_factory=dict)
    num_backward: int = 0
    wrong: list[str] = field(default_factory=list)


def read_until(uri: str, whole: dict[str, list[str]], started: Signal, stop: Signal) -> Seen:
    """Search until told to stop; `whole` holds for each space the ids of its one right answer, best first."""
    seen, query = Seen(), vector_of("x")[None]
    searcher = Searcher.open(uri)
    while not stop.is_set():
        fresh = searcher.refresh()
        seen.num_backward += fresh.pointer.sequence < searcher.pointer.sequence
        searcher = fresh
        found = [hit.item_id for hit in searcher.search(query, k=K)[0]]
        if found != whole[searcher.space_id]:
            seen.wrong.append(f"{searcher.pointer.sequence} {searcher.space_id}: {found}")
        seen.num_answers[searcher.space_id] = seen.num_answers.get(searcher.space_id, 0) + 1
        started.set()
    return seen
