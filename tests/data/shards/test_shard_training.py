"""Training from shards: the order of a folder and of a server are one, and a stopped run continues to the same weights."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_ignite import Events, build_session, train
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import dataset_from_cache
from fer_ignite.data.fetchers import IndexBatch
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.shards import remote
from fer_ignite.data.shards.read_ahead import ShardFetcher
from fer_ignite.data.shards.shard_writer import write_shards
from fer_ignite.errors import ConfigError, FerError, Interrupted, StorageError
from fer_ignite.imports import load_object
from fer_ignite.inference.evaluate import launch_evaluation
from fer_ignite.inference.request import EvaluateRequest

FAULTS = Path(__file__).parents[2] / "faults"
WINDOW = {"shard_window": 4}


def requests(*batches, epochs=None):
    for number, batch in enumerate(batches):
        indices = np.array(batch, dtype=np.int64)
        epoch = 0 if epochs is None else epochs[number]
        yield IndexBatch(indices, epoch, number, np.arange(len(indices)))


def test_the_fetcher_gives_the_images_of_each_request_in_order(folder):
    dataset_cache = open_cache(folder)
    fetcher = dataset_from_cache(folder).fetcher(torch.device("cpu"), seed=0)
    assert isinstance(fetcher, ShardFetcher)
    batches = [[139, 0, 50], [], [7], *([place, 2 * place] for place in range(60)), [3]]
    found = list(fetcher.batches(requests(*batches)))
    assert len(found) == len(batches)
    for images, batch in zip(found, batches, strict=True):
        assert np.array_equal(images.numpy(), dataset_cache.read(batch))


def test_nothing_of_the_next_epoch_is_downloaded_before_it_is_requested(server, tmp_path):
    spec = CacheSpec(data=f"shards:{server.url}")
    dataset_cache = open_cache(open_or_build(spec, cache=tmp_path / "cache"))
    fetcher = ShardFetcher(dataset_cache, torch.device("cpu"), channels=1)
    numbers = dataset_cache.shards.first_S
    order = [[numbers[0]], [numbers[1]], [numbers[2]], [numbers[3]]]
    batches = fetcher.batches(requests(*order, epochs=[0, 0, 1, 1]))
    next(batches), next(batches)
    assert not dataset_cache.shards.cache.has(2) and not dataset_cache.shards.cache.has(3)
    assert len(list(batches)) == 2 and dataset_cache.shards.cache.has(3)


def test_an_error_of_a_shard_reaches_the_training_in_its_place(folder):
    (folder / "shards" / "train-00001.tar").unlink()
    dataset_cache = open_cache(folder)
    batches = ShardFetcher(dataset_cache, torch.device("cpu"), channels=1).batches(
        requests([0], [12], [1])
    )
    assert next(batches).shape == (1, 48, 48, 1)
    with pytest.raises(FerError, match=r"train-00001.tar: can't be opened"):
        next(batches)


def test_the_order_of_a_run_stays_within_its_window_of_shards(tiny, folder):
    session = build_session(tiny(data=f"shards:{folder}", **WINDOW), handlers=[])
    session.close()
    plan = session.train_loader.plan
    numbers = open_cache(folder).shards.shard_numbers(plan.order(0))
    spans = [np.flatnonzero(numbers == number)[[0, -1]] for number in np.unique(numbers)]
    open_at = [sum(first <= at <= last for first, last in spans) for at in range(112)]
    assert len(spans) >= 12 and max(open_at) <= 5


def test_the_first_images_are_taken_of_a_limited_train_split(folder):
    faces = dataset_from_cache(folder)
    taken = faces.train_indices(drop_train_duplicates=False, limit=25, seed=0)
    assert taken.tolist() == list(range(25))


def test_a_machine_without_the_first_ones_cache_makes_a_copy_of_its_own(tiny, server, tmp_path):
    config = tiny(data=f"shards:{server.url}", cache=str(tmp_path / "first"))
    first, fingerprint = find_cache(config)
    other = config.model_copy(update={"cache": str(tmp_path / "other")})
    assert open_dataset(config, first).cache.path == first
    first.rename(tmp_path / "away")
    faces = open_dataset(other, first)
    assert faces.cache.path.parent == tmp_path / "other" / "shards"
    assert faces.fingerprint == fingerprint
    with pytest.raises(FerError, match="the index changed while the processes started"):
        open_dataset(other, first.with_name("0123"))


@pytest.mark.slow
def test_a_folder_and_a_server_with_room_for_half_of_it_train_the_same_weights(
    tiny, folder, server, monkeypatch, tmp_path
):
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "cache"))
    local = train(tiny(data=f"shards:{folder}", name="local", mixup=0.2, **WINDOW))
    held = []
    server.before = lambda: held.append(
        sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.tar*"))
    )
    changed = {"shard_cache_gb": 9 * 30720 / 1e9, "mixup": 0.2, **WINDOW}
    distant = train(tiny(data=f"shards:{server.url}", name="distant", **changed))
    assert distant["weights_sha256"] == local["weights_sha256"]
    assert distant["val"] == local["val"] and distant["test"] == local["test"]
    assert distant["data"]["source"] == f"shards:{server.url}"
    assert 5 * 30720 < max(held) <= 9 * 30720
    assert len([path for path in server.paths if "/train-" in path]) > 14  # some came twice


def interrupt_in_the_second_epoch(session):
    @session.trainer.on(Events.ITERATION_COMPLETED(once=6))
    def interrupt(engine):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_run_is_continued_in_the_middle_of_an_epoch_from_another_place_to_the_same_weights(
    tiny, folder, server, tmp_path
):
    whole = train(tiny(data=f"shards:{folder}", name="whole", shard_streams=2, **WINDOW))
    settings = tiny(data=f"shards:{folder}", name="cut", shard_streams=2, **WINDOW)
    with pytest.raises(Interrupted):
        train(settings, handlers=[interrupt_in_the_second_epoch])
    cut = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert 6 <= cut["iterations"] < whole["iterations"] == 8
    changed = {"data": f"shards:{server.url}", "resume": "auto"}
    again = train(settings.model_copy(update=changed))
    assert (again["iterations"], again["weights_sha256"]) == (8, whole["weights_sha256"])


@pytest.mark.slow
def test_a_server_that_goes_away_ends_the_run_and_a_resume_continues_it(
    tiny, folder, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_WAITS_S", (0.0, 0.0))
    # a batch of eight faces, so that the shards come one after another
    changed = {"batch_size": 8, "save_iterations": 1, "shard_window": 2}
    whole = train(tiny(data=f"shards:{folder}", name="whole", **changed))
    served = []

    def three_shards_only():
        served.append(1)
        return 200 if len(served) <= 3 else 503

    names = [shard["name"] for shard in open_cache(folder).manifest["shards"]]
    server.answers |= {name: three_shards_only for name in names if name.startswith("train")}
    settings = tiny(data=f"shards:{server.url}", name="cut", **changed)
    with pytest.raises(StorageError, match=r"can't be read after 3 tries .HTTP 503") as error:
        train(settings)
    assert error.value.exit_code == 4
    server.answers.clear()
    again = train(settings.model_copy(update={"resume": "auto"}))
    assert again["weights_sha256"] == whole["weights_sha256"]


def turned(image):
    return image.rotate(90)


@pytest.mark.slow
def test_transforms_per_image_votes_and_lists_of_images_work_as_with_a_pack(tiny, tmp_path):
    support = load_object(f"{FAULTS / 'support.py'}:write_faces", setting="the test")
    data = support(tmp_path / "fer2013.csv", train=60, val=20, test=20)
    votes = np.random.default_rng(0).integers(1, 6, (100, 7))
    usages = ["Training"] * 60 + ["PublicTest"] * 20 + ["PrivateTest"] * 20
    rows = [
        f"{usage},fer{number}.png,{','.join(map(str, row))},0,0,0"
        for number, (usage, row) in enumerate(zip(usages, votes, strict=True))
    ]
    heading = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt"
    text = "\n".join([f"{heading},unknown,NF", *rows]) + "\n"
    (tmp_path / "fer2013new.csv").write_text(text)
    spec = CacheSpec(
        data=str(data), votes=str(tmp_path / "fer2013new.csv"), vote_mode="distribution"
    )
    dataset_cache = open_cache(open_or_build(spec))
    write_shards(dataset_cache, tmp_path / "faces", shard_bytes=20_000, source="fer2013")
    shards = open_cache(tmp_path / "faces")
    assert shards.soft is not None and shards.soft.shape == (
        len(dataset_cache),
        len(dataset_cache.classes),
    )
    (tmp_path / "audit.csv").write_text(f"id\n{shards.sample_id(0)}\n{shards.sample_id(1)}\n")
    changed = {
        "sample_transform": f"{__file__}:turned",
        "exclude": str(tmp_path / "audit.csv"),
        "drop_train_duplicates": True,
        "shard_window": 2,
    }
    config = tiny(data=f"shards:{tmp_path / 'faces'}", epochs=1, **changed)
    summary = train(config)
    session = build_session(config.model_copy(update={"name": "looked-at"}), handlers=[])
    session.close()
    taken = session.train_loader.plan.indices_N
    assert not {0, 1} & set(taken.tolist()) and len(taken) == len(shards.indices("train")) - 2
    request = EvaluateRequest(str(tmp_path / "run"), quiet=True, device="cpu")
    outcome = launch_evaluation(request)
    assert outcome.result["accuracy"] == summary["val"]["accuracy"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampler": "balanced"}, "--sampler balanced needs every face at any time"),
        ({"folds": 2}, "--folds needs every face at any time"),
        ({"shard_streams": 3}, "--shard-streams 3 must divide the 32 faces"),
        ({"shard_streams": 16}, "no more than the 1[0-9] shards"),
        ({"shard_cache_gb": 0.0001}, "has no room for the shards of --shard-window 16"),
    ],
)
def test_what_shards_cannot_do_is_refused_before_the_start(tiny, server, changed, said):
    with pytest.raises(ConfigError, match=said):
        train(tiny(data=f"shards:{server.url}", **changed))


def test_the_audit_refuses_shards(folder, tmp_path):
    from fer_ignite.apps.audit.pipeline import AuditRequest, audit
    from fer_ignite.config import check

    with pytest.raises(ConfigError, match="audit the data that the shards were written from"):
        audit(check({"data": f"shards:{folder}"}), AuditRequest(out=str(tmp_path / "audit")))


def test_a_folder_that_is_not_there_is_refused(tiny, folder):
    shutil.rmtree(folder)
    with pytest.raises(FerError, match="there is no such folder; give shards:FOLDER"):
        train(tiny(data=f"shards:{folder}"))
