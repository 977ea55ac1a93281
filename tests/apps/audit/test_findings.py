import csv
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from fer_ignite.apps.audit.duplicates import Copies, find_copies, same_person
from fer_ignite.apps.audit.findings import KINDS, _broken, as_csv, collect, group_majority
from fer_ignite.apps.audit.label_issues import LabelIssues, find_label_issues
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.drawn_faces import DEMO_CLASSES, _sketch


def unscored_issues(cache):
    return find_label_issues(
        np.zeros((len(cache), len(cache.classes)), np.float32),
        np.array(cache.labels),
        scored_N=np.zeros(len(cache), dtype=bool),
    )


def iter_rows(findings):
    return {
        row["id"].rsplit("/", 1)[-1].removesuffix(".png"): row
        for row in csv.DictReader(io.StringIO(as_csv(findings)))
    }


@pytest.fixture
def found(cache_from_images, blob):
    cache = cache_from_images(
        {
            "train/happy/first": blob(0),
            "train/happy/second": blob(0),  # exact copies of one label
            "train/happy/vote1": blob(1),
            "train/happy/vote2": blob(1),
            "train/sad/vote3": blob(1),  # two against one
            "train/happy/torn1": blob(2),
            "train/sad/torn2": blob(2),  # one against one
            "train/sad/leak": blob(3),
            "test/sad/judge": blob(3),
            "val/sad/even1": blob(4),
            "val/happy/even2": blob(4),  # a contradiction that training never sees
            "train/sad/blank": np.full((48, 48), 7, np.uint8),
            "train/happy/broken": b"no image",
            "train/happy/fine": blob(5),
            "train/sad/fine2": blob(6),
            "test/happy/fine3": blob(7),
        },
        bad_images="skip",
    )
    unseen = np.zeros(len(cache), dtype=bool)
    return iter_rows(
        collect(
            cache, find_copies(cache), issues=unscored_issues(cache), seen_N=unseen, drop_above=0.7
        )
    )


def test_only_images_with_something_to_say_are_listed(found):
    assert not {"fine", "fine2", "fine3"} & set(found)
    assert all(set(row["kinds"].split(";")) <= set(KINDS) for row in found.values())


def test_kinds_say_what_each_image_is(found):
    kinds = {name: set(row["kinds"].split(";")) for name, row in found.items()}
    assert kinds["first"] == kinds["second"] == {"exact_copy"}
    assert kinds["vote1"] == {"exact_copy", "contradicting"}
    assert kinds["leak"] == kinds["judge"] == {"exact_copy", "across_splits"}
    assert kinds["blank"] == {"blank"} and kinds["broken"] == {"broken"}
    assert found["broken"]["note"] and found["broken"]["split"] == ""


def test_of_train_goes_what_is_blank_leaks_is_outvoted_or_stands_twice_and_val_and_test_stay(found):
    dropped = {name for name, row in found.items() if row["drop"] == "yes"}
    one_of_votes = dropped & {"vote1", "vote2"}
    assert len(one_of_votes) == 1 and len(dropped & {"first", "second"}) == 1
    assert dropped - one_of_votes - {"first", "second"} == {
        "vote3",
        "torn1",
        "torn2",
        "leak",
        "blank",
    }


def test_the_majority_of_copies_is_suggested_and_the_image_that_judges_comes_first(found):
    assert (
        found["vote3"]["suggested"] == "happy"
        and found["vote1"]["suggested"] == ""
        and found["torn1"]["suggested"] == ""
    )
    assert found["leak"]["copy_of"].endswith("judge.png") and found["judge"]["copy_of"] == ""
    assert found["leak"]["group"] == found["judge"]["group"] != found["first"]["group"]


def test_doubtful_labels_are_ranked_and_dropped_from_a_score_on_in_train_only(
    cache_from_images, blob
):
    images = {
        f"{split}/{label}/{i}{split}": blob(10 * i + len(split))
        for i, label in enumerate(("a", "b"))
        for split in ("train", "val")
    }
    cache = cache_from_images(images)
    scores = np.array([0.6, 0.9, 0.95, 0.2])  # train a, train b, val a, val b: in the pack's order
    names = [cache.sample_id(i) for i in range(4)]
    issues = LabelIssues(scores, scores > 0.5, 1 - np.array(cache.labels))
    findings = collect(
        cache, find_copies(cache), issues=issues, seen_N=cache.splits == 0, drop_above=0.7
    )
    assert [finding.id for finding in findings] == [names[2], names[1], names[0]]
    assert [finding.drop for finding in findings] == [
        "yes" if scores[i] > 0.7 and cache.splits[i] == 0 else "no" for i in (2, 1, 0)
    ]
    assert findings[0].score == "0.9500" and findings[0].suggested != findings[0].label
    assert {finding.split: finding.seen for finding in findings} == {"train": "yes", "val": "no"}


