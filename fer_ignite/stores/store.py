"""Objects below one URL, through fsspec; every failure is one sentence."""

import contextlib
import errno
import importlib.util
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fer_ignite.errors import ConfigError, FerError, first_line
from fer_ignite.imports import install_extra, install_package, optional_library

__all__ = [
    "Entry",
    "Store",
    "StoreProblem",
    "file_name",
    "is_url",
    "join_url",
    "last_part",
    "parent_url",
    "refused_as",
    "require_store_library",
]

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# The package that fsspec imports for a protocol.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
_OF_THE_EXTRA = frozenset({"fsspec", "s3fs"})
# Where an object appears whole or not at all; elsewhere it is written under another name and moved.
_ATOMIC = frozenset({*_PACKAGES, "memory"})
# Object or bucket does not exist; keys lack the right; a name or setting that can't be used; all else, such as the network.
Kind = Literal["missing", "denied", "invalid", "away"]
_DISK_ERRORS = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)
)
# What fsspec's libraries call a checksum or the time of the last change; the creation time comes last.
_MARKS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "blob_id", "sha"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "modified", "modify"),
    *("modificationTime", "updated", "created"),
)


class StoreProblem(Exception):
    """What a store refused, or that it does not answer; the message is one sentence.

    Attributes:
        kind: why, so that a caller knows whether another try may help.
        reason: the library's own words, without address and remedy.
    """

    def __init__(self, sentence: str, *, kind: Kind = "away", reason: str = "") -> None:
        super().__init__(sentence)
        self.kind, self.reason = kind, reason or sentence.rstrip(".")


class Entry(NamedTuple):
    """One object.

    Attributes:
        size: in bytes; None where the store doesn't tell, as a web server without Content-Length.
        mark: changes with the content; empty where the store gives no checksum and no time.
    """

    size: int | None
    mark: str


def is_url(text: str | os.PathLike[str] | None) -> bool:
    """Whether a setting names an object store: ``s3://bucket/key`` and the like."""
    return isinstance(text, str) and _URL.match(text) is not None


def join_url(url: str, *names: str) -> str:
    """A URL with further parts."""
    return "/".join([url.rstrip("/"), *names])


def parent_url(url: str) -> str:
    """A URL without its last part."""
    return _path_and_query(url)[0].rstrip("/").rpartition("/")[0]


def last_part(url: str) -> str:
    """The name behind a URL's last slash, with a web address's query (as signed ones have it)."""
    path, query = _path_and_query(url)
    return path.rstrip("/").rpartition("/")[2] + query


def file_name(url: str) -> str:
    """The name behind a URL's last slash, without a query."""
    return last_part(_path_and_query(url)[0])


def _path_and_query(url: str) -> tuple[str, str]:
    # In an object store's keys a question mark is a letter; a query may hold slashes.
    if not url.lower().startswith(("http://", "https://")):
        return url, ""
    path, mark, query = url.partition("?")
    return path, mark + query


def require_store_library(url: str) -> None:
    """Fails early, without an import, where the library of a URL's protocol is not installed.

    Raises:
        ConfigError: naming the library and how to install it.
    """
    protocol = url.partition("://")[0].lower()
    package = _PACKAGES.get(protocol, "fsspec")
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{url} needs {package}, which is not installed; install it with: {_install(package)}."
        )


@contextlib.contextmanager
def refused_as(kind: type[FerError], setting: str = "") -> Iterator[None]:
    """Turns a StoreProblem of the block into an error of ours that begins with the setting's name."""
    try:
        yield
    except StoreProblem as problem:
        raise kind(f"{setting}: {problem}" if setting else str(problem)) from None


