"""Publishing is the step of visibility: a tag keeps one table version alive, one small file points to it.

Readers follow `published.json` and open exactly the version it names, by its tag; rows committed later are not seen.
The file is replaced whole, so a publish or a rollback happens at one instant, and only where the one stands that was
looked at: of several at once each follows on the one before. The tags of the predecessors named in `previous` stay, so
that rolling back needs nothing but the file.
"""

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cmir.archive import storage
from cmir.errors import DataError, GalleryError
from cmir.gallery import commits
from cmir.gallery.table import Gallery
from cmir.gallery.thumbnails import tag_thumbnails, untag_thumbnails

log = logging.getLogger("cmir")

POINTER_NAME: Final = "published.json"
MAX_PREVIOUS: Final = 8  # predecessors kept alive; each keeps the files of its version
INDEX_NAME: Final = "vector_idx"  # of the vector column, in every space's table
IndexKind = Literal["exact", "IVF_FLAT", "IVF_SQ", "IVF_RQ"]


class IndexSettings(BaseModel):
    """How the vector column is indexed; `exact` scans all vectors and has no parameters."""

    model_config = ConfigDict(frozen=True)

    kind: IndexKind = "exact"
    params: Mapping[str, int] = {}


class SearchSettings(BaseModel):
    """How the index is searched: partitions looked at, and candidates per hit that are scored again exactly.

    `filtered_nprobes` stands in the place of `nprobes` where the asker narrows the search: of the rows near a query few
    pass a filter, so their nearest lie in more partitions, each of which costs less.
    """

    model_config = ConfigDict(frozen=True)

    nprobes: int | None = None
    refine_factor: int | None = None
    filtered_nprobes: int | None = None

    def under(self, *, is_filtered: bool) -> "SearchSettings":
        """The settings of one search, which has a filter beside its targets or none."""
        nprobes = self.filtered_nprobes if is_filtered and self.filtered_nprobes else self.nprobes
        return SearchSettings(nprobes=nprobes, refine_factor=self.refine_factor)


class TriedWay(BaseModel):
    """One way of searching that tuning saw: its worst recall, and the median milliseconds of one query."""

    model_config = ConfigDict(frozen=True)

    index: IndexSettings
    search: SearchSettings
    recall_at_10: float
    worst_case: str
    latency_ms: float
    latency_filtered_ms: float | None
    build_s: float


class Tuning(BaseModel):
    """How what is published was chosen: recall of every direction, also under filters, and everything that was tried.

    `recall_by_case` names a direction as `pan_to_ms`, with a filter as `pan_to_ms, 1% of rows`; `filters` holds, for
    each target and share, the condition that kept about so many of its rows.
    """

    model_config = ConfigDict(frozen=True)

    target_recall: float
    num_queries: int
    latency_ms: float
    latency_filtered_ms: float | None
    recall_by_case: Mapping[str, float]
    filters: Mapping[str, str]
    tried: tuple[TriedWay, ...] = ()


class Publication(BaseModel):
    """One published version of one space, with all that a reader needs to search it as it was tuned."""

    model_config = ConfigDict(frozen=True)

    sequence: int
    space_id: str
    table: str
    table_version: int
    tag: str
    index: IndexSettings
    search: SearchSettings
    recall_at_10: float
    bundle_uri: str
    published_at: datetime
    tuning: Tuning | None = None


class Pointer(Publication):
    """The content of published.json: the version that is served, and its predecessors, the newest first."""

    previous: tuple[Publication, ...] = ()


def read_pointer(uri: str) -> Pointer:
    """What the gallery at a URI serves. Raises GalleryError where it has not been published."""
    try:
        return _pointer(uri, storage.read_bytes(storage.join(uri, POINTER_NAME)))
    except DataError as error:
        fix = f"run jobs/index.py --gallery {uri} --publish"
        raise GalleryError(
            "gallery not published", seen=error.seen, expected=POINTER_NAME, where=uri, fix=fix
        ) from error


def _pointer(uri: str, content: bytes) -> Pointer:
    try:
        return Pointer.model_validate_json(content)
    except ValidationError as error:
        fix = f"run jobs/index.py --gallery {uri} --publish, which keeps the unreadable file beside it"
        where = storage.join(uri, POINTER_NAME)
        raise GalleryError("pointer not readable", seen=error.errors()[0]["msg"], where=where, fix=fix) from error


def find_pointer(uri: str) -> Pointer | None:
    """What the gallery at a URI serves, None where nothing has been published. Raises GalleryError when unreadable."""
    return read_pointer(uri) if storage.exists(storage.join(uri, POINTER_NAME)) else None


