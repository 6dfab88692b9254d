"""Tune the threshold of a bundle's change map on people who train, and plant inventions and erasures to check it.

    python scripts/calibrate/change_threshold.py --bundle ct_denoise_restore_rwkv --data DATA -o change.json
    python scripts/calibrate/change_threshold.py --bundle ct_denoise_restore_rwkv --data DATA --threshold 5 --share 0.4

DATA is laid out as for a training, with clean images, which are degraded as the bundle's ``evaluate.json`` says, or as
pairs (``--layout``). The least disc that is to be found has three noise standard deviations, and 4 mm or three noise
grains if that is more (a grain is half a period of the noise's mean frequency). The threshold of an image is a share of
the ``z`` that this disc has in the noise of the image, and 4 at least; the share is the least one with at most one flag
in ten slices of everybody of ``--part``. For the people of ``--check``, the flags of slices without anything planted
are counted; then such discs are planted at up to twelve places of a slice. An invention is added to the result, an
erasure to the source alone. Half of each are darker. One is found if a flag has its strongest pixel within a disc's
diameter of its center. The file is for ``docs/change.json`` of the bundle.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import label

from medrestore_monai.audit import Volume
from medrestore_monai.audit.faithfulness import Flag, change_map, find_flags, noise_map
from medrestore_monai.audit.noise import Noise, measure_noise
from medrestore_monai.audit.spectrum import Spectrum
from medrestore_monai.audit.threshold import (
    DEVIATIONS,
    choose_share,
    diameter_of,
    shares,
    threshold_at,
    write_threshold,
)
from medrestore_monai.bundles import find_bundle
from medrestore_monai.evaluate import Candidate, load_volume, open_model, open_source, parse_settings
from medrestore_monai.evaluate.cases import LAYOUTS
from medrestore_monai.evaluate.lesions.sites import find_sites
from medrestore_monai.evaluate.models import Model
from medrestore_monai.evaluate.restorations import by_model


def slices_of(
    model: Model, data: Path, part: str, count: int | None, layout: str = "clean"
) -> list[tuple[str, Volume, Volume, np.ndarray]]:
    """Return patient, source, result and clean slice of each slice of a part."""
    source = open_source(model, data, layout, part, True, count)
    found = []
    for listed in source.images():
        volume = load_volume(source, listed, model.scaling, model.context > 0)
        restored = by_model(model, volume)
        for at in volume.scored:
            case = volume.slices[at].case
            image = Volume(case["image"].as_subclass(torch.Tensor)[0].numpy(), model.modality, volume.spacing)
            result = image.like(restored(at)[0].numpy())
            found.append((str(case["patient"]), image, result, volume.slices[at].label[0].numpy()))
            print(f"{part}: {len(found)} slices", flush=True)
    return found


def count_flags(z: np.ndarray, threshold: float) -> int:
    if np.abs(z).max() <= threshold:
        return 0
    return int(sum(label(sign * z > threshold, np.ones((3, 3)))[1] for sign in (1, -1)))


def flags_by_share(image: Volume, result: Volume, noise: Noise) -> dict[float, int]:
    spectrum = noise.of_source
    z = change_map(image, result, noise, spectrum)[0][..., 0]
    return {share: count_flags(z, threshold_at(share, spectrum, image.pixel)) for share in shares()}


def disc_of(noise: Noise, pixel: tuple[float, float]) -> tuple[float, np.ndarray]:
    """Return the diameter in mm of what is planted, and its pixels."""
    diameter = diameter_of(noise.of_source)
    half = int(np.ceil(diameter / 2 / min(pixel)))
    steps = np.arange(-half, half + 1)
    return diameter, (steps[:, None] * pixel[0]) ** 2 + (steps * pixel[1]) ** 2 <= (diameter / 2) ** 2


def planted(array: np.ndarray, places: list[tuple[int, int]], disc: np.ndarray, size: np.ndarray) -> np.ndarray:
    out, half = array.copy(), disc.shape[0] // 2
    for number, (x, y) in enumerate(places):
        sign = 1 if number % 2 else -1
        out[x - half : x + half + 1, y - half : y + half + 1, 0] += sign * DEVIATIONS * size[x, y] * disc
    return out


def count_found(flags: list[Flag], places: list[tuple[int, int]], reach: float, pixel: tuple[float, float]) -> int:
    apart = [[np.hypot((flag.x - x) * pixel[0], (flag.y - y) * pixel[1]) for flag in flags] for x, y in places]
    return sum(bool(distances and min(distances) <= reach) for distances in apart)


class Rule(NamedTuple):
    """A fixed threshold, or a share."""

    threshold: float = 0.0
    share: float = 0.0

    def at(self, spectrum: Spectrum, pixel: tuple[float, float]) -> float:
        """Return the threshold for an image."""
        return self.threshold or threshold_at(self.share, spectrum, pixel)


def check(
    found: list[tuple[str, Volume, Volume, np.ndarray]], tried: Sequence[Rule], modality: str
) -> dict[Rule, dict[str, int]]:
    """Count, for each rule, the flags of slices as they are, and the planted discs that are found."""
    counts = {one: {"slices": 0, "flags": 0, "planted": 0, "inventions_found": 0, "erasures_found": 0} for one in tried}
    for number, (_, image, result, clean) in enumerate(found):
        noise = measure_noise(image, image)
        spectrum = noise.of_source
        if spectrum is None:
            continue
        diameter, disc = disc_of(noise, image.pixel)
        size = noise_map(image, noise, spectrum)[..., 0]
        places = find_sites(clean, modality, image.pixel, max(12.0, diameter), number)
        erased = image.like(planted(image.array, places, disc, size))
        of_erased = measure_noise(erased, erased)  # all that an audit sees
        invented = result.like(planted(result.array, places, disc, size))
        maps = {
            "flags": (spectrum, *change_map(image, result, noise, spectrum)),
            "inventions_found": (spectrum, *change_map(image, invented, noise, spectrum)),
        }
        seen = of_erased.of_source
        if seen is not None:
            maps["erasures_found"] = (seen, *change_map(erased, result, of_erased, seen))
        for rule, one in counts.items():
            one["slices"] += 1
            one["planted"] += len(places)
            for name, (seen, z, inside) in maps.items():
                flags = find_flags(z[..., 0], inside[..., 0], 0, rule.at(seen, image.pixel), image.pixel)
                one[name] += len(flags) if name == "flags" else count_found(flags, places, diameter, image.pixel)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--modality", help="of a bundle with several")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", default="train")
    parser.add_argument("--check", default="test")
    parser.add_argument("--threshold", type=float, nargs="+", default=[], help="check these, tune nothing")
    parser.add_argument("--share", type=float, nargs="+", default=[], help="check these, tune nothing")
    parser.add_argument("--layout", default="clean", choices=LAYOUTS, help="of DATA; pairs are not degraded")
    parser.add_argument("--slices", type=int, help="use so many slices of each part, evenly spread")
    parser.add_argument("--set", action="append", default=[], help="a setting, NAME=VALUE, of evaluate.json")
    parser.add_argument("-o", "--output", type=Path, default=Path("change.json"))
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    modality = options.modality or bundle.modalities[0]
    candidate, settings = Candidate(bundle.name, bundle), parse_settings(options.set)

    def read(part: str) -> list[tuple[str, Volume, Volume, np.ndarray]]:
        model = open_model(candidate, modality, options.data, "cpu", settings, {"part": part})
        return slices_of(model, options.data, part, options.slices, options.layout)

    rules = [*(Rule(threshold=one) for one in options.threshold), *(Rule(share=one) for one in options.share)]
    if rules:
        for rule, counts in check(read(options.check), rules, modality).items():
            print(f"{options.check}, {rule}: {counts}")
        return
    people: dict[str, list[dict[float, int]]] = {}
    for patient, image, result, _ in read(options.part):
        noise = measure_noise(image, image)
        if noise.of_source is not None:
            people.setdefault(patient, []).append(flags_by_share(image, result, noise))
    share = choose_share(list(people.values()))
    slices = sum(map(len, people.values()))
    print(f"share {share:g}, on {slices} slices of {len(people)} people", flush=True)
    (checked,) = check(read(options.check), [Rule(share=share)], modality).values()
    print(f"{options.check}: {checked}")
    about = {"part": options.part, "people": len(people), "slices": slices}
    record = {"share": share, "weights_sha256": bundle.metadata["weights_sha256"], "tuned_on": about}
    write_threshold(options.output, modality, {**record, "checked_on": {"part": options.check, **checked}})


if __name__ == "__main__":
    main()
