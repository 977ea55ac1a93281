import pickle
import re
import sys

import pytest

from fer_ignite import imports
from fer_ignite.errors import ConfigError
from fer_ignite.imports import (
    is_object_name,
    load_object,
    local_objects,
    register_object,
    registered_objects,
    require_library,
)


@pytest.mark.parametrize("text", ["a:b", "a.b.c:D", "./x.py:f", "/tmp/dir with space/x.py:f"])
def test_names_of_objects_are_distinguished_from_names_of_built_ins(text):
    assert is_object_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "fer48",
        "demo",
        "os.system",
        "a:b.c",
        "a:b()",
        "a b:c",
        ":b",
        "a:",
        "a:b:c",
        "../x.txt:f",
        "a;b:c",
        "__import__('os'):x",
    ],
)
def test_nothing_else_names_an_object(text):
    assert not is_object_name(text)


def test_an_object_of_an_installed_module_is_found():
    assert (
        load_object("collections:OrderedDict", setting="--x")
        is __import__("collections").OrderedDict
    )


def test_an_object_of_a_file_is_found_and_pickles_by_reference(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def f(session):\n    return 41\n")
    function = load_object(f"{file}:f", setting="--handlers")
    assert function(None) == 41
    assert pickle.loads(pickle.dumps(function)) is function
    del sys.modules[function.__module__]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        ("collections.absent:f", "no module 'collections.absent'"),
        ("collections:absent", "has no 'absent'"),
        ("./absent.py:f", "no file absent.py"),
        ("print", "names no object"),
        ("os.path:join.x", "names no object"),
    ],
)
def test_what_names_nothing_is_refused_with_the_flag(text, said):
    with pytest.raises(ConfigError, match=r"^--handlers: ") as caught:
        load_object(text, setting="--handlers")
    assert said in str(caught.value)


def test_an_error_inside_the_users_module_is_the_users_to_see(tmp_path, monkeypatch):
    (tmp_path / "broken_user_module.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        load_object("broken_user_module:f", setting="--handlers")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_object(f"{tmp_path / 'raises.py'}:f", setting="--handlers")


def test_the_same_file_is_run_once(tmp_path):
    file = tmp_path / "counts.py"
    file.write_text(
        "import pathlib\nwith open(__file__ + '.n', 'a') as f: f.write('x')\ndef f(s): ...\ndef g(s): ...\n"
    )
    first, again = (
        load_object(f"{file}:f", setting="--handlers"),
        load_object(f"{file}:f", setting="--handlers"),
    )
    load_object(f"{file}:g", setting="--handlers")
    assert first is again
    assert (tmp_path / "counts.py.n").read_text() == "x"


def test_a_file_can_import_the_file_beside_it_which_hides_no_library(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "my_blocks_beside.py").write_text("WIDTH = 8\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError\n")
    (tmp_path / "net_beside.py").write_text(
        "import colorsys\nfrom my_blocks_beside import WIDTH\n\n\ndef net():\n    return WIDTH\n"
    )
    for _ in range(2):
        assert load_object(f"{tmp_path}/net_beside.py:net", setting="--model")() == 8
    assert sys.path.count(str(tmp_path)) == 1


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"VALUE = {value}\n")
    values = [
        load_object(f"{tmp_path / folder / 'mine.py'}:VALUE", setting="--x") for folder in "ab"
    ]
    assert values == [1, 2]


def test_a_missing_extra_is_installed_for_this_python_out_of_any_folder(tmp_path, monkeypatch):
    checkout = tmp_path / "my code"
    monkeypatch.setattr(imports, "__file__", str(checkout / "fer_ignite" / "imports.py"))
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    said = r"x needs absent_library, which is not installed; install it with: "
    for source in ("fer_ignite", checkout):
        command = f'/opt/venv/bin/python -m pip install "{source}[faces]".'
        with pytest.raises(ConfigError, match=re.escape(said + command)):
            require_library("absent_library", extra="faces", purpose="x")
        checkout.mkdir(exist_ok=True)
        (checkout / "setup.cfg").touch()


def test_a_python_below_a_folder_with_a_blank_is_quoted(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my venv/bin/python")
    assert imports.install_package("gcsfs") == '"/my venv/bin/python" -m pip install gcsfs'


def test_a_file_that_was_edited_since_is_loaded_again(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(imports.logger, "warning", lambda text, *args: said.append(text % args))
    file = tmp_path / "edited.py"
    file.write_text("VALUE = 1\n")
    assert load_object(f"{file}:VALUE", setting="--x") == 1
    file.write_text("VALUE = 22\n")
    assert [load_object(f"{file}:VALUE", setting="--x") for _ in range(2)] == [22, 22]
    assert said == [f"{file} was edited since it was loaded; its new code is used."]
    module = sys.modules["fer_ignite_user_edited"]
    assert module.VALUE == 22  # under the same name: what it defines is pickled by reference


def test_objects_of_one_call_with_the_same_label_have_different_names():
    names: list[str] = []
    for thing in "abc":
        names.append(register_object("loss", "<lambda>", thing=thing, besides=names))
    assert names == ["object:lambda", "object:lambda_2", "object:lambda_3"]
    assert [load_object(name, setting="--loss") for name in names] == ["a", "b", "c"]


def test_objects_are_forgotten_at_the_end_of_a_block():
    outer = register_object("loss", "outer", thing=1)
    with local_objects():
        inner = register_object("loss", "inner", thing=2)
        assert {outer, inner} <= set(registered_objects())
    assert outer in registered_objects() and inner not in registered_objects()
