"""Video files as lazy sequences of RGB frames, and the writer beside the reader (PyAV, extra `video`).

A frame is addressed by its number, never by a time in seconds: opening a file lists the presentation stamps of all
its packets (integers in the stream's own clock, nothing is decoded), and frame n is the n-th of them in order. So
variable rates, reordered frames and clocks like 1/90000 cannot lead to the neighbour of the frame that was meant.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import atomic_path
from data_pipeline.frames import check_frame

DEFAULT_CRF = {"libsvtav1": 30, "libx264": 18}
"""Quality by codec where none is asked for; smaller is better and larger."""


@dataclass(frozen=True)
class VideoIndex:
    """What a file holds, from its packets alone."""

    stamps: tuple[int, ...]  # presentation stamps in the stream's clock, ascending: frame n has stamps[n]
    key_frames: tuple[int, ...]  # numbers of the frames where decoding can begin
    height: int
    width: int
    rate_hz: Fraction | None  # as the file states it

    @property
    def num_frames(self) -> int:
        return len(self.stamps)


def read_index(path: str | Path) -> VideoIndex:
    """The index of a video file. Raises `ValueError` that names a damaged file. Kept for the files read last."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    state = path.stat()
    return _read_index(path, state.st_size, state.st_mtime_ns)


class VideoFrames(Sequence[np.ndarray]):
    """Frames [start_frame, start_frame + num_frames) of a video, RGB uint8 (height, width, 3), decoded when indexed.

    Walking forward decodes every frame once; a jump decodes from the key frame before the target. The decoder stays
    open until the object dies or `close`; a copy sent to another process opens its own. Not for two threads at once.
    """

    def __init__(self, path: str | Path, start_frame: int = 0, num_frames: int | None = None) -> None:
        self.path = Path(path)
        self.video = read_index(path)
        available = self.video.num_frames - start_frame
        self._num_frames = available if num_frames is None else num_frames
        self.start_frame = start_frame
        if start_frame < 0 or not 0 <= self._num_frames <= available:
            raise ValueError(
                f"{path}: frames {start_frame} to {start_frame + self._num_frames} are asked for, the file has "
                f"{self.video.num_frames}: it is cut short or its metadata are wrong"
            )
        self._decoder: _Decoder | None = None

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        number = self.start_frame + range(self._num_frames)[step]
        if self._decoder is None:
            self._decoder = _Decoder(self.path, self.video)
        return self._decoder.frame(number)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    codec: str = "libsvtav1",
    crf: int | None = None,
    gop: int = 2,
) -> int:
    """RGB uint8 frames -> a video of constant rate, whole or not at all; returns the number of frames.

    `gop` is the distance of key frames: small ones make random access cheap and files large. Colour is stored at
    half resolution (yuv420p), so height and width must be even.
    """
    av = _av()
    rate = Fraction(fps).limit_denominator(100_000)
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    check_frame(first)
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: a video needs even height and width, got {height} x {width}: crop or pad the frames")
    crf = DEFAULT_CRF.get(codec, 23) if crf is None else crf
    os.environ.setdefault("SVT_LOG", "1")  # this encoder prints its settings unless told to print errors alone
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        try:
            stream = container.add_stream(codec, rate=rate, options={"crf": str(crf), "g": str(gop)})
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(f"{path}: codec {codec!r} cannot be used ({error}): try libsvtav1 or libx264") from None
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if codec == "libx264":
            stream.max_b_frames = 0  # every reader seeks well in a stream whose frames are stored in their order
        stream.codec_context.time_base = 1 / rate
        number = 0
        for number, frame in enumerate(chain([first], remaining)):
            if frame.shape != first.shape:
                raise ValueError(f"{path}: frame {number} is {frame.shape}, the first is {first.shape}")
            check_frame(frame)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = number
            picture.time_base = 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return number + 1


class _Decoder:
    """One open file and the place where its decoder stands."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        av = _av()
        self._container = av.open(str(path))
        # of its own: PyAV keeps one for each thread, whose helpers a forked process waits for in vain
        self._converter = av.video.reformatter.VideoReformatter()
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # loaders have a process a core: threads would fight
        self._decoded: Iterator[Any] = iter(())
        self._number = -1  # of `_frame`
        self._frame = np.empty(0, np.uint8)

    def close(self) -> None:
        self._container.close()

    def frame(self, number: int) -> np.ndarray:
        if number != self._number:
            picture = self._walk(number)
            self._frame = self._converter.reformat(picture, format="rgb24").to_ndarray()
            self._frame.flags.writeable = False  # it is handed out again when asked for again
            self._number = number
        return self._frame

    def _walk(self, number: int) -> Any:
        """Decode up to a frame: onward where that is the shortest way, else from the key frame before it."""
        keys = self._index.key_frames
        place = bisect_right(keys, number) - 1
        behind = 0 <= self._number < number and (place < 0 or keys[place] <= self._number)
        try:
            if behind:
                picture = self._until(number)
                if picture is not None:
                    return picture
            for key in range(place, -1, -1):  # an open group of pictures may need an earlier key frame
                self._container.seek(self._index.stamps[keys[key]], stream=self._stream, backward=True)
                self._decoded = self._container.decode(self._stream)
                picture = self._until(number)
                if picture is not None:
                    return picture
        except _av().error.FFmpegError as error:
            self._number = -1
            raise ValueError(f"{self._path}, frame {number}: cannot be decoded ({error})") from None
        self._number = -1
        raise ValueError(f"{self._path}, frame {number}: the decoder does not return it, the file is damaged")

    def _until(self, number: int) -> Any:
        """The frame of that number from where the decoder stands, or None where it went past it."""
        wanted = self._index.stamps[number]
        for picture in self._decoded:
            if picture.pts is None or picture.pts < wanted:
                continue
            return picture if picture.pts == wanted else None
        return None


@lru_cache(maxsize=64)
def _read_index(path: Path, size: int, mtime_ns: int) -> VideoIndex:
    """`size` and `mtime_ns` are part of the key: a file that was written anew is read anew."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: cannot be read, it is cut short or no video (no video stream in it)")
            stream = container.streams.video[0]
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.pts is not None and not packet.is_discard
            ]
            context = stream.codec_context
            height, width, rate, stated = context.height, context.width, stream.average_rate, stream.frames
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: cannot be read, it is cut short or no video ({error})") from None
    packets.sort()
    if not packets:
        raise ValueError(f"{path}: holds no frames")
    if stated and len(packets) < stated:
        raise ValueError(f"{path}: states {stated} frames and holds {len(packets)}: it is cut short")
    stamps = tuple(stamp for stamp, _ in packets)
    keys = tuple(number for number, (_, is_key) in enumerate(packets) if is_key)
    return VideoIndex(stamps, keys, height, width, rate)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ModuleNotFoundError("video files need PyAV: pip install 'rdt-stack[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # what matters is raised
    return av
