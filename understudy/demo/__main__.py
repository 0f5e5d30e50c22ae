"""`python -m understudy.demo`: renders, swaps, measures. Run again, it continues where it was."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from understudy.demo.footage import render_footage
from understudy.demo.report import LossPoint, write_report
from understudy.errors import UnderstudyError
from understudy.local import connected
from understudy.swap import SwapEvent, SwapOptions, swap

_LINE_EVERY_S = 5.0


class _Lines:
    """Progress as plain lines, and the losses for the report."""

    def __init__(self) -> None:
        self.losses: list[LossPoint] = []
        self._said_at = 0.0

    def show(self, event: SwapEvent) -> None:
        if event.losses:
            self.losses.append(LossPoint(event.done, event.losses))
        now = time.monotonic()
        if event.kind == "progress":
            if now - self._said_at < _LINE_EVERY_S:
                return
            eta = f", {event.eta_s:.0f} s left" if event.eta_s is not None else ""
            losses = "".join(f", {name} {value:.4f}" for name, value in event.losses.items())
            text = f"{event.done}/{event.total} {event.unit}{losses}{eta}"
        elif event.kind == "begin":
            text = "..."
        else:
            text = event.text or "done"
        self._said_at = now
        print(f"[{event.stage}] {text}", flush=True)


def main() -> int:
    """Returns the exit code: 0 when the film and the report are there."""
    parser = argparse.ArgumentParser(prog="python -m understudy.demo", description="The whole job on rendered footage.")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where everything goes")
    parser.add_argument("--src-frames", type=int, default=150, help="frames of src")
    parser.add_argument("--dst-frames", type=int, default=100, help="frames of dst")
    parser.add_argument("--iterations", type=int, default=0, help="training iterations; 0 for the preset's")
    flags = parser.parse_args()
    began = time.monotonic()
    print(f"[render] {flags.src_frames} src frames, {flags.dst_frames} dst frames and their truth", flush=True)
    footage = render_footage(flags.out, flags.src_frames, flags.dst_frames)
    render_s = time.monotonic() - began
    lines = _Lines()
    options = SwapOptions(
        preset="demo",
        iterations=flags.iterations,
        extraction={"sizePx": 256},
        merge={"colorTransfer": "none"},
        encode={"crf": 14},
    )
    try:
        with connected(flags.out / "workspace") as client:
            result = swap(client, footage.src, footage.dst, flags.out / "result.mp4", options, lines.show)
    except UnderstudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    report = write_report(flags.out, footage, result, lines.losses, render_s)
    gain = report["psnr_swap_db"] - report["psnr_untouched_db"]
    print(
        f"\nface region against the truth: dst untouched {report['psnr_untouched_db']} dB, "
        f"swap {report['psnr_swap_db']} dB ({gain:+.2f} dB)"
    )
    print(f"{flags.out / 'result.mp4'}\n{flags.out / 'report.html'}\n{report['seconds']['total']:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
