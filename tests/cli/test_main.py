import json
import re
import subprocess
import sys

import pytest
import yaml

from fer_ignite.cli import train
from fer_ignite.cli.options import COMMON_SETTINGS
from fer_ignite.cli.train import read_flags
from fer_ignite.config import GROUPS, Config, check, field_facts
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.recipes import read_recipe


def test_without_a_command_it_says_what_to_do_first(cli):
    ended = cli()
    assert ended.code == 0
    assert "fer-ignite train --data fer2013.csv" in ended.out
    for name in ("train", "evaluate", "predict", "pack", "info"):
        assert f"\n  {name} " in ended.out


def test_the_version_is_reported(cli):
    import fer_ignite

    assert fer_ignite.__version__ in cli("--version").out


def test_help_shows_the_common_settings_and_names_the_flag_for_the_rest(cli):
    text = cli("train", "--help").out
    flags = set(re.findall(r"^  (--[a-z-]+)", text, re.M))
    of_settings = {flag for flag in flags if flag[2:].replace("-", "_") in Config.model_fields}
    assert of_settings == {f"--{name.replace('_', '-')}" for name in COMMON_SETTINGS}
    assert "--help-all" in text and f"all {len(Config.model_fields)} settings" in text
    assert len(text.splitlines()) < 100


@pytest.mark.parametrize("command", ["tune", "find-lr"])
def test_help_of_a_search_shows_its_own_options_first(cli, command):
    text = cli(command, "--help").out
    own = {"tune": "--trials", "find-lr": "--iterations"}[command]
    assert 0 < text.index(own) < text.index("\nData:")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["train", "--learning-rate", "0.1"], "--lr"),
        (["train", "--batch", "32"], "--batch-size"),
        (["evaluate", "x.pt", "--batch", "32"], "--batch-size"),
        (["train", "--img-size", "64"], "--image-size"),
        (["train", "--label-smoothing", "0.1"], "--smoothing"),
        (["train", "--epoch", "3"], "--epochs"),
        (["find-lr", "--optimizer", "sgd"], "--opt"),
        (["predict", "--fromat", "csv", "x.jpg"], "--format"),
    ],
)
def test_unknown_flags_are_matched_by_meaning(cli, given, meant):
    ended = cli(*given)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert f"did you mean {meant}?" in ended.err


