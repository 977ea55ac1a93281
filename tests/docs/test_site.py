"""The site builds without a warning, its links lead somewhere, and what is made from the code is all there."""

import html
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from blocks import ROOT, pages
from commands import SEARCH_TERMS, command_names, command_page
from events import event_map

from fer_ignite.config import Config
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.training.events import EVENT_TABLE, RunEvents, StepEvents

pytest.importorskip("mkdocs", reason='pip install ".[docs]"')

from markdown import Markdown
from mkdocs.config import load_config


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and the text of each of its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and "WARNING" not in said.stderr, said.stderr
    return folder, {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in folder.rglob("*.html")
    }


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_link_leads_to_a_page_and_place(site):
    folder, texts = site
    lost = []
    for page, text in texts.items():
        for target in re.findall(r'\s(?:href|src)="([^"]*)"', text):
            link = urlsplit(html.unescape(target))
            if link.scheme or link.netloc or page == "404.html":
                continue
            file = (
                ((folder / page).parent / unquote(link.path)).resolve()
                if link.path
                else folder / page
            )
            file = file / "index.html" if file.is_dir() else file
            anchor = unquote(link.fragment)
            if not file.exists() or (
                anchor.strip("_")
                and file.suffix == ".html"
                and not _has(file.read_text(encoding="utf-8"), anchor)
            ):
                lost.append((page, target))
    assert lost == []


def _has(text, anchor):
    return (
        f'id="{html.escape(anchor)}"' in text
        or f"id={anchor}" in text
        or f'name="{anchor}"' in text
    )


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site):
    _, texts = site
    fetched = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="https?:[^>]*>|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*"https?:[^>]*>'
    )
    assert {(page, tag) for page, text in texts.items() for tag in fetched.findall(text)} == set()


@pytest.mark.slow
def test_the_site_has_a_page_per_command_the_events_and_the_public_names(site):
    _, texts = site
    assert {f"commands/{name}.html" for name in command_names()} <= set(texts)
    assert all(facts.event.name in texts["reference/events.html"] for facts in EVENT_TABLE)
    assert "fer_ignite.html#fer_ignite.api.train" in texts["reference/api.html"]
    assert 'id="fer_ignite.training.session.Session.log"' in texts["reference/training.html"]
    assert ":class:`" not in texts["reference/training.html"]


@pytest.mark.slow
def test_no_page_shows_text_of_the_test_harness(site):
    _, texts = site
    marks = ("<!-- not run", "As the tests run it", "tests leave this out", "left out by the tests")
    assert [(page, mark) for page, text in texts.items() for mark in marks if mark in text] == []


@pytest.mark.slow
def test_no_page_shows_a_backslash_outside_of_code_blocks(site):
    _, texts = site
    hidden = re.compile(r"<(script|style|pre)\b.*?</\1>", re.DOTALL)
    assert [page for page, text in texts.items() if "\\" in hidden.sub("", text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("flag", SEARCH_TERMS)
def test_the_search_index_finds_a_flag_by_the_field_s_term(site, flag):
    folder, _ = site
    entries = json.loads((folder / "search" / "search_index.json").read_text(encoding="utf-8"))[
        "docs"
    ]
    found = [
        entry["location"]
        for entry in entries
        if SEARCH_TERMS[flag] in entry["text"].lower() and flag in entry["text"]
    ]
    assert any(location.startswith("commands/train.html") for location in found)


def test_a_mermaid_fence_becomes_an_element_that_the_theme_draws():
    settings = load_config(str(ROOT / "mkdocs.yml"))
    page = Markdown(extensions=settings.markdown_extensions, extension_configs=settings.mdx_configs)
    assert '<pre class="mermaid"><code>graph TD' in page.convert(
        "```mermaid\ngraph TD\n  a --> b\n```\n"
    )


def test_brackets_inside_a_help_text_are_no_range():
    assert "'{widths: &#91;32, 64, 128, 256]}'. | default: none |" in command_page("train")


def test_in_plain_markdown_only_links_to_pages_that_are_made_lead_nowhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = ("docs/commands/", "docs/reference/", "docs/notebooks/first_run.md")
    lost = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            link = urlsplit(target)
            file = (page.parent / unquote(link.path)).resolve()
            if link.path and not link.scheme and not file.exists():
                lost.append(file.relative_to(ROOT).as_posix())
    assert lost and [path for path in lost if not path.startswith(made)] == []
    assert "pages of commands, the reference with the event map\nand the notebook's page" in readme


@pytest.mark.parametrize("name", ["tutorials/own-data.md", "many-images.md"])
def test_where_packs_are_promised_to_decode_nothing_the_limit_of_their_pixels_is_reported(name):
    text, limit = (
        (ROOT / "docs" / name).read_text(encoding="utf-8"),
        CacheSpec(data="demo").raw_limit_bytes,
    )
    assert (
        f"{limit >> 30} GiB" in text
        and f"{limit / 48**2 / 1e6:.1f} million" in text
        and f"{limit // (3 * 224**2) // 1000},000" in text
    )


def test_the_page_of_intended_use_says_how_all_faces_of_a_group_are_scored():
    text = (ROOT / "docs" / "intended-use.md").read_text(encoding="utf-8")
    # tests/cli/test_commands.py scores such data
    assert "`DATA/val/`" in text and "csv manifest with `val`" in text


def test_the_page_of_export_installs_from_the_checkout_until_there_is_a_release():
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert "pip install --no-deps . &&" in text and "--no-deps fer-ignite" not in text


def test_the_page_of_train_has_every_setting_with_its_range():
    text = command_page("train")
    missing = [name for name in Config.model_fields if f"--{name.replace('_', '-')}" not in text]
    assert missing == []
    default = Config.model_fields["epochs"].default
    assert f"| `--epochs INT` | Epochs. | >= 1, &lt;= 1e+06; default: {default} |" in text


def test_the_event_map_has_every_event_that_the_engines_know():
    text = event_map()
    assert all(
        f"## {type(event).__name__}.{event.name}\n" in text for event in (*StepEvents, *RunEvents)
    )
