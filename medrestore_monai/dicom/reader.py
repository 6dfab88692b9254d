"""DICOM series as MONAI reads images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from medrestore_monai.dicom.files import begins_as_dicom
from medrestore_monai.dicom.read import read_series


class DicomSeriesReader(ImageReader):
    """MONAI reader of one checked DICOM series, for ``LoadImaged(reader=DicomSeriesReader, ...)``.

    The image is ``(X, Y, Z)``, float32, in HU, Bq/ml, counts, SUV or arbitrary units, without a channel dimension. The
    metadata carry ``affine`` (RAS, mm) and what is needed to find the source again: ``source``, ``series_uid``,
    ``allow_gaps``; also ``modality``, ``unit``, ``spacing`` and ``regular``.

    Args:
        series_uid: which series, where there are several.
        modality: ``CT``, ``MR`` or ``PT``, if it must be that one.
        allow_gaps: take a series with missing slices.
        stack: which of the stacks of a series of several, from 1.
    """

    def __init__(
        self, series_uid: str | None = None, modality: str | None = None, allow_gaps: bool = False, stack: int = 0
    ) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.modality = modality
        self.allow_gaps = allow_gaps
        self.stack = stack

    def verify_suffix(self, filename: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str) -> bool:
        """Say whether this may be DICOM: a folder, a ``.zip``, or a file that says so in its first bytes."""
        names = [filename] if isinstance(filename, (str, os.PathLike)) else list(filename)
        return len(names) == 1 and _may_be_dicom(Path(names[0]))

    def read(self, data: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str, **kwargs: Any) -> Path:
        """Return the one path in ``data``; :meth:`get_data` opens it, as MONAI hides what is raised here.

        Raises:
            ValueError: several paths.
        """
        names = [data] if isinstance(data, (str, os.PathLike)) else list(data)
        if len(names) != 1:
            raise ValueError(f"Expected one DICOM file, folder or archive per image, got {len(names)}.")
        return Path(names[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read and check the series.

        Args:
            img: a DICOM file, a folder or a ``.zip`` archive.

        Returns:
            Voxels ``(X, Y, Z)``, float32, and the metadata.

        Raises:
            DicomError: the series cannot be used.
        """
        series = read_series(img, self.series_uid, self.modality, self.allow_gaps, self.stack)
        meta = {
            MetaKeys.AFFINE: series.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: series.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(series.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's sign for "no channel"
            "spacing": np.asarray(series.spacing),
            "source": str(img),
            "series_uid": series.uid,
            "modality": series.modality,
            "unit": series.unit,
            "regular": series.regular,
            "allow_gaps": self.allow_gaps,
            "stack": self.stack,
        }
        return series.array, meta


def _may_be_dicom(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() == ".zip":
        return True
    return path.is_file() and begins_as_dicom(path)
