"""Video files: frame n is frame n on every road to it, and damage is told.

Run: pytest tests/data_pipeline/sources/test_video.py
"""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from data_pipeline.sources.video import VideoFrames, read_index, write_video

NUM_FRAMES = 30
CODINGS = [("libx264", 2), ("libx264", 12), ("libsvtav1", 2), ("libsvtav1", 20)]


def make_numbered(num_frames: int = NUM_FRAMES, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose grey level tells their number, whatever the codec does to them."""
    levels = np.linspace(20, 230, num_frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def number_of(frame: np.ndarray, num_frames: int = NUM_FRAMES) -> int:
    return int(np.abs(np.linspace(20, 230, num_frames) - frame.mean()).argmin())


@pytest.fixture(scope="module", params=CODINGS, ids=lambda coding: f"{coding[0]}-{coding[1]}")
def video(request, tmp_path_factory):
    codec, gop = request.param
    path = tmp_path_factory.mktemp("video") / "camera.mp4"
    assert write_video(path, make_numbered(), 15, codec, gop=gop) == NUM_FRAMES
    return path


def test_length_shape_and_rate(video):
    frames = VideoFrames(video)
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape == (32, 48, 3)
    assert frames[0].dtype == np.uint8
    assert frames.video.rate_hz == 15


def test_forward_walk_sees_every_frame_in_order(video):
    assert [number_of(frame) for frame in VideoFrames(video)] == list(range(NUM_FRAMES))


def test_random_access_equals_the_walk(video):
    walked = [frame.copy() for frame in VideoFrames(video)]
    frames = VideoFrames(video)
    for number in np.random.default_rng(0).integers(0, NUM_FRAMES, 50):
        np.testing.assert_array_equal(frames[number], walked[number])
    np.testing.assert_array_equal(frames[-1], walked[-1])


def test_a_part_of_a_file_counts_from_its_start(video):
    part = VideoFrames(video, start_frame=7, num_frames=5)
    assert [number_of(frame) for frame in part] == [7, 8, 9, 10, 11]
    with pytest.raises(IndexError):
        part[5]


def test_a_copy_for_another_process_opens_its_own_decoder(video):
    frames = VideoFrames(video)
    first = frames[3].copy()
    copy = pickle.loads(pickle.dumps(frames))
    np.testing.assert_array_equal(copy[3], first)


def test_closed_frames_open_again(video):
    frames = VideoFrames(video)
    first = frames[3].copy()
    frames.close()
    np.testing.assert_array_equal(frames[3], first)


def test_colours_keep_their_order(tmp_path):
    red = np.zeros((4, 32, 32, 3), np.uint8)
    red[..., 0] = 200
    write_video(tmp_path / "red.mp4", red, 10, "libx264", crf=10)
    mean = VideoFrames(tmp_path / "red.mp4")[2].mean(axis=(0, 1))
    assert mean[0] > 180
    assert mean[1:].max() < 20


def test_fractional_rates_do_not_drift(tmp_path):
    path = tmp_path / "ntsc.mp4"
    write_video(path, make_numbered(60, 16, 16), Fraction(30000, 1001), "libx264", gop=5)
    frames = VideoFrames(path)
    assert [number_of(frames[n], 60) for n in (59, 31, 1, 58)] == [59, 31, 1, 58]


def test_a_range_past_the_end_is_refused(video):
    with pytest.raises(ValueError, match=r"frames 28 to 31 are asked for, the file has 30"):
        VideoFrames(video, start_frame=28, num_frames=3)


def test_no_video_is_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be read"):
        VideoFrames(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        VideoFrames(tmp_path / "absent.mp4")


def test_a_file_cut_short_is_named(video, tmp_path):
    content = video.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.mp4: cannot be read, it is cut short"):
        VideoFrames(cut)


def test_a_file_written_anew_is_indexed_anew(tmp_path):
    path = tmp_path / "camera.mp4"
    write_video(path, make_numbered(4), 15, "libx264")
    assert read_index(path).num_frames == 4
    write_video(path, make_numbered(6), 15, "libx264")
    assert read_index(path).num_frames == 6


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "camera.mp4"
    with pytest.raises(ValueError, match="even height and width, got 33 x 48"):
        write_video(path, make_numbered(3, height=33), 15)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(path, [], 15)
    with pytest.raises(ValueError, match="frame 1 is"):
        write_video(path, [*make_numbered(1), *make_numbered(1, 16, 16)], 15, "libx264")
    with pytest.raises(ValueError, match="codec 'no_such' cannot be used"):
        write_video(path, make_numbered(3), 15, "no_such")
    assert list(tmp_path.iterdir()) == []
