"""Every code block of README.md and of the site's pages is run, in its order, in the form of blocks.as_tested."""

import json

import pytest
from blocks import LANGUAGES, ROOT, as_tested, blocks_of, command_lines, pages

WITH_BLOCKS = [
    page
    for page in pages()
    if any(block.language in LANGUAGES for block in blocks_of(page.read_text(encoding="utf-8")))
]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_BLOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_one_after_the_other(page, path):
    blocks = blocks_of(path.read_text(encoding="utf-8"))
    page.commands = "".join(block.text for block in blocks if block.language == "bash")
    for block in blocks:
        if block.language not in LANGUAGES or block.reason is not None:
            continue
        try:
            page.run(block)
        except (Exception, SystemExit) as error:
            pytest.fail(
                f"{path.relative_to(ROOT)}, line {block.line}: {type(error).__name__}: {error}"
            )


def first_training(path):
    return next(
        command.replace(" --name first", "")
        for block in blocks_of((ROOT / path).read_text(encoding="utf-8"))
        if block.language == "bash"
        for command in command_lines(block.text)
        if command.startswith("fer-ignite train")
    )


@pytest.mark.slow
def test_the_documented_first_run_shows_a_network_that_has_learned_something(page):
    """At chance one face in seven is right, and a calibration of such a network means nothing."""
    paths = ("docs/index.md", "docs/tutorials/first-run.md", "docs/ja/quick-start.md")
    (first,) = {first_training(path) for path in paths}  # one command on all three pages
    page._command(f"{as_tested(first)} --out shown")
    (file,) = page.folder.glob("shown/*/summary.json")
    summary = json.loads(file.read_text(encoding="utf-8"))
    assert summary["test"]["accuracy"] > 0.5 and summary["val"]["calibrated"]
    assert 0.05 <= summary["val"]["temperature"] <= 20


def test_every_page_writes_its_blocks_in_a_language_that_is_run_or_as_text():
    named = {
        block.language for path in pages() for block in blocks_of(path.read_text(encoding="utf-8"))
    }
    assert named <= {*LANGUAGES, "text", "mermaid", "bibtex"}


def test_a_block_is_left_out_only_with_a_reason():
    text = "```bash\na\n```\n\n<!-- not run: needs two GPUs -->\n```bash\nb\n```\n"
    assert [block.reason for block in blocks_of(text)] == [None, "needs two GPUs"]


def test_blocks_are_found_with_their_lines_and_without_their_indentation():
    first, second = blocks_of(
        "# Page\n\n```python\nx = 1\n```\n\n- a list\n\n    ```bash\n    fer-ignite info\n    ```\n"
    )
    assert (first.line, first.text) == (3, "x = 1\n")
    assert (second.line, second.text) == (9, "fer-ignite info\n")


def test_trainings_are_shortened_and_what_they_say_themselves_is_kept():
    assert (
        as_tested("fer-ignite train --data a.csv")
        == "fer-ignite train --data a.csv --max-train-samples 140 --epochs 1"
    )
    assert (
        as_tested("fer-ignite train --epochs 3 --data d  # why")
        == "fer-ignite train --epochs 3 --data d --max-train-samples 140"
    )
    assert (
        as_tested("scripts/fer-ignite train")
        == "scripts/fer-ignite train --data demo:700 --max-train-samples 140 --epochs 1"
    )
    assert (
        as_tested("fer-ignite train --data demo:700 --epochs 8")
        == "fer-ignite train --data demo:700 --epochs 8"
    )
    assert as_tested("fer-ignite train --data demo:7000 --epochs 8").endswith(
        "--max-train-samples 140"
    )
    assert as_tested("torchrun -m fer_ignite train --data d").endswith(
        "--max-train-samples 140 --epochs 1"
    )
    assert as_tested("fer-ignite train --print-config") == "fer-ignite train --print-config"
    assert as_tested(
        "fer-ignite train --data d --epochs 2 --max-train-samples 9", spare=True
    ).endswith("--max-train-samples 9 --tta none --no-plots")
    assert (
        as_tested("fer-ignite tune s.yaml --epochs 9 --trials 30")
        == "fer-ignite tune s.yaml --epochs 1 --trials 2 --max-train-samples 140"
    )
    assert as_tested("fer-ignite predict best.pt --topk 1") == "fer-ignite predict best.pt --topk 1"


def test_a_backslash_joins_lines_and_comments_are_no_commands():
    assert list(command_lines("# so:\nfer-ignite train \\\n  --epochs 3\n\nls\n")) == [
        "fer-ignite train    --epochs 3",
        "ls",
    ]
