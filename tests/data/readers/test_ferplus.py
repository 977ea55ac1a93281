"""FER+ votes, by the rule of their publication."""

from dataclasses import replace

import numpy as np
import pytest

from fer_ignite.data.expressions import FER2013_CODES, FERPLUS_COLUMNS
from fer_ignite.data.readers.ferplus import (
    FERPLUS_CLASSES,
    FerPlusVotes,
    apply_votes,
    distribution,
    majority,
    read_votes,
)
from fer_ignite.data.samples import Samples
from fer_ignite.errors import DataError


def ballot(**votes):
    return [votes.get(name, 0) for name in FERPLUS_COLUMNS]


BALLOTS = {
    "clear": ballot(happiness=10),
    # 4 of 7
    "more than half of what counts": ballot(sadness=4, fear=3, anger=1, disgust=1, surprise=1),
    "exactly half": ballot(sadness=4, fear=4),
    "no half": ballot(neutral=4, sadness=3, anger=3),
    "unknown leads": ballot(unknown=6, fear=4),
    "not a face": ballot(NF=8, fear=2),
    "all slips": ballot(neutral=1, sadness=1, anger=1, fear=1, surprise=1),
}
COUNTS = np.array(list(BALLOTS.values()))


def test_a_majority_needs_more_than_half_of_the_votes_that_count():
    columns = [FERPLUS_COLUMNS[column] if column >= 0 else None for column in majority(COUNTS)]
    assert columns == ["happiness", "sadness", None, None, "unknown", "NF", None]


def shares(**votes):
    row = distribution(np.array([ballot(**votes)]))[0]
    return {
        name: round(float(share), 4)
        for name, share in zip(FERPLUS_COLUMNS, row, strict=True)
        if share
    }


def test_a_distribution_takes_columns_until_three_quarters_are_covered():
    assert shares(happiness=10) == {"happiness": 1}
    assert shares(happiness=8, sadness=2) == {"happiness": 1}  # 8 of 10 is enough
    # 8 of 10 is enough
    assert shares(happiness=5, sadness=3, fear=2) == {"happiness": 0.625, "sadness": 0.375}
    # slips don't count
    assert shares(sadness=4, fear=3, anger=1, surprise=1) == {"sadness": 0.5714, "fear": 0.4286}
    # equal ones together
    assert shares(neutral=4, sadness=3, anger=3) == {"neutral": 0.4, "sadness": 0.3, "anger": 0.3}


def test_unknown_ends_the_taking_and_scattered_votes_give_no_distribution():
    assert shares(happiness=6, unknown=4) == {"happiness": 1}  # 6 of 10 is more than half
    assert shares(happiness=5, unknown=5) == {}  # what is left covers just half
    assert shares(unknown=6, happiness=4) == {"unknown": 1}
    assert shares(neutral=4, sadness=2, anger=2, fear=2) == {}  # four columns
    assert shares(neutral=1, sadness=1, anger=1) == {}


def samples(count, splits):
    return Samples(
        classes=FER2013_CODES,
        ids=[b"row %d" % index for index in range(count)],
        labels_N=np.zeros(count, dtype=np.int64),
        splits_N=np.array(splits, dtype=np.uint8),
        pixels_NHWC=np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 2, 2, 1),
    )


def votes(counts, splits, named=None):
    named_N = np.ones(len(counts), dtype=np.bool_) if named is None else np.array(named)
    return FerPlusVotes(
        "fer2013new.csv", np.array(counts), np.array(splits, dtype=np.uint8), named_N
    )


def test_majority_labels_replace_the_old_ones_and_what_is_left_out_is_counted():
    splits = [0] * 8
    counts = [*BALLOTS.values(), ballot(fear=10)]
    voted = apply_votes(
        samples(8, splits), votes(counts, splits, [True] * 7 + [False]), mode="majority"
    )
    assert [voted.classes[label] for label in voted.labels_N] == ["happy", "sad"]
    assert (
        voted.soft_NK is None
        and voted.classes == FERPLUS_CLASSES
        and voted.ids == [b"row 0", b"row 1"]
    )
    assert voted.left_out == {
        "FER+: removed by its authors": 1,
        "FER+: not a face": 1,
        "FER+: unknown expression": 1,
        "FER+: no agreement (ties included)": 3,
    }


