"""Errors of an exit code: their kind, their code and the link behind their message."""

import pytest

from fer_ignite.errors import (
    ConfigError,
    DataError,
    FerError,
    FolderInUseError,
    NonFiniteError,
    StorageError,
    build_error,
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
