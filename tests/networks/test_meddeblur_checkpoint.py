"""Checkpoints of the authors' code of MedDeblur: random weights of their layout compute what that layout says."""

import pytest
import torch
import torch.nn.functional as F
from script_loading import load_script
from torch.testing import assert_close

from medrestore_monai.networks import MedDeblur
from medrestore_monai.networks.meddeblur_checkpoint import from_published


def published_weights(widths=(32, 64, 128), channels=3):
    """Random weights with the names and shapes of the authors' checkpoint."""
    shapes = {}

    def convolution(name, out, into, *kernel, bias=True):
        shapes[f"{name}.weight"] = (out, into, *kernel)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def refined(name, width):
        for block in range(3):
            for layer in range(3):
                place = f"{name}.resblock_stack.{block}.dense_layers.{layer}.conv"
                convolution(place, 8, width + 8 * layer, 3, 3, bias=False)
            convolution(f"{name}.resblock_stack.{block}.conv_1x1", width, width + 24, 1, 1, bias=False)
        place = f"{name}.sam.multikernelconv1"
        for part, kernel in (("square_conv", (9, 9)), ("ver_conv", (3, 1)), ("hor_conv", (1, 3))):
            convolution(f"{place}.{part}", width, width, *kernel)
        convolution(f"{place}.convCat", 1, 2, 9, 9)
        convolution(f"{place}.depth.fc.0", width // 16, width, bias=False)
        convolution(f"{place}.depth.fc.2", width, width // 16, bias=False)

    before = 2 * channels
    for name, width in zip(("inblock", "eblock1", "eblock2"), widths, strict=True):
        convolution(f"{name}.conv.0", width, before, 5, 5)
        refined(name, width)
        before = width
    convolution("convlstm.conv", 4 * widths[2], 2 * widths[2], 5, 5)
    for name, width, after in (("dblock1", widths[2], widths[1]), ("dblock2", widths[1], widths[0])):
        refined(name, width)
        shapes[f"{name}.deconv.0.weight"], shapes[f"{name}.deconv.0.bias"] = (width, after, 5, 5), (after,)
    refined("outblock", widths[0])
    convolution("outblock.conv.0", channels, widths[0], 5, 5)

    def drawn(shape):
        return 0.7 * torch.randn(shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5

    return {name: drawn(shape) for name, shape in shapes.items()}


def as_published(weights, image):
    """The network of these weights, written with functions alone, for sides that are multiples of 16."""

    def convolved(x, name, **options):
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), **options)

    def refined(x, name):
        for block in range(3):
            seen = x
            for layer in range(3):
                new = convolved(seen, f"{name}.resblock_stack.{block}.dense_layers.{layer}.conv", padding=1)
                seen = torch.cat([seen, new.relu()], dim=1)
            x = x + convolved(seen, f"{name}.resblock_stack.{block}.conv_1x1")
        place, gate = f"{name}.sam.multikernelconv1", 0
        for part, padding in (("ver_conv", (1, 0)), ("hor_conv", (0, 1))):
            y = convolved(x, f"{place}.{part}", padding=padding)
            gate = (
                gate + convolved(torch.stack([y.mean(1), y.max(1).values], 1), f"{place}.convCat", padding=4).sigmoid()
            )
        square = convolved(x, f"{place}.square_conv", padding=4)
        squeezed = F.linear(square.mean(dim=(2, 3)), weights[f"{place}.depth.fc.0.weight"]).relu()
        excited = F.linear(squeezed, weights[f"{place}.depth.fc.2.weight"]).sigmoid()[:, :, None, None]
        return F.leaky_relu(square * excited * gate, 0.2)

    def enlarged(x, name):
        weight, bias = weights[f"{name}.deconv.0.weight"], weights[f"{name}.deconv.0.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1).relu()

    def doubled(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    full = 2 * image - 1
    result = hidden = cell = None
    for scale in (4, 2, 1):
        size = [side // scale for side in full.shape[2:]]
        seen = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
        result = torch.zeros_like(seen) if result is None else doubled(result)
        first = refined(convolved(torch.cat([seen, result], 1), "inblock.conv.0", padding=2).relu(), "inblock")
        second = refined(convolved(first, "eblock1.conv.0", padding=2, stride=2).relu(), "eblock1")
        third = refined(convolved(second, "eblock2.conv.0", padding=2, stride=2).relu(), "eblock2")
        hidden = torch.zeros_like(third) if hidden is None else doubled(hidden)
        cell = torch.zeros_like(third) if cell is None else doubled(cell)
        enter, forget, leave, new = convolved(torch.cat([third, hidden], 1), "convlstm.conv", padding=2).chunk(4, 1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        x = enlarged(refined(hidden, "dblock1"), "dblock1")
        x = enlarged(refined(x + second, "dblock2"), "dblock2")
        result = convolved(refined(x + first, "outblock"), "outblock.conv.0", padding=2)
    return (result.tanh() + 1) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "channels"), [((16, 32, 48), 3), ((16, 16, 16), 1)])
def test_converted_weights_compute_what_their_layout_says(widths, channels):
    weights = {name: value.double() for name, value in published_weights(widths, channels).items()}
    network = MedDeblur(channels, channels, widths, attention="published", residual=False).double().eval()
    network.load_state_dict(from_published({"step": 3, "stateDictEG": weights, "schedulerLR": None}))
    image = torch.rand(2, channels, 32, 48).double()
    with torch.no_grad():
        expected = as_published(weights, image)
        assert expected.std() > 0.01
        assert_close(network(image), expected, rtol=0, atol=1e-10)


def test_other_names_are_refused():
    weights = published_weights((16, 16, 16))
    del weights["convlstm.conv.bias"]
    weights["discriminator.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"it lacks convlstm\.conv\.bias and has discriminator\.weight\."):
        from_published(weights)
    with pytest.raises(ValueError, match="this is no checkpoint of the authors' MedDeblur: it lacks"):
        from_published({})


@pytest.fixture
def script():
    return load_script("train/convert_meddeblur.py")


@pytest.mark.slow
def test_the_script_writes_weights_that_load(script, tmp_path):
    checkpoint = {"step": 1, "stateDictEG": published_weights(), "optimizerEG": {}, "schedulerLR": None}
    assert sum(weight.numel() for weight in checkpoint["stateDictEG"].values()) == 8_028_917
    torch.save(checkpoint, tmp_path / "theirs.pth")
    script.convert(tmp_path / "theirs.pth", tmp_path / "model.pt")
    network = MedDeblur(attention="published", residual=False)
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.save({"stateDictEG": published_weights((16, 16, 16))}, tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"small\.pth is no checkpoint of the authors' MedDeblur"):
        script.convert(tmp_path / "small.pth", tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()
