"""What goes back to a client: the restored image as one NIfTI file of floats or 16-bit integers, never wrapped."""

from pathlib import Path

import nibabel as nib
import numpy as np

from medrestore_monai.dicom import read_series, read_stacks
from medrestore_monai.images import KINDS, read_image


def write_result(restored: Path, folder: Path, dtype: str = "float32", extension: str = ".nii.gz") -> Path:
    """Turn what :func:`medrestore_monai.restorer.restore` wrote into the file for a client.

    Args:
        restored: an image file, or the folder of a derived series.
        folder: where to write.
        dtype: ``float32``, or ``int16``: whole numbers that fit are stored as they are, others with the slope and
            intercept that spread the range of the image over 16 bits.
        extension: ``.nii.gz`` or ``.nii``.

    Returns:
        A NIfTI file in the unit of the source (HU, Bq/ml, gray levels). A PNG, JPEG or TIFF picture, which has no place
        in the patient, stays the picture it is.

    Raises:
        ValueError: the restored image cannot be read, or ``int16`` cannot hold it, as it has voxels without a value.
    """
    if restored.is_dir():
        series = read_series(restored)
        values, affine, header = series.slab(0, series.shape[2]), series.affine, None
    elif KINDS.get(_ending(restored)) in ("png", "jpeg", "tiff"):
        return restored
    else:
        values, meta = read_image(restored)
        affine = np.asarray(meta["affine"], dtype=np.float64)
        header = nib.load(restored).header if meta["kind"] == "nifti" else None
    image = nib.Nifti1Image(_storable(np.asarray(values), dtype), affine, header)
    image.set_data_dtype(dtype)
    if header is None:
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
    target = folder / f"restored{extension}"
    nib.save(image, target)
    return target


def require_one_grid(source: Path, series_uid: str | None = None) -> None:
    """Refuse a DICOM series that is no single grid, before it is restored.

    Raises:
        ValueError: it has several stacks, or its slices are at uneven distances: one NIfTI file cannot hold them.
    """
    stacks = read_stacks(source, series_uid)
    odd = f"the series has {len(stacks)} stacks" if len(stacks) > 1 else "the slices are at uneven distances"
    if len(stacks) > 1 or not stacks[0].regular:
        raise ValueError(
            f"{odd}, and one grid goes back to the client: restore it with medrestore restore, which keeps every place."
        )


def _ending(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _storable(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values that nibabel stores in ``dtype`` as they are, or scales where they are floats and ``dtype`` is not."""
    if dtype == "float32":
        return values.astype(np.float32)
    if np.isnan(values).any():
        raise ValueError(
            "int16 cannot hold voxels without a value (NaN), and the image has some: give result_dtype=float32."
        )
    limits = np.iinfo(np.int16)
    whole = bool((values == np.rint(values)).all()) and limits.min <= values.min() and values.max() <= limits.max
    return values.astype(np.int16) if whole else values.astype(np.float64)
