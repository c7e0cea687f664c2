"""Figures without global state: matplotlib's `Figure` alone, as SVG for the page, and as SVG and PDF files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.files import whole_file, write_text
from slivit.report.style import INK, LINE, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches. A phone then shows text of 10 points at about its size."""

SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure with the words that belong to it.

    Args:
        name: of its files, without a suffix.
        title: above it.
        caption: below it: what is shown, and what to look for.
        figure: the drawing.
        alt: what it shows, for who cannot see it.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    alt: str


@contextmanager
def styled() -> Iterator[None]:
    """The settings of all figures, while the block runs."""
    from matplotlib import rc_context

    settings: Any = SETTINGS
    with rc_context(settings):
        yield


def new_figure(height: float = 4.2, width: float = WIDTH, **subplots: Any) -> tuple[Figure, Any]:
    """A figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def unit_square(ax: Axes, x: str, y: str) -> None:
    """Axes from 0 to 1 both ways, with a grid."""
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    ax.grid(True)


def nothing(ax: Axes, why: str) -> None:
    """Say in place of a drawing why there is none."""
    from textwrap import fill

    small = len(ax.figure.axes) > 1
    words, size = fill(f"Not defined: {why}", 22 if small else 44), 6 if small else 9.5
    ax.set_axis_off()
    text = ax.text(0.5, 0.5, words, ha="center", va="center", color=QUIET, fontsize=size, transform=ax.transAxes)
    text.set_in_layout(False)  # a long reason must not squeeze the axes


def draw_files(plot: Plot, folder: Path) -> str:
    """Write a figure as SVG and as PDF, with nothing in them that changes from one run to the next.

    Args:
        plot: the figure.
        folder: where the files go, under the figure's name.

    Returns:
        The figure as SVG to stand in an HTML page: it scales with the page, and shares no id with another figure.
    """
    from matplotlib import rc_context

    buffer, pdf = io.StringIO(), io.BytesIO()  # matplotlib itself does not stand a full disk
    with rc_context({"svg.hashsalt": plot.name}):
        plot.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        plot.figure.set_layout_engine("none")  # the axes are in place now; what follows draws them once more
        with _lean_fonts():
            plot.figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    with whole_file(folder / f"{plot.name}.pdf") as partial:
        partial.write_bytes(pdf.getvalue())
    write_text(folder / f"{plot.name}.svg", buffer.getvalue())
    return _for_page(buffer.getvalue(), plot)


@contextmanager
def _lean_fonts() -> Iterator[None]:
    """Leave out of a font in a PDF what only lays out text: it is laid out, and those tables cost most of the time."""
    from fontTools.subset import Options

    usual = getattr(Options, "_drop_tables_default", None)
    if usual is None:  # a fontTools that keeps it elsewhere: the same file, more slowly
        yield
        return
    Options._drop_tables_default = [*usual, "GSUB", "GPOS", "GDEF"]
    try:
        yield
    finally:
        Options._drop_tables_default = usual


def _for_page(svg: str, plot: Plot) -> str:
    text = svg[svg.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(plot), text, count=1)
    return _own_ids(text, plot.name)


def _opening(plot: Plot) -> Any:
    from html import escape

    label = escape(plot.alt, quote=True)
    most = plot.figure.get_figwidth() / WIDTH * 30

    def opening(match: re.Match[str]) -> str:
        link = "http://www.w3.org/1999/xlink"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="{link}" viewBox="{match[1]}" role="img" '
            f'aria-label="{label}" style="max-width:{most:.1f}rem">'
        )

    return opening


def _own_ids(text: str, prefix: str) -> str:
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
