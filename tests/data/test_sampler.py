from itertools import chain

import numpy as np
import pytest

from fer_ignite.data.sampler import EpochSampler, ShardOrder, generator, rank_slice


def build_sampler(count, **changes):
    settings = {"seed": 3, "batch_size": 32, **changes}
    return EpochSampler(np.arange(100, 100 + count), np.arange(count) % 3, **settings)


def test_random_numbers_are_a_function_of_seed_purpose_and_counters():
    assert generator(1, "order", 2).integers(2**60) == generator(1, "order", 2).integers(2**60)
    numbers = {
        generator(*key).integers(2**60)
        for key in [
            (1, "order", 2),
            (2, "order", 2),
            (1, "augment", 2),
            (1, "order", 3),
            (1, "order"),
            (1, "order", 2, 1),
        ]
    }
    assert len(numbers) == 6


@pytest.mark.parametrize("count", [0, 1, 2, 7, 9, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_slices_cover_everything_once_and_differ_by_one_at_most(count, world):
    slices = [rank_slice(count, rank, world=world) for rank in range(world)]
    assert list(chain(*(range(start, stop) for start, stop in slices))) == list(range(count))
    sizes = [stop - start for start, stop in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("count", "settings", "windows", "iterations", "faces"),
    [
        (201, {}, 7, 7, 201),  # 6 full windows and one of 9
        (201, {"drop_last": True}, 6, 6, 192),
        (20, {"drop_last": True}, 1, 1, 20),  # nothing would be left
        (64, {}, 2, 2, 64),
        (201, {"grad_accum_steps": 4}, 7, 26, 201),  # micro-batches of 8: 6 x 4, then 8 + 1
        (200, {"grad_accum_steps": 4}, 7, 25, 200),  # then one of 8
        (201, {"batch_size": 512}, 1, 1, 201),
    ],
)
def test_an_epoch_is_cut_into_windows_and_micro_batches(
    count, settings, windows, iterations, faces
):
    plan = build_sampler(count, **settings)
    assert (plan.steps_per_epoch, plan.iterations_per_epoch, plan.faces_per_epoch) == (
        windows,
        iterations,
        faces,
    )
    parts = [plan.micro_batch(i) for i in range(iterations)]
    assert sum(part.stop - part.start for part in parts) == faces
    assert (
        sum(part.is_first_micro for part in parts)
        == sum(part.is_last_micro for part in parts)
        == windows
    )


@pytest.mark.parametrize("world", [1, 2, 3, 40])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_face_is_seen_once_in_an_epoch_by_any_number_of_processes(world, accumulate):
    plan = build_sampler(201, grad_accum_steps=accumulate)
    for epoch in range(2):
        seen = [
            part.indices_W[part.positions(rank, world)]
            for step in range(plan.iterations_per_epoch)
            for part in [plan.micro_batch(epoch * plan.iterations_per_epoch + step)]
            for rank in range(world)
        ]
        assert sorted(np.concatenate(seen)) == list(range(100, 301))


def test_windows_do_not_depend_on_accumulation_or_processes():
    plain, split = build_sampler(201), build_sampler(201, grad_accum_steps=4)
    for window in range(7):
        assert np.array_equal(
            plain.micro_batch(window).indices_W, split.micro_batch(window * 4).indices_W
        )


def test_the_order_is_another_one_in_each_epoch_and_for_each_seed():
    orders = [
        tuple(build_sampler(50, seed=seed).order(epoch)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(100, 150)) for order in orders)


def test_any_iteration_can_come_first():
    late = build_sampler(201).micro_batch(17)
    plan = build_sampler(201)
    for iteration in range(18):
        walked = plan.micro_batch(iteration)
    assert late.epoch == walked.epoch == 2 and late.step == 3
    assert np.array_equal(late.indices_W, walked.indices_W)


def test_the_balanced_sampler_shows_every_class_equally_often_and_repeats_none_early():
    labels = np.array([0] * 90 + [1] * 9 + [2] * 3)
    plan = EpochSampler(np.arange(102), labels, 0, 34, sampler="balanced")
    order = plan.order(0)
    assert np.bincount(labels[order]).tolist() == [34, 34, 34]
    counts = np.bincount(order, minlength=102)
    assert counts[labels == 0].max() == 1  # 34 of 90: none twice
    assert set(counts[labels == 1]) == {3, 4}  # 34 = 3 x 9 + 7
    assert set(counts[labels == 2]) == {11, 12}


def sharded(count=1000, shards=20, **changed):
    """Faces 100 to 100 + count in shards of unequal sizes."""
    by = {"window": 5, "streams": 1}
    by |= {name: changed.pop(name) for name in list(changed) if name in by}
    shards_N = np.sort(np.random.default_rng(0).integers(0, shards, count))
    return build_sampler(count, shard_order=ShardOrder(shards_N, **by), **changed)


def most_open(order, shards_N):
    """The largest number of shards that were begun and will be needed again."""
    seen = shards_N[order - 100]
    spans = [np.flatnonzero(seen == shard)[[0, -1]] for shard in np.unique(seen)]
    return max(sum(first <= at <= last for first, last in spans) for at in range(len(seen)))


@pytest.mark.parametrize("window", [1, 2, 5, 19, 20, 50])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_an_order_by_shards_has_every_face_once_and_keeps_few_shards_open(window, streams):
    plan = sharded(window=window, streams=streams)
    for epoch in (0, 1):
        order = plan.order(epoch)
        assert sorted(order.tolist()) == list(range(100, 1100))
        assert most_open(order, plan.shard_order.shards_N) <= plan.shard_order.most_open
    assert plan.order(0).tolist() != plan.order(1).tolist()
    assert plan.order(0).tolist() == sharded(window=window, streams=streams).order(0).tolist()


def test_an_order_by_shards_mixes_several_shards_into_every_batch_also_the_first_and_the_last():
    plan = sharded(count=2000, batch_size=64)
    found = [
        len(np.unique(plan.shard_order.shards_N[plan.micro_batch(i).indices_W - 100]))
        for i in range(plan.iterations_per_epoch)
    ]
    assert min(found) >= 2 and np.median(found) >= 5, found


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_a_process_reads_the_shards_of_its_own_streams_until_the_shortest_is_used_up(
    grad_accum_steps,
):
    plan = sharded(count=2000, streams=4, window=8, grad_accum_steps=grad_accum_steps)
    read = [set(), set()]
    rounds = 400 // plan.micro_size * 4  # of 500 faces a stream on average
    for iteration in range(rounds):
        micro = plan.micro_batch(iteration)
        for rank in (0, 1):
            faces = micro.indices_W[micro.positions(rank, 2)]
            read[rank] |= set(plan.shard_order.shards_N[faces - 100].tolist())
    assert not read[0] & read[1] and len(read[0]) >= 8 and len(read[1]) >= 8
