"""Settings that name a file or an object, each with things of the wrong kind: one sentence, exit code 2, nothing left behind."""

import os

import pytest

from fer_ignite.config import Config, field_facts

# What the text of a setting names. A new text setting has to be put into one of these lists.
FILES = {"data", "votes", "exclude", "init_from", "resume"}
FOLDERS = {"out", "cache"}
OBJECTS = {
    "data",
    "model",
    "loss",
    "sample_transform",
    "batch_transform",
    "collate_fn",
    "handlers",
    "optimizer_factory",
}
OTHERS = {
    "classes",
    "group_by",
    "class_weights",
    "name",
    "monitor",
    "device",
    "gpus",
    "master_addr",
    "project",
    "recipe",
    "image_size_schedule",
}

WRONG_FILES = ["/dev/zero", "pipe", "folder", "absent/file", "bytes", "empty", "deep", "a\nb", "-x"]
WRONG_OBJECTS = [
    "os:path",
    "os:absent",
    "absent_module:f",
    "./absent.py:f",
    "./broken.py:f",
    "json:JSONDecoder",
    "sys:maxsize",
    ":f",
    "os:",
]


def text_settings():
    for name, field in Config.model_fields.items():
        kinds = {str, type(None)} >= set(getattr(field.annotation, "__args__", (field.annotation,)))
        if kinds and field.annotation is not type(None):
            yield name


@pytest.fixture
def place(tmp_path):
    """A folder with things of every wrong kind."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "bytes").write_bytes(bytes(range(256)) * 9)
    (folder / "empty").touch()
    (folder / "deep").write_text("[" * 5000)
    (folder / "broken.py").write_text("import os\n")
    return folder


def flag_of(name):
    return "--" + name.replace("_", "-")


def test_every_text_setting_is_in_a_list():
    assert set(text_settings()) <= FILES | FOLDERS | OBJECTS | OTHERS, set(text_settings()) - (
        FILES | FOLDERS | OBJECTS | OTHERS
    )
    assert all(field_facts(name)["help"] for name in text_settings())


def names_in(folder):
    # Importing broken.py writes byte code beside it where Python is set so, which is Python's doing.
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def refused(cli, place, tiny_flags, flag, value):
    before = names_in(place)
    flags = list(tiny_flags)
    if flag == "--data":
        flags = flags[2:]
    ended = cli("train", *flags, f"{flag}={value}")
    # but the bar
    said = [
        line
        for line in ended.err.strip().splitlines()
        if "packing:" not in line or "fer-ignite:" in line
    ]
    assert ended.code == 2 and "fer-ignite: " in said[-1] and "Traceback" not in ended.err, (
        flag,
        value,
        ended.err[-2000:],
    )
    assert len([line for line in said if line.strip()]) == 1, said
    assert names_in(place) == before


@pytest.mark.parametrize("value", WRONG_FILES)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_setting_that_names_a_file_refuses_what_is_none(place, cli, tiny_flags, name, value):
    refused(cli, place, tiny_flags, flag_of(name), value)


@pytest.mark.parametrize("value", WRONG_OBJECTS)
@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_a_setting_that_names_an_object_refuses_what_is_none(place, cli, tiny_flags, name, value):
    refused(cli, place, tiny_flags, flag_of(name), value)


@pytest.mark.parametrize("value", ["/dev/zero", "pipe", "bytes", "bytes/below", "/proc/none"])
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_setting_that_names_a_folder_refuses_what_is_none(place, cli, tiny_flags, name, value):
    refused(cli, place, tiny_flags, flag_of(name), value)


@pytest.mark.parametrize("value", WRONG_FILES[:-1])
def test_config_refuses_what_is_no_configuration(place, cli, tiny_flags, value):
    if value == "empty":
        pytest.skip("an empty file is a configuration of defaults")
    refused(cli, place, tiny_flags, "--config", value)
