"""docs/comparison.svg: a bar for the size of each image, with the number of its executables. Text stays text."""

from html import escape

from report import Comparison, Row, cell

WIDTH, LEFT, BAR, RIGHT, STEP, TOP = 860, 150, 480, 230, 34, 46  # pixels; LEFT + BAR + RIGHT = WIDTH
# The colours follow the reader's preference for light or dark.
STYLE = """
text { font: 14px Helvetica, Arial, sans-serif; fill: #1f2328 } .name { text-anchor: end }
.unpacked { fill: #54aeff } .compressed { fill: #0550ae }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .unpacked { fill: #388bfd } .compressed { fill: #a5d6ff } }
"""
LEGEND = f"""
<rect class="unpacked" x="{LEFT}" y="14" width="12" height="12"/><text x="{LEFT + 18}" y="25">unpacked</text>
<rect class="compressed" x="{LEFT + 100}" y="14" width="12" height="12"/><text x="{LEFT + 118}" y="25">compressed</text>
"""


def svg(comparison: Comparison) -> str:
    """The chart; an image that was not measured keeps its place, empty."""
    rows = comparison.images
    largest = max((row.figures.get("unpacked", 0) for row in rows), default=0) or 1
    said = "; ".join(f"{row.name}: {_label(row)}" for row in rows)
    bars = "".join(_bars(row, TOP + STEP * place, BAR / largest) for place, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {TOP + STEP * len(rows)}">\n'
        f"<title>{escape(said)}</title>\n<style>{STYLE}</style>\n{LEGEND}{bars}</svg>\n"
    )


def _bars(row: Row, top: int, scale: float) -> str:
    lines = [f'<text class="name" x="{LEFT - 10}" y="{top + 16}">{escape(row.name)}</text>']
    for kind, height in (("unpacked", 22), ("compressed", 10)):
        width, y = row.figures.get(kind, 0) * scale, top + (22 - height) // 2
        lines.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{height}"/>')
    x = LEFT + row.figures.get("unpacked", 0) * scale + 10
    return "\n".join([*lines, f'<text x="{x:.1f}" y="{top + 16}">{_label(row)}</text>', ""])


def _label(row: Row) -> str:
    one = row.figures.get("executables") == 1
    return f"{cell(row, 'unpacked')}, {cell(row, 'executables')} executable{'' if one else 's'}" if row.figures else "-"
