"""Read and write one image file of any format, with the checks that hold for all of them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import ensure_tuple

from medrestore_monai.files import atomic_result, file_mode, refuse_change, state_of
from medrestore_monai.images.arrays import read_npy, read_npz, write_npy, write_npz
from medrestore_monai.images.damage import explained
from medrestore_monai.images.itk import read_itk, write_mha, write_nrrd
from medrestore_monai.images.jpeg import read_jpeg, write_jpeg
from medrestore_monai.images.mgh import read_mgh, write_mgh
from medrestore_monai.images.nifti import read_nifti, write_nifti
from medrestore_monai.images.pictures import read_png, write_png
from medrestore_monai.images.tiff import read_tiff, write_tiff
from medrestore_monai.intensity import scale_problem
from medrestore_monai.notes import note

__all__ = ["KINDS", "ImageFileReader", "kind_of", "read_image", "write_image"]

#: What an image file is, by the ending of its name.
KINDS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".img": "nifti",
    ".mgh": "mgh",
    ".mgz": "mgh",
    ".nrrd": "nrrd",
    ".mha": "mha",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "npy",
    ".npz": "npz",
}
# of gray and color pictures, by kind; the other kinds hold all types
_SAMPLE_TYPES = {
    ("png", False): ("uint8", "uint16"),
    ("png", True): ("uint8",),
    ("jpeg", False): ("uint8",),
    ("jpeg", True): ("uint8",),
}
_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
_VOLUMES = ("nifti", "mgh", "nrrd", "mha")  # with a place in space
_PAIR = (".hdr", ".img")
_READERS = {
    "nifti": read_nifti,
    "mgh": read_mgh,
    "nrrd": read_itk,
    "mha": read_itk,
    "png": read_png,
    "jpeg": read_jpeg,
    "tiff": read_tiff,
    "npy": read_npy,
    "npz": read_npz,
}
_WRITERS = {
    "nifti": write_nifti,
    "mgh": write_mgh,
    "nrrd": write_nrrd,
    "mha": write_mha,
    "png": write_png,
    "jpeg": write_jpeg,
    "tiff": write_tiff,
    "npy": write_npy,
    "npz": write_npz,
}


def read_image(path: Path | str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one image or volume.

    Args:
        path: a file whose name ends as :data:`KINDS` has it. Of a NIfTI pair, either file; NRRD and MHA need SimpleITK.
            PNG: 8 or 16 bit gray, 8 bit RGB, opaque; JPEG: 8 bit gray or RGB, turned upright; TIFF: gray, RGB, also
            float, several pages are slices; a palette becomes RGB; NumPy: one array ``(X, Y[, Z])``.

    Returns:
        The image, float32, shape ``(X, Y[, Z])`` or ``(3, X, Y[, Z])``, in the file's unit (slope and intercept
        applied), and its meta data: ``kind``, ``affine`` (RAS, mm), ``original_dtype``, ``spatial_shape``,
        ``original_channel_dim``, ``filename_or_obj`` and what :func:`write_image` needs to write the same kind again.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, holds something else than described above, has infinite values, or none that
            is finite. NaN means padding, and is written as such again.
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    state = source_state(path)
    with explained(path):
        stored, meta = _READERS[kind](path)
    meta["source_state"] = state
    sizes = meta.pop("tiff_sizes", 1)
    if sizes > 1:
        note(f"{path}: only the largest of the {sizes} sizes of the picture is kept.", stacklevel=2)
    if meta.pop("palette", False):
        note(f"{path}: its palette is replaced by the colors that it stands for.", stacklevel=2)
    check_types(path, stored.dtype)
    color = meta.pop("color", False)
    if stored.ndim not in ((3, 4) if color else (2, 3)) or stored.size == 0:
        raise ValueError(f"{path}: expected one 2D image or 3D volume, got the shape {stored.shape}.")
    slope, inter = scale_of(path, meta)
    image = scaled(stored, slope, inter)
    padding = int(np.isnan(image).sum())
    refuse_infinite(path, int(np.isinf(image).sum()), padding, image.size)
    if padding:
        meta["nan_voxels"] = padding
    meta = describe(meta, path, kind, stored.dtype, image.shape[1:] if color else image.shape, color)
    if too_large(path, kind, stored.dtype, float(np.abs(image).max()), slope):
        meta["original_dtype"] = "float32"
    return image, meta


def source_state(path: Path) -> str:
    """State of the file of an image, and of the other one of a pair, see :func:`~medrestore_monai.files.state_of`."""
    pair = [path.with_suffix(ending) for ending in _PAIR] if _ending(path) in _PAIR else [path]
    return state_of([one for one in pair if one.exists()])


def check_types(path: Path, dtype: np.dtype) -> None:
    """Refuse a file of other numbers than are restored.

    Raises:
        ValueError: it holds such.
    """
    if dtype.name not in _TYPES:
        raise ValueError(f"{path}: expected numbers of type {', '.join(_TYPES)}, got {dtype}: save it as one.")


def scale_of(path: Path, meta: Mapping[str, Any]) -> tuple[float, float]:
    """Return slope and intercept of a file.

    Raises:
        ValueError: no image can have them.
    """
    slope, inter = meta.get("scl_slope", 1.0), meta.get("scl_inter", 0.0)
    if problem := scale_problem(slope, inter):
        raise ValueError(f"{path} has {problem}.")
    return slope, inter


def refuse_infinite(path: Path, infinite: int, nans: int, size: int) -> None:
    """Refuse an image with infinite values, or without finite ones.

    Raises:
        ValueError: it is such.
    """
    if infinite or nans == size:
        raise ValueError(f"{path} has {infinite or nans} infinite or NaN values: expected finite ones.")


def describe(
    meta: dict[str, Any], path: Path, kind: str, dtype: np.dtype, shape: Sequence[int], color: bool
) -> dict[str, Any]:
    """Add to the meta data of a reader what those of all kinds have."""
    affine = meta.setdefault("affine", np.eye(4))
    return {
        **meta,
        "kind": kind,
        "original_affine": affine.copy(),
        "original_dtype": dtype.name,
        "spatial_shape": np.asarray(shape),
        "original_channel_dim": 0 if color else float("nan"),
        "space": "RAS",
        "filename_or_obj": str(path),
    }


def too_large(path: Path, kind: str, dtype: np.dtype, largest: float, slope: float) -> bool:
    """Say, with a note, whether a volume file of integers has to be written as float32.

    Raises:
        ValueError: a file of another kind has to.
    """
    if dtype.kind not in "iu" or not are_too_large(np.float64(largest), slope):
        return False
    if kind not in _VOLUMES:
        raise ValueError(f"{path}: its integers are too large to be restored exactly, expected at most {2**22}.")
    note(f"{path}: float32 cannot hold its numbers exactly; it will be written as float32.", stacklevel=3)
    return True


def are_too_large(image: np.ndarray | np.float64, slope: float = 1.0) -> bool:
    """Say whether an image of integers times ``slope`` holds larger ones than rounding a float32 result finds again.

    float32 distinguishes 2**24 integers; a quarter of that in steps of the slope is taken.
    """
    return float(np.abs(image).max()) > 2**22 * abs(slope)


def write_image(path: Path | str, array: Any, like: Mapping[str, Any] | None = None, overwrite: bool = False) -> Path:
    """Write one image or volume, of the kind that the ending of ``path`` says. JPEG is lossy, which a warning says.

    Args:
        path: where to; folders above it are made.
        array: shape ``(X, Y)``, ``(X, Y, Z)`` or ``(3, X, Y)``, or one channel before the first two; in the unit of
            ``like``. Integers are rounded and clipped to what the file can hold; a warning counts the clipped.
        like: meta data of :func:`read_image`, whose depth, affine and header fields are kept, needed for RGB; without
            it the type is that of ``array``.
        overwrite: replace an existing file, but never the one that ``like`` was read from.

    Returns:
        The path.

    Raises:
        FileExistsError: if there is a file already and ``overwrite`` is false.
        ValueError: if the values, their type or shape cannot be stored, or the file is the source.
    """
    path = Path(path)
    kind = kind_of(path)
    if _ending(path) in _PAIR:
        raise ValueError(f"{path}: a NIfTI pair is written as one file; name the output .nii or .nii.gz.")
    like = dict(like or {})
    check_place(path, like, overwrite)
    stored = stored_values(path, kind, np.asarray(array), like)
    with open_result(path, like, overwrite) as file:
        _WRITERS[kind](file, stored, like)
    return path


def check_place(path: Path, like: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse to write over the source, or over anything where that was not asked for.

    Raises:
        FileExistsError: see :func:`write_image`.
        ValueError: see there.
    """
    source = _source_of(like)
    if source is not None and path.exists() and path.samefile(source):
        raise ValueError(f"{path} is the source image, which is never overwritten.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already.")


