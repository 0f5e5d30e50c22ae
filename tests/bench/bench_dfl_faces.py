"""DeepFaceLab's faceset files: faces a second through metadata, faceset.pak and meta.dat, on one core.

The baseline of reading is CPython's own unpickler on the same metadata, which would execute what is in it.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ml_common.dfl.edited_picture import check_edited
from ml_common.dfl.face_jpeg import metadata_payload, read_face_jpeg, without_metadata, write_face_jpeg
from ml_common.dfl.face_metadata import parse_metadata
from ml_common.dfl.meta_dat import SavedMetadata, read_meta_dat, write_meta_dat
from ml_common.dfl.pak import PakReader
from ml_common.dfl.pak_writer import PakEntry, write_pak

_GOLDEN = Path(__file__).parents[1] / "golden" / "dfl_faces"
_FACES = 2000


def _best_s(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _row(name: str, seconds: float, baseline_s: float | None = None) -> dict[str, Any]:
    value = _FACES / seconds
    baseline = None if baseline_s is None else _FACES / baseline_s
    return {
        "name": f"dfl.{name}",
        "value": round(value, 1),
        "unit": "faces/s",
        "baseline": None if baseline is None else round(baseline, 1),
        "ratio": None if baseline is None else round(value / baseline, 3),
    }


def run() -> list[dict[str, Any]]:
    """Rates with the four golden faces over and over: 128 px, half of them with a mask, half with polygons."""
    jpegs = [path.read_bytes() for path in sorted(_GOLDEN.glob("*.jpg"))] * (_FACES // 4)
    bare = [without_metadata(data) for data in jpegs]
    metadata = [read_face_jpeg(data).metadata or {} for data in jpegs]
    payloads = [metadata_payload(each) for each in metadata]
    rows = [
        _row(
            "jpeg_read_per_s",
            _best_s(lambda: [read_face_jpeg(data) for data in jpegs]),
            _best_s(lambda: [pickle.loads(payload) for payload in payloads]),
        ),
        _row("metadata_parse_per_s", _best_s(lambda: [parse_metadata(each) for each in metadata])),
        _row(
            "jpeg_write_per_s", _best_s(lambda: [write_face_jpeg(*pair) for pair in zip(bare, metadata, strict=True)])
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        pak, meta_dat = Path(folder) / "faceset.pak", Path(folder) / "meta.dat"
        entries = [PakEntry(f"{number:05d}_0.jpg") for number in range(_FACES)]
        saved = [
            SavedMetadata(file_name=entry.name, width_px=128, height_px=128, metadata=each)
            for entry, each in zip(entries, metadata, strict=True)
        ]
        rows.append(
            _row(
                "pak_write_per_s", _best_s(lambda: write_pak(pak, entries, lambda entry: jpegs[int(entry.name[:5])]), 1)
            )
        )
        rows.append(_row("pak_open_per_s", _best_s(lambda: PakReader(pak).close())))
        order = np.random.default_rng(0).permutation(_FACES).tolist()
        with PakReader(pak) as reader:
            rows.append(_row("pak_read_per_s", _best_s(lambda: [reader.read_jpeg(index) for index in order])))
        rows.append(_row("meta_dat_write_per_s", _best_s(lambda: write_meta_dat(meta_dat, _FACES, iter(saved)), 1)))
        data = meta_dat.read_bytes()
        rows.append(_row("meta_dat_read_per_s", _best_s(lambda: [each.file_name for each in read_meta_dat(data)])))
    face = cv2.resize(cv2.imdecode(np.frombuffer(jpegs[0], np.uint8), cv2.IMREAD_COLOR), (512, 512))
    graded = np.clip(face * 0.8 + 10, 0, 255).astype(np.uint8)
    seconds = _best_s(lambda: [check_edited(face, graded) for _ in range(20)]) / 20
    rows.append(_row("check_edited_512_per_s", seconds * _FACES))
    return rows
