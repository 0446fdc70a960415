"""The page: goals, and a table for each group of figures, between two markers."""

from typing import Any

from bench.load import Figures

_BEGIN, _END = "<!-- benchmark -->\n", "<!-- /benchmark -->"
_LOAD = {"requests/s": "rate", "least": "least", "most": "most", "CPU µs": "cpu_us", "worst p99, ms": "p99_ms"}
_GROWTH = {"requests/s": "rate", "CPU µs": "cpu_us", "p99, ms": "p99_ms", "failed": "errors"}
_STEPS = {"start, ms": "start_ms", "least": "least", "most": "most"}
_IMAGE = {"hit, CPU µs": "hit_us", "miss, CPU µs": "miss_us", "start, ms": "start_ms"}
_IMAGE |= {"MB after it": "memory_mb", "MB after 10,000 addresses": "memory_after_mb"}
TABLES = {  # for each group of figures: the head of its first column, and the heads of the others
    "hit": ("a hit, 16 clients", _LOAD),
    "miss": ("a miss, 16 clients", _LOAD),
    "slow": ("misses, 128 clients, upstream at 50 ms", _LOAD),
    "start": ("start", _STEPS),
    "images": ("in the images", _IMAGE),
    "clients": ("clients, one address", _GROWTH),
    "addresses": ("addresses, 16 clients", _GROWTH),
    "replicas": ("replicas behind nginx, 64 clients, one address", _GROWTH),
    "echoip": ("the same MMDB files, 16 clients", _GROWTH | {"requests per CPU second": "per_cpu"}),
    "hit profile": ("the samples of a hit", {"%": "share"}),
    "miss profile": ("the samples of a miss", {"%": "share"}),
    "start profile": ("the imports of a start", {"ms": "import_ms"}),
}


def goals(figures: Figures) -> list[tuple[str, float | None, str, bool]]:
    """Return of each goal what it is about, the value (None: not measured), the limit, and whether it is met."""
    hit, miss, start, slow = (figures[name] for name in ("hit", "miss", "start", "slow"))
    images = figures.get("images", {})
    inside = {name: row["hit_us"] / images["outside"]["hit_us"] for name, row in images.items() if name != "outside"}
    worst = max(inside, key=lambda name: inside[name], default="")
    scratch = images.get("scratch", {})
    rate = {name: row["rate"] for name, row in miss.items()}
    failed = slow["geoip"]["errors"]
    limits: list[tuple[str, float | None, str, float]] = [
        ("a hit: CPU time / a raw ASGI callable's", _ratio(hit, "geoip", "raw ASGI callable", "cpu_us"), "≤", 1.25),
        (f"a hit in the slowest image ({worst}): CPU time / that outside", inside.get(worst), "≤", 1.15),
        ("a miss: rate / that of the article's way", rate["geoip"] / rate["the article's way"], "≥", 4),
        ("a miss: rate / that with aiohttp's client", rate["geoip"] / rate["with aiohttp's client"], "≥", 1),
        ("128 clients, upstream at 50 ms: answers/s", slow["geoip"]["rate"], "≥", 1000),
        ("128 clients, upstream at 50 ms: worst p99 in s", slow["geoip"]["p99_ms"] / 1000, "≤", 0.5),
        ("128 clients, upstream at 50 ms: failed", failed, "≤", 0),
        ("a start: time / the imports alone", _ratio(start, "geoip", "import fastapi, uvicorn", "start_ms"), "≤", 0.8),
        ("a start in scratch: ms", scratch.get("start_ms"), "≤", 600),
        ("scratch after its start: MB", scratch.get("memory_mb"), "≤", 32),
        ("scratch after 10,000 addresses: MB", scratch.get("memory_after_mb"), "≤", 42),
    ]
    return [
        (what, value, f"{sign} {limit:g}", value is not None and (value <= limit if sign == "≤" else value >= limit))
        for what, value, sign, limit in limits
    ]


def _ratio(rows: dict[str, dict[str, float]], name: str, other: str, key: str) -> float:
    return rows[name][key] / rows[other][key]


def written(page: str, report: dict[str, Any]) -> str:
    """Return the page with the tables of a run between its two markers."""
    figures, machine = report["figures"], report["machine"]
    lines = [
        f"Measured on {report['date']} with {report['server']} on {machine['cores']} cores ({machine['cpu']}), at a"
        f" load of {machine['load']}; medians of {report['rounds']} turns of {report['seconds']:g} s."
        f" Versions: {', '.join(f'{name} {version}' for name, version in report['versions'].items())}.",
        "",
        *_table("goal", ["measured", "limit", ""], [_goal(*goal) for goal in goals(figures)]),
    ]
    for group, (first, columns) in TABLES.items():
        if figures.get(group):
            rows = [
                [f"**{name}**" if name == "geoip" else name, *(_cell(row.get(key)) for key in columns.values())]
                for name, row in figures[group].items()
            ]
            lines += ["", *_table(first, list(columns), rows)]
    if missing := [first for group, (first, _) in TABLES.items() if not figures.get(group)]:
        lines += ["", f"Not measured in this run: {'; '.join(missing)}."]
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n\n{_END}{after}"


def _goal(what: str, value: float | None, limit: str, is_met: bool) -> list[str]:
    return [what, _cell(value), limit, "not measured" if value is None else "met" if is_met else "**missed**"]


def _table(first: str, others: list[str], rows: list[list[str]]) -> list[str]:
    head = f"| {first} | {' | '.join(others)} |"
    return [head, f"| --- |{' ---: |' * len(others)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
