"""Shell completion: the program is started as a shell starts it, and prints the candidates."""

import os
import subprocess
import sys

import pytest


def completed(*words):
    environment = {
        **os.environ,
        "_FER_IGNITE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["fer-ignite", *words]),
        "COMP_CWORD": str(len(words)),
    }
    said = subprocess.run(
        [sys.executable, "-m", "fer_ignite"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_this_program(cli, shell):
    ended = cli("completion", shell)
    assert ended.code == 0 and f"_FER_IGNITE_COMPLETE={shell}_complete" in ended.out


@pytest.mark.slow
def test_commands_options_and_choices_are_completed():
    assert completed("tr") == ["plain,train"]
    assert completed("train", "--mix") == ["plain,--mixup"]
    assert completed("train", "--sched", "one") == ["plain,onecycle"]
    assert completed("train", "--data", "x") == ["file,x"]
    assert completed("train", "--epochs", "1") == []


def test_another_shell_is_refused(cli):
    ended = cli("completion", "tcsh")
    assert ended.code == 2 and "'tcsh' is not one of 'bash', 'zsh', 'fish'" in ended.err
