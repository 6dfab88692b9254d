"""Does deblurring bring a segmentation back? Nuclei, segmented before and after; as section 4.2 of MedDeblur asks.

    python scripts/experiments/downstream_dice.py --bundle multimodal_deblur_meddeblur --data test/nuclei -o dice
    python scripts/experiments/downstream_dice.py ... --train train/nuclei    # with a segmentation that was learned

DATA holds sharp pictures of nuclei that no training saw. Each is blurred as the bundle's ``evaluate.json`` says,
restored, and divided into nuclei and background: by Otsu's threshold of its own or, with ``--train``, by MONAI's UNet,
which learned from sharp pictures what Otsu's threshold makes of them. What is right is what Otsu's threshold makes of
the sharp picture, not what an expert drew: the figures show what blur takes from a segmentation and what a
restoration gives back, not how good the segmentation is. Nuclei are the smaller class of the sharp picture, whether
bright or dark; the network sees pictures of dark nuclei inverted, and each with its mean and spread divided out.

OUTPUT becomes a folder with ``dice.md`` and ``dice.csv``: mean Dice coefficient with its 95 % bootstrap interval over
pictures, and mean error of the number of connected parts of at least 20 pixels, for each blur and method; and
``dice.png``: the picture with the median gain at the longest motion. Classical methods take the bundle's tuned values,
or those of a file with ``--tuned``, and do not know the kernel unless ``--set kernel_known=true``.
"""

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, ThreadDataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, RandAxisFlipd, RandRotate90d, RandSpatialCropd, SpatialPadd
from monai.utils import set_determinism
from PIL import Image
from rich.console import Console
from rich.progress import track
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import Classical
from medrestore_monai.evaluate import (
    Candidate,
    Model,
    choose_baselines,
    known_psf,
    open_model,
    open_source,
    parse_settings,
    tuned_parameters,
)
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.intensity import FromUnitRanged
from medrestore_monai.report import new_folder
from medrestore_monai.report.significance import bootstrap_interval

BLURS: dict[str, dict[str, float]] = {
    **{f"linear motion, {length} px": {"length": length, "sigma": 0} for length in (9, 12, 15)},
    **{f"Gaussian, sigma {sigma:g} px": {"length": 1, "sigma": sigma} for sigma in (1, 1.5, 2)},
}
SHOWN = "linear motion, 15 px"
SMALLEST = 20  # pixels of a part that counts as a nucleus
PATCH = 128  # pixels of a side, for the network that segments
Restoration = Callable[[Mapping[Any, Any]], torch.Tensor]
Segmentation = Callable[[np.ndarray, bool], np.ndarray]


def foreground(picture: np.ndarray, bright: bool) -> np.ndarray:
    """Return where a gray picture is above its Otsu threshold, or below it for dark nuclei; nowhere if it is flat."""
    if picture.min() == picture.max():
        return np.zeros(picture.shape, dtype=bool)
    above = picture > threshold_otsu(picture)
    return above if bright else ~above


def standardized(picture: np.ndarray, bright: bool) -> torch.Tensor:
    """Return the picture ``(1, X, Y)`` with mean 0, standard deviation 1, and bright nuclei."""
    scaled = (picture - picture.mean()) / max(float(picture.std()), 1e-6)
    return torch.from_numpy(scaled if bright else -scaled).float()[None]


