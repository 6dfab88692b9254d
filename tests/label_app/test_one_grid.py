"""MONAI Label returns one grid: other series are refused before they are restored."""

import pytest
from phantoms import ct_series

from medrestore_monai.label_app.results import require_one_grid


def test_series_that_are_no_grid_are_refused(tmp_path):
    ct_series(tmp_path / "even", slices=4, size=8)
    require_one_grid(tmp_path / "even")
    ct_series(tmp_path / "tilted", slices=4, size=8, tilt=12)
    require_one_grid(tmp_path / "tilted")  # NIfTI has a place for the shear
    ct_series(tmp_path / "uneven", slices=4, size=8, positions=[0, 2.5, 4.5, 7])
    with pytest.raises(ValueError, match="at uneven distances, and one grid goes back"):
        require_one_grid(tmp_path / "uneven")


def test_series_of_several_stacks_are_refused(tmp_path):
    ct_series(tmp_path / "a", slices=3, size=8)
    for file in ct_series(tmp_path / "a" / "b", slices=3, size=8, edit=_second):
        assert file.exists()
    with pytest.raises(ValueError, match="has 2 stacks, and one grid"):
        require_one_grid(tmp_path / "a")


def _second(ds, index):
    ds.AcquisitionNumber, ds.SOPInstanceUID = 2, f"1.2.3.{index}"
