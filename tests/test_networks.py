import pytest
import torch

from cellseg import PotiNet, UNet, XopiNet
from cellseg.networks import InstanceNorm
from cellseg.networks import UNet as ParametricUNet
from cellseg.storage.errors import InputError

PUBLISHED = {UNet: 7_763_041, PotiNet: 6_979_681, XopiNet: 31_100_513}


@pytest.mark.parametrize(("network", "parameters"), PUBLISHED.items())
def test_parameters_are_as_many_as_published(network, parameters):
    assert sum(parameter.numel() for parameter in network().parameters()) == parameters


def published_names(depth: int) -> list[str]:
    """The names of the published weights in their order, written out from SEED's description, not from our code."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    def block(module: str, short: str) -> list[str]:
        return [
            name
            for n in (1, 2)
            for name in [f"{module}.{short}conv{n}.weight", *(f"{module}.{short}norm{n}.{part}" for part in norm)]
        ]

    names = [name for n in range(1, depth + 1) for name in block(f"encoder{n}", f"enc{n}")]
    names += block("bottleneck", "bottleneck")
    for n in range(depth, 0, -1):
        names += [f"upconv{n}.weight", f"upconv{n}.bias", *block(f"decoder{n}", f"dec{n}")]
    return [*names, "conv.weight", "conv.bias"]


@pytest.mark.parametrize(("network", "depth"), [(UNet, 4), (PotiNet, 4), (XopiNet, 5)])
def test_state_dict_names_and_order_are_the_published_ones(network, depth):
    assert list(network(init_features=1).state_dict()) == published_names(depth)


@pytest.mark.parametrize("network", PUBLISHED)
def test_published_shapes_follow_from_32_features(network):
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    into_decoder = 32 if network is PotiNet else 64
    assert shapes["encoder1.enc1conv1.weight"] == (32, 3, 3, 3)
    deepest = 1024 if network is XopiNet else 512
    assert shapes["bottleneck.bottleneckconv2.weight"] == (deepest, deepest, 3, 3)
    assert shapes["upconv1.weight"] == (64, 32, 2, 2)
    assert shapes["decoder1.dec1conv1.weight"] == (32, into_decoder, 3, 3)
    assert shapes["conv.weight"] == (1, 32, 1, 1)


def test_weights_saved_as_a_plain_state_dict_load_strictly(tmp_path):
    torch.manual_seed(0)
    saved = PotiNet(init_features=2)
    torch.save(saved.state_dict(), tmp_path / "file.pth")
    loaded = PotiNet(init_features=2)
    loaded.load_state_dict(torch.load(tmp_path / "file.pth", weights_only=True))
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(saved.eval()(image), loaded.eval()(image))


def test_weights_of_another_network_are_refused():
    with pytest.raises(RuntimeError, match="dec1conv1"):
        UNet(init_features=2).load_state_dict(PotiNet(init_features=2).state_dict())


def test_output_has_the_size_of_the_image_and_is_not_a_probability():
    torch.manual_seed(0)
    logits = UNet(init_features=2)(torch.rand(2, 3, 32, 48))
    assert logits.shape == (2, 1, 32, 48)
    assert logits.min() < 0 or logits.max() > 1


@pytest.mark.parametrize(("network", "step"), [(UNet, 16), (PotiNet, 16), (XopiNet, 32)])
def test_bad_size_names_the_required_multiple_and_the_next_size(network, step):
    with pytest.raises(InputError, match=rf"multiples of {step}.*100x96.*to {-(-100 // step) * step}x96"):
        network(init_features=1)(torch.rand(1, 3, 100, 96))


def test_without_skip_the_decoder_ignores_the_encoder():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    for network, sees_it in ((UNet(init_features=2).eval(), True), (PotiNet(init_features=2).eval(), False)):
        before = network(image)
        bottleneck = network.bottleneck.register_forward_hook(lambda *_: torch.zeros(1, 32, 2, 2))  # hide the deep path
        hidden, changed = network(image), network(image.flip(-1))
        bottleneck.remove()
        assert before.shape == hidden.shape
        assert (not torch.equal(hidden, changed)) == sees_it


def test_each_level_has_its_own_skip_connection():
    torch.manual_seed(0)
    image, skips = torch.rand(1, 3, 16, 16), [True, False, "zero"]
    network = ParametricUNet(init_features=2, depth=3, skip=skips).eval()
    assert network.name == "UNet(depth=3, skip=[True, False, 'zero'])"
    seen = {}
    for level in (1, 2, 3):
        network.get_submodule(f"decoder{level}").register_forward_pre_hook(
            lambda _, given, level=level: seen.update({level: given[0]})
        )
    network(image)
    assert [seen[level].shape[1] for level in (1, 2, 3)] == [4, 4, 16]  # 2, 4 and 8 features, twice with a connection
    assert seen[1][:, 2:].any()
    assert not seen[3][:, 8:].any()

    def parameters(skip):
        return sum(weight.numel() for weight in ParametricUNet(init_features=2, depth=3, skip=skip).parameters())

    assert parameters(True) == parameters("zero") == parameters(["zero", True, True]) > parameters([False, True, True])
    same = ParametricUNet(init_features=2, depth=3)
    twice = ParametricUNet(init_features=2, depth=3, skip=[True, True, True])
    twice.load_state_dict(same.state_dict())
    assert torch.equal(same.eval()(image), twice.eval()(image))


@pytest.mark.parametrize("skip", [[True], [True, True, 1, False], "none", None, [True, "zeros", True, True], 1])
def test_a_skip_that_does_not_fit_the_levels_is_refused(skip):
    with pytest.raises(InputError, match=r"model\.skip must be true, false or zero, or a list of 4"):
        ParametricUNet(skip=skip)


def test_one_image_too_small_for_batch_norm_is_refused_in_training_only():
    network = XopiNet(init_features=1)
    with pytest.raises(InputError, match="train on images of 64x64 or more"):
        network(torch.rand(1, 3, 32, 32))
    assert network.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
@pytest.mark.parametrize("features", [1, 4, 28])
def test_only_batch_norm_mixes_the_images_of_a_batch(norm, features):
    torch.manual_seed(0)
    network, images = ParametricUNet(init_features=features, depth=2, norm=norm), torch.rand(2, 3, 16, 16)
    together, alone = network(images), torch.cat([network(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5) == (norm != "batch")
    names = {name.removesuffix(".weight") for name, _ in network.named_parameters() if "norm" in name}
    assert "encoder1.enc1norm1" in names  # as published


def test_an_unknown_norm_is_refused_and_instance_norm_needs_more_than_one_pixel():
    with pytest.raises(InputError, match=r"model\.norm must be batch, group or instance, but is layer"):
        ParametricUNet(norm="layer")
    network = ParametricUNet(init_features=1, depth=2, norm="instance")
    with pytest.raises(InputError, match="instance norm needs several values per channel"):
        network(torch.rand(2, 3, 4, 4))
    assert ParametricUNet(init_features=1, depth=2, norm="group")(torch.rand(1, 3, 4, 4)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("setting", ["in_channels", "out_channels", "init_features", "depth"])
def test_sizes_below_one_are_refused_by_name(setting):
    with pytest.raises(InputError, match=rf"model\.{setting} must be at least 1, but is 0"):
        ParametricUNet(**{setting: 0})
    with pytest.raises(InputError, match=rf"model\.{setting} must be a whole number, but is '3'"):
        ParametricUNet(**{setting: "3"})


def test_the_three_settings_know_their_names():
    networks = (UNet, PotiNet, XopiNet)
    assert [network(init_features=1).name for network in networks] == ["UNet", "PotiNet", "XopiNet"]
    assert ParametricUNet(init_features=1, depth=2, skip=False).name == "UNet(depth=2, skip=False)"


def test_instance_norm_is_that_of_torch():
    features = torch.rand(3, 4, 5, 6, requires_grad=True)
    own, other = InstanceNorm(4, affine=True), torch.nn.InstanceNorm2d(4, affine=True)
    with torch.no_grad():
        for norm in (own, other):
            norm.weight.copy_(torch.arange(4.0))
            norm.bias.copy_(torch.arange(4.0) - 1)
    grads = [torch.autograd.grad((norm(features) ** 3).sum(), features)[0] for norm in (own, other)]
    assert torch.allclose(own(features), other(features), atol=1e-6)
    assert torch.allclose(*grads, atol=1e-5)
    assert own.state_dict().keys() == other.state_dict().keys()
