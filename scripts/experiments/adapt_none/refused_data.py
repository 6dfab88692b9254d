"""Data that ``adapt --targets none`` must refuse, made of real scans, and the originals, which it must not.

    python scripts/experiments/adapt_none/refused_data.py DATA OUTPUT.json

DATA holds ``ct_abdomen_crlm`` (DICOM series), ``ct_contiguous_tcia`` (slices.npz and meta.json), ``ct_lowdose_pairs``
and ``pet_fdg_headneck``. Of each scan a few slices are taken, and central parts of 288 pixels.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from pairs import bilateral, median, restore_with, shipped_network, turned
from scipy.ndimage import gaussian_filter, median_filter, zoom
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from medrestore_monai.adapt import refusals
from medrestore_monai.adapt.estimated_verdict import decide_without_targets
from medrestore_monai.adapt.risk import Risk
from medrestore_monai.audit.volume import Volume
from medrestore_monai.bundles import open_bundle
from medrestore_monai.dicom import read_series

SIDE = 288


def central(array: np.ndarray) -> np.ndarray:
    start = [max(0, (size - SIDE) // 2) for size in array.shape[:2]]
    return np.ascontiguousarray(array[start[0] : start[0] + SIDE, start[1] : start[1] + SIDE], dtype=np.float32)


def scans(data: Path) -> Iterator[tuple[str, Volume]]:
    """Yield originals."""
    for name, place, part in (
        ("CRLM abdomen", next((data / "ct_abdomen_crlm").glob("*/")), slice(10, 13)),
        ("L192 D45f quarter dose", data / "ct_lowdose_pairs/L192/quarter_3mm_D45", slice(0, 3)),
    ):
        series = read_series(place, allow_gaps=True)
        yield name, Volume(central(series.array[..., part]), "CT", tuple(np.linalg.norm(series.affine[:3, :3], axis=0)))
    about = json.loads((data / "ct_contiguous_tcia/meta.json").read_text())
    with np.load(data / "ct_contiguous_tcia/slices.npz") as slices:
        key = sorted(slices.files)[0]
        spacing = next(one["spacing_mm"] for one in about if one["key"] == key)
        array = central(np.moveaxis(slices[key][5:8], 0, -1))
        yield f"contiguous {key}", Volume(array, "CT", (spacing[1], spacing[2], spacing[0]))


def by_slice(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda volume: np.stack([function(one) for one in np.moveaxis(volume, -1, 0)], -1).astype(np.float32)


def half_denoised(volume: np.ndarray) -> np.ndarray:
    changed = volume.copy()
    half = volume.shape[0] // 2
    changed[:half] = median_filter(volume[:half], (3, 3, 1))
    return changed


def between(volume: np.ndarray) -> np.ndarray:
    middle = (volume[..., :-1] + volume[..., 1:]) / 2
    return np.stack([volume[..., 0], middle[..., 0], volume[..., 1], middle[..., 1], volume[..., 2]], axis=-1)


def variants(
    spread: float, restore: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]]:
    """Return what is done to a scan whose noise has a standard deviation of ``spread`` HU, and its header."""
    rng = np.random.default_rng(0)

    def restored(volume: np.ndarray) -> np.ndarray:
        return restore(torch.from_numpy(volume)[None])[0].numpy()

    return {
        "Gaussian of 1 pixel": (lambda v: gaussian_filter(v, (1, 1, 0)), ""),
        "Gaussian of 1.5 pixels": (lambda v: gaussian_filter(v, (1.5, 1.5, 0)), ""),
        "median of 3x3": (median, ""),
        "non-local means": (by_slice(lambda s: denoise_nl_means(s, 5, 6, h=0.9 * spread, sigma=spread)), ""),
        "total variation": (by_slice(lambda s: denoise_tv_chambolle(s, weight=1.5 * spread)), ""),
        "bilateral": (lambda v: bilateral(v, spread), ""),
        "restored by the shipped weights": (restored, "DERIVED\\SECONDARY medrestore denoise"),
        "doubled by cubic interpolation": (lambda v: zoom(v[::2, ::2], (2, 2, 1), order=3), ""),
        "turned by 10 degrees, linear": (turned, ""),
        "slices between slices": (between, ""),
        "windowed to -160..240 HU": (lambda v: v.clip(-160, 240), ""),
        "scaled to 0..1": (lambda v: ((v + 1024) / 4096).clip(0, 1), ""),
        "stored values": (lambda v: v + 1024, ""),
        "half of it denoised": (half_denoised, ""),
        "noise of 600 HU on top": (lambda v: v + rng.normal(0, 600, v.shape).astype(np.float32), ""),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained_on = open_bundle("ct_denoise_restore_rwkv").metadata["trained_on"]
    restore = restore_with(shipped_network())
    rows: list[dict] = []

    def judge(setting: str, volume: Volume, header: str = "") -> float:
        began = time.process_time()
        noise, reasons = refusals.refuse_images(volume, trained_on, header)
        found = refusals.measure_processing(volume.array, refusals._flat(volume), volume.pixel, volume.modality)
        check = None if noise is None else str(noise.check)
        rows.append(
            {"setting": setting, "refused": bool(reasons), "reasons": reasons, "signs": str(found), "check": check}
        )
        seconds = time.process_time() - began
        print(f"{'refused' if reasons else 'PASSED '} {setting}: {reasons} {found} {check} {seconds:.1f} s", flush=True)
        return float("nan") if noise is None else float(noise.std.median())

    for name, volume in scans(options.data):
        spread = judge(f"{name}: original", volume)
        for variant, (change, header) in variants(spread if np.isfinite(spread) else 20.0, restore).items():
            judge(f"{name}: {variant}", Volume(change(volume.array), "CT", volume.spacing), header)
        soft = gaussian_filter(volume.array, (0.7, 0.7, 0)) + 2
        same = refusals.refuse_shared(refusals.shared_noise(volume.array, soft, volume.pixel, "CT"))
        rows.append({"setting": f"{name}: one scan in two kernels", "refused": bool(same), "reasons": [same]})
        few = decide_without_targets([[Risk(1, 0, 1)] * 4], [[Risk(0.1, 0, 1)] * 4], range(4), 0.0)
        rows.append({"setting": f"{name}: four units to judge", "refused": not few.adopt, "reasons": few.reasons})
    pet = read_series(next((options.data / "pet_fdg_headneck").glob("*/")), allow_gaps=True)
    array = np.ascontiguousarray(pet.array[..., 100:103], dtype=np.float32)
    judge("PET in place of CT", Volume(array, "CT", tuple(np.linalg.norm(pet.affine[:3, :3], axis=0))))
    judge("PET, called PET, for a bundle for CT", Volume(array, "PT", (3.4, 3.4, 2.0), "Bq/ml", 1e-3))
    originals = [row for row in rows if row["setting"].endswith("original")]
    others = [row for row in rows if row not in originals]
    summary = {
        "settings": len(others),
        "refused": sum(row["refused"] for row in others),
        "not_refused": [row["setting"] for row in others if not row["refused"]],
        "originals_refused": [row["setting"] for row in originals if row["refused"]],
    }
    options.output.write_text(json.dumps({"summary": summary, "settings": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
