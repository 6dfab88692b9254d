"""The limit of a change: kept by voxels and by the smoothed change, and nothing else moves."""

import re

import numpy as np
import pytest
from noise_fields import correlated_noise
from phantoms import body_phantom, ct_series
from tiny_bundle import make_tiny_bundle

from medrestore_monai.audit import Volume, limit_change
from medrestore_monai.audit.faithfulness import change_map, noise_map
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.dicom import read_series
from medrestore_monai.notes import Notes
from medrestore_monai.restorer import Restorer

SPACING = (1.2, 1.2, 2.5)


def images(size=(150, 141), slices=3):
    clean = np.repeat(body_phantom(size)[..., None], slices, axis=2)
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    inside = clean > -900
    return [Volume(clean + part * noise * inside, "CT", SPACING) for part in (1.0, 0.4)]


@pytest.mark.slow
def test_inventions_are_held_back_and_other_slices_stay_bit_by_bit():
    source, restored = images()
    restored.array[50:64, 60:71, 1] += 45  # of three noise standard deviations
    restored.array[90, 80, 1] -= 400
    limited = limit_change(source, restored, 5)
    one, before, after = (
        Volume(array[..., 1], "CT", SPACING) for array in (source.array, restored.array, limited.array)
    )
    noise = measure_noise(one, one)
    z, inside = change_map(one, after, noise, noise.spectra["before"])
    assert np.abs(z).max() <= 5.06
    alone = np.abs(after.array - one.array) / noise_map(one, noise, noise.spectra["before"])
    assert alone[inside].max() <= 5.001
    z, _ = change_map(one, before, noise, noise.spectra["before"])
    assert np.abs(z).max() > 10
    assert limited.slices == 1
    assert 1 <= limited.voxels < 10 < limited.regions
    for index in (0, 2):
        np.testing.assert_array_equal(limited.array[..., index], restored.array[..., index])
    far = np.s_[50:60, 100:110, 1]  # the rest of the slice keeps its restoration
    np.testing.assert_allclose(limited.array[far], restored.array[far], atol=0.1)


def test_it_does_not_matter_which_slices_are_read_together():
    source, restored = images()
    source.array[..., 2] += (source.array[..., 2] > -900) * 3 * (source.array[..., 1] - source.array[..., 0])  # noisier
    restored.array[50:64, 60:71] += 60
    whole = limit_change(source, restored, 4)
    assert whole.slices >= 2
    for slab in (slice(0, 1), slice(0, 2), slice(1, 3)):
        parts = [Volume(image.array[..., slab], "CT", SPACING) for image in (source, restored)]
        np.testing.assert_array_equal(limit_change(*parts, 4).array, whole.array[..., slab])


def test_a_slice_without_even_tissue_stays_and_is_counted():
    source, restored = images((96, 91))
    source.array[..., 1] = 0  # no noise
    restored.array[40:50, 40:50] += 200
    limited = limit_change(source, restored, 5)
    assert (limited.slices, limited.unlimited) == (2, 1)
    assert limited.reason
    np.testing.assert_array_equal(limited.array[..., 1], restored.array[..., 1])


def test_what_keeps_the_limit_is_not_touched_and_what_cannot_be_limited_says_so():
    source, restored = images()
    same = limit_change(source, restored, 5)
    assert (same.voxels, same.regions, same.slices, same.reason) == (0, 0, 0, "")
    np.testing.assert_array_equal(same.array, restored.array)
    flat = Volume(np.full((20, 21, 1), 40.0), "CT", SPACING)
    assert "nothing to measure" in limit_change(flat, flat.like(flat.array + 500), 4).reason
    with pytest.raises(ValueError, match="limit_change must be at least 4, got 3"):
        limit_change(source, restored, 3)


@pytest.mark.slow
def test_a_restoration_keeps_the_limit_and_its_header_says_so(tmp_path):
    bundle = make_tiny_bundle(tmp_path / "bundles")
    source, _ = images((96, 91), 2)
    ct_series(tmp_path / "in", volume=np.rint(source.array), spacing=SPACING[:2])
    free, held = Restorer(bundle, device="cpu"), Restorer(bundle, device="cpu", limit_change=4)
    with Notes() as notes:
        free.restore_file(tmp_path / "in", tmp_path / "free")
        result = held.restore_file(tmp_path / "in", tmp_path / "held")
    assert any("held back to 4 noise standard deviations" in message for message in (*notes.messages, *result.notes))
    assert result.settings["limit_change"] == 4
    series = read_series(tmp_path / "held")
    assert re.search(r'"?limit_change"?[:= ]+4', series.datasets[0].DerivationDescription)
    changed = [np.abs(read_series(tmp_path / name).array - source.array).max() for name in ("free", "held")]
    assert changed[1] < changed[0]
    with pytest.raises(ValueError, match="limit_change"):
        Restorer(bundle, device="cpu", limit_change=2)
