"""What every deblurring network promises: any size, refusals, gradients, fixed weights, bfloat16, ONNX."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks import AFFUNetRWKV, DeblurGANGenerator, MedDeblur, MLFFUNet, SRNDeblur
from medrestore_monai.networks.rd_sam import SpatialAsymmetricAttention
from medrestore_monai.networks.residual import ResidualNetwork, crop, pad_to_multiple

AFF = {"channels": (8, 8, 8, 16)}
MLFF = {"channels": (16, 16, 16, 16), "growth": 4}
SCALES = {"channels": (16, 16, 16)}
NETWORKS = {
    "aff": (AFFUNetRWKV, AFF),
    "aff-concatenation": (AFFUNetRWKV, {**AFF, "aff": False}),
    "aff-no-mixer": (AFFUNetRWKV, {**AFF, "mixer": False}),
    "mlff": (MLFFUNet, MLFF),
    "mlff-no-wavelets": (MLFFUNet, {**MLFF, "wavelets": False}),
    "mlff-no-dmrfab": (MLFFUNet, {**MLFF, "dmrfab": False}),
    "mlff-no-attention": (MLFFUNet, {**MLFF, "attention": False}),
    "mlff-no-fusion": (MLFFUNet, {**MLFF, "mlff": False}),
    "meddeblur": (MedDeblur, SCALES),
    "meddeblur-published-attention": (MedDeblur, {**SCALES, "attention": "published"}),
    "meddeblur-published": (MedDeblur, {**SCALES, "scales": 2, "attention": "published", "residual": False}),
    "meddeblur-one-scale": (MedDeblur, {**SCALES, "scales": 1}),
    "meddeblur-one-scale-plain": (MedDeblur, {**SCALES, "scales": 1, "rd_sam": False}),
    "meddeblur-two-scales": (MedDeblur, {**SCALES, "scales": 2}),
    "srn-deblur": (SRNDeblur, SCALES),
    "deblurgan": (DeblurGANGenerator, {"channels": 4, "blocks": 2}),
}
SIZES = [(1, 1), (1, 17), (5, 3), (16, 32), (13, 22), (33, 40)]


@pytest.fixture(params=NETWORKS)
def build(request):
    return lambda in_channels=1: make(request.param, in_channels)


def make(name, in_channels=1):
    torch.manual_seed(0)
    kind, options = NETWORKS[name]
    network = kind(in_channels=in_channels, out_channels=in_channels, **options)
    for module in network.modules():  # the identity at the start would hide differences
        if isinstance(module, torch.nn.Conv2d) and module.weight.std() < 2e-3:
            torch.nn.init.normal_(module.weight, std=0.1)
    return network


@pytest.mark.slow
def test_keeps_any_size_and_the_image(build):
    network = build().eval()
    with torch.no_grad():
        for size in SIZES:
            image = torch.rand(2, 1, *size)
            before = image.clone()
            assert network(image).shape == image.shape
            assert torch.equal(image, before)
            # a single pixel has nothing to sharpen: most networks see images without their mean
            assert size == (1, 1) or not torch.equal(network(image), image)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (28, 28)])
def test_trains_on_one_small_image(build, size):
    assert torch.isfinite(build().train()(torch.rand(1, 1, *size))).all()


def test_takes_colors_and_refuses_wrong_input(build):
    network = build(in_channels=3).eval()
    assert network(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)
    for wrong in (torch.rand(1, 1, 8, 8), torch.rand(3, 8, 8), torch.rand(0, 3, 8, 8), torch.rand(1, 3, 0, 8)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, 3, H, W\), got"):
            network(wrong)
    with pytest.raises(ValueError, match="out_channels equal to in_channels, got 3, 1"):
        type(network)(in_channels=1, out_channels=3)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        type(network)(in_channels=0, out_channels=0)


@pytest.mark.slow
def test_every_parameter_gets_a_finite_gradient(build):
    network = build()
    network(torch.rand(2, 1, 48, 33)).sin().square().mean().backward()
    attentions = [part for part in network.modules() if isinstance(part, SpatialAsymmetricAttention)]
    # the ReLU on the single channel that so few are squeezed to may be dead
    dead = {parameter for part in attentions for parameter in part.excite.parameters()}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0 or parameter in dead, name


@pytest.mark.slow
def test_eval_is_deterministic_and_changes_no_weight(build):
    network, image = build().eval(), torch.rand(2, 1, 33, 24)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = network(image)
    assert torch.equal(network(image), first)
    scale = max(1.0, float(first.detach().abs().max()))
    assert_close(network(image[:1]), first[:1], rtol=0, atol=1e-5 * scale)  # an image does not depend on its neighbors
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("deblurgan", "meddeblur-published")])
def test_starts_close_to_the_identity(name):
    kind, options = NETWORKS[name]
    image = torch.rand(1, 1, 32, 32)
    change = kind(in_channels=1, out_channels=1, **options).eval()(image) - image
    assert 0 < change.abs().mean() < 0.02


@pytest.mark.parametrize("name", ["aff", "mlff", "meddeblur", "srn-deblur"])
def test_brightness_stays_out_of_it(name):
    network, image = make(name, in_channels=2).eval(), torch.rand(1, 2, 21, 30)
    with torch.no_grad():
        change = network(image) - image
        for brightness in (torch.tensor([3.0, -0.5]).view(2, 1, 1), 0.25):
            shifted = image + brightness
            assert_close(network(shifted) - shifted, change, rtol=0, atol=1e-5 * max(1, float(change.abs().max())))
        assert (network(2 * image) - 2 * image - change).abs().max() > 0.01 * change.abs().max()


@pytest.mark.slow
def test_bfloat16_is_close(build):
    network, image = build().eval(), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        change = network(image) - image
        low = network.in_bfloat16()(image)
        assert low.dtype == torch.float32
        assert 0 < (low - image - change).abs().max() < 0.06 * change.abs().max()
        with torch.autocast("cpu", torch.bfloat16):
            assert (network(image) - image - change).abs().max() < 0.06 * change.abs().max()
        assert network.bfloat16()(image.bfloat16()).dtype == torch.bfloat16


def assert_onnxruntime_gives_the_same(path, network, sizes):
    from medrestore_monai.bundles.onnx import OnnxNetwork

    exported = OnnxNetwork(path)
    for size in sizes:
        image = torch.rand(size)
        with torch.no_grad():
            expected = network(image)
        assert_close(exported(image), expected, rtol=0, atol=1e-5 * max(1, float((expected - image).abs().max())))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aff", "mlff", "meddeblur-two-scales", "deblurgan"])
def test_one_onnx_file_takes_all_sizes(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    from medrestore_monai.bundles.onnx import export_onnx

    network = make(name).eval()
    network = network.merged() if hasattr(network, "merged") else network
    export_onnx(network, tmp_path / "model.onnx")
    sizes = [(2, 1, 16, 32), (1, 1, 41, 70), (3, 1, 3, 9), (1, 1, 1, 40)]
    if name != "deblurgan":  # instance normalization of a constant image enlarges rounding errors without limit
        sizes.append((1, 1, 1, 1))
    assert_onnxruntime_gives_the_same(tmp_path / "model.onnx", network, sizes)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "pred"]
    sides = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", 1, "height", "width"]


def test_pads_by_reflection_or_else_by_repeating():
    image = torch.arange(10.0).view(1, 1, 2, 5)
    padded = pad_to_multiple(image, 8)
    assert padded.shape == (1, 1, 8, 8)
    assert_close(padded[0, 0, 0], torch.tensor([0.0, 1, 2, 3, 4, 3, 2, 1]))  # reflected
    assert_close(padded[0, 0, :, 0], torch.tensor([0.0, 5, 5, 5, 5, 5, 5, 5]))  # two rows are too few to reflect
    assert torch.equal(crop(padded, 2, 5), image)
    for size in ((9, 30), (16, 5)):
        image = torch.rand(1, 2, *size)
        bottom, right = -size[0] % 8, -size[1] % 8
        expected = torch.nn.functional.pad(image, (0, right, 0, bottom), mode="reflect")
        assert torch.equal(pad_to_multiple(image, 8), expected)


def test_the_shared_class_asks_for_a_change():
    with pytest.raises(NotImplementedError):
        ResidualNetwork(1, 2).change(torch.rand(1, 1, 2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_equals_cpu(name):
    network, image = make(name).eval(), torch.rand(1, 1, 40, 49)
    with torch.no_grad():
        expected = network(image)
        assert_close(network.cuda()(image.cuda()).cpu(), expected, rtol=1e-3, atol=1e-4)