@contextmanager
def open_result(path: Path, like: Mapping[str, Any], overwrite: bool) -> Iterator[Any]:
    """Open a file to write a result to, packed where its name says so, with the permissions of its source.

    Raises:
        DataError: the source has changed meanwhile.
    """
    source = _source_of(like)
    with atomic_result(path, overwrite, None if source is None else file_mode(source)) as file:
        if _ending(path) in (".nii.gz", ".mgz"):
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:  # no name, no time: same image, same bytes
                yield packed
        else:
            yield file
        if source is not None:
            refuse_change(like.get("source_state"), source_state(source), str(source))


def _source_of(like: Mapping[str, Any]) -> Path | None:
    """The file that an image was read from, if it is still there."""
    source = Path(str(like.get("filename_or_obj", "")))
    return source if source.is_file() else None


class ImageFileReader(ImageReader):
    """:func:`read_image` as a MONAI reader: ``LoadImaged(keys="image", reader=ImageFileReader)``.

    The meta data are good for ``write_image(..., like=image.meta)``, also after batching.
    """

    def verify_suffix(self, filename: Sequence[os.PathLike | str] | os.PathLike | str) -> bool:
        """Whether all names end as the files of :func:`read_image` do."""
        return all(_ending(Path(name)) in KINDS for name in ensure_tuple(filename))

    def read(self, data: Sequence[os.PathLike | str] | os.PathLike | str, **kwargs: Any) -> Path:
        """Return the path: decoding waits for :meth:`get_data`, whose errors MONAI passes on as they are.

        Args:
            data: one path.
            kwargs: not used.

        Raises:
            ValueError: if several paths are given.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise ValueError(f"Expected one image file, got {len(paths)}.")
        return Path(paths[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict]:
        """Return the image and its meta data, as :func:`read_image`."""
        return read_image(img)


def _ending(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def kind_of(path: Path) -> str:
    """Return by its name what kind of image a file is: nifti, mgh, nrrd, mha, png, jpeg, tiff, npy or npz.

    Raises:
        ValueError: the name has another ending.
    """
    if _ending(path) not in KINDS:
        raise ValueError(f"{path}: expected a name ending in {', '.join(KINDS)}.")
    return KINDS[_ending(path)]


def scaled(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Apply slope and intercept to stored numbers; the result is float32."""
    if (slope, inter) == (1.0, 0.0):
        return stored.astype(np.float32)
    image = np.empty(stored.shape, dtype=np.float32)
    for index in range(stored.shape[-1]):  # in double precision, a slice at a time
        image[..., index] = stored[..., index] * np.float64(slope) + inter
    return image


