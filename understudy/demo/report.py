"""Measures the demo's result and writes report.json, report.html and the contact sheet."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ml_common.media import open_source
from understudy.demo.footage import Footage
from understudy.swap import SwapResult

_SHEET_ROWS = 6
_SHEET_WIDTH_PX = 320
_CHART = (720, 200)


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Mean losses up to an iteration."""

    iteration: int
    losses: dict[str, float]


def face_psnr_db(images: Sequence[np.ndarray], truth: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """PSNR over the masked pixels of all frames together, dB; images uint8 HWC BGR, masks bool HW."""
    squared, count = 0.0, 0
    for image, true, mask in zip(images, truth, masks, strict=True):
        difference = image[mask].astype(np.float64) - true[mask]
        squared += float((difference**2).sum())
        count += difference.size
    if not count:
        raise ValueError("the masks are empty: there is no face to measure")
    return 10 * math.log10(255**2 / max(squared / count, 1e-12))


def write_report(
    folder: Path, footage: Footage, result: SwapResult, losses: Sequence[LossPoint], render_s: float
) -> dict[str, Any]:
    """Measures ``result`` against the truth and writes the report files into ``folder``; returns what report.json holds."""
    swapped, untouched = _frames(result.output), _frames(footage.dst)
    seconds = {"render": round(render_s, 2), **result.seconds}
    seconds["total"] = round(render_s + result.seconds["total"], 2)
    report = {
        "frames_in": result.frames_in,
        "frames_out": len(swapped),
        "faces_found": result.faces_found,
        "frames_without_face": result.frames_without_face,
        "iterations": result.iterations,
        "losses": result.losses,
        "seconds": seconds,
        "psnr_untouched_db": round(face_psnr_db(untouched, footage.truth, footage.face_masks), 3),
        "psnr_swap_db": round(face_psnr_db(swapped, footage.truth, footage.face_masks), 3),
    }
    sheet = _contact_sheet(_frames(footage.src), untouched, swapped, footage.truth)
    cv2.imwrite(str(folder / "contact_sheet.jpg"), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.html").write_text(_page(report, sheet, losses))
    return report


def _frames(path: Path) -> list[np.ndarray]:
    with open_source(path) as source:
        return [image for _, image in source.frames(0, len(source))]


def _contact_sheet(*columns: Sequence[np.ndarray]) -> np.ndarray:
    """Rows spread over the dst clip; columns src, dst, swap, truth."""
    src, dst, swapped, truth = columns
    rows = []
    for position in np.linspace(0, 1, _SHEET_ROWS):
        cells = [clip[min(int(position * (len(clip) - 1)), len(clip) - 1)] for clip in (src, dst, swapped, truth)]
        rows.append(np.hstack([_scaled(cell) for cell in cells]))
    sheet = np.vstack(rows)
    header = np.full((28, sheet.shape[1], 3), 32, np.uint8)
    for index, title in enumerate(("src", "dst", "swap", "truth")):
        at = (index * _SHEET_WIDTH_PX + 8, 20)
        cv2.putText(header, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (230, 230, 230), 1, cv2.LINE_AA)
    return np.vstack([header, sheet])


def _scaled(image: np.ndarray) -> np.ndarray:
    height = round(image.shape[0] * _SHEET_WIDTH_PX / image.shape[1])
    return np.asarray(cv2.resize(image, (_SHEET_WIDTH_PX, height), interpolation=cv2.INTER_AREA))


def _page(report: dict[str, Any], sheet: np.ndarray, losses: Sequence[LossPoint]) -> str:
    picture = base64.b64encode(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()).decode()
    gain = report["psnr_swap_db"] - report["psnr_untouched_db"]
    facts = [
        ("Frames in, out", f"{report['frames_in']}, {report['frames_out']}"),
        ("Faces found", ", ".join(f"{name} {count}" for name, count in report["faces_found"].items())),
        ("Iterations", str(report["iterations"])),
        ("Face region, dst untouched against truth", f"{report['psnr_untouched_db']:.2f} dB"),
        ("Face region, swap against truth", f"{report['psnr_swap_db']:.2f} dB ({gain:+.2f} dB)"),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Understudy demo</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1320px; padding: 0 1rem; color: #222; background: #fafafa; }}
table {{ border-collapse: collapse; margin: 1rem 2rem 1rem 0; display: inline-table; vertical-align: top; }}
td, th {{ border: 1px solid #ccc; padding: .3rem .8rem; text-align: left; }} td + td {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; border: 1px solid #ccc; }} h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
</style></head><body>
<h1>Understudy demo</h1>
<p>Rendered footage: the face of <i>src</i> on the person in <i>dst</i>. <i>Truth</i> is src rendered with dst's pose, expression and
light. The film is <a href="result.mp4">result.mp4</a>; its metadata says that it is AI-modified.</p>
{_table("Result", facts)}
{_table("Seconds a stage", [(name, f"{value:.1f}") for name, value in report["seconds"].items()])}
<h2>Contact sheet</h2><img alt="Frames of src, dst, swap and truth side by side" src="data:image/jpeg;base64,{picture}">
<h2>Losses</h2>{_loss_chart(losses)}
</body></html>
"""


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table><tr><th colspan="2">{html.escape(title)}</th></tr>{cells}</table>'


def _loss_chart(points: Sequence[LossPoint]) -> str:
    """The src and dst losses over iterations as an inline SVG, logarithmic."""
    if len(points) < 2:
        return "<p>Nothing was trained in this run: it was found done.</p>"
    width, height = _CHART
    curves = {
        name: [(p.iteration, max(p.losses[name], 1e-6)) for p in points if name in p.losses] for name in ("src", "dst")
    }
    values = [math.log10(value) for curve in curves.values() for _, value in curve]
    low, high = min(values), max(max(values), min(values) + 1e-3)
    last = max(p.iteration for p in points)

    def path(curve: Sequence[tuple[int, float]]) -> str:
        return " ".join(
            f"{width * i / last:.1f},{height * (1 - (math.log10(v) - low) / (high - low)):.1f}" for i, v in curve
        )

    colors = {"src": "#c0392b", "dst": "#2471a3"}
    lines = "".join(
        f'<polyline fill="none" stroke="{colors[n]}" stroke-width="1.5" points="{path(c)}"/>' for n, c in curves.items()
    )
    legend = " ".join(f'<span style="color:{color}">{name}</span>' for name, color in colors.items())
    return (
        f'<svg viewBox="-4 -4 {width + 8} {height + 8}" width="{width}" role="img" aria-label="Losses over iterations">'
        f'<rect width="{width}" height="{height}" fill="#fff" stroke="#ccc"/>{lines}</svg>'
        f"<p>{legend}, {10**low:.3f} to {10**high:.3f} (logarithmic), 0 to {last} iterations</p>"
    )
