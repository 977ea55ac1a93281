import numpy as np
import pytest
from ignite.engine import Events

from fer_ignite.config import check, parse_image_sizes
from fer_ignite.data.image_size_schedule import ImageSizeSchedule
from fer_ignite.data.sampler import EpochSampler
from fer_ignite.errors import ConfigError
from fer_ignite.training.events import StepEvents


def sides(batch_size, *, accumulate=1):
    plan = EpochSampler(np.arange(100), np.zeros(100, np.int64), 0, batch_size, accumulate)
    schedule = ImageSizeSchedule(((32, 0.5), (40, 0.75), (48, 1.0)), epochs=4)
    micros = [plan.micro_batch(i) for i in range(4 * plan.iterations_per_epoch)]
    return [(m.epoch * 100 + m.step * batch_size, schedule.side_px(plan, m)) for m in micros]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(10, 1), (25, 1), (20, 4)])
def test_sides_follow_the_images_seen_whatever_the_batch_size(batch_size, accumulate):
    for seen, side in sides(batch_size, accumulate=accumulate):
        assert side == (32 if seen < 200 else 40 if seen < 300 else 48)


def test_parsing():
    assert parse_image_sizes("32:0.5,40:0.8,48") == ((32, 0.5), (40, 0.8), (48, 1.0))
    assert parse_image_sizes("48") == ((48, 1.0),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "32:0.5",
        "48:1.0,48",
        "40:0.8,32:0.5,48",
        "8:0.5,48",
        "a:0.5,48",
        "32:0.5:1,48",
        "32,48",
        "32:nan,48",
        "32:0.5,1025",
    ],
)
def test_other_texts_are_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match="image_size_schedule"):
        check({"image_size_schedule": text})


def test_what_contradicts_it_is_refused():
    with pytest.raises(ConfigError, match="ends at 40 px, image_size is 48"):
        check({"image_size_schedule": "32:0.5,40", "image_size": 48})
    with pytest.raises(ConfigError, match="collate_fn"):
        check({"image_size_schedule": "32:0.5,48", "collate_fn": "a:b"})


def test_a_run_s_batches_have_the_schedule_s_sides_and_val_the_network_s(tiny):
    from fer_ignite import build_session

    seen, scored = [], set()

    def watch(session):
        @session.trainer.on(StepEvents.LOSS_READY)
        def note(engine):
            seen.append(tuple(engine.state.batch.images_BCHW.shape[2:]))

        @session.evaluator.on(Events.ITERATION_STARTED)
        def see(engine):
            scored.add(tuple(engine.state.batch.images_BCHW.shape[2:]))

    with build_session(
        tiny(image_size_schedule="32:0.5,40:0.75,48", mixup=0.3, reprob=0.5), handlers=[watch]
    ) as session:
        session.run()
    assert seen == [(32, 32)] * 4 + [(40, 40)] * 2 + [(48, 48)] * 2
    assert scored == {(48, 48)}


def test_an_end_at_another_side_than_the_data_s_is_refused(tiny):
    from fer_ignite import train

    with pytest.raises(ConfigError, match="ends at 40 px, and the network takes 48 px"):
        train(tiny(image_size_schedule="32:0.5,40"))


def test_a_network_that_does_not_take_a_side_is_refused(tiny):
    from fer_ignite import train

    # five stages that halve the side leave nothing of 16 px for a 7 px pooling; emotionnet flattens a fixed map
    with pytest.raises(ConfigError, match="does not take images of 16 px"):
        train(tiny(model="alexnet", model_args={}, image_size_schedule="16:0.5,64", image_size=64))
