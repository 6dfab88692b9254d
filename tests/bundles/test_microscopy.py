"""Microscopy of 16 bits comes back in 16 bits, from cameras of 12 or 14, gray and RGB, single pictures and stacks."""

import numpy as np
import pytest
import tifffile
from miniatures import MED_NAME, MLFF_NAME, pixels
from tiny_deblurring import make_tiny_deblurring

from medrestore_monai import Restorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[MED_NAME, MLFF_NAME])
def bundle(request, tmp_path_factory):
    return make_tiny_deblurring(tmp_path_factory.mktemp("bundles"), request.param)


def camera(*shape, bits=16):
    """A picture that uses so many of 16 bits."""
    return pixels(*shape, dtype=np.uint16) >> (16 - bits)


def write(folder, pictures):
    folder.mkdir()
    for name, values in pictures.items():
        color = values.shape[-1] == 3
        tifffile.imwrite(folder / name, values, photometric="rgb" if color else "minisblack", compression="deflate")
    return folder


def check_round_trip(bundle, folder, out, pictures):
    """Without strength the very values come back, with all of it others of the same kind."""
    source = write(folder, pictures)
    same = Restorer(bundle, device="cpu", strength=0.0).restore_file(source, out / "same")
    restored = Restorer(bundle, device="cpu").restore_file(source, out / "restored")
    assert len(same.outputs) == len(restored.outputs) == len(pictures)
    for name, values in pictures.items():
        unchanged, changed = (tifffile.imread(out / kind / name) for kind in ("same", "restored"))
        assert unchanged.dtype == changed.dtype == np.uint16
        np.testing.assert_array_equal(unchanged, values)
        assert changed.shape == values.shape
        assert np.ptp(values) < 100 or not np.array_equal(changed, values), name  # an even background has no detail
        # some percent of what the picture spans, and not some percent of all 16 bits
        assert np.abs(changed.astype(float) - values).mean() < 0.25 * np.ptp(values), name


def test_generated_pictures(bundle, tmp_path):
    pictures = {
        "gray.tif": camera(34, 47),
        "color.tif": camera(33, 41, 3),
        "dark_12_bits.tif": camera(35, 40, bits=12),
        "stack_14_bits.tif": np.stack([camera(36, 31, bits=14), camera(36, 31, bits=14)[::-1]]),
        "color_stack.tif": np.stack([camera(32, 37, 3), camera(32, 37, 3)[:, ::-1]]),
    }
    check_round_trip(bundle, tmp_path / "in", tmp_path, pictures)
    for name in ("gray.tif", "color.tif"):  # more values than 8 bits hold
        assert len(np.unique(tifffile.imread(tmp_path / "restored" / name))) > 300


def test_real_pictures(bundle, shared_data, tmp_path):
    pictures = {}
    for path in sorted((shared_data / "micro_cellprofiler").glob("*.tif")):
        values = tifffile.imread(path)
        if values.dtype == np.uint16 and values.ndim == 2:
            rows, columns = (side // 2 for side in values.shape)
            pictures[f"{len(pictures)}.tif"] = values[rows - 20 : rows + 21, columns - 24 : columns + 24]
    assert len(pictures) >= 3
    check_round_trip(bundle, tmp_path / "in", tmp_path, pictures)
