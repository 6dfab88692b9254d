"""Pairs of a degraded and a clean image: folders side by side, GoPro, RealBlur, low-dose CT."""

import fnmatch
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from medrestore_monai.data.checks import Problems, check_and_slice
from medrestore_monai.data.find import Item, find_images, without_suffix
from medrestore_monai.data.parts import PatientSplit, check_part, choose_part, from_parts
from medrestore_monai.files import walk

KEYS = ("image", "label")  # degraded, clean
_DOSE = re.compile(r"^(full|quarter|FD|QD)(?=_)")
_QUARTER = {"full": "quarter", "FD": "QD"}
_MAYO_PATIENT = re.compile(r"[LNC]\d{3}")


def paired_folders(
    folder: str | os.PathLike[str],
    part: str = "all",
    degraded: str = "LQ",
    clean: str = "HQ",
    split: PatientSplit | None = None,
    channels: int | None = None,
    full_check: bool = False,
    allow_gaps: bool = False,
) -> list[Item]:
    """List pairs that have the same name below two folders, such as ``LQ/p1/a.png`` and ``HQ/p1/a.tif``.

    NIfTI, DICOM series (a folder each), PNG, TIFF, JPEG and NumPy; endings do not count. The two folders lie side by
    side in ``folder``, or anywhere below it, one couple a patient: ``<patient>/LQ`` and ``<patient>/HQ``.

    Args:
        folder: the data set; if it has folders ``train``, ``validation`` or ``test``, these are the parts.
        part: ``train``, ``validation``, ``test`` or ``all``.
        degraded: name of the folders with degraded images.
        clean: name of the folders with clean images.
        split: who belongs where, if no folders say so; ``None`` draws a tenth of the patients for validation. A patient
            is the first folder below ``LQ``, else that above it, else each image.
        channels: how many every image must have, such as 3 for RGB; ``None`` for any.
        full_check: read every pixel, not only headers.
        allow_gaps: take DICOM series with missing slices.

    Returns:
        ``{"image": degraded, "label": clean, "slice": number, "patient": ..., "name": ...}`` for every slice.

    Raises:
        ValueError: partners are missing, sizes differ, files are unfit (all of it in one error); or no such part.
    """
    check_part(part)
    problems = Problems(folder)
    list_pairs = partial(_pairs_below, degraded=degraded, clean=clean, problems=problems)
    entries = choose_part(Path(folder), part, split, list_pairs)
    return check_and_slice(entries, KEYS, problems, channels, full_check, allow_gaps)


def gopro(
    folder: str | os.PathLike[str],
    part: str,
    blurred: str = "blur",
    split: PatientSplit | None = None,
    full_check: bool = False,
) -> list[Item]:
    """List the pairs of GoPro: ``train/<scene>/blur/*.png`` and ``train/<scene>/sharp/*.png``, and ``test`` likewise.

    Args:
        folder: the data set, ``GOPRO_Large``.
        part: ``train``, ``validation``, ``test`` or ``all``; scenes that validate are drawn from training.
        blurred: ``blur`` or ``blur_gamma``.
        split: how many scenes validate; ``None`` for a tenth.
        full_check: read every pixel, not only headers.

    Returns:
        Items as :func:`paired_folders`; the patient is the scene.

    Raises:
        ValueError: as :func:`paired_folders`.
    """
    return paired_folders(folder, part, blurred, "sharp", split, channels=3, full_check=full_check)


def _pairs_below(root: Path, degraded: str, clean: str, problems: Problems) -> list[Item]:
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}.")
    entries: list[Item] = []
    for place in _places(root, {degraded, clean}):
        missing = [name for name in (degraded, clean) if not (place / name).is_dir()]
        if missing:
            problems.append(f"{place} has no folder {missing[0]}")
        else:
            entries += _pairs_in(place, root, degraded, clean, problems)
    if not entries:
        problems.raise_any()
        raise ValueError(f"{root} has no folders {degraded} and {clean} side by side.")
    return entries


