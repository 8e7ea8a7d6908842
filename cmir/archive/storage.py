"""A URI (local path, file:// or s3://) becomes bytes, listings, filesystems.

Two decisions: s3fs lists and puts (it has conditional puts and retries), pyarrow's own filesystem reads Parquet (it
prefetches column chunks natively). A put is whole or not at all: locally a temporary file that is renamed, on S3 one
put.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from cmir.archive.object_store import S3Settings, arrow_s3, s3fs_filesystem
from cmir.errors import ConfigError, DataError

_SCHEME: Final = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_LOCK_SUFFIX: Final = ".lock"
_REFUSALS: Final = ("PreconditionFailed", "412")
_MEANWHILE: Final = "ConditionalRequestConflict"  # of AWS: another put or removal was under way


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a listing: where it is and how large."""

    uri: str
    num_bytes: int


def is_s3(uri: str) -> bool:
    """True for s3:// URIs."""
    return uri.startswith("s3://")


def local_path(uri: str) -> Path:
    """The Path of a local URI. Raises ConfigError for any scheme but file:// (and none)."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    if _SCHEME.match(uri):
        raise ConfigError("unsupported URI", seen=uri, expected="a local path, file:// or s3://")
    return Path(uri)


def absolute(uri: str) -> str:
    """The one name of a place, for another process too: absolute, with no `.` and `..` (locally) and no spare slashes.

    >>> absolute("s3://bucket//a/b/"), absolute("/data/./a/../b//c/")
    ('s3://bucket/a/b', '/data/b/c')
    """
    if is_s3(uri):
        return "s3://" + re.sub("/+", "/", uri.removeprefix("s3://")).rstrip("/")
    return re.sub("^/+", "/", os.path.abspath(local_path(uri)))  # noqa: PTH100 - Path has nothing that drops `..`


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended.

    >>> join("s3://bucket/a/", "b", "c.parquet")
    's3://bucket/a/b/c.parquet'
    """
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name_of(uri: str) -> str:
    """The last part of a URI's path."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def exists(uri: str) -> bool:
    """True where a file, or a folder with anything in it, is found (an empty local folder counts as absent).

    Raises DataError where that cannot be told.
    """
    with _named(uri):
        if not is_s3(uri):
            path = local_path(uri)
            return path.is_file() or (path.is_dir() and any(path.iterdir()))
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        filesystem.invalidate_cache()
        return bool(filesystem.exists(uri))


def list_files(uri: str, suffix: str = "") -> list[FileInfo]:
    """All files below a URI whose names end with `suffix`, sorted; a file lists itself.

    A link to nothing is listed with 0 bytes: its reader says what is wrong with it. Raises DataError where nothing is
    there or a folder cannot be read.
    """
    with _named(uri):
        if not is_s3(uri):
            return _list_local(local_path(uri), uri, suffix)
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        filesystem.invalidate_cache()
        found = filesystem.find(uri, detail=True)
    if not found:
        raise DataError("input not found", seen="no object", expected="a file or folder", where=uri)
    files = [FileInfo(f"s3://{key}", int(info["size"])) for key, info in found.items() if key.endswith(suffix)]
    return sorted((file for file in files if not file.uri.endswith("/")), key=lambda file: file.uri)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Raises DataError where it is missing or not readable."""
    with _named(uri):
        if not is_s3(uri):
            return local_path(uri).read_bytes()
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        return bytes(filesystem.cat_file(uri))


def open_input(uri: str) -> BinaryIO:
    """A seekable binary reader. Raises DataError where the file is missing or not readable."""
    with _named(uri):
        if not is_s3(uri):
            return local_path(uri).open("rb")
        return cast(BinaryIO, s3fs_filesystem(S3Settings.from_environment()).open(uri, "rb"))


