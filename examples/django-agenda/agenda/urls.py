"""The page, and what is on it."""

import json
from datetime import datetime
from urllib.request import urlopen

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path


def index(request: HttpRequest) -> HttpResponse:
    events = []
    if settings.FEED:
        with urlopen(settings.FEED, timeout=5) as feed:
            events = json.load(feed)
    for event in events:
        event["at"] = datetime.fromisoformat(event["at"])
    return render(request, "agenda.html", {"events": events, "zone": settings.TIME_ZONE})


urlpatterns = [path("", index)]
