import time

import pytest

from fer_ignite.checkpoint.lease import Lease
from fer_ignite.checkpoint.mirror import Mirror, local_files
from fer_ignite.checkpoint.paths import step_files
from fer_ignite.stores.store import Store, StoreProblem
from tests.store_fixtures import require_equal, wait_for


class Switched(Store):
    """A store that can be away, and that notes what is done to it."""

    def __init__(self, url):
        super().__init__(url)
        self.away, self.done, self.after = False, [], lambda: None

    def _note(self, what, name):
        if self.away:
            raise StoreProblem(f"{self.url}: the store can't be reached")
        self.done.append((what, name))

    def entries(self, name=""):
        if self.away:
            raise StoreProblem(f"{self.url}: the store can't be reached")
        return super().entries(name)

    def upload(self, file, name):
        self._note("upload", name)
        super().upload(file, name)
        self.after()

    def copy(self, name, other):
        self._note("copy", other)
        super().copy(name, other)
        self.after()

    def remove(self, name):
        self._note("remove", name)
        super().remove(name)
        self.after()


@pytest.fixture
def store(tmp_path):
    return Switched(f"memory:///{tmp_path.name}")


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a run's names; the mirror does not look into the files."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "history.jsonl", "log.txt", "run_id.json", "run.lock"):
        (folder / name).write_text(name)
    save(folder, 5)
    (folder / "checkpoints" / "best.pt").write_text("best 5")
    return folder


def save(folder, iteration):
    """A resume point, its second name, and the removal of those before the last two, as a run does it."""
    checkpoints = folder / "checkpoints"
    (checkpoints / f"step-{iteration}.pt").write_text(f"step {iteration}")
    (checkpoints / "last.pt").unlink(missing_ok=True)
    (checkpoints / "last.pt").hardlink_to(checkpoints / f"step-{iteration}.pt")
    for _, file in step_files(checkpoints)[2:]:
        file.unlink()


@pytest.fixture
def mirror(folder, store):
    """A mirror that is closed at the end."""
    lease = Lease(store, "one")
    lease.acquire()
    store.done.clear()
    mirror = Mirror(folder, store, lease=lease)
    yield mirror
    mirror.stop()
    lease.release()


def test_a_closed_mirror_has_left_equal_files_and_nothing_of_its_own(mirror, store, folder):
    mirror.start()
    (folder / "summary.json").write_text("{}")
    assert mirror.close(5) is None
    require_equal(store, folder)
    assert "run.lock" not in store.entries()
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "config.yaml", "history.jsonl", "log.txt"),
        *("run_id.json", "run.lock", "summary.json"),
    }


def test_what_a_resume_needs_comes_before_the_resume_point_and_removals_after_it(
    mirror, store, folder
):
    (folder / "summary.json").write_text("{}")
    store.write("checkpoints/step-1.pt", b"old")  # of an earlier pass
    mirror.start()
    assert mirror.close(5) is None
    names = [name for _, name in store.done]
    assert names.index("history.jsonl") < names.index("checkpoints/best.pt")
    assert names.index("checkpoints/best.pt") < names.index("checkpoints/step-5.pt")
    assert names.index("checkpoints/step-5.pt") < names.index("checkpoints/step-1.pt")
    assert ("copy", "checkpoints/last.pt") in store.done  # its bytes are sent once
    assert names[-1] == "summary.json"


