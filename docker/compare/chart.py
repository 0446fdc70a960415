"""docs/comparison.svg: size, packages and executables of each image, on logarithmic scales.

Dots, not bars: the length of a bar says nothing on a scale that has no zero. Text stays text, and the colours follow
the reader's preference for light or dark.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from comparison import Comparison, Row

# What is drawn, in light and in dark.
INK, MUTED, LINE, STRONG, SOFT = "#1f2328", "#59636f", "#d1d9e0", "#0969da", "#bc4c00"
DARK = {INK: "#f0f6fc", MUTED: "#9198a1", LINE: "#3d444d", STRONG: "#58a6ff", SOFT: "#f0883e"}

Figures = Sequence[tuple[str, str, Callable[[Row], float | None]]]
"""Of each series its name, its colour and its figure."""
SIZES: Figures = (
    ("compressed", SOFT, lambda row: row.compressed and row.compressed / 1e6),
    ("unpacked", STRONG, lambda row: row.unpacked and row.unpacked / 1e6),
)
PACKAGES: Figures = (
    ("of the system", SOFT, lambda row: row.os_packages),
    ("of Python", STRONG, lambda row: row.python_packages),
)
EXECUTABLES: Figures = (("", STRONG, lambda row: row.executables),)
PANELS = (("Size in MB", SIZES, 5), ("Packages", PACKAGES, 3), ("Executables", EXECUTABLES, 3))


def svg(comparison: Comparison) -> str:
    """The chart; images that were not measured keep their place, empty."""
    rows = comparison.images
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "geoip",  # the same figures give the same file
        "font.family": "sans-serif",
        "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
        "font.size": 11,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": INK,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10, 0.5 * len(rows) + 1.4), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots(1, len(PANELS), sharey=True, width_ratios=[width for _, _, width in PANELS])
        for axis, (title, figures, _) in zip(axes, PANELS, strict=True):
            _panel(axis, title, rows, figures)
        axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
        axes[0].invert_yaxis()
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _in_both_lights(output.getvalue(), _description(rows))


def _panel(axis: Axes, title: str, rows: list[Row], figures: Figures) -> None:
    axis.set_title(title, loc="left", weight="bold", pad=30)
    axis.patch.set_visible(False)
    axis.set_xscale("log")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_axisbelow(True)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if figures is SIZES else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    drawn = [value for row in rows for *_, figure in figures if (value := figure(row))]
    axis.set_xlim(min(drawn, default=1) / 2, max(drawn, default=10) * 2.2)
    for place, (name, colour, _) in enumerate(figures):
        if name:
            above = (105 * place, 14)
            axis.annotate(f"● {name}", (0, 1), above, "axes fraction", "offset points", color=colour, size=10)
    for height, row in enumerate(rows):
        values = [(value, colour) for _, colour, figure in figures if (value := figure(row))]
        values.sort()
        if len(values) > 1:
            axis.plot([value for value, _ in values], [height, height], color=LINE, linewidth=3, zorder=1)
        for place, (value, colour) in enumerate(values):
            axis.plot(value, height, "o", color=colour, markersize=8, zorder=2)
            right = place == len(values) - 1
            axis.annotate(
                f"{value:,.0f}" if value >= 100 or isinstance(value, int) else f"{value:.1f}",
                (value, height),
                (8 if right else -8, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                size=10,
                color=INK,
            )


def _description(rows: list[Row]) -> str:
    sizes = (f"{row.name} {row.unpacked / 1e6:,.1f} MB" for row in rows if row.unpacked)
    return f"Size of each image, unpacked: {', '.join(sizes)}."


def _in_both_lights(chart: str, description: str) -> str:
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    head, opening, rest = chart.partition("<svg ")
    attributes, end, body = rest.partition(">")
    style = f"<style>@media(prefers-color-scheme:dark){{{rules}}}</style>"
    return f'{head}{opening}role="img" {attributes}{end}\n <title>{description}</title>\n {style}{body}'
