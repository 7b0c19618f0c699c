"""Films of rollouts: mp4 files for the report, a small animation for a README."""

from __future__ import annotations

import errno
import io
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from data_pipeline.atomic import atomic_path, write_bytes
from deploy.doctor import require

VIDEO_PACKAGES = {"imageio": "imageio", "imageio_ffmpeg": "imageio-ffmpeg"}


class UnreadableVideoError(ValueError):
    """A video that cannot be decoded; the message names it."""


def find_ffmpeg() -> str:
    """The ffmpeg program that imageio brings. Raises `RuntimeError` or `ModuleNotFoundError` where there is none."""
    require("a video", VIDEO_PACKAGES)
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write RGB uint8 frames (height, width, 3), both even, as H.264. Needs the `sim` extra."""
    height, width, _ = frames[0].shape
    form = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    code = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "15"]
    with atomic_path(path) as temporary:
        # called without imageio, which takes a film that ffmpeg could not finish for a whole one
        ffmpeg = subprocess.run(
            [find_ffmpeg(), "-v", "error", *form, "-i", "-", *code, str(temporary)],
            input=b"".join(frame.tobytes() for frame in frames),
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the caller's
            check=False,
        )
        if ffmpeg.returncode:
            said = ffmpeg.stderr.decode(errors="replace").strip()
            for number in (errno.ENOSPC, errno.EDQUOT):
                if os.strerror(number) in said:
                    raise OSError(number, os.strerror(number))
            raise RuntimeError(f"ffmpeg could not write {path}: {said.splitlines()[-1] if said else ffmpeg.returncode}")


def load_video(video: Path) -> tuple[list[np.ndarray], float]:
    """All frames, RGB uint8 (height, width, 3), and their rate in Hz. Raises `UnreadableVideoError`."""
    import imageio.v2 as imageio

    try:
        with cast("Any", imageio.get_reader(video, "ffmpeg")) as reader:
            frames, fps = [np.asarray(frame) for frame in reader], reader.get_meta_data()["fps"]
    except (OSError, RuntimeError, IndexError) as error:
        reason = str(error).partition("\n")[0]  # the rest is ffmpeg's banner
        raise UnreadableVideoError(f"{video.parent.name}/{video.name} cannot be read: {reason}") from None
    if not frames:
        raise UnreadableVideoError(f"{video.parent.name}/{video.name} cannot be read: it holds no frame")
    return frames, fps


def write_gif(
    video: Path,
    out: Path,
    beside: Path | None = None,
    *,
    width: int = 280,
    rate_hz: float = 10.0,
    max_bytes: int = 1_500_000,
) -> Path:
    """A small endless animation of one rollout, or of two side by side, for a README. Returns `out`.

    `out` ends in `.gif` or `.webp` (a third of the size). Each rollout is `width` pixels wide, shown in real time
    at `rate_hz`; where that needs more than `max_bytes`, both shrink together. The shorter rollout waits at its end.
    """
    out = Path(out)
    if out.suffix not in (".gif", ".webp"):
        raise ValueError(f"{out} must end in .gif or .webp")
    films = [_film(path, rate_hz) for path in (video, beside) if path is not None]
    length = max(len(film) for film in films)
    frames = [_side_by_side([film[min(i, len(film) - 1)] for film in films]) for i in range(length)]
    scale = width * len(films) / frames[0].width
    for shrink in (1.0, 0.85, 0.7, 0.55, 0.4):
        keep = max(1, round(1 / shrink))  # every frame, then every second one
        size = (round(shrink * scale * frames[0].width), round(shrink * scale * frames[0].height))
        images = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames[::keep]]
        content = _animation(images, out.suffix.removeprefix("."), round(1000 * keep / rate_hz))
        if len(content) <= max_bytes:
            write_bytes(out, content)
            return out
    raise ValueError(f"{out} needs {len(content)} bytes at the smallest size, {max_bytes} are allowed: cut the video")


def _film(video: Path, rate_hz: float) -> list[np.ndarray]:
    """What a video shows, in real time at another rate."""
    frames, fps = load_video(video)
    return [frames[int(i * fps / rate_hz)] for i in range(math.ceil(len(frames) * rate_hz / fps))]


def _side_by_side(frames: Sequence[np.ndarray]) -> Image.Image:
    """Frames of equal size in a row, a narrow gap between them."""
    gap = np.full((len(frames[0]), 8, 3), 255, np.uint8)
    return Image.fromarray(np.hstack([part for frame in frames for part in (gap, frame)][1:]))


def _animation(images: Sequence[Image.Image], kind: str, frame_ms: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "webp":
        options = {"quality": 60, "method": 4}
    else:  # one palette for all frames, undithered: what does not move costs nothing
        palette = _montage(images[:: max(1, len(images) // 8)]).quantize(128, dither=Image.Dither.NONE)
        images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        options = {"optimize": False}
    images[0].save(
        buffer, kind, save_all=True, append_images=images[1:], duration=frame_ms, loop=0, **cast("Any", options)
    )
    return buffer.getvalue()


def _montage(images: Sequence[Image.Image]) -> Image.Image:
    return Image.fromarray(np.vstack([np.asarray(image) for image in images]))
