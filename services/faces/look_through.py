"""Frames of a plan's clip through the worker's three steps: decoded, looked at, stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from services.faces.overlap import Done, Found, Frame, batch_frames, overlapped
from services.kit.clips import CorruptFrames, MediaFile, open_clip
from services.kit.operations.plan import Plan
from services.kit.operations.stage import WorkerEnv

_FRAMES_PER_BATCH = {"cpu": 8, "cuda": 32}


def look_through(
    env: WorkerEnv,
    plan: Plan,
    numbers: Sequence[int],
    corrupt: CorruptFrames,
    find: Callable[[list[Frame]], Found],
    store: Callable[[list[Frame], Found], Done],
) -> Iterator[tuple[int, Done]]:
    """(frames in it, what ``store`` returned) of every batch of the frames ``numbers``, in order; see ``overlapped``.

    ``plan.params`` names the footage by ``media`` and ``clip``. Frames that cannot be decoded go to ``corrupt`` and are in no batch.
    """
    media = MediaFile(**plan.params["media"])
    with open_clip(env.store, media, plan.params["clip"], hardware=env.video_decoder) as clip:
        most = _FRAMES_PER_BATCH[env.device.partition(":")[0]]
        per_batch = batch_frames(clip.info.width * clip.info.height * 3, most)
        yield from overlapped(clip.read(numbers, on_corrupt=corrupt), per_batch, find, store)


def nothing(_batch: list[Frame]) -> None:
    """For ``find`` where frames are only cut or drawn into."""
