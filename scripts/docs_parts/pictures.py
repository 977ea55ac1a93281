"""Makes docs/pictures: a demo run's curves, report and TensorBoard pages, the demo page, and a picture with annotated faces.

All faces in them are drawn by the program. Needs Chromium (`apt-get install chromium`) for the pages. Called by
`scripts/docs pictures`.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SEEDS = {
    "happy": 9,
    "surprise": 12,
    "sad": 15,
}  # the detector finds them, the network in the package names them


def program(*words: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "fer_ignite", *words], cwd=folder, check=True)


def draw_group(path: Path) -> None:
    """Three drawn faces on a plain background, as a photograph would show them."""
    canvas = Image.new("RGB", (960, 380), (205, 211, 216))
    for place, (expression, seed) in enumerate(SEEDS.items()):
        start = DEMO_CLASSES.index(expression)
        face_1HW1, _ = draw_faces(1, seed=seed, size=220, start=start)
        face = Image.fromarray(face_1HW1[0, :, :, 0]).convert("RGB")
        canvas.paste(face, (50 + 320 * place, 80))
    canvas.save(path)


def save(image: Image.Image, name: str, *, colours: int = 128) -> None:
    """A palette keeps a screenshot under about 150 kB."""
    image.convert("RGB").quantize(colours).save(PICTURES / name, optimize=True)


def screenshot(
    browser: Browser, address: str, *, folder: Path, size: tuple[int, int], wait_ms: int = 1500
) -> Image.Image:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_timeout(wait_ms)
    page.screenshot(path=folder / "page.png")
    page.close()
    return Image.open(folder / "page.png")


def demo_page(browser: Browser, group: Path, *, folder: Path) -> Image.Image:
    command = [sys.executable, "-m", "fer_ignite", "demo", "--port", "0", "--no-browser"]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout is not None
        address = next(
            found[1] for line in server.stdout if (found := re.search(r"page is at (\S+)", line))
        )
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(address)
        page.get_by_role("button", name="Drop an image file here").wait_for(timeout=60_000)
        page.locator("#fer-picture input[type=file]").set_input_files(str(group))
        page.get_by_role("heading", name="Face 3: sad").wait_for(timeout=60_000)
        page.wait_for_timeout(800)
        page.screenshot(path=folder / "demo.png")
        return Image.open(folder / "demo.png")
    finally:
        server.terminate()
        server.wait(timeout=60)


def tensorboard_pages(browser: Browser, runs: Path, *, folder: Path) -> None:
    """TensorBoard's charts of train and val, and its precision-recall curves."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", runs.name, "--port", "0"]
    server = subprocess.Popen(
        command, cwd=runs.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # the pages show the folder's name
    try:
        assert server.stderr is not None
        address = next(
            found[1] for line in server.stderr if (found := re.search(r" at (http\S+/) ", line))
        )
        for page in ("custom_scalars", "pr_curves"):
            shown = screenshot(
                browser, f"{address}#{page}", folder=folder, size=(1120, 760), wait_ms=6000
            )
            save(shown, f"tensorboard-{page.replace('_', '-')}.png", colours=64)
    finally:
        server.terminate()
        server.wait(timeout=60)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("scripts/docs pictures: no Chromium here; apt-get install chromium.")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        program(
            *["train", "--data", "demo:1400", "--epochs", "10", "--name", "demo"], folder=folder
        )
        program(*["report", "runs/demo", "--out", "report.html"], folder=folder)
        save(Image.open(folder / "runs/demo/plots/curves.png"), "curves.png")
        draw_group(folder / "group.png")
        program(
            *["predict", "group.png", "--faces", "always", "--save-annotated", "marked"],
            folder=folder,
        )
        (marked,) = (folder / "marked").iterdir()
        save(Image.open(marked), "faces.png")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        report = (folder / "report.html").as_uri()
        save(screenshot(browser, report, folder=folder, size=(1100, 1150)), "report.png")
        mixed = ["--lr", "0.001", "--mixup", "0.2", "--seed", "1", "--name", "demo-mixup"]
        program(*["train", "--data", "demo:1400", "--epochs", "10", *mixed], folder=folder)
        tensorboard_pages(browser, folder / "runs", folder=folder)
        save(demo_page(browser, folder / "group.png", folder=folder), "demo.png")
        browser.close()


if __name__ == "__main__":
    main()
