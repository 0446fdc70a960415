"""docs/performance.svg: how the rate grows with clients, addresses and replicas. Text stays text."""

import math

from bench.load import Figures

WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 170, 50, 40, 30  # pixels of a panel, and around it
PANELS = {"clients": "clients, one address", "addresses": "addresses, 16 clients", "replicas": "replicas, 64 clients"}
# The colours follow the reader's preference for light or dark.
STYLE = """
text { font: 12px Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle } .title { font-weight: bold }
line { stroke: #d1d9e0 } polyline { fill: none; stroke: #0969da; stroke-width: 2 } circle { fill: #0969da }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } line { stroke: #3d444d } polyline { stroke: #58a6ff }
circle { fill: #58a6ff } }
"""


def svg(figures: Figures) -> str:
    """Return a chart of three panels; one that was not measured is left out."""
    panels = [(title, figures[name]) for name, title in PANELS.items() if figures.get(name)]
    drawn = "".join(_panel(title, rows, (WIDTH + GAP) * place + LEFT) for place, (title, rows) in enumerate(panels))
    said = "; ".join(f"{title}: {n}: {row['rate']:.0f}/s" for title, rows in panels for n, row in rows.items())
    size = f"{(WIDTH + GAP) * len(panels) + LEFT} {HEIGHT + TOP + 50}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {size}">\n'
        f"<title>Requests a second. {said}</title>\n<style>{STYLE}</style>\n{drawn}</svg>\n"
    )


def _panel(title: str, rows: dict[str, dict[str, float]], left: int) -> str:
    """Draw one panel: numbers in even steps (or powers), and the rate from 0."""
    numbers = [math.log10(int(n.replace(",", ""))) for n in rows]
    first, span = numbers[0], numbers[-1] - numbers[0] or 1
    most = max(row["rate"] for row in rows.values()) * 1.15
    floor = TOP + HEIGHT
    points = [
        (left + 15 + (WIDTH - 60) * (number - first) / span, floor - HEIGHT * row["rate"] / most)
        for number, row in zip(numbers, rows.values(), strict=True)
    ]
    lines = [f'<text class="title" x="{left + WIDTH // 2 - 15}" y="20">requests/s by {title}</text>']
    lines += [f'<line x1="{left - 15}" y1="{floor}" x2="{left + WIDTH - 25}" y2="{floor}"/>']
    lines += [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>']
    for (x, y), (n, row) in zip(points, rows.items(), strict=True):
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>', f'<text x="{x:.1f}" y="{floor + 18}">{n}</text>']
        lines += [f'<text x="{x:.1f}" y="{y - 8:.1f}">{row["rate"]:,.0f}</text>']
    return "\n".join([*lines, ""])
