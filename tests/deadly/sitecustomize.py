"""On the path of processes under test: chips of the sensor "deadly" end the process that decodes them, as a fault in a
decoder would; those of "frail" do so until the file FRAIL_TALLY has as many bytes as FRAIL_DEATHS says. Those of
"endless" are never decoded, those of "greedy" take more memory than there is."""

import ctypes
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_DECODER = "cmir.archive.imagery"


class _DeadlyLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        decode_chip = module.decode_chip

        def deadly(media: Any) -> Any:
            if media.sensor == "deadly" or (media.sensor == "frail" and _dies_again()):
                ctypes.string_at(0)  # a fault of this thread; a signal to the process would let it go on for a while
            while media.sensor == "endless":
                pass
            if media.sensor == "greedy":
                return bytearray(2**40)
            return decode_chip(media)

        module.decode_chip = deadly  # type: ignore[attr-defined]


class _DeadlyFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _DECODER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _DeadlyLoader(spec.loader)
        return spec


def _dies_again() -> bool:
    tally = Path(os.environ["FRAIL_TALLY"])
    num_deaths = tally.stat().st_size if tally.exists() else 0
    if num_deaths >= int(os.environ["FRAIL_DEATHS"]):
        return False
    with tally.open("ab") as file:
        file.write(b".")
    return True


sys.meta_path.insert(0, _DeadlyFinder())
