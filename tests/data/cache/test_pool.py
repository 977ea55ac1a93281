"""Pieces of work come back in order, from processes and from this one."""

import os
import time

import pytest

from fer_ignite.data.cache.pool import WorkerPool


def nothing():
    pass


def double(number):
    if number == 13:
        raise ValueError("thirteen")
    time.sleep(0.002)
    return number * 2, os.getpid()


def touch_slowly(path):
    time.sleep(0.05)
    path.touch()
    if path.name == "0":
        raise ValueError("the first")


def test_one_worker_is_a_plain_map():
    with WorkerPool(1, warm=nothing) as pool:
        found = list(pool.map(double, range(5)))
    assert found == [(number * 2, os.getpid()) for number in range(5)]


@pytest.mark.slow
def test_results_are_in_order_and_this_process_works_along():
    with WorkerPool(2, warm=nothing) as pool:
        found, again = list(pool.map(double, range(14, 414))), list(pool.map(double, range(3)))
    assert [value for value, _ in found] == list(range(28, 828, 2))
    assert [value for value, _ in again] == [0, 2, 4]
    # the other one takes part once it has started, and nobody waits for that
    assert found[0][1] == os.getpid() or len({pid for _, pid in found}) == 2
    assert os.getpid() in {pid for _, pid in found}


@pytest.mark.slow
def test_an_error_is_raised_in_its_place():
    with WorkerPool(2, warm=nothing) as pool:
        results = pool.map(double, range(100))
        assert [next(results)[0] for _ in range(13)] == list(range(0, 26, 2))
        with pytest.raises(ValueError, match="thirteen"):
            next(results)


@pytest.mark.slow
def test_after_an_error_no_piece_is_still_in_work(tmp_path):
    with WorkerPool(3, warm=nothing) as pool:
        paths = [tmp_path / str(number) for number in range(40)]
        with pytest.raises(ValueError, match="the first"):
            list(pool.map(touch_slowly, paths))
        done = len(list(tmp_path.iterdir()))
        time.sleep(0.3)
        assert len(list(tmp_path.iterdir())) == done < 40
