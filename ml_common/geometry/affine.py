"""2x3 affine matrices: apply, invert, chain, fit.

What a reader would get wrong: a matrix is named after where it leads, `a_to_b_2x3`, and b = M a. Chaining "first
a_to_b, then b_to_c" is therefore `compose(b_to_c, a_to_b)`, the later one on the left.

Shape legend: N = number of points, 2 = (x, y) in pixels, 2x3 = affine matrix. All results are float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def transform_points(points_N2: ArrayLike, a_to_b_2x3: ArrayLike) -> NDArray[np.float64]:
    """Maps points [..., 2] given in system a into system b."""
    points = np.asarray(points_N2, dtype=np.float64)
    matrix = _checked_affine(a_to_b_2x3)
    if points.shape[-1:] != (2,):
        raise ValueError(f"points must have shape [..., 2], got {list(points.shape)}")
    mapped: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped


def invert_affine(a_to_b_2x3: ArrayLike) -> NDArray[np.float64]:
    """The matrix b_to_a; ValueError when the given one squashes the plane and so has no inverse."""
    matrix = _checked_affine(a_to_b_2x3)
    linear = matrix[:, :2]
    determinant = linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]
    if abs(determinant) <= 1e-14 * max(float(np.abs(linear).max()) ** 2, 1e-300):
        raise ValueError("the affine matrix is singular: it maps the plane to a line or a point and cannot be inverted")
    inverse = np.array([[linear[1, 1], -linear[0, 1]], [-linear[1, 0], linear[0, 0]]]) / determinant
    return np.column_stack((inverse, -inverse @ matrix[:, 2]))


def compose(b_to_c_2x3: ArrayLike, a_to_b_2x3: ArrayLike) -> NDArray[np.float64]:
    """The matrix a_to_c: first the right one, then the left one."""
    left, right = _checked_affine(b_to_c_2x3), _checked_affine(a_to_b_2x3)
    return np.column_stack((left[:, :2] @ right[:, :2], left[:, :2] @ right[:, 2] + left[:, 2]))


def translation(x_px: float, y_px: float) -> NDArray[np.float64]:
    """The matrix that adds (x_px, y_px)."""
    return np.array([[1.0, 0.0, x_px], [0.0, 1.0, y_px]])


def resize_matrix(factor: float) -> NDArray[np.float64]:
    """Where a pixel goes when an image is resized by `factor`.

    Pixel centres are integers, so the edge of an image lies half a pixel outside its first centre; the scaling keeps
    the edges together, not the centres, which is what resizing functions do.
    """
    return np.array([[factor, 0.0, (factor - 1.0) / 2.0], [0.0, factor, (factor - 1.0) / 2.0]])


def umeyama(source_N2: ArrayLike, target_N2: ArrayLike) -> NDArray[np.float64]:
    """The similarity (rotation, uniform scale, translation; never a mirror) that best maps source onto target.

    Least squares after Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE PAMI 13(4), 1991. Returns source_to_target, 2x3. ValueError when the points are not finite, fewer than two, or
    all source points (or all target points) coincide. Golden numbers: tests/unit/geometry.
    """
    source = np.asarray(source_N2, dtype=np.float64)
    target = np.asarray(target_N2, dtype=np.float64)
    if source.ndim != 2 or source.shape[1] != 2 or source.shape != target.shape or len(source) < 2:
        raise ValueError(
            "a similarity needs two point sets of equal shape [N >= 2, 2], "
            f"got {list(source.shape)} and {list(target.shape)}"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points hold NaN or infinity; drop the face or detect its landmarks again")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_0, target_0 = source - source_mean, target - target_mean
    source_variance = float((source_0**2).sum()) / len(source)
    resolution = 1e-12 * max(1.0, float(np.abs(source).max())) ** 2
    if source_variance <= resolution:
        raise ValueError("all points coincide: no scale or rotation can be told; detect the landmarks again")
    covariance = target_0.T @ source_0 / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    if singular[0] <= 1e-12 * source_variance:
        raise ValueError("the two point sets have no similarity in common (their covariance is zero)")
    # The mirror that would fit better is forbidden by flipping the weaker axis; this also covers points on one line.
    signs = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0])
    rotation = u @ np.diag(signs) @ vt
    linear = float(singular @ signs) / source_variance * rotation
    return np.column_stack((linear, target_mean - linear @ source_mean))


def _checked_affine(matrix_2x3: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(matrix_2x3, dtype=np.float64)
    if matrix.shape != (2, 3):
        raise ValueError(f"an affine matrix has shape [2, 3], got {list(matrix.shape)}")
    return matrix
