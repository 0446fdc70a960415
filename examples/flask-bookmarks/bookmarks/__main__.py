"""Serve on PORT (8080), with the database on the volume."""

import os
import signal
import sys

from waitress import serve

from bookmarks import create_app

# As process 1, Python ignores SIGTERM without a handler.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
app = create_app(os.environ.get("DATABASE", "sqlite:////data/bookmarks.sqlite3"))
serve(app, host=os.environ.get("BIND", "0.0.0.0"), port=int(os.environ.get("PORT", "8080")))
