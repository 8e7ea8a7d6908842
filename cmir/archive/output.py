"""An output folder is claimed, filled beside its place, and moved there when whole; nothing is deleted before that.

Work in progress stands in `<output>.partial`, with the settings it was begun with, so `--resume` goes on only with its
own. Locally the last step is a rename; on S3 a copy within the store, then the removal of what it replaced.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from cmir.archive import storage
from cmir.errors import ConfigError, DataError

_CLAIM: Final = "_claim.json"


@dataclass(frozen=True, slots=True)
class Output:
    """A claimed output: write below `working_uri`, then `finish`."""

    uri: str
    replaces: bool

    @property
    def working_uri(self) -> str:
        return self.uri + ".partial"

    @classmethod
    def claim(cls, uri: str, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> "Output":
        """Take an output place for these settings (JSON values).

        Raises ConfigError where something stands there that neither flag allows for, or where `resume` finds a partial
        output begun with other settings.
        """
        output = cls(storage.absolute(uri), replaces=overwrite)
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other", fix="give one of them")
        if storage.exists(output.uri) and not overwrite:
            fix = "choose another --output, or give --overwrite"
            raise ConfigError("output exists", seen=output.uri, expected="nothing there yet", fix=fix)
        if storage.exists(output.working_uri):
            output._take_over(settings, resume=resume)
        claim = json.dumps(settings, sort_keys=True).encode()
        if not storage.exists(storage.join(output.working_uri, _CLAIM)):
            try:
                storage.put_atomic(storage.join(output.working_uri, _CLAIM), claim, if_absent=True)
            except FileExistsError as error:
                fix = "wait for the other job, or choose another --output"
                raise ConfigError("output was claimed by another job just now", seen=output.uri, fix=fix) from error
        return output

    def finish(self) -> None:
        """Put the finished work in its place."""
        storage.delete_tree(storage.join(self.working_uri, _CLAIM))
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

    def _take_over(self, settings: dict[str, Any], *, resume: bool) -> None:
        if self.replaces:
            storage.delete_tree(self.working_uri)  # unfinished work, and the asker wants a fresh start
            return
        if not resume:
            fix = "give --resume to go on with it, or --overwrite to start afresh"
            raise ConfigError("a partial output exists", seen=self.working_uri, expected="nothing there yet", fix=fix)
        try:
            begun = json.loads(storage.read_bytes(storage.join(self.working_uri, _CLAIM)))
        except DataError:
            return  # died before its claim was written: nothing to differ from
        changed = sorted(key for key in {*begun, *settings} if begun.get(key) != settings.get(key))
        if changed:
            seen = ", ".join(f"{key}={settings.get(key)!r}" for key in changed)
            expected = ", ".join(f"{key}={begun.get(key)!r}" for key in changed)
            fix = "repeat the first command with --resume, or give --overwrite"
            raise ConfigError("resumed with other settings", seen=seen, expected=expected, where=self.uri, fix=fix)
