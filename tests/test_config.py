import json
import os
from pathlib import Path

import pytest
import yaml

from fer_ignite.config import (
    GROUPS,
    Config,
    changed_settings,
    check,
    default_settings,
    field_facts,
    json_schema,
    merged,
    parse_duration,
    read_yaml,
)
from fer_ignite.config.fields import parse_yaml
from fer_ignite.errors import ConfigError
from fer_ignite.recipes import read_recipe, recipe_names

RUNS = Path(__file__).parents[1] / "docs" / "runs"


def test_every_setting_has_a_group_a_sentence_and_a_valid_default():
    for name in Config.model_fields:
        facts = field_facts(name)
        assert facts["group"] in GROUPS
        assert facts["help"].endswith((".", "]")), name
    Config()  # defaults are validated too


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5h", 5400), ("2m5s", 125)],
)
def test_a_duration_is_read_as_people_write_it(text, seconds):
    assert parse_duration(text) == seconds
    assert check({"max_time": text}).max_time == seconds


@pytest.mark.parametrize("text", ["soon", "1.2.3", "1.2.3s", "²", "1h²m", "."])
def test_what_is_no_duration_is_left_as_it_came(text):
    assert parse_duration(text) == text


@pytest.mark.parametrize("text", ["", "soon", "5d", "m", "-5", "1.2.3s", "²", "nan", "inf"])
def test_what_is_no_duration_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="--max-time"):
        check({"max_time": text})


@pytest.mark.parametrize(
    "path", sorted(RUNS.glob("*/config.yaml")), ids=lambda path: path.parent.name
)
def test_the_configuration_of_every_kept_run_can_be_given_again(path):
    assert set(read_yaml(path)) <= set(check(read_yaml(path)).model_dump())


def test_lists_may_be_written_with_commas():
    config = check(
        {"split": "0.8, 0.1,0.1", "gpus": "0,2", "freeze": "stem,head.*", "milestones": [3, 5]}
    )
    assert config.split == (0.8, 0.1, 0.1)
    assert config.gpus == (0, 2)
    assert config.freeze == ("stem", "head.*")
    assert config.milestones == (3.0, 5.0)


def test_one_number_stands_for_a_list_of_it():
    config = check({"gpus": 0, "milestones": 30.5, "sched": "multistep"})
    assert config.gpus == (0,) and config.milestones == (30.5,)
    with pytest.raises(ConfigError, match="--gpus"):
        check({"gpus": True})


def test_a_number_in_the_place_of_a_text_is_told_how_to_be_one():
    with pytest.raises(ConfigError, match=r"--name .*got 5, needs to be text; write it in quotes"):
        check({"name": 5})


