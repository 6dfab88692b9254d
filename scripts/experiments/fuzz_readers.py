"""Damage small image files at random, read them, and report where a reader fails or is fooled.

For every kind of file: bits flip, bytes go, come, are cut, zeroed or doubled. Then a reader must refuse the file in one
sentence, or give the same voxels as before, unless nothing in the file could show the difference.

Example:
  python scripts/experiments/fuzz_readers.py --count 50000 --seed 1 --keep /tmp/failures
"""

from __future__ import annotations

import argparse
import gzip
import io
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from medrestore_monai.dicom import read_series
from medrestore_monai.images import read_header, read_image

_LONGEST = 400  # characters of a message, without the path


@dataclass
class Outcome:
    """What came of a run: counts by format and outcome, and the failures."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def picture(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    """A smooth picture with some noise: every region of it needs data of its own."""
    rng = np.random.default_rng(0)
    rows = np.add.outer(np.arange(shape[0]), np.arange(shape[1]) ** 1.3)
    rows = rows[(...,) + (None,) * (len(shape) - 2)] + rng.integers(0, 40, shape)
    return (rows * (1 if dtype == "uint8" else 100)).clip(0, np.iinfo(dtype).max).astype(dtype)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _nifti(dtype: str = "int16") -> bytes:
    image = nib.Nifti1Image(picture((13, 11, 5), "uint16").astype(dtype), np.diag([-0.7, -0.7, 3, 1]))
    return image.to_bytes()


def _slice(compressed: bool, modality: str = "CT") -> bytes:
    """One small slice, plain or run-length encoded."""
    ds = Dataset()
    classes = {"CT": "1.2.840.10008.5.1.4.1.1.2", "PT": "1.2.840.10008.5.1.4.1.1.128"}
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = classes[modality], generate_uid(entropy_srcs=["a"]), modality
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(entropy_srcs=["b"]), generate_uid(entropy_srcs=["c"])
    ds.FrameOfReferenceUID, ds.PatientName, ds.PatientID = generate_uid(entropy_srcs=["d"]), "Test^Person", "1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 24, 20, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    ds.PixelSpacing, ds.SliceThickness, ds.Units = [0.8, 0.8], 5, "BQML"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = picture((24, 20), "uint16").astype("<i2").tobytes()
    if compressed:
        ds.compress(RLELossless)
    return _saved(lambda file: ds.save_as(file, enforce_file_format=True))


def samples() -> dict[str, bytes]:
    """Whole files by name; the ending says the kind."""
    gray, color, deep = picture((40, 33)), picture((24, 32, 3)), picture((17, 14), "uint16")
    jpeg = {"format": "JPEG", "quality": 92}
    return {
        "plain.dcm": _slice(False),
        "pet.dcm": _slice(False, "PT"),
        "rle.dcm": _slice(True),
        "a.nii": _nifti(),
        "b.nii": _nifti("float32"),
        "c.nii.gz": gzip.compress(_nifti(), mtime=0),
        "gray.png": _saved(lambda file: Image.fromarray(gray).save(file, "PNG")),
        "deep.png": _saved(lambda file: Image.fromarray(deep).save(file, "PNG")),
        "color.png": _saved(lambda file: Image.fromarray(color).save(file, "PNG")),
        "plain.tif": _saved(lambda file: tifffile.imwrite(file, picture((3, 12, 14), "uint16"), photometric=0)),
        "zlib.tif": _saved(lambda file: tifffile.imwrite(file, deep, compression="zlib", photometric=1)),
        "gray.jpg": _saved(lambda file: Image.fromarray(gray).save(file, **jpeg)),
        "color.jpg": _saved(lambda file: Image.fromarray(color).save(file, **jpeg)),
        "steps.jpg": _saved(lambda file: Image.fromarray(color).save(file, progressive=True, **jpeg)),
        "a.npy": _saved(lambda file: np.save(file, deep.astype("float32"))),
        "a.npz": _saved(lambda file: np.savez_compressed(file, image=deep)),
    }


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy of ``data`` that differs from it."""
    while True:
        out = bytearray(data)
        start = int(rng.integers(len(data)) ** rng.choice([0.6, 1.0]))  # headers lie at the front
        length = int(rng.choice([1, 2, 4, 16, 81, 200]))
        kind = rng.integers(8)
        if kind < 2:
            for place in rng.integers(start, min(len(out), start + 64), size=int(rng.integers(1, 4))):
                out[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            out[start : start + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 3:
            del out[start : start + length]
        elif kind == 4:
            out[start:start] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 5:
            del out[start:]
        elif kind == 6:
            out[start : start + length] = bytes(length)
        else:
            out += rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        if bytes(out) != data:
            return bytes(out)


def read(path: Path) -> np.ndarray:
    """The voxels of a file, as the program reads them; refused as it refuses them."""
    if path.suffix == ".dcm":
        return read_series(path).array
    header = read_header(path)
    image, _ = read_image(path)
    if header.size != image.shape[-2:] and header.size != image.shape[:2]:
        raise AssertionError(f"the header promises {header.size}, the image has {image.shape}")
    return image


def could_be_seen(path: Path, whole: bytes, data: bytes) -> str:
    """What in a damaged file shows the damage to someone who looks with other means than ours; empty if nothing does.

    Formats with check sums show all damage of what these cover, formats without any show another length.
    """
    name = path.name
    if name.endswith((".nii.gz", ".png", ".npz")):
        return "a check sum"
    if name == "rle.dcm":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _ = pydicom.dcmread(path).pixel_array
        return next((f"a warning: {one.message}" for one in caught if "RLE" in str(one.message)), "")
    if name.endswith((".nii", ".npy")) and len(data) != len(whole):
        return "another length"
    if name.endswith(".dcm") and len(data) > len(whole) and data.startswith(whole) and any(data[len(whole) :]):
        return "bytes behind the end"
    if name == "zlib.tif" and len(data) == len(whole) and _same_ends(whole, data):
        return "a check sum"
    return ""


def _same_ends(whole: bytes, data: bytes) -> bool:
    """The damage of a zlib TIFF lies within its packed pixels."""
    with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
        page = tiff.pages[0]
        start, stop = page.dataoffsets[0], page.dataoffsets[0] + page.databytecounts[0]
    return whole[:start] == data[:start] and whole[stop:] == data[stop:]


def judge(path: Path, whole: bytes, data: bytes, expected: np.ndarray) -> tuple[str, str]:
    """Read a damaged file: the outcome, and what is wrong with it, if anything."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read(path)
        except ValueError as error:
            text = str(error).replace(str(path), "")
            unfit = "\n" in text or len(text) > _LONGEST or not text.isprintable()
            return "refused", f"an unfit message: {text!r}" if unfit else ""
        except Exception:
            return "traceback", traceback.format_exc(limit=-3)
    if image.shape == expected.shape and np.array_equal(image, expected, equal_nan=True):
        return "the same", ""
    try:
        seen = could_be_seen(path, whole, data)
    except Exception as error:  # another reader refuses what ours took
        seen = f"{type(error).__name__}: {error}"
    return ("fooled", f"other voxels, though {seen} shows it") if seen else ("other values", "")


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, whole and damaged content of ``count`` files, the formats in turn."""
    whole, rng = samples(), np.random.default_rng(seed)
    names = list(whole)
    for number in range(count):
        name = names[number % len(names)]
        yield name, whole[name], damaged(whole[name], rng)


def fuzz(count: int, seed: int, keep: Path | None = None) -> Outcome:
    """Judge ``count`` damaged files."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for name, data in samples().items():
            (Path(folder) / name).write_bytes(data)
            expected[name] = read(Path(folder) / name)
        for number, (name, whole, data) in enumerate(mutations(count, seed)):
            kind, problem = judge(Path(folder) / name, whole, data, expected[name])
            outcome.counts[name, kind] += 1
            if problem:
                outcome.failures.append(f"{name}, number {number}: {problem}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}-{name}").write_bytes(data)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that a reader fails on")
    options = parser.parse_args()
    start = time.perf_counter()
    outcome = fuzz(options.count, options.seed, options.keep)
    for (name, kind), count in sorted(outcome.counts.items()):
        print(f"{name:12} {kind:12} {count}")
    print(*outcome.failures, sep="\n")
    print(f"{options.count} files in {time.perf_counter() - start:.0f} s, {len(outcome.failures)} failures")
    raise SystemExit(bool(outcome.failures))


if __name__ == "__main__":
    main()
