"""Self-contained HTML pages: text from outside is escaped, and nothing is fetched from anywhere."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_of(package: str, template: str, **values: object) -> str:
    """A page from the template of a package; all pages share a style sheet.

    Args:
        package: whose folder `templates` holds it.
        template: its name.
        values: what it shows.
    """
    style = PackageLoader("stacchip_core.chips", "pages")
    loader = ChoiceLoader([PackageLoader(package), style])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(**values)


def write_page(path: Path, text: str) -> Path:
    """Write a page; a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    return draft.replace(path)
