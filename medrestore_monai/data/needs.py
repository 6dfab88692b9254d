"""How much memory and room on the disk the items of a plan need, by their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrestore_monai.files import require_space
from medrestore_monai.memory import available_bytes, used_bytes

__all__ = ["check_needs", "slices_in"]

_PER_VOXEL = 25  # bytes: the copies of a slab, or of a whole image, that are alive at once
_AROUND = 20 << 20  # bytes: buffers, and what libraries allocate when they are first used


def slices_in(item: Mapping[str, Any], context: int = 0) -> int:
    """Slices that an item is read with; 1 where that is not known."""
    slices = int(item.get("slices") or 1)
    if not int(item.get("stop") or 0):
        return slices
    return min(slices, int(item["stop"]) - int(item["start"]) + 2 * context)


def check_needs(
    items: Sequence[Mapping[str, Any]], per_pixel: float, context: int = 0, workers: int = 1
) -> tuple[int, int | None]:
    """Estimate the peak memory of restoring items one after the other, and refuse what cannot be done.

    Args:
        items: of :func:`~medrestore_monai.data.plan_outputs`, with ``slab``.
        per_pixel: bytes that the network needs per pixel of a slice; 0 where it runs elsewhere, or not at all.
        context: slices on each side that slabs are read with.
        workers: most slices in the network at a time; fewer where memory does not suffice.

    Returns:
        Bytes that this process will use at most, with those that it uses already; and those that are free.

    Raises:
        RuntimeError: an item needs more memory than there is.
        OSError: a disk has no room for a result.
    """
    free, most = available_bytes(), 0.0
    for item in items:
        pixels = int(item.get("columns") or 0) * int(item.get("rows") or 0)
        voxels = _PER_VOXEL * pixels * slices_in(item, context)
        if free is not None and voxels > free:
            raise RuntimeError(
                f"{item['image']} needs about {voxels / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: "
                "restore a part of it, or use a machine with more."
            )
        in_network = per_pixel * pixels * min(workers, slices_in(item))
        if free is not None:
            in_network = max(per_pixel * pixels, min(in_network, free - voxels))
        most = max(most, voxels + in_network)
        if int(item.get("start") or 0) == 0 and int(item.get("stop") or 0):
            # the restored voxels wait beside the output, and the result is written from them
            require_space(Path(str(item["output"])), 8 * pixels * int(item["slices"]))
    return used_bytes() + _AROUND + int(most), free
