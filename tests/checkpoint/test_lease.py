import threading
import time

import pytest

from fer_ignite.checkpoint.lease import LEASE_NAME, LEASE_VARIABLE, Lease, LeaseLost
from fer_ignite.errors import ConfigError, FolderInUseError
from fer_ignite.stores.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(f"memory:///{tmp_path.name}")


def test_a_lease_that_is_renewed_keeps_others_out_and_names_its_holder(store):
    held = Lease(store, "one", lease_s=6)
    held.acquire()
    with pytest.raises(FolderInUseError, match=r"is in use by process \d+ on .* since .*--name"):
        Lease(store, "two", lease_s=6).acquire()
    held.release()
    assert store.read(LEASE_NAME) is None
    free = Lease(store, "two", lease_s=6)
    free.acquire()
    free.release()


def test_a_lease_that_stands_still_is_taken_over(store):
    gone = Lease(store, "one", lease_s=0.5)
    gone.acquire()
    gone.abandon()  # as a killed process leaves it
    begun = time.monotonic()
    heir = Lease(store, "two", lease_s=0.5)
    heir.acquire()
    assert time.monotonic() - begun > 0.5
    heir.ensure()
    heir.release()


def test_the_same_working_copy_takes_its_own_lease_at_once(store):
    gone = Lease(store, "one", lease_s=100)
    gone.acquire()
    gone.abandon()
    begun = time.monotonic()
    heir = Lease(store, "one", lease_s=100)
    heir.acquire()
    assert time.monotonic() - begun < 10
    heir.release()


def test_a_holder_that_slept_too_long_writes_nothing_any_more(store):
    sleeper = Lease(store, "one", lease_s=0.5)
    sleeper.acquire()
    sleeper.abandon()  # as a stopped process would be
    heir = Lease(store, "two", lease_s=0.5)
    heir.acquire()
    awake = Lease(store, "one", lease_s=0.5)  # the sleeper's state, without its renewals
    awake._renewed = 0.0
    with pytest.raises(LeaseLost, match="process"):
        awake.ensure()
    sleeper.release()  # removes nothing of the heir's
    heir.ensure()
    heir.release()


def test_a_store_that_came_back_empty_gets_the_lease_again(store):
    held = Lease(store, "one", lease_s=0.5)
    held.acquire()
    store.remove(LEASE_NAME)
    until = time.monotonic() + 20
    while store.read(LEASE_NAME) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    held.release()


@pytest.mark.parametrize("text", ["soon", "nan", "-1", "0"])
def test_a_length_that_is_no_time_is_refused(store, monkeypatch, text):
    monkeypatch.setenv(LEASE_VARIABLE, text)
    with pytest.raises(ConfigError, match="FER_IGNITE_LEASE_S"):
        Lease(store, "one")


def test_of_two_first_starts_one_wins_where_a_store_does_not_create_in_one_step(tmp_path):
    both = threading.Barrier(2)

    class Loose(Store):
        """Two creations at once both succeed."""

        def write(self, name, content, *, create=False):
            if create:
                both.wait(20)
            super().write(name, content)

    def start(token):
        lease = Lease(Loose(f"memory:///{tmp_path.name}"), token, lease_s=2)
        leases.append(lease)
        try:
            lease.acquire()
            winners.append(token)
        except FolderInUseError:
            losers.append(token)

    leases, winners, losers = [], [], []
    threads = [threading.Thread(target=start, args=(token,)) for token in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for lease in leases:
        lease.release()
    assert len(winners) == len(losers) == 1
