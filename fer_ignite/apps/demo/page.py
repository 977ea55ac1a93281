"""The Gradio page: input by file, paste, camera or example, and the result."""

# No `from __future__ import annotations` here: Gradio reads the annotations of the functions that it calls.

import traceback
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fer_ignite.apps.demo.analyzer import Analysis, ImageAnalyzer
from fer_ignite.apps.demo.examples import Example
from fer_ignite.apps.demo.html import analysis_html, examples_html
from fer_ignite.apps.demo.request_guard import FOREIGN_FILE, Application, references_foreign_file
from fer_ignite.data.images import MAX_FILE_BYTES, read_file_bytes
from fer_ignite.errors import DataError

__all__ = ["build_page"]

_TITLE = "What does this face show?"
_WELCOME = "Choose a picture, paste one, take one with the camera, or try an example."
_ANALYSING = "Analysing the picture ..."
_LIMITS = (
    "A guess about how a face looks, made by a program that errs often; it is no evidence of what a person feels. "
    "Pictures stay on the machine that runs this page, and are deleted when it ends."
)
_SWITCH = "The picture is one face"
# Screen readers announce changes of its content.
_ANNOUNCE = "element.setAttribute('role', 'status')"
_CHOOSE = """element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('click', {index: Number(button.dataset.index)});
})"""
_KEPT_S = (
    600  # an uploaded file that was not opened for so long is deleted while the page continues
)
# preprocess: Gradio would decode the pictures itself, without this package's limits. show_progress: its text for screen
# readers is no sentence; the page's own status is one.
_PLAINLY: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "preprocess": False,
}


def build_page(
    analyzer: ImageAnalyzer,
    examples: Sequence[Example],
    *,
    network: str,
    missing: str | None,
    folder: Path,
) -> Application:
    """The page as an ASGI application.

    Args:
        examples: shown as buttons.
        network: its name, to be shown.
        missing: why no faces can be detected, in a sentence; None where they can.
        folder: where Gradio keeps uploads; events may name files there and nowhere else.
    """
    import gradio

    with _blocks_class(gradio, folder)(
        title=_TITLE, analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S)
    ) as blocks:
        gradio.HTML(f"<h1>{_TITLE}</h1><p>{_LIMITS}</p>", elem_id="fer-head")
        with gradio.Row():
            with gradio.Column(min_width=300):
                picture = _picture(gradio)
                switch = _switch(gradio, missing)
                by_example = gradio.Checkbox(visible=False)
            with gradio.Column(min_width=300):
                status = gradio.HTML(
                    _sentence(_WELCOME), elem_id="fer-status", js_on_load=_ANNOUNCE
                )
                result = gradio.HTML("", elem_id="fer-result", js_on_load=None)
        drawn = gradio.HTML(examples_html(examples), elem_id="fer-examples", js_on_load=_CHOOSE)
        gradio.HTML(f"<p>Network: {escape(network)}</p>", elem_id="fer-foot")
        callbacks = _Callbacks(
            analyzer, examples, always_one=missing is not None, same=gradio.skip()
        )
        parts = [picture, switch, by_example, status, result]
        # Not `input`: when a picture is removed, that one still comes with the old picture.
        picture.upload(callbacks.picture, [picture, switch, by_example], parts, **_PLAINLY)
        picture.clear(callbacks.removal, None, parts, **_PLAINLY)
        switch.input(callbacks.switch, [picture, switch], parts, **_PLAINLY)

        def example(event: gradio.EventData) -> Iterator[tuple[Any, ...]]:
            yield from callbacks.example(event.index)

        drawn.click(example, None, parts, **_PLAINLY)
    blocks.queue(max_size=32, api_open=False)
    return _application(gradio, blocks)


def _blocks_class(gradio: Any, folder: Path) -> Any:
    class UploadedFilesOnly(gradio.Blocks):  # type: ignore[misc]
        """Checks what Gradio itself has parsed, before it resolves any file: headers can't change what is checked here."""

        async def preprocess_data(
            self, block_fn: Any, inputs: list[Any], *more: Any, **named: Any
        ) -> Any:
            if references_foreign_file(inputs, folder):
                raise gradio.Error(FOREIGN_FILE, print_exception=False)
            return await super().preprocess_data(block_fn, inputs, *more, **named)

    return UploadedFilesOnly


