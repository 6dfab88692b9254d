"""Count scope alarms: of people who did not train, and of twelve kinds of wrong input.

    python scripts/experiments/scope_alarms.py SOURCE [--bundle ct_denoise_restore_rwkv]

SOURCE holds the collections that ``scripts/train/splits.csv`` names. The people of its parts ``test`` and
``adaptation`` count, up to six slices of each series, degraded as the bundle's ``evaluate.json`` says; the real
quarter-dose scans stay as they are. A person has an alarm if the scope of a series is "out". Those of ``calibration``
are counted apart: they set the limit of the score (``scripts/train/scope_scores.py``), or trained. People whose anatomy
or scanner the training lacked on purpose are listed, too: an alarm is right for them, but their number is not asked
for.

Each person without an alarm is then made wrong in twelve ways, and it is counted how often that is "out", or at least
"near the edge". Another modality is a middle slice of another person for each; the picture is always the same. For MR,
"HU + 1024" is CT in such stored values. Intervals are exact binomial ones, of 95 %. Data of grade C are only counted,
nothing of them is kept.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, zoom
from scipy.stats import binomtest
from skimage.data import camera

from medrestore_monai.audit import Volume
from medrestore_monai.audit.scope import IN, OUT, Scope, measure_scope
from medrestore_monai.bundles import Bundle, find_bundle
from medrestore_monai.data import read_split
from medrestore_monai.dicom import read_series, suv_factor
from medrestore_monai.evaluate import Candidate, load_volume, open_model, open_source

SPLIT = Path(__file__).resolve().parents[1] / "train" / "splits.csv"
BUNDLES = ("ct_denoise_restore_rwkv", "pet_synthesis_restore_rwkv", "mri_superresolution_restore_rwkv")
MANY = ("all_in_one_restore_rwkv",)
PARTS, MOST = ("test", "calibration", "adaptation"), 6
STACKS = {
    "CT": ("ct_lung_tcga", "ct_limb_sts", "ct_tcia_mixed", "ct_contiguous_tcia"),
    "PT": (),
    "MR": (
        "mri_limb_t1_sts",
        "mri_brain_ms_flair_t1_t2",
        "mri_brain_tcia_tumour",
        "mri_prostate_tcia",
        "mri_spine_sct",
    ),
}
FILES = {"mri_abdomen_t2_cmbcrc": "CMB-CRC-MSB-06489", "mri_brain_t1gd_vsseg": "VS-SEG-001"}
NAMES = {"t2_ms patient": "spine-t2-ms"}  # in the split file
LEAST_DETAIL = 0.002  # hf_ratio of an MR image that the scanner did not interpolate
# folders of an anatomy or scanner that a bundle's card says was not seen
UNSEEN = {"CT": ("ct_limb_sts", "ct_contiguous_tcia"), "PT": (), "MR": ()}
OTHER = {"CT": "MR", "PT": "CT", "MR": "CT"}


class Case(NamedTuple):
    """A series: the clean one, and what of it goes into the bundle; HU, SUV or arbitrary units, ``(X, Y, Z)``."""

    patient: str
    folder: str
    clean: np.ndarray
    image: Volume


def some(voxels: np.ndarray) -> np.ndarray:
    """Return at most six slices, evenly spread."""
    count = voxels.shape[2]
    return voxels if count <= MOST else voxels[..., np.linspace(0, count - 1, MOST + 2)[1:-1].round().astype(int)]


def stacks(folder: Path) -> Iterator[tuple[str, np.ndarray, list[float]]]:
    """Give patient, values and spacing of the series of ``slices.npz`` or of the TCGA archive."""
    cards = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if folder.name == "ct_lung_tcga":
        held = np.load(folder / "ct_slices.npz")
        for card, stored, slope, zero in zip(
            cards, held["stored"], held["rescale_slope"], held["rescale_intercept"], strict=True
        ):
            row, column = card["pixel_spacing"]
            yield card["patient"], (stored.T * slope + zero)[..., None], [column, row, card["slice_thickness"]]
        return
    held = np.load(folder / "slices.npz")
    for card in cards:
        patient = card.get("patient") or card["key"]
        if folder.name.startswith("mri") and (card["hf_ratio"] or 0) < LEAST_DETAIL:
            continue
        stored = held[card["key"]].transpose(2, 1, 0).astype(np.float32)
        stored = stored * float(card.get("rescale_slope") or 1) + float(card.get("rescale_intercept") or 0)
        if card.get("spacing_mm"):
            distance, row, column = card["spacing_mm"]
        else:
            row, column = (card.get("voxel_mm") or card.get("pixel_mm"))[:2]
            distance = (card.get("voxel_mm") or [0, 0, float(card.get("thickness") or 3)])[2]
        yield NAMES.get(patient, patient), stored, [column, row, distance]


def scans(source: Path, modality: str) -> Iterator[tuple[str, str, np.ndarray, list[float]]]:
    """Give patient, folder, values ``(X, Y, Z)`` and spacing in mm of every clean series of a modality."""
    for name in STACKS[modality]:
        for patient, voxels, spacing in stacks(source / name):
            yield patient, name, voxels, spacing
    if modality == "MR":
        for name, patient in FILES.items():
            image = nib.load(next((source / name).glob("*.nii.gz")))
            yield patient, name, np.asarray(image.dataobj, np.float32), list(map(float, image.header.get_zooms()[:3]))
    if modality == "CT":
        folder = source / "ct_abdomen_crlm" / "CRLM-CT-1006"
        yield "CRLM-CT-1006", "ct_abdomen_crlm", *of_series(folder, modality)
    if modality == "PT":
        for path in sorted((source / "sts_pet_crops").glob("*/PET.nii.gz")):
            image = nib.load(path)
            spacing = list(map(float, image.header.get_zooms()[:3]))
            yield path.parent.name, "sts_pet_crops", np.asarray(image.dataobj, np.float32), spacing
        place = next(path for path in (source / "pet_fdg_headneck").iterdir() if path.is_dir())
        yield place.name, "pet_fdg_headneck", *of_series(place, modality)


def of_series(folder: Path, modality: str) -> tuple[np.ndarray, list[float]]:
    series = read_series(folder, modality=modality, allow_gaps=True)
    factor = suv_factor(series.datasets) if modality == "PT" else 1.0
    return series.array * factor, np.linalg.norm(series.affine[:3, :3], axis=0).tolist()


def cases(bundle: Bundle, source: Path, modality: str) -> Iterator[Case]:
    """Degrade the series of the people who count as the bundle's ``evaluate.json`` says."""
    parts = read_split(SPLIT)
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for number, (patient, folder, voxels, spacing) in enumerate(scans(source, modality)):
            if parts.get(patient) in PARTS:
                target = Path(place, patient, f"{number:03d}.nii.gz")
                target.parent.mkdir(exist_ok=True)
                image = nib.Nifti1Image(some(voxels).astype(np.float32), np.diag([*spacing, 1.0]))
                image.header.set_xyzt_units("mm")
                nib.save(image, target)
                folders[patient] = folder
        model = open_model(Candidate(bundle.name, bundle), modality, Path(place), "cpu", {}, {"part": "all"})
        listing = open_source(model, Path(place), "clean", "all", True, None)
        for listed in listing.images():
            volume = load_volume(listing, listed, model.scaling, model.context > 0)
            chosen = [volume.slices[at] for at in volume.scored]
            degraded = [one.case["image"].as_subclass(torch.Tensor) for one in chosen]
            clean = torch.stack([one.label for one in chosen], dim=-1)[0].numpy()
            image = Volume(torch.stack(degraded, dim=-1)[0].numpy(), modality, volume.spacing)
            patient = str(chosen[0].case["patient"])
            yield Case(patient, folders[patient], clean, image)
    for place in sorted((source / "ct_lowdose_pairs").glob("*/quarter*")) if modality == "CT" else ():
        voxels, spacing = of_series(place, modality)
        image = Volume(some(voxels), modality, tuple(spacing))
        yield Case(place.parent.name, "ct_lowdose_pairs", gaussian_filter(image.array, (1, 1, 0)), image)


