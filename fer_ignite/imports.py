"""Import of user code by name (``package.module:name`` or ``./file.py:name``) and of optional libraries.

Naming an object runs its module, so names are taken from the command line, a configuration file named on it, or Python
- never from a checkpoint, a run's folder or a data set.
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import logging
import os
import pickle
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType
from typing import Any

from fer_ignite.errors import ConfigError, one_line

__all__ = [
    "OBJECT",
    "install_extra",
    "install_package",
    "is_object_name",
    "load_function",
    "load_object",
    "local_objects",
    "optional_library",
    "register_object",
    "registered_objects",
    "require_library",
    "restore_objects",
    "send_problem",
    "split_names",
    "which_again",
]

_BUILT_IN_PREFIXES = ("timm:",)  # networks of a library, in the form of a user's module:Class
_MODULE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
_FILE = re.compile(r"^[^:]+\.py:[A-Za-z_]\w*$")
# Names of Python objects that were given to this process; such a name is found in no file.
OBJECT = "object:"
_OBJECTS: dict[str, Any] = {}
_KEYWORD_OF = {"optimizer_factory": "optimizer"}
# Of the files of user code that were loaded: module -> time of modification and size.
_VERSIONS: dict[str, tuple[int, int]] = {}

logger = logging.getLogger("fer_ignite")


def is_object_name(text: str) -> bool:
    """Whether ``text`` has the form of a user object's name, as opposed to a built-in's."""
    if text.startswith(_BUILT_IN_PREFIXES):
        return False
    return bool(_MODULE.match(text) or _FILE.match(text))


def split_names(text: str) -> tuple[str, ...]:
    """The parts of comma separated names; a name under which something lies is one, whatever characters it has."""
    if "," not in text or "\0" in text or os.path.lexists(text):
        return (text,)
    return tuple(part.strip() for part in text.split(","))


def load_object(text: str, *, setting: str) -> Any:
    """The object that ``package.module:name`` or ``./file.py:name`` names.

    Args:
        text: the name.
        setting: the flag it came from, for the error's sentence.
    Raises:
        ConfigError: the form is wrong, the module can't be found, or it has no such name. An error *inside* the user's
            module is not caught: its traceback is what the user needs.
    """
    if text.startswith(OBJECT):
        if text not in _OBJECTS:
            raise ConfigError(f"{setting}: {which_again(setting, text)}.")
        return _OBJECTS[text]
    if _FILE.match(text):
        path, name = text.rsplit(":", 1)
        module = _module_from_file(Path(path), setting=setting)
    elif _MODULE.match(text):
        path, name = text.split(":")
        module = _module_from_name(path, setting=setting)
    else:
        raise ConfigError(
            f"{setting}: {text!r} names no object; write package.module:name or ./file.py:name."
        )
    if not hasattr(module, name):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise ConfigError(
            f"{setting}: {path} has no {name!r}; it has {', '.join(public) or 'nothing public'}."
        )
    return getattr(module, name)


def register_object(
    kind: str, shown: str, *, thing: Any, besides: Collection[str | None] = ()
) -> str:
    """Keeps an object of this process under a name that settings can hold.

    Args:
        kind: what it is, where ``shown`` has no letter.
        shown: its name for people.
        besides: names of the other objects of the same call, which keep theirs: two lambdas are two objects.
    Returns:
        The name, ``object:Net``, or ``object:Net_2`` beside an ``object:Net``; :func:`load_object` gives the object back.
    """
    own = name = OBJECT + (re.sub(r"\W+", "_", shown).strip("_0123456789") or kind)
    number = 1
    # Numbered within the call, not the process: a resumed run finds the same names again.
    while name in besides:
        number += 1
        name = f"{own}_{number}"
    _OBJECTS[name] = thing
    return name


def registered_objects() -> dict[str, Any]:
    """The objects of this process by their names."""
    return dict(_OBJECTS)


@contextlib.contextmanager
def local_objects() -> Iterator[None]:
    """Within the block, or a function with this as its decorator, objects can be registered; then they are forgotten."""
    before = dict(_OBJECTS)
    try:
        yield
    finally:
        # Else each object that was ever given, with its data, would stay in memory.
        _OBJECTS.clear()
        _OBJECTS.update(before)


def restore_objects(objects: Mapping[str, Any]) -> None:
    """Makes another process's objects known in this one."""
    _OBJECTS.update(objects)


def which_again(setting: str, text: str) -> str:
    """How to give user code again that a checkpoint only names.

    Args:
        setting: ``model`` or ``--model``.
        text: what the checkpoint says.
    """
    name = setting.removeprefix("--").replace("-", "_")
    if text.startswith(OBJECT):
        keyword = _KEYWORD_OF.get(name, name)
        return f"{text.removeprefix(OBJECT)} was a Python object, which no file holds; give the same again from Python: {keyword}=..."
    return f"give it again: --{name.replace('_', '-')} {text}"