def _is_color(like: Mapping[str, Any]) -> bool:
    channel = like.get("original_channel_dim", float("nan"))
    return float(channel) == 0


def stored_values(path: Path | str, kind: str, array: np.ndarray, like: Mapping[str, Any]) -> np.ndarray:
    """Bring an image to the shape and type that go into a file, as :func:`write_image` does.

    Args:
        path: of the file, or what messages call it.
        kind: one of the values of :data:`KINDS`.
        array: see :func:`write_image`.
        like: see :func:`write_image`.

    Raises:
        ValueError: see :func:`write_image`.
    """
    color = _is_color(like)
    shape = tuple(int(side) for side in like["spatial_shape"]) if "spatial_shape" in like else array.shape
    wanted = (3, *shape) if color else shape
    if array.shape == (1, *wanted):
        array = array[0]
    if array.shape != wanted or array.ndim not in ((3, 4) if color else (2, 3)):
        raise ValueError(f"{path}: expected an array of shape {wanted}, got {array.shape}.")
    if kind in ("png", "jpeg") and array.ndim == 3 + color:
        raise ValueError(f"{path}: {kind.upper()} holds one slice, got {array.shape[-1]}.")
    if kind in (*_VOLUMES, "npy", "npz") and color:
        raise ValueError(f"{path}: a color picture is written as PNG, TIFF or JPEG.")
    dtype, slope, inter = stored_type(kind, like, array.dtype)
    types = _SAMPLE_TYPES.get((kind, color), _TYPES)
    if dtype.name not in types:
        raise ValueError(f"{path}: expected values of type {' or '.join(types)}, got {dtype}.")
    if int((~np.isfinite(array)).sum()) != int(like.get("nan_voxels", 0)) or np.isinf(array).any():
        raise ValueError(f"{path}: the image to write has NaN or infinite values.")
    if dtype.kind == "f":
        if dtype == np.float64 and array.dtype == np.float32:
            note_digits(path)
        if array.dtype == np.float32 and (dtype == np.float64 or like.get("hu_offset")):
            return _with_own_digits(array, like).astype(dtype)
        return array.astype(dtype)
    stored, clipped = rounded(array, dtype, slope, inter)
    note_clipped(path, clipped, array.size, dtype)
    return stored


