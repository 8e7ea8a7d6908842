"""cmir searches earth-observation archives across sensors and by voice.

The names below are what a program outside this project uses; each is loaded when it is first asked for, so that
`import cmir` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmir.archive.schema import Media
    from cmir.client import Client
    from cmir.errors import CmirError, ConfigError, DataError, GalleryError, QueryError, SpaceMismatchError
    from cmir.gallery.filters import Filters
    from cmir.gallery.search import Hit, Searcher
    from cmir.gallery.table import Gallery
    from cmir.network.bundle import load_bundle
    from cmir.network.embedder import Embedder

__version__ = "0.1.0"
__all__ = [
    "Client",
    "CmirError",
    "ConfigError",
    "DataError",
    "Embedder",
    "Filters",
    "Gallery",
    "GalleryError",
    "Hit",
    "Media",
    "QueryError",
    "Searcher",
    "SpaceMismatchError",
    "load_bundle",
]
_HOMES = {
    "Client": "cmir.client",
    "Embedder": "cmir.network.embedder",
    "Filters": "cmir.gallery.filters",
    "Gallery": "cmir.gallery.table",
    "Hit": "cmir.gallery.search",
    "Media": "cmir.archive.schema",
    "Searcher": "cmir.gallery.search",
    "load_bundle": "cmir.network.bundle",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'cmir' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "cmir.errors")), name)
