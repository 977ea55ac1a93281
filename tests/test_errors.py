"""Errors of an exit code: their kind, their code and the link behind their message."""

import pytest

from fer_ignite.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FerError,
    FolderInUseError,
    NonFiniteError,
    StorageError,
    build_error,
    error_kind,
    first_clause,
    first_line,
    help_link,
)


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (1, {FerError}),
        (2, {ConfigError, DataError}),
        (3, {NonFiniteError}),
        (4, {StorageError}),
        (5, {FolderInUseError}),
    ],
)
def test_an_exit_code_has_its_kind_of_error_and_a_link(code, kinds):
    error = build_error(code, "said")
    assert type(error) in kinds and error.exit_code == code and str(error) == "said"
    assert help_link(error) == f" (see docs/howto/errors.md#{error.topic})"


@pytest.mark.parametrize("kind", [ConfigError, DataError, CheckpointError])
def test_kinds_that_share_an_exit_code_are_told_apart(kind):
    error = build_error(2, "said", kind=error_kind(kind("said")))
    assert type(error) is kind and help_link(error).endswith(f"#{kind.topic})")


def test_an_exception_derived_from_ours_passes_as_ours_and_never_as_another_users():
    class OfTheUser(DataError):
        pass

    class Plain(FerError):
        pass

    assert type(build_error(2, "said", kind=error_kind(OfTheUser()))) is DataError
    assert type(build_error(1, "said", kind=error_kind(Plain()))) is FerError
    assert type(build_error(1, "said", kind=error_kind(ValueError()))) is FerError
    assert type(build_error(1, "said")) is FerError


@pytest.mark.parametrize("code", [129, 130, 138, 140, 143])
def test_an_end_by_a_signal_keeps_its_code_and_needs_no_help(code):
    error = build_error(code, "Interrupted by SIGTERM.")
    assert error.exit_code == code and help_link(error) == ""
    assert FerError.exit_code == 1


def test_no_error_ends_with_success():
    assert build_error(0, "no result").exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("no network.\n  in line 3", "no network"), ("  \n", "ValueError"), ("x" * 400, "x" * 300)],
)
def test_the_first_line_of_a_foreign_error(text, said):
    assert first_line(ValueError(text)) == said


def test_the_advice_of_a_sentence_is_left_out_where_the_program_helps_itself():
    assert first_clause(DataError("labels.npy: damaged; build it again.")) == "labels.npy: damaged"