def put_atomic(uri: str, data: bytes, *, if_absent: bool = False) -> None:
    """Write a file whole or not at all; with `if_absent` only where nothing stands yet.

    Raises FileExistsError when `if_absent` loses the race, OSError when the place cannot be written.
    """
    if is_s3(uri):
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        try:
            with _written(uri):
                filesystem.pipe_file(uri, data, mode="create" if if_absent else "overwrite")
        except OSError as error:
            if not (if_absent and _stood_before(error)):
                raise
            if filesystem.cat_file(uri) != data:  # else it is this very put, of which the answer was lost
                raise FileExistsError(errno.EEXIST, "stands already", uri) from error
        filesystem.invalidate_cache()
        return
    path = local_path(uri)
    try:
        _put_local(path, data, if_absent)
    except OSError as error:  # a full disk, for one, does not say which
        raise OSError(error.errno, error.strerror, uri) from error


def replace(uri: str, data: bytes, standing: bytes | None) -> None:
    """Write a file whole where just `standing` stands (None: nothing), at one instant; whoever else replaced it wins.

    Locally writers take turns by a lock on a hidden file beside it; on S3 the put names the ETag of what it replaces,
    and one that was refused but whose very data stands went through before (so no two writers may put the same). Raises
    FileExistsError where something else stands, OSError when the place cannot be written.
    """
    if is_s3(uri):
        if standing is None:
            put_atomic(uri, data, if_absent=True)
        elif not _replaced_on_s3(uri, data, standing):
            raise FileExistsError(errno.EEXIST, "something else stands", uri)
        return
    path = local_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if (path.read_bytes() if path.exists() else None) != standing:
                raise FileExistsError(errno.EEXIST, "something else stands", uri)
            _put_local(path, data, if_absent=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, uri) from error


def upload(local: Path, uri: str) -> None:
    """Put a local file at a URI, whole or not at all, without holding it in memory. Raises OSError where it cannot."""
    if is_s3(uri):
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        with _written(uri):
            filesystem.put_file(str(local), uri)
        filesystem.invalidate_cache()
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}.staged")
    try:
        shutil.copyfile(local, staged)
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def remove_staged(uri: str, older_than: timedelta) -> int:
    """Remove what puts that were killed left in a folder; returns how many bytes. On S3 there is nothing to remove."""
    if is_s3(uri) or not local_path(uri).is_dir():
        return 0
    num_bytes = 0
    for path in local_path(uri).glob(".*"):
        with contextlib.suppress(FileNotFoundError):  # put in its place meanwhile
            found = path.lstat()
            is_staged = path.is_file() and path.suffix != _LOCK_SUFFIX
            if is_staged and time.time() - found.st_mtime > older_than.total_seconds():
                path.unlink()
                num_bytes += found.st_size
    return num_bytes


