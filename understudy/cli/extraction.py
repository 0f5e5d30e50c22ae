"""The options of finding and cutting out faces, which several commands share, as one group; and the message they make.

What a reader would get wrong: `faceset extract` has defaults of its own, while commands that change a faceset leave unsaid what is not
given, so that the faceset's own type, size and format hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from understudy.v1 import face_service_pb2

FACE_TYPES = (
    "half",
    "mid-half",
    "full",
    "whole",
    "head",
    "full-no-align",
    "head-no-align",
    "head-nose",
    "frame-square",
)
_Decorated = Callable[..., Any]


def crop_options(*, new: bool) -> Callable[[_Decorated], _Decorated]:
    """`--face-type`, `--size`, `--native`, `--lossless`, `--jpeg-quality`; ``new`` for a faceset that is made now."""
    its_own = {} if new else {"show_default": "the faceset's"}
    return _all(
        click.option(
            "--face-type",
            type=click.Choice(FACE_TYPES),
            default="whole" if new else None,
            show_default=new or "the faceset's",
            help="How much of the head a crop holds.",
        ),
        click.option(
            "--size",
            "size_px",
            type=click.IntRange(64, 2048),
            default=512 if new else None,
            show_default=new or "the faceset's",
            help="Side of a crop, in pixels.",
        ),
        click.option(
            "--native", "native_size", is_flag=True, help="Each face at the size it has in its frame, up to --size."
        ),
        click.option(
            "--lossless/--jpeg",
            "lossless",
            default=None,
            help="Crops as deep as the footage: PNG of 8 or 16 bits, OpenEXR for float; or JPEG.  "
            + ("[default: JPEG]" if new else "[default: the faceset's]"),
        ),
        click.option(
            "--jpeg-quality",
            type=click.IntRange(1, 100),
            default=90 if new else None,
            help="Quality of JPEG crops.",
            **({"show_default": True} if new else its_own),
        ),
    )


def finding_options(function: _Decorated) -> _Decorated:
    """`--detector`, `--landmarker`, `--max-faces`, `--min-face`, `--min-score`."""
    return _all(
        click.option(
            "--detector", default="", help="What finds faces; `weights list` shows which.  [default: blazeface]"
        ),
        click.option("--landmarker", default="", help="What places the 68 points.  [default: facemesh]"),
        click.option(
            "--max-faces",
            type=click.IntRange(0),
            default=0,
            help="Largest faces kept in a frame; 0 for all.  [default: 0]",
        ),
        click.option(
            "--min-face",
            "min_face_px",
            type=click.IntRange(0),
            default=0,
            help="Ignore faces smaller than this, in pixels. The larger, the quicker.",
        ),
        click.option("--min-score", type=click.FloatRange(0, 1), help="Ignore detections below this score, 0 to 1."),
    )(function)


def extraction_message(how: dict[str, Any]) -> face_service_pb2.ExtractionOptions:
    """What the options of both groups say; what was not said is unset."""
    from understudy.v1 import face_pb2, face_service_pb2

    face_type = how.get("face_type")
    lossless = how.get("lossless")
    formats = {
        None: face_service_pb2.IMAGE_FORMAT_UNSPECIFIED,
        True: face_service_pb2.IMAGE_FORMAT_LOSSLESS,
        False: face_service_pb2.IMAGE_FORMAT_JPEG,
    }
    return face_service_pb2.ExtractionOptions(
        detector=how.get("detector", ""),
        landmarker=how.get("landmarker", ""),
        face_type=face_pb2.FaceType.Value(f"FACE_TYPE_{face_type.upper().replace('-', '_')}")
        if face_type
        else face_pb2.FACE_TYPE_UNSPECIFIED,
        size_px=how.get("size_px") or 0,
        native_size=how.get("native_size", False),
        max_faces_per_frame=how.get("max_faces", 0),
        min_face_px=how.get("min_face_px", 0),
        jpeg_quality=how.get("jpeg_quality") or 0,
        min_score=how.get("min_score"),
        image_format=formats[lossless],
    )


def _all(*declared: Callable[[Any], Any]) -> Callable[[_Decorated], _Decorated]:
    def decorate(command: _Decorated) -> _Decorated:
        for option in reversed(declared):
            command = option(command)
        return command

    return decorate
