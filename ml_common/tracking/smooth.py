"""Steadies the landmarks of one track in time and keeps what really moves: turns, blinks, speech.

What a reader would get wrong: the filter has no delay to begin with (it looks as far ahead as back), so what it must not
do is round off motion. It splits the motion of a track into bands, from frame-to-frame flicker to slow drift, and takes
a band away only where the band holds no more than the landmarker's own noise.

How. A similarity laid through the points that neither speech nor blinks move (nose, eye corners, brows a little) splits
each frame into the motion of the whole face (place, size, angle) and its shape. Both go through the same ladder of ever
wider local fits, quadratic but for the last and calmest, which is linear; the difference of two rungs is a band. Around
each frame, the energy of a band in a group of points that move together (a lid, a lip, ...) is set against the noise
expected there: about the noise, the band is dropped; well above, it is kept whole. The noise is read off nose and eye
corners alone, as what six neighbouring frames cannot predict of the one between them: a mouth that talks all the time
must not pass for a noisy one.

This is block thresholding of an undecimated wavelet decomposition (Cai, "Adaptive wavelet estimation: a block
thresholding and oracle inequality approach", Annals of Statistics 27(3), 1999) with local polynomial fits (Fan and
Gijbels, 1996) for rungs, which follow a trend up to the end of a track and across gaps.

Limits: what a landmarker gets wrong in the same way for many frames (its bias in a pose, a slow drift with the light)
stays, and so does a blunder of a single frame, which looks like a blink. While the head moves fast, nearly everything
is kept, noise included.

Shape legend: N = frames of the track, W = frame numbers of a window around each, P = points, D = signals, 68x2 =
landmarks (x, y) in frame pixels, complex = x + iy. IOD = distance between the outer eye corners of the mean face, at
the scale of the face: the unit of shapes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry import MEAN_FACE_UNIT_51x2

F64Array = NDArray[np.float64]
C128Array = NDArray[np.complex128]

DEFAULT_RADIUS_FRAMES: Final = 15
MAX_RADIUS_FRAMES: Final = 30

# How much each point says about the place of the whole face. Lids, lips and jaw move by themselves and say nothing.
_RIGID_WEIGHTS_68: Final = np.zeros(68)
_RIGID_WEIGHTS_68[17:27] = 0.3
_RIGID_WEIGHTS_68[27:36] = 1.0
_RIGID_WEIGHTS_68[[36, 39, 42, 45]] = 1.0
_STABLE: Final = (*range(27, 36), 36, 39, 42, 45)

# Points that move together, and their noise as a multiple of that of the stable points: measured with the default finder
# on rendered heads held still. Small groups, so that one moving lip is not lost in the average of a whole mouth.
_SHAPE_GROUPS: Final = (
    (range(6), 4.3),  # jaw, image-left
    (range(6, 11), 3.9),  # chin
    (range(11, 17), 4.3),  # jaw, image-right
    (range(17, 22), 1.6),  # brows
    (range(22, 27), 1.6),
    (range(27, 36), 1.0),  # nose
    ((37, 38), 1.6),  # upper lid, then the rest of the eye
    ((36, 39, 40, 41), 1.6),
    ((43, 44), 1.6),
    ((42, 45, 46, 47), 1.6),
    ((48, 49, 59, 60), 2.4),  # corner of the mouth
    ((53, 54, 55, 64), 2.4),
    ((50, 51, 52, 61, 62, 63), 2.4),  # upper lip
    ((56, 57, 58, 65, 66, 67), 2.4),  # lower lip
)
_PLACE_NOISE: Final = 2.3  # likewise
_TURN_AND_SIZE_NOISE: Final = 2.6  # of angle (radians) and log size: one group, or chance would often pass for motion

_FINEST_RUNG, _RUNG_RATIO = 0.8, 1.75  # standard deviations of the fits' weights, in frames
_ENERGY_SHARE: Final = 5  # the energy of a band is averaged over this part of the radius to either side
_DROP_BELOW, _KEEP_ABOVE = 2.0, 5.0  # energy of a band, in units of the noise's
_NOISE_NEIGHBOURS: Final = np.array([-3, -2, -1, 1, 2, 3])
_USUAL_NOISE_IOD: Final = 0.0015
_USUAL_NOISE_WEIGHT: Final = 2.0  # frames
_NOISE_LIMITS_IOD: Final = (0.0005, 0.04)


def smooth_track(
    numbers_N: ArrayLike, landmarks_px_N68x2: ArrayLike, *, radius_frames: int = DEFAULT_RADIUS_FRAMES
) -> F64Array:
    """The landmarks of one track without the landmarker's jitter, float64 [N, 68, 2], frame pixels.

    ``numbers_N``: frame numbers, integers, strictly rising, gaps allowed. ``landmarks_px_N68x2``: iBUG order, finite.
    ``radius_frames``: 1..30, how many frame numbers before and after are looked at. The result at a frame depends on
    frames within that radius alone, so a track cut into pieces with a margin of the radius gives the same numbers
    (tests/unit/tracking). ValueError for anything else.
    """
    numbers, landmarks = _checked(numbers_N, landmarks_px_N68x2)
    if not 1 <= radius_frames <= MAX_RADIUS_FRAMES:
        raise ValueError(f"radius_frames must be 1..{MAX_RADIUS_FRAMES}, got {radius_frames}")
    if len(numbers) < 2:
        return landmarks.copy()
    points_NP: C128Array = landmarks[..., 0] + 1j * landmarks[..., 1]
    center_N, linear_N = _similarities(points_NP)
    shape_NP = (points_NP - center_N[:, None]) / linear_N[:, None]
    noise_N = _noise(numbers, shape_NP, radius_frames)

    ladder = _Ladder(numbers, radius_frames)
    size_N = np.abs(linear_N)
    center_N2 = ladder.filtered(_as_real(center_N[:, None]), _PLACE_NOISE * noise_N * size_N)
    turn_N2 = np.stack((np.log(size_N), np.unwrap(np.angle(linear_N))), axis=1)
    turn_N2 = ladder.filtered(turn_N2, _TURN_AND_SIZE_NOISE * noise_N)
    shape = np.empty_like(landmarks)
    for points, noisier in _SHAPE_GROUPS:
        signals_ND = ladder.filtered(_as_real(shape_NP[:, tuple(points)]), noisier * noise_N)
        shape[:, tuple(points)] = signals_ND.reshape(len(numbers), -1, 2)
    steady_linear_N = np.exp(turn_N2 @ np.array((1.0, 1.0j)))
    result_NP = (shape @ np.array((1.0, 1.0j))) * steady_linear_N[:, None] + center_N2 @ np.array([[1.0], [1.0j]])
    return _as_real(result_NP).reshape(landmarks.shape)


def _checked(numbers_N: ArrayLike, landmarks_px_N68x2: ArrayLike) -> tuple[NDArray[np.int64], F64Array]:
    numbers = np.asarray(numbers_N)
    landmarks = np.asarray(landmarks_px_N68x2, dtype=np.float64)
    if numbers.ndim != 1 or (len(numbers) and not np.issubdtype(numbers.dtype, np.integer)):
        raise ValueError(
            f"frame numbers must be a list of integers, got {numbers.dtype} of shape {list(numbers.shape)}"
        )
    if landmarks.shape != (len(numbers), 68, 2):
        raise ValueError(f"landmarks must have shape [{len(numbers)}, 68, 2], got {list(landmarks.shape)}")
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks hold NaN or infinity; drop those faces from the track")
    if (np.diff(numbers) <= 0).any():
        raise ValueError("frame numbers must rise strictly: sort the track and keep one face per frame")
    return numbers.astype(np.int64), landmarks


def _as_real(values_NP: C128Array) -> F64Array:
    """[N, P] complex as [N, 2P] real: x, y, x, y, ..."""
    return np.ascontiguousarray(values_NP).view(np.float64)


def _template() -> C128Array:
    """The mean face's inner points, outer eye corners 1 apart, centred for the weights above."""
    face = MEAN_FACE_UNIT_51x2[:, 0] + 1j * MEAN_FACE_UNIT_51x2[:, 1]
    face = face / np.abs(face[36 - 17] - face[45 - 17])
    weights = _RIGID_WEIGHTS_68[17:]
    return np.asarray(face - (weights * face).sum() / weights.sum())


