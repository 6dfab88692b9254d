import numpy as np
import pytest
import torch
from phantoms import body_phantom

from medrestore_monai.report.protocols import PROTOCOLS

CT, PICTURE = (-160.0, 240.0), (0.0, 255.0)


def slice_of_ct():
    clean = torch.from_numpy(body_phantom((40, 36)))[None]
    return clean + 20 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), clean


def test_windows():
    standard, public = PROTOCOLS["standard"], PROTOCOLS["restore-rwkv"]
    assert standard.window("CT", (-1024, 3072)) == public.window("CT", (-1024, 3072)) == CT
    assert standard.window("MR", (0, 812.5)) == (0, 812.5)
    assert public.window("MR", (0, 812.5)) == (0, 4095)
    assert PROTOCOLS["mlff"].window("RGB", PICTURE) == PICTURE


def test_ct_is_scored_inside_the_body_too():
    noisy, clean = slice_of_ct()
    noisy[:, :2] += 150  # far outside of the body
    result = PROTOCOLS["standard"].score(noisy, clean, "CT", CT)
    assert set(result) == {"whole slice", "body"}
    assert set(result["body"]) == {"psnr", "ssim", "rmse"}
    quiet = PROTOCOLS["standard"].score(torch.where(clean < -900, clean, noisy), clean, "CT", CT)
    assert result["body"]["rmse"] == pytest.approx(quiet["body"]["rmse"])
    assert set(PROTOCOLS["standard"].score(noisy, clean, "MR", CT)) == {"whole slice"}
    assert set(PROTOCOLS["standard"].score(noisy, clean * 0 - 1000, "CT", CT)) == {"whole slice"}


def test_color_pictures_have_a_color_difference():
    label = 255 * torch.rand(3, 14, 15)
    pred = label.clone()
    assert set(PROTOCOLS["standard"].score(pred * 0.9, label, "RGB", PICTURE)["whole slice"]) == {
        *("psnr", "ssim", "rmse", "delta_e")
    }
    gray = PROTOCOLS["meddeblur"].score(pred[:1] * 0.9, label[:1], "GRAY", PICTURE)["whole slice"]
    assert set(gray) == {"psnr", "ssim", "delta_e"}
    assert gray["delta_e"] > 0
    assert set(PROTOCOLS["aff"].score(pred, label, "RGB", PICTURE)["whole slice"]) == {"psnr", "ssim"}


def test_the_public_protocol_takes_the_range_of_the_reference():
    noisy, clean = slice_of_ct()
    clean = clean.clamp(-50, 150)
    mse = float(((noisy.clamp(*CT) - clean) ** 2).double().mean())
    scores = {
        name: PROTOCOLS[name].score(noisy, clean, "MR", CT)["whole slice"] for name in ("standard", "restore-rwkv")
    }
    assert scores["standard"]["psnr"] == pytest.approx(10 * np.log10(400**2 / mse), abs=1e-5)
    assert scores["restore-rwkv"]["psnr"] == pytest.approx(10 * np.log10(200**2 / mse), abs=1e-5)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_slices_without_contrast_are_left_out(name):
    assert PROTOCOLS[name].leaves_out(torch.full((1, 12, 12), -1000.0), CT)
    assert PROTOCOLS[name].leaves_out(torch.linspace(-1000, -200, 144).view(1, 12, 12), CT)
    assert not PROTOCOLS[name].leaves_out(slice_of_ct()[1], CT)
