"""Exceptions and their exit codes."""

__all__ = [
    "HELP_PAGE",
    "NONFINITE_OUTPUTS",
    "NONFINITE_REMEDY",
    "NO_SHARED_MEMORY",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FerError",
    "FolderInUseError",
    "Interrupted",
    "NonFiniteError",
    "StorageError",
    "build_error",
    "error_kind",
    "first_clause",
    "first_line",
    "help_link",
    "one_line",
]

HELP_PAGE = "docs/howto/errors.md"
NONFINITE_REMEDY = "Lower --lr, set --clip-grad 1, or try --precision fp32."
NONFINITE_OUTPUTS = (
    "the network's outputs are not finite numbers: its training has diverged, or they overflow in fp16; use an earlier "
    "checkpoint, or --precision fp32."
)

NO_SHARED_MEMORY = (
    "the loader processes of --workers find no room in shared memory (/dev/shm); enlarge it (Docker: --shm-size=2g or "
    "--ipc=host), or use --workers 0."
)


def build_error(exit_code: int, message: str, *, kind: str | None = None) -> "FerError":
    """The error that ends the program with this code.

    Args:
        kind: from :func:`error_kind`; None: the first exception of this module that has the code, else a plain FerError.
    """
    by_name = {known.__name__: known for known in _KINDS}
    of_code = next((known for known in _KINDS if known.exit_code == exit_code), FerError)
    error = by_name.get(kind or "", of_code)(message)
    # A code of no kind stays, such as 143 after SIGTERM; an error never ends the program with 0.
    error.exit_code = exit_code or 1
    return error


def error_kind(error: BaseException) -> str:
    """The name of this module's exception that an error is or is derived from, for other processes; FerError for foreign ones."""
    return next((base.__name__ for base in type(error).__mro__ if base in _KINDS), "FerError")


def help_link(error: "FerError") -> str:
    """Where to read more, as the end of a message; nothing for a run that a signal has ended."""
    return "" if error.exit_code >= 128 else f" (see {HELP_PAGE}#{error.topic})"


def one_line(error: BaseException, *, most: int = 300) -> str:
    """An error's text on one line, without a full stop and of at most ``most`` characters; its type where it has no text."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__


def first_line(error: BaseException, *, most: int = 300) -> str:
    """The first line of an error's text, without a full stop and of at most ``most`` characters; its type where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most].rstrip(".")


def first_clause(error: "FerError") -> str:
    """What is wrong, without the advice behind the semicolon; where the program helps itself."""
    return str(error).partition("; ")[0]


class FerError(Exception):
    """An error whose message is one sentence: what came, what is allowed, what to do.

    Attributes:
        exit_code: what it ends the program with.
        topic: the section of :data:`HELP_PAGE` that helps.
    """

    exit_code = 1
    topic = "failed"


class ConfigError(FerError):
    """A setting, a flag or a user object that can't be used; known before the start."""

    exit_code = 2
    topic = "configuration"


class DataError(FerError):
    """Data that can't be read, or lacks what it must hold; known before the start."""

    exit_code = 2
    topic = "data"


class CheckpointError(FerError):
    """A checkpoint that is damaged, foreign, or doesn't fit what it is used for."""

    exit_code = 2
    topic = "checkpoint"


class NonFiniteError(FerError):
    """A loss, an output, a weight or a score is not finite, or the gradients stayed so."""

    exit_code = 3
    topic = "non-finite"


class StorageError(FerError):
    """Storage failed during the work: disk full, quota reached, folder removed, shards out of reach."""

    exit_code = 4
    topic = "storage"


class FolderInUseError(FerError):
    """The run folder is locked by another run, or holds one and neither --resume nor --exist-ok was given."""

    exit_code = 5
    topic = "folder-in-use"


class Interrupted(KeyboardInterrupt):
    """SIGINT (Ctrl-C) has stopped the work of a Python call in good order; the message says what was stopped and what continues it.

    No FerError: in a loop over runs, ``except Exception`` must not take it for a failed run and start the next one.
    """

    exit_code = 130


# Named one by one: users derive exceptions of their own from these.
_KINDS: tuple[type[FerError], ...] = (
    FerError,
    ConfigError,
    DataError,
    CheckpointError,
    NonFiniteError,
    StorageError,
    FolderInUseError,
)
