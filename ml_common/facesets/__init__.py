"""The stored formats of a faceset: one record per face (JSON) and one columnar manifest per revision (Parquet).

What a reader would get wrong: a record never changes its meaning by being moved or sorted. Order, trash and whatever a
person decides about a whole set live in the revision; the record says what one aligned face is.
"""

from ml_common.facesets.face_id import FaceId, face_id, parse_face_id
from ml_common.facesets.parts import FaceMask, FaceSource, ObjectRef, Polygon, PolygonKind, Pose, Producer, XSegLabel
from ml_common.facesets.record import FACE_TYPE_NAMES, SCHEMA_VERSION, FaceRecord, LandmarkOrigin
from ml_common.facesets.revision import (
    SCHEMA,
    FaceKeys,
    RevisionRow,
    RevisionTable,
    concatenate,
    from_records,
    read_revision,
    write_revision,
)

__all__ = [
    "FACE_TYPE_NAMES",
    "SCHEMA",
    "SCHEMA_VERSION",
    "FaceId",
    "FaceKeys",
    "FaceMask",
    "FaceRecord",
    "FaceSource",
    "LandmarkOrigin",
    "ObjectRef",
    "Polygon",
    "PolygonKind",
    "Pose",
    "Producer",
    "RevisionRow",
    "RevisionTable",
    "XSegLabel",
    "concatenate",
    "face_id",
    "from_records",
    "parse_face_id",
    "read_revision",
    "write_revision",
]
