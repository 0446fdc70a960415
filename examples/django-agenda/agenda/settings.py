"""Django's settings. Those that differ between machines are environment variables."""

import os

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")
INSTALLED_APPS = ["django.contrib.staticfiles", "agenda"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "whitenoise.middleware.WhiteNoiseMiddleware"]
ROOT_URLCONF = "agenda.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True
TIME_ZONE = os.environ.get("TIME_ZONE", "Europe/Zurich")
STATIC_URL = "static/"
# Served from where they lie: a container need not collect them into a folder at its start.
WHITENOISE_USE_FINDERS = True
FEED = os.environ.get("FEED", "")