def delete_tree(uri: str) -> None:
    """Remove a file or a folder with all in it; nothing there is no error."""
    if is_s3(uri):
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        filesystem.invalidate_cache()
        if filesystem.exists(uri):
            filesystem.rm(uri, recursive=True)
        return
    path = local_path(uri)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move_tree(source_uri: str, target_uri: str) -> None:
    """Move a folder: a rename locally; on S3 server-side copies, then removal of the source."""
    if is_s3(source_uri):
        filesystem = s3fs_filesystem(S3Settings.from_environment())
        for file in list_files(source_uri):
            filesystem.copy(file.uri, join(target_uri, file.uri[len(source_uri.rstrip("/")) + 1 :]))
        delete_tree(source_uri)
        filesystem.invalidate_cache()
        return
    target = local_path(target_uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    local_path(source_uri).rename(target)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path to a file or folder: itself where it is local, else a temporary download."""
    if not is_s3(uri):
        path = local_path(uri)
        if not path.exists():
            raise DataError("input not found", seen="nothing", expected="a file or folder", where=uri)
        yield path
        return
    filesystem = s3fs_filesystem(S3Settings.from_environment())
    with tempfile.TemporaryDirectory(prefix="cmir-") as folder:
        target = Path(folder) / name_of(uri)
        with _named(uri):
            filesystem.get(uri, str(target), recursive=bool(filesystem.isdir(uri)))
        yield target


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """pyarrow's native filesystem for a URI and the path inside it."""
    if not is_s3(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
    return arrow_s3(S3Settings.from_environment()), uri.removeprefix("s3://")


def lance_options(uri: str) -> dict[str, str] | None:
    """Lance's storage_options for a URI (all strings); None for local places."""
    if not is_s3(uri):
        return None
    return S3Settings.from_environment().lance_options()


def _stood_before(error: OSError) -> bool:
    """True for a conditional put that lost; not every store says which condition failed."""
    return isinstance(error, FileExistsError) or _code_of(error) in _REFUSALS


def _code_of(error: OSError) -> str | None:
    """The store's own word for an error, None where it did not answer."""
    cause = error.__cause__
    return cause.response["Error"].get("Code") if isinstance(cause, ClientError) else None


def _replaced_on_s3(uri: str, data: bytes, standing: bytes) -> bool:
    """Put where `standing` stands; False where something else does.

    The ETag is asked for before the content: were there a change between the two, the put would be refused.
    """
    filesystem = s3fs_filesystem(S3Settings.from_environment())
    filesystem.invalidate_cache()
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        etag = filesystem.info(uri, refresh=True)["ETag"].strip('"')  # Ceph compares it as it comes
        if filesystem.cat_file(uri) != standing:
            return False
        with _written(uri):
            filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfMatch=etag)
    except FileNotFoundError:
        return False
    except OSError as error:
        if not (_stood_before(error) or _code_of(error) == _MEANWHILE):
            raise
        return bool(filesystem.cat_file(uri) == data)  # this very put, of which the answer was lost
    finally:
        filesystem.invalidate_cache()
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file among the processes and threads that ask for it; it goes with a process that dies."""
    with path.with_name(f".{path.name}{_LOCK_SUFFIX}").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _put_local(path: Path, data: bytes, if_absent: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        staged = Path(temporary.name)
        try:
            temporary.write(data)
            temporary.flush()
            os.fsync(temporary.fileno())
            staged.chmod(0o644)
            if if_absent:
                os.link(staged, path)
            else:
                staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)


def _list_local(path: Path, uri: str, suffix: str) -> list[FileInfo]:
    if path.is_file():
        return [FileInfo(uri, path.stat().st_size)] if path.name.endswith(suffix) else []
    if not path.is_dir():
        raise DataError("input not found", seen="nothing", expected="a file or folder", where=uri)
    files: list[FileInfo] = []
    for folder, _, names in os.walk(path, onerror=_refuse_folder):
        wanted = (name for name in names if name.endswith(suffix) and not name.startswith("."))
        found = (_info(os.path.join(folder, name)) for name in wanted)  # noqa: PTH118 - a Path for each takes too long
        files += [file for file in found if file is not None]
    return sorted(files, key=lambda file: file.uri)


def _info(path: str) -> FileInfo | None:
    """One file of a listing; None where it went away while the folder was read."""
    try:
        return FileInfo(path, os.stat(path).st_size)  # noqa: PTH116
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114
            return FileInfo(path, 0)
        if isinstance(error, FileNotFoundError):
            return None
        raise


def _refuse_folder(error: OSError) -> None:
    """What os.walk cannot read must not be passed over, unless it went away meanwhile."""
    if not isinstance(error, FileNotFoundError):
        seen, where = error.strerror or type(error).__name__, error.filename
        raise DataError("folder not readable", seen=seen, expected="read permission", where=where) from error


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turn the many errors of reading into one that names the place."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("input not found", seen="nothing", expected="a readable file", where=uri) from error
    except PermissionError as error:
        raise DataError("not readable", seen="permission denied", expected="read permission", where=uri) from error
    except IsADirectoryError as error:
        raise DataError("not a file", seen="a folder", expected="a file", where=uri) from error
    except (OSError, BotoCoreError) as error:  # of botocore's errors, that nobody answers is no OSError
        raise DataError("cannot be read", seen=f"{type(error).__name__}: {error}", where=uri) from error


@contextlib.contextmanager
def _written(uri: str) -> Iterator[None]:
    """Turn what botocore raises where nobody answers into the OSError that it is."""
    try:
        yield
    except BotoCoreError as error:
        raise OSError(f"{uri} cannot be written: {error}") from error