_TEMPLATE_51: Final = _template()


def _similarities(points_NP: C128Array) -> tuple[C128Array, C128Array]:
    """Per frame (center, linear) with point = center + linear * template, weighted least squares."""
    weights = _RIGID_WEIGHTS_68[17:]
    inner = points_NP[:, 17:]
    center_N = inner @ (weights / weights.sum())
    linear_N = (inner - center_N[:, None]) @ (weights * _TEMPLATE_51.conj())
    linear_N /= (weights * np.abs(_TEMPLATE_51) ** 2).sum()
    if (np.abs(linear_N) <= 1e-9 * np.abs(points_NP).max()).any():
        raise ValueError("landmarks are degenerate: a face has no extent; drop it from the track")
    return center_N, linear_N


def _noise(numbers_N: NDArray[np.int64], shape_NP: C128Array, radius: int) -> F64Array:
    """Standard deviation per coordinate of the stable points' noise around each frame, in IOD, [N].

    Where the radius holds too few frames to tell, it is the usual noise.
    """
    count, reach = len(numbers_N), int(_NOISE_NEIGHBOURS[-1])
    noise_N = np.full(count, _USUAL_NOISE_IOD)
    if count <= 2 * reach:
        return noise_N
    # What the polynomial through three neighbours on either side (Lagrange) leaves unexplained. Lower orders take the
    # motion of a shaken head for noise.
    middle = np.arange(reach, count - reach)
    neighbours = middle[:, None] + _NOISE_NEIGHBOURS
    time = (numbers_N[neighbours] - numbers_N[middle][:, None]).astype(np.float64)
    apart = time[:, None, :] - time[:, :, None]
    np.einsum("nkk->nk", apart)[:] = 1.0
    others = np.where(np.eye(2 * reach, dtype=bool), 1.0, time[:, None, :])
    lagrange = (others / apart).prod(axis=2)
    stable = shape_NP[:, _STABLE]
    residual = stable[middle] - np.einsum("nk,nkp->np", lagrange, stable[neighbours])
    residual /= np.sqrt(1.0 + np.square(lagrange).sum(axis=1))[:, None]
    per_frame = np.median(np.abs(_as_real(residual)), axis=1) / 0.6745  # of a normal deviation's median size
    first = np.searchsorted(numbers_N[middle - reach], numbers_N - radius, side="left")
    last = np.searchsorted(numbers_N[middle + reach], numbers_N + radius, side="right")
    for i in range(count):
        seen = per_frame[first[i] : last[i]]
        if len(seen):
            own, usual = len(seen) * float(np.median(seen)), _USUAL_NOISE_WEIGHT * _USUAL_NOISE_IOD
            noise_N[i] = (own + usual) / (len(seen) + _USUAL_NOISE_WEIGHT)
    return noise_N.clip(*_NOISE_LIMITS_IOD)


