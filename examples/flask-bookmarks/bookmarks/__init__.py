"""Bookmarks with the titles of their pages: POST /bookmarks {"url": …}, GET /bookmarks?zone=Asia/Tokyo."""

import re
from datetime import UTC, datetime
from html import unescape
from urllib.request import urlopen
from zoneinfo import ZoneInfo

from flask import Flask, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Bookmark(Base):
    __tablename__ = "bookmarks"
    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    title: Mapped[str]
    added: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))


def create_app(database: str) -> Flask:
    """The app; `database` is a URL of SQLAlchemy's."""
    app = Flask(__name__)
    engine = create_engine(database)
    Base.metadata.create_all(engine)

    @app.post("/bookmarks")
    def add() -> tuple[dict[str, str], int]:
        url = request.get_json()["url"]
        if not url.startswith("https://"):
            return {"error": "url must begin with https://"}, 422
        with urlopen(url, timeout=5) as page:
            title = re.search(r"<title>(.*?)</title>", page.read(65536).decode(errors="replace"), re.DOTALL)
        bookmark = Bookmark(url=url, title=unescape(title[1].strip()) if title else url)
        with Session(engine) as session:
            session.add(bookmark)
            session.commit()
            return {"url": bookmark.url, "title": bookmark.title}, 201

    @app.get("/bookmarks")
    def index() -> list[dict[str, str]]:
        zone = ZoneInfo(request.args.get("zone", "UTC"))
        with Session(engine) as session:
            return [
                {"url": found.url, "title": found.title, "added": f"{found.added.replace(tzinfo=UTC).astimezone(zone)}"}
                for found in session.scalars(select(Bookmark))
            ]

    return app
