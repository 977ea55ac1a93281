from dataclasses import replace

import numpy as np
import pytest
import torch

from fer_ignite.apps.audit.out_of_fold import NO_FOLD, out_of_fold
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import dataset_from_cache
from fer_ignite.data.folds import deal
from fer_ignite.data.loader import Targets


@pytest.mark.slow
def test_an_image_is_judged_by_a_network_that_never_saw_its_label():
    """Another label for one image changes what is said about the other fold, and not a bit of what is said about its own."""
    faces = dataset_from_cache(open_or_build(CacheSpec(data="demo:70")))
    labels = np.array(faces.targets.labels_N)
    folds = deal(labels, np.arange(70), folds=2, seed=0)
    settings = {
        "epochs": 1,
        "seed": 0,
        "device": torch.device("cpu"),
        "tta": "none",
        "learned_N": np.ones(70, dtype=bool),
    }
    before = out_of_fold(faces, folds, **settings)
    assert before.shape == (70, 7) and before.sum(axis=1) == pytest.approx(1, abs=1e-5)
    one = int(np.flatnonzero(folds == 0)[0])
    changed = labels.copy()
    changed[one] = (labels[one] + 1) % 7
    after = out_of_fold(replace(faces, targets=Targets(changed, 7)), folds, **settings)
    assert (after[folds == 0] == before[folds == 0]).all()
    assert (after[folds == 1] != before[folds == 1]).any()


@pytest.mark.slow
def test_images_without_a_fold_train_no_network_and_are_scored_by_all():
    faces = dataset_from_cache(open_or_build(CacheSpec(data="demo:70")))
    labels = np.array(faces.targets.labels_N)
    train = faces.indices["train"]
    folds, learned = np.full(70, NO_FOLD), np.ones(70, dtype=bool)
    folds[train] = deal(labels[train], train, folds=2, seed=0)
    left_out = int(train[0])  # say, a copy of a test image
    learned[left_out] = False
    settings = {
        "epochs": 1,
        "seed": 0,
        "device": torch.device("cpu"),
        "tta": "none",
        "learned_N": learned,
    }
    before = out_of_fold(faces, folds, **settings)
    assert before.sum(axis=1) == pytest.approx(1, abs=1e-5)
    changed = labels.copy()
    for place in (left_out, *faces.indices["val"], *faces.indices["test"]):
        changed[place] = (labels[place] + 1) % 7
    assert (
        out_of_fold(replace(faces, targets=Targets(changed, 7)), folds, **settings) == before
    ).all()