def _places(root: Path, names: set[str]) -> Iterator[Path]:
    """Walk to the folders that have one of ``names`` in them."""
    for place, subfolders, _ in walk(root):
        if names & set(subfolders):
            yield place
        subfolders[:] = sorted(name for name in subfolders if name not in names and not name.startswith("."))


def _pairs_in(place: Path, root: Path, degraded: str, clean: str, problems: Problems) -> list[Item]:
    sides = [_by_name(place / name, problems) for name in (degraded, clean)]
    for side, other, name in ((sides[0], sides[1], clean), (sides[1], sides[0], degraded)):
        problems += [f"{side[one]['path']} has no partner in {place / name}" for one in side if one not in other]
    entries = []
    for name in (name for name in sides[1] if name in sides[0]):
        label = sides[1][name]
        inside = label["patient"] if "/" in label["name"] else name
        patient = inside if place == root else place.relative_to(root).as_posix()
        entries.append(
            {
                "image": sides[0][name]["path"],
                "label": label["path"],
                "series_uid": "",
                "patient": patient if patient != "." else root.name,
                "name": (place.relative_to(root) / label["name"]).as_posix(),
            }
        )
    return entries


def _by_name(folder: Path, problems: Problems) -> dict[str, Item]:
    """List the images of a folder by their names without endings."""
    found: dict[str, Item] = {}
    try:
        items = find_images(folder, problems)
    except ValueError as error:
        problems.append(str(error))
        return {}
    for item in items:
        name = without_suffix(item["name"])
        if name in found:
            several = "holds several DICOM series" if item["series_uid"] else f"has the name of {found[name]['path']}"
            problems.append(f"{item['path']} {several}, so its partner is unknown")
        found.setdefault(name, item)
    return found


def realblur(
    folder: str | os.PathLike[str],
    part: str,
    subset: str = "J",
    split: PatientSplit | None = None,
    full_check: bool = False,
) -> list[Item]:
    """List the pairs of RealBlur by its list files, such as ``RealBlur_J_train_list.txt``: lines ``clean blurred``.

    Args:
        folder: the data set; the list files are in it, and their paths start there.
        part: ``train``, ``validation``, ``test`` or ``all``; scenes that validate are drawn from training.
        subset: ``J`` (camera pictures) or ``R`` (from raw data).
        split: how many scenes validate; ``None`` for a tenth.
        full_check: read every pixel, not only headers.

    Returns:
        Items as :func:`paired_folders`; the patient is the scene.

    Raises:
        ValueError: as :func:`paired_folders`, or a list file is not there or cannot be read.
    """
    check_part(part)
    root, problems = Path(folder), Problems(folder)
    lists = {name: root / f"RealBlur_{subset}_{name}_list.txt" for name in ("train", "test")}
    lists = {name: path for name, path in lists.items() if path.is_file()}
    if not lists:
        raise ValueError(
            f"{root} has no list file RealBlur_{subset}_train_list.txt or RealBlur_{subset}_test_list.txt."
        )
    if part == "all":
        entries = [entry for path in lists.values() for entry in _listed_pairs(path, problems)]
    else:
        list_pairs = partial(_listed_pairs, problems=problems)
        entries = from_parts(root, part, split or PatientSplit(), list_pairs, lists)
    return check_and_slice(entries, KEYS, problems, 3, full_check)


def _listed_pairs(list_file: Path, problems: Problems) -> list[Item]:
    entries = []
    for number, line in enumerate(list_file.read_text(encoding="utf-8").splitlines(), start=1):
        paths = line.split()
        if len(paths) < 2:
            if paths:
                problems.append(f"{list_file}, line {number}: expected 'clean blurred', got {line!r}")
            continue
        clean, blurred = (list_file.parent / name for name in paths[:2])
        scene = clean.parent.parent.name if len(Path(paths[0]).parts) > 2 else clean.stem
        card = {"series_uid": "", "patient": scene, "name": paths[0]}
        entries.append({"image": str(blurred), "label": str(clean), **card})
    if not entries:
        problems.append(f"{list_file} lists no pair")
        problems.raise_any()
    return entries