def test_a_blank_is_blank_and_nothing_else_is_said_of_it(cache_from_images, blob):
    cache = cache_from_images(
        {
            "train/a/x": np.zeros((48, 48), np.uint8),
            "train/b/y": np.zeros((48, 48), np.uint8),
            "train/a/z": blob(1),
        }
    )
    issues = LabelIssues(np.full(3, 0.9), np.ones(3, dtype=bool), 1 - np.array(cache.labels))
    found = iter_rows(
        collect(
            cache, find_copies(cache), issues=issues, seen_N=np.zeros(3, dtype=bool), drop_above=0.7
        )
    )
    assert found["x"]["kinds"] == found["y"]["kinds"] == "blank" and found["z"]["kinds"] == "label"


def test_more_than_half_makes_a_majority():
    groups, labels = np.array([0, 0, 0, 3, 3, 5]), np.array([1, 1, 0, 0, 1, 2])
    assert group_majority(groups, labels, num_classes=3).tolist() == [1, 1, 1, -1, -1, 2]


def test_a_broken_file_keeps_its_whole_name_whatever_it_holds(cache_from_images, blob):
    cache = cache_from_images(
        {
            "train/happy/a": blob(0),
            "train/sad/a": blob(1),
            "train/happy/b: c": b"no picture",
            "train/sad/e.f: g": b"",
        },
        bad_images="skip",
    )
    rows = list(csv.DictReader(io.StringIO(as_csv(_broken(cache)))))
    assert [row["id"] for row in rows] == ["train/happy/b: c.png", "train/sad/e.f: g.png"]
    assert all(row["note"] and ".png" not in row["note"] for row in rows)


def test_no_cell_is_a_formula(cache_from_images, blob):
    cache = cache_from_images(
        {"train/=cmd/x": blob(0), "train/b/y": blob(0), "val/=cmd/z": blob(1), "val/b/w": blob(2)}
    )
    findings = collect(
        cache,
        find_copies(cache),
        issues=unscored_issues(cache),
        seen_N=np.zeros(4, dtype=bool),
        drop_above=0.7,
    )
    cells = [cell for row in csv.reader(io.StringIO(as_csv(findings))) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells) and "'=cmd" in cells


def drawn_persons(root, *, takes, persons=10, contradicting=0):
    """Every expression of every drawn person: pictures that look alike and have different labels."""
    for person in range(persons):
        for label, name in enumerate(DEMO_CLASSES):
            for take in range(takes):
                traits = np.random.Generator(np.random.Philox(key=[77, person]))
                clean = _sketch(label, traits, size=48)
                noise = np.random.default_rng([person, label, take])
                face = np.clip(clean + noise.normal(0, 4, clean.shape), 0, 255).astype(np.uint8)
                (root / name).mkdir(exist_ok=True)
                Image.fromarray(face).save(root / name / f"P{person:02d}_{take}.png")
    for person in range(contradicting):  # the same picture under another label
        shutil.copy(root / "happy" / f"P{person:02d}_0.png", root / "sad" / f"P{person:02d}_x.png")
    return root


@pytest.mark.parametrize("takes", [1, 3])
@pytest.mark.parametrize("group_by", [None, r"P\d\d"])
def test_other_expressions_of_a_person_are_no_copies_to_drop(tmp_path, takes, group_by):
    root = drawn_persons(tmp_path, takes=takes, contradicting=3)
    spec = CacheSpec(data=str(root), group_by=group_by, split=(1.0, 0.0, 0.0))
    cache = open_cache(open_or_build(spec))
    findings = collect(
        cache,
        find_copies(cache),
        issues=unscored_issues(cache),
        seen_N=np.zeros(len(cache), dtype=bool),
        drop_above=0.7,
    )
    kinds = {finding.id: finding.kinds.split(";") for finding in findings}
    persons = {name for name, found in kinds.items() if "same_person" in found}
    assert len(persons) > 10
    contradicting = {name for name, found in kinds.items() if "contradicting" in found}
    assert {f"sad/P{n:02d}_x.png" for n in range(3)} <= contradicting
    # what is advised to be left out is a picture that stands under two labels, or one of its copies
    dropped = {finding.id for finding in findings if finding.drop == "yes"}
    assert dropped and all("P00" in name or "P01" in name or "P02" in name for name in dropped)


def test_a_few_near_copies_with_other_labels_are_errors_where_persons_are_not_known():
    labels_N = np.zeros(200, dtype=np.int64)
    near_N = np.arange(200)
    near_N[1:6:2] = near_N[0:5:2]
    labels_N[1:6:2] = 1
    none_N = np.zeros(200, dtype=bool)
    copies = Copies(np.arange(200), near_N, none_N, none_N)
    assert not same_person(copies, labels_N, persons_N=None).any()
    persons_N = np.arange(200) // 2
    assert same_person(copies, labels_N, persons_N=persons_N).nonzero()[0].tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