class _Callbacks:
    """Event callbacks of the page; each first gives a progress message, then the result, as values for the page's parts.

    Args:
        same: the value that leaves a part as it is.
    """

    def __init__(
        self, analyzer: ImageAnalyzer, examples: Sequence[Example], *, always_one: bool, same: Any
    ) -> None:
        self.analyzer, self.examples, self.always_one, self.same = (
            analyzer,
            examples,
            always_one,
            same,
        )

    def picture(self, given: Any, one_face: bool, by_example: bool) -> Iterator[tuple[Any, ...]]:
        # What an example has switched on is not meant for the next picture.
        one_face = self.always_one or (one_face and not by_example)
        for kept, *shown in self._analyze_upload(given, one_face):
            yield kept, one_face, False, *shown

    def removal(self) -> tuple[Any, ...]:
        return self.same, self.same, self.same, _sentence(_WELCOME), ""

    def switch(self, given: Any, one_face: bool) -> Iterator[tuple[Any, ...]]:
        for kept, *shown in self._analyze_upload(given, one_face):
            yield kept, self.same, False, *shown

    def example(self, index: int) -> Iterator[tuple[Any, ...]]:
        example = self.examples[index]
        # The file that Gradio writes for it is deleted like any other, so it is written again each time.
        picture: Any = example.image()
        for _, *shown in self._analyze(
            lambda: example.data, f"{example.expression}.png", one_face=True
        ):
            yield picture, True, True, *shown
            picture = self.same

    def _analyze_upload(self, given: Any, one_face: bool) -> Iterator[tuple[Any, str, str]]:
        if not given or not given.get("path"):
            yield self.same, _sentence(_WELCOME), ""
            return
        name = Path(given.get("orig_name") or given["path"]).name
        yield from self._analyze(lambda: read_file_bytes(given["path"]), name, one_face=one_face)

    def _analyze(
        self, read: Callable[[], bytes], name: str, *, one_face: bool
    ) -> Iterator[tuple[Any, str, str]]:
        yield self.same, _sentence(_ANALYSING), ""
        analysis = _guarded(lambda: self.analyzer.analyze(read(), name=name, one_face=one_face))
        # What can't be read is taken off the page: a browser would only try to draw it too.
        kept = self.same if analysis.picture_HW3 is not None else None
        yield kept, _sentence(analysis.sentence), analysis_html(analysis)


def _picture(gradio: Any) -> Any:
    return gradio.Image(
        label="Picture",
        sources=["upload", "webcam", "clipboard"],
        type="filepath",
        format="png",
        height=340,
        elem_id="fer-picture",
        alt_text="The picture that was given",
        buttons=["fullscreen"],
    )


def _switch(gradio: Any, missing: str | None) -> Any:
    info = "Cut tightly, as in FER2013. Off: faces are detected."
    if missing is not None:
        info = f"Only such pictures can be read here: {missing}"
    return gradio.Checkbox(
        label=_SWITCH,
        info=info,
        value=missing is not None,
        interactive=missing is None,
        elem_id="fer-switch",
    )


def _application(gradio: Any, blocks: Any) -> Application:
    from fastapi import FastAPI

    no_pages = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    fonts = ("system-ui", "sans-serif")  # those of the system: nothing is fetched for them
    application: Application = gradio.mount_gradio_app(
        FastAPI(**no_pages),
        blocks,
        path="/",
        app_kwargs=no_pages,
        max_file_size=MAX_FILE_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        css=(files("fer_ignite.apps.demo") / "page.css").read_text(encoding="utf-8"),
        theme=gradio.themes.Default(
            primary_hue="teal", font=fonts, font_mono=("ui-monospace", "monospace")
        ),
    )
    # Gradio looks whether a file may be read only where it was launched by itself.
    blocks.has_launched = blocks.is_running = True
    return application


def _guarded(analyze: Callable[[], Analysis]) -> Analysis:
    """An analysis, whatever a picture or a user's detector raises: the page has to keep working."""
    try:
        return analyze()
    except DataError as error:
        return Analysis(str(error))
    except Exception:
        traceback.print_exc()
        return Analysis(
            "This picture could not be analysed; the terminal that runs the page shows the error."
        )


def _sentence(text: str) -> str:
    return f"<p>{escape(text)}</p>"
