"""The page in a real Chromium: files good and bad, camera, examples, keyboard, narrow and wide, light and dark.

Needs the distribution's own browser (`apt-get install chromium`); skipped, and said so, only where there is none.
"""

import shutil
import struct
import zlib

import pytest
from PIL import Image

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory, happy, encoded):
    from playwright.sync_api import sync_playwright

    film = tmp_path_factory.mktemp("camera") / "face.mjpeg"  # what the camera sees
    film.write_bytes(encoded(happy(320).convert("RGB").resize((640, 480)), "JPEG") * 30)
    camera = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *camera], timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, program, served):
    """(width, scheme) -> the page; at the end nothing may have been requested from other machines, nor any script have run."""
    said, contexts = [], []

    def open_page(*, width=1280, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, permissions=["camera"]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on(
            "console",
            lambda message: (
                said.append(message.text) if "Content Security" in message.text else None
            ),
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on(
            "request",
            lambda request: (
                said.append(request.url)
                if not request.url.startswith((served, "data:", "blob:"))
                else None
            ),
        )
        page.goto(served)
        page.get_by_role("button", name="happy").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == [] and "Traceback" not in program.log.read_text()


def give(page, name, data):
    """Puts a file into the page, in the place of what is there."""
    old = page.get_by_role("button", name="Remove Image")
    if old.count():
        old.click()
        page.get_by_role("status").get_by_text("Choose a picture").wait_for()
    page.get_by_role("button", name="Drop an image file here").wait_for()
    page.locator("#fer-picture input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": data}
    )


def expect_status(page, text):
    """Waits until the page's status says a text."""
    page.locator("#fer-status [role=status]").get_by_text(text).wait_for()


def switch(page):
    return page.get_by_role("checkbox", name="The picture is one face")


def test_a_face_gets_bars_and_the_switch_decides_whether_it_is_looked_for(opened, happy, encoded):
    page = opened()
    give(page, "face.png", encoded(happy()))
    expect_status(page, "No face was found.")
    assert (
        page.locator("#fer-result li").count() == 0
        and page.get_by_role("img", name="Your picture").count() == 1
    )
    switch(page).check()
    expect_status(page, "The whole picture was taken as one face")
    bars = page.locator("#fer-result li")
    assert bars.count() == 7 and bars.first.inner_text().split()[0] == "happy"
    lengths = page.evaluate(
        "[...document.querySelectorAll('#fer-result .fer-bar span')].map(bar => bar.getBoundingClientRect().width)"
    )
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 100
    switch(page).uncheck()
    expect_status(page, "No face was found.")


def test_several_faces_are_boxed_numbered_and_named(opened, happy, encoded):
    photograph = Image.new("RGB", (400, 200), "white")
    for left in (20, 250):
        photograph.paste(happy(120), (left, 40))
    page = opened()
    give(page, "two.png", encoded(photograph))
    expect_status(page, "2 faces were found: 1 happy")
    assert page.get_by_role("img", name="Your picture with 2 numbered face boxes").count() == 1
    assert page.get_by_role("heading", name="Face 2: happy").count() == 1
    shown = page.evaluate("""() => { const box = name => document.querySelector('#fer-result ' + name).getBoundingClientRect();
        const svg = box('svg'), rect = box('rect'); return [(rect.left - svg.left) / svg.width, rect.width / svg.width]; }""")
    assert shown == pytest.approx([20 / 400, 120 / 400], abs=0.02)


def test_an_example_switches_over_for_itself_alone(opened, happy, encoded):
    page = opened()
    page.get_by_role("button", name="surprise").click()
    expect_status(page, "Surprise, ")
    assert switch(page).is_checked()
    give(page, "face.png", encoded(happy()))
    expect_status(page, "No face was found.")
    assert not switch(page).is_checked()


def test_the_camera_s_picture_is_read(opened):
    page = opened()
    switch(page).check()
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.get_by_role("button", name="capture photo").click()
    expect_status(page, "Happy, ")


def _bomb(side):
    """A PNG of a few kB that says it is side x side pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
        + chunk(b"IEND", b"")
    )


def test_hostile_files_get_a_sentence_and_the_next_good_one_an_answer(opened, happy, encoded):
    page = opened()
    switch(page).check()
    face = encoded(happy())
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><image href='http://192.0.2.1/x.png'/></svg>"
    hostile = {
        "noise.png": (b"no image at all", "no image data"),
        "bomb.png": (_bomb(60_000), "more than 20000000 pixels"),
        "cut.png": (face[: len(face) // 2], "truncated"),
        "drawing.png": (svg, "no image data"),
        "site.png": (
            b"<html><script>alert(1)</script><img src='http://192.0.2.1/x.png'></html>",
            "no image data",
        ),
        "../../../etc/passwd.png": (b"root", "passwd.png: no image data"),
        "<img src=x onerror=alert(1)>.png": (
            b"x",
            "<img src=x onerror=alert(1)>.png: no image data",
        ),
        "empty.png": (b"", "no image data"),
    }
    for name, (data, said) in hostile.items():
        give(page, name, data)
        expect_status(page, said)
        assert page.locator("#fer-result section, #fer-result svg, #fer-status img").count() == 0
        page.locator("#fer-picture img").wait_for(state="detached")  # it is taken off the page
        page.wait_for_timeout(300)  # where it was, the place for the next one is still being made
    give(page, "face.png", face)
    expect_status(page, "Happy, ")


def test_the_keyboard_is_enough(opened):
    page = opened()
    for name in ("Upload file", "Capture from camera"):  # they come later than the examples
        page.get_by_role("button", name=name).wait_for()
    switch(page).wait_for()
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(e => e.getAttribute('aria-label') || e.innerText || e.type)(document.activeElement)"
        ).strip()
        reached.add(name.split("\n")[0])
        if name == "happy":
            break
    assert {"checkbox", "happy", "Upload file", "Capture from camera"} <= reached, reached
    # the focus can be seen
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect_status(page, "Happy, ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_all_text_stands_out(
    opened, happy, encoded, scheme
):
    page = opened(width=375, scheme=scheme)
    for name in ("happy", "surprise"):
        page.get_by_role("button", name=name).click()
        expect_status(page, f"{name.capitalize()}, ")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate(CONTRAST) == []


# WCAG's 4.5 to 1 for the page's own texts.
CONTRAST = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => { for (let e = element; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const own = '#fer-head *, #fer-switch *, #fer-status *, #fer-result *, #fer-examples *, #fer-foot *', poor = [];
  for (const element of document.querySelectorAll(own)) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const a = light(numbers(getComputedStyle(element).color)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(element.className + ' ' + element.textContent.trim() + ' ' + ratio.toFixed(2));
  }
  return poor;
}"""
