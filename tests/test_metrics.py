import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import PSNRMetric, RMSEMetric
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from medrestore_monai.metrics import SliceWiseMetric, slice_scores

WINDOW = (-160.0, 240.0)


def noisy_hu(size=(40, 33, 4), sigma=30.0, seed=0):
    """A smooth picture with air, water and bone, and the same with noise, shape (1, 1, X, Y, Z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(0, 3, n) for n in size), indexing="ij")
    clean = 300 * np.sin(2 * x + z) * np.cos(3 * y) + 50
    clean[x < 0.5] = -1000
    noisy = clean + rng.normal(0, sigma, size)
    return (torch.tensor(a, dtype=torch.float32)[None, None] for a in (noisy, clean))


@pytest.mark.parametrize("size", [(40, 33, 4), (11, 11, 1), (64, 64, 2)])
@pytest.mark.parametrize("sigma", [1.0, 30.0, 300.0])
def test_scores_are_those_of_scikit_image_per_slice(size, sigma):
    noisy, clean = noisy_hu(size, sigma)
    scores = slice_scores(noisy, clean, WINDOW)
    for z in range(size[2]):
        a, b = (np.clip(v[0, 0, ..., z].numpy().astype(np.float64), *WINDOW) for v in (noisy, clean))
        mse = ((a - b) ** 2).mean()
        ssim = structural_similarity(
            a, b, data_range=400, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        expected = {"psnr": 10 * np.log10(400**2 / mse), "ssim": ssim, "rmse": mse**0.5}
        for name, value in expected.items():
            assert float(scores[name][z]) == pytest.approx(value, abs=1e-4), name


def test_values_outside_the_window_do_not_count():
    clean = torch.zeros(1, 1, 16, 16)
    clean[..., :4] = 3000
    other = clean.clone()
    other[..., :4] = 500
    scores = slice_scores(other, clean, WINDOW)
    assert torch.isinf(scores["psnr"]).all()
    assert_close(scores["ssim"], torch.ones(1))
    assert_close(scores["rmse"], torch.zeros(1))


def test_mean_is_over_slices_or_over_volumes():
    label = torch.zeros(1, 1, 12, 12, 3)
    pred = label + torch.tensor([1.0, 2.0, 6.0])
    single = torch.full((1, 1, 12, 12, 1), 7.0)
    results = {}
    for per_volume in (False, True):
        metric = SliceWiseMetric(RMSEMetric(), WINDOW, per_volume=per_volume)
        metric(pred, label)
        metric(single, single * 0)
        results[per_volume] = float(metric.aggregate())
        assert len(metric.get_buffer()) == (2 if per_volume else 4)
    assert results[False] == pytest.approx((1 + 2 + 6 + 7) / 4)
    assert results[True] == pytest.approx((3 + 7) / 2)


def test_works_on_decollated_lists_of_meta_tensors():
    noisy, clean = noisy_hu()
    metric = SliceWiseMetric(PSNRMetric(max_val=400), WINDOW)
    metric([MetaTensor(noisy[0])] * 2, [MetaTensor(clean[0])] * 2)
    assert float(metric.aggregate()) == pytest.approx(float(slice_scores(noisy, clean, WINDOW)["psnr"].mean()))


def test_handler_from_a_config():
    config = {
        "psnr": {
            "_target_": "IgniteMetricHandler",
            "metric_fn": {
                "_target_": "medrestore_monai.metrics.SliceWiseMetric",
                "metric": {"_target_": "PSNRMetric", "max_val": 400},
                "window": [-160, 240],
            },
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            "save_details": False,
        }
    }
    noisy, clean = noisy_hu()
    handler = ConfigParser(config).get_parsed_content("psnr")
    engine = Engine(lambda engine, batch: [{"pred": noisy[0], "label": clean[0]}])
    handler.attach(engine, "psnr")
    engine.run([0, 1])
    assert engine.state.metrics["psnr"] == pytest.approx(float(slice_scores(noisy, clean, WINDOW)["psnr"].mean()))


def test_bad_input_is_refused():
    good = torch.zeros(1, 1, 12, 12)
    with pytest.raises(ValueError, match="window must be"):
        SliceWiseMetric(RMSEMetric(), (1, 1))
    with pytest.raises(ValueError, match="prediction to score has NaN"):
        slice_scores(good * torch.nan, good, WINDOW)
    with pytest.raises(ValueError, match="shapes dont match"):
        slice_scores(good[..., :11], good, WINDOW)
    with pytest.raises(ValueError, match="at least 11x11"):
        slice_scores(good[..., :5], good[..., :5], WINDOW)
    with pytest.raises(ValueError, match="Expected images"):
        SliceWiseMetric(RMSEMetric())(torch.zeros(1, 5, 5), torch.zeros(1, 5, 5))


def test_real_pairs_score_as_in_scikit_image(shared_data):
    pydicom = pytest.importorskip("pydicom")
    for full in sorted((shared_data / "ct_lowdose_pairs").glob("*/full_*/*.IMA"))[::8]:
        images = []
        for path in (str(full).replace("full_", "quarter_"), full):
            data = pydicom.dcmread(path)
            images.append(data.pixel_array.astype(np.float32) * float(data.RescaleSlope) + float(data.RescaleIntercept))
        values = slice_scores(*(torch.from_numpy(image)[None, None] for image in images), WINDOW)
        a, b = (np.clip(image, *WINDOW) for image in images)
        ssim = structural_similarity(
            a, b, data_range=400, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(values["ssim"]) == pytest.approx(ssim, abs=1e-4)
        assert float(values["psnr"]) == pytest.approx(10 * np.log10(400**2 / ((a - b) ** 2).mean()), abs=1e-4)
