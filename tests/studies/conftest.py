"""What the tests of a run over many studies share."""

import numpy as np
import pytest
from phantoms import ct_series, ct_volume

from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import make_job

SIZE = (16, 12)


@pytest.fixture(scope="module")
def restorer(bundle):
    return Restorer(bundle, device="cpu", strength=1.0)


@pytest.fixture
def job(tmp_path, restorer):
    """Four images: two series, a volume, a picture's worth of CT."""
    for patient in "ab":
        ct_series(tmp_path / "in" / patient / "series", slices=2, size=SIZE, series=patient)
    np.save(tmp_path / "in" / "c.npy", ct_volume(2, SIZE))
    np.save(tmp_path / "in" / "d.npy", ct_volume(1, SIZE)[..., 0])
    return make_job(tmp_path / "in", tmp_path / "out", restorer)
