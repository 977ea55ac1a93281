import pytest

from fer_ignite.distributed.failures import Ending, describe_exit, overall_outcome
from fer_ignite.distributed.outcome import (
    EndRecord,
    Outcome,
    as_outcome,
    read_end_record,
    read_records,
    root_cause,
    write_record,
)
from fer_ignite.distributed.signals import Terminated
from fer_ignite.errors import CheckpointError, DataError, FerError, NonFiniteError, StorageError

CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
GONE = Ending(0, 10.0, killed=False)
FAILED = Ending(1, 10.0, killed=False)


def judge(endings, records, *, signals=()):
    by_rank = {record.rank: record for record in records}
    return overall_outcome(dict(enumerate(endings)), by_rank, signals=signals, timeout_s=7)


def test_a_record_survives_its_file_with_bytes_that_are_no_text(tmp_path):
    record = read_end_record(ValueError("\udce4 newline\n"), rank=3)
    write_record(tmp_path, record)
    read = read_records(tmp_path)[3]
    assert (read.rank, read.outcome, read.ok, read.trace) == (
        3,
        record.outcome,
        False,
        record.trace,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["outcome-3.json"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (NonFiniteError("nan"), 3, "failed"),
        (StorageError("full"), 4, "failed"),
        (ValueError("x"), 1, "failed"),
        (MemoryError(), 1, "failed"),
        (SystemExit(0), 1, "failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "interrupted"),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code, status):
    outcome = read_end_record(error, rank=0).outcome
    assert (outcome.exit_code, outcome.status) == (code, status)


@pytest.mark.parametrize("kind", [CheckpointError, DataError])
def test_the_kind_of_an_error_outlives_the_process_that_raised_it(tmp_path, kind):
    for rank in (0, 1):
        write_record(tmp_path, read_end_record(kind("It is cut off."), rank=rank))
    error = judge([FAILED] * 2, list(read_records(tmp_path).values())).as_error()
    assert type(error) is kind and str(error) == "It is cut off."


def test_after_sigint_python_callers_get_no_exception_that_a_loop_over_runs_would_catch():
    error = Outcome(130, "interrupted", "the run was interrupted").as_exception()
    assert isinstance(error, KeyboardInterrupt) and not isinstance(error, Exception)
    assert (str(error), error.exit_code) == ("the run was interrupted", 130)
    assert isinstance(Outcome(143, "interrupted").as_exception(), FerError)
    assert isinstance(Outcome(2, "failed", "wrong").as_exception(), FerError)


def test_return_values_of_all_allowed_kinds_become_outcomes():
    class Summary:
        exit_code, status, message, result = 143, "interrupted", "stopped", {"n": 1}

    assert as_outcome(None) == Outcome()
    assert as_outcome({"n": 1}) == Outcome(result={"n": 1})
    assert as_outcome(Summary()) == Outcome(143, "interrupted", "stopped", {"n": 1})
    with pytest.raises(TypeError, match="returned int"):
        as_outcome(3)


def test_the_cause_is_the_first_failure_even_if_a_consequence_was_noted_earlier():
    consequence = read_end_record(CLOSED, rank=0)
    cause = EndRecord(
        1, Outcome(1, "failed", "ValueError: x"), ok=False, monotonic_s=consequence.monotonic_s + 1
    )
    later = EndRecord(
        2, Outcome(1, "failed", "ValueError: y"), ok=False, monotonic_s=consequence.monotonic_s + 2
    )
    assert root_cause([consequence, later, cause]).rank == 1
    assert (
        judge([FAILED] * 3, [consequence, later, cause]).message == "Rank 1 failed: ValueError: x"
    )


def test_what_torch_says_of_a_silent_process_in_a_backward_pass_is_a_lost_peer():
    assert read_end_record(
        RuntimeError("Application timeout caused pair closure"), rank=0
    ).lost_peer


def test_a_user_error_that_mentions_a_backend_is_no_lost_peer_unless_torch_raises_it():
    assert read_end_record(CLOSED, rank=0).lost_peer
    assert not read_end_record(ValueError("gloo is red"), rank=0).lost_peer


def test_a_killed_process_is_the_cause_of_its_peers_lost_connections():
    outcome = judge([FAILED, Ending(-9, 99.0, killed=False)], [read_end_record(CLOSED, rank=0)])
    assert outcome.exit_code == 1
    assert str(outcome.message).startswith("Rank 1 failed: it was killed by SIGKILL")


def test_a_silent_process_is_named_when_the_others_timed_out():
    outcome = judge([FAILED, Ending(-9, 99.0, killed=True)], [read_end_record(CLOSED, rank=0)])
    assert (
        outcome.message
        == "Rank 1 failed: it stopped answering, the others waited 7 s for it (--dist-timeout)."
    )


def test_an_error_that_all_ranks_share_is_reported_without_a_rank():
    outcome = judge(
        [FAILED] * 2,
        [read_end_record(NonFiniteError("The loss is nan."), rank=rank) for rank in (0, 1)],
    )
    assert (outcome.exit_code, outcome.message) == (3, "The loss is nan.")


def test_after_a_signal_a_process_that_must_be_killed_makes_an_interrupted_run():
    outcome = judge(
        [GONE, Ending(-9, 40.0, killed=True)], [EndRecord(0, Outcome(), ok=True)], signals=[15]
    )
    assert (outcome.exit_code, outcome.status) == (143, "interrupted")


def test_after_a_signal_a_real_error_is_still_reported():
    outcome = judge(
        [FAILED, GONE], [read_end_record(StorageError("Disk full."), rank=0)], signals=[15]
    )
    assert outcome.exit_code == 4


def test_a_process_that_died_of_the_signal_passed_on_is_an_interrupted_run():
    outcome = judge([Ending(-2, 1.0, killed=False), Ending(-2, 1.0, killed=False)], [], signals=[2])
    assert (outcome.exit_code, outcome.status) == (130, "interrupted")


def test_a_crash_after_the_recorded_end_does_not_undo_it():
    records = [EndRecord(rank, Outcome(result={"n": rank}), ok=True) for rank in (0, 1)]
    assert judge([GONE, Ending(-6, 1.0, killed=False)], records) == Outcome(result={"n": 0})


def test_exits_are_described_by_code_or_signal_name():
    assert "exit code 3" in describe_exit(3)
    assert "SIGSEGV" in describe_exit(-11)
    assert "signal 99" in describe_exit(-99)
