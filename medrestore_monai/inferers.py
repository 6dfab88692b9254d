"""Inference that changes no pixel value: slice by slice, in one piece, or in tiles that are cropped and not blended.

MONAI's sliding window blends the borders of its windows, where a network has seen padding instead of the image; for a
restoration that is a wrong pixel value. Here each output pixel comes from exactly one tile, whose halo covers what the
network looks at, so that a network of limited receptive field gives the same values as on the whole slice.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor, nn

from medrestore_monai.memory import available_bytes, measure_bytes_per_pixel, sharing_processes
from medrestore_monai.neighbors import HALO, SLICE_STEPS, neighbor_numbers
from medrestore_monai.notes import note
from medrestore_monai.ops.precision import multiplies_bfloat16
from medrestore_monai.slice_progress import shown_slices
from medrestore_monai.workers import work_through

__all__ = ["AutocastInferer", "SliceWiseInferer", "tile_spans", "tiling_error"]

logger = logging.getLogger(__name__)

# Part of the free memory that tile="auto" plans with: the estimate is good to a quarter.
_USABLE = 0.8
# Side of the image that the memory of a network is measured on.
_PROBE = 128
# Whether the axes are exchanged, and quarter turns: the first 1, 2, 4 or 8 of them are a group, so that their mean is
# the same for an image and its turned copy.
_ORIENTATIONS = ((False, 0), (False, 2), (False, 1), (False, 3), (True, 0), (True, 2), (True, 1), (True, 3))


class AutocastInferer(Inferer):
    """Run another inferer with the network's products in bfloat16: mixed precision for training on a CPU.

    The trainers of MONAI apply their ``amp`` to CUDA alone. Weights and their updates stay in float32, and so does what
    is outside of the network: transforms, losses, scores. Gradients need no scaling, as bfloat16 has the range of
    float32. A CPU without instructions for it goes on in float32, which is faster there.

    Args:
        inferer: runs the network.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return what the other inferer makes of ``inputs``; see there."""
        device = inputs.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or multiplies_bfloat16()):
            restored: Tensor = self.inferer(inputs, network, *args, **kwargs)
        return restored


class SliceWiseInferer(Inferer):
    """Run a 2D network over images or volumes, slice by slice.

    The network gets batches ``(N, C, X, Y)`` of slices clipped to ``clip_range`` and returns the same shape. One with
    ``context`` gets each slice of one channel together with its neighbors, ``(N, 2K + 1, X, Y)``, and returns
    ``(N, 1, X, Y)``. Which neighbors there are, a reader notes in the meta data as ``slice_steps``, see
    :func:`~medrestore_monai.neighbors.neighbor_numbers`; missing ones are copies of the slice itself, and so are all of
    a single image, or of a volume whose slice distance is unknown. Slices that the meta data call ``halo`` serve as
    neighbors only, and stay as they are.

    Values outside of the range, such as metal and padding in a CT, stay exactly what they are by default. So do slices
    of one value: networks see none in training. Memory is bounded by one batch of slices and the output volume: slices
    go to the network's device one batch at a time, and the result stays on the input's device.

    Args:
        slice_batch_size: slices per network call; the images of a 2D batch count as slices.
        tile: ``None``: the whole slice at once. A number or a pair: side of the network's input in pixels, halo
            included, a multiple of ``alignment``. ``"auto"``: the whole slice where memory allows, else the largest
            tile that fits.
        halo: pixels on each inner side of a tile that are cropped, rounded up to a multiple of ``alignment``. Tiling is
            exact to float rounding if it is at least the radius of the network's receptive field; for a network that
            sees the whole image tiles are an approximation, measured by :func:`tiling_error`.
        alignment: the network's down-sampling factor. Tiles start at its multiples, where such a network is
            shift-equivariant; it may pad the far sides of its input, as those of a tile at the border are the image's.
        clip_range: range the network was trained on, ``None`` for no clipping.
        clip_output: keep the network's output in ``clip_range`` too; for inference.
        add_clipped: instead of keeping a value outside as it is, add what the clip cut off to what the network made of
            the rest. For PET and MR, whose highest values are tissue with noise; not for CT.
        strength: 0 returns the input exactly (the network does not run), 1 the restored image, else a linear mix.
        self_ensemble: orientations that each slice, or tile, is restored in, the mean of which is taken: 1, 2 (as it
            is, and turned by 180 degrees), 4 (all quarter turns) or 8 (these, and mirrored). The network runs as often.
            For networks trained with flips and turns; exact in tiles where the slice's sides are multiples of
            ``alignment``.
        spatial_dim: the spatial axis (0, 1, 2) along which slices of a volume are stacked.
        context: neighbors on each side that the network takes, ``K``.
        context_distance: range in mm of the slice distances that the network was trained on; beyond it, slices are
            restored without neighbors. ``None`` for any.
        device: where the network runs; ``None``: where its parameters are, or the input for a plain function.
        bytes_per_pixel: peak memory of the network per input pixel, for ``tile="auto"`` and for workers; ``None``:
            measured.
        report_tiling: where ``tile`` is given in pixels, measure once on a middle slice how much tiles change the
            result, and warn with that figure. It needs the memory of one whole slice.
        progress: show a progress bar over slices on the standard error stream.
        workers: most slices, or tiles of one slice, that are restored at a time, see :meth:`most_workers`; ``None``: as
            many as PyTorch has threads. Fewer where memory does not suffice. The network must allow several calls at
            once. The number of workers changes the result by float rounding only.

    Raises:
        ValueError: for a parameter out of its range.

    References:
        Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, section 3.4 (self-ensemble),
        https://arxiv.org/abs/1707.02921
    """

    def __init__(
        self,
        slice_batch_size: int = 1,
        tile: int | Sequence[int] | str | None = None,
        halo: int = 64,
        alignment: int = 1,
        clip_range: Sequence[float] | None = (0.0, 1.0),
        clip_output: bool = False,
        add_clipped: bool = False,
        strength: float = 1.0,
        self_ensemble: int = 1,
        spatial_dim: int = 2,
        context: int = 0,
        context_distance: Sequence[float] | None = None,
        device: torch.device | str | None = None,
        bytes_per_pixel: float | None = None,
        report_tiling: bool = False,
        progress: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        if slice_batch_size < 1:
            raise ValueError(f"slice_batch_size must be at least 1, got {slice_batch_size}.")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1 or None, got {workers}.")
        if halo < 0 or alignment < 1:
            raise ValueError(f"halo must be >= 0 and alignment >= 1, got {halo} and {alignment}.")
        if clip_range is not None and not (len(clip_range) == 2 and clip_range[0] < clip_range[1]):
            raise ValueError(f"clip_range must be (lower, upper) with lower < upper or None, got {clip_range}.")
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must be in 0..1, got {strength}.")
        if not isinstance(self_ensemble, int) or self_ensemble not in (1, 2, 4, 8):
            raise ValueError(f"self_ensemble must be 1, 2, 4 or 8, got {self_ensemble}.")
        if spatial_dim not in (0, 1, 2):
            raise ValueError(f"spatial_dim must be 0, 1 or 2, got {spatial_dim}.")
        if context < 0 or (context_distance is not None and not 0 < context_distance[0] <= context_distance[1]):
            raise ValueError(
                "context must be at least 0 and context_distance a range of distances in mm, "
                f"got {context} and {context_distance}."
            )
        self.context, self.context_distance = context, context_distance
        self.slice_batch_size = slice_batch_size
        self.halo = _round_up(halo, alignment)
        self.alignment = alignment
        self.tile = _checked_tile(tile, self.halo, alignment)
        self.clip_range = None if clip_range is None else (float(clip_range[0]), float(clip_range[1]))
        self.clip_output = clip_output
        self.add_clipped = add_clipped
        self.strength = strength
        self.self_ensemble = self_ensemble
        self.spatial_dim = spatial_dim
        self.device = device
        self.bytes_per_pixel = bytes_per_pixel
        self.report_tiling = report_tiling
        self.progress = progress
        self.workers = workers

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the restored ``inputs``.

        Args:
            inputs: floating point, shape ``(B, C, X, Y)`` or ``(B, C, X, Y, Z)``, scaled as the network expects. With
                context, ``C`` is 1; images with their neighbors as channels, ``(B, 2K + 1, X, Y)``, are taken, too.
            network: maps ``(N, C, X, Y)`` to the same shape; with context ``(N, 2K + 1, X, Y)`` to ``(N, 1, X, Y)``.
            args: passed to each call of ``network``, unchanged.
            kwargs: passed to each call of ``network``, unchanged.

        Returns:
            Same shape, dtype, device and meta data as ``inputs``; one channel where neighbors are channels.

        Raises:
            TypeError: if ``inputs`` is not floating point, or the network does not return one tensor.
            ValueError: if ``inputs`` has another number of axes, NaN or infinite values, or the network changes
                the shape.
            RuntimeError: if the network returns NaN or infinite values, or ``tile="auto"`` finds too little memory.
        """
        if inputs.ndim not in (4, 5):
            raise ValueError(f"inputs must have shape (B, C, X, Y) or (B, C, X, Y, Z), got {tuple(inputs.shape)}.")
        if not inputs.is_floating_point():
            raise TypeError(f"inputs must be floating point, got {inputs.dtype}.")
        image = inputs.as_subclass(Tensor)  # networks need no meta data
        if self.strength == 0:
            with shown_slices(1, self.progress) as advance:
                advance(inputs.shape[0] if inputs.ndim == 4 else inputs.shape[2 + self.spatial_dim])
            return convert_to_dst_type(image.clone(), inputs)[0]
        slices = self._slices(image)
        numbers, first, last = self._neighbors(inputs, slices)
        device = torch.device(self.device) if self.device is not None else _device_of(network, image)
        plan = self._plan(slices, device, network, args, kwargs)
        if self.report_tiling and isinstance(self.tile, tuple):
            self._report_tiling(slices[0, slices.shape[1] // 2][None], network, args, kwargs)
        output = torch.empty_like(self._middle(image)) if image.ndim == 4 else torch.empty_like(image)
        target = self._slices(output)
        if (first, last) != (0, slices.shape[1]):
            target[:, :first], target[:, last:] = slices[:, :first], slices[:, last:]
        starts = product(range(slices.shape[0]), range(first, last, plan.batch_size))
        batches = [(group, slice(start, min(start + plan.batch_size, last))) for group, start in starts]
        of_tiles = plan.workers // max(1, min(plan.workers, len(batches)))

        def restore(place: tuple[int, slice]) -> None:
            group, chosen = place
            batch = slices[group, chosen] if numbers is None else slices[group, numbers[group][chosen], 0]
            batch = batch.to(device).contiguous()  # (N, C, X, Y)
            _check_finite(batch, ValueError, f"inputs from slice {chosen.start}")
            restored = self._restore(batch, plan.tile, lambda x: network(x, *args, **kwargs), of_tiles)
            middle = self._middle(batch)
            target[group, chosen] = torch.where(_constant(middle), middle, restored).to(output)

        with shown_slices(slices.shape[0] * (last - first), self.progress) as advance:
            for _, chosen in work_through(restore, batches, plan.workers):
                advance(chosen.stop - chosen.start)
        return convert_to_dst_type(output, inputs)[0]

    def _neighbors(self, inputs: Tensor, slices: Tensor) -> tuple[Tensor | None, int, int]:
        """Return which slices each one is restored with, ``(groups, Z, 2K + 1)``, and which slices are restored.

        Returns:
            The numbers, ``None`` where the network takes no neighbors or they are channels already; and the first
            slice, and the one after the last.

        Raises:
            ValueError: images have neither one channel nor the neighbors as channels.
        """
        groups, count, channels = slices.shape[:3]
        meta = getattr(inputs, "meta", {})
        halo = torch.as_tensor(meta.get(HALO, (0, 0))).reshape(-1, 2)[0].tolist() if inputs.ndim == 5 else (0, 0)
        first, last = int(halo[0]), count - int(halo[1])
        if self.context == 0 or (inputs.ndim == 4 and channels == 2 * self.context + 1):
            return None, first, last
        if channels != 1:
            raise ValueError(f"a network with neighboring slices takes images of one channel, got {channels}.")
        steps = torch.zeros(groups, max(count - 1, 0))
        if inputs.ndim == 5 and count > 1 and SLICE_STEPS in meta:
            steps = torch.as_tensor(meta[SLICE_STEPS], dtype=torch.float64).reshape(-1, count - 1).expand(groups, -1)
        numbers = [neighbor_numbers(one, self.context, self.context_distance) for one in steps.numpy()]
        if inputs.ndim == 5 and count > 1:
            self._warn_missing(steps, numbers)
        return torch.as_tensor(np.stack(numbers)), first, last

    def _warn_missing(self, steps: Tensor, numbers: Sequence[np.ndarray]) -> None:
        """Warn where a volume is restored as if it were single images."""
        if any((one != one[:, :1]).any() for one in numbers):
            return
        reason = "the distance of its slices is unknown, or they are tilted or uneven"
        if bool((steps > 0).any()) and self.context_distance is not None:
            low, high = self.context_distance
            reason = (
                f"its slices are {float(steps[steps > 0].median()):.3g} mm apart, where the network knows "
                f"{low:g} to {high:g} mm"
            )
        note(f"Each slice was restored without its neighbors: {reason}.", stacklevel=3)

    def _middle(self, batch: Tensor) -> Tensor:
        """The slices themselves of a batch ``(N, C, X, Y)`` that may hold neighbors as channels."""
        if self.context and batch.shape[1] == 2 * self.context + 1:
            return batch[:, self.context : self.context + 1]
        return batch

    def _report_tiling(self, image: Tensor, network: Callable[..., Tensor], args: tuple, kwargs: dict) -> None:
        """Warn how far tiles are from the whole slice, once for this inferer."""
        self.report_tiling = False
        quiet = copy.copy(self)
        quiet.progress = False
        largest, mean = (error / self._span() for error in tiling_error(quiet, image, network, *args, **kwargs))
        note(
            f"Tiles change the result of this network: in a middle slice by {mean:.3%} of the range on average, "
            f"{largest:.2%} at most.",
            stacklevel=2,
        )

    def _span(self) -> float:
        """Width of the range that the network works on."""
        return 1.0 if self.clip_range is None else self.clip_range[1] - self.clip_range[0]

    def _slices(self, image: Tensor) -> Tensor:
        """View ``image`` as ``(groups, slices, C, X, Y)``: a batch of 2D images is one group, a volume each is one."""
        return image[None] if image.ndim == 4 else image.movedim(2 + self.spatial_dim, 1)

    def _restore(
        self, batch: Tensor, tile: tuple[int, int] | None, network: Callable[[Tensor], Tensor], workers: int
    ) -> Tensor:
        """Restore one batch ``(N, C, X, Y)``: clip, run, mix; what was clipped stays as it is, or is added back."""
        clipped = batch if self.clip_range is None else batch.clamp(*self.clip_range)
        middle = self._middle(batch)
        if tile is None:
            restored = self._mean_of_orientations(clipped, network)
        else:
            restored = torch.empty_like(middle)

            def restore(place: tuple[Span, Span]) -> None:
                x, y = place
                part = clipped[..., x.start : x.stop, y.start : y.stop].contiguous()
                inner = self._mean_of_orientations(part, network)[
                    ..., x.first - x.start : x.last - x.start, y.first - y.start : y.last - y.start
                ]
                restored[..., x.first : x.last, y.first : y.last] = inner

            for _ in work_through(restore, list(_tiles(clipped.shape[-2:], tile, self.halo, self.alignment)), workers):
                pass
        if self.clip_range is not None and self.clip_output:
            restored = restored.clamp(*self.clip_range)
        inside = self._middle(clipped)
        if self.add_clipped:
            restored = restored + (middle - inside)
        mixed = restored if self.strength == 1 else torch.lerp(middle, restored, self.strength)
        return mixed if self.add_clipped else torch.where(middle == inside, mixed, middle)

    def _mean_of_orientations(self, part: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the network on each orientation of ``part``, turn the results back and average them."""
        if self.self_ensemble == 1:
            return _checked_output(network(part), self._middle(part))
        total = torch.zeros_like(self._middle(part))
        for mirrored, turns in _ORIENTATIONS[: self.self_ensemble]:
            given = torch.rot90(part.mT if mirrored else part, turns, (-2, -1)).contiguous()
            output = torch.rot90(_checked_output(network(given), self._middle(given)), -turns, (-2, -1))
            total = total + (output.mT if mirrored else output)
        return total / self.self_ensemble

    def most_workers(self, network: Callable[..., Tensor], device: torch.device) -> int:
        """Return how many slices or tiles a call without gradients may restore at a time, were memory no limit.

        More than one on a CPU only, and unless the network is in training mode or runs on threads of its own (its
        attribute ``own_threads``). A plain function is called several times at once only where ``workers`` says so.
        Processes that share the machine (see :func:`~medrestore_monai.memory.divide_memory`) restore one slice at a
        time each.

        Args:
            network: as for a call.
            device: where it runs.
        """
        if device.type != "cpu" or sharing_processes() > 1 or getattr(network, "own_threads", False):
            return 1
        if network.training if isinstance(network, nn.Module) else self.workers is None:
            return 1
        return min(self.workers or torch.get_num_threads(), torch.get_num_threads())

    def _plan(
        self, slices: Tensor, device: torch.device, network: Callable[..., Tensor], args: tuple, kwargs: dict
    ) -> _Plan:
        """Slices per call, tile and workers; for ``tile="auto"`` and several workers from the memory that is free."""
        groups, count, channels, *size = slices.shape
        batch_size = min(self.slice_batch_size, count)
        fixed = None if self.tile == "auto" else cast("tuple[int, int] | None", self.tile)
        most = 1 if torch.is_grad_enabled() else self.most_workers(network, device)
        if fixed is None:
            most = min(most, groups * -(-count // batch_size))  # a slice is one piece
        if self.tile != "auto" and most == 1:
            return _Plan(batch_size, fixed, 1)
        free = available_bytes(device)
        if free is None:
            if self.tile == "auto":
                logger.warning("The free memory of %s is unknown here: working on whole slices.", device)
            return _Plan(batch_size, fixed, 1)
        per_pixel = self.bytes_per_pixel
        if per_pixel is None:
            side = _round_up(_PROBE, self.alignment)
            probe = slices[0, :1, :, :side, :side].to(device)
            if self.context and channels == 1:
                probe = probe.repeat(1, 2 * self.context + 1, 1, 1)
            per_pixel = measure_bytes_per_pixel(network, probe, *args, **kwargs)
        # the output volume, and the copies that a batch of slices needs around the network
        volume = slices.numel() * slices.element_size()
        around = 6 * channels * size[0] * size[1] * slices.element_size()
        room = _USABLE * free - (volume if slices.device == device else 0)
        if fixed is not None:
            each = batch_size * (per_pixel * min(fixed[0], size[0]) * min(fixed[1], size[1]) + around)
            return _Plan(batch_size, fixed, max(1, min(most, int(room // each))))
        whole = per_pixel * size[0] * size[1]
        logger.info(
            "%s: about %.2f GB per %dx%d slice, %.2f GB free.", device, (whole + around) / 1e9, *size, free / 1e9
        )
        if whole + around <= room or self.tile is None:
            fitting = max(1, int(room // (whole + around)))
            if self.tile == "auto":
                batch_size = min(batch_size, fitting)
            return _Plan(batch_size, None, max(1, min(most, fitting // batch_size)))
        room -= around
        side = int((max(room, 0) / per_pixel) ** 0.5) // self.alignment * self.alignment
        if side <= 2 * self.halo:
            raise RuntimeError(
                f"Restoring a {size[0]}x{size[1]} slice needs about {whole / 1e9:.2f} GB on {device}, "
                f"{free / 1e9:.2f} GB are free, which is too little even for tiles with a halo of {self.halo} pixels."
            )
        note(
            f"A {size[0]}x{size[1]} slice needs about {whole / 1e9:.2f} GB on {device}, {free / 1e9:.2f} GB are free: "
            f"working in tiles of {side} pixels with a halo of {self.halo}. The result differs from that of the whole "
            "slice if the network sees further than the halo.",
            stacklevel=2,
        )
        return _Plan(1, (side, side), 1)


class _Plan(NamedTuple):
    """Slices per network call, the tile, and how many calls run at a time."""

    batch_size: int
    tile: tuple[int, int] | None
    workers: int


class Span(NamedTuple):
    """One tile along one axis: the network sees ``start:stop``, the result is used in ``first:last``."""

    start: int
    stop: int
    first: int
    last: int


def tile_spans(size: int, tile: int, halo: int, alignment: int = 1) -> list[Span]:
    """Cut one axis into tiles whose middles cover it once.

    Inner ends of a tile have a halo, ends at 0 or ``size`` none: there the network handles the border as it does on the
    whole image. The last tile keeps the full length, up to alignment.

    Args:
        size: length of the axis.
        tile: length of a tile, a multiple of ``alignment`` and over ``2 * halo``.
        halo: part of a tile's inner ends that is cropped, a multiple of ``alignment``.
        alignment: tiles start at multiples of it.

    Returns:
        Spans, in order.
    """
    if size <= tile:
        return [Span(0, size, 0, size)]
    spans, done = [], 0
    while done < size:
        start = min(max(done - halo, 0), _round_up(size - tile, alignment))
        stop = min(start + tile, size)
        last = size if stop == size else stop - halo
        spans.append(Span(start, stop, done, last))
        done = last
    return spans


def tiling_error(
    inferer: SliceWiseInferer, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> tuple[float, float]:
    """Largest and mean absolute difference between the tiled and the whole-slice result, in units of ``inputs``.

    Args:
        inferer: with a ``tile`` given in pixels.
        inputs: as for the inferer; a few slices are enough.
        network: as for the inferer.
        args: as for the inferer.
        kwargs: as for the inferer.

    Raises:
        ValueError: if ``inferer.tile`` is ``None`` or ``"auto"``.
    """
    if inferer.tile is None or inferer.tile == "auto":
        raise ValueError(f"inferer.tile must be given in pixels to measure the error of tiling, got {inferer.tile!r}.")
    whole = copy.copy(inferer)
    whole.tile = None
    with torch.no_grad():
        difference = (inferer(inputs, network, *args, **kwargs) - whole(inputs, network, *args, **kwargs)).abs()
    return float(difference.max()), float(difference.mean())


def _tiles(size: Sequence[int], tile: Sequence[int], halo: int, alignment: int) -> Iterator[tuple[Span, Span]]:
    """All tiles of an image of ``size``, as one span per axis."""
    x_spans, y_spans = (tile_spans(length, side, halo, alignment) for length, side in zip(size, tile, strict=True))
    return product(x_spans, y_spans)


def _round_up(value: int, factor: int) -> int:
    return -(-value // factor) * factor


def _checked_tile(tile: int | Sequence[int] | str | None, halo: int, alignment: int) -> tuple[int, int] | str | None:
    if tile is None or isinstance(tile, str):
        if tile in (None, "auto"):
            return tile
        raise ValueError(f"tile must be None, 'auto', a number or a pair of numbers, got {tile!r}.")
    pair = (tile, tile) if isinstance(tile, int) else tuple(tile)
    if len(pair) != 2 or any(side % alignment or side <= 2 * halo for side in pair):
        raise ValueError(
            f"tile must be one or two multiples of alignment ({alignment}) over twice the halo ({halo}), got {tile}."
        )
    return pair[0], pair[1]


def _device_of(network: Callable[..., Tensor], image: Tensor) -> torch.device:
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return image.device if parameter is None else parameter.device


def _constant(batch: Tensor) -> Tensor:
    """Return which slices have one value in each channel, shape ``(N, 1, 1, 1)``."""
    return (batch == batch[..., :1, :1]).all(dim=(1, 2, 3), keepdim=True)


def _checked_output(output: Any, given: Tensor) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"The network must return one tensor, got {type(output).__name__}.")
    if output.shape != given.shape:
        raise ValueError(f"The network must keep the shape {tuple(given.shape)}, got {tuple(output.shape)}.")
    _check_finite(output, RuntimeError, "The network's output")
    return output.to(given.dtype)


def _check_finite(values: Tensor, error: type[Exception], what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise error(f"{what} has NaN or infinite values.")
