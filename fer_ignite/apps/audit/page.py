"""The audit as one HTML file: figures, tables and images; it fetches nothing."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from PIL import Image

from fer_ignite.apps.audit.findings import Finding
from fer_ignite.data.cache.format import DatasetCache
from fer_ignite.data.images import as_data_uri

__all__ = ["draw_page"]

_MOST_LABELS, _MOST_GROUPS, _MOST_IN_GROUP, _MOST_BROKEN = 240, 60, 8, 200
_LARGEST_PX = 96

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.6rem;list-style:none;padding:0}
.faces li{background:var(--soft);padding:.5rem;font-size:.8rem;overflow-wrap:anywhere}
.group{border-left:3px solid var(--line);padding-left:.6rem;margin:.8rem 0}
img{width:96px;height:96px;image-rendering:pixelated;display:block;object-fit:contain}
b{font-weight:600}
"""
# Names and ids come from the data: if escaping failed, a browser still runs and fetches nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def draw_page(
    report: Mapping[str, Any],
    sentences: Sequence[str],
    *,
    findings: Sequence[Finding],
    cache: DatasetCache,
) -> str:
    """The page as HTML; every text that comes from the data is escaped.

    Args:
        report: as :func:`fer_ignite.apps.audit.pipeline.audit` returns it.
        sentences: the same for people, one fact each.
    """
    labels = [finding for finding in findings if "label" in finding.kinds.split(";")]
    blanks = [finding for finding in findings if "blank" in finding.kinds.split(";")]
    broken = [finding for finding in findings if finding.kinds == "broken"]
    parts = [
        f"<h1>Audit of {escape(str(report['data']))}</h1>",
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>",
        _balance(report["balance"]),
        _section(
            "Labels that are probably wrong",
            _shown(len(labels), _MOST_LABELS),
            content=_faces(labels[:_MOST_LABELS], cache),
        ),
        _groups("Copies with different labels", "contradicting", findings=findings, cache=cache),
        _groups("Copies in several splits", "across_splits", findings=findings, cache=cache),
        _groups("Same person?", "same_person", findings=findings, cache=cache),
        _section(
            "Blank images",
            _shown(len(blanks), _MOST_LABELS),
            content=_faces(blanks[:_MOST_LABELS], cache),
        ),
        _section(
            "Broken files",
            _shown(len(broken), _MOST_BROKEN),
            content=_broken(broken[:_MOST_BROKEN]),
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {escape(str(report['data']))}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _section(title: str, text: str, *, content: str) -> str:
    return (
        f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{content}</section>"
        if content
        else ""
    )


def _shown(count: int, most: int) -> str:
    return (
        f"{count} in all."
        if count <= most
        else f"The first {most} of {count}; audit.csv has them all."
    )


def _balance(balance: Mapping[str, Mapping[str, int]]) -> str:
    totals = {split: max(sum(counts.values()), 1) for split, counts in balance.items()}
    head = "".join(f'<th scope="col">{escape(split)}</th>' for split in balance)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td>{balance[split][name]} ({100 * balance[split][name] / totals[split]:.1f} %)</td>"
            for split in balance
        )
        + "</tr>"
        for name in next(iter(balance.values()))
    )
    table = f'<table><thead><tr><th scope="col">expression</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _section(
        "Balance of the classes",
        "Images of each class, and their share of the split.",
        content=table,
    )


def _faces(findings: Iterable[Finding], cache: DatasetCache) -> str:
    items = "".join(
        f"<li>{_picture(finding, cache)}{_caption(finding)}</li>" for finding in findings
    )
    return f'<ul class="faces">{items}</ul>' if items else ""


def _picture(finding: Finding, cache: DatasetCache) -> str:
    pixels_HWC = cache.read([finding.place])[0]
    image = Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.thumbnail((_LARGEST_PX, _LARGEST_PX))
    source = as_data_uri(image, kind="PNG")
    return f'<img loading="lazy" alt="face {escape(finding.id)}" src="{source}">'


def _caption(finding: Finding) -> str:
    label = f"<b>{escape(finding.label)}</b>" + (
        f" → <b>{escape(finding.suggested)}</b>" if finding.suggested else ""
    )
    facts = [
        finding.id,
        finding.split,
        f"doubt {finding.score}" if finding.score else "",
        "dropped" if finding.drop == "yes" else "",
    ]
    return f"<div>{label}</div><div>{escape(', '.join(fact for fact in facts if fact))}</div>"


def _groups(title: str, kind: str, *, findings: Sequence[Finding], cache: DatasetCache) -> str:
    members = [finding for finding in findings if kind in finding.kinds.split(";")]
    members.sort(key=lambda finding: (int(finding.group), finding.place))
    groups = [list(group) for _, group in groupby(members, key=lambda finding: finding.group)]
    groups.sort(key=lambda group: -len(group))
    drawn = "".join(
        f'<div class="group">{_faces(group[:_MOST_IN_GROUP], cache)}{_more(group)}</div>'
        for group in groups[:_MOST_GROUPS]
    )
    return _section(title, f"Groups: {_shown(len(groups), _MOST_GROUPS)}", content=drawn)


def _more(group: Sequence[Finding]) -> str:
    left = len(group) - _MOST_IN_GROUP
    return f"<p>and {left} more of group {escape(group[0].group)}</p>" if left > 0 else ""


def _broken(findings: Sequence[Finding]) -> str:
    items = "".join(
        f"<li><b>{escape(finding.id)}</b>: {escape(finding.note)}</li>" for finding in findings
    )
    return f"<ul>{items}</ul>" if items else ""
