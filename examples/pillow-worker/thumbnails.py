"""Every INTERVAL seconds: fetch the picture at URL, and keep it in FOLDER as NAME.webp, small and dated in ZONE."""

import io
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen
from zoneinfo import ZoneInfo

from PIL import Image, ImageDraw, ImageFont


def thumbnail(url: str, path: Path, caption: str) -> None:
    """Write the picture at `url` to `path`, with `caption` on it, at most 256 pixels wide and high."""
    with urlopen(url, timeout=10) as answer:
        picture = Image.open(io.BytesIO(answer.read())).convert("RGB")
    picture.thumbnail((256, 256))
    ImageDraw.Draw(picture).text((4, 4), caption, fill="white", font=ImageFont.load_default(12), stroke_width=1)
    picture.save(path)


def main() -> None:
    # As process 1, Python ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    zone = ZoneInfo(os.environ.get("ZONE", "Europe/Zurich"))
    name = os.environ.get("NAME", "Zürich")
    path = Path(os.environ.get("FOLDER", "/data"), f"{name}.webp")
    while True:
        caption = f"{name} {datetime.now(zone):%Y-%m-%d %H:%M %Z}"
        try:
            thumbnail(os.environ.get("URL", "https://example.org/picture.png"), path, caption)
            print(f"{path}: {caption}", flush=True)
        except OSError as error:
            print(f"no picture: {error}", flush=True)
        time.sleep(float(os.environ.get("INTERVAL", "60")))


if __name__ == "__main__":
    main()
