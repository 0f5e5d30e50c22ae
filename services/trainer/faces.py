"""Facesets of the store as training samples: every active face of a revision, pictures still compressed, in the revision's order.

The order is part of a run's identity: which face is drawn at which iteration follows from it, so nothing here may sort or skip.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from services.kit.errors import Corrupt
from services.kit.faceset_store import FacesetStore
from services.kit.records import Records
from services.kit.storage import ObjectStore

if TYPE_CHECKING:
    from ml_common.training.samples import FaceSample

READ_THREADS = 16


def load_faces(store: ObjectStore, records: Records, faceset: str, revision: int) -> list[FaceSample]:
    """The faces of a revision that are not in the trash. Raises NotFound and Corrupt, naming what is missing or damaged."""
    from ml_common.facesets import FaceRecord
    from ml_common.training.samples import FaceSample

    table = FacesetStore(store, records).table(faceset, revision)[1].active()

    def load(image_key: str, record_key: str) -> FaceSample:
        try:
            record = FaceRecord.from_json_bytes(store.get(record_key))
        except ValueError as error:
            raise Corrupt(
                f"{record_key} is not a face record: {error}", metadata={"uri": store.uri(record_key)}
            ) from error
        return FaceSample(
            image=store.get(image_key),
            landmarks_px_68x2=np.asarray(record.crop_landmarks_px, np.float32),
            face_type=record.face_type,
            mask=store.get(store.key_of(record.mask.raster.uri)) if record.mask else None,
            yaw_rad=math.radians(record.pose.yaw_deg),
            eyebrows_expand=record.eyebrows_expand,
            name=f"{faceset}/faces/{record.face_id}",
        )

    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="faces") as pool:
        return list(pool.map(load, table.column("image_key"), table.column("record_key")))
