"""Score people like those that trained a bundle, for the limit of its scope: ``scope_scores`` of ``metadata.json``.

    python scripts/train/scope_scores.py ct_denoise_restore_rwkv --data DIR
    python scripts/train/scope_scores.py mri_superresolution_restore_rwkv --data DIR --also validation,calibration

DIR is the folder that the training was run on. Its people are degraded as the bundle's ``evaluate.json`` says. Each of
the part ``train`` is compared with the pixel sizes, slice distances and kernels of the others, as one more person like
them would be; noise and histogram, which thousands of patches of all people give, stay. Those of the parts ``--also``
did not make the ranges and are compared with them as they are. The score of a person is that of the series that lies
furthest out. Run it after ``trained_on.py``, which writes the block anew.

For MR, whose unit is arbitrary, background and border of the people who train are written, too, and compared like the
pixel sizes: ``appearance``, the ranges of :func:`medrestore_monai.audit.scope.look_of`. Where fewer than ten people
train, there are no scores.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from trained_on import DRAWN, rounded, with_block

from medrestore_monai.audit import Volume
from medrestore_monai.audit.scope import limit_of, look_of, measure_scope
from medrestore_monai.audit.volume import chosen_slices
from medrestore_monai.bundles import Bundle, find_bundle
from medrestore_monai.evaluate import Candidate, load_volume, open_model, open_source
from medrestore_monai.evaluate.cases import Source, image_of
from medrestore_monai.transforms.ct.noise_measure import typical_noise

MOST = 4  # slices of an image
LEAST = 10  # people who train


@dataclass
class Person:
    """The degraded images of one person, and what the training knows of the clean ones."""

    images: list[Volume] = field(default_factory=list)
    pixels: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    cutoffs: list[float] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)


def some(source: Source) -> Source:
    """Return a source that scores at most four slices of each image, evenly spread, and no drawn ones."""
    images: dict[tuple[str, ...], list[Any]] = {}
    for item in source.items:
        if not str(item["patient"]).startswith(DRAWN):
            images.setdefault(image_of(item), []).append(item)
    return replace(source, items=[one[at] for one in images.values() for at in chosen_slices(len(one), MOST)])


def read_people(bundle: Bundle, modality: str, data: Path, part: str) -> dict[str, Person]:
    model = open_model(Candidate(bundle.name, bundle), modality, data, "cpu", {}, {"part": part})
    source = some(open_source(model, data, "clean", part, True, None))
    found: dict[str, Person] = {}
    for listed in source.images():
        volume = load_volume(source, listed, model.scaling, False)
        cases = [one.case for one in volume.slices]
        person = found.setdefault(str(cases[0]["patient"]), Person())
        degraded = torch.stack([case["image"].as_subclass(torch.Tensor)[0] for case in cases], dim=-1)
        person.images.append(Volume(degraded.numpy(), modality, volume.spacing))
        if modality == "MR":
            person.looks.append(look_of(degraded.numpy()))
        person.pixels += volume.spacing[:2]
        person.distances += volume.spacing[2:] if len(listed.items) > 1 else ()
        if modality == "CT":
            noise = typical_noise([case["label"].as_subclass(torch.Tensor) for case in cases], volume.spacing[0])
            person.cutoffs += [] if noise is None else [noise.cutoff]
        print(f"{part}: {len(found)} people", flush=True)
    return found


def without(block: Mapping[str, Any], others: Iterable[Person]) -> dict[str, Any]:
    """Return the block with the ranges that people give."""
    people, out = list(others), dict(block)
    for name, key in (("pixels", "pixel_mm"), ("distances", "distance_mm"), ("cutoffs", "kernel_cutoff_per_mm")):
        values = [value for one in people for value in getattr(one, name)]
        if values and key in block:
            out[key] = [min(values), max(values)]
    looks = [look for one in people for look in one.looks]
    if looks:
        limits = {name: [one[name] for one in looks] for name in looks[0]}
        out["appearance"] = {name: [min(values), max(values)] for name, values in limits.items()}
    return out


def score_of(person: Person, modality: str, block: Mapping[str, Any], neighbors: bool) -> float:
    scopes = [measure_scope(image, {"modalities": {modality: block}}, neighbors) for image in person.images]
    worst = max(scopes, key=lambda one: one.score or 0)
    if worst.score:
        print(f"  {worst.line}", flush=True)
    return worst.score or 0.0


def rounded_up(score: float) -> float:
    """Return a score in three significant digits, at least as large, so that nobody is above the own limit."""
    near = float(f"{score:.3g}")
    return near if near >= score else float(f"{score + 10 ** (math.floor(math.log10(score)) - 2):.3g}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--modality", help="of a bundle with several")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--also", default="validation", help="parts, separated by commas (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the scores into the bundle's metadata.json")
    options = parser.parse_args(arguments)
    bundle = find_bundle(options.bundle)
    modality = options.modality or bundle.modalities[0]
    path = bundle.config("metadata")
    trained_on = json.loads(path.read_text(encoding="utf-8"))["trained_on"]
    block = trained_on["modalities"][modality]
    neighbors = json.loads(bundle.config("inference").read_text(encoding="utf-8")).get("context", 0) > 0
    trained = read_people(bundle, modality, options.data, "train")
    if len(trained) < LEAST:
        parser.error(f"only {len(trained)} people train; scores need at least {LEAST}.")
    looks = without({}, trained.values()).get("appearance", {})
    if looks:
        block["appearance"] = {name: rounded(limits) for name, limits in looks.items()}
    scores = [
        score_of(one, modality, without(block, (other for other in trained.values() if other is not one)), neighbors)
        for one in trained.values()
    ]
    for part in filter(None, options.also.split(",")):
        others = read_people(bundle, modality, options.data, part).values()
        scores += [score_of(one, modality, block, neighbors) for one in others]
    scores = sorted(map(rounded_up, scores), reverse=True)
    block["scope_scores"] = scores
    limit = limit_of(scores)
    beyond = sum(one > limit for one in scores)
    print(
        f"{len(scores)} people, {sum(one > 0 for one in scores)} beyond the ranges; limit {limit:.3g}, {beyond} above"
    )
    print(json.dumps(block["scope_scores"]))
    if options.write:
        path.write_text(with_block(path.read_text(encoding="utf-8"), trained_on), encoding="utf-8")


if __name__ == "__main__":
    main()
