import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fer_ignite

ROOT = Path(fer_ignite.__file__).parent
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages([str(ROOT)], "fer_ignite.")
    if name != "fer_ignite.__main__"
)


def _place(public):
    return (0 if public.isupper() else 1 if public[0].isupper() else 2), public


def fresh(code):
    """What a new interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    ).stdout


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_its_idea_and_lists_its_public_names_sorted(name):
    module = importlib.import_module(name)
    assert module.__doc__ and len(module.__doc__.split()) > 3
    is_empty = not any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef))
        for node in ast.parse(inspect.getsource(module)).body
    )
    if is_empty and not hasattr(module, "__all__"):
        return
    # Constants first, then classes, then functions: the order that ruff keeps.
    assert list(module.__all__) == sorted(module.__all__, key=_place)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_and_classes_have_docstrings(name):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == name:
            assert thing.__doc__, f"{name}.{public}"


def test_the_public_names_exist_and_are_sorted():
    assert fer_ignite.__all__ == sorted(fer_ignite.__all__)
    assert set(fer_ignite._HOMES) == set(fer_ignite.__all__)
    for public in fer_ignite.__all__:
        assert getattr(fer_ignite, public) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = fer_ignite.trian


def test_the_import_needs_no_torch():
    assert fresh("import sys, fer_ignite; print('torch' in sys.modules)").strip() == "False"


def test_a_script_says_at_once_that_torch_is_imported_and_its_workers_do_not():
    code = (
        "import io, os, sys, fer_ignite\n"
        "class Screen(io.StringIO):\n"
        "    isatty = lambda self: True\n"
        "sys.stderr = Screen()\n"
        "fer_ignite.import_module = lambda name: (print(repr(sys.stderr.getvalue())), fer_ignite)[1]\n"
        "fer_ignite.train = None  # found in the place of its module\n"
        "fer_ignite.__getattr__('train')\n"
        "print(repr(sys.stderr.getvalue()))\n"
        "os.environ['LOCAL_RANK'] = '1'\n"
        "fer_ignite.__getattr__('train')\n"
    )
    shown = fresh(code).split("\n")
    assert shown[0] == repr("\rloading torch ...")  # before the import
    assert shown[1] == repr("\rloading torch ...\r\x1b[K")  # erased after it
    assert shown[2] == shown[1]  # a worker of torchrun adds nothing


@pytest.mark.parametrize(
    "arguments", [[], ["train"], ["evaluate"], ["predict"], ["pack"], ["info"], ["demo"]]
)
def test_help_needs_neither_torch_nor_matplotlib(arguments):
    code = (
        "import sys\nfrom fer_ignite.cli.main import main\n"
        f"try: main({[*arguments, '--help']!r})\n"
        "except SystemExit as e: print('code', e.code, [m for m in ('torch', 'ignite', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    assert fresh(code).strip().split("\n")[-1] == "code 0 []"


def test_only_one_module_loads_checkpoints():
    """Row D11: nothing else unpickles, and nothing is ever allow-listed."""
    found = {}
    for file in ROOT.rglob("*.py"):
        text = re.sub("#.*", "", file.read_text(encoding="utf-8"))
        for pattern in (
            r"weights_only\s*=\s*False",
            r"pickle\.loads?\(",
            r"torch\.load\(",
            r"add_safe_globals",
        ):
            for _ in re.finditer(pattern, text):
                found.setdefault(pattern, []).append(file.relative_to(ROOT).as_posix())
    assert set(found) <= {r"torch\.load\("}
    assert found[r"torch\.load\("] == ["checkpoint/format.py"]


def test_no_module_of_the_library_reads_the_configuration_but_those_that_wire():
    """Leaf functions take plain values: the configuration is imported where a run is prepared, wired or described."""
    wiring = {
        "api.py",
        "apps/audit/out_of_fold.py",
        "apps/audit/pipeline.py",
        "apps/report/settings.py",
        "apps/tune/lr_finder.py",
        "apps/tune/search.py",
        "apps/tune/space.py",
        "apps/tune/trials.py",
        "data/open.py",
        "inference/evaluation_data.py",
        "inference/loaded_model.py",
        "inference/request.py",
        "recipes/__init__.py",
        "runs/banner.py",
        "runs/execute.py",
        "runs/prepare.py",
        "runs/previews.py",
        "runs/resume.py",
        "runs/run_folder.py",
        "runs/teacher.py",
        "runs/unused_settings.py",
        "runs/validate.py",
        "training/build.py",
        "training/components.py",
        "training/objects.py",
        "training/session.py",
    }
    for file in ROOT.rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        if name.startswith(("cli/", "config/")) or name in wiring | {"__init__.py"}:
            continue
        assert not re.search("from fer_ignite.config[. ]", file.read_text(encoding="utf-8")), name


def test_the_files_page_matches_the_module_docstrings():
    script = ROOT.parent / "scripts" / "tree.py"
    assert subprocess.run([sys.executable, str(script), "--check"]).returncode == 0, (
        "run scripts/tree.py"
    )


def test_every_folder_of_the_library_is_a_package():
    """A folder without __init__.py would be left out of an installation that isn't editable."""
    folders = {file.parent for file in ROOT.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_each_claim_of_the_reliability_page_has_one_figure_and_one_test_that_is_there():
    root = ROOT.parent
    text = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    page = text.split("## One process or two")[0]
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    claims = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "claim"]
    assert len(claims) > 40
    for claim, figure, test in claims:
        file, _, name = test.strip("`").partition("::")
        assert claim and figure and (root / file).is_file(), test
        assert not name or f"def {name}(" in (root / file).read_text(encoding="utf-8"), test
