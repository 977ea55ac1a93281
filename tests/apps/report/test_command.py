"""`fer-ignite report` on the command line."""

import json

import pytest


def test_report_writes_a_page_and_says_the_outcome(cli, finished_run):
    ended = cli(
        "report", finished_run / "checkpoints" / "best.pt", "--out", "page.html", "--tta", "none"
    )
    assert ended.code == 0, ended.err
    assert "of 70 validation faces" in ended.out and "page.html (" in ended.out
    assert (ended.folder / "page.html").read_text().startswith("<!doctype html>")


def test_report_says_as_json_what_it_wrote(cli, finished_run):
    ended = cli("report", finished_run, "--out", "page.html", "--tta", "none", "--json")
    printed = json.loads(ended.out)
    assert (
        printed["bytes"] == (ended.folder / printed["file"]).stat().st_size and printed["sentences"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report",), "Missing argument"),
        (("report", "nowhere"), "nowhere can't be read: No such file or directory"),
        (("report", "nowhere", "--out", "no/such/folder.html"), "no folder"),
        (("report", "x", "--split", "all"), "all"),
    ],
)
def test_what_can_t_be_done_is_said_in_one_line(cli, arguments, said):
    ended = cli(*arguments)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1


@pytest.mark.slow
def test_the_robustness_section_is_there_where_it_was_requested(cli, finished_run):
    said = cli("report", finished_run, "--robustness", "--out", "with.html", "--tta", "none")
    assert said.code == 0, said.err
    page = (said.folder / "with.html").read_text()
    assert 'id="robustness"' in page and "mean of the kinds" in page and "crop offset" in page
    assert cli("report", finished_run, "--out", "without.html", "--tta", "none").code == 0
    assert 'id="robustness"' not in (said.folder / "without.html").read_text()
    said = cli("report", finished_run, finished_run, "--robustness")
    assert said.code == 2 and "--robustness is for the page of one run" in said.err
