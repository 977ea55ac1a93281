import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import CachedImages
from fer_ignite.data.fetchers import CacheFetcher, DataLoaderFetcher, IndexBatch
from fer_ignite.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset_cache():
    return open_cache(open_or_build(CacheSpec(data="demo:70"), progress=False))


def request(indices, step=0, positions=None):
    indices = np.array(indices, dtype=np.int64)
    return IndexBatch(
        indices, 0, step, np.arange(len(indices)) if positions is None else np.array(positions)
    )


def loader(fetch, **changes):
    return DataLoaderFetcher(
        fetch, **{"seed": 0, "device": CPU, "side_px": 8, "channels": 1, **changes}
    )


def image(value, size=(8, 8)):
    return Image.new("L", size, value)


def noisy(sample):
    """A transform that draws from all three global generators."""
    value = torch.rand(()).item() + random.random() + np.random.rand()
    return np.full((8, 8), int(value * 1e6) % 251, np.uint8)


def test_a_pack_gives_its_pixels_in_the_order_requested(dataset_cache):
    batches = list(
        CacheFetcher(dataset_cache, CPU).batches([request([3, 0, 3]), request([]), request([69])])
    )
    assert [tuple(batch.shape) for batch in batches] == [
        (3, 48, 48, 1),
        (0, 48, 48, 1),
        (1, 48, 48, 1),
    ]
    assert batches[0].dtype == torch.uint8
    assert np.array_equal(batches[0].numpy(), dataset_cache.read(np.array([3, 0, 3])))


def test_a_batch_is_a_copy_so_that_the_pack_stays_as_it_is(dataset_cache):
    before = dataset_cache.read(np.array([5])).copy()
    (batch,) = CacheFetcher(dataset_cache, CPU).batches([request([5])])
    batch.zero_()
    assert np.array_equal(dataset_cache.read(np.array([5])), before)


def test_a_pack_that_is_read_face_by_face_gives_the_same(dataset_cache):
    feed = CacheFetcher(dataset_cache, CPU)
    feed.resident = None
    (batch,) = feed.batches([request([2, 7])])
    assert np.array_equal(batch.numpy(), dataset_cache.read(np.array([2, 7])))


def test_samples_become_one_tensor_whatever_they_are():
    samples = [
        image(10),
        (image(10, (16, 16)), 3),
        [image(10), 3],
        np.full((8, 8), 10, np.uint8),
        np.full((8, 8, 1), 10, np.uint8),
        torch.full((1, 8, 8), 10, dtype=torch.uint8),
        torch.full((8, 8), 10, dtype=torch.uint8),
    ]
    (batch,) = loader(samples.__getitem__).batches([request(range(len(samples)))])
    assert batch.shape == (7, 8, 8, 1) and batch.dtype == torch.uint8
    assert (batch == 10).all()


@pytest.mark.parametrize(
    ("sample", "came"),
    [
        (np.full((8, 8), 9000, np.uint16), "uint16 [8, 8]"),
        (np.full((8, 8), 0.5, np.float32), "float32 [8, 8]"),
        (np.full((8, 8, 3), 0.5), "float64 [8, 8, 3]"),
        (torch.full((1, 8, 8), 10), "int64 [1, 8, 8]"),
        (np.full((3, 8, 8), 10, np.uint8), "uint8 [3, 8, 8]"),
        (Image.new("F", (8, 8), 0.5), "mode 'F'"),
        ("a.png", "is a str"),
    ],
)
def test_samples_whose_white_is_not_known_are_refused(sample, came):
    with pytest.raises(DataError, match="a sample's image") as caught:
        next(loader(lambda index: (sample, 0)).batches([request([0])]))
    assert came in str(caught.value) and "\n" not in str(caught.value)