def learned_segmentation(folder: Path, steps: int, seed: int) -> Segmentation:
    """Train MONAI's UNet on the sharp pictures of a folder, each with the mask of its Otsu threshold.

    Raises:
        ValueError: the folder has no PNG file.
    """
    items = []
    for path in sorted(folder.glob("*.png")):
        picture = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64).mean(axis=-1)
        bright = bright_nuclei(picture)
        mask = torch.from_numpy(foreground(picture, bright)).float()[None]
        items.append({"image": standardized(picture, bright), "label": mask})
    if not items:
        raise ValueError(f"{folder} has no PNG file to learn a segmentation from.")
    set_determinism(seed)
    keys = ("image", "label")
    patches = Compose(
        [
            SpatialPadd(keys, (PATCH, PATCH), mode="reflect"),
            RandSpatialCropd(keys, (PATCH, PATCH), random_size=False),
            RandAxisFlipd(keys, prob=0.5),
            RandRotate90d(keys, prob=0.75),
        ]
    )
    network = UNet(2, 1, 1, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = DiceCELoss(sigmoid=True)
    batches = ThreadDataLoader(Dataset(items * (8 * steps // len(items) + 1), patches), batch_size=8, shuffle=True)
    for _, batch in zip(track(range(steps), "Segmentation", console=Console(stderr=True)), batches, strict=False):
        optimizer.zero_grad()
        loss(network(batch["image"]), batch["label"]).backward()
        optimizer.step()
    network.eval()

    @torch.inference_mode()
    def segment(picture: np.ndarray, bright: bool) -> np.ndarray:
        image = standardized(picture, bright)[None]
        output = sliding_window_inference(image, (PATCH, PATCH), 8, network, overlap=0.5, mode="gaussian")
        return (torch.as_tensor(output)[0, 0] > 0).numpy()

    return segment


def bright_nuclei(sharp: np.ndarray) -> bool:
    """Return whether the smaller class of the sharp picture is the bright one."""
    return bool(foreground(sharp, True).mean() <= 0.5)


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two masks, 1 for two empty ones."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def parts(mask: np.ndarray) -> int:
    """Number of connected parts of at least 20 pixels."""
    return sum(region.area >= SMALLEST for region in regionprops(label(mask)))


def gray(image: torch.Tensor) -> np.ndarray:
    """Average the channels of ``(C, X, Y)``."""
    plain: np.ndarray = image.as_subclass(torch.Tensor).double().mean(dim=0).numpy()
    return plain


def restored_by(model: Model, method: Any, case: Mapping[Any, Any]) -> torch.Tensor:
    """Restore with a classical method what the bundle sees."""
    scaled = model.scaling(dict(case))
    pred = SliceWiseInferer(clip_output=True)(scaled["image"][None], method, psf=known_psf(case))[0]
    result: torch.Tensor = FromUnitRanged("pred", like="image")({**scaled, "pred": pred})["pred"]
    return result


def measure(
    options: argparse.Namespace, settings: Mapping[str, Any], segment: Segmentation
) -> tuple[dict[str, list[tuple[float, int]]], list[dict[str, np.ndarray]]]:
    """Return Dice and error of the count for every picture by method, and the pictures."""
    bundle = find_bundle(options.bundle)
    wishes = {"part": "all", "seed": options.seed}
    candidate = Candidate(bundle.name, bundle)
    model = open_model(candidate, bundle.modalities[0], options.data, "cpu", settings, wishes)
    source = open_source(model, options.data, "clean", "all", False, options.limit)
    tuned, _ = tuned_parameters(bundle, bundle.modalities[0], options.tuned)
    chosen = choose_baselines(options.baselines, tuned, "deblurring")
    methods: dict[str, Restoration] = {"blurred": lambda case: case["image"]}
    methods |= {name: partial(restored_by, model, Classical(name, one.at(1.0))) for name, one in chosen.items()}
    methods[model.name] = model.restore
    methods = {"sharp": lambda case: case["label"], **methods}
    scores: dict[str, list[tuple[float, int]]] = {name: [] for name in methods}
    pictures = []
    for item in track(source.items, "Pictures", console=Console(stderr=True)):
        case = source(item)
        sharp = gray(case["label"])
        bright = bright_nuclei(sharp)
        truth = foreground(sharp, bright)
        shown = {"sharp": sharp, "sharp mask": truth}
        for name, method in methods.items():
            picture = gray(method(case))
            mask = segment(picture, bright)
            scores[name].append((dice(mask, truth), abs(parts(mask) - parts(truth))))
            if name in ("blurred", model.name):
                shown |= {name: picture, f"{name} mask": mask}
        pictures.append(shown)
    return scores, pictures


def panels(shown: Mapping[str, np.ndarray]) -> Image.Image:
    """Put pictures side by side, and their masks below."""
    names = [name for name in shown if not name.endswith(" mask")]
    gap = 4
    rows = []
    for row in (names, [f"{name} mask" for name in names]):
        tiles = [np.clip(shown[name] * (255 if shown[name].dtype == bool else 1), 0, 255).T for name in row]
        spaced = [np.pad(tile, ((0, gap), (0, gap)), constant_values=255) for tile in tiles]
        rows.append(np.concatenate(spaced, axis=1))
    return Image.fromarray(np.rint(np.concatenate(rows)).astype(np.uint8))


def median_gain(scores: Mapping[str, Sequence[tuple[float, int]]]) -> int:
    """Number of the picture whose gain in Dice over the blurred one is the median."""
    last = list(scores)[-1]
    gains = [after[0] - before[0] for before, after in zip(scores["blurred"], scores[last], strict=True)]
    return int(np.argsort(gains)[len(gains) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with sharp pictures of nuclei")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", type=Path, metavar="FOLDER", help="learn the segmentation from these sharp pictures")
    parser.add_argument(
        "--steps", type=int, default=600, help="of that training, 8 patches each (default: %(default)s)"
    )
    parser.add_argument("--baselines", default="auto", help="as for medrestore evaluate")
    parser.add_argument("--tuned", type=Path, help="as for medrestore evaluate")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for medrestore evaluate")
    parser.add_argument("--limit", type=int, help="take so many pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = parse_settings(options.set)
    segment = learned_segmentation(options.train, options.steps, options.seed) if options.train else foreground
    rows: list[list[Any]] = []
    with new_folder(options.output, False) as folder:
        for blur, settings in BLURS.items():
            scores, pictures = measure(options, {**given, **settings}, segment)
            for name, values in scores.items():
                means = np.mean(values, axis=0)
                low, high = bootstrap_interval([value for value, _ in values], range(len(values)))
                interval = f"{low:.3f} to {high:.3f}"
                rows.append([blur, name, len(values), f"{means[0]:.4f}", interval, f"{means[1]:.2f}"])
            if blur == SHOWN:
                panels(pictures[median_gain(scores)]).save(folder / "dice.png")
        header = ["blur", "method", "pictures", "Dice", "95 % interval", "error of the count"]
        with (folder / "dice.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [header, ["---"] * 6, *rows]]
        (folder / "dice.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
