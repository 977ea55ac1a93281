"""HTML rendering with jinja2: escaping on, style and script inline, a strict Content-Security-Policy."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from fer_ignite.apps.report.sentences import percent
from fer_ignite.imports import require_library

__all__ = ["render_page", "require_jinja"]


def require_jinja() -> None:
    """Fails early where the template library is missing.

    Raises:
        ConfigError: naming the extra.
    """
    require_library("jinja2", extra="report", purpose="fer-ignite report")


def render_page(template: str, facts: Mapping[str, Any]) -> str:
    """The whole page.

    Whatever names hold, nothing of it becomes markup: templates escape, and the page's Content-Security-Policy lets
    the browser run one script and one style, known by their SHA-256, show pictures that stand in the page, and fetch
    nothing.

    Args:
        template: ``run.html`` or ``comparison.html``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("fer_ignite.apps.report", "templates")
    # StrictUndefined: a misspelt name in a template is an error, not an empty place on the page.
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": _points, "figures": _figures}
    style, script = (
        str(loader.get_source(environment, name)[0]).strip() for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # The page's own files, not data: they go in as they are, and must for their digests.
    parts = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return environment.get_template(template).render(**facts, **parts)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _figures(value: float, digits: int = 1) -> str:
    return "-" if value != value else f"{100 * value:.{digits}f}"
