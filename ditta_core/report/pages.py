"""HTML pages from the packaged templates: single files that need nothing else, not even a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jinja2

from ditta_core.classes import ClassList


def render(template: str, **values: Any) -> str:
    """Fill in a packaged template; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ditta_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


@dataclass(frozen=True)
class Swatch:
    """A class beside its colour."""

    name: str
    color: str


def swatches(classes: ClassList) -> list[Swatch]:
    """One per class."""
    return [
        Swatch(name, "#{:02x}{:02x}{:02x}".format(*color))
        for name, color in zip(classes.names, classes.colors, strict=True)
    ]
