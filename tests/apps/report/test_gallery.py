import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite.apps.report.duplicate_groups import duplicate_groups
from fer_ignite.apps.report.gallery import (
    calibrated_probabilities,
    confident_mistakes,
    confusion_cells,
    describe_faces,
)
from fer_ignite.apps.report.thumbnails import overlay_uri, thumbnail_uri
from fer_ignite.apps.report.vote_text import describe_votes
from fer_ignite.data.cache.format import open_cache
from fer_ignite.errors import DataError


def picture(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_surest_mistakes_come_first():
    logits_NK = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]]).log()
    labels_N = torch.tensor([0, 0, 0, 1])  # wrong: rows 1 (0.7), 2 (0.8), 3 (0.6)
    assert confident_mistakes(logits_NK, labels_N, temperature=2.0, count=2) == [2, 1]
    assert confusion_cells(logits_NK, labels_N, temperature=2.0) == {
        (0, 0): [0],
        (0, 1): [2, 1],
        (1, 0): [3],
    }


def test_a_page_holds_a_bounded_number_of_faces():
    torch.manual_seed(0)
    for classes, faces in ((7, 20_000), (100, 60_000)):
        cells = confusion_cells(
            torch.rand(faces, classes), torch.randint(classes, (faces,)), temperature=1.0
        )
        assert 1000 < sum(map(len, cells.values())) <= 1500


def test_faces_are_described_from_the_scores_and_the_pack(seen):
    labels_N, probabilities_NK = seen.labels_N, calibrated_probabilities(seen)
    described = describe_faces(seen, [3, 5])
    for row in (3, 5):
        face, classes = described[row], seen.network.classes
        assert (
            face["true"]
            == classes[labels_N[row]]
            == seen.dataset.classes[seen.dataset.targets.labels_N[seen.places_N[row]]]
        )
        assert [name for name, _ in face["guesses"]] == [
            classes[k] for k in probabilities_NK[row].argsort(descending=True)[:3]
        ]
        stored = seen.dataset.cache.read([seen.places_N[row]])[0, :, :, 0].astype(float)
        assert abs(np.asarray(picture(face["image"])).astype(float) - stored).mean() < 6  # JPEG
        assert (
            face["id"] == seen.dataset.cache.sample_id(seen.places_N[row]) and face["votes"] is None
        )


def test_large_pictures_are_made_small_and_maps_are_laid_over_them():
    face_HWC = np.full((200, 200, 3), 90, dtype=np.uint8)
    assert picture(thumbnail_uri(face_HWC)).size == (64, 64)
    map_HW = np.zeros((200, 200), dtype=np.float32)
    map_HW[:100] = 1
    laid = np.asarray(picture(overlay_uri(face_HWC, map_HW))).astype(float)
    assert abs(laid[80:] - 90).mean() < 4 and abs(laid[:20] - 90).mean() > 30


@pytest.fixture(scope="module")
def csv_pack(tmp_path_factory):
    """A csv of 6 faces, of which rows 2 and 3 (train, val) are equal but labelled differently, and its votes."""
    from fer_ignite.data.cache.lookup import open_or_build
    from fer_ignite.data.cache.spec import CacheSpec

    folder = tmp_path_factory.mktemp("csv")
    draw = np.random.default_rng(0)
    rows = ["emotion,pixels,Usage"]
    same = " ".join(map(str, draw.integers(0, 256, 2304)))
    usages = ("Training", "PublicTest", "Training", "PublicTest", "Training", "PrivateTest")
    for place, (label, usage) in enumerate(zip((0, 3, 1, 2, 4, 5), usages, strict=True)):
        pixels = same if place < 2 else " ".join(map(str, draw.integers(0, 256, 2304)))
        rows.append(f"{label},{pixels},{usage}")
    (folder / "faces.csv").write_text("\n".join(rows) + "\n")
    head = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    )
    votes = [f"Training,fer{place}.png,{place},0,0,4,{6 - place},0,0,0,0,1" for place in range(6)]
    (folder / "votes.csv").write_text("\n".join([head, *votes]) + "\n")
    cache = open_or_build(
        CacheSpec(data=str(folder / "faces.csv")), cache=folder / "cache", progress=False
    )
    return open_cache(cache), str(folder / "votes.csv")


def test_votes_are_those_of_the_face_s_own_row(csv_pack):
    cache, votes = csv_pack
    assert cache.sample_id(2) == "row 4"
    assert describe_votes(votes, cache, places=[0, 2]) == {
        0: "angry 6, sad 4, not a face 1",
        2: "sad 4, angry 4, neutral 2, not a face 1",
    }


def test_votes_that_don_t_belong_to_the_faces_are_refused(csv_pack, seen, tmp_path):
    cache, votes = csv_pack
    with pytest.raises(DataError, match="come from elsewhere"):
        describe_votes(votes, seen.dataset.cache, places=[0])
    short = tmp_path / "short.csv"
    short.write_text("\n".join(Path(votes).read_text().splitlines()[:3]) + "\n")
    with pytest.raises(DataError, match="2 rows, the data has a row 7"):
        describe_votes(str(short), cache, places=[5])


def test_equal_pictures_with_other_labels_or_roles_are_shown(csv_pack):
    cache, _ = csv_pack
    (group,) = duplicate_groups(cache, "val")
    assert group["contradicts"] and {
        (copy["split"], copy["label"]) for copy in group["copies"]
    } == {("train", "angry"), ("val", "happy")}
    assert duplicate_groups(cache, "test") == []
