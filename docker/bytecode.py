"""Compile what the service imports to bytecode.

    python bytecode.py ROOT

A container's root is read-only, so that bytecode which is not in the image is made anew at every start: 1.5 s of it.
ROOT holds what is added to the base image: the app in /srv, its dependencies where pip puts them, and afterwards their
bytecode and that of the part of the standard library they import. In a ROOT of its own a package's bytecode takes the
place of its source: a traceback names its files and lines all the same. What is imported is seen by running the service
with the settings it finds here, and asking it something. The bytecode is never compared with its source, which does not
change in an image either.
"""

import os
import py_compile
import re
import subprocess
import sys
import sysconfig
import time
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import TemporaryFile
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PORT = "8099"
SERVICE = [sys.executable, "-v", "-m", "app"]
REQUESTS = ("/healthz", "/openapi.json", "/docs", "/?ip=8.8.8.8", "/nowhere")


def imported(root: Path) -> set[Path]:
    """Source files of all that is imported without bytecode: to start, to answer, and to ask a named upstream."""
    environment = {
        **os.environ,
        "PORT": PORT,
        "GEOIP_IPWHOIS_URL": "http://localhost:9",  # where nobody listens
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{root / 'srv'}:{root / sysconfig.get_path('purelib')[1:]}",
    }
    # A log each: in one, the lines of two processes get mixed up.
    with (
        TemporaryFile("w+") as log,
        TemporaryFile("w+") as other_log,
        subprocess.Popen(SERVICE, env=environment, stderr=log) as service,
    ):
        deadline = time.monotonic() + 120
        while subprocess.run([*SERVICE, "healthcheck"], env=environment, stderr=other_log).returncode != 0:
            if time.monotonic() > deadline:
                service.kill()
                raise SystemExit("the service does not start")
        for path in REQUESTS:
            for accept in ("application/json", "text/html"):
                try:
                    urlopen(Request(f"http://127.0.0.1:{PORT}{path}", headers={"Accept": accept}), timeout=10).close()
                except HTTPError as problem:
                    problem.close()
        service.terminate()
        service.wait()
        log.seek(0)
        other_log.seek(0)
        lines = log.read() + other_log.read()
        return {Path(source) for source in re.findall("^# code object from '?(.+[.]py)'?$", lines, re.MULTILINE)}


def main() -> None:
    root = Path(sys.argv[1])
    for source in sorted(imported(root)):
        installed = Path("/", source.relative_to(root)) if source.is_relative_to(root) else source
        # Not of the base image's own packages, which are another layer's; nor of anyio, which reads its source to
        # import by and by, and imports all at once without it.
        ours = root != Path("/") and source.is_relative_to(root)
        instead = ours and "site-packages" in source.parts and "anyio" not in source.parts
        cached = source.with_suffix(".pyc") if instead else root / cache_from_source(str(installed))[1:]
        py_compile.compile(
            str(source),
            str(cached),
            str(installed),
            doraise=True,
            # Without docstrings, a quarter of it, but for the app's, which FastAPI shows.
            optimize=0 if installed.is_relative_to("/srv") else 2,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        )
        if instead:
            source.unlink()


main()