def stored_type(kind: str, like: Mapping[str, Any], default: np.dtype) -> tuple[np.dtype, float, float]:
    """Type, slope and intercept that an image is stored with."""
    dtype = np.dtype(str(like.get("original_dtype", default.name)))
    slope, inter = float(like.get("scl_slope", 1.0)), float(like.get("scl_inter", 0.0))
    has_place = "nifti_header" in like if kind == "nifti" else kind == like.get("kind") == "tiff"
    if (slope, inter) != (1.0, 0.0) and not has_place:
        return np.dtype(np.float32), 1.0, 0.0
    return dtype, slope, inter


def note_digits(path: Path | str) -> None:
    """Note that a result of type float64 was computed in float32."""
    note(
        f"{path} is written as float64 like its source, but was computed in float32: about 7 digits are exact.",
        stacklevel=4,
    )


def note_clipped(path: Path | str, clipped: int, size: int, dtype: np.dtype) -> None:
    """Note how many values were clipped, if there are any."""
    if clipped:
        note(f"{path}: {clipped} of {size} values lie outside the range of {dtype} and were clipped.", stacklevel=4)


def _with_own_digits(array: np.ndarray, like: Mapping[str, Any]) -> np.ndarray:
    """Give float32 values as float64; those that are the source's still get all the digits that it has.

    A loader may have added a ``hu_offset``, which is taken off again here: both round.
    """
    source = _source_of(like)
    if source is None:
        return array.astype(np.float64)
    with explained(source):
        stored, meta = _READERS[kind_of(source)](source)
    return own_digits(array, stored, {**like, **meta})


def own_digits(array: np.ndarray, stored: np.ndarray, like: Mapping[str, Any]) -> np.ndarray:
    """Give float32 values as float64, with all the digits of those that are still what the source has ``stored``."""
    exact = stored.astype(np.float64) * like.get("scl_slope", 1.0) + like.get("scl_inter", 0.0)
    offset = np.float32(like.get("hu_offset", 0))
    if exact.shape != array.shape:
        return array.astype(np.float64)
    return np.where(array == (exact.astype(np.float32) + offset) - offset, exact, array.astype(np.float64))


def rounded(array: np.ndarray, dtype: np.dtype, slope: float, inter: float) -> tuple[np.ndarray, int]:
    """Undo slope and intercept, round, and clip to the type's range, a slice at a time; also how many are clipped."""
    limits = np.iinfo(dtype)
    stored, clipped = np.empty(array.shape, dtype=dtype), 0
    for index in range(array.shape[-1]):
        values = np.rint((array[..., index].astype(np.float64) - inter) / slope)
        inside = values.clip(limits.min, limits.max)
        clipped += int(np.count_nonzero(inside != values))
        stored[..., index] = inside
    return stored, clipped
