import sys

import numpy as np
import pytest

from fer_ignite.apps.audit.label_issues import auroc, doubts_of, score_of
from fer_ignite.errors import ConfigError


def test_surprise_is_one_half_where_the_label_surprises_as_much_as_expected():
    chances = np.array(
        [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01], [0.98, 0.01, 0.01]]
    )
    score = score_of(chances, np.array([0, 2, 0, 1]))
    assert score[:2] == pytest.approx(0.5, abs=1e-4)
    assert score[2] < 0.5 < score[3]
    s, h = -np.log(0.01), -(0.98 * np.log(0.98) + 0.02 * np.log(0.01))
    assert score[3] == pytest.approx(s / (s + h))


def test_the_other_scores_are_what_their_names_say():
    chances, labels = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]), np.array([0, 0])
    assert score_of(chances, labels, kind="self_confidence") == pytest.approx([0.8, 0.4])
    assert score_of(chances, labels, kind="margin") == pytest.approx(
        [(1 + 0.7 - 0.2) / 2, (1 + 0.3 - 0.6) / 2]
    )


def test_chances_of_zero_and_one_give_scores_within_bounds():
    chances = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    score = score_of(chances, np.array([0, 0]))
    assert 0 <= score[0] < 0.5 < score[1] <= 1


def test_auroc_counts_pairs_and_ties_half():
    rng = np.random.default_rng(0)
    scores, wrong = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[wrong] for b in scores[~wrong]]
    assert auroc(scores, wrong) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.zeros(60, dtype=bool)))


@pytest.fixture
def planted():
    """Chances of a good network over 300 images, 30 of whose labels were changed: chances, labels, which were changed."""
    rng = np.random.default_rng(1)
    true = np.arange(300) % 3
    chances = np.full((300, 3), 0.1) + rng.random((300, 3)) * 0.1
    chances[np.arange(300), true] = 0.8
    chances /= chances.sum(axis=1, keepdims=True)
    labels, changed = true.copy(), np.zeros(300, dtype=bool)
    changed[rng.permutation(300)[:30]] = True
    labels[changed] = (labels[changed] + 1) % 3
    return chances.astype(np.float32), labels, changed


@pytest.mark.parametrize("judge", ["own", "cleanlab"])
def test_changed_labels_are_found_and_the_right_ones_suggested(planted, judge):
    if judge == "cleanlab":
        pytest.importorskip("cleanlab")
    chances, labels, changed = planted
    doubts = doubts_of(chances, labels, np.ones(300, dtype=bool), judge=judge)
    # cleanlab estimates how many are wrong and lists that many, here 28 of 30.
    assert not doubts.listed_N[~changed].any() and doubts.listed_N.sum() >= (
        30 if judge == "own" else 25
    )
    assert (doubts.suggested_N == np.arange(300) % 3).all()
    assert auroc(doubts.score_N, changed) == 1


def test_what_was_not_judged_has_no_score(planted):
    chances, labels, _changed = planted
    judged = np.arange(300) < 100
    doubts = doubts_of(chances, labels, judged)
    assert (
        np.isnan(doubts.score_N[100:]).all()
        and not doubts.listed_N[100:].any()
        and (doubts.suggested_N[100:] == -1).all()
    )
    assert np.isnan(doubts_of(chances, labels, np.zeros(300, dtype=bool)).score_N).all()


def test_without_cleanlab_the_error_names_the_extra(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ConfigError, match=r'pip install "\.\[audit\]"'):
        doubts_of(planted[0], planted[1], np.ones(300, dtype=bool), judge="cleanlab")
