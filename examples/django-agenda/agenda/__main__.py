"""Serve on PORT (8080)."""

import os
import signal
import sys

from django.core.wsgi import get_wsgi_application
from waitress import serve

# As process 1, Python ignores SIGTERM without a handler.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agenda.settings")
serve(get_wsgi_application(), host=os.environ.get("BIND", "0.0.0.0"), port=int(os.environ.get("PORT", "8080")))
