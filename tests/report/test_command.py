"""`fer-ignite report` on the command line."""

from types import SimpleNamespace

import pytest

from fer_ignite.cli.main import main


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return run


def test_report_writes_a_page_and_says_the_outcome(cli, finished_run, tmp_path):
    ended = cli("report", finished_run / "checkpoints" / "best.pt", "--out", "page.html", "--tta", "none")
    assert ended.code == 0, ended.err
    assert "of 70 validation faces" in ended.out and "page.html (" in ended.out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("report",), "Missing argument"), (("report", "nowhere"), "neither a checkpoint nor a run"),
     (("report", "nowhere", "--out", "no/such/folder.html"), "no folder"), (("report", "x", "--split", "all"), "all")],
)  # fmt: skip
def test_what_can_t_be_done_is_said_in_one_line(cli, arguments, said):
    ended = cli(*arguments)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1
