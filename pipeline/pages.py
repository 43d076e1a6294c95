"""HTML pages of their own: one file each, no script, nothing from elsewhere, light and dark.

templates/page.html.j2   the frame: a summary, the contents, the sections one after another
templates/page.css       every colour, light and dark
templates/macros.html.j2 pieces of a page
templates/report/        the sections
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent / "templates"


def write(path: Path, template: str, contents: Mapping[str, Any]) -> Path:
    """Write the page in one move; gives back its path.

    Args:
        path: in a folder that is there.
        template: a file of `templates`.
        contents: by the names that the template uses, `sections` among them.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["code"] = code
    page = environment.get_template(template).render(contents)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(page, "utf8")
    os.replace(temporary, path)
    return path


def sections(every: Iterable[tuple[str, str, Any]]) -> list[dict[str, str]]:
    """Those of (anchor, title, what it shows) that have something to show, with the file that shows it."""
    return [
        {"anchor": anchor, "title": title, "template": f"report/{anchor}.html.j2"}
        for anchor, title, shown in every
        if shown
    ]


def code(text: str) -> Markup:
    """A sentence whose names in backticks stand out as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
