"""Polygons on the host: what makes one valid, its area, and its decomposition into triangles."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg.errors import UserError

EPS = 16 * np.finfo(np.float64).eps
"""Distances below this share of a polygon's largest coordinate are rounding."""


def checked_polygon(vertices: Any) -> np.ndarray:
    """The corners of a simple polygon as given, float64, shape (n, 2).

    Args:
        vertices: n ≥ 3 corners in order around the polygon, either way round, the first not repeated at the end. A
            corner of 180° is allowed: it divides an edge in two.
    Raises:
        UserError: another shape, fewer than three corners, numbers that are not finite, a repeated corner, edges that
            cross, touch or fold back on one another, no area. Corners and edges are named, counted from 0; edge i goes
            from corner i to the next.
    """
    where = "polygon"
    try:
        corners = np.array(vertices, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError("the corners are no table of numbers", where=where, remedy="Give (n, 2) numbers.") from error
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise UserError(f"corners of shape {corners.shape}", where=where, remedy="Give a row (x, y) for each corner.")
    if len(corners) < 3:
        raise UserError(f"{len(corners)} corners", where=where, remedy="A polygon has at least three.")
    if len(bad := np.flatnonzero(~np.isfinite(corners).all(axis=1))):
        raise UserError(f"corner {bad[0]} is {corners[bad[0]].tolist()}", where=where, remedy="Give finite numbers.")
    _refuse_crossings(corners, where)
    no_area = _rounding(corners) * np.ptp(corners, axis=0).max()
    if abs(signed_area(corners)) <= no_area:
        raise UserError("the polygon has no area", where=where, remedy="Its corners must not lie on one line.")
    steps = np.roll(corners, -1, axis=0) - corners
    onward = np.roll(steps, -1, axis=0)
    back = (np.abs(_cross(steps, onward)) <= no_area) & (np.sum(steps * onward, axis=1) < 0)
    if len(bad := np.flatnonzero(back)):
        i, j = int(bad[0]), int(bad[0] + 1) % len(corners)
        raise UserError(f"edge {j} folds back on edge {i}", where=where, remedy="Take the spike out.")
    return corners


def signed_area(corners: np.ndarray) -> float:
    """Area by the shoelace formula, positive where the corners go round counter-clockwise.

    >>> signed_area(np.array([[0, 0], [2, 0], [2, 1], [0, 1]]))
    2.0
    """
    near = corners - corners[0]  # a polygon far from the origin would lose its digits
    return float(np.sum(_cross(near, np.roll(near, -1, axis=0))) / 2)


def triangulated(corners: np.ndarray) -> np.ndarray:
    """A simple polygon cut into triangles by ear clipping (Meisters, 1975); O(n²) products at best, O(n³) at worst.

    Args:
        corners: of `checked_polygon`.
    Returns:
        (m, 3, 2), counter-clockwise, m ≤ n − 2; they cover the polygon and do not overlap.
    Raises:
        UserError: corners so close to touching that rounding hides how they lie.

    >>> triangulated(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])).shape
    (2, 3, 2)
    """
    near = corners - corners[0]
    area = signed_area(corners)
    flat = _rounding(corners) * np.ptp(corners, axis=0).max()
    left = list(range(len(corners)))
    if area < 0:
        left.reverse()
    triangles: list[Sequence[int]] = []
    i = misses = 0
    while len(left) > 2 and misses < len(left):
        i %= len(left)
        ear = [left[i - 1], left[i], left[(i + 1) % len(left)]]
        a, b, c = near[ear]
        turn = _cross(b - a, c - b)
        if abs(turn) <= flat:  # a straight corner: without it the polygon is the same
            left.pop(i)
            misses = 0
        elif turn > 0 and not _any_inside(near[[k for k in left if k not in ear]], a, b, c):
            triangles.append(ear)
            left.pop(i)
            misses = 0
            i += 1  # the next ear elsewhere: fans of slivers are avoided
        else:
            misses += 1
            i += 1
    found = corners[np.array(triangles, int).reshape(-1, 3)]
    covered = sum(signed_area(triangle) for triangle in found)
    if abs(covered - abs(area)) > 1e-9 * abs(area):
        raise UserError(
            "corners and edges lie so close together that rounding hides which is where",
            where="polygon",
            remedy="Leave out details that are smaller than a millionth of the whole.",
        )
    return found


def _rounding(corners: np.ndarray) -> float:
    return EPS * np.abs(corners).max()


def _cross(a: np.ndarray, b: np.ndarray) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _any_inside(points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    """Whether any point lies in the closed triangle, which goes round counter-clockwise."""
    sides = [_cross(end - start, points - start) >= 0 for start, end in ((a, b), (b, c), (c, a))]
    return bool(np.any(np.logical_and.reduce(sides)))


def _refuse_crossings(corners: np.ndarray, where: str) -> None:
    """Refuse two corners in one place, and two edges that meet though they are not neighbours."""
    n = len(corners)
    ends = np.roll(corners, -1, axis=0)
    close = _rounding(corners)
    for i in range(n):
        later = corners[i + 1 :]
        if len(same := np.flatnonzero(np.abs(later - corners[i]).max(axis=1) <= close)):
            j = i + 1 + int(same[0])
            remedy = (
                "Leave the last one out: the polygon closes by itself." if (i, j) == (0, n - 1) else "Give it once."
            )
            raise UserError(f"corners {i} and {j} are the same, {corners[i].tolist()}", where=where, remedy=remedy)
    for i in range(n):
        others = np.arange(i + 2, n if i else n - 1)  # neighbours share a corner
        a, b, c, d = corners[i], ends[i], corners[others], ends[others]
        crossing = (_cross(b - a, c - a) * _cross(b - a, d - a) < 0) & (_cross(d - c, a - c) * _cross(d - c, b - c) < 0)
        touching = [_distance(a, c, d), _distance(b, c, d), _distance(c, a, b), _distance(d, a, b)]
        if len(bad := others[crossing | (np.min(touching, axis=0) <= close)]):
            raise UserError(
                f"edges {i} and {int(bad[0])} cross or touch",
                where=where,
                remedy="Give the corners in order around the polygon, each edge meeting only its neighbours.",
            )


def _distance(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance from points to segments, either being one or many."""
    along = end - start
    share = np.clip(np.sum((point - start) * along, axis=-1) / np.sum(along * along, axis=-1), 0, 1)
    return np.linalg.norm(start + share[..., None] * along - point, axis=-1)
