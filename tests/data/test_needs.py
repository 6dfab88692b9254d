"""What a plan needs is known before the work."""

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_series, ct_volume

from medrestore_monai.data import check_needs, needs, plan_outputs


@pytest.fixture
def planned(tmp_path):
    nib.save(nib.Nifti1Image(ct_volume(9, (24, 20)).astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    ct_series(tmp_path / "ct", slices=3, size=(20, 16))
    return [
        *plan_outputs(tmp_path / "a.nii", tmp_path / "out.nii", slab=4),
        *plan_outputs(tmp_path / "ct", tmp_path / "out", slab=4),
    ]


def test_a_plan_knows_the_extent_of_its_images(planned):
    found = [tuple(item[name] for name in ("start", "stop", "slices", "columns", "rows")) for item in planned]
    assert found == [(0, 4, 9, 24, 20), (4, 8, 9, 24, 20), (8, 9, 9, 24, 20), (0, 0, 3, 20, 16)]


@pytest.mark.slow
def test_memory_is_that_of_the_largest_slab_and_of_a_slice_in_the_network(planned, monkeypatch):
    monkeypatch.setattr(needs, "available_bytes", lambda: 10**9)
    monkeypatch.setattr(needs, "used_bytes", lambda: 1000)
    fixed = 1000 + needs._AROUND
    assert check_needs(planned, 0) == (fixed + 25 * 24 * 20 * 4, 10**9)
    assert check_needs(planned, 700, context=1) == (fixed + 25 * 24 * 20 * 6 + 700 * 24 * 20, 10**9)
    # slices at a time, as far as there are such in a slab, and as far as they fit
    assert check_needs(planned, 700, workers=3)[0] == fixed + 25 * 24 * 20 * 4 + 3 * 700 * 24 * 20
    assert check_needs(planned, 700, workers=64)[0] == fixed + 25 * 24 * 20 * 4 + 4 * 700 * 24 * 20
    monkeypatch.setattr(needs, "available_bytes", lambda: 600_000)
    assert check_needs(planned, 700, workers=64)[0] == fixed + 600_000


@pytest.mark.slow
def test_what_does_not_fit_is_refused(planned, monkeypatch):
    monkeypatch.setattr(needs, "available_bytes", lambda: 1000)
    with pytest.raises(RuntimeError, match=r"a\.nii needs about 0\.0 GB of memory, 0\.0 GB are free"):
        check_needs(planned, 0)
    monkeypatch.setattr(needs, "available_bytes", lambda: 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"No space left on device \(0\.0 GB are needed"):
        check_needs(planned, 0)
