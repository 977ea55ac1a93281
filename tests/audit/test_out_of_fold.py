from dataclasses import replace

import numpy as np
import pytest
import torch

from fer_ignite.audit.out_of_fold import fold_of, out_of_fold
from fer_ignite.data.faces import faces_of_pack
from fer_ignite.data.packing import open_or_build
from fer_ignite.data.spec import PackSpec
from fer_ignite.data.stream import Targets
from fer_ignite.errors import ConfigError


def test_no_unit_is_torn_apart_and_every_class_is_in_its_proportion():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    units = np.arange(1000)
    units[rng.permutation(600)[:40]] = 5  # forty copies of one image
    folds = fold_of(labels, units, folds=5, seed=0)
    assert len({int(fold) for fold in folds[units == 5]}) == 1
    single = units != 5
    for label, count in ((0, 560), (1, 300), (2, 100)):
        sizes = np.bincount(folds[single & (labels == label)], minlength=5)
        assert sizes.min() >= count // 5 - 1 and sizes.max() <= count // 5 + 1
    assert (fold_of(labels, units, folds=5, seed=0) == folds).all()
    assert (fold_of(labels, units, folds=5, seed=1) != folds).any()


def test_more_folds_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"--folds 4: give 2 to 3"):
        fold_of(np.zeros(6, dtype=np.int64), np.array([0, 0, 1, 1, 2, 2]), folds=4, seed=0)


@pytest.mark.slow
def test_an_image_is_judged_by_a_network_that_never_saw_its_label():
    """Another label for one image changes what is said about the other fold, and not a bit of what is said about its own."""
    faces = faces_of_pack(open_or_build(PackSpec(data="demo:70")))
    labels = np.array(faces.targets.labels_N)
    folds = fold_of(labels, np.arange(70), folds=2, seed=0)
    settings = {"epochs": 1, "seed": 0, "device": torch.device("cpu"), "tta": "none"}
    before = out_of_fold(faces, folds, **settings)
    assert before.shape == (70, 7) and before.sum(axis=1) == pytest.approx(1, abs=1e-5)
    one = int(np.flatnonzero(folds == 0)[0])
    changed = labels.copy()
    changed[one] = (labels[one] + 1) % 7
    after = out_of_fold(replace(faces, targets=Targets(changed, 7)), folds, **settings)
    assert (after[folds == 0] == before[folds == 0]).all()
    assert (after[folds == 1] != before[folds == 1]).any()
