import io

import numpy as np
import pytest
import torch
from phantoms import body_phantom
from PIL import Image
from skimage import data
from torch.testing import assert_close

from medrestore_monai.transforms import compress_jpeg


def as_file(rows, quality):
    file = io.BytesIO()
    Image.fromarray(rows).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("quality", [1, 30, 95])
def test_bytes_become_what_a_jpeg_file_holds(quality):
    rows = data.astronaut()[:121, :90]
    image = torch.from_numpy(rows.T.copy())  # X across
    expected = as_file(rows, quality)
    assert_close(compress_jpeg(image, quality).numpy(), expected.T.astype(np.float32))
    gray = as_file(np.ascontiguousarray(rows[..., 1]), quality)
    assert_close(compress_jpeg(image[1:2], quality)[0].numpy(), gray.T.astype(np.float32))


def test_a_window_of_hu_goes_through_8_bit_and_what_is_outside_comes_back():
    hu = torch.from_numpy(body_phantom((70, 61)))[None]
    image = compress_jpeg(hu, 90, lower=-160.0, upper=240.0)
    inside = (hu > -160) & (hu < 240)
    assert 0 < (image - hu)[inside].abs().mean() < 8
    assert_close(image[hu == 600].mean(), torch.tensor(600.0), rtol=0, atol=15)
    assert_close(image[hu == -1000].mean(), torch.tensor(-1000.0), rtol=0, atol=15)


def test_higher_quality_is_closer():
    image = torch.from_numpy(data.camera()[:128, :100].astype(np.float32))[None]
    errors = [(compress_jpeg(image, quality) - image).std() for quality in (10, 50, 90)]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(
    ("channels", "options", "match"),
    [
        (1, {"quality": 101}, "quality must be"),
        (1, {"quality": 50.5}, "quality must be"),
        (2, {"quality": 50}, "1 or 3 channels, got 2"),
        (1, {"quality": 50, "lower": 255.0}, "lower must be below upper"),
    ],
)
def test_bad_input_is_refused(channels, options, match):
    with pytest.raises(ValueError, match=match):
        compress_jpeg(torch.zeros(channels, 8, 8), **options)
