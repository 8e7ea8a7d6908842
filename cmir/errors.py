"""What can go wrong, as one small tree; every message has the same five parts.

CmirError
|-- ConfigError          a flag, a key, a file of settings: refused before work begins
|-- DataError            bytes, rows, tables that came in: quarantined one by one, or refused when none is readable
|-- SpaceMismatchError   embeddings of two different spaces were about to be compared
|-- GalleryError         the gallery's tables, pointer or commits
|-- QueryError           what an asker sent: a query, a filter, a target
`-- StepError            one step of several ended with an error, when work had begun
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class CmirError(Exception):
    """What failed, the value seen, the value expected, where, and what to do about it.

    >>> print(DataError("cannot decode chip", seen="3 bands", expected="4 bands", where="a.tif", fix="name the bands"))
    cannot decode chip: seen 3 bands, expected 4 bands (a.tif). To mend it: name the bands
    """

    def __init__(
        self,
        what: str,
        *,
        seen: object = None,
        expected: object = None,
        where: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.seen, self.expected, self.where, self.fix = what, seen, expected, where, fix
        parts = [f"seen {seen}"] if seen is not None else []
        parts += [f"expected {expected}"] if expected is not None else []
        text = what + (": " + ", ".join(parts) if parts else "")
        text += f" ({where})" if where is not None else ""
        text += f". To mend it: {fix}" if fix else ""
        super().__init__(text)

    def at(self, where: str) -> Self:
        """The same error, saying in which file or place it happened, before what it says of that already."""
        known = "" if self.where is None else str(self.where)
        if not known.startswith(where):
            known = f"{where}, {known}" if known else where
        return type(self)(self.what, seen=self.seen, expected=self.expected, where=known, fix=self.fix)

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments do not survive pickling by themselves
        return _rebuild, (type(self), self.what, self.seen, self.expected, self.where, self.fix)


class ConfigError(CmirError):
    """Flags, environment or settings files that cannot be used; work has not begun (exit 2)."""


class DataError(CmirError):
    """Input bytes, rows or tables that cannot be used; a single one goes to quarantine."""


class SpaceMismatchError(CmirError):
    """Embeddings named by two different space_ids were about to be compared."""


class GalleryError(CmirError):
    """The gallery's tables, ledger, index or pointer are not as they must be."""


class QueryError(CmirError):
    """A query that cannot be answered as asked: its media, target, k or filters."""


class StepError(CmirError):
    """One step of several ended with an error; its own message stands before this one (exit 1)."""


@contextmanager
def parsing(what: str, *, where: str, expected: str | None = None) -> Iterator[None]:
    """Around the calls of a format's library, and nothing else: whatever damaged bytes make it raise is a DataError.

    For libraries that do not say what they raise (scipy.io: zlib.error, IndexError, UnboundLocalError, ...).

    >>> with parsing("cannot read table", where="a.mat"):
    ...     raise IndexError("out of range")
    Traceback (most recent call last):
    cmir.errors.DataError: cannot read table: seen IndexError: out of range (a.mat)
    """
    try:
        yield
    except CmirError:
        raise
    except Exception as error:  # the border to a parser: see above
        raise DataError(what, seen=f"{type(error).__name__}: {error}", expected=expected, where=where) from error


def _rebuild(
    kind: type[CmirError], what: str, seen: object, expected: object, where: object, fix: str | None
) -> CmirError:
    return kind(what, seen=seen, expected=expected, where=where, fix=fix)
