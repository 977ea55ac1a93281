import numpy as np
import pytest

from fer_ignite import train
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.exclude_list import formula_safe, is_same_list, read_exclude_list
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.errors import ConfigError, DataError, FerError
from fer_ignite.runs.prepare import prepare


@pytest.fixture
def listed(tmp_path):
    """(rows, header) -> path of a list."""

    def write(rows, header="id,drop", name="list.csv"):
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
        return str(tmp_path / name)

    return write


@pytest.fixture
def demo(tiny):
    return open_cache(find_cache(tiny())[0])


def ids_of(dataset_cache, split, count):
    return [dataset_cache.sample_id(int(i)) for i in dataset_cache.indices(split)[:count]]


def test_only_rows_that_say_yes_count_and_all_without_the_column(listed):
    assert read_exclude_list(listed(["a,yes", "b,no", "c,", "d, YES "])).ids == ("a", "d")
    assert read_exclude_list(listed(["b,x", "a,y", "b,z"], header="ID,note")).ids == ("a", "b")
    assert read_exclude_list(listed([])).ids == ()


def test_the_digest_is_of_the_ids_and_of_nothing_else(listed):
    one = read_exclude_list(listed(["a,yes", "b,yes", "c,no"]))
    other = read_exclude_list(listed(["b,1", "a,2"], header="id,score", name="other.csv"))
    assert one.digest == other.digest and is_same_list(one.with_digest, other.with_digest)
    more = read_exclude_list(listed(["a,yes", "b,yes", "c,yes"]))
    assert more.digest != one.digest and not is_same_list(one.with_digest, more.with_digest)
    assert not is_same_list(one.with_digest, None) and not is_same_list("a.csv", "a.csv")


def test_a_pinned_list_that_has_changed_is_refused(listed):
    pinned = read_exclude_list(listed(["a,yes"])).with_digest
    assert read_exclude_list(pinned).with_digest == pinned
    listed(["a,yes", "b,yes"])
    with pytest.raises(DataError, match="--override exclude"):
        read_exclude_list(pinned)


def test_ids_that_look_like_formulas_are_read_back(listed):
    assert read_exclude_list(listed([f"{formula_safe('=a/x.png')},yes", "'quoted,yes"])).ids == (
        "'quoted",
        "=a/x.png",
    )


@pytest.mark.parametrize(
    ("rows", "header", "kind", "said"),
    [
        (["1,2"], "name,score", ConfigError, "no column id.*name, score"),
        (["a,maybe"], "id,drop", DataError, "row 2.*maybe.*yes or no"),
        (["a"], "id,drop", DataError, "row 2: 1 fields"),
    ],
)
def test_what_is_no_list_is_refused_by_name(listed, rows, header, kind, said):
    with pytest.raises(kind, match=rf"--exclude: .*list\.csv.*{said}"):
        read_exclude_list(listed(rows, header=header))


def test_a_list_that_isn_t_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--exclude: .*absent\.csv.*no such file"):
        read_exclude_list(str(tmp_path / "absent.csv"))


def test_train_loses_what_is_listed_and_val_and_test_stay(tiny, demo, listed):
    names = ids_of(demo, "train", 5) + ids_of(demo, "val", 2) + ids_of(demo, "test", 1)
    config = tiny(exclude=listed([f"{name},yes" for name in names]))
    faces = open_dataset(config, demo.path)
    left = faces.train_indices(drop_train_duplicates=False, limit=None, seed=0)
    assert left.tolist() == demo.indices("train")[5:].tolist()
    assert len(faces.indices["val"]) == 14 and len(faces.indices["test"]) == 14
    limited = faces.train_indices(drop_train_duplicates=False, limit=20, seed=0)
    assert len(limited) == 20 and set(limited) <= set(left)
    assert faces.fingerprint == demo.fingerprint
    said = read_exclude_list(config.exclude).describe(demo)
    assert (
        "5 of 112 train images left out; 2 listed val and 1 test images stay" in said
        and "\n" not in said
    )


def test_unknown_ids_and_a_list_of_everything_are_refused(demo, listed):
    with pytest.raises(DataError, match=r"1 ids of .* 'nobody'"):
        read_exclude_list(listed(["face 0,yes", "nobody,yes"])).positions(demo)
    with pytest.raises(DataError, match="all 112 train images"):
        read_exclude_list(listed([f"{name},yes" for name in ids_of(demo, "train", 112)])).describe(
            demo
        )


def test_a_run_says_and_keeps_what_it_left_out_and_its_checkpoint_needs_no_list(
    tiny, demo, listed, tmp_path
):
    path = listed([f"{name},yes" for name in ids_of(demo, "train", 40)])
    summary = train(tiny(exclude=path, epochs=1))
    assert summary["data"]["trained_on"] == 72 and summary["data"]["counts"]["train"] == 112
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert load_checkpoint(best)["config"]["exclude"] == read_exclude_list(path).with_digest
    assert load_checkpoint(best)["data"]["fingerprint"] == demo.fingerprint
    (tmp_path / "list.csv").unlink()
    from fer_ignite import evaluate

    assert evaluate(best, quiet=True, split="train")["n"] == 112


def test_the_list_is_part_of_what_a_run_is(tiny, demo, listed, tmp_path):
    """Resume: the same list wherever it lies; another one only with --override."""
    rows = [f"{name},yes" for name in ids_of(demo, "train", 40)]
    path = listed(rows)
    train(tiny(exclude=path, epochs=1))

    def resumed(**settings):
        config = tiny(
            epochs=2,
            resume="auto",
            sched="constant",
            override=("sched", *settings.pop("override", ())),
            **settings,
        )
        names = ("epochs", "resume", "out", "name", "sched", "override", *settings)
        run_spec, lock = prepare(
            config, {name: value for name, value in config.model_dump().items() if name in names}
        )
        lock.release()
        return run_spec

    assert any("40 of 112 train images left out" in note for note in resumed().notes)
    assert (
        resumed(exclude=listed(rows, name="moved.csv"))
        .config["exclude"]
        .startswith(str(tmp_path / "moved.csv#"))
    )
    other = listed(rows[1:], name="other.csv")
    with pytest.raises(ConfigError, match=r"exclude \(.*list\.csv#.* -> .*other\.csv#"):
        resumed(exclude=other)
    assert resumed(exclude=other, override=("exclude",)).config["exclude"].startswith(other)
    listed(rows[1:])
    with pytest.raises(DataError, match="other images than the run began with"):
        resumed()


def test_a_user_s_data_set_has_no_ids_to_exclude(tiny, listed):
    with pytest.raises(FerError, match="--exclude names images by their ids"):
        train(tiny(data="my.module:Data", exclude=listed(["a,yes"])))


def test_the_list_is_read_before_the_data(tiny, tmp_path):
    with pytest.raises(ConfigError, match="--exclude"):
        train(tiny(data="absent_folder", exclude=str(tmp_path / "absent.csv")))


def test_order_of_the_rows_is_of_no_concern(tiny, demo, listed):
    names = ids_of(demo, "train", 6)
    one, other = (
        open_dataset(tiny(exclude=listed([f"{n},yes" for n in order])), demo.path)
        for order in (names, names[::-1])
    )
    assert np.array_equal(
        *(
            faces.train_indices(drop_train_duplicates=False, limit=None, seed=0)
            for faces in (one, other)
        )
    )
