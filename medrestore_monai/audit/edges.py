"""Edges of a CT: pixels by their signed distance to a contour, where both sides of it are flat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.spatial import cKDTree

from medrestore_monai.audit.regions import smoothed

REACH = 7.0  # mm on either side of an edge
_CONTOUR_SIGMA = 1.5  # mm, of the image that a contour is drawn in
_STEP = 0.5  # mm between points of a contour
_SMOOTH_ALONG = 2.0  # mm, of a contour
_SEGMENT = 5.0  # mm that are kept or left out together
_LEAST_LENGTH = 30.0  # mm of a contour
_PLATEAU = (3.5, 7.0)  # mm from the edge, where the two sides are measured
_UNEVEN = 0.15  # of the contrast, by which a side may differ from the others' or slope
_LEAST_PIXELS = 6  # of a segment's plateau
_SLANT = 0.6  # mm between the foot of a pixel and the nearest point of the contour: at an open end there is more


@dataclass(frozen=True, eq=False)
class Edge:
    """Pixels along the good parts of all contours at one level.

    Args:
        distance: in mm, above 0 on the brighter side, shape ``(n,)``.
        slices: index of each pixel's slice.
        at: its X and Y, shape ``(n, 2)``.
        segment: number of the piece of contour it belongs to.
        length: of all pieces, in mm.
    """

    distance: np.ndarray
    slices: np.ndarray
    at: np.ndarray
    segment: np.ndarray
    length: float

    def values(self, slices: np.ndarray) -> np.ndarray:
        """Return the pixels' values in slices ``(X, Y, Z)``."""
        return slices[self.at[:, 0], self.at[:, 1], self.slices].astype(np.float64)


def find_edge(
    slices: np.ndarray,
    pixel: tuple[float, float],
    level: float,
    dark: tuple[float, float] = (-np.inf, np.inf),
    bright: tuple[float, float] = (-np.inf, np.inf),
) -> Edge | None:
    """Find the contours at a level, and keep the pieces whose two sides are flat and like those of the others.

    Args:
        slices: shape ``(X, Y, Z)``.
        pixel: size in mm.
        level: halfway between the two sides.
        dark: what the dark side of a piece may be.
        bright: what its bright side may be.

    Returns:
        The edge, or ``None`` where no piece can be used.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    offset = 0
    smooth = smoothed(slices, pixel, _CONTOUR_SIGMA)
    for index in range(slices.shape[2]):
        found = _band(smooth[..., index], pixel, level)
        if found is not None:
            distance, at, segment = found
            parts.append((distance, np.full(len(distance), index), at, segment + offset))
            offset += int(segment.max()) + 1
    if not parts:
        return None
    distance, numbers, at, segment = (np.concatenate([part[i] for part in parts]) for i in range(4))
    every = Edge(distance, numbers, at, segment, offset * _SEGMENT)
    kept = np.isin(segment, _flat_pieces(every, every.values(slices), {-1: dark, 1: bright}))
    if not kept.any():
        return None
    pieces = len(np.unique(segment[kept]))
    return Edge(distance[kept], numbers[kept], at[kept], segment[kept], pieces * _SEGMENT)


def _band(
    smooth: np.ndarray, pixel: tuple[float, float], level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return distance, place and segment of the pixels near the contours of one smoothed slice."""
    if min(smooth.shape) < 2:
        return None
    from skimage.measure import find_contours  # slow to import; restoring does not need it

    sampled = [_resampled(curve * pixel) for curve in find_contours(smooth, level)]
    curves = [curve for curve in sampled if curve is not None and len(curve) * _STEP >= _LEAST_LENGTH]
    if not curves:
        return None
    normals = np.concatenate([_normals(curve) for curve in curves])
    points = np.concatenate(curves)
    segment: np.ndarray = np.arange(len(points)) // round(_SEGMENT / _STEP)
    above = smooth > level
    depth = np.where(above, *(distance_transform_edt(side, sampling=pixel) for side in (above, ~above)))
    pixels = np.argwhere(depth <= REACH + 1)
    near, index = cKDTree(points).query(pixels * pixel, distance_upper_bound=REACH + 1)
    pixels, index = pixels[np.isfinite(near)], index[np.isfinite(near)]
    away = pixels * pixel - points[index]
    distance = (away * normals[index]).sum(axis=1)
    slant = np.abs(away[:, 0] * normals[index, 1] - away[:, 1] * normals[index, 0])
    good = (np.abs(distance) <= REACH) & (slant <= _SLANT)
    if not good.any():
        return None
    inside = smooth[tuple(pixels[good].T)]
    far = np.abs(distance[good]) > _PLATEAU[0]
    # find_contours keeps one side of the level on one hand; the sign follows from the values
    sign = np.sign(np.sum((inside[far] - level) * distance[good][far])) or 1.0
    return distance[good] * sign, pixels[good], segment[index[good]]


def _resampled(curve: np.ndarray) -> np.ndarray | None:
    """Return the points of a curve at even steps, smoothed along it; ``None`` where it is too short."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    if along[-1] < _LEAST_LENGTH:
        return None
    closed = bool(np.allclose(curve[0], curve[-1]))
    even = np.arange(0, along[-1], _STEP)
    mode = "wrap" if closed else "nearest"
    sampled = np.stack([np.interp(even, along, curve[:, axis]) for axis in (0, 1)], axis=1)
    smooth: np.ndarray = gaussian_filter1d(sampled, _SMOOTH_ALONG / _STEP, axis=0, mode=mode)
    margin = 0 if closed else round(2 * _SMOOTH_ALONG / _STEP)
    return smooth[margin : len(smooth) - margin]


def _normals(curve: np.ndarray) -> np.ndarray:
    tangent = np.gradient(curve, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    return np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)


def _flat_pieces(edge: Edge, values: np.ndarray, allowed: dict[int, tuple[float, float]]) -> np.ndarray:
    """Return the numbers of the pieces whose plateaus are allowed, even, and like the median of all such pieces."""
    count = int(edge.segment.max()) + 1
    means, halves = {}, {}
    enough: np.ndarray = np.ones(count, dtype=bool)
    for side in (-1, 1):
        outward: np.ndarray = edge.distance * side
        plateau = (outward > _PLATEAU[0]) & (outward < _PLATEAU[1])
        inner = outward < sum(_PLATEAU) / 2
        means[side], filled = _mean_by(edge.segment, values, plateau, count)
        near, _ = _mean_by(edge.segment, values, plateau & inner, count)
        far, _ = _mean_by(edge.segment, values, plateau & ~inner, count)
        halves[side] = np.abs(far - near)
        low, high = allowed[side]
        enough &= (filled >= _LEAST_PIXELS) & (means[side] > low) & (means[side] < high)
    if not enough.any():
        return np.arange(0)
    usual = {side: float(np.median(means[side][enough])) for side in means}
    limit = _UNEVEN * (usual[1] - usual[-1])
    good = enough & (limit > 0)
    for side in means:
        good &= (np.abs(means[side] - usual[side]) < limit) & (halves[side] < limit)
    return np.nonzero(good)[0]


def _mean_by(segment: np.ndarray, values: np.ndarray, chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    filled = np.bincount(segment[chosen], minlength=count)
    return np.bincount(segment[chosen], values[chosen], count) / np.maximum(filled, 1), filled
