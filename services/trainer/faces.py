"""Facesets of the store as training samples: every active face of a revision, pictures still compressed, in the revision's order.

The order is part of a run's identity: which face is drawn at which iteration follows from it, so nothing here may sort or skip. Faces
are read from the revision's snapshot, which is built by the first run that wants it; what one would get wrong: the samples depend on the
revision alone, not on how its pictures were packed.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from services.kit.errors import Corrupt, InvalidInput, NotFound
from services.kit.records import Records
from services.kit.snapshot_build import build_snapshot
from services.kit.snapshot_store import Snapshot, discard_snapshot, open_snapshot
from services.kit.storage import ObjectStore

if TYPE_CHECKING:
    from ml_common.facesets.snapshot import SnapshotFace
    from ml_common.training.samples import FaceSample

_LOG = logging.getLogger(__name__)

READ_THREADS = 16
_BATCH = 64
_FACES_NAMED = 3


def load_faces(store: ObjectStore, records: Records, faceset: str, revision: int) -> list[FaceSample]:
    """The faces of a revision that are not in the trash. NotFound when there is no such revision, InvalidInput naming the faces whose
    picture, mask or sidecar is missing or damaged: a run on fewer faces would be another run."""
    snapshot = _whole_snapshot(store, records, faceset, revision)
    try:
        return _samples(store, snapshot)
    except (NotFound, Corrupt) as error:
        _LOG.warning("the snapshot of revision %d of %s is built again: %s", snapshot.revision, faceset, error.message)
        discard_snapshot(store, snapshot)
    return _samples(store, _whole_snapshot(store, records, faceset, revision))


def _whole_snapshot(store: ObjectStore, records: Records, faceset: str, revision: int) -> Snapshot:
    snapshot = build_snapshot(store, records, faceset, revision)
    if snapshot.failures:
        named = "; ".join(f"{failure.name}: {failure.message}" for failure in snapshot.failures[:_FACES_NAMED])
        raise InvalidInput(
            f"{len(snapshot.failures)} faces of revision {snapshot.revision} cannot be trained on: {named}. "
            "Put back what is missing, or trash these faces and train on the new revision"
        )
    return snapshot


def _samples(store: ObjectStore, snapshot: Snapshot) -> list[FaceSample]:
    reader = open_snapshot(store, snapshot.index)

    def load(start: int) -> list[FaceSample]:
        return [_sample(snapshot, face) for face in reader.batch(range(start, min(start + _BATCH, len(reader))))]

    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="faces") as pool:
        return [sample for batch in pool.map(load, range(0, len(reader), _BATCH)) for sample in batch]


def _sample(snapshot: Snapshot, face: SnapshotFace) -> FaceSample:
    from ml_common.training.samples import FaceSample

    return FaceSample(
        image=bytes(face.image),
        landmarks_px_68x2=face.landmarks_px_68x2.copy(),
        face_type=face.face_type,
        mask=None if face.mask is None else bytes(face.mask),
        yaw_rad=math.radians(face.yaw_deg),
        eyebrows_expand=face.eyebrows_expand,
        name=f"{snapshot.faceset}/faces/{face.face_id}",
    )
