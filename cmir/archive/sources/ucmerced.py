"""UC Merced Land Use with its multi-label table -> rgb rows: 17 labels, the class folder as scene_class, 1 ft pixels.

Listing reads every image once, to find those that show part of the same ground (`overlap`); about 15 s for the set.
Source: Yang and Newsam 2010 (images); Chaudhuri, Demir, Chaudhuri and Bruzzone 2018 (labels).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cmir.archive.class_folders import list_images, scene_ids
from cmir.archive.imagery import raw_media, read_raster
from cmir.archive.label_table import find_table, plain_name, read_labels
from cmir.archive.schema import ShardRow, make_item_id
from cmir.archive.sensors import UCMERCED, US_SURVEY_FOOT_M
from cmir.archive.sources import Item
from cmir.errors import DataError

RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class UcMercedSource:
    """Source `ucmerced`: the set's folder with `Images/<class>/<class>NN.*` and its label table."""

    uri: str

    def items(self) -> Iterator[Item]:
        """One item per image. Raises DataError: no folder, no images, no label table, or a table of other images."""
        images = list_images(self.uri)
        table_uri = find_table(self.uri)
        if table_uri is None:
            raise DataError(
                "no label table",
                seen="images only",
                expected="multilabels.csv or the published .mat beside Images",
                where=self.uri,
                fix="add the table, or use --source folder for images without labels",
            )
        table = read_labels(table_uri)
        if not any(plain_name(image.key) in table for image in images):
            seen, expected = next(iter(table)), plain_name(images[0].key)
            raise DataError(
                "label table is of other images", seen=seen, expected=f"names like {expected}", where=table_uri
            )
        grounds = scene_ids(images)
        for image in images:
            labels = table.get(plain_name(image.key))
            yield Item(
                key=image.key,
                scene_id=grounds[image.key],
                num_bytes=256 * 256 * 3,
                source_uri=image.uri,
                detail={"labels": labels, "scene_class": image.scene_class, "table_uri": table_uri},
            )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The image as one rgb row. Raises DataError: not in the table, not an image, cut short, not RGB."""
        if item.detail["labels"] is None:
            table_uri = item.detail["table_uri"]
            raise DataError(
                "image is not in the label table", seen=plain_name(item.key), expected="a row", where=table_uri
            )
        chip = read_raster(item.source_uri)
        if not set(RGB) <= set(chip.bands):
            raise DataError("wrong bands", seen=", ".join(chip.bands), expected=", ".join(RGB), where=item.source_uri)
        pixels = chip.pixels[[chip.bands.index(band) for band in RGB]] if chip.bands != RGB else chip.pixels
        yield ShardRow(
            item_id=make_item_id("ucmerced", item.key, "rgb"),
            media=raw_media("rgb", pixels, bands=RGB, sensor=UCMERCED.name, gsd_m=US_SURVEY_FOOT_M),
            scene_id=item.scene_id,
            source_uri=item.source_uri,
            labels=item.detail["labels"],
            scene_class=item.detail["scene_class"],
        )
