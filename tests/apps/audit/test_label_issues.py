import sys

import numpy as np
import pytest

from fer_ignite.apps.audit.label_issues import auroc, find_label_issues, label_issue_score
from fer_ignite.errors import ConfigError


def test_surprise_is_one_half_where_the_label_surprises_as_much_as_expected():
    probabilities = np.array(
        [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01], [0.98, 0.01, 0.01]]
    )
    score = label_issue_score(probabilities, np.array([0, 2, 0, 1]))
    assert score[:2] == pytest.approx(0.5, abs=1e-4)
    assert score[2] < 0.5 < score[3]
    s, h = -np.log(0.01), -(0.98 * np.log(0.98) + 0.02 * np.log(0.01))
    assert score[3] == pytest.approx(s / (s + h))


def test_the_other_scores_are_what_their_names_say():
    probabilities, labels = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]), np.array([0, 0])
    assert label_issue_score(probabilities, labels, kind="self_confidence") == pytest.approx(
        [0.8, 0.4]
    )
    assert label_issue_score(probabilities, labels, kind="margin") == pytest.approx(
        [(1 + 0.7 - 0.2) / 2, (1 + 0.3 - 0.6) / 2]
    )


def test_chances_of_zero_and_one_give_scores_within_bounds():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    score = label_issue_score(probabilities, np.array([0, 0]))
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
    probabilities = np.full((300, 3), 0.1) + rng.random((300, 3)) * 0.1
    probabilities[np.arange(300), true] = 0.8
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels, changed = true.copy(), np.zeros(300, dtype=bool)
    changed[rng.permutation(300)[:30]] = True
    labels[changed] = (labels[changed] + 1) % 3
    return probabilities.astype(np.float32), labels, changed


@pytest.mark.parametrize("label_method", ["own", "cleanlab"])
def test_changed_labels_are_found_and_the_right_ones_suggested(planted, label_method):
    if label_method == "cleanlab":
        pytest.importorskip("cleanlab")
    probabilities, labels, changed = planted
    issues = find_label_issues(
        probabilities, labels, scored_N=np.ones(300, dtype=bool), label_method=label_method
    )
    # cleanlab estimates how many are wrong and lists that many, here 28 of 30.
    assert not issues.listed_N[~changed].any() and issues.listed_N.sum() >= (
        30 if label_method == "own" else 25
    )
    assert (issues.predicted_N == np.arange(300) % 3).all()
    assert auroc(issues.score_N, changed) == 1


def test_what_was_not_judged_has_no_score(planted):
    probabilities, labels, _changed = planted
    scored = np.arange(300) < 100
    issues = find_label_issues(probabilities, labels, scored_N=scored)
    assert (
        np.isnan(issues.score_N[100:]).all()
        and not issues.listed_N[100:].any()
        and (issues.predicted_N[100:] == -1).all()
    )
    assert np.isnan(
        find_label_issues(probabilities, labels, scored_N=np.zeros(300, dtype=bool)).score_N
    ).all()


def test_without_cleanlab_the_error_names_the_extra(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ConfigError, match=r'-m pip install "\S+\[audit\]"'):
        find_label_issues(
            planted[0], planted[1], scored_N=np.ones(300, dtype=bool), label_method="cleanlab"
        )
