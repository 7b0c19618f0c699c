"""Pictures of a rollout as an mp4 file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.atomic import atomic_path


def write_video(path: Path, frames: list[np.ndarray], fps: float) -> None:
    """Write RGB uint8 frames (height, width, 3) as H.264. Raises `RuntimeError` without the `sim` extra."""
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401 - brings the ffmpeg program that imageio calls
    except ImportError:
        raise RuntimeError("videos need imageio and its ffmpeg: pip install 'rdt-stack[sim]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        imageio.mimwrite(temporary, frames, fps=fps, codec="libx264", quality=7, format="FFMPEG", macro_block_size=16)
