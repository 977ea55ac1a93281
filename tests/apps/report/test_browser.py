"""The page in a real Chromium: keyboard, narrow and wide, light and dark, and silence on the network.

Needs the distribution's own browser (`apt-get install chromium`); skipped, and said so, only where there is none.
"""

import shutil

import pytest

from fer_ignite.apps.report.page import write_report

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(finished_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    write_report([finished_run], out=out / "run.html")
    write_report([finished_run, finished_run / "checkpoints" / "last.pt"], out=out / "both.html")
    return out


@pytest.fixture
def opened(chromium, files):
    """(file, width, scheme) -> the page; at the end nothing may have been written to the console or requested from the network."""
    said, contexts = [], []

    def open_page(name, *, width=1280, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: (
                said.append(request.url) if not request.url.startswith(("file:", "data:")) else None
            ),
        )
        page.goto((files / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run.html", "both.html"])
def test_nothing_is_wider_than_a_phone_but_what_scrolls_by_itself(opened, name, scheme):
    page = opened(name, width=375, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    outside = page.evaluate(
        "[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll, .skip, svg')"
        " && e.getBoundingClientRect().right > 376).map(e => e.tagName + '.' + e.className)"
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(opened, scheme):
    """WCAG's 4.5 to 1 for every text, also in the matrix's shades and in charts; colours are read as the browser mixed them."""
    page = opened("run.html", scheme=scheme)
    assert page.evaluate(CONTRAST) == []


def test_the_matrix_is_browsed_with_the_keyboard_alone(opened):
    page = opened("run.html")
    stops = page.locator("#matrix button[tabindex='0']")
    assert stops.count() == 1 and page.locator("#matrix button").count() > 3
    chosen = page.locator("#matrix button[aria-pressed='true']")
    assert chosen.count() == 1  # the most frequent mistake is shown at once
    first = page.locator("#cell-title").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#matrix') !== null"):
            break
    start = page.evaluate("document.activeElement.dataset.cell")
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        if page.evaluate("document.activeElement.dataset.cell") != start:
            break
    moved = page.evaluate("document.activeElement.dataset.cell")
    assert moved != start
    # the focus can be seen
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#cell-title").inner_text() != first
    assert page.locator("#matrix button[aria-pressed='true']").get_attribute("data-cell") == moved
    shown = page.locator("#cell-list img")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert shown.count() == min(30, int(label.split(": ")[1].split()[0]))
    assert page.evaluate(
        "[...document.querySelectorAll('#cell-list img')].every(image => image.alt && image.naturalWidth === 48)"
    )
    assert page.locator("#cell-note").get_attribute("role") == "status"


def test_a_screen_reader_gets_names_and_roles(opened):
    page = opened("run.html")
    for role, name in (
        ("region", "Confusion matrix"),
        ("navigation", "Contents"),
        ("heading", "Saliency (Grad-CAM)"),
        ("img", "Loss"),
        ("link", "Skip to the content"),
    ):
        assert page.get_by_role(role, name=name).count() >= 1, name
    assert page.get_by_role("columnheader", name="Recall").count() == 1
    assert page.get_by_role("table").count() >= 4


CONTRAST = """() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = color => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data]; };
  const light = color => { const [r, g, b] = color.map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { for (let e = element; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] > 0) return c; } return [255, 255, 255, 255]; };
  const poor = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const texts = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!texts || ['SCRIPT', 'NOSCRIPT', 'STYLE', 'title', 'desc'].includes(element.tagName)) continue;
    const style = getComputedStyle(element), drawn = element.closest('svg');
    const a = light(rgba(drawn ? style.fill : style.color)), b = light(behind(drawn ? drawn.parentElement : element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.add(element.tagName + '.' + (element.getAttribute('class') || '') + ' ' + ratio.toFixed(2));
  }
  return [...poor];
}"""