class Store:
    """The objects below one URL, by their names relative to it.

    Keys, regions and endpoints come from the environment, as the store's own library reads them.

    Args:
        retried: the caller repeats what fails; a request is then given up sooner.
    Raises:
        ConfigError: the protocol's library is not installed, or there is no such protocol.
    """

    def __init__(self, url: str, *, retried: bool = False) -> None:
        self.url = url.rstrip("/")
        self.protocol = url.partition("://")[0].lower()
        self._fs, self._root = _open(url, self.protocol)
        if retried and hasattr(self._fs, "retries"):
            self._fs.retries = 1

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def entries(self, name: str = "") -> dict[str, Entry]:
        """All objects, in folders within folders too; empty where there is none.

        Args:
            name: only those below it.
        Raises:
            StoreProblem: also of every other method: not reached, refused, or no such bucket.
        """
        with self._problems(name):
            found: Mapping[str, Any] = self._fs.find(self._path(name), detail=True)
        # Some libraries list paths with a leading slash (file, memory), others without (s3fs).
        root = self._root.strip("/")
        named = {
            path.lstrip("/").removeprefix(root).lstrip("/"): facts for path, facts in found.items()
        }
        return {
            name: _entry(facts)
            for name, facts in named.items()
            # Some stores' web pages make empty objects with such names in place of folders.
            if facts.get("type") == "file" and name and not name.endswith("/")
        }

    def folders(self) -> list[str]:
        """Names of the folders directly below."""
        with self._problems():
            try:
                found = self._fs.ls(self._root, detail=True)
            except FileNotFoundError as error:
                _require_bucket(error)
                return []
        return [last_part(facts["name"]) for facts in found if facts.get("type") == "directory"]

    def entry(self, name: str = "") -> Entry | None:
        """One object; None where there is none of that name."""
        with self._problems(name):
            try:
                facts = self._fs.info(self._path(name))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None
        return _entry(facts) if facts.get("type") == "file" else None

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none of that name."""
        with self._problems(name):
            try:
                content: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None
        return content

    def write(self, name: str, content: bytes, *, create: bool = False) -> None:
        """Writes a small object.

        Args:
            create: only where there is none of that name, in one step where the store can.
        Raises:
            FileExistsError: there is one, and ``create`` was given.
        """
        with self._problems(name):
            if not create:
                self._fs.pipe_file(self._path(name), content)
                return
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
            except (TypeError, ValueError, NotImplementedError):  # a library without this mode
                if self._fs.exists(self._path(name)):
                    raise FileExistsError(name) from None
                self._fs.pipe_file(self._path(name), content)

    def upload(self, file: Path, name: str) -> None:
        """Makes an object out of a file; until it is whole, the old object stays.

        Raises:
            OSError: the file can't be read.
        """
        path = self._path(name)
        with self._problems(name, reads=file):
            if self.protocol in _ATOMIC:
                self._fs.put_file(str(file), path)
                return
            temporary = f"{path}.{secrets.token_hex(4)}.tmp"
            try:
                self._fs.put_file(str(file), temporary)
                self._fs.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(temporary)
                raise

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Writes objects as files below a folder, several at a time.

        Raises:
            StoreProblem: also where a name leads out of the folder.
            OSError: the folder can't be written.
        """
        files = {name: self._inside(folder, name) for name in names}
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        if len(files) == 1:
            self.download_file(*files.popitem())
        elif files:
            with self._problems(writes=folder):
                self._fs.get([self._path(name) for name in files], [*map(str, files.values())])

    def download_file(self, name: str, file: Path) -> None:
        """Writes one object as this file.

        Raises:
            OSError: the file can't be written.
        """
        with self._problems(name, writes=file):
            self._fs.get_file(self._path(name), str(file))

    def copy(self, name: str, other: str) -> None:
        """A second object with the content of the first, made by the store."""
        with self._problems(name):
            self._fs.cp_file(self._path(name), self._path(other))

    def remove(self, name: str) -> None:
        """Removes an object; one that is gone already is no problem."""
        with self._problems(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _inside(self, folder: Path, name: str) -> Path:
        target = Path(os.path.normpath(folder / name))
        base = Path(os.path.normpath(folder))
        # A key may hold "..", which a local path would follow.
        if target == base or not target.is_relative_to(base):
            raise StoreProblem(
                f"{join_url(self.url, name)} is a name that leads out of its folder; rename the object.",
                kind="invalid",
            )
        return target

    @contextlib.contextmanager
    def _problems(
        self, name: str = "", *, reads: Path | None = None, writes: Path | None = None
    ) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, StoreProblem):
            raise
        except Exception as error:  # each store's library has kinds of its own
            if _is_local(error, reads=reads, writes=writes):
                raise
            where = join_url(self.url, name) if name else self.url
            raise StoreProblem(
                _sentence(where, error), kind=_kind(error), reason=first_line(error, most=200)
            ) from error