def test_an_unknown_setting_is_answered_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"'epoch'; did you mean 'epochs'\?"):
        check({"epoch": 3})
    with pytest.raises(ConfigError, match="--print-config lists all"):
        check({"zzzzzzzz": 3})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0}, "--lr"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": float("inf")}, "--lr"),
        ({"lr": "abc"}, "--lr"),
        ({"seed": 2**64}, "--seed"),
        ({"epochs": 0}, "--epochs"),
        ({"model": 3}, "--model"),
        ({"batch_size": 32, "grad_accum_steps": 3}, "grad_accum_steps"),
        ({"split": "0.5,0.6,0.1"}, "split"),
        ({"betas": "0.9"}, "betas"),
        ({"resize": 32, "image_size": 48}, "resize"),
        ({"nnodes": 2, "node_rank": 2}, "node_rank"),
        ({"sched": "onecycle", "warmup_epochs": 1}, "warmup_epochs"),
        ({"sched": "multistep"}, "milestones"),
        ({"logit_adjustment": 1, "sampler": "balanced"}, "logit_adjustment"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"opt": "sgd", "momentum": 0}, "nesterov"),
        ({"sched": "linear"}, "--sched"),
        ({"model_args": "[1]"}, "--model-args"),
        ({"model_args": "{a: "}, "--model-args"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_the_setting(settings, said):
    with pytest.raises(ConfigError) as caught:
        check(settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().lr = 3


def test_a_file_holds_settings_with_dashes_or_underscores(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("batch-size: 64\nlr: 0.5\n", encoding="utf-8")
    assert read_yaml(file) == {"batch_size": 64, "lr": 0.5}
    file.write_text("", encoding="utf-8")
    assert read_yaml(file) == {}


@pytest.mark.parametrize(
    "content", [b"- 1\n- 2\n", b"just text", b"a: [", b"\xff\xfe\x00", b"3: 4"]
)
def test_a_file_that_holds_no_settings_is_refused_by_its_name(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_yaml(file)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("lr: 0.1\nepochs: 3\nlr: 0.2\n", "'lr' stands twice"),
        ("model_args: {widths: [8], widths: [16]}\n", "'widths' stands twice"),
        ("batch-size: 64\nbatch_size: 32\n", "batch_size twice"),
    ],
)
def test_a_setting_that_stands_twice_in_a_file_is_refused(tmp_path, text, twice):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"c\.yaml .*{twice}"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "root: &root {lr: 1}\na: {x: &base {<<: *root, lr: 2}}\nb: {<<: *base}\n",
            {"root": {"lr": 1}, "a": {"x": {"lr": 2}}, "b": {"lr": 2}},
        ),
        (
            "a: &a {lr: 1}\nb: &b {seed: 2}\nc:\n  <<: *a\n  <<: *b\n",
            {"a": {"lr": 1}, "b": {"seed": 2}, "c": {"lr": 1, "seed": 2}},
        ),
    ],
    ids=["merged twice", "two merges"],
)
def test_a_merged_key_that_is_overridden_stands_once(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize("text", ["[" * 20_000, "a: " + "{b: " * 5_000, "a: 2020-13-45"])
def test_yaml_that_can_t_be_parsed_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml is not valid YAML"):
        read_yaml(tmp_path / "c.yaml")


def test_a_device_a_pipe_and_a_large_file_are_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    for path, said in (
        ("/dev/zero", "no regular file"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "large.yaml", "at most"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_yaml(path)


@pytest.mark.parametrize("name", ["-x", "a\nb", "\x1b[2J", "a\tb", "a\0b"])
def test_a_name_with_control_characters_or_a_leading_dash_is_refused(name):
    with pytest.raises(ConfigError, match="name"):
        check({"name": name})


TEXTS = [
    name for name, field in Config.model_fields.items() if field.annotation in (str, str | None)
]


@pytest.mark.parametrize("name", TEXTS)
def test_no_setting_takes_text_with_a_nul_character(name):
    with pytest.raises(ConfigError, match=name):
        check({name: "a\0b"})


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="can't be read as a configuration"):
        read_yaml(tmp_path / name)


def test_later_layers_win():
    config = check(merged({"lr": 0.1, "epochs": 3}, {"lr": 0.2}, {}))
    assert (config.lr, config.epochs) == (0.2, 3)


def test_a_dumped_configuration_is_read_back_equal():
    config = check(
        {
            "split": "0.8,0.1,0.1",
            "model_args": {"widths": [8, 8]},
            "handlers": "a:b,c:d",
            "max_time": "15m",
        }
    )
    assert check(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_changes_count_absent_settings_with_their_defaults():
    new = Config(lr=0.3).model_dump(mode="json")
    assert changed_settings({"epochs": Config().epochs}, new) == {"lr": (Config().lr, 0.3)}


@pytest.mark.parametrize(
    ("opt", "lr", "weight_decay"),
    [
        ("adamw", 0.007, 0.1),
        ("adam", 0.003, 0.0005),
        ("sgd", 0.1, 0.0005),
        ("rmsprop", 0.001, 0.0005),
        ("adagrad", 0.01, 0.0005),
        ("adadelta", 1.0, 0.0005),
    ],
)
def test_rate_and_weight_decay_follow_the_optimizer_unless_given(opt, lr, weight_decay):
    config = Config(opt=opt)
    assert (config.lr, config.weight_decay) == (lr, weight_decay)
    assert config.model_fields_set == {"opt"}  # a resumed run's own values win over defaults
    assert check(config.model_dump()) == config
    assert (
        Config(opt=opt, weight_decay=0.02).lr,
        Config(opt=opt, weight_decay=0.02).weight_decay,
    ) == (lr, 0.02)
    assert default_settings({"opt": opt})["weight_decay"] == weight_decay


def test_the_default_rate_follows_the_network_too():
    assert Config(model="resnet18").lr == Config(opt="adamw", model="resnet18").lr == 0.003
    assert Config(model="resnet18", lr=0.02).lr == 0.02
    # of fer48 with adamw alone
    assert Config(opt="sgd", model="resnet18").lr == Config(opt="sgd").lr == 0.1
    assert default_settings({"model": "resnet18"})["lr"] == 0.003
    assert "lr=" not in repr(Config(model="resnet18")) + repr(Config())


def test_a_layer_that_names_another_optimizer_does_not_inherit_its_rates():
    recipe = {"opt": "adamw", "lr": 0.003, "weight_decay": 0.1, "head_lr": 0.01, "epochs": 3}
    config = check(merged(recipe, {"opt": "sgd"}))
    assert (config.lr, config.weight_decay, config.head_lr, config.epochs) == (0.1, 0.0005, None, 3)
    assert check(merged(recipe, {"opt": "sgd", "weight_decay": 0.01})).weight_decay == 0.01
    assert check(merged(recipe, {"opt": "adamw"})).head_lr == 0.01
    # it was given for no optimizer
    assert check(merged({"weight_decay": 0.02}, {"opt": "sgd"})).weight_decay == 0.02


def schema_errors(values):
    jsonschema = pytest.importorskip("jsonschema")
    return list(jsonschema.Draft202012Validator(json_schema()).iter_errors(values))


def test_the_json_schema_takes_the_defaults_and_the_recipes():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert schema_errors(Config().model_dump(mode="json")) == []
    for name in recipe_names():
        assert schema_errors(json.loads(json.dumps(read_recipe(name)))) == []


@pytest.mark.parametrize(
    "values",
    [
        {"max_time": "1h30m"},
        {"gpus": "0,2"},
        {"gpus": [0, 2]},
        {"gpus": 0},
        {"milestones": 30.5},
        {"track": "mlflow"},
    ],
)
def test_the_json_schema_takes_texts_and_numbers_where_the_settings_do(values):
    assert check(values) and schema_errors(values) == []


@pytest.mark.parametrize("values", [{"lr": -1}, {"epoch": 3}, {"opt": "sdg"}, {"epochs": "many"}])
def test_the_json_schema_refuses_what_the_settings_refuse(values):
    assert schema_errors(values)
    with pytest.raises(ConfigError):
        check(values)


def test_every_setting_of_the_json_schema_has_its_group_and_description():
    for name, entry in json_schema()["properties"].items():
        assert entry["title"] == field_facts(name)["group"]
        assert entry["description"].startswith(field_facts(name)["help"])


@pytest.mark.parametrize(
    "settings",
    [{"vote_weight": 0.3}, {"vote_weight": 0.3, "votes": "v.csv", "vote_mode": "distribution"}],
)
def test_a_vote_weight_needs_votes_beside_the_labels(settings):
    with pytest.raises(ConfigError, match="vote_weight"):
        check(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sam_rho": 0.1, "grad_accum_steps": 2}, "sam_rho"),
        ({"sam_rho": 0.1, "precision": "fp16"}, "sam_rho"),
        ({"swa_start": 0.5, "model_ema": True}, "swa_start"),
        ({"calibrate": "robust", "collate_fn": "a:b"}, "calibrate"),
        ({"teacher": ("a.pt",), "folds": 2}, "teacher"),
    ],
)
def test_means_that_exclude_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check(settings)


def test_muon_does_not_inherit_the_momentum_of_another_optimizer_s_file():
    other = check({"opt": "adamw"}).model_dump()
    assert check(merged(other, {"opt": "muon"})).momentum == 0.95
    assert check(merged(other, {"opt": "muon", "momentum": 0.8})).momentum == 0.8


def test_the_defaults_of_muon():
    config = check({"opt": "muon"})
    assert (config.lr, config.weight_decay, config.momentum) == (0.003, 0.1, 0.95)
    assert check({"opt": "sgd"}).momentum == 0.9
