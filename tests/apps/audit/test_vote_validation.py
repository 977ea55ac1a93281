import numpy as np
import pytest

from fer_ignite.apps.audit.label_issues import find_label_issues
from fer_ignite.apps.audit.vote_validation import (
    NO_MAJORITY,
    OTHER,
    validate_against_votes,
    voted_labels,
)
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.expressions import FER2013_CODES, FERPLUS_COLUMNS
from fer_ignite.errors import DataError

# (label in fer2013.csv, role, the votes, what their majority is)
ROWS = [
    ("angry", "Training", {"anger": 10}, "angry"),
    ("sad", "Training", {"happiness": 9, "sadness": 1}, "happy"),
    ("happy", "Training", {"happiness": 5, "neutral": 5}, NO_MAJORITY),
    ("fear", "PublicTest", {"contempt": 8}, OTHER),
    ("happy", "PublicTest", {"happiness": 10}, "happy"),
    ("neutral", "PrivateTest", {"NF": 10}, OTHER),
    ("sad", "PrivateTest", {"sadness": 7, "fear": 3}, "sad"),
    ("surprise", "PrivateTest", {"surprise": 10}, "surprise"),
]


@pytest.fixture
def voted(tmp_path):
    """(splits of the votes' rows) -> the pack of these rows, and the path of their votes."""

    def make(splits=None):
        faces = ["emotion,pixels,Usage"]
        votes = [",".join(["Usage", "Image name", *FERPLUS_COLUMNS])]
        for i, (label, role, counts, _) in enumerate(ROWS):
            faces.append(
                f"{FER2013_CODES.index(label)},{' '.join(str((i * 31 + j) % 256) for j in range(48 * 48))},{role}"
            )
            cells = [str(counts.get(name, 0)) for name in FERPLUS_COLUMNS]
            votes.append(",".join([(splits or [row[1] for row in ROWS])[i], f"fer{i}.png", *cells]))
        (tmp_path / "fer2013.csv").write_text("\n".join(faces) + "\n")
        (tmp_path / "votes.csv").write_text("\n".join(votes) + "\n")
        return open_cache(open_or_build(CacheSpec(data=str(tmp_path / "fer2013.csv")))), str(
            tmp_path / "votes.csv"
        )

    return make


def test_the_majority_of_each_image_is_read_row_by_row(voted):
    cache, votes = voted()
    expected = [cache.classes.index(said) if isinstance(said, str) else said for *_, said in ROWS]
    assert voted_labels(votes, cache).tolist() == expected


def test_votes_of_other_data_are_refused(voted):
    cache, votes = voted(["Training"] * len(ROWS))
    with pytest.raises(DataError, match="row by row"):
        voted_labels(votes, cache)


def test_scores_are_judged_on_images_with_a_majority(voted):
    """The network doubts sad of row 2 and fear of row 4, whose majority differs, and surprise of row 8, whose doesn't."""
    cache, votes = voted()
    labels, voted_N = np.array(cache.labels), voted_labels(votes, cache)
    said = labels.copy()
    said[1], said[3], said[7] = (
        cache.classes.index("happy"),
        cache.classes.index("angry"),
        cache.classes.index("fear"),
    )
    probabilities = np.full((8, 7), 0.02, dtype=np.float32)
    probabilities[np.arange(8), said] = 0.88
    issues = find_label_issues(probabilities, labels, scored_N=np.ones(8, dtype=bool))
    found = validate_against_votes(
        voted_N,
        labels,
        splits_N=np.array(cache.splits),
        issues=issues,
        probabilities_NK=probabilities,
        seen_N=cache.splits == 0,
    )
    assert found["all"]["n"] == 7 and found["all"]["differ"] == pytest.approx(3 / 7)
    # Wrong are rows 2, 4 and 6; their scores are high, high and low, the right ones' low, low, low and high.
    assert found["all"]["auroc"] == pytest.approx(((3 + 0.5) * 2 + 3 * 0.5) / (3 * 4))
    assert (found["all"]["listed"], found["all"]["precision"], found["all"]["recall"]) == (
        3,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    assert found["all"]["suggestion_right"] == pytest.approx(1 / 3)
    assert found["unseen"]["n"] == 5 and found["train"]["n"] == 2
    assert set(found["all"]["auroc_of"]) == {"surprise", "self_confidence", "margin"}
