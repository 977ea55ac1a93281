"""Batches prepared one ahead: the same ones, in the same order, none too early."""

import contextlib

import pytest
import torch

from fer_ignite.data.prefetch import prefetch, prefetch_on_stream


def played(items):
    """What happens, in order, when items are requested one ahead and worked on."""
    seen = []

    def source():
        for item in items:
            seen.append(f"prepare {item}")
            yield item

    @contextlib.contextmanager
    def aside():
        seen.append("aside")
        yield
        seen.append("back")

    for item in prefetch(
        source(), aside, record_stream=lambda item: seen.append(f"hand over {item}")
    ):
        seen.append(f"step {item}")
    return seen


def test_the_next_batch_is_prepared_aside_before_the_step_of_the_one_at_hand():
    assert played("ab") == [
        "aside",
        "prepare a",
        "back",
        "hand over a",
        "aside",
        "prepare b",
        "back",
        "step a",
        "hand over b",
        "aside",
        "back",
        "step b",
    ]


def test_nothing_to_prepare_gives_nothing():
    assert played("") == ["aside", "back"]


def test_an_endless_source_is_never_more_than_one_ahead():
    fetched = []

    def endless():
        while True:
            fetched.append(len(fetched))
            yield fetched[-1]

    batches = prefetch(endless(), contextlib.nullcontext, record_stream=lambda item: None)
    for step in range(3):
        assert next(batches) == step
        assert len(fetched) == step + 2


def test_on_a_cpu_the_batches_are_left_as_they_are():
    batches = [1, 2, 3]
    assert prefetch_on_stream(batches, torch.device("cpu")) is batches


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_side_streams_batches_hold_what_they_should():
    class Box:
        def __init__(self, value):
            self.value = torch.full((1 << 20,), float(value), device="cuda") * 2

    def boxes():
        for value in range(20):
            yield Box(value)

    sums = [box.value.sum().item() for box in prefetch_on_stream(boxes(), torch.device("cuda"))]
    assert sums == [2.0 * value * (1 << 20) for value in range(20)]