def test_the_store_holds_a_resume_point_at_every_moment(mirror, store, folder):
    """Also while the run writes on: after each of the mirror's operations the newest one is whole and has its best.pt."""
    seen = []

    def look():
        steps = sorted(
            int(name[17:-3]) for name in store.entries() if name.startswith("checkpoints/step-")
        )
        if steps or seen:
            newest = store.read(f"checkpoints/step-{steps[-1]}.pt").decode()
            best = int(store.read("checkpoints/best.pt").split()[1])
            assert newest == f"step {steps[-1]}" and best >= steps[-1]
            seen.append(steps[-1])
        iteration = 5 + 5 * (len(store.done) // 3)
        if iteration <= 50 and step_files(folder / "checkpoints")[0][0] < iteration:
            (folder / "best.new").write_text(f"best {iteration}")
            (folder / "best.new").replace(folder / "checkpoints" / "best.pt")
            save(folder, iteration)

    store.after = look
    mirror.start()
    assert mirror.close(5) is None
    assert seen == sorted(seen) and seen[-1] == 50 and len(set(seen)) > 3
    store.after = lambda: None
    require_equal(store, folder)


def test_a_store_that_was_away_gets_what_it_missed(mirror, store, folder, caplog):
    mirror.start()
    wait_for(store, "checkpoints/step-5.pt")
    store.away = True
    for iteration in (10, 15, 20):
        save(folder, iteration)
    until = time.monotonic() + 20
    while mirror._failing_since is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    store.away = False
    assert mirror.close(30) is None
    require_equal(store, folder)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2  # however many trials there were
    assert "can't be reached; the training continues" in said[0] and "answers again" in said[1]


def test_a_store_that_came_back_empty_gets_everything_again(mirror, store, folder):
    mirror.start()
    wait_for(store, "checkpoints/last.pt")
    for name in store.entries():
        store.remove(name)
    assert mirror.close(5) is None  # nothing has changed here, and all is missing there
    require_equal(store, folder)


def test_a_store_that_stays_away_is_given_up_after_the_time_and_the_reason_is_said(
    mirror, store, folder
):
    store.away = True
    mirror.start()
    begun = time.monotonic()
    assert "can't be reached" in mirror.close(0.5)
    assert 0.5 <= time.monotonic() - begun < 20
    assert set(local_files(folder)) >= {"checkpoints/step-5.pt", "config.yaml"}


def test_files_of_other_origin_stay_in_the_store_and_removed_ones_of_the_run_go(
    mirror, store, folder
):
    store.write("notes.txt", b"mine")
    store.write("summary.json", b"of a run that continues now")
    mirror.start()
    assert mirror.close(5) is None
    assert store.read("notes.txt") == b"mine" and store.read("summary.json") is None
    assert store.done[0] == ("remove", "summary.json")  # nobody takes the run for ended


def test_a_run_that_was_taken_over_uploads_nothing_any_more(store, folder):
    lease, other = Lease(store, "one", lease_s=0.5), Lease(store, "two", lease_s=0.5)
    lease.acquire()
    lease.abandon()
    other.acquire()
    behind = Lease(store, "one", lease_s=0.5)
    behind._renewed = 0.0
    store.done.clear()
    mirror = Mirror(folder, store, lease=behind)
    mirror.start()
    assert "taken over by process" in mirror.close(5)
    assert store.done == []
    other.release()


def test_a_run_that_is_taken_over_in_the_middle_of_a_pass_changes_nothing_more(
    mirror, store, folder
):
    """As of a machine that was frozen in a long pass: the lease is checked before each change."""
    store.write("checkpoints/step-1.pt", b"old")

    def take_over():
        store.write("run.lease", b'{"token": "two", "pid": 7, "host": "other"}')
        mirror._lease._renewed = float("-inf")

    store.after = take_over
    mirror.start()
    assert "taken over by process 7 on other" in mirror.close(5)
    assert len(store.done) == 1 and store.read("checkpoints/step-1.pt") == b"old"


def test_removals_are_given_up_with_the_rest(mirror, store, folder):
    for iteration in (1, 2):
        store.write(f"checkpoints/step-{iteration}.pt", b"old")

    def give_up():
        if store.done[-1][0] == "remove":
            mirror._given_up.set()

    store.after = give_up
    mirror.start()
    assert mirror.close(5) is not None
    assert [what for what, _ in store.done].count("remove") == 1


def test_another_run_s_files_are_gone_before_this_run_s_identity_comes(mirror, store, folder):
    for name in ("run_id.json", "summary.json", "checkpoints/step-50.pt", "test_access.jsonl"):
        store.write(name, b"of another run")
    store.write("notes.txt", b"mine")
    seen = []

    def look():
        identity, entries = store.read("run_id.json"), store.entries("checkpoints")
        seen.append(identity)
        assert identity == b"of another run" or "checkpoints/step-50.pt" not in entries

    store.after = look
    mirror.start()
    assert mirror.close(5) is None
    assert b"of another run" in seen and seen[-1] == b"run_id.json"
    store.after = lambda: None
    require_equal(store, folder)
    assert store.read("notes.txt") == b"mine" and store.read("test_access.jsonl") is None


@pytest.mark.parametrize("looks_here", [0, 1])
def test_looks_at_test_that_others_have_noted_in_the_store_stay(mirror, store, folder, looks_here):
    mirror.start()
    until = time.monotonic() + 20
    while not mirror._whole:  # else the first pass may not have listed the store yet
        assert time.monotonic() < until
        time.sleep(0.02)
    store.write("test_access.jsonl", b'{"by": "evaluate"}\n')
    if looks_here:
        (folder / "test_access.jsonl").write_text('{"by": "train"}\n')
    assert mirror.close(5) is None
    lines = store.read("test_access.jsonl").splitlines()
    assert sorted(lines) == [b'{"by": "evaluate"}', b'{"by": "train"}'][: 1 + looks_here]
    require_equal(store, folder)


def test_an_unexpected_error_is_logged_and_said_at_the_end(mirror, monkeypatch, caplog):
    def broken():
        raise RuntimeError("the table is cracked")

    monkeypatch.setattr(mirror, "_pass", broken)
    mirror.start()
    assert "RuntimeError: the table is cracked" in mirror.close(5)
    assert any("the table is cracked" in record.getMessage() for record in caplog.records)


def test_another_run_s_files_stay_until_this_run_has_a_checkpoint(mirror, store, folder):
    """A start that is refused before has replaced nothing."""
    for file in (folder / "checkpoints").iterdir():
        file.unlink()
    for name in ("run_id.json", "checkpoints/step-50.pt"):
        store.write(name, b"of another run")
    mirror.start()
    until = time.monotonic() + 20
    while not mirror._waits:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not mirror._is_time(False) and store.done == []
    save(folder, 5)
    wait_for(store, "checkpoints/last.pt", limit_s=20)
    assert mirror.close(5) is None
    require_equal(store, folder)
