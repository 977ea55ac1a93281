from itertools import islice

import numpy as np
import pytest
import torch

from fer_ignite.data.augment.pipeline import AugmentSpec
from fer_ignite.data.fetchers import IndexBatch
from fer_ignite.data.loader import EvalLoader, Preprocessing, Targets, TrainLoader
from fer_ignite.data.sampler import EpochSampler

CPU = torch.device("cpu")
COUNT = 23
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 1), dtype=np.uint8)
LABELS_N = np.arange(COUNT) % 3
PREPARATION = Preprocessing(16, 16, 1, (0.5,), (0.25,))
RICH = AugmentSpec(
    hflip=0.5, rotate_deg=15, translate=0.1, brightness=0.2, reprob=0.5, mixup=0.4, cutmix=0.0
)


class ArrayFeed:
    """Faces out of an array, in the requests' order; keeps what it was requested."""

    def __init__(self):
        self.requests: list[IndexBatch] = []

    def batches(self, requests):
        for request in requests:
            self.requests.append(request)
            yield torch.from_numpy(PIXELS_NHWC[request.indices_B])


def make_loader(*, rank=0, world=1, at=0, accumulate=1, **changes):
    plan = EpochSampler(np.arange(COUNT), LABELS_N, 5, 8, accumulate)
    targets = Targets(LABELS_N, 3)
    return TrainLoader(
        ArrayFeed(),
        plan,
        targets,
        PREPARATION,
        CPU,
        rank=rank,
        world=world,
        iteration=lambda: at,
        **changes,
    )


def take(made, count):
    return list(islice(made, count))


def test_faces_are_normalised_and_laid_out_for_the_network():
    (batch,) = take(make_loader(), 1)
    expected = (PIXELS_NHWC[batch.indices_B, :, :, 0] / 255 - 0.5) / 0.25
    assert batch.images_BCHW.shape == (8, 1, 16, 16) and batch.images_BCHW.dtype == torch.float32
    assert np.allclose(batch.images_BCHW[:, 0].numpy(), expected, atol=1e-5)
    assert batch.targets_BK.argmax(dim=1).tolist() == LABELS_N[batch.indices_B].tolist()
    assert (batch.count, batch.step_size, batch.is_first_micro, batch.is_last_micro) == (
        8,
        8,
        True,
        True,
    )


def test_the_last_batch_of_an_epoch_is_short_and_the_next_epoch_follows():
    batches = take(make_loader(), 6)
    assert len(make_loader()) == 3
    assert [batch.count for batch in batches] == [8, 8, 7] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(np.concatenate([batch.indices_B for batch in epoch])) == list(range(COUNT))


@pytest.mark.parametrize("spec", [None, RICH], ids=["plain", "augmented and mixed"])
def test_a_loader_that_begins_at_any_iteration_gives_the_same_batches(spec):
    walked = take(make_loader(spec=spec), 7)
    for at in (1, 3, 5):
        begun = take(make_loader(spec=spec, at=at), 7 - at)
        for a, b in zip(walked[at:], begun, strict=True):
            assert torch.equal(a.images_BCHW, b.images_BCHW) and torch.equal(
                a.targets_BK, b.targets_BK
            )


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_see_together_what_one_sees_alone_mix_up_partners_included(world, accumulate):
    alone = take(make_loader(spec=RICH, accumulate=accumulate), 7)
    ranks = [
        take(make_loader(spec=RICH, rank=rank, world=world, accumulate=accumulate), 7)
        for rank in range(world)
    ]
    for step, whole in enumerate(alone):
        parts = [ranks[rank][step] for rank in range(world)]
        images = torch.cat([part.images_BCHW[: part.count] for part in parts])
        targets = torch.cat([part.targets_BK[: part.count] for part in parts])
        assert torch.allclose(images, whole.images_BCHW, atol=1e-6)
        assert torch.equal(targets, whole.targets_BK)
        assert {part.step_size for part in parts} == {whole.step_size}


def test_an_empty_slice_carries_two_stand_ins_of_weight_zero():
    last = take(make_loader(rank=7, world=8), 3)[2]  # 7 faces for 8 processes
    assert last.count == 0 and len(last.indices_B) == 0
    assert len(last.images_BCHW) == 2 and last.weights_B.tolist() == [0, 0]