def changed(case: Case, array: np.ndarray, scale: tuple[float, float, float] = (1, 1, 1), unit: str = "") -> Volume:
    spacing = tuple(step * factor for step, factor in zip(case.image.spacing, scale, strict=True))
    return Volume(array, case.image.modality, spacing, unit or case.image.unit)


def air_of(array: np.ndarray) -> np.ndarray:
    """Return the window of 48 x 48 pixels, or of half of a smaller image, that has the lowest mean of the slices."""
    side = min(48, min(array.shape[:2]) // 2)
    sums = np.pad(array.mean(axis=2).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    means = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    x, y = np.unravel_index(means.argmin(), means.shape)
    return array[x : x + side, y : y + side]


def middles(source: Path, modality: str) -> Iterator[np.ndarray]:
    """Give the middle slice of one series of each person."""
    seen = set()
    for patient, _, voxels, _ in scans(source, modality):
        if patient not in seen:
            seen.add(patient)
            yield np.asarray(voxels[..., voxels.shape[2] // 2], np.float32)


def wrong_inputs(others: Iterator[np.ndarray]) -> dict[str, Callable[[Case], Volume | None]]:
    """Return what makes an input wrong, by name; ``None`` where that does not exist for a modality.

    Args:
        others: slices of another modality, one of each person, in its unit; each case takes the next one.
    """

    def noisy(case: Case) -> Volume:
        if case.image.modality == "MR":  # truncation adds no noise: three times a usual one, 3 % of the range
            size = 0.09 * np.percentile(case.image.array, 99.5)
            noise = np.random.default_rng(0).normal(0, size, case.image.array.shape)
            return changed(case, np.abs(case.image.array + noise))
        return changed(case, case.clean + 3 * (case.image.array - case.clean))

    def offset(case: Case) -> Volume | None:
        if case.image.modality == "MR":
            return changed(case, np.repeat(next(others)[..., None], 2, axis=2) + 1024)
        return changed(case, case.image.array + 1024) if case.image.modality == "CT" else None

    def unit(case: Case) -> Volume | None:
        if case.image.modality == "CT":  # 1/cm
            return changed(case, 0.19 * (1 + case.image.array / 1000))
        return changed(case, case.image.array * 5000) if case.image.modality == "PT" else None  # Bq/ml as SUV

    def sharper(case: Case) -> Volume:
        array = case.image.array
        return changed(case, array + 2 * (array - gaussian_filter(array, (0.8, 0.8, 0))))

    def enlarged(case: Case) -> Volume:
        return changed(case, zoom(case.image.array, (2, 2, 1), order=3), (0.5, 0.5, 1))

    return {
        "another modality": lambda case: changed(case, np.repeat(next(others)[..., None], 2, axis=2)),
        "another unit": unit,
        "HU + 1024": offset,
        "three times the noise": noisy,
        "sharper kernel": sharper,
        "pixel size x 4": lambda case: changed(case, case.image.array, (4, 4, 1)),
        "slice distance x 4": lambda case: changed(case, case.image.array, (1, 1, 4)),
        "inverted": lambda case: changed(case, case.image.array.max() + case.image.array.min() - case.image.array),
        "cropped to air": lambda case: changed(case, air_of(case.image.array)),
        "already denoised": lambda case: changed(case, gaussian_filter(case.image.array, (1.5, 1.5, 0))),
        "enlarged twice": enlarged,
        "a picture": lambda case: changed(case, np.repeat(camera().T[..., None].astype(np.float32), 2, axis=2)),
    }


def interval(count: int, total: int) -> str:
    if not total:
        return "none"
    low, high = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total} ({100 * low:.0f} to {100 * high:.0f} %)"


def report(bundle: Bundle, modality: str, source: Path, only: list[str] | None) -> None:
    trained = bundle.metadata["trained_on"]
    neighbors = json.loads(bundle.config("inference").read_text(encoding="utf-8"))["context"] > 0

    def scope(image: Volume) -> Scope:
        return measure_scope(image, trained, neighbors)

    found = [(case, scope(case.image)) for case in cases(bundle, source, modality)]
    states: dict[str, list[str]] = {}
    for case, one in found:
        states.setdefault(case.patient, []).append(one.state)
        if one.state != IN:
            print(f"  {case.folder}, {case.patient}: {one.state}: {'; '.join(one.reasons)}", flush=True)
    unseen = {case.patient for case, _ in found if case.folder in UNSEEN[modality]}
    parts = read_split(SPLIT)
    seen = {one for one in set(states) - unseen if parts[one] == "calibration"}
    groups = {"people": set(states) - unseen - seen, "of the calibration": seen, "not covered by the training": unseen}
    for title, people in groups.items():
        alarms = sum(OUT in states[one] for one in people)
        beyond = sum(set(states[one]) != {IN} for one in people)
        if people:
            print(
                f"{bundle.name}, {modality}, {title}: alarms {interval(alarms, len(people))}, with 'near' {beyond}",
                flush=True,
            )
    first = {case.patient: case for case, one in reversed(found) if one.state != OUT}
    others = cycle(list(islice(middles(source, OTHER[modality]), len(first))))
    for name, wrong in wrong_inputs(others).items():
        if only and name not in only:
            continue
        inputs = [image for image in map(wrong, first.values()) if image is not None]
        results = [scope(image).state for image in inputs]
        out, near = results.count(OUT), sum(one != IN for one in results)
        print(f"  | {name} | {interval(out, len(results))} | {near} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the collections' folders")
    parser.add_argument("--bundle", action="append", choices=(*BUNDLES, *MANY), help="(default: those of one modality)")
    parser.add_argument("--only", action="append", metavar="KIND", help="of wrong input (default: all twelve)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # missing units and gaps between slices are those of the temporary files
    for name in options.bundle or BUNDLES:
        bundle = find_bundle(name)
        for modality in bundle.evaluated:
            report(bundle, modality, options.source, options.only)


if __name__ == "__main__":
    main()
