"""Self-contained HTML pages: templates with one style, pictures inside, no network (packages jinja2, matplotlib)."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import plots

PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib"}


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, its size in CSS pixels."""

    uri: str
    width: int
    height: int
    alt: str
    title: str = ""
    caption: str = ""


def picture(png: bytes, alt: str, title: str = "", caption: str = "") -> Picture:
    """A PNG of `plots.py`, which draws for dense screens."""
    width, height = struct.unpack(">II", png[16:24])  # of the header chunk
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return Picture(uri, width // plots.PIXEL_RATIO, height // plots.PIXEL_RATIO, alt, title, caption)


def render(template: str, **values: Any) -> str:
    """A template of `templates/`, filled in; a name that is missing is an error."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(template).render(**values)