def test_distributions_train_while_val_and_test_stay_with_the_majority():
    split_vote = ballot(neutral=4, sadness=3, anger=3)  # no majority, but a distribution
    splits = [0, 1, 2, 2]
    voted = apply_votes(
        samples(4, splits),
        votes([split_vote, split_vote, split_vote, ballot(contempt=10)], splits),
        mode="distribution",
    )
    assert voted.splits_N.tolist() == [0, 2]
    assert [voted.classes[label] for label in voted.labels_N] == ["neutral", "contempt"]
    assert voted.soft_NK is not None
    named = dict(zip(voted.classes, voted.soft_NK[0].tolist(), strict=True))
    assert {name: round(share, 4) for name, share in named.items() if share} == {
        "neutral": 0.4,
        "sad": 0.3,
        "angry": 0.3,
    }
    assert np.allclose(voted.soft_NK.sum(axis=1), 1)


def test_votes_as_a_second_target_keep_every_face_its_label_and_the_classes():
    splits = [0, 0, 0, 0, 1]
    counts = [
        ballot(neutral=4, sadness=3, anger=3),
        ballot(contempt=5, fear=5),
        ballot(contempt=10),
        ballot(NF=10),
        ballot(happiness=10),
    ]
    own = samples(5, splits)
    voted = apply_votes(own, votes(counts, splits), mode="second")
    assert voted.classes == own.classes and voted.labels_N.tolist() == own.labels_N.tolist()
    assert len(voted) == 5 and voted.left_out == own.left_out
    shares = [
        {
            name: round(float(share), 4)
            for name, share in zip(voted.classes, row, strict=True)
            if share
        }
        for row in voted.soft_NK
    ]
    assert shares[0] == {"neutral": 0.4, "sad": 0.3, "angry": 0.3}
    assert shares[1] == {"fear": 1.0}  # contempt is no class here
    for row in (2, 3, 4):  # no usable votes, or val: the own label
        assert shares[row] == {own.classes[own.labels_N[row]]: 1.0}


def test_the_weight_blends_labels_and_votes():
    from fer_ignite.data.loader import Targets
    from fer_ignite.data.open import blended_targets

    soft_NK = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], dtype=np.float32)
    blended = blended_targets(Targets(np.array([0, 1]), 3, soft_NK), 0.4)
    np.testing.assert_allclose(blended.soft_NK, [[0.8, 0.2, 0.0], [0.0, 1.0, 0.0]], atol=1e-6)
    assert blended.labels_N.tolist() == [0, 1]


def test_votes_and_images_must_go_together_row_by_row():
    with pytest.raises(DataError, match="has 2 rows, the images 3"):
        apply_votes(samples(3, [0, 0, 0]), votes([ballot(fear=10)] * 2, [0, 0]), mode="majority")
    with pytest.raises(DataError, match="published order"):
        apply_votes(samples(2, [0, 2]), votes([ballot(fear=10)] * 2, [0, 1]), mode="majority")


def test_a_row_of_the_images_that_can_t_be_used_takes_its_votes_with_it():
    ballots = [ballot(fear=10), ballot(NF=10), ballot(happiness=10)]
    part = replace(
        samples(2, [0, 2]),
        ids=[b"row 2", b"row 4"],
        refused=((b"row 3", "2303 pixels; a face has 2304"),),
    )
    found = apply_votes(part, votes(ballots, [0, 0, 2]), mode="majority")
    assert [FERPLUS_CLASSES[label] for label in found.labels_N] == ["fear", "happy"]
    assert found.refused == part.refused and not found.left_out["FER+: not a face"]
    with pytest.raises(DataError, match=r"published order; 1 rows .* such as row 3: 2303 pixels"):
        apply_votes(part, votes(ballots[:1] * 4, [0, 0, 0, 2]), mode="majority")


def numbered(*rows):
    header = ["Usage", "Image name", *FERPLUS_COLUMNS]
    return enumerate([header, *rows], start=1)


def test_the_votes_file_is_read_strictly(tmp_path):
    row = ["PublicTest", "fer0.png", *map(str, ballot(fear=9))]
    read = read_votes(tmp_path / "v.csv", numbered(row, ["Training", "", *map(str, ballot(NF=10))]))
    assert read.splits_N.tolist() == [1, 0] and read.named_N.tolist() == [True, False]
    for broken in (row[:-1], [*row[:-1], "-1"], [*row[:-1], "x"], ["Elsewhere", *row[1:]]):
        with pytest.raises(DataError, match=r"v\.csv, row 3"):
            read_votes(tmp_path / "v.csv", numbered(row, broken))
    with pytest.raises(DataError, match="row 1"):
        read_votes(tmp_path / "v.csv", iter([(1, ["Usage", "x"])]))
