import re
from html.parser import HTMLParser

import numpy as np

from fer_ignite.apps.audit.duplicates import find_copies
from fer_ignite.apps.audit.findings import collect
from fer_ignite.apps.audit.label_issues import LabelIssues
from fer_ignite.apps.audit.page import draw_page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(cache_from_images, blob):
    evil = "<script>alert(1)<_script>"
    cache = cache_from_images(
        {
            f"{split}/{label}/&{i}": blob(i)
            for split in ("train", "val")
            for i, label in enumerate((evil, "b"))
        }
    )
    issues = LabelIssues(np.full(4, 0.9), np.ones(4, dtype=bool), 1 - np.array(cache.labels))
    findings = collect(
        cache, find_copies(cache), issues=issues, seen_N=np.zeros(4, dtype=bool), drop_above=0.7
    )
    return draw_page(
        {"data": '"><b>', "balance": {"train": cache.manifest["counts"]["train"]}},
        ["1 < 2"],
        findings=findings,
        cache=cache,
    )


def test_names_from_the_data_are_text_and_never_markup(cache_from_images, blob):
    page = page_of(cache_from_images, blob)
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not {tag for tag, _ in tags.tags} & {"script", "b>"}
    assert "&lt;script&gt;alert(1)" in page and "1 &lt; 2" in page and "&amp;0" in page


def test_a_large_group_states_how_many_faces_are_not_shown(cache_from_images, blob):
    cache = cache_from_images(
        {f"train/{('happy', 'sad')[i % 2]}/{i}": blob(0 if i < 10 else i) for i in range(12)}
    )
    issues = LabelIssues(np.full(12, np.nan), np.zeros(12, dtype=bool), np.array(cache.labels))
    findings = collect(
        cache, find_copies(cache), issues=issues, seen_N=np.zeros(12, dtype=bool), drop_above=0.7
    )
    page = draw_page(
        {"data": "x", "balance": {"train": cache.manifest["counts"]["train"]}},
        [],
        findings=findings,
        cache=cache,
    )
    assert page.count("<img") == 8 and "and 2 more of group" in page


def test_the_page_fetches_nothing_and_every_face_has_a_text(cache_from_images, blob):
    tags = Tags()
    tags.feed(page_of(cache_from_images, blob))
    sources = [attributes.get("src") or attributes.get("href") for _, attributes in tags.tags]
    assert all(source is None or re.match("data:image/png;base64,", source) for source in sources)
    pictures = [attributes for tag, attributes in tags.tags if tag == "img"]
    assert len(pictures) >= 4 and all(attributes["alt"] for attributes in pictures)
    assert any(
        "default-src 'none'" in (attributes.get("content") or "")
        for tag, attributes in tags.tags
        if tag == "meta"
    )