@pytest.mark.parametrize(
    "given",
    [
        ["train", "--data", "nowhere"],
        ["find-lr", "--data", "nowhere"],
        ["audit", "nowhere"],
        ["pack", "nowhere"],
        ["train", "--resume", "nowhere.pt"],
        ["train", "--teacher", "nowhere.pt"],
        ["evaluate", "nowhere.pt"],
        ["evaluate", "nowhere.pt", "--data", "demo"],
        ["export", "nowhere.pt"],
        ["report", "nowhere"],
        ["compare", "nowhere.pt", "there.pt"],
        ["predict", "nowhere.jpg"],
    ],
)
def test_a_wrong_path_is_refused_before_torch_is_imported(given):
    code = (
        "import sys\nfrom fer_ignite.cli.main import main\n"
        f"try: main({given!r})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.split() == ["2", "False"] and "nowhere" in ended.stderr


def test_a_restarted_job_may_have_lost_the_checkpoint_that_it_began_with(monkeypatch):
    gone = Config(resume="nowhere.pt")
    with pytest.raises(CheckpointError, match=r"^--resume: nowhere\.pt can't be read"):
        train._require_named_checkpoints(gone)
    train._require_named_checkpoints(Config(resume="auto"))
    train._require_named_checkpoints(Config(resume="s3://bucket/runs/a"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train._require_named_checkpoints(gone)


def test_help_groups_every_setting_by_topic_with_default_range_and_unit(cli):
    text = cli("train", "--help-all").out
    places = [text.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    ends = [*places[1:], len(text)]
    sections = {
        group: text[start:end] for group, start, end in zip(GROUPS, places, ends, strict=True)
    }
    for name in Config.model_fields:
        assert f"--{name.replace('_', '-')}" in sections[field_facts(name)["group"]], name
    plain = " ".join(text.split())
    rates = "0.007 for adamw with fer48, 0.003 adamw, adam and muon, 0.1 sgd, 0.001 rmsprop, 0.01 adagrad, 1 adadelta"
    assert (
        f"--lr NUMBER Learning rate; the peak for one-cycle. [default: {rates}] [> 0, <= 1000]"
        in plain
    )
    assert "uniform in +-. [>= 0, <= 180; degrees; default: 5.0]" in plain
    assert (
        "[>= 1, <= 1.04858e+06; images; default: 128]" in plain or "images; default: 128]" in plain
    )
    assert "--opt sgd|adam|adamw|rmsprop|adagrad|adadelta" in plain
    assert "--augment / --no-augment" in plain and "default: on" in plain


@pytest.mark.parametrize("command", ["evaluate", "predict", "pack", "info"])
def test_every_command_has_a_help_of_its_own(cli, command):
    ended = cli(command, "--help")
    assert ended.code == 0 and f"fer-ignite {command}" in ended.out


def printed(ended):
    assert ended.code == 0, ended.err
    return yaml.safe_load(ended.out)


def test_the_printed_configuration_is_whole_and_can_be_read_back(cli):
    ended = cli("train", "--print-config", "--lr", "0.05")
    assert check(printed(ended)) == Config(lr=0.05)
    file = ended.folder / "c.yaml"
    file.write_text(ended.out)
    assert cli("train", "--config", file, "--print-config").out == ended.out


def test_flags_win_over_the_file_and_the_file_over_the_recipe_and_that_over_defaults(cli):
    file = cli("info").folder / "c.yaml"
    file.write_text("lr: 0.02\nepochs: 7\nbatch-size: 64\n")
    recipe = printed(cli("train", "--recipe", "reference", "--print-config"))
    assert recipe["model"] == "emotionnet" and recipe["opt"] == "adam" and recipe["patience"] == 20
    values = printed(
        cli(
            "train",
            "--recipe",
            "reference",
            "--config",
            file,
            "--lr",
            "0.3",
            "--set",
            "seed=5",
            "--print-config",
        )
    )
    assert (values["lr"], values["epochs"], values["batch_size"], values["seed"]) == (0.3, 7, 64, 5)
    assert values["model"] == "emotionnet" and values["focal_gamma"] == Config().focal_gamma


def test_set_takes_yaml_and_dashes(cli):
    values = printed(
        cli(
            "train",
            "--set",
            "model-args={widths: [8, 8]}",
            "--set",
            "max_time=15m",
            "--set",
            "plots=false",
            "--print-config",
        )
    )
    assert (values["model_args"], values["max_time"], values["plots"]) == (
        {"widths": [8, 8]},
        900.0,
        False,
    )


@pytest.mark.parametrize("text", ["5", "007", "1e3", "2026-11-30", "yes"])
def test_set_takes_a_text_setting_as_it_is_written(cli, text):
    assert printed(cli("train", "--set", f"name={text}", "--print-config"))["name"] == text


def test_the_same_value_given_twice_in_two_ways_is_no_contradiction(cli):
    assert printed(cli("train", "--lr", "0.2", "--set", "lr=0.2", "--print-config"))["lr"] == 0.2


@pytest.mark.parametrize(
    ("key", "near"),
    [("epoch", "epochs"), ("batchsize", "batch_size"), ("learning_rate", "lr"), ("zzzz", None)],
)
def test_an_unknown_key_is_answered_with_did_you_mean(cli, key, near):
    ended = cli("train", "--set", f"{key}=3")
    assert ended.code == 2 and key in ended.err
    assert (f"did you mean {near!r}" if near else "--print-config lists all") in ended.err
    file = ended.folder / "c.yaml"
    file.write_text(f"{key}: 3\n")
    assert cli("train", "--config", file).err == ended.err


def test_an_unknown_flag_is_answered_with_the_nearest(cli):
    ended = cli("train", "--epoch", "3")
    assert ended.code == 2 and "--epochs" in ended.err
    assert "did you mean --no-augment?" in cli("train", "--no-augmnt").err


@pytest.mark.parametrize("command", [(), ("train",), ("find-lr",)])
def test_an_unknown_flag_without_a_near_one_is_answered_with_the_command_that_lists_them(
    cli, command
):
    said = cli(*command, "--zzzz").err
    assert f"; {' '.join(('fer-ignite', *command))} --help lists them." in said


def test_the_schedule_is_drawn_without_training(cli, tiny_flags):
    ended = cli("train", *tiny_flags, "--plot-lr", "lr.png")
    assert ended.code == 0 and "onecycle, 4 optimizer steps (4 per epoch)" in ended.out
    assert [path.name for path in ended.folder.iterdir()] == ["lr.png"]
    assert (ended.folder / "lr.png").read_bytes()[:4] == b"\x89PNG"


def test_a_schedule_that_can_t_be_written_is_refused(cli, tiny_flags):
    ended = cli("train", *tiny_flags, "--plot-lr", "absent/lr.png")
    assert ended.code == 2 and "absent" in ended.err and len(ended.err.splitlines()) == 1


def test_every_recipe_is_whole_and_says_how_it_was_measured(cli):
    from importlib.resources import files

    yamls = [file for file in files("fer_ignite.recipes").iterdir() if file.name.endswith(".yaml")]
    recipes = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in yamls}
    assert set(recipes) == {
        "quick",
        "small",
        "strong",
        "robust",
        "ferplus",
        "gpu-draft",
        "reference",
    }
    for name, text in recipes.items():
        config = check(printed(cli("train", "--recipe", name, "--print-config")))
        for key, value in yaml.safe_load(text).items():
            assert str(getattr(config, key)) == str(value) or config.model_dump()[key] == value, (
                name,
                key,
            )
        assert f"fer-ignite train --recipe {name}" in text
        assert "Measured on" in text or "not yet measured" in text.lower() or "reported" in text


def test_every_kind_of_error_has_a_section_that_helps():
    import re
    from pathlib import Path

    from fer_ignite.errors import HELP_PAGE, FerError

    page = (Path(__file__).parents[2] / HELP_PAGE).read_text(encoding="utf-8")
    sections = {
        re.sub(r"\W+", "-", title.lower())
        for title in re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    }
    assert {kind.topic for kind in (FerError, *FerError.__subclasses__())} == sections


def test_a_complaint_ends_with_the_section_that_helps(cli):
    assert cli("evaluate", "absent.pt").err.endswith("(see docs/howto/errors.md#checkpoint)\n")
    assert cli("pack", "absent").err.endswith("(see docs/howto/errors.md#data)\n")


def test_a_damaged_file_is_named_as_one_where_a_process_of_the_run_finds_it(
    cli, tiny_flags, tmp_path
):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(b"PK")
    ended = cli("train", *tiny_flags, "--init-from", cut)
    assert ended.code == 2 and ended.err.rstrip().endswith("(see docs/howto/errors.md#checkpoint)")


def test_train_prints_its_outcome_as_json(cli, tiny_flags):
    ended = cli("train", *tiny_flags, "--json")
    printed, written = (
        json.loads(ended.out),
        json.loads((ended.folder / "runs/run/summary.json").read_text()),
    )
    assert printed["exit_code"] == 0 and {name: printed[name] for name in written} == written


def test_a_launcher_of_one_s_own_reads_flags_as_train_does(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 9\nlr: 0.5\n")
    flags = ["--recipe", "strong", "--config", str(tmp_path / "mine.yaml"), "--no-plots"]
    given = read_flags([*flags, "--data", "a", "--data=b", "--set", "seed=3", "--lr", "0.1"])
    config = check(given)
    assert (config.data, config.epochs, config.lr) == (check({"data": ("a", "b")}).data, 9, 0.1)
    assert (config.seed, config.plots) == (3, False)
    assert config.mixup == check(read_recipe("strong")).mixup and "batch_transform" not in given


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--lr"], "--lr"),
        (["--lr", "0.1", "--lr", "0.2"], "given twice"),
        (["--seeds", "0,1"], "--seeds"),
        (["--json"], "--json"),
        (["surplus"], "surplus"),
    ],
)
def test_a_launcher_of_one_s_own_is_told_what_is_no_setting(flags, said):
    with pytest.raises(ConfigError, match=said):
        read_flags(flags)


@pytest.mark.parametrize("layers", [(), ("--recipe", "strong"), ("--config",)])
def test_the_printed_configuration_has_the_optimizer_s_own_rate_and_weight_decay(
    cli, tmp_path, layers
):
    if layers == ("--config",):
        file = tmp_path / "adamw.yaml"
        file.write_text(cli("train", "--print-config").out)
        layers = ("--config", file)
    values = printed(cli("train", *layers, "--opt", "sgd", "--print-config"))
    assert (values["opt"], values["lr"], values["weight_decay"]) == ("sgd", 0.1, 0.0005)
    assert (
        printed(cli("train", *layers, "--opt", "sgd", "--weight-decay", "0.01", "--print-config"))[
            "weight_decay"
        ]
        == 0.01
    )
