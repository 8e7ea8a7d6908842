"""Rows become visible in a Lance table by compare-and-set: a commit holds only if nobody wrote since we looked.

The surprising decision: a plain Lance append never conflicts, so two writers that both find a piece absent would both
add it. A `Merge` commit lists the fragments of the whole table, therefore it conflicts with every other change of rows
(merge, delete, compaction) and passes beside index builds, which change none. With retries inside Lance switched off,
"read, choose what is absent, commit, on conflict read again" is exact for any number of writers. New fragments carry
id 0; Lance draws their ids from the table's high-water mark, so that ids of deleted fragments are never used again.
"""

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments

from cmir.archive import storage
from cmir.archive.patience import patient
from cmir.errors import GalleryError

log = logging.getLogger("cmir")

MAX_ATTEMPTS: Final = 100
MAX_BUILDS: Final = 10  # of what takes seconds to minutes each
_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 2.0
NAMED_AT_ONCE: Final = 10_000  # values named in one predicate, which is one reading of the whole column

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Addition:
    """Rows that are absent from the version looked at; `keys` name them, equal keys mean equal rows."""

    keys: tuple[str, ...]
    rows: pa.Table


@patient
def open_table(uri: str, version: int | str | None = None) -> lance.LanceDataset:
    """The Lance table at a URI, at its newest version, a version number or a tag.

    Raises GalleryError where there is none. Only not-found is turned into that; other trouble keeps its own error.
    """
    try:
        return lance.dataset(uri, version=version, storage_options=storage.lance_options(uri))
    except ValueError as error:
        if "not found" not in str(error).lower() and "does not exist" not in str(error).lower():
            raise
        seen = "no table" if version is None else f"no version {version!r}"
        raise GalleryError("table not found", seen=seen, where=uri, fix="run jobs/embed.py") from error


def find_table(uri: str) -> lance.LanceDataset | None:
    """The Lance table at a URI at its newest version, None where there is none."""
    try:
        return open_table(uri)
    except GalleryError:
        return None


def exists_table(uri: str) -> bool:
    """True where a Lance table stands."""
    return find_table(uri) is not None


@patient
def ensure_table(uri: str, schema: pa.Schema) -> lance.LanceDataset:
    """The table at a URI, created empty where there is none; any number of creators get the same one."""
    if (standing := find_table(uri)) is not None:
        return standing
    if not storage.is_s3(uri):
        storage.local_path(uri).parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(uri):
            lance.write_dataset(schema.empty_table(), uri, mode="create", storage_options=storage.lance_options(uri))
    except OSError as error:
        if "already exists" not in str(error) and not is_conflict(error):
            raise
    return open_table(uri)


@patient
def add_absent(
    uri: str,
    choose: Callable[[lance.LanceDataset], Addition],
    announce: Callable[[list[FragmentMetadata]], None] | None = None,
) -> lance.LanceDataset:
    """Add what `choose` finds absent in the newest version; returns the version that holds it.

    `choose` is called again after every conflict, with the newer version; `announce` is told the new fragments
    before a commit makes them part of the table, which it may yet fail to do. Raises GalleryError when other writers
    won `MAX_ATTEMPTS` times in a row, or when the row count after the commit is not the one it must be.
    """
    written: tuple[tuple[str, ...], list[FragmentMetadata]] = ((), [])
    for attempt in range(MAX_ATTEMPTS):
        dataset = open_table(uri)
        if _stands(dataset, written[1]):  # the commit went through, its answer did not
            return dataset
        addition = choose(dataset)
        if not len(addition.rows):
            return dataset
        if written[0] != addition.keys:
            with writing(uri):
                written = (addition.keys, _write(dataset, addition.rows))
            if announce is not None:
                announce(written[1])
        try:
            with writing(uri):
                committed = _commit(dataset, written[1])
        except OSError as error:
            if not is_conflict(error):
                raise
            log.debug("commit to %s lost a race, attempt %d", uri, attempt + 1)
            pause(attempt)
            continue
        _check_count(uri, dataset, len(addition.rows), committed)
        return committed
    raise GalleryError(
        "commit lost every race", seen=f"{MAX_ATTEMPTS} attempts", where=uri, fix="run fewer jobs at once"
    )


def on_newest(uri: str, change: Callable[[lance.LanceDataset], Result]) -> Result:
    """What a change of the newest version gives; made again on a newer one where another writer came in between.

    For index builds: a job that commits beside them merges fragments now and then, of which an older version knows
    nothing. Raises GalleryError when that happened `MAX_BUILDS` times in a row.
    """
    for attempt in range(MAX_BUILDS):
        try:
            return change(open_table(uri))
        except OSError as error:
            if not is_conflict(error):
                raise
            log.info("%s was changed while it was indexed, attempt %d: %s", uri, attempt + 1, error)
            pause(attempt)
    seen, fix = f"{MAX_BUILDS} attempts", "run it again when no job commits to the table"
    raise GalleryError("the table was changed during every attempt", seen=seen, where=uri, fix=fix)