def publish(
    uri: str,
    space_id: str,
    *,
    table_version: int,
    index: IndexSettings,
    search: SearchSettings,
    recall_at_10: float,
    tuning: Tuning | None = None,
) -> Pointer:
    """Make one version of a space the served one, at one instant; returns the new pointer.

    Raises GalleryError where the version holds no rows or a changed shard is half replaced (its items would be there
    twice); the old pointer stands then.
    """
    gallery = Gallery.open(uri)
    space = gallery.space(space_id)
    dataset = commits.open_table(space.uri, table_version)
    if not dataset.count_rows():
        raise GalleryError("nothing to publish", seen="no rows", where=space.uri, fix="run jobs/embed.py")
    mixed = space.mixed_shards(dataset)
    if mixed:
        fix = "run jobs/embed.py once more, it ends what it began"
        raise GalleryError("changed shards are half replaced", seen=", ".join(mixed[:5]), where=space.uri, fix=fix)
    tags: list[str] = []

    def follow(standing: bytes | None) -> Pointer:
        current, sequence_before = _current(gallery, standing)
        sequence = 1 + sequence_before
        tags.append(f"published-{sequence:06d}-{uuid.uuid4().hex[:8]}")  # two publishers at once never share a tag
        tag_thumbnails(uri, tags[-1])
        dataset.tags.create(tags[-1], table_version)
        return Pointer(
            sequence=sequence,
            space_id=space_id,
            table=space_id,
            table_version=table_version,
            tag=tags[-1],
            index=index,
            search=search,
            recall_at_10=recall_at_10,
            bundle_uri=gallery.ledger.space(space_id).bundle_uri,
            published_at=datetime.now(UTC),
            tuning=tuning,
            previous=_history(current),
        )

    pointer = _repoint(uri, follow)
    for tag in tags[:-1]:  # of attempts that another publisher was ahead of
        untag_thumbnails(uri, tag)
        commits.untag(dataset, tag)
    return pointer


def rollback(uri: str) -> Pointer:
    """Serve what was served before, at one instant; returns the new pointer, which has a new sequence number.

    Raises GalleryError where nothing has been published, nothing came before, or its version is gone.
    """

    def follow(standing: bytes | None) -> Pointer:
        current = read_pointer(uri) if standing is None else _pointer(uri, standing)
        if not current.previous:
            raise GalleryError("nothing to roll back to", seen=f"sequence {current.sequence}, the first", where=uri)
        target = current.previous[0]
        commits.open_table(storage.join(uri, f"{target.table}.lance"), target.tag)  # it must still be there
        changed = {
            "sequence": current.sequence + 1,
            "published_at": datetime.now(UTC),
            "previous": current.previous[1:],
        }
        return Pointer.model_validate({**target.model_dump(), **changed})

    return _repoint(uri, follow)


def _current(gallery: Gallery, content: bytes | None) -> tuple[Pointer | None, int]:
    """What a pointer's content serves and its sequence number, (None, 0) where nothing was published.

    One that is no JSON is kept beside its place and nothing counts as served; the number is then the highest that it
    or a tag names. Raises GalleryError where the pointer is whole but another cmir's.
    """
    if content is None:
        return None, 0
    place = storage.join(gallery.uri, POINTER_NAME)
    try:
        current = Pointer.model_validate_json(content)
        return current, current.sequence
    except ValidationError as error:
        if _is_other_cmirs(content):
            fix = "publish with the cmir that wrote it, or move the file away to begin anew"
            seen = error.errors()[0]["msg"]
            raise GalleryError("pointer of another cmir", seen=seen, where=place, fix=fix) from error
    aside = f"{place}.unreadable-{uuid.uuid4().hex[:8]}"
    log.warning("the pointer cannot be read, nothing counts as served before; kept as %s", aside)
    storage.put_atomic(aside, content)
    tags = [tag for space_id in gallery.space_ids() for tag in gallery.space(space_id).dataset().tags.list()]
    named = [int(number) for number in re.findall(rb'"sequence"\s*:\s*(\d+)', content)]
    return None, max([*named, *(sequence_of_tag(tag) or 0 for tag in tags)], default=0)


def _is_other_cmirs(content: bytes) -> bool:
    try:
        return "sequence" in json.loads(content)
    except (ValueError, TypeError):
        return False


def sequence_of_tag(tag: str) -> int | None:
    """The sequence number of the publication that set a tag; None where the tag is somebody else's.

    >>> sequence_of_tag("published-000007-1c2d3e4f"), sequence_of_tag("mine")
    (7, None)
    """
    found = re.match(r"published-(\d+)-", tag)
    return int(found[1]) if found else None


def _history(current: Pointer | None) -> tuple[Publication, ...]:
    if current is None:
        return ()
    served = Publication.model_validate(current.model_dump(exclude={"previous": True, "tuning": {"tried"}}))
    return (served, *current.previous)[:MAX_PREVIOUS]


def _repoint(uri: str, follow: Callable[[bytes | None], Pointer]) -> Pointer:
    """Put the pointer that `follow` makes of the standing one's content; made anew where another came in between.

    Raises GalleryError when others came first `commits.MAX_ATTEMPTS` times in a row.
    """
    place = storage.join(uri, POINTER_NAME)
    for attempt in range(commits.MAX_ATTEMPTS):
        standing = storage.read_bytes(place) if storage.exists(place) else None
        pointer = follow(standing)
        try:
            storage.replace(place, pointer.model_dump_json(indent=1).encode(), standing)
        except FileExistsError:
            if not _was_put(place, pointer):
                log.debug("another pointer came before sequence %d, attempt %d", pointer.sequence, attempt + 1)
                commits.pause(attempt)
                continue
        return pointer
    seen, fix = f"{commits.MAX_ATTEMPTS} attempts", "publish from fewer places at once"
    raise GalleryError("another pointer came first, every time", seen=seen, where=place, fix=fix)


def _was_put(place: str, pointer: Pointer) -> bool:
    """True where a pointer stands, or another followed on it: its put went through, the answer did not."""
    with contextlib.suppress(DataError, ValidationError):
        current = Pointer.model_validate_json(storage.read_bytes(place))
        ours = (pointer.sequence, pointer.tag, pointer.published_at)
        return ours in [(one.sequence, one.tag, one.published_at) for one in (current, *current.previous)]
    return False