def low_dose_ct(
    folder: str | os.PathLike[str],
    part: str,
    pattern: str = "*",
    split: PatientSplit | None = None,
    full_check: bool = False,
    allow_gaps: bool = False,
) -> list[Item]:
    """List the slice pairs of the low-dose CT collections of Mayo Clinic, DICOM as downloaded.

    Of the challenge of AAPM: ``full_3mm`` and ``quarter_3mm`` folders, in or around the patients' folders, such as
    ``L067/full_3mm``, ``full_3mm/L067`` or ``3mm B30/full_3mm/L067/full_3mm``. Of LDCT-and-Projection-data: the folders
    ``... Full dose images ...`` and ``... Low dose images ...`` of one study.

    Args:
        folder: the data set.
        part: ``train``, ``validation``, ``test`` or ``all``.
        pattern: takes only full-dose folders whose place below ``folder`` fits, such as ``*3mm*`` or ``L*``.
        split: who belongs where; ``PatientSplit(validation=1, test=1)`` has the numbers of Restore-RWKV for AAPM's 10.
        full_check: read every pixel, not only headers.
        allow_gaps: take series with missing slices; slices of a pair must lie at the same place all the same.

    Returns:
        ``{"image": low dose, "label": full dose, "slice": number, "patient": "L067", "name": ...}`` for every slice.

    Raises:
        ValueError: partners are missing, series differ in size or place, files are unfit (all of it in one error); or
            no such part.
    """
    check_part(part)
    problems = Problems(folder)

    def list_pairs(root: Path) -> list[Item]:
        entries = [
            {
                "image": str(low),
                "label": str(full),
                "series_uid": "",
                "patient": _mayo_patient(full, root),
                "name": full.relative_to(root).as_posix(),
            }
            for full, low in _dose_pairs(root, pattern, problems)
        ]
        if not entries:
            problems.raise_any()
            raise ValueError(f"{root} has no folders full_*mm and quarter_*mm, or Full and Low dose images.")
        return entries

    entries = choose_part(Path(folder), part, split, list_pairs)
    return check_and_slice(entries, KEYS, problems, 1, full_check, allow_gaps)


def _dose_pairs(root: Path, pattern: str, problems: Problems) -> list[tuple[Path, Path]]:
    """Return the folders with full-dose slices, each with its low-dose partner."""
    full, low = [], set()
    for path, subfolders, files in walk(root):
        subfolders.sort()
        if not any(not name.startswith(".") for name in files):
            continue
        doses = [match[1] for name in path.relative_to(root).parts if (match := _DOSE.match(name))]
        if "full dose images" in path.name.lower() or (doses and doses[-1] in _QUARTER):
            full.append(path)
        elif "low dose images" in path.name.lower() or doses:
            low.add(path)
    pairs = [(path, _low_dose_partner(path, root, low)) for path in full]
    partners = {partner for _, partner in pairs}
    chosen = [(path, partner) for path, partner in pairs if fnmatch.fnmatch(str(path.relative_to(root)), pattern)]
    problems += [f"{path} has no low-dose partner" for path, partner in chosen if partner is None]
    if pattern == "*":
        problems += [f"{path} has no full-dose partner" for path in sorted(low - partners)]
    return [(path, partner) for path, partner in chosen if partner is not None]


def _low_dose_partner(full: Path, root: Path, low: set[Path]) -> Path | None:
    if "full dose images" in full.name.lower():
        partners = [path for path in low if path.parent == full.parent]
        return partners[0] if len(partners) == 1 else None
    parts = full.relative_to(root).parts
    partner = root.joinpath(*(_DOSE.sub(lambda match: _QUARTER.get(match[0], match[0]), name) for name in parts))
    return partner if partner in low else None


def _mayo_patient(full: Path, root: Path) -> str:
    parts = full.relative_to(root).parts
    named = [name for name in parts if _MAYO_PATIENT.fullmatch(name)]
    other = [name for name in parts[:-1] if not _DOSE.match(name)]
    return named[-1] if named else other[-1] if other else root.name
