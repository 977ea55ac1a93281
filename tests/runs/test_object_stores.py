"""Runs with --out and --resume as URLs; the store is a folder (file://), but for what only a server can refuse."""

import json
import shutil
import threading

import pytest

from fer_ignite import build_session, train
from fer_ignite.checkpoint.format import load_checkpoint, state_digest
from fer_ignite.checkpoint.remote_run import RemoteRun
from fer_ignite.errors import CheckpointError, ConfigError, FolderInUseError, StorageError
from fer_ignite.runs.execute import launch_seeds
from fer_ignite.runs.prepare import prepare
from fer_ignite.runs.run_folder import choose_folder
from fer_ignite.stores.store import Store, StoreProblem
from tests.store_fixtures import require_equal


@pytest.fixture
def out(tmp_path):
    return f"file://{tmp_path}/bucket/runs"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(name): from now on this process is another machine, with a cache of its own."""

    def become(name):
        monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / name))

    become("one")
    return become


def notes_of(config, leaving=None):
    job, hold = prepare(config, config.model_dump(include=config.model_fields_set - {leaving}))
    hold.release()
    return job, " | ".join(job.notes)


def steps(store):
    return sorted(name for name in store.entries("checkpoints") if "step-" in name)


def test_a_run_ends_in_the_store_and_continues_on_another_machine(tiny, out, machine, tmp_path):
    found = train(tiny(out=out, epochs=1, sched="constant"))
    assert found["store"] == f"{out}/run" and str(tmp_path / "one") in found["folder"]
    require_equal(Store(f"{out}/run"), tmp_path / found["folder"])
    machine("two")
    continued = train(tiny(out=out, epochs=2, sched="constant", resume="auto"))
    assert str(tmp_path / "two") in continued["folder"]
    whole = train(tiny(epochs=2, sched="constant"))
    assert continued["weights_sha256"] == whole["weights_sha256"]
    for name in ("best", "val", "test"):
        assert continued[name] == whole[name]
    require_equal(Store(f"{out}/run"), tmp_path / continued["folder"])


def test_the_newer_of_working_copy_and_store_is_taken_and_said(tiny, out, machine, tmp_path):
    short = train(tiny(out=out, epochs=1))
    shutil.copytree(tmp_path / "bucket", tmp_path / "older")
    long = train(tiny(out=out, epochs=2, resume="auto"))
    shutil.rmtree(tmp_path / "bucket")
    (tmp_path / "older").rename(tmp_path / "bucket")
    job, said = notes_of(tiny(out=out, epochs=3, resume="auto"))
    assert job.resume.endswith("step-8.pt") and short["iterations"] == 4
    assert "continues from this machine (iteration 8, completed); the store has iteration 4" in said
    train(tiny(out=out, epochs=2, resume="auto"))  # nothing left to do, but to upload
    require_equal(Store(f"{out}/run"), tmp_path / long["folder"])
    machine("two")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for file in (tmp_path / "two").rglob("step-8.pt"):
        file.unlink()
    job, said = notes_of(tiny(out=out, epochs=3, resume="auto"))
    assert "continues from the store (iteration 8, completed); this machine has iteration 4" in said
    assert job.resume.endswith("step-8.pt")


def test_another_run_of_the_same_name_in_the_store_is_never_mixed_with_the_working_copy(
    tiny, out, machine, tmp_path
):
    mine = train(tiny(out=out, epochs=2, seed=1))
    machine("two")
    other = train(tiny(out=out, epochs=1, seed=2, exist_ok=True))
    assert steps(Store(f"{out}/run")) == ["checkpoints/step-4.pt"]  # the first run's are gone
    machine("one")
    job, said = notes_of(tiny(out=out, epochs=1, seed=2, resume="auto"))
    assert job.finished and "holds another run than this machine's working copy" in said
    aside = tmp_path / f"{mine['folder']}.replaced-1"
    assert (aside / "checkpoints" / "step-8.pt").exists()
    assert job.config["seed"] == 2 and other["iterations"] == 4


def test_a_damaged_resume_point_in_the_store_is_passed_over(tiny, out, machine):
    train(tiny(out=out, epochs=2))
    store = Store(f"{out}/run")
    content = bytearray(store.read("checkpoints/step-8.pt"))
    content[len(content) // 2] ^= 1
    for name in ("step-8.pt", "last.pt"):
        store.write(f"checkpoints/{name}", bytes(content))
    machine("two")
    job, _ = notes_of(tiny(out=out, epochs=2, resume="auto"))
    assert job.resume.endswith("step-4.pt")
    assert any("step-8.pt is damaged and passed over" in warning for warning in job.warnings)


def test_a_run_in_the_store_is_not_overwritten_without_being_asked(tiny, out, machine):
    train(tiny(out=out, epochs=1))
    machine("two")
    with pytest.raises(FolderInUseError, match=rf"{out}/run holds a run; .*--exist-ok"):
        train(tiny(out=out, epochs=1))
    assert Store(f"{out}/run").read("run.lease") is None


def test_a_run_without_a_name_gets_a_number_that_is_free_here_and_in_the_store(
    tiny, out, machine, tmp_path
):
    data = f"file://{tmp_path}/faces.csv"
    for number in (1, 2):
        found, existed = choose_folder(tiny(out=out, name=None, data=data))
        assert found.path.name == ("fer48-faces", "fer48-faces-2")[number - 1] and not existed
    machine("two")
    Store(f"{out}/fer48-faces").write("config.yaml", b"")
    assert choose_folder(tiny(out=out, name=None, data=data))[0].path.name == "fer48-faces-2"
    newest, _ = choose_folder(tiny(out=out, name=None, data=data, resume="auto"))
    assert newest.path.name == "fer48-faces-2"


def test_a_checkpoint_s_url_continues_in_its_own_run_or_starts_another(
    tiny, out, machine, tmp_path
):
    first = train(tiny(out=out, epochs=2, sched="constant"))
    machine("two")
    url = f"{out}/run/checkpoints/step-4.pt"
    again = train(tiny(name=None, epochs=2, sched="constant", resume=url))
    assert again["store"] == f"{out}/run" and again["weights_sha256"] == first["weights_sha256"]
    other = train(tiny(name="other", epochs=2, sched="constant", resume=url))
    assert other["folder"] == str(tmp_path / "other") and "store" not in other
    assert other["weights_sha256"] == first["weights_sha256"]


def test_a_run_s_url_continues_from_its_newest_resume_point(tiny, out, machine, tmp_path):
    train(tiny(out=out, epochs=2))
    for name in ("two", "three"):
        machine(name)
        own = notes_of(tiny(name=None, epochs=3, resume=f"{out}/run/"), leaving="out")[0]
        assert own.store == f"{out}/run" and own.resume.endswith("run/checkpoints/step-8.pt")
    other = notes_of(tiny(name="other", epochs=3, resume=f"{out}/run"))[0]
    assert other.store is None and other.folder == str(tmp_path / "other")
    assert other.resume.endswith("step-8.pt")
    with pytest.raises(CheckpointError, match=f"{out}/typo is neither a checkpoint nor a run"):
        notes_of(tiny(name=None, resume=f"{out}/typo"), leaving="out")
    assert Store(f"{out}/typo").entries() == {}


def refuse(session):
    raise ConfigError("this network is not for these faces.")


def test_a_run_that_is_refused_leaves_nothing_here_and_in_the_store(tiny, out, machine, tmp_path):
    with pytest.raises(ConfigError, match="not for these faces"):
        train(tiny(out=out), handlers=[refuse])
    assert Store(out).entries() == {}
    assert not (tmp_path / "one" / "runs").exists()


def test_a_session_uploads_when_it_is_closed(tiny, out, machine):
    with build_session(tiny(out=out, epochs=1)) as session:
        session.run()
    require_equal(Store(f"{out}/run"), session.folder.path)
    assert json.loads(Store(f"{out}/run").read("summary.json"))["status"] == "completed"


def test_seeds_leave_a_folder_each_and_their_table_in_the_store(tiny, out, machine):
    config = tiny(out=out, epochs=1)
    given = config.model_dump(include=config.model_fields_set)
    outcome = launch_seeds(config, given=given, seeds=[0, 1])
    table = json.loads(Store(out).read("run-seeds.json"))
    assert outcome.exit_code == 0 and table["seeds"] == [0, 1]
    assert {"run-seed0", "run-seed1"} <= set(Store(out).folders())


@pytest.mark.slow
def test_refusals_of_a_server_are_one_sentence_and_code_2(
    cli, tiny_flags, own_server, monkeypatch, tmp_path
):
    """Missing bucket, wrong keys, no server: for --out, --data and checkpoints."""

    def refusals():
        for arguments in (
            ("train", *tiny_flags, "--out", "s3://nowhere/runs"),
            ("train", "--data", "s3://nowhere/fer2013.csv", "--out", tmp_path),
            ("evaluate", "s3://nowhere/runs/run/checkpoints/best.pt"),
            ("train", *tiny_flags, "--resume", "s3://nowhere/runs/a.pt"),
        ):
            ended = cli(*arguments)
            assert ended.code == 2, ended.err
            lines = ended.err.strip().splitlines()
            assert len(lines) == 1 and lines[0].startswith("fer-ignite: "), ended.err
            yield lines[0]

    for said in refusals():
        assert "there is no such bucket; make it first, or name another. (see" in said
    own_server.kill()
    own_server.start(INITIAL_NO_AUTH_ACTION_COUNT="0")
    for said in refusals():
        assert "the store refuses access" in said and "AWS_ACCESS_KEY_ID" in said
    own_server.kill()
    for said in refusals():
        assert "can't be reached (Could not connect to the endpoint URL" in said
        assert "AWS_ENDPOINT_URL" in said


@pytest.mark.slow
def test_a_restarted_process_waits_for_a_store_that_is_away(tiny, own_server, machine, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    own_server.kill()

    def come_back():
        own_server.start()
        own_server.make_bucket()

    with pytest.raises(StorageError, match="can't be reached"):
        prepare(tiny(out="s3://faces/runs", store_wait=0), {})
    later = threading.Timer(1.0, come_back)
    later.start()
    job, hold = prepare(tiny(out="s3://faces/runs"), {})
    later.join()
    hold.release()
    assert job.store == "s3://faces/runs/run"


@pytest.mark.parametrize("method", ["entries", "folders", "download"])
def test_a_restart_waits_for_the_store_at_each_step(tiny, out, machine, monkeypatch, method):
    """Lease, listing and download; and what stays away is a failure of storage, not of the settings."""
    train(tiny(out=out, name=None, epochs=1))
    machine("two")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr("fer_ignite.runs.hold._STORE_RETRY_S", 0.01)
    answer, failures = getattr(Store, method), []

    def fail_first(self, *arguments):
        if len(failures) < 2:
            failures.append(method)
            raise StoreProblem(f"{self.url}: the store can't be reached")
        return answer(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Store, method, fail_first)
        with pytest.raises(StorageError, match="can't be reached"):
            prepare(tiny(out=out, name=None, epochs=2, store_wait=0), {})
        job, hold = prepare(tiny(out=out, name=None, epochs=2, store_wait=60), {})
    hold.release()
    assert len(failures) == 2 and job.resume.endswith("step-4.pt")


def test_a_checkpoint_that_arrives_cut_short_is_not_kept(tiny, out, machine, monkeypatch):
    train(tiny(out=out, epochs=1))
    machine("two")
    url = f"{out}/run/checkpoints/best.pt"
    folder, _ = choose_folder(tiny(out=out, resume=url))
    folder.create()
    remote = RemoteRun(f"{out}/run", folder)
    whole = Store.download_file

    def cut(self, name, file):
        whole(self, name, file)
        file.write_bytes(file.read_bytes()[:-1])

    with monkeypatch.context() as patched, pytest.raises(StoreProblem, match="arrived with"):
        patched.setattr(Store, "download_file", cut)
        remote.fetch_file("checkpoints/best.pt")
    assert not any(folder.checkpoints.iterdir())
    assert remote.fetch_file("checkpoints/best.pt").read_bytes() == remote.store.read(
        "checkpoints/best.pt"
    )
    with pytest.raises(StoreProblem, match="there is no such object"):
        remote.fetch_file("checkpoints/none.pt")


@pytest.mark.slow
def test_commands_take_a_run_or_a_checkpoint_by_its_url(
    cli, bucket, finished_run, machine, tmp_path
):
    store = Store(f"{bucket}/runs/good")
    for file in finished_run.rglob("*"):
        if file.is_file() and file.name != "run.lock":
            store.upload(file, file.relative_to(finished_run).as_posix())
    url = f"{bucket}/runs/good"
    looks = len(store.read("test_access.jsonl").splitlines())
    for name in (url, f"{url}/checkpoints/best.pt"):
        there = cli("evaluate", name, "--split", "test", "--json", "-")
        here = cli("evaluate", finished_run / "checkpoints" / "best.pt", "--json", "-")
        assert there.code == here.code == 0, there.err
        assert json.loads(there.out)["test_evaluations"] == looks + 1
        looks += 1
    assert len(store.read("test_access.jsonl").splitlines()) == looks  # noted where the run is
    info = cli("info", f"{url}/checkpoints/last.pt", "--json")
    content = load_checkpoint(finished_run / "checkpoints" / "last.pt")
    assert json.loads(info.out)["weights_sha256"] == state_digest(content["model"])
    assert cli("info", url).code == 0
    shutil.copy(finished_run / "plots" / "curves.png", tmp_path / "work" / "face.png")
    shown = cli("predict", url, "face.png", "--faces", "never")
    assert shown.code == 0, shown.err
    page = cli("report", url)
    assert page.code == 0 and (page.folder / "good.report.html").exists()
    missing = cli("evaluate", f"{url}/checkpoints/step-99.pt")
    assert missing.code == 2 and "step-99.pt: there is no such object" in missing.err
    no_run = cli("evaluate", bucket)
    assert no_run.code == 2 and "neither a checkpoint nor a run's folder" in no_run.err


def test_a_search_refuses_a_url(cli, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "work" / "space.yaml").write_text("lr: {log: [0.001, 0.01]}\n")
    ended = cli("tune", "space.yaml", "--out", "s3://b/runs", "--trials", "1")
    assert ended.code == 2 and "name a local or shared folder" in ended.err
