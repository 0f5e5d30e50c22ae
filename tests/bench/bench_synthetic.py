"""How fast talking heads are rendered on one core. The goal is 20 frames a second at 640 x 360."""

import time

import cv2

from ml_common.synthetic import IDENTITIES, performance, render, render_clip

_GOAL_FPS = 20.0


def run() -> list[dict[str, object]]:
    """Rows {name, value, unit, baseline, ratio}; baseline is the goal."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        rows = [
            _frames_per_second("synthetic 640x360", 640, 360, 60, _GOAL_FPS),
            _frames_per_second("synthetic 1920x1080", 1920, 1080, 12, None),
        ]
    finally:
        cv2.setNumThreads(threads)
    return rows


def _frames_per_second(name: str, width: int, height: int, frame_count: int, goal: float | None) -> dict[str, object]:
    states = performance(5, frame_count)
    render(IDENTITIES["bruno"], states[0], width, height)  # builds mesh, paint and wall
    start = time.perf_counter()
    for _ in render_clip(IDENTITIES["bruno"], states, width, height):
        pass
    value = frame_count / (time.perf_counter() - start)
    return {
        "name": name,
        "value": value,
        "unit": "frames/s",
        "baseline": goal,
        "ratio": None if goal is None else value / goal,
    }


if __name__ == "__main__":
    for row in run():
        print(row)
