"""Run: pytest tests/deploy/test_video.py"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.video import load_video, write_gif, write_video

for library in ("imageio", "imageio_ffmpeg"):
    pytest.importorskip(library, reason="needs the extra `sim`")


def film(path: Path, num_frames: int, colour: int = 0) -> Path:
    """A bright square that crosses a plain picture of 64x48, 10 frames a second."""
    frames = np.full((num_frames, 48, 64, 3), colour, np.uint8)
    for i, frame in enumerate(frames):
        frame[16:32, 4 * i : 4 * i + 16] = 255
    write_video(path, list(frames), fps=10.0)
    return path


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_of_two_rollouts(tmp_path, ending):
    first = film(tmp_path / "first.mp4", 10)
    second = film(tmp_path / "second.mp4", 6, colour=90)
    out = write_gif(first, tmp_path / f"out.{ending}", second, width=60, rate_hz=5.0)
    with Image.open(out) as animation:
        assert animation.n_frames == 5  # one second
        assert animation.info["loop"] == 0
        assert animation.width == 120
        animation.seek(4)
        last = np.asarray(animation.convert("RGB")).astype(int)
    assert last[2, 5].max() < 40  # the first video's plain colour at the left, the second's at the right
    assert abs(last[2, 115].mean() - 90) < 25


def test_a_slow_video_keeps_its_time(tmp_path):
    video = film(tmp_path / "slow.mp4", 5)
    assert len(load_video(video)[0]) == 5
    with Image.open(write_gif(video, tmp_path / "out.webp", rate_hz=20.0)) as animation:
        assert animation.n_frames <= 10  # equal neighbours may be joined


def test_an_animation_that_cannot_be_small_enough(tmp_path):
    video = film(tmp_path / "video.mp4", 4)
    with pytest.raises(ValueError, match="100 are allowed"):
        write_gif(video, tmp_path / "out.gif", max_bytes=100)
    with pytest.raises(ValueError, match=r"must end in \.gif or \.webp"):
        write_gif(video, tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