def test_images_of_a_user_s_data_set_are_read_as_packed_ones_are():
    wide = Image.fromarray(np.full((8, 8), 257 * 10, np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # transparent, with black below
    turned = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif_of(turned, orientation=3))  # upside down
    opened = Image.open(file)
    righted = opened.transpose(Image.Transpose.ROTATE_180)  # by the user; the EXIF data stays
    assert righted.getexif()[0x0112] == 3
    samples = [wide, clear, opened, righted]
    (batch,) = loader(samples.__getitem__).batches([request(range(4))])
    assert (batch[0] == 10).all() and (batch[1] == 255).all()
    assert batch[2, :, :, 0].flatten().tolist() == list(range(63, -1, -1))
    assert torch.equal(batch[2], batch[3])


def exif_of(picture, *, orientation):
    exif = picture.getexif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize(("mode", "first_row"), [("squash", 255), ("crop", 0), ("letterbox", 255)])
def test_images_that_are_not_square_get_their_side_as_set(mode, first_row):
    band = np.zeros((12, 8), np.uint8)
    band[:2] = 255
    (batch,) = loader(lambda index: band, resize_mode=mode).batches([request([0])])
    assert int(batch[0, 0].max()) == first_row


def test_finished_tensors_are_taken_as_they_are():
    (batch,) = loader(lambda index: (torch.full((3, 5, 5), float(index)), 0)).batches(
        [request([4, 2])]
    )
    assert batch.shape == (2, 3, 5, 5)
    assert batch[:, 0, 0, 0].tolist() == [4, 2]


def test_finished_tensors_come_without_the_graph_that_made_them():
    weight = torch.ones(1, requires_grad=True)
    (batch,) = loader(lambda index: (torch.ones(3, 5, 5) * weight, 0)).batches([request([4, 2])])
    assert not batch.requires_grad


def test_colour_is_kept_where_the_data_has_it():
    (batch,) = loader(lambda index: Image.new("RGB", (8, 8), (1, 2, 3)), channels=3).batches(
        [request([0])]
    )
    assert batch[0, 0, 0].tolist() == [1, 2, 3]


def test_a_sample_s_random_numbers_follow_from_its_place_in_the_plan_alone():
    feed = loader(image, transform=noisy)
    whole = next(feed.batches([request([7, 8, 9], step=4)]))
    part = next(feed.batches([request([9], step=4, positions=[2])]))
    assert torch.equal(whole[2], part[0])
    other = next(feed.batches([request([9], step=5, positions=[2])]))
    assert not torch.equal(part, other)
    assert not torch.equal(
        whole, next(loader(image, transform=noisy, seed=1).batches([request([7, 8, 9], step=4)]))
    )


def broken(index):
    raise DataError(f"{index}: OSError: the disk said so.")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_ours_is_reported_by_its_whole_sentence(workers):
    with pytest.raises(DataError) as caught:
        next(loader(broken, workers=workers).batches([request([3])]))
    assert str(caught.value) == "3: OSError: the disk said so."


@pytest.mark.slow
def test_worker_processes_change_nothing():
    requests = [request(range(5), step=window) for window in range(4)]
    alone = list(loader(image, transform=noisy).batches(requests))
    together = list(loader(image, transform=noisy, workers=2).batches(requests))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    list(loader(image, transform=noisy).batches([request([1, 2]), request([3])]))
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected


def test_a_collate_function_of_the_user_s_makes_the_batch():
    def double(samples):
        return torch.stack(
            [torch.from_numpy(np.asarray(sample).copy())[..., None] for sample in samples]
        ) * 2, "labels"

    (batch,) = loader(image, collate_fn=double).batches([request([10, 20])])
    assert batch[:, 0, 0, 0].tolist() == [20, 40]


def test_packed_faces_can_be_had_as_images(dataset_cache):
    face = CachedImages(dataset_cache)(3)
    assert face.mode == "L" and face.size == (48, 48)
    assert np.array_equal(np.asarray(face), dataset_cache.read(np.array([3]))[0, :, :, 0])
