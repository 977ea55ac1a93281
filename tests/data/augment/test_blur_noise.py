import numpy as np
import torch
import torchvision.transforms.v2.functional as TF

from fer_ignite.data.augment.blur_noise import add_noise_, gaussian_blur
from fer_ignite.data.augment.params import AugmentSpec, sample_params
from fer_ignite.data.augment.pipeline import augment
from fer_ignite.data.drawn_faces import draw_faces


def images(count=6):
    pixels = torch.from_numpy(np.ascontiguousarray(draw_faces(count, seed=4)[0]))
    return pixels.permute(0, 3, 1, 2).float() / 255


def test_blur_is_torchvision_s_up_to_the_border():
    x = images()
    sigmas = torch.tensor([0.0, 0.3, 0.8, 1.0, 1.3, 1.5])
    found = gaussian_blur(x, sigmas, most_px=1.5)
    assert torch.equal(found[0], x[0])
    for image, sigma, blurred in list(zip(x, sigmas.tolist(), found, strict=True))[1:]:
        expected = TF.gaussian_blur(image, kernel_size=[11, 11], sigma=[sigma, sigma])
        torch.testing.assert_close(
            blurred[:, 6:-6, 6:-6], expected[:, 6:-6, 6:-6], atol=1e-5, rtol=0
        )
    flat = torch.full((1, 1, 20, 20), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([1.5]), most_px=1.5), flat)


def test_noise_has_its_strength_and_differs_by_place():
    gray = torch.full((3, 1, 48, 48), 0.5)
    sigma = torch.tensor([0.0, 0.05, 0.1])
    places = torch.tensor([[0.1, 0.2], [0.5, 0.9], [0.999, 0.0]])
    noisy = add_noise_(gray.clone(), sigma, places_B2=places)
    for image, wanted in zip(noisy, sigma, strict=True):
        assert abs(image.std().item() - wanted) < 0.005 and abs(image.mean().item() - 0.5) < 0.01
    same = add_noise_(gray[1:2].clone(), sigma[1:2], places_B2=places[1:2])
    assert torch.equal(same, noisy[1:2])
    other = add_noise_(gray[1:2].clone(), sigma[1:2], places_B2=places[2:3])
    assert not torch.allclose(other, noisy[1:2], atol=0.01)
    assert add_noise_(torch.ones(1, 3, 8, 8), sigma[2:], places_B2=places[:1]).max() <= 1


def test_about_half_of_the_images_have_each_and_the_other_draws_stay():
    plain = sample_params(AugmentSpec(hflip=0.5, mixup=0.3), np.random.default_rng(1), count=400)
    both = sample_params(
        AugmentSpec(hflip=0.5, mixup=0.3, blur=1.5, noise=0.1), np.random.default_rng(1), count=400
    )
    for name in ("hflip", "share", "partner", "angle_deg", "erase_x"):
        assert np.array_equal(getattr(plain, name), getattr(both, name))
    for values, most in ((both.blur, 1.5), (both.noise, 0.1)):
        assert 0.4 < (values > 0).mean() < 0.6 and 0.9 * most < values.max() <= most
    assert not plain.blur.any() and not plain.noise.any()


def test_an_image_s_result_does_not_depend_on_its_batch():
    pixels = torch.from_numpy(np.ascontiguousarray(draw_faces(8, seed=4)[0]))
    spec = AugmentSpec(rotate_deg=10, blur=1.5, noise=0.1, reprob=0.5)
    draws = sample_params(spec, np.random.default_rng(2), count=8)
    whole = augment(pixels, draws, spec=spec, out_px=40)
    assert whole.min() >= 0 and whole.max() <= 1
    for part in (slice(0, 3), slice(3, 8), slice(5, 6)):
        alone = augment(pixels[part], draws.take(part), spec=spec, out_px=40)
        assert torch.equal(alone, whole[part])