def test_augmentation_changes_from_epoch_to_epoch():
    batches = take(make_loader(spec=AugmentSpec(translate=0.2)), 6)
    first = {
        int(i): image
        for b in batches[:3]
        for i, image in zip(b.indices_B, b.images_BCHW, strict=True)
    }
    second = {
        int(i): image
        for b in batches[3:]
        for i, image in zip(b.indices_B, b.images_BCHW, strict=True)
    }
    assert sum(not torch.equal(first[i], second[i]) for i in range(COUNT)) > COUNT // 2


def test_a_batch_transform_of_the_user_s_gets_a_generator_that_follows_from_the_place():
    def noise(images_BCHW, draws):
        return images_BCHW + float(draws.random())

    once, again = (take(make_loader(batch_transform=noise), 4) for _ in range(2))
    plain = take(make_loader(), 4)
    shifts = [
        (a.images_BCHW - b.images_BCHW).mean().item() for a, b in zip(once, plain, strict=True)
    ]
    assert all(torch.equal(a.images_BCHW, b.images_BCHW) for a, b in zip(once, again, strict=True))
    assert len({round(shift, 5) for shift in shifts}) == 4


def test_votes_are_taken_as_distributions():
    soft = np.tile(np.array([[0.2, 0.3, 0.5]], dtype=np.float32), (COUNT, 1))
    targets = Targets(LABELS_N, 3, soft)
    assert np.allclose(targets.distributions(np.array([1, 2]), CPU), soft[:2])
    assert targets.labels(np.array([1, 2]), CPU).tolist() == [1, 2]


def evaluation(count=COUNT, rank=0, world=1, batch_size=4):
    return EvalLoader(
        ArrayFeed(),
        np.arange(count),
        Targets(LABELS_N, 3),
        PREPARATION,
        CPU,
        batch_size,
        rank,
        world,
    )


@pytest.mark.parametrize("world", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("count", [1, 4, 5, 23])
def test_every_face_is_scored_once_and_all_processes_make_the_same_number_of_rounds(count, world):
    parts = [evaluation(count, rank, world) for rank in range(world)]
    rounds = [list(part) for part in parts]
    assert {len(batches) for batches in rounds} == {len(parts[0])}
    seen = torch.cat([batch.indices_B for batches in rounds for batch in batches])
    assert sorted(seen.tolist()) == list(range(count))
    assert all(
        batch.images_BCHW.shape[1:] == (1, 16, 16) for batches in rounds for batch in batches
    )


def test_evaluation_batches_do_not_depend_on_the_number_of_processes():
    alone = {tuple(batch.indices_B.tolist()) for batch in evaluation()}
    shared = {
        tuple(batch.indices_B.tolist())
        for rank in range(3)
        for batch in evaluation(rank=rank, world=3)
    }
    assert shared - {()} == alone


def test_a_preparation_crops_from_the_resized_face_and_leaves_finished_tensors_alone():
    preprocessing = Preprocessing(12, 16, 1, (0.0,), (1.0,))
    images = torch.from_numpy(PIXELS_NHWC[:2])
    prepared = preprocessing.plain(images)
    assert prepared.shape == (2, 1, 12, 12)
    assert torch.allclose(prepared[:, 0], images[:, 2:14, 2:14, 0].float() / 255, atol=1e-6)
    done = torch.rand(2, 1, 5, 5)
    assert preprocessing.plain(done) is done


def test_a_face_s_label_is_the_data_s_and_a_mixed_one_s_that_of_its_larger_part():
    (plain,) = take(make_loader(), 1)
    assert (
        plain.labels_B.dtype == torch.int64
        and plain.labels_B.tolist() == LABELS_N[plain.indices_B].tolist()
    )
    mixed = [
        batch
        for spec in (RICH, AugmentSpec(cutmix=1.0))
        for batch in take(make_loader(spec=spec), 6)
    ]
    foreign = 0
    for batch in mixed:
        assert torch.equal(batch.targets_BK.argmax(dim=1), batch.labels_B)
        foreign += int((batch.labels_B.numpy() != LABELS_N[batch.indices_B]).sum())
    assert foreign > 0  # some partners are the larger part


def test_labels_do_not_follow_soft_targets_that_say_otherwise():
    made = make_loader()
    made.targets = Targets(
        LABELS_N, 3, np.tile(np.array([0.2, 0.2, 0.6], dtype=np.float32), (COUNT, 1))
    )
    (batch,) = take(made, 1)
    assert batch.labels_B.tolist() == LABELS_N[
        batch.indices_B
    ].tolist() and batch.targets_BK.argmax(1).unique().tolist() == [2]
