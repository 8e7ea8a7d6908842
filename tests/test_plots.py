"""Curves as SVG that follows the page's colours."""

import xml.etree.ElementTree as ElementTree

import numpy as np

from cmir.evaluation.metrics import RECALL_LEVELS
from cmir.evaluation.plots import Curve, precision_recall_svg

FALLING = Curve("this bundle", np.linspace(1, 0.2, len(RECALL_LEVELS)), "solid")
OTHER = Curve("no learning", np.linspace(0.6, 0.1, len(RECALL_LEVELS)), "dashed")


def test_svg_is_whole_names_its_curves_and_takes_the_pages_colours() -> None:
    text = precision_recall_svg([FALLING, OTHER], chance=0.125, title="pan_to_ms")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "Precision over recall, pan_to_ms"
    for word in ("this bundle", "no learning", "chance", "recall", "precision", "var(--model)", "var(--ink)"):
        assert word in text, word
    assert "#01" not in text
    assert "stroke-dasharray" in text


def test_the_same_twice() -> None:
    assert precision_recall_svg([FALLING], chance=0.1, title="a") == precision_recall_svg(
        [FALLING], chance=0.1, title="a"
    )
