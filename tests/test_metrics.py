import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import PSNRMetric, RMSEMetric
from monai.metrics.regression import compute_ssim_and_cs
from phantoms import body_phantom
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from medrestore_monai.metrics import SliceWiseMetric, body_mask, delta_e, slice_scores, ssim_map

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


def test_ssim_is_that_of_monai_and_of_scikit_image_for_every_pixel():
    noisy, clean = (image[..., 0].double() for image in noisy_hu((41, 34, 1)))
    own = ssim_map(noisy, clean, 400.0)
    monai, _ = compute_ssim_and_cs(noisy, clean, 2, (11, 11), (1.5, 1.5), data_range=400.0)
    assert_close(own.float(), monai, atol=1e-3, rtol=0)  # MONAI computes in float32
    options = {"data_range": 400, "gaussian_weights": True, "use_sample_covariance": False, "full": True}
    _, full = structural_similarity(noisy[0, 0].numpy(), clean[0, 0].numpy(), **options)
    assert_close(own[0, 0].numpy(), full[5:-5, 5:-5], atol=1e-10, rtol=0)


def test_the_public_protocol_counts_the_border_and_takes_the_range_of_the_reference():
    """Worked out with SciPy: a Gaussian of 11 taps with zeros around, the data range of each reference slice."""
    noisy, clean = noisy_hu((23, 30, 2))
    scores = slice_scores(noisy, clean, WINDOW, data_range="label", count_border=True)
    for z in range(2):
        a, b = (np.clip(v[0, 0, ..., z].numpy().astype(np.float64), *WINDOW) for v in (noisy, clean))

        def mean(image):
            return gaussian_filter(image, 1.5, mode="constant", radius=5)

        span = b.max() - b.min()
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        va, vb, vab = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
        ssim = (2 * mean(a) * mean(b) + c1) * (2 * vab + c2) / (mean(a) ** 2 + mean(b) ** 2 + c1) / (va + vb + c2)
        assert float(scores["ssim"][z]) == pytest.approx(ssim.mean(), abs=1e-9)
        assert float(scores["psnr"][z]) == pytest.approx(10 * np.log10(span**2 / ((a - b) ** 2).mean()), abs=1e-9)


def test_scores_inside_a_mask():
    clean = torch.zeros(1, 1, 16, 20, dtype=torch.float64)
    other = clean.clone()
    other[..., :8, :] = 3.0
    other[..., 8:, :] = 40.0
    mask = torch.zeros(1, 1, 16, 20, dtype=torch.bool)
    mask[..., :8, :] = True
    scores = slice_scores(other, clean, WINDOW, mask=mask)
    assert float(scores["rmse"]) == pytest.approx(3.0)
    assert float(scores["psnr"]) == pytest.approx(20 * np.log10(400 / 3))
    inside = ssim_map(other, clean, 400.0)[..., :3, :].mean()  # rows 5..7 of the image
    assert float(scores["ssim"]) == pytest.approx(float(inside))
    assert torch.isnan(slice_scores(other, clean, WINDOW, mask=~mask & mask)["psnr"]).all()


def test_color_difference_by_hand_and_of_gray():
    white, black = torch.ones(1, 3, 8, 9), torch.zeros(1, 3, 8, 9)
    assert float(delta_e(white, black)) == pytest.approx(100.0, abs=0.01)  # L* of 100 against 0
    assert float(delta_e(white[:, :1], black[:, :1])) == pytest.approx(100.0, abs=0.01)
    # sRGB (255, 0, 0) and (0, 255, 0): CIEDE2000 86.61, as published calculators give
    red, green = black.clone(), black.clone()
    red[:, 0], green[:, 1] = 1, 1
    assert float(delta_e(red, green)) == pytest.approx(86.61, abs=0.05)
    half = torch.cat([red, red])
    half[1, :, :, :3] = green[0, :, :, :3]
    assert_close(delta_e(half, torch.cat([red, red])), torch.tensor([0, 86.61 / 3]).double(), atol=0.02, rtol=0)


def test_the_body_is_without_air_around_and_table_but_with_the_lungs():
    hu = body_phantom((96, 80))
    body = hu > -500  # the phantom's lung lies in it
    hu[20:70, 77:79] = 200  # a table
    hu[2, 2] = 3000
    mask = body_mask(hu)
    assert mask[int(96 * 0.675), int(80 * 0.36)]  # middle of the lung
    assert not mask[:, 76:].any()
    assert not mask[:4, :4].any()
    assert (mask | ~body).mean() > 0.99
    assert not body_mask(np.full((20, 20), -1000.0)).any()


def test_values_outside_the_window_do_not_count():
    clean = torch.zeros(1, 1, 16, 16)
    clean[..., :4] = 3000
    other = clean.clone()
    other[..., :4] = 500
    scores = slice_scores(other, clean, WINDOW)
    assert torch.isinf(scores["psnr"]).all()
    assert_close(scores["ssim"], torch.ones(1).double())
    assert_close(scores["rmse"], torch.zeros(1).double())


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
    with pytest.raises(ValueError, match="differ in shape"):
        slice_scores(good[..., :11], good, WINDOW)
    with pytest.raises(ValueError, match="at least 11x11"):
        slice_scores(good[..., :5], good[..., :5], WINDOW)
    with pytest.raises(ValueError, match="constant inside the window"):
        slice_scores(good, good, WINDOW, data_range="label")
    with pytest.raises(ValueError, match="data_range must be"):
        slice_scores(good, good, WINDOW, data_range="image")
    with pytest.raises(ValueError, match="DeltaE needs pictures"):
        delta_e(good.expand(1, 2, 12, 12), good.expand(1, 2, 12, 12))
    with pytest.raises(ValueError, match="Expected images"):
        SliceWiseMetric(RMSEMetric())(torch.zeros(1, 5, 5), torch.zeros(1, 5, 5))


@pytest.mark.slow
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
