"""`python -m tests.faults.compactor GALLERY`: merge the fragments of a gallery again and again, until killed."""

import sys

from cmir.gallery import upkeep
from cmir.gallery.table import Gallery

if __name__ == "__main__":
    gallery = Gallery.open(sys.argv[1])
    (space_id,) = gallery.space_ids()
    upkeep.COMPACT_ABOVE_FRAGMENTS = 1  # type: ignore[misc]
    while True:
        print(upkeep.compact(gallery.space(space_id)), flush=True)