def load_function(text: str, *, setting: str, takes: Sequence[str]) -> Any:
    """The object that a setting names, checked to be callable with as many arguments as it will get.

    Args:
        takes: what it will be called with, for the error's sentence, such as ``["image"]``.
    Raises:
        ConfigError: see :func:`load_object`; or it can't be called so.
    """
    found = load_object(text, setting=setting)
    form = f"name a function of ({', '.join(takes)})"
    if not callable(found):
        raise ConfigError(
            f"{setting}: {text} is a {type(found).__name__} and can't be called; {form}."
        )
    try:
        # The names stand in for the values: only their number matters to bind.
        inspect.signature(found).bind(*takes)
    except TypeError as error:
        raise ConfigError(
            f"{setting}: {text} can't be called with ({', '.join(takes)}): {error}; {form}."
        ) from None
    except ValueError:  # a builtin that has no signature
        pass
    return found


def _module_from_name(name: str, *, setting: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only for the named module and its packages: a module that it imports may be missing too,
        # and then the traceback says which.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"{setting}: there is no module {name!r} on Python's path; install it, set PYTHONPATH, "
                "or name a file as ./file.py:name."
            ) from None
        raise


def _module_from_file(path: Path, *, setting: str) -> Any:
    if not path.is_file():
        raise ConfigError(
            f"{setting}: there is no file {path}; name an existing one as ./file.py:name."
        )
    # Registered under its own name, so that objects of the file can be pickled by reference; run once, however many of
    # its objects are named, and again where the file was edited since, as it is beside a notebook.
    own = name = f"fer_ignite_user_{path.stem}"
    state = path.stat()
    version = (state.st_mtime_ns, state.st_size)
    number = 1
    while name in sys.modules:
        if Path(str(sys.modules[name].__file__)) == path.resolve():
            if _VERSIONS.get(name) == version:
                return sys.modules[name]
            logger.warning("%s was edited since it was loaded; its new code is used.", path)
            break
        number += 1
        name = f"{own}_{number}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses look up the module of their class here.
    sys.modules[name] = module
    # As for a script, so that the file can import those beside it; last, so that none of them hides a library.
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _VERSIONS[name] = version
    return module


def optional_library(name: str, *, extra: str, purpose: str, package: str | None = None) -> Any:
    """The imported module ``name``, which an optional extra installs.

    Args:
        extra: the extra's name.
        purpose: what needs the library; the error's first words.
        package: the library's name on the package index, where it is not that of the module.
    Raises:
        ConfigError: it is not installed; the sentence says what to install.
    """
    require_library(name, extra=extra, purpose=purpose, package=package)
    return importlib.import_module(name)


def require_library(name: str, *, extra: str, purpose: str, package: str | None = None) -> None:
    """Checks that the module ``name`` is installed, without importing it; arguments as in :func:`optional_library`.

    Raises:
        ConfigError: it is not installed; the sentence says what to install.
    """
    # The top package: find_spec of a submodule imports its parents.
    top = name.split(".")[0]
    if importlib.util.find_spec(top) is None:
        raise ConfigError(
            f"{purpose} needs {package or top}, which is not installed; install it with: {install_extra(extra)}."
        )


def install_extra(extra: str) -> str:
    """The command that installs an extra of this package for the Python that runs; right in any folder."""
    checkout = Path(__file__).resolve().parents[1]
    # pip takes the extras of an installed package from its metadata.
    source = checkout if (checkout / "setup.cfg").is_file() else "fer_ignite"
    return install_package(f'"{source}[{extra}]"')


def install_package(package: str) -> str:
    """The command that installs a package for the Python that runs."""
    python = sys.executable or "python"
    return (f'"{python}"' if " " in python else python) + f" -m pip install {package}"


# ForkingPickler, as multiprocessing itself: torch registers there how tensors are sent.
class _SendPickler(ForkingPickler):
    """Notes functions and classes that a started process could not import: those typed into a notebook or a shell."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.typed_in: str | None = None

    def persistent_id(self, thing: Any) -> None:
        """Called for each object that is pickled."""
        # Returns None for each object, which is then pickled as usual.
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == "__main__":
            # Pickled by reference: a started process imports the file of __main__, if any.
            path = getattr(sys.modules["__main__"], "__file__", None)
            if path is None or not Path(path).exists():
                self.typed_in = thing.__qualname__


def send_problem(thing: Any) -> str | None:
    """Why an object can't be sent to a started process; None where it can."""
    pickler = _SendPickler()
    try:
        pickler.dump(thing)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        return one_line(error, most=200)
    if pickler.typed_in is not None:
        return f"{pickler.typed_in} was defined in a notebook or a shell, where no other process finds it"
    return None
