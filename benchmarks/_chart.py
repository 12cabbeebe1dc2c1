"""Charts of what the benchmarks found: PNG files, drawn with matplotlib where it is installed.

    uv run --group bench python benchmarks/relay.py --png relay.png

A benchmark calls `add_option` on its parser and `draw` at its end:

    draw(arguments.png, "Relay", [Bars("CPU per token", "µs", ["1", "256"], {"floor": [14, 9], "vllama": [18, 11]})])
"""

import argparse
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = (8.0, 4.5)
_COLUMNS = 2
_DPI = 110
_COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#3ca951",
    "#9c6b4e",
    "#a463f2",
    "#6cc5b0",
    "#97bbf5",
    "#9498a0",
    "#ff8ab7",
)
_LABELLED_BARS = 36
"""More than that, and the numbers above them would cover each other."""


@dataclass(frozen=True)
class Bars:
    """Bars in groups.

    groups: below the axis. series: a bar for each group, by the name in the legend; None where nothing was measured.
    spans: by the same names, the least and the most that was measured.
    """

    title: str
    unit: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    log: bool = False
    axis: str = ""
    spans: Mapping[str, Sequence[tuple[float, float] | None]] = field(default_factory=dict)

    def draw(self, axes: "Axes") -> None:
        width = 0.84 / max(1, len(self.series))
        few = len(self.groups) * len(self.series) <= _LABELLED_BARS
        for number, (name, values) in enumerate(self.series.items()):
            places = [group + width * (number - (len(self.series) - 1) / 2) for group in range(len(self.groups))]
            heights = [math.nan if value is None else value for value in values]
            bars = axes.bar(
                places, heights, width, label=name, color=_colour(number), yerr=self._errors(name, heights),
                error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
            )  # fmt: skip
            if few:
                labels = ["" if math.isnan(height) else short(height) for height in heights]
                axes.bar_label(bars, labels, fontsize=7, padding=2, rotation=90 if width < 0.2 else 0)
        axes.set_xticks(range(len(self.groups)), self.groups)
        axes.set_xlabel(self.axis)
        axes.set_ylabel(self.unit)
        if self.log:
            axes.set_yscale("log")
        axes.margins(y=0.15)

    def _errors(self, name: str, heights: Sequence[float]) -> list[list[float]] | None:
        if name not in self.spans:
            return None
        spans = [span or (height, height) for span, height in zip(self.spans[name], heights, strict=True)]
        below = [max(0.0, height - low) for (low, _), height in zip(spans, heights, strict=True)]
        return [below, [max(0.0, high - height) for (_, high), height in zip(spans, heights, strict=True)]]


@dataclass(frozen=True)
class Lines:
    """Lines through points.

    axis: what the first number of each point is, with its unit. unit: of the second. marks: stretches of the axis that
    are shaded, by their names.
    """

    title: str
    unit: str
    axis: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = False
    log_axis: bool = False
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def draw(self, axes: "Axes") -> None:
        for number, (name, points) in enumerate(self.series.items()):
            marker = "o" if len(points) <= _LABELLED_BARS else None
            axes.plot(
                [x for x, _ in points], [y for _, y in points],
                label=name, color=_colour(number), marker=marker, markersize=4, linewidth=1.5,
            )  # fmt: skip
        for name, (start, end) in self.marks.items():
            axes.axvspan(start, end, color="#9498a0", alpha=0.2, label=name)
        axes.set_xlabel(self.axis)
        axes.set_ylabel(self.unit)
        if self.log_axis:
            axes.set_xscale("log", base=2)
            numbers = sorted({x for points in self.series.values() for x, _ in points})
            axes.set_xticks(numbers, [short(number) for number in numbers])
        if self.log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)


def add_option(parser: argparse.ArgumentParser) -> None:
    """--png, which is refused before anything is measured where it could not be drawn."""
    parser.add_argument("--png", type=_drawable, metavar="FILE", help="file to draw a chart to (needs --group bench)")


def draw(path: Path | None, title: str, panels: Sequence[Bars | Lines]) -> None:
    """One picture of all panels, two beside each other. Nothing without a path."""
    if path is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        panel.draw(axes)
        axes.set_title(panel.title, fontsize=11)
        axes.grid(axis="y", which="major", linewidth=0.5, alpha=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="best")
    figure.savefig(path, dpi=_DPI)


def short(value: float) -> str:
    """A number as one reads it on a chart: three digits of it that count."""
    if value >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _drawable(text: str) -> Path:
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("a chart needs matplotlib: start this with `uv run --group bench python ...`")
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text} does not end in .png")
    return path
