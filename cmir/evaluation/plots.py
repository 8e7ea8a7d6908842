"""Curves become inline SVG that takes the colours of the page it stands in, light or dark."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cmir.evaluation.metrics import RECALL_LEVELS, Floats

# Colours that stand for the page's own; matplotlib writes them into the SVG, where they are exchanged.
_INKS = {"#010101": "var(--ink)", "#020202": "var(--line)", "#030303": "var(--model)", "#040404": "var(--other)"}
_TEXT, _GRID, _MODEL, _OTHER = _INKS
_COLOURS = {"solid": _MODEL, "dashdot": _OTHER}  # a bundle each; what is no bundle has the colour of the text


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean interpolated precision f32[V] at RECALL_LEVELS, and how to draw it: `solid` is the model of the report."""

    name: str
    precision: Floats
    style: str

    @property
    def is_model(self) -> bool:
        return self.style == "solid"


def precision_recall_svg(curves: Sequence[Curve], *, chance: float, title: str) -> str:
    """Precision over recall as SVG text, chance dotted; the lines differ in their dashes, not in colour alone."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 9.5}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.3, 3.1))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.115, 0.14, 0.85, 0.76))
        for curve in curves:
            colour = _COLOURS.get(curve.style, _TEXT)
            width = 2.2 if curve.is_model else 1.4
            axes.plot(
                RECALL_LEVELS, curve.precision, color=colour, linestyle=curve.style, linewidth=width, label=curve.name
            )
            if curve.is_model:
                axes.fill_between(RECALL_LEVELS, 0, curve.precision, color=_MODEL, alpha=0.10, linewidth=0)
        axes.axhline(chance, color=_TEXT, linestyle=(0, (1, 2.5)), linewidth=1.1, label="chance")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.grid(color=_GRID, linewidth=0.7)
        axes.tick_params(colors=_TEXT, length=0, pad=5)
        axes.xaxis.label.set_color(_TEXT)
        axes.yaxis.label.set_color(_TEXT)
        for side in axes.spines.values():
            side.set_visible(False)
        figure.legend(
            loc="upper left", ncols=4, frameon=False, labelcolor=_TEXT, handlelength=2.0, columnspacing=1.2, fontsize=8
        )
        return _inline(figure, title)


def _inline(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure, and several stand in one page
    for sentinel, colour in _INKS.items():
        text = text.replace(sentinel, colour)
    return text.replace("<svg ", f'<svg role="img" aria-label="Precision over recall, {title}" class="plot" ', 1)
