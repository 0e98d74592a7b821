"""Prediction: whole or in tiles, at any size, and the same for turned images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cellseg import UNet
from cellseg.data.images import resize_image
from cellseg.run.folder import NetworkFacts
from cellseg.use import inference as module
from cellseg.use.inference import Predictor


def asks(step):
    return NetworkFacts(target="a.B", place=None, side_multiple=step, side_least=step, side_fixed=False, least_batch=1)


class Brightness(nn.Module):
    """Says of every pixel by itself how bright its red is: probability = red."""

    def forward(self, image):
        return torch.logit(image[:, :1].clamp(1e-6, 1 - 1e-6))


class Position(nn.Module):
    """Looks nowhere but at the pixel's place in what it is shown, so every seam would be seen."""

    def forward(self, image):
        rows = torch.linspace(-3, 3, image.shape[2])[:, None].expand(*image.shape[2:])
        return rows.expand(len(image), 1, *image.shape[2:])


class Blocks(nn.Module):
    """Says of every block of 8x8 pixels what the mean of its red is."""

    def forward(self, image):
        mean = nn.functional.avg_pool2d(image[:, :1], 8).clamp(1e-6, 1 - 1e-6)
        return torch.logit(nn.functional.interpolate(mean, scale_factor=8.0))


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def unet(seed=0, depth=2):
    torch.manual_seed(seed)
    return UNet(init_features=4, depth=depth)


SIZES = [(224, 224), (1, 1), (3, 700), (700, 3), (640, 513), (1025, 1023), (511, 512)]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_network_that_looks_at_one_pixel_only_give_back_every_pixel(size):
    image = picture(*size)
    probability = Predictor([Brightness()], 64, facts=asks(16), tiles=True).probability(image)
    assert probability.shape == size[::-1]
    assert np.allclose(probability, image[..., 0] / 255, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_network_of_one_size_sees_tiles_of_that_size(size):
    fixed = asks(48).model_copy(update={"side_fixed": True})
    image = picture(*size)
    probability = Predictor([Brightness()], 48, facts=fixed, tiles=True).probability(image)
    assert np.allclose(probability, image[..., 0] / 255, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", [False, True])
def test_every_pixel_has_a_probability_whatever_the_size(size, tiles):
    probability = Predictor([unet()], 32, facts=asks(4), tiles=tiles).probability(picture(*size))
    assert probability.shape == size[::-1]
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    assert probability.max() <= 1


def test_tiles_blend_without_seams():
    probability = Predictor([Position()], 64, facts=asks(1), tiles=True).probability(picture(1500, 1500))
    inside = sorted(np.abs(np.diff(probability, axis=0)).max(axis=1))
    assert inside[-1] < 0.02  # one tile's last row and the next one's first differ by 0.9


@pytest.mark.parametrize("size", [(1100, 700), (517, 1023), (30, 90)])
def test_tiles_of_a_network_that_pools_answer_as_it_does_on_the_whole_picture(size):
    """It answers otherwise when what it sees is shifted by less than its pooling, so tiles must keep to that grid."""
    image = picture(*size)
    width, height = size
    pixels = np.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="symmetric")
    whole = Blocks()(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 255).sigmoid()[0, 0, :height, :width]
    probability = Predictor([Blocks()], 64, facts=asks(8), tiles=True).probability(image)
    assert np.allclose(probability, whole.numpy(), atol=1e-5)


def test_a_picture_seen_whole_is_resized_as_in_training_and_back():
    image = picture(90, 50)
    network = unet().eval()
    small = torch.from_numpy(resize_image(image, 32))[None] / 255
    with torch.inference_mode():
        expected = nn.functional.interpolate(network(small).sigmoid(), (50, 90), mode="bilinear")[0, 0]
    probability = Predictor([network], 32, facts=asks(4)).probability(image)
    assert np.allclose(probability, expected.numpy(), atol=1e-5)


def test_bands_are_what_one_piece_would_be(monkeypatch):
    image = picture(300, 700)
    predictor = Predictor([unet()], 32, facts=asks(4))
    whole = predictor.probability(image)
    monkeypatch.setattr(module, "BAND", 37)
    assert np.allclose(predictor.probability(image), whole, atol=1e-6)


def test_pictures_together_are_seen_as_each_alone():
    images = [picture(40 + n, 60, n) for n in range(5)]
    predictor = Predictor([unet()], 32, facts=asks(4))
    together = [np.concatenate(list(bands)) for bands in predictor.bands(images)]
    for image, seen in zip(images, together, strict=True):
        assert np.allclose(seen, predictor.probability(image), atol=1e-6)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(
    "turn", [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.TRANSPOSE]
)
def test_averaged_over_flips_and_turns_a_turned_picture_gives_the_turned_answer(tiles, turn):
    image = picture(64, 64)
    predictor = Predictor([unet()], 32, facts=asks(4), tiles=tiles, turned=True)
    turned = Image.fromarray(image).transpose(turn)
    answer = Image.fromarray(predictor.probability(image)).transpose(turn)
    assert np.allclose(predictor.probability(np.asarray(turned)), np.asarray(answer), atol=1e-5)
    plain = Predictor([unet()], 32, facts=asks(4), tiles=tiles)
    assert not np.allclose(plain.probability(image), predictor.probability(image), atol=1e-5)


def test_several_networks_give_the_mean_of_their_probabilities_and_stay_as_they_are():
    networks, image = [unet(0).train(), unet(1)], picture(50, 40)
    alone = [Predictor([network], 32, facts=asks(4)).probability(image) for network in networks]
    together = Predictor(networks, 32, facts=asks(4)).probability(image)
    assert np.allclose(together, np.mean(alone, axis=0), atol=1e-6)
    assert networks[0].training
