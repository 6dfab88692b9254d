r"""Draw degraded, restored and clean images side by side, for a bundle's card.

    python scripts/experiments/before_after.py --bundle NAME --data data/rgb --show blood --show nuclei -o picture.png
    python scripts/experiments/before_after.py --bundle pet_synthesis_restore_rwkv --data PET --invert -o picture.png
    python scripts/experiments/before_after.py --bundle NAME --data data/rgb --show nuclei --vary length=12 \
        --vary length=1,sigma=2 -o kinds.jpg

Images are degraded as the bundle's ``evaluate.json`` says. Each ``--show`` gives one row: the image in the middle of
those whose file or patient has these letters. Without any, three rows are spread over all. Each ``--vary`` repeats the
rows with these settings, on top of those of ``--set``. A row is the middle of the
image, as large as ``--size`` says, in gray levels from the least value of its range to ``--top`` of the clean part's
greatest one (pictures: as they are).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medrestore_monai.bundles import find_bundle
from medrestore_monai.evaluate import Candidate, open_model, open_source, parse_settings

GAP = 4  # pixels between tiles


def chosen(items: Sequence[Mapping[str, Any]], letters: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return one item for each word, the middle one of those that match, or three spread over all.

    Raises:
        ValueError: nothing matches.
    """
    found = [[item for item in items if word in f"{item.get('patient', '')} {item['label']}"] for word in letters]
    for word, matching in zip(letters, found, strict=True):
        if not matching:
            raise ValueError(f"no image has {word!r} in its name.")
    if not letters:
        found = [list(items[i * len(items) // 3 : max((i + 1) * len(items) // 3, i + 1)]) for i in range(3)]
    return [matching[len(matching) // 2] for matching in found if matching]


def middle(image: torch.Tensor, size: int) -> np.ndarray:
    """Return the middle of an image ``(C, X, Y)`` or of the middle slice of ``(C, X, Y, Z)``: shape ``(Y, X, C)``."""
    plain = image.as_subclass(torch.Tensor).float()
    if plain.ndim == 4:
        plain = plain[..., plain.shape[3] // 2]
    starts = [max((side - size) // 2, 0) for side in plain.shape[1:]]
    part: np.ndarray = plain[:, starts[0] : starts[0] + size, starts[1] : starts[1] + size].permute(2, 1, 0).numpy()
    return part


def row(images: Sequence[np.ndarray], bounds: tuple[float, float], invert: bool, side: int) -> np.ndarray:
    """Put images ``(Y, X, C)`` side by side, the last one the clean one, each ``side`` pixels wide: 8-bit RGB."""
    tiles = []
    for image in images:
        levels = np.rint(np.clip((image - bounds[0]) / (bounds[1] - bounds[0]), 0, 1) * 255).astype(np.uint8)
        levels = np.repeat(255 - levels if invert else levels, 3 // image.shape[2], axis=2)
        tile = np.asarray(Image.fromarray(levels).resize((side, side * levels.shape[0] // levels.shape[1])))
        tiles.append(np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255))
    return np.concatenate(tiles, axis=1)


def bounds_of(
    clean: np.ndarray, top: float | None, window: Sequence[float] | None, picture: bool
) -> tuple[float, float]:
    """Return the values that become black and white."""
    if window:
        return float(window[0]), float(window[1])
    return (0.0, 255.0) if picture else (min(float(clean.min()), 0.0), (top or 0.9) * float(clean.max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a PNG or JPEG file")
    parser.add_argument("--modality", help="CT, MR or PT, for a bundle of several")
    parser.add_argument("--part", default="test", help="all, train, validation or test (default: %(default)s)")
    parser.add_argument("--show", action="append", default=[], metavar="WORD", help="a row; may be given again")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for medrestore evaluate")
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=VALUE,...", help="rows of their own")
    parser.add_argument(
        "--size", type=int, default=256, help="pixels of the image that are shown (default: %(default)s)"
    )
    parser.add_argument("--side", type=int, default=256, help="pixels of a tile (default: %(default)s)")
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="black and white, in the unit")
    parser.add_argument("--top", type=float, help="white, as a part of the clean image's greatest value (default: 0.9)")
    parser.add_argument("--invert", action="store_true", help="dark is much, as PET is shown")
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    modality = options.modality or bundle.modalities[0]
    wishes = {"part": options.part, "seed": 0}
    rows = []
    for varied in options.vary or [""]:
        settings = parse_settings([*options.set, *filter(None, varied.split(","))])
        model = open_model(Candidate(bundle.name, bundle), modality, options.data, "cpu", settings, wishes)
        source = open_source(model, options.data, "clean", options.part, False, None)
        for item in chosen(source.items, options.show):
            case = source(item)
            parts = [middle(image, options.size) for image in (case["image"], model.restore(case), case["label"])]
            bounds = bounds_of(parts[-1], options.top, options.window, modality in ("RGB", "GRAY"))
            rows.append(row(parts, bounds, options.invert, options.side))
    width = max(one.shape[1] for one in rows)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in rows]
    Image.fromarray(np.concatenate(padded)).save(options.output, optimize=True, quality=90)


if __name__ == "__main__":
    main()
