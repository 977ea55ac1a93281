import gc
import logging
import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from fer_ignite import build_session, evaluate, train
from fer_ignite.training.process_state import SessionState


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.fixture
def caller():
    """Another state than a run's, in everything that a run sets."""
    log, kept = logging.getLogger("fer_ignite"), logging.NullHandler()
    before = log.propagate, log.level, list(log.handlers)
    log.handlers[:], log.propagate = [kept], True
    log.setLevel(logging.ERROR)
    torch.backends.cudnn.benchmark = False
    random.seed(11), np.random.seed(12), torch.manual_seed(13)
    yield kept
    log.propagate, log.handlers[:] = before[0], before[2]
    log.setLevel(before[1])


def test_an_evaluation_leaves_the_number_of_threads(finished_run):
    torch.set_num_threads(3)  # a single process would use all cores
    try:
        evaluate(finished_run, quiet=True)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_train_leaves_the_process_as_it_was(tiny, caller):
    expected = drawn()
    random.seed(11), np.random.seed(12), torch.manual_seed(13)
    torch.set_num_threads(2)
    try:
        train(tiny(epochs=1, threads=1, deterministic=True))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert drawn() == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    log = logging.getLogger("fer_ignite")
    assert (log.handlers, log.level, log.propagate) == ([caller], logging.ERROR, True)
    assert Engine(lambda engine, batch: None).logger.getEffectiveLevel() < logging.CRITICAL


def test_a_session_s_state_is_its_own_while_it_works(tiny, caller):
    expected = drawn()
    random.seed(11), np.random.seed(12), torch.manual_seed(13)
    alone, beside = [], []

    def draws(into):
        def setup(session):
            session.trainer.add_event_handler(
                Events.ITERATION_STARTED, lambda: into.append((random.random(), np.random.rand()))
            )

        return setup

    with build_session(tiny(name="one"), handlers=[draws(alone)]) as one:
        one.run()
    # Another session and draws of the caller in between change nothing.
    with (
        build_session(tiny(name="two"), handlers=[draws(beside)]) as two,
        build_session(tiny(name="three")) as three,
    ):
        three.run()
        assert drawn() == expected
        two.run()
    assert alone and alone == beside


def test_each_session_writes_its_own_log(tiny, caller):
    lines = []
    caller.handle = lambda record: lines.append(record.getMessage())
    logging.getLogger("fer_ignite").removeHandler(caller)
    one, two = build_session(tiny(name="one")), build_session(tiny(name="two"))
    logging.getLogger("fer_ignite").addHandler(caller)
    one.run()
    one.close()
    two.run()
    two.close()
    texts = [session.folder.log.read_text() for session in (one, two)]
    assert all(text.count(" 1/2 ") == text.count(" 2/2 ") == 1 for text in texts)
    # The caller's own handler has the rows of both.
    assert sum(line.lstrip().startswith("2/2") for line in lines) == 2


def test_the_state_of_a_session_is_that_of_its_last_block(caller):
    state, expected = SessionState(), []
    with state.active():
        random.seed(5)
        expected = [random.random() for _ in range(3)]
        random.seed(5)
        found = [random.random()]
    random.random()
    with state.active():
        found.append(random.random())
    with pytest.raises(KeyError), state.active():
        found.append(random.random())
        raise KeyError
    assert found == expected


@pytest.mark.parametrize("closed", [True, False])
def test_a_session_that_never_trained_leaves_no_folder(tiny, tmp_path, closed):
    for _ in range(2):  # the second one finds no run, and no lock
        session = build_session(tiny())
        if closed:
            session.close()
            assert not (tmp_path / "run").exists()
        del session
        gc.collect()
    assert not (tmp_path / "run").exists()
