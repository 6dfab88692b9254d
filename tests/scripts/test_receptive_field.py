"""Effective receptive fields: by hand, by finite differences, and the figure of the script."""

import numpy as np
import pytest
import torch
from PIL import Image
from script_loading import load_script

from medrestore_monai.networks import RestoreRWKV


@pytest.fixture(scope="module")
def script():
    return load_script("experiments/receptive_field.py")


class Sharpened(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = torch.nn.Conv2d(1, 1, (3, 5), padding=(1, 2), bias=False)

    def forward(self, x):
        return x + self.filter(x)


def test_the_field_of_a_convolution_is_its_kernel(script):
    network = Sharpened()
    field = script.effective_receptive_field(network, torch.rand(3, 1, 9, 12))
    expected = np.zeros((9, 12))
    expected[3:6, 4:9] = network.filter.weight.detach().abs().numpy()[0, 0]
    np.testing.assert_allclose(field, expected, atol=1e-6)


@pytest.mark.slow
def test_the_field_is_that_of_finite_differences(script):
    network = RestoreRWKV(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).double().eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    image = torch.rand(1, 1, 8, 10, dtype=torch.float64)
    field = script.effective_receptive_field(network, image)

    def middle(picture):
        with torch.no_grad():
            return float((network(picture) - picture)[0, 0, 4, 5])

    for row, column in ((4, 5), (0, 0), (7, 9), (2, 6)):
        step = torch.zeros_like(image)
        step[0, 0, row, column] = 1e-4
        slope = (middle(image + step) - middle(image - step)) / 2e-4
        assert field[row, column] == pytest.approx(abs(slope), rel=1e-3, abs=1e-9)


def test_areas_by_hand(script):
    field = np.zeros((9, 9))
    field[4, 4], field[4, 6] = 3, 1
    assert script.area_of(field, 0.5) == 1 / 81
    assert script.area_of(field, 0.99) == 25 / 81
    assert script.area_of(np.ones((9, 9)), 1) == 1


@pytest.mark.slow
def test_the_figure_and_its_table(script, tmp_path, capsys):
    script.main(["-o", str(tmp_path / "field.png"), "--only", "shipped", "sum/omni", "--size", "16", "--images", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| shipped", "| sum/omni"]
    assert Image.open(tmp_path / "field.png").size[0] > 600
    with pytest.raises(SystemExit):
        script.main(["-o", str(tmp_path / "b.png"), "--weights", "re-wkv/uni=model.pt"])
