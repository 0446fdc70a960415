"""Draw the world into app/page.html: coasts and borders as two SVG paths, between the comments outline and /outline.

The shapes are Natural Earth's (public domain, naturalearthdata.com), 1:50 million, as the npm package world-atlas 2.0.2
packs them (ISC licence, copyright 2013-2019 Michael Bostock). npm fetches it, and the file's hash is checked here.

The projection is the plainest, equirectangular: 360 by 180 degrees become WIDTH by WIDTH / 2 units, north up, so that
a place is drawn at its longitude and latitude times a constant. The same input gives the same bytes.

    python scripts/outline.py
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "app" / "page.html"
PACKAGE = "world-atlas@2.0.2"
MEMBER = "package/countries-50m.json"
SHA256 = "04342cdc1e3016bcd7db1630de95684d67b79fe3c8c460321e87aef469502394"
BEGIN, END = "<!-- outline -->", "<!-- /outline -->"

WIDTH = 1800  # units: 0.2 degrees each, so that most steps along a coast have one digit
DETAIL = 2.4  # square units: a bend that spans less is straightened
ISLAND = 1.5  # square units: a smaller island is left out

Point = tuple[float, float]
Line = list[tuple[int, int]]


def download() -> dict[str, Any]:
    """World-atlas' countries as TopoJSON (github.com/topojson/topojson-specification)."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        [archive] = Path(directory).glob("*.tgz")
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            data = member.read() if member else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"outline: {MEMBER} of {PACKAGE} does not have the hash SHA256: look why it changed")
    topology: dict[str, Any] = json.loads(data)
    return topology


def decode(topology: dict[str, Any]) -> list[list[Point]]:
    """The arcs in units of the map, x from the antimeridian eastwards and y from the north pole southwards."""
    (scale_x, scale_y), (west, south) = topology["transform"]["scale"], topology["transform"]["translate"]
    unit = WIDTH / 360
    arcs = []
    for deltas in topology["arcs"]:
        x = y = 0
        arc = []
        for dx, dy in deltas:
            x, y = x + dx, y + dy
            arc.append(((x * scale_x + west + 180) * unit, (90 - y * scale_y - south) * unit))
        arcs.append(arc)
    return arcs


def simplify(arc: list[Point]) -> Line:
    """Straighten bends in order of the triangle they span (Visvalingam and Whyatt 1993), then round to whole units.

    The ends stay, so neighbours that share them still meet. Of a small island four corners stay.
    """

    def span(i: int, j: int, k: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = arc[i], arc[j], arc[k]
        return abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2

    before, after = list(range(-1, len(arc) - 1)), list(range(1, len(arc) + 1))
    spans = {j: span(j - 1, j, j + 1) for j in range(1, len(arc) - 1)}
    bends = [(size, j) for j, size in spans.items()]
    heapq.heapify(bends)
    least = 3 if arc[0] == arc[-1] else 0
    while len(spans) > least and bends[0][0] < DETAIL:
        size, j = heapq.heappop(bends)
        if spans.get(j) != size:
            continue  # taken out already, or measured anew since
        del spans[j]
        i, k = before[j], after[j]
        after[i], before[k] = k, i
        for bend in (i, k):
            if bend in spans:
                # never less than what went before it, or a long curve would go from its smallest bend on
                spans[bend] = max(size, span(before[bend], bend, after[bend]))
                heapq.heappush(bends, (spans[bend], bend))

    line = [(round(x), round(y)) for x, y in (arc[0], *(arc[j] for j in sorted(spans)), arc[-1])]
    return [line[0], *(b for a, b in pairwise(line) if a != b)]


def join(arcs: list[Line], ring: list[int]) -> Line:
    """One ring of a polygon: arc numbers, `~number` for one walked backwards; each begins where the last one ended."""
    parts = (arcs[number] if number >= 0 else arcs[~number][::-1] for number in ring)
    return list(chain.from_iterable(part[:-1] for part in parts))


def area(ring: Line) -> float:
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairwise([*ring, *ring[:1]]))) / 2


