"""What the prepare_*.py scripts share: their arguments, an output that is whole or not there, and progress."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from PIL import Image

from medrestore_monai.data import PatientSplit
from medrestore_monai.data.parts import PARTS
from medrestore_monai.images import read_image

Thing = TypeVar("Thing")


def parser(description: str, source: str, split: bool = False) -> argparse.ArgumentParser:
    """Return a parser of SOURCE and OUTPUT; with ``split``, also of how patients are divided."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("source", type=Path, help=source)
    result.add_argument("output", type=Path, help="folder to make; it must not exist")
    if split:
        number = "a fraction below 1, or a number of patients"
        result.add_argument("--split", type=Path, help="file that says which patient is in train, validation or test")
        result.add_argument("--validation", type=float, default=0.1, help=f"{number} (default: %(default)s)")
        result.add_argument("--test", type=float, default=0.2, help=f"{number} (default: %(default)s)")
        result.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    return result


def split_of(options: argparse.Namespace) -> PatientSplit:
    """Return the split that the arguments ask for."""
    return PatientSplit(options.split, options.validation, options.test, options.seed)


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Call ``main``; what a user can mend becomes a message: exit code 2 for an output that exists, 3 for bad data."""
    try:
        main(None)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, FileExistsError) else 3)


@contextmanager
def prepared(output: Path, list_part: Callable[[Path, str], list[dict[str, Any]]]) -> Iterator[Path]:
    """Give an empty folder to fill, and put it in place as ``output`` when all went well; else leave nothing.

    Args:
        output: a folder that is not there yet.
        list_part: the layout's function, which checks what was written.

    Raises:
        FileExistsError: there is such a folder.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; name another output.")
    made = [folder for folder in output.absolute().parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield unfinished
        counts = [_count(list_part, unfinished, part) for part in PARTS if (unfinished / part).is_dir()]
        unfinished.chmod(0o777 & ~_umask())
        unfinished.rename(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        raise
    print("\n".join(counts) + f"\nready: {output}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _count(list_part: Callable[[Path, str], list[dict[str, Any]]], folder: Path, part: str) -> str:
    items = list_part(folder / part, "all")
    return f"{part}: {len(items)} slices of {len({item['patient'] for item in items})} patients or scenes"


def progress(things: Sequence[Thing], what: str) -> Iterator[Thing]:
    """Give the things one by one and say every two seconds how far it is."""
    shown_at = time.monotonic()
    for number, thing in enumerate(things):
        if time.monotonic() - shown_at > 2:
            shown_at = time.monotonic()
            print(f"{what}: {number} of {len(things)}", file=sys.stderr)
        yield thing


def read_stacks(folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Give the stacks of ``slices.npz``, shape ``(X, Y, Z)``, as stored, each with its entry of ``meta.json``."""
    cards = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    with np.load(folder / "slices.npz") as stacks:
        for card in cards:
            yield card, stacks[card["key"]].transpose(2, 1, 0)


def put(source: Path | str, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_volume(target: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write voxels ``(X, Y, Z)`` as NIfTI of their type; the affine is RAS, in mm."""
    target.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, target)


def draw_upon_ct(
    source: Path,
    target: Path,
    draw: Callable[[np.ndarray, float, np.random.RandomState], tuple[np.ndarray, float]],
    drawings: int,
    seed: int,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Write slices of another modality, drawn upon CT slices, one folder ``upon_...`` a patient.

    Args:
        source: folder of ``PATIENT/NAME.nii.gz`` in HU.
        target: folder to write in.
        draw: called with a slice in HU ``(X, Y)``, its pixel size in mm and the source of randomness; returns a slice
            of the other modality and its pixel size.
        drawings: how many of each CT slice.
        seed: of the drawings.
        parts: of the CT patients; those that do not train are left out.

    Raises:
        ValueError: there are no CT slices.
    """
    random = np.random.RandomState(seed)
    paths = [
        path for path in sorted(source.glob("*/*.nii.gz")) if (parts or {}).get(path.parent.name, "train") == "train"
    ]
    if not paths:
        raise ValueError(f"{source} holds no PATIENT/NAME.nii.gz that trains: make it without --split.")
    for path in progress(paths, "CT slices"):
        voxels, meta = read_image(path)
        spacing = float(np.linalg.norm(np.asarray(meta["affine"])[:3, 0]))
        slices = voxels[..., None] if voxels.ndim == 2 else voxels
        for number in range(slices.shape[-1]):
            for drawing in range(drawings):
                drawn, pixel = draw(slices[..., number].astype(np.float32), spacing, random)
                name = f"{path.name.removesuffix('.nii.gz')}_{number:03d}_{drawing}.nii.gz"
                affine = np.diag([pixel, pixel, 4.0, 1.0])
                write_volume(target / f"upon_{path.parent.name}" / name, drawn[..., None], affine)


def write_picture(target: Path, picture: np.ndarray) -> None:
    """Write an 8 bit picture ``(X, Y)`` or ``(3, X, Y)`` as PNG."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture.T.astype(np.uint8))).save(target)


def read_picture(path: Path, color: bool) -> np.ndarray:
    """Read an 8 bit picture, ``(3, X, Y)`` if ``color``, where gray is repeated, else ``(X, Y)``.

    Raises:
        ValueError: it is no 8 bit picture, or has color where gray is asked for.
    """
    picture, meta = read_image(path)
    if meta["original_dtype"] != "uint8" or (picture.ndim == 3 and meta["original_channel_dim"] != 0):
        raise ValueError(f"{path}: expected one 8 bit picture.")
    if picture.ndim == 3 and not color:
        raise ValueError(f"{path}: expected gray, got color.")
    return np.stack([picture] * 3) if color and picture.ndim == 2 else picture


def put_pairs(pairs: Sequence[dict[str, Any]], output: Path) -> None:
    """Give the pictures of pairs the names ``LQ/<scene>/<picture>`` and ``HQ/<scene>/<picture>`` below ``output``."""
    for item in progress(pairs, output.name):
        for key, side in (("image", "LQ"), ("label", "HQ")):
            name = Path(item["label"]).stem + Path(item[key]).suffix
            put(item[key], output / side / item["patient"] / name)
