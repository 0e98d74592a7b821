"""Trying a network before training: which image sides it accepts, its minimum batch, and its output.

The loss and the added scores are tried too, so that faults are reported before training.
"""

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from cellseg.metrics import AddedScores
from cellseg.run.folder import NetworkFacts
from cellseg.storage.errors import InputError

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 3, 6, 12, 24, 48, 96, 7, 14, 28, 56)  # in this order
MOST_TRIED = 64  # of the divisors of image_size
TRIED_SIDE = 64  # minimum, pixels: many networks fail on smaller images for other reasons


def probe(network: nn.Module, channels: int, image_size: int, origin: tuple[str, str | None]) -> NetworkFacts:
    """Try a network on images of several sizes, without changing its state or the random numbers.

    Args:
        network: From images (N, C, H, W) in [0, 1] to logits (N, 1, H, W).
        channels: Of the images.
        image_size: Side of the training images in pixels.
        origin: The name of its class, and the folder from which it was imported.

    Raises:
        InputError: If it fails on images of ``image_size``, or does not return one logit per pixel.
    """
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = network.training
        network.eval()
        try:
            problem = _problem(network, channels, image_size, image_size, device)
            if problem:
                raise InputError(f"model: {problem}")
            multiple = _multiple(network, channels, image_size, device)
            least = _least(network, channels, multiple, image_size, device) if multiple else image_size
        finally:
            network.train(training)
        alone = _trains_alone(network, channels, image_size, device)
    name, place = origin
    return NetworkFacts(
        target=name,
        place=place,
        side_multiple=multiple or image_size,
        side_least=least,
        side_fixed=multiple is None,
        least_batch=1 if alone else 2,
    )


def _problem(network: nn.Module, channels: int, height: int, width: int, device: torch.device) -> str | None:
    """Return why a network cannot be used on images of a size; None if it can."""
    images = torch.rand(2, channels, height, width, device=device)
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:  # a network may raise anything
        if isinstance(error, InputError):
            return str(error)
        said = " ".join(str(error).split())[:200]
        return f"the network fails on images {tuple(images.shape)}: {said or type(error).__name__}"
    wanted = (2, 1, height, width)
    if not isinstance(logits, torch.Tensor):
        return (
            f"the network returns a {type(logits).__name__}, where one tensor of logits {wanted} is needed; "
            "wrap it in a class whose forward returns that tensor"
        )
    if tuple(logits.shape) != wanted:
        classes = logits.ndim == 4 and logits.shape[1] > 1 and logits.shape[2:] == images.shape[2:]
        remedy = (
            "; for masks of one class set model.out_channels=1, or the network's own name for it" if classes else ""
        )
        return (
            f"the network returns {tuple(logits.shape)} for images {tuple(images.shape)}, "
            f"where one logit per pixel is needed, {wanted}{remedy}"
        )
    return None


def _multiple(network: nn.Module, channels: int, image_size: int, device: torch.device) -> int | None:
    """Return the number of which sides must be a multiple; None if only ``image_size`` works."""
    divisors = [number for number in range(5, MOST_TRIED + 1) if image_size % number == 0 and number not in MULTIPLES]
    for multiple in (*MULTIPLES, *divisors):
        times = -(-TRIED_SIDE // multiple)
        times += 1 - times % 2  # odd: not a multiple of twice the number
        if _problem(network, channels, multiple * times, multiple * (times + 2), device) is None:
            return multiple
    return None


def _least(network: nn.Module, channels: int, multiple: int, image_size: int, device: torch.device) -> int:
    """Return the smallest side that works: the multiple times a power of two."""
    for side in _doublings(multiple, image_size):
        if _problem(network, channels, side, side, device) is None:
            return side
    return image_size


def _doublings(start: int, end: int) -> Iterator[int]:
    while start < end:
        yield start
        start *= 2


def _trains_alone(network: nn.Module, channels: int, image_size: int, device: torch.device) -> bool:
    """Tell whether a network can be trained on single images; batch norm may need more values."""
    try:
        trial = copy.deepcopy(network).train()
        with torch.no_grad():
            trial(torch.rand(1, channels, image_size, image_size, device=device))
    except Exception:  # may raise anything
        return False
    return True


def try_gradient(network: nn.Module, channels: int, side: int) -> None:
    """Try whether the network can learn, without changing its state or the random numbers.

    Args:
        network: As in ``probe``.
        channels: Of the images.
        side: Of an image that it accepts, in pixels.

    Raises:
        InputError: If its output depends on no weight that can change.
    """
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    training = network.training
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            images = torch.rand(2, channels, side, side, device=device)
            # some compute gradients only in training, in which batch norm may change, so a copy is tried
            learns = network(images).requires_grad or copy.deepcopy(network).train()(images).requires_grad
    finally:
        network.train(training)
    if not learns:
        raise InputError(
            "model: the output depends on no weight that can change, so the network cannot learn; "
            "look for detach(), no_grad() or frozen weights in its forward"
        )


def try_loss(loss: nn.Module, image_size: int) -> None:
    """Try a loss on one image, without changing its state or the random numbers.

    Raises:
        InputError: If it fails, or does not return one number that depends on the logits.
    """
    logits, target = _trial(image_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            value = copy.deepcopy(loss)(logits.requires_grad_(), target)
        except Exception as error:  # a loss may raise anything
            said = " ".join(str(error).split())[:200] or type(error).__name__
            shape = tuple(logits.shape)
            raise InputError(f"loss fails on logits and a 0/1 mask of shape {shape}: {said}") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"loss returns {what}, where one number is needed, such as the mean over pixels")
    if not value.isfinite():
        raise InputError(f"loss returns {value.item()} on a simple image; check its arguments")
    if not value.requires_grad or not _has_gradient(value, logits):
        raise InputError("loss returns a number that does not depend on the logits, so the network cannot learn")


def _has_gradient(value: torch.Tensor, logits: torch.Tensor) -> bool:
    with torch.enable_grad():
        [gradient] = torch.autograd.grad(value.sum(), logits, allow_unused=True)
    return gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())


def try_scores(scores: AddedScores, image_size: int) -> None:
    """Try the added scores on one image.

    Raises:
        InputError: If one fails, or does not return one number.
    """
    logits, target = _trial(image_size)
    with torch.random.fork_rng(devices=[]):
        scores(logits.sigmoid(), target)


def _trial(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and a mask, both (1, 1, S, S), of one square cell that is found in part."""
    target, logits = torch.zeros(1, 1, size, size), torch.full((1, 1, size, size), -1.0)
    target[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    logits[..., size // 2 :, size // 4 : 3 * size // 4] = 1
    return logits, target
