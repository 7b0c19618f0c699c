"""pytest tests/data_pipeline/test_frames.py"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline import frames
from data_pipeline.frames import JpegFrames, decode_jpeg, encode_frames, encode_jpeg


def test_coding_keeps_the_picture(pictures):
    frame = pictures(1)[0]
    decoded = decode_jpeg(encode_jpeg(frame))
    assert decoded.shape == frame.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - frame).max() <= 4


def test_small_coloured_objects_keep_their_colour():
    frame = np.full((16, 16, 3), 60, np.uint8)
    frame[6:9, 6:9] = (220, 20, 20)
    assert np.abs(decode_jpeg(encode_jpeg(frame)).astype(int) - frame)[7, 7].max() <= 12


def test_bgr_reverses_what_the_decoder_returns(pictures):
    encoded = encode_jpeg(pictures(1)[0])
    np.testing.assert_array_equal(decode_jpeg(encoded, "bgr"), decode_jpeg(encoded)[..., ::-1])


def test_the_fast_decoder_gives_the_slow_ones_bits(pictures, monkeypatch):
    pytest.importorskip("simplejpeg")
    for height, width in ((16, 24), (200, 300)):  # colour at full and at half resolution
        encoded = encode_jpeg(pictures(1, height=height, width=width)[0])
        fast = decode_jpeg(encoded)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "simplejpeg", None)
            np.testing.assert_array_equal(decode_jpeg(encoded), fast)


def test_large_pictures_have_their_colour_halved(pictures):
    for width, factors in ((255, (1, 1)), (256, (2, 2))):
        picture = Image.open(io.BytesIO(encode_jpeg(pictures(1, width=width)[0])))
        assert picture.layer[0][1:3] == factors


def test_nul_padding_is_allowed(pictures):
    encoded = encode_jpeg(pictures(1)[0])
    np.testing.assert_array_equal(decode_jpeg(encoded + bytes(50)), decode_jpeg(encoded))


@pytest.mark.parametrize("damage", [lambda j: j[: len(j) // 2], lambda j: b"", lambda j: j[:100] + j[-2:]])
def test_a_cut_picture_is_an_error_that_names_the_frame(pictures, damage):
    encoded = [encode_jpeg(frame) for frame in pictures(3)]
    encoded[1] = damage(encoded[1])
    cut = JpegFrames(encoded, name="demo.hdf5: cam_high")
    assert cut[0].shape == cut[-1].shape
    with pytest.raises(ValueError, match=r"demo\.hdf5: cam_high, frame 1: a JPEG of \d+ bytes"):
        cut[1]


def test_coded_frames_are_not_coded_again(pictures):
    coded = encode_frames(pictures(2))
    assert encode_frames(coded) is coded and len(list(coded)) == len(coded) == 2


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), [[0]]])
def test_other_arrays_are_refused(frame):
    with pytest.raises(ValueError, match="a frame must be uint8"):
        encode_jpeg(frame)


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr("data_pipeline.frames.simplejpeg", None)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("steps", [[2], [0, 0, 1], [1, 3]])
def test_stacked_frames_are_those_decoded_one_by_one(pictures, colour, steps, decoder):
    frames = JpegFrames([encode_jpeg(picture) for picture in pictures(4)], colour)
    np.testing.assert_array_equal(frames.stacked(steps), np.stack([frames[step] for step in steps]))


def test_frames_of_different_sizes_do_not_stack(pictures, decoder):
    sizes = [*pictures(1, height=8), *pictures(1, height=16), *pictures(1, height=4)]
    frames = JpegFrames([encode_jpeg(picture) for picture in sizes], name="camera")
    for steps in ([0, 1], [1, 2]):
        with pytest.raises(ValueError, match=f"camera, frame {steps[1]}: .* its size is"):
            frames.stacked(steps)
    with pytest.raises(ValueError, match=r"camera, frame 0: .* no readable header"):
        JpegFrames([b"no picture\xff\xd9"], name="camera").stacked([0])