class _Ladder:
    """The local polynomial fits of a track's frame numbers, narrow to wide, as weights on the frames of a window."""

    def __init__(self, numbers_N: NDArray[np.int64], radius: int) -> None:
        energy_frames = radius // _ENERGY_SHARE
        reach = radius - energy_frames
        self._index_NW, present_NW = _windows(numbers_N, reach)
        self._energy_index_NW, self._energy_present_NW = _windows(numbers_N, energy_frames)
        time_W = np.arange(-reach, reach + 1, dtype=np.float64)
        rung_NW: F64Array = np.broadcast_to(np.where(time_W == 0.0, 1.0, 0.0), present_NW.shape)
        self._bands: list[F64Array] = []
        width = _FINEST_RUNG
        while width <= reach / 2:
            weight_W = np.exp(-0.5 * np.square(time_W / width))
            wider_NW = _fit_at_zero(present_NW.astype(np.float64) * weight_W, time_W, order=2)
            self._bands.append(rung_NW - wider_NW)
            rung_NW, width = wider_NW, width * _RUNG_RATIO
        # The last rung is the calmest fit that the window allows.
        self._widest_NW = _fit_at_zero(present_NW.astype(np.float64), time_W, order=1)
        self._bands.append(rung_NW - self._widest_NW)

    def filtered(self, signals_ND: F64Array, noise_N: F64Array) -> F64Array:
        """The signals of one group, freed of bands that hold nothing but noise of the given standard deviation."""
        windows_NWD = signals_ND[self._index_NW] - signals_ND[:, None]  # about the frame itself: exact far from 0
        result: F64Array = signals_ND + np.einsum("nw,nwd->nd", self._widest_NW, windows_NWD)
        for band_NW in self._bands:
            band_ND = np.einsum("nw,nwd->nd", band_NW, windows_NWD)
            # Against white noise of deviation 1. The noise is taken at the frame itself: that of its neighbours depends
            # on frames beyond the radius.
            energy_N = np.square(band_ND).mean(axis=1) / np.maximum(np.square(band_NW).sum(axis=1), 1e-30)
            energy_N = (energy_N[self._energy_index_NW] * self._energy_present_NW).sum(axis=1)
            ratio_N = energy_N / self._energy_present_NW.sum(axis=1) / np.square(noise_N)
            kept_N = np.clip((ratio_N - _DROP_BELOW) / (_KEEP_ABOVE - _DROP_BELOW), 0.0, 1.0)
            result += kept_N[:, None] * band_ND
        return result


def _windows(numbers_N: NDArray[np.int64], reach: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each frame the positions of the frame numbers around it, [N, 2 reach + 1], and which of them exist."""
    wanted = numbers_N[:, None] + np.arange(-reach, reach + 1)
    index = np.minimum(np.searchsorted(numbers_N, wanted), len(numbers_N) - 1)
    return index, numbers_N[index] == wanted


def _fit_at_zero(weight_NW: F64Array, time_W: F64Array, *, order: int) -> F64Array:
    """Weights that give the value at time 0 of the weighted least-squares polynomial; each row sums to 1.

    Of the polynomials that fit too few frames equally well it is the smallest.
    """
    powers_WK = (time_W / max(float(time_W[-1]), 1.0))[:, None] ** np.arange(order + 1)
    moments_NKK = np.einsum("nw,wk,wl->nkl", weight_NW, powers_WK, powers_WK, optimize=True)
    first_NK = np.linalg.pinv(moments_NKK, rcond=1e-10, hermitian=True)[:, 0]
    fit: F64Array = weight_NW * (first_NK @ powers_WK.T)
    return fit
