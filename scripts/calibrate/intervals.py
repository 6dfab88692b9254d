r"""Calibrate the intervals of a bundle on people that no one trained on: its ``docs/interval.json``.

    python scripts/calibrate/intervals.py --bundle ct_denoise_restore_rwkv --data DATA \
        --images "CT at a quarter of the dose, simulated" -o interval.json
    python scripts/calibrate/intervals.py --bundle all_in_one_restore_rwkv --modality CT --data DATA \
        --images "CT at a quarter of the dose, simulated" -o out.json

DATA is laid out as for a training, with the parts of ``scripts/train/splits.csv``: clean images, which are degraded as
the bundle's ``evaluate.json`` says; ``--images`` puts that into words for the reports. The patients of ``--part`` are
restored and calibrated on; those of ``--check`` show how many of their voxels the intervals hold, which goes into the
file and belongs into the card. Without ``--check``, each of the patients is checked with intervals of the others.
Patients whose noise cannot be measured are left out and named; drawn images are left out. Nine patients or more are
needed for a promise of 90 %, 19 for one of 95 % (of just as many, each is checked without it); of fewer, or with
``--empirical``, the intervals are called empirical. A promise needs people whom no one chose on either.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medrestore_monai.audit import Volume
from medrestore_monai.audit.interval import (
    Calibration,
    Errors,
    calibrate,
    coverage_of,
    errors_of,
    settings_of_result,
    write_calibration,
)
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.bundles import find_bundle
from medrestore_monai.evaluate import Candidate, load_volume, open_model, open_source, parse_settings
from medrestore_monai.evaluate.models import Model
from medrestore_monai.evaluate.restorations import by_model

DRAWN = "upon_"  # images drawn upon those of another modality: nobody's
LABEL = "the value of the clean image, with its noise"


def patients_of(
    model: Model, data: Path, part: str, slices: int | None, layout: str = "clean"
) -> dict[str, list[Errors]]:
    """Return the errors of each image, by patient."""
    source = open_source(model, data, layout, part, True, slices)
    found: dict[str, list[Errors]] = {}
    for listed in source.images():
        if str(listed.items[0]["patient"]).startswith(DRAWN):
            continue
        volume = load_volume(source, listed, model.scaling, model.context > 0)
        places = volume.scored
        restored = by_model(model, volume)
        slices_of = (
            [volume.slices[at].case["image"].as_subclass(torch.Tensor) for at in places],
            [restored(at) for at in places],
            [volume.slices[at].label for at in places],
        )
        stack = [torch.stack(one, dim=-1)[0].numpy() for one in slices_of]
        image = Volume(stack[0], model.modality, volume.spacing)
        patient = str(volume.slices[places[0]].case["patient"])
        errors = errors_of(image, image.like(stack[1]), image.like(stack[2]), measure_noise(image, image))
        if errors is None:
            print(f"{patient}: the noise cannot be measured, left out")
            continue
        found.setdefault(patient, []).append(errors)
        largest = np.quantile(errors.error, 0.9)
        print(f"{patient}: {stack[0].shape[2]} slices, 90 % of the errors below {largest:.2f} noise SD", flush=True)
    return found


def joined(parts: list[Errors]) -> Errors:
    values = {name: np.concatenate([one.values[name] for one in parts]) for name in parts[0].values}
    return Errors(np.concatenate([one.error for one in parts]), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--modality", help="of a bundle with several")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", default="calibration", help="parts, separated by commas (default: %(default)s)")
    parser.add_argument("--check", help="part of the patients that the coverage is measured on")
    parser.add_argument("--pairs", type=Path, help="of full and low dose (layout low-dose-ct): prints what is held")
    parser.add_argument("--empirical", action="store_true", help="about 90 %% of the voxels, without a promise")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--slices", type=int, help="use so many slices of each part, evenly spread")
    parser.add_argument("--images", required=True, help="those that the intervals hold for, in words")
    parser.add_argument("--set", action="append", default=[], help="a setting, NAME=VALUE, of evaluate.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    modality = options.modality or bundle.modalities[0]
    candidate, settings = Candidate(bundle.name, bundle), parse_settings(options.set)

    def read(part: str) -> list[Errors]:
        model = open_model(candidate, modality, options.data, "cpu", settings, {"part": part})
        return [joined(parts) for parts in patients_of(model, options.data, part, options.slices).values()]

    def calibrated(patients: list[Errors]) -> Calibration:
        weights, promise = bundle.metadata["weights_sha256"], not options.empirical
        return calibrate(patients, LABEL, weights, made_with, options.level, options.images, promise)

    made_with = settings_of_result(bundle, {})
    patients = [one for part in options.part.split(",") for one in read(part)]
    found = calibrated(patients)
    held: list[float] = []
    if options.check:
        held = [coverage_of(one, found) for one in read(options.check)]
    elif len(patients) > 2:
        others = [[other for other in patients if other is not one] for one in patients]
        held = [coverage_of(one, calibrated(rest)) for one, rest in zip(patients, others, strict=True)]
    if held:
        checked = options.check or "each with intervals of the others"
        coverage = {"patients": len(held), "mean": round(float(np.mean(held)), 4), "worst": round(min(held), 4)}
        found = replace(found, coverage={"part": checked, **coverage})
        print("held: " + ", ".join(f"{one:.3f}" for one in held))
        print(f"{checked}: {np.mean(held):.3f} of the voxels held, worst patient {min(held):.3f}")
    if options.pairs:
        model = open_model(candidate, modality, options.pairs, "cpu", settings, {"part": "all"})
        pairs = patients_of(model, options.pairs, "all", options.slices, "low-dose-ct")
        for patient, parts in pairs.items():
            print(f"{patient}, pairs: {', '.join(f'{coverage_of(one, found):.3f}' for one in parts)} held")
    write_calibration(options.output, modality, found)
    print(f"{found.patients} patients, {found.kind}, factors {found.factors.min():.2f} to {found.factors.max():.2f}")


if __name__ == "__main__":
    main()