def rings(geometry: dict[str, Any]) -> list[list[int]]:
    """The rings of a TopoJSON geometry of any kind that has an area."""
    match geometry["type"]:
        case "Polygon":
            return list(geometry["arcs"])
        case "MultiPolygon":
            return list(chain.from_iterable(geometry["arcs"]))
        case "GeometryCollection":
            return list(chain.from_iterable(map(rings, geometry["geometries"])))
    return []


def cut(ring: Line) -> list[Line]:
    """A ring on the globe as rings on the map.

    World-atlas has no seam: a coast goes on over the antimeridian, where the map's x jumps from one edge to the other,
    and Antarctica goes around the pole. So the ring is laid out as if the map went on, and each map's width cut out.
    """
    turn = 0
    flat = [ring[0]]
    for (ax, _), (bx, by) in pairwise([*ring, ring[0]]):
        turn += (ax - bx > WIDTH / 2) - (bx - ax > WIDTH / 2)
        flat.append((bx + turn * WIDTH, by))
    if turn:  # around the south pole: closed along the map's lower edge
        flat += [(flat[-1][0], WIDTH // 2), (flat[0][0], WIDTH // 2)]
    else:
        flat.pop()

    pieces = []
    for west in range(min(x for x, _ in flat) // WIDTH * WIDTH, max(x for x, _ in flat), WIDTH):
        piece = clip(clip(flat, west, 1), west + WIDTH, -1)
        pieces.append([(x - west, y) for x, y in piece])
    return pieces


def clip(ring: Line, edge: int, side: int) -> Line:
    """The part of a ring that is east (side 1) or west (-1) of a meridian (Sutherland and Hodgman 1974)."""
    kept: Line = []
    for (ax, ay), (bx, by) in pairwise([*ring[-1:], *ring]):
        a_in, b_in = (ax - edge) * side >= 0, (bx - edge) * side >= 0
        if a_in != b_in:
            kept.append((edge, round(ay + (by - ay) * (edge - ax) / (bx - ax))))
        if b_in:
            kept.append((bx, by))
    return [b for a, b in pairwise([*kept[-1:], *kept]) if a != b]


def coasts(topology: dict[str, Any], arcs: list[Line]) -> list[Line]:
    drawn = (join(arcs, ring) for ring in rings(topology["objects"]["land"]))
    pieces = chain.from_iterable(cut(ring) for ring in drawn if len(ring) > 2)
    return [piece for piece in pieces if area(piece) >= ISLAND]


def borders(topology: dict[str, Any], arcs: list[Line]) -> list[Line]:
    """The arcs that two countries share, joined end to end as far as they go."""
    countries = defaultdict(set)
    for country, geometry in enumerate(topology["objects"]["countries"]["geometries"]):
        for number in chain.from_iterable(rings(geometry)):
            countries[max(number, ~number)].add(country)
    lines: list[Line] = []
    for line in (arcs[number] for number in sorted(countries) if len(countries[number]) > 1 and len(arcs[number]) > 1):
        last = lines[-1] if lines else []
        if last and last[-1] == line[0]:
            last.extend(line[1:])
        elif last and last[-1] == line[-1]:
            last.extend(line[-2::-1])
        else:
            lines.append(list(line))
    return lines


def path(lines: list[Line], close: str = "") -> str:
    """SVG path data in relative steps, without what the grammar can do without (SVG 2, 9.3)."""
    steps = []
    x = y = 0
    for line in lines:
        steps.append("m")  # the pairs after its first are lines
        start = line[0]
        for px, py in line:
            steps.append(f"{px - x} {py - y} ")
            x, y = px, py
        steps.append(close)
        if close:  # goes back to where the ring began
            x, y = start
    return "".join(steps).replace(" -", "-").replace(" z", "z").replace(" m", "m").strip()


def main() -> None:
    argparse.ArgumentParser(description="Draw the map in app/page.html (needs npm).").parse_args()
    topology = download()
    arcs = [simplify(arc) for arc in decode(topology)]
    drawing = (
        f'<path id="land" d="{path(coasts(topology, arcs), close="z")}"/>\n'
        f'<path id="borders" d="{path(borders(topology, arcs))}"/>'
    )
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n{drawing}\n{END}{tail}", encoding="utf-8")
    print(f"outline: {len(drawing)} bytes of {PAGE.stat().st_size} in {PAGE.name}")


if __name__ == "__main__":
    main()