def _is_local(error: Exception, *, reads: Path | None, writes: Path | None) -> bool:
    """Whether this machine's disk failed, and not the store.

    Args:
        reads: the local file that is uploaded.
        writes: the local file or folder that is downloaded to.
    """
    if not isinstance(error, OSError):
        return False
    # A copy between two disks names both files; of an upload it is the store's that is full.
    named = None if not error.filename or error.filename2 else Path(str(error.filename)).absolute()
    if writes is not None:
        inside = named is not None and named.is_relative_to(writes.absolute())
        return inside or error.errno in _DISK_ERRORS
    return reads is not None and (named == reads.absolute() or not reads.exists())


def _open(url: str, protocol: str) -> tuple[Any, str]:
    if protocol in _PACKAGES and not url.partition("://")[2].strip("/"):
        raise ConfigError(f"{url}: no bucket is named; name a store as {protocol}://BUCKET/FOLDER.")
    require_store_library(url)
    fsspec = optional_library("fsspec", extra="store", purpose=url)
    # fsspec shares instances within a process, with their retries, and keeps listings, which would
    # hide what other machines write.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        # The library's minute for each of five trials would keep a wrong address from being noticed.
        options["config_kwargs"] = {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"max_attempts": 2},
        }
    if protocol in ("file", "local"):
        # As in object stores, where no folder has to be made first.
        options["auto_mkdir"] = True
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(
            f"{url}: {first_line(error, most=200)}; install it with: {_install(_package_of(error))}."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{url}: {first_line(error, most=200)}; name a store as s3://BUCKET/FOLDER, or a folder."
        ) from None
    return fs, str(root)


def _install(package: str) -> str:
    return install_extra("store") if package in _OF_THE_EXTRA else install_package(package)


def _package_of(error: ImportError) -> str:
    """What fsspec's message names in quotes (the package), else the module that was not found, else fsspec."""
    quoted = re.search(r'"([\w.-]+)"', str(error))
    module = error.name or getattr(error.__cause__, "name", None)
    return quoted[1] if quoted else module or "fsspec"


def _entry(facts: Mapping[str, Any]) -> Entry:
    mark = next((str(facts[name]) for name in _MARKS if facts.get(name) is not None), "")
    size = facts.get("size")
    return Entry(None if size is None else int(size), mark.strip('"'))


def _is_bucket(error: FileNotFoundError) -> bool:
    return "bucket does not exist" in str(error).lower()


def _require_bucket(error: FileNotFoundError) -> None:
    """Raises the error again where the bucket is missing: s3fs has one kind for that and for a missing object."""
    if _is_bucket(error):
        raise error


def _kind(error: Exception) -> Kind:
    if isinstance(error, FileNotFoundError):
        return "missing"
    # botocore's NoCredentialsError is no PermissionError.
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return "denied"
    return "invalid" if isinstance(error, ValueError) else "away"


def _sentence(where: str, error: Exception) -> str:
    reason = first_line(error, most=200)
    if isinstance(error, FileNotFoundError):
        if _is_bucket(error):
            return f"{where}: there is no such bucket; make it first, or name another."
        return f"{where}: there is no such object; name one that exists."
    if _kind(error) == "denied":
        return (
            f"{where}: the store refuses access ({reason}); set keys that may read and write there "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3)."
        )
    if _kind(error) == "invalid":
        return f"{where}: the store's library refuses the request ({reason}); check the address and the settings of the store."
    return f"{where}: the store can't be reached ({reason}); check the network and the address (AWS_ENDPOINT_URL for s3)."
