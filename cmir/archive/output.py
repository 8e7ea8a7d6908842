"""An output folder is claimed, filled beside its place, and moved there when whole; nothing is deleted before that.

Work in progress stands in `<output>.partial`, with the settings it was begun with, so `--resume` goes on only with its
own. Locally the last step is a rename; on S3 a copy within the store, then the removal of what it replaced.

Of two jobs at one output, one gives way. Locally the claim is locked for as long as its job lives (the kernel lets go
of a dead job's), so the second is refused. S3 has no such lock: there the one that took over wins, and the other finds
the claim no longer its own and puts nothing in place.
"""

import fcntl
import json
import secrets
from dataclasses import dataclass, field
from typing import IO, Any, Final

from cmir.archive import storage
from cmir.errors import ConfigError, DataError

_CLAIM: Final = "_claim.json"


@dataclass(frozen=True, slots=True)
class Output:
    """A claimed output: write below `working_uri`, then `finish`."""

    uri: str
    replaces: bool
    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    _locks: list[IO[bytes]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def working_uri(self) -> str:
        return self.uri + ".partial"

    @classmethod
    def claim(cls, uri: str, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> "Output":
        """Take an output place for these settings (JSON values).

        Raises ConfigError where something stands there that neither flag allows for, where `resume` finds a partial
        output begun with other settings, or where another job is at work on it.
        """
        output = cls(storage.absolute(uri), replaces=overwrite)
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other", fix="give one of them")
        if storage.exists(output.uri) and not overwrite:
            fix = "choose another --output, or give --overwrite"
            raise ConfigError("output exists", seen=output.uri, expected="nothing there yet", fix=fix)
        stands = storage.exists(output._claim_uri)
        if stands:
            output._lock()  # a job that lives is never taken over from
        if storage.exists(output.working_uri):
            output._take_over(settings, resume=resume)
        claim = json.dumps({"owner": output.owner, "settings": settings}, sort_keys=True).encode()
        try:
            storage.put_atomic(output._claim_uri, claim, if_absent=overwrite or not stands)
        except FileExistsError as error:
            raise output._taken() from error
        output._lock()
        return output

    def finish(self) -> None:
        """Put the finished work in its place. Raises ConfigError where another job took it over."""
        if self._begun().get("owner") != self.owner:
            raise self._taken()
        if not storage.exists(self.uri):
            storage.move_tree(self.working_uri, self.uri)
        elif storage.is_s3(self.uri):
            names = {file.uri[len(self.working_uri) :] for file in storage.list_files(self.working_uri)}
            old = [file.uri for file in storage.list_files(self.uri)]
            storage.move_tree(self.working_uri, self.uri)
            for uri in old:
                if uri[len(self.uri) :] not in names:
                    storage.delete_tree(uri)
        else:
            aside = self.uri + ".replaced"
            storage.delete_tree(aside)
            storage.move_tree(self.uri, aside)
            storage.move_tree(self.working_uri, self.uri)
            storage.delete_tree(aside)
        storage.delete_tree(storage.join(self.uri, _CLAIM))  # last, so that it guards the move too
        for lock in self._locks:
            lock.close()

    @property
    def _claim_uri(self) -> str:
        return storage.join(self.working_uri, _CLAIM)

    def _begun(self) -> dict[str, Any]:
        """The claim as it stands; empty where a job died before it wrote one."""
        try:
            return dict(json.loads(storage.read_bytes(self._claim_uri)))
        except DataError:
            return {}

    def _lock(self) -> None:
        """Hold the claim that stands, for as long as this object lives. Raises ConfigError where another job does."""
        if storage.is_s3(self.uri):
            return
        try:
            claim = storage.local_path(self._claim_uri).open("rb")
            self._locks.append(claim)
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError) as error:
            raise self._taken() from error

    def _taken(self) -> ConfigError:
        fix = "wait for the other job, or choose another --output"
        return ConfigError("another job is at work on this output", seen=self.working_uri, fix=fix)

    def _take_over(self, settings: dict[str, Any], *, resume: bool) -> None:
        if self.replaces:
            storage.delete_tree(self.working_uri)  # unfinished work, and the asker wants a fresh start
            return
        if not resume:
            fix = "give --resume to go on with it, or --overwrite to start afresh"
            raise ConfigError("a partial output exists", seen=self.working_uri, expected="nothing there yet", fix=fix)
        begun = self._begun().get("settings")
        if begun is None:
            return  # nothing to differ from
        changed = sorted(key for key in {*begun, *settings} if begun.get(key) != settings.get(key))
        if changed:
            seen = ", ".join(f"{key}={settings.get(key)!r}" for key in changed)
            expected = ", ".join(f"{key}={begun.get(key)!r}" for key in changed)
            fix = "repeat the first command with --resume, or give --overwrite"
            raise ConfigError("resumed with other settings", seen=seen, expected=expected, where=self.uri, fix=fix)
