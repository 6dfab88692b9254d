"""The deblurring networks in inference, with channels last in memory, against the same with gradients."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks import AFFUNetRWKV, MedDeblur, MLFFUNet
from medrestore_monai.networks.residual import Pointwise

NETWORKS = {
    "aff": lambda: AFFUNetRWKV(channels=(8, 8, 16, 16)),
    "mlff": lambda: MLFFUNet(channels=(16, 16, 32, 32), growth=16),
    "mlff-plain": lambda: MLFFUNet(channels=(16, 16, 32, 32), growth=16, wavelets=False),
    "meddeblur": lambda: MedDeblur(channels=(16, 16, 16)),
    "meddeblur-published": lambda: MedDeblur(channels=(16, 16, 16), attention="published", residual=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_inference_equals_the_form_with_gradients(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if parameter.std() < 2e-3:  # the identity at the start would hide differences
            torch.nn.init.normal_(parameter, std=0.05)
    image = torch.rand(2, 3, 21, 40)
    expected = network(image)
    with torch.inference_mode():
        result = network(image)
    assert (expected - image).abs().max() > 1e-3
    assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_pointwise_convolution_keeps_the_layout(bias):
    convolution, x = Pointwise(5, 7, bias=bias), torch.randn(2, 5, 3, 4)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        result = convolution(x)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert_close(result, convolution(x))
