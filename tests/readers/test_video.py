"""Video clips: the right number of frames, selections, and clips that are cut short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError

CLIPS = {
    "Reg_Image_181739_trimmed_crop.mp4": 104,
    "Reg_Image_18122_crop.mp4": 187,
    "Reg_pat1Image_132943.mpeg": 280,
    "Reg_recommendations_alines_mov1.mov": 180,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of 40 frames whose brightness tells the frame: frame i is 6 * i grey."""
    folder = tmp_path_factory.mktemp("clips")
    for name, codec in {"a.avi": "MJPG", "a.mp4": "mp4v", "a.mov": "mp4v"}.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
        for index in range(40):
            writer.write(np.full((48, 64, 3), 6 * index, np.uint8))
        writer.release()
    return folder


@pytest.mark.real_data
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_have_the_right_number_of_frames(real_data, name):
    path = real_data / "lung_ultrasound" / name
    scan = read_volume(path)
    assert scan.shape[0] == scan.depth == describe(path).shape[0] == CLIPS[name]
    some = [CLIPS[name] - 1, 0, CLIPS[name] // 2]
    np.testing.assert_array_equal(read_volume(path, select=lambda depth: some).array, scan.array[some])


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mov"])
def test_frames_come_in_order(clips, name):
    scan = read_volume(clips / name)
    assert (scan.shape, scan.spacing) == ((40, 48, 64), None)
    np.testing.assert_allclose(scan.array.mean(axis=(1, 2)), 6 * np.arange(40), atol=4)
    part = read_volume(clips / name, select=lambda depth: [30, 3, 3])
    np.testing.assert_array_equal(part.array, scan.array[[30, 3, 3]])


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mov"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01])
def test_a_clip_cut_short_is_refused(clips, tmp_path, name, kept):
    content = (clips / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ReadError, match=rf"{name}.*(cut short|damaged)"):
        read_volume(tmp_path / name)


def test_noise_is_no_video(tmp_path, rng):
    (tmp_path / "frame_001.mp4").write_bytes(rng.bytes(5000))
    with pytest.raises(ReadError, match="cannot be opened as a video"):
        read_volume(tmp_path / "frame_001.mp4")


def test_decoders_write_nothing_on_the_screen(clips, tmp_path):
    """In a fresh process, because FFmpeg asks for its level of noise once."""
    content = bytearray((clips / "a.mp4").read_bytes())
    content[400:500] = bytes(100)
    (tmp_path / "damaged.mp4").write_bytes(bytes(content))
    (tmp_path / "noise.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(3000))
    code = """
import sys
from slivit.data.readers import read_volume
from slivit.errors import ReadError
for path in sys.argv[1:]:
    try:
        read_volume(path)
    except ReadError:
        pass
"""
    command = [sys.executable, "-c", code, str(tmp_path / "damaged.mp4"), str(tmp_path / "noise.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.real_data
def test_an_mpeg_stream_cut_short_is_refused(real_data, tmp_path):
    content = (real_data / "lung_ultrasound" / "Reg_pat1Image_132943.mpeg").read_bytes()
    (tmp_path / "a.mpeg").write_bytes(content[: len(content) // 2 + 1000])
    with pytest.raises(ReadError, match=r"a\.mpeg: the video is cut short"):
        read_volume(tmp_path / "a.mpeg")


@pytest.mark.parametrize(("name", "frames"), [("uneven.mp4", 40), ("uneven.mkv", 40), ("trimmed.mp4", 30)])
def test_frames_are_counted_where_headers_mislead(name, frames):
    """Uneven frame rate: the header of the .mkv promises 77. Trimmed: an edit list hides the first 10 of 40."""
    path = Path(__file__).parent / "clips" / name
    scan = read_volume(path)
    assert scan.depth == describe(path).shape[0] == frames
    np.testing.assert_allclose(scan.array.mean(axis=(1, 2)), 6 * np.arange(40 - frames, 40), atol=4)
    part = read_volume(path, select=lambda depth: [depth - 1, depth // 2])
    np.testing.assert_array_equal(part.array, scan.array[[frames - 1, frames // 2]])


def test_gif_clips_are_read_frame_by_frame(tmp_path):
    """A frame that changes a part alone is laid over the one before it."""
    frames = np.full((4, 20, 30), 40, np.uint8)
    for index in range(4):
        frames[index, 2 : 6 + index, 5:9] = 200
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    scan = read_volume(tmp_path / "a.gif")
    np.testing.assert_array_equal(scan.array, frames)
    picked = read_volume(tmp_path / "a.gif", select=lambda depth: [depth - 1, 0])
    np.testing.assert_array_equal(picked.array, frames[[3, 0]])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match=r"b\.gif"):
        read_volume(tmp_path / "b.gif")