def remove(dataset: lance.LanceDataset, conditions: Mapping[int, str]) -> bool:
    """Remove the rows of fragments (id -> SQL) from a table; false, and nothing done, where those were changed since.

    What others added to the table since the version given is left alone, whatever it is.
    """
    changed: list[FragmentMetadata] = []
    emptied: list[int] = []
    with writing(dataset.uri):
        for number, condition in conditions.items():
            left = dataset.get_fragment(number).delete(condition)
            if left is None:
                emptied.append(number)
            else:
                changed.append(left)
        operation = lance.LanceOperation.Delete(changed, emptied, " OR ".join(map("({})".format, conditions.values())))
        options = storage.lance_options(dataset.uri)
        try:
            lance.LanceDataset.commit(
                dataset, operation, read_version=dataset.version, storage_options=options, max_retries=0
            )
        except OSError as error:
            if not is_conflict(error):
                raise
            return False
    return True


@patient
def delete(dataset: lance.LanceDataset, column: str, values: list[str], condition: str = "true") -> int:
    """Delete the rows whose column is one of the values, where a condition holds too; returns how many rows went."""
    num_deleted = 0
    for start in range(0, len(values), NAMED_AT_ONCE):
        predicate = is_one_of(column, values[start : start + NAMED_AT_ONCE])
        with writing(dataset.uri):
            num_deleted += int(dataset.delete(f"({predicate}) AND ({condition})")["num_deleted_rows"])
    return num_deleted


@patient
def append(uri: str, rows: pa.Table) -> None:
    """Append rows to a table whose order and repetitions mean nothing; it is made where there is none."""
    dataset = ensure_table(uri, rows.schema)
    with writing(uri):
        lance.write_dataset(rows, dataset, mode="append", storage_options=storage.lance_options(uri))


def untag(dataset: lance.LanceDataset, tag: str) -> None:
    """Take a tag from a table, if that can be done: clean-up finds what is left."""
    with contextlib.suppress(ValueError, OSError):
        dataset.tags.delete(tag)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[None]:
    """Name the table where Lance's error does not; conflicts pass as they are."""
    try:
        yield
    except OSError as error:
        if is_conflict(error) or uri in str(error):
            raise
        raise OSError(f"{uri} cannot be written: {error}") from error


def is_conflict(error: OSError) -> bool:
    """True where Lance says that another writer came first; compaction and creation have no class of their own."""
    text = str(error).lower()
    return isinstance(error, CommitConflictError) or "commit conflict" in text or "concurrent commit" in text


def pause(attempt: int) -> None:
    """Wait after a lost race: longer with every one in a row, and not as long as another who lost it too."""
    time.sleep(random.uniform(0.5, 1) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))


def quoted(value: str) -> str:
    """A text as an SQL literal.

    >>> quoted("O'Brien")
    "'O''Brien'"
    """
    return "'" + value.replace("'", "''") + "'"


def is_one_of(column: str, values: list[str]) -> str:
    """SQL that holds for the rows whose column is one of the values; for none where there are none.

    >>> is_one_of("modality", ["ms", "rgb"])
    "modality IN ('ms', 'rgb')"
    """
    return f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"


def _write(dataset: lance.LanceDataset, rows: pa.Table) -> list[FragmentMetadata]:
    options = storage.lance_options(dataset.uri)
    return list(write_fragments(rows, dataset, schema=rows.schema, storage_options=options))


def _commit(dataset: lance.LanceDataset, new: list[FragmentMetadata]) -> lance.LanceDataset:
    standing = [fragment.metadata for fragment in dataset.get_fragments()]
    return lance.LanceDataset.commit(
        dataset,
        lance.LanceOperation.Merge([*standing, *new], dataset.lance_schema),
        read_version=dataset.version,
        storage_options=storage.lance_options(dataset.uri),
        max_retries=0,
    )


def _stands(dataset: lance.LanceDataset, written: list[FragmentMetadata]) -> bool:
    """True where a version holds the very files that were written."""
    ours = {file.path for fragment in written for file in fragment.files}
    return bool(ours) and any(file.path in ours for one in dataset.get_fragments() for file in one.metadata.files)


def _check_count(uri: str, before: lance.LanceDataset, num_added: int, after: lance.LanceDataset) -> None:
    expected, seen = before.count_rows() + num_added, after.count_rows()
    if seen != expected:
        fix = "run jobs/index.py --check and report what it says"
        raise GalleryError("commit changed the wrong number of rows", seen=seen, expected=expected, where=uri, fix=fix)
