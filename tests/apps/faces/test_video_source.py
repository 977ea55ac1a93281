"""Videos: their frames, times and hostile kinds; watching them."""

import os

import numpy as np
import pytest
from scenes import write_video

from fer_ignite.apps.faces.analyze import iter_face_rows
from fer_ignite.apps.faces.annotated_output import AnnotatedOutput
from fer_ignite.apps.faces.video import iter_video_results
from fer_ignite.apps.faces.video_source import is_video, is_webcam, open_video
from fer_ignite.errors import ConfigError, DataError


def test_frames_come_with_their_times_and_pixels_only_where_wanted(clip):
    video_source = open_video(str(clip))
    assert (
        video_source.fps,
        video_source.width,
        video_source.height,
        video_source.count,
        video_source.live,
    ) == (10, 640, 480, 10, False)
    frames = list(video_source.frames(lambda number: number % 3 == 0))
    assert [frame.time_s for frame in frames] == pytest.approx(
        [n / 10 for n in range(10)], abs=0.011
    )
    assert [number for number, frame in enumerate(frames) if frame.image_HW3 is not None] == [
        0,
        3,
        6,
        9,
    ]
    assert frames[0].image_HW3.shape == (480, 640, 3)


def test_colours_are_red_first(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    write_video(
        tmp_path / "red.avi", red, [[np.zeros((2, 2), np.uint8)]], seconds=0.2, side=2, code="MJPG"
    )
    frame = next(open_video(str(tmp_path / "red.avi")).frames())
    assert frame.image_HW3[2, 2, 0] > 200 and frame.image_HW3[2, 2, 2] < 50


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a.avi", "MJPG"),
        ("a.mkv", "mp4v"),
        ("a.mov", "mp4v"),
        ("a.webm", "VP80"),
        ("A.MP4", "mp4v"),
    ],
)
def test_each_kind_of_file_is_read(tmp_path, coffee, name, code):
    write_video(
        tmp_path / name, coffee, [[np.zeros((2, 2), np.uint8)]], seconds=0.2, side=2, code=code
    )
    assert is_video(name) and len(list(open_video(str(tmp_path / name)).frames())) == 5


def test_faces_of_a_video_keep_their_tracks_and_their_rows_have_times(clip, reader):
    rows = list(iter_face_rows([str(clip)], reader, frame_stride=3))
    assert {row.track for row in rows} == {1, 2} and all(
        row.reading.top[0] == "happy" for row in rows
    )
    assert sorted({round(row.time_s, 1) for row in rows}) == [0.0, 0.3, 0.6, 0.9]
    right = next(row.track for row in rows if row.reading.box.left > 280)
    for row in rows:  # the faces drift about, each in its own half
        assert (row.reading.box.left > 280) == (row.track == right) and row.face in (1, 2)


def test_between_two_looks_the_faces_of_the_last_one_are_shown(clip, reader):
    seen = list(iter_video_results(open_video(str(clip)), reader, frame_stride=4, all_pixels=True))
    assert [moment.looked for moment in seen] == [n % 4 == 0 for n in range(10)]
    assert all(moment.frame.image_HW3 is not None for moment in seen)
    assert seen[1].faces == seen[0].faces and seen[4].faces != seen[0].faces


def test_the_annotated_video_has_every_frame_and_boxes(clip, reader, tmp_path):
    rows = list(
        iter_face_rows(
            [str(clip)], reader, frame_stride=2, annotated_output=AnnotatedOutput(tmp_path / "new")
        )
    )
    assert len(rows) == 10
    written = open_video(str(tmp_path / "new" / "clip.faces.mp4"))
    assert (written.fps, written.width, written.height) == (10, 640, 480)
    frames = [frame.image_HW3 for frame in written.frames()]
    assert len(frames) == 10
    yellow = [
        ((frame[..., 0] > 200) & (frame[..., 1] > 160) & (frame[..., 2] < 90)).sum()
        for frame in frames
    ]
    # two boxes of about 100 px have 800 px of lines, and their names beside
    assert min(yellow) > 500


def hostile(folder, clip):
    whole = clip.read_bytes()
    (folder / "text.mp4").write_text("#EXTM3U\n#EXTINF:9,\nhttp://localhost:1/a.ts\n")
    (folder / "list.avi").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (folder / "empty.mkv").write_bytes(b"")
    (folder / "head.mov").write_bytes(whole[:40])
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.webm").write_bytes(b"\x1a\x45\xdf\xa3" + os.urandom(5000))
    (folder / "riff.avi").write_bytes(b"RIFF\xff\xff\xff\xffAVI " + os.urandom(5000))
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    return sorted(str(path) for path in folder.iterdir())


def test_hostile_videos_are_reported_in_a_sentence_each_and_do_not_stop_the_rest(
    clip, reader, tmp_path
):
    sources = [*hostile(tmp_path, clip), str(tmp_path / "absent.mp4"), str(clip)]
    rows = list(iter_face_rows(sources, reader, frame_stride=10))
    assert [row.file for row in rows[:-2]] == sources[:-1] and all(row.error for row in rows[:-2])
    assert all(row.error.startswith(row.file) and "\n" not in row.error for row in rows[:-2])
    assert [row.track for row in rows[-2:]] == [1, 2]


def test_a_video_that_ends_early_is_read_to_there_and_reported(tmp_path, coffee, reader):
    path = tmp_path / "cut.avi"
    write_video(path, coffee, [[np.zeros((2, 2), np.uint8)]], seconds=1, side=2, code="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (row,) = iter_face_rows([str(path)], reader, frame_stride=5)
    assert row.reading is None and "broken" in row.error and "of 25 frames" in row.error


def test_frames_that_are_too_large_are_refused_before_decoding(tmp_path):
    wide = np.zeros((4000, 5002, 3), np.uint8)
    write_video(
        tmp_path / "wide.avi",
        wide,
        [[np.zeros((2, 2), np.uint8)]],
        seconds=0.04,
        side=2,
        code="MJPG",
    )
    with pytest.raises(DataError, match="5002 x 4000 pixels; at most 20000000"):
        open_video(str(tmp_path / "wide.avi"))


def test_a_camera_that_is_not_there_is_reported():
    assert is_webcam("webcam:0") and not is_webcam("webcam.mp4")
    for source, said in (
        ("webcam:97", "no such camera"),
        ("webcam:first", "names no camera"),
        ("webcam:-1", "names no camera"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_video(source)
