"""Options of merging and encoding, shared by `swap` and `session`.

The names are written out, not imported, so that a wrong one is refused before hours of training; a test compares them with what the
merger knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

MODES = ("original", "overlay", "hist-match", "raw-rgb")
MASK_MODES = ("full", "dst", "learned-prd", "learned-dst", "learned-prd*learned-dst", "learned-prd+learned-dst")
COLOR_TRANSFERS = ("none", "rct", "lct", "mkl", "mkl-m", "idt", "idt-m", "sot-m", "mix-m")
ERODE_RANGE = (-400, 400)
BLUR_RANGE = (0, 400)
_MERGE_NAMES = ("mode", "mask_mode", "erode", "blur", "color_transfer")


def merge_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--mode`, `--mask-mode`, `--erode`, `--blur`, `--color-transfer`."""
    declared = [
        click.option("--mode", type=click.Choice(MODES), help="How the face is put in.  [default: overlay]"),
        click.option(
            "--mask-mode",
            type=click.Choice(MASK_MODES),
            metavar="MODE",
            help=f"What says where the face is: {', '.join(MASK_MODES)}.  [default: learned-prd*learned-dst]",
        ),
        click.option(
            "--erode",
            type=click.IntRange(*ERODE_RANGE),
            help="Shrink the mask (or widen it, below 0), in quarters of a model pixel.  [default: 0]",
        ),
        click.option(
            "--blur",
            type=click.IntRange(*BLUR_RANGE),
            help="Soften the mask's edge, in quarters of a model pixel.  [default: 0]",
        ),
        click.option(
            "--color-transfer",
            type=click.Choice(COLOR_TRANSFERS),
            help="How the face takes on the footage's colours.  [default: rct]",
        ),
    ]
    for option in reversed(declared):
        function = option(function)
    return function


def crf_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--crf`."""
    return click.option(
        "--crf",
        type=click.IntRange(0, 51),
        help="Quality of the film: 0 is lossless, higher is smaller.  [default: 16]",
    )(function)


def merge_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings among a command's parameters that were given, as MergeSettings names them."""
    return {name: given[name] for name in _MERGE_NAMES if given[name] is not None}


def encode_settings(crf: int | None) -> dict[str, Any]:
    """As EncodeSettings names them."""
    return {} if crf is None else {"crf": crf}
