"""What footage may have wrong with it: each fault is named, nothing is half written, and the same call resumes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cli_helpers import run, succeed
from import_helpers import CAMERA, PATH, WORLD, at_stage, views, write_photos, write_video
from mosaicmem import CameraPose, FormatError, SuspiciousInput, SyntheticWorld
from mosaicmem.datasets import open_sequence
from mosaicmem.importing import ImportOptions, import_footage
from mosaicmem.importing.video import Video, _upright
from mosaicmem.media import save_mp4

pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
KNOWN = ImportOptions(intrinsics=CAMERA)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("footage") / "photos")


@pytest.fixture(scope="module")
def whole(photos):
    """What comes of the photos when nothing interrupts."""
    import_footage(photos, photos.parent / "whole", KNOWN)
    return photos.parent / "whole"


def write_images(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


# --- The footage.


def test_a_camera_that_stands_still(tmp_path):
    still = views(PATH[:1])[0].image_uint8
    save_mp4(tmp_path / "still.mp4", np.stack([still] * 30))
    message = r"expected a camera that moves, got 1 keyframe, .*the camera stands still, so nothing says how far"
    with pytest.raises(FormatError, match=message):
        import_footage(tmp_path / "still.mp4", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_camera_that_only_turns(tmp_path):
    eye = WORLD.leave_and_return(CAMERA, 120)[45]
    turned = []
    for i in range(16):
        c, s = np.cos(0.04 * i), np.sin(0.04 * i)
        matrix = eye.world_from_camera.copy()
        matrix[:3, :3] = matrix[:3, :3] @ [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        turned.append(CameraPose(matrix))
    with pytest.raises(FormatError, match=r"found no scene.*Does the camera only turn"):
        import_footage(write_photos(tmp_path / "photos", turned), tmp_path / "made", KNOWN)


def test_walls_without_texture(tmp_path):
    folder = write_images(tmp_path / "photos", [np.full((240, 320, 3), 100 + i, np.uint8) for i in range(6)])
    with pytest.raises(FormatError, match="too little texture: 0 features a frame in the median"):
        import_footage(folder, tmp_path / "made", KNOWN)


def test_photos_of_different_places(tmp_path, rng):
    noise = [rng.integers(0, 256, (240, 320, 3)).astype(np.uint8) for _ in range(5)]
    blurred = [np.array(Image.fromarray(image).resize((320, 240), box=(0, 0, 80, 60))) for image in noise]
    with pytest.raises(FormatError, match="no two frames show the same: expected views that overlap"):
        import_footage(write_images(tmp_path / "photos", blurred), tmp_path / "made", KNOWN)


def test_a_video_that_is_cut(tmp_path):
    path = WORLD.leave_and_return(CAMERA, 480)[160:190]
    worlds = np.concatenate(
        [np.stack([view.image_uint8 for view in views(path, world)]) for world in (WORLD, SyntheticWorld(12))]
    )
    worlds[30:] = 255 - worlds[30:]
    save_mp4(tmp_path / "cut.mp4", worlds, 30.0)
    with pytest.warns(SuspiciousInput) as said:
        made = import_footage(tmp_path / "cut.mp4", tmp_path / "made", KNOWN)
    messages = " | ".join(str(each.message) for each in said)
    assert "the video is cut at 1.00 s" in messages
    assert "scenes that could not be joined" in messages
    numbers = {open_sequence(tmp_path / "made").number(i) for i in range(made.frames)}
    assert max(numbers) < 30 or min(numbers) >= 30


def test_photos_that_are_stored_turned(photos, tmp_path):
    """A phone held upright: EXIF says how to turn the stored pixels."""
    (tmp_path / "photos").mkdir()
    for i, view in enumerate(views()):
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees clockwise
        stored = np.rot90(view.image_uint8)
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photos" / f"{i}.jpg", quality=95, exif=exif)
    made = import_footage(tmp_path / "photos", tmp_path / "made", KNOWN)
    assert (made.intrinsics["width"], made.intrinsics["height"], made.frames) == (320, 240, 20)
    seen = open_sequence(tmp_path / "made")[3].image.astype(int)
    assert np.abs(seen - views()[3].image_uint8).mean() < 4


def test_photos_of_two_sizes(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for i in (3, 8):
        path = tmp_path / "photos" / f"photo {i}.png"
        Image.open(path).crop((40, 0, 280, 240)).save(path)
    with pytest.warns(SuspiciousInput, match="2 of 20 frames have another size than 320x240; they are resampled"):
        made = import_footage(tmp_path / "photos", tmp_path / "made")
    assert made.frames == 20
    odd = open_sequence(tmp_path / "made")[3]
    assert (odd.image[:, :20] == 0).all()
    assert (odd.depth[:, :20] == 0).all()
    assert (odd.depth[100:140, 140:180] > 0).all()


def test_a_video_in_hdr(tmp_path):
    import av

    with av.open(str(tmp_path / "hdr.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"color_trc": "smpte2084"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_trc = 16
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(FormatError, match=r"expected a video of standard range, got HDR \(PQ\); convert it first"):
        import_footage(tmp_path / "hdr.mp4", tmp_path / "made")


def test_a_variable_frame_rate_is_read_by_its_times(tmp_path):
    from fractions import Fraction

    import av

    times = [0, 40, 80, 120, 300, 340, 700, 740, 780, 820]
    with av.open(str(tmp_path / "vfr.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.warns(SuspiciousInput, match="the frame rate varies"):
        found = [taken.time for taken in Video(tmp_path / "vfr.mp4").frames()]
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=2e-3)


def test_frames_are_turned_and_stretched_as_a_video_says(rng):
    pixels = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    calls = []

    def reformat(width, height, format):
        calls.append((width, height, format))
        return SimpleNamespace(to_ndarray=lambda: pixels)

    frame = SimpleNamespace(width=60, height=40, rotation=-90, reformat=reformat)
    np.testing.assert_array_equal(_upright("a", frame, 1.0), np.rot90(pixels, -1))
    frame.rotation = 0
    np.testing.assert_array_equal(_upright("a", frame, 1.5), pixels)
    assert calls == [(60, 40, "rgb24"), (90, 40, "rgb24")]


def test_a_damaged_video(tmp_path):
    video = write_video(tmp_path / "walk.mp4", PATH)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.warns(SuspiciousInput, match=r"walk\.mp4: it ends early: \d+ of 20 frames could be decoded"):
        assert 2 < len(list(Video(video).frames())) < 20
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(FormatError, match=r"walk\.mp4: (not a video that FFmpeg reads|expected a video)"):
        Video(video)


SOURCES = [
    ("one.png", "expected a video or a folder, got one image; give the folder"),
    ("notes.txt", "not a video that FFmpeg reads"),
    ("empty", "expected at least two photos"),
    ("heic", r"expected at least two photos \(JPEG or PNG\), got 0 and 2 such as 0\.heic"),
]


@pytest.mark.parametrize(("name", "message"), SOURCES, ids=[name for name, _ in SOURCES])
def test_sources_of_another_kind(tmp_path, name, message):
    Image.new("RGB", (32, 24)).save(tmp_path / "one.png")
    (tmp_path / "notes.txt").write_text("notes\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "heic").mkdir()
    for i in range(2):
        (tmp_path / "heic" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(FormatError, match=message):
        import_footage(tmp_path / name, tmp_path / "made")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        import_footage(tmp_path / "nowhere", tmp_path / "made")


def test_missing_depth_files(photos, tmp_path):
    (tmp_path / "depth").mkdir()
    with pytest.raises(FormatError, match=r"expected depth .*found none"):
        import_footage(photos, tmp_path / "made", ImportOptions(depth=tmp_path / "depth"))
    Image.fromarray(np.full((240, 320), 2000, np.uint16)).save(tmp_path / "depth" / "left.png")
    with pytest.raises(FormatError, match="expected a file of depth for each of the 20 frames of the footage"):
        import_footage(photos, tmp_path / "made", ImportOptions(depth=tmp_path / "depth", intrinsics=CAMERA))


def test_depth_files_of_another_size_are_resized(photos, tmp_path):
    (tmp_path / "depth").mkdir()
    for i, view in enumerate(views()):
        half = np.rint(view.depth[::2, ::2] * 1000).astype(np.uint16)
        Image.fromarray(half).save(tmp_path / "depth" / f"photo {i}.png")
    made = import_footage(photos, tmp_path / "made", ImportOptions(depth=tmp_path / "depth", intrinsics=CAMERA))
    assert made.unit == "metres"
    assert open_sequence(tmp_path / "made")[0].depth.shape == (240, 320)


def test_depth_files_of_other_frames_do_not_fit(photos, tmp_path, rng):
    (tmp_path / "depth").mkdir()
    for i in range(20):
        units = rng.integers(500, 9000, (240, 320)).astype(np.uint16)
        Image.fromarray(units).save(tmp_path / "depth" / f"{i}.png")
    with pytest.warns(SuspiciousInput) as said:
        import_footage(photos, tmp_path / "made", ImportOptions(depth=tmp_path / "depth", intrinsics=CAMERA))
    assert "depth: it does not fit the structure" in str(said[0].message)


# --- Interruptions.


@pytest.mark.parametrize(
    ("stage", "step"), [("Reading frames", 7), ("Finding features", 1), ("Matching frames", 1), ("Depth", 9)]
)
def test_an_interrupted_call_is_resumed(photos, whole, tmp_path, stage, step):
    with pytest.raises(KeyboardInterrupt):
        import_footage(photos, tmp_path / "made", KNOWN, track=at_stage(stage, step, KeyboardInterrupt()))
    assert not (tmp_path / "made").exists()
    work = tmp_path / ".made.importing"
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
    stages = []

    def track(items, description, length):
        stages.append(description)
        yield from items

    made = import_footage(photos, tmp_path / "made", KNOWN, track=track)
    assert not work.exists()
    assert made.frames == 20
    assert ("Reading frames" in stages) == (stage == "Reading frames")
    assert ("Finding features" in stages) == (stage != "Depth")
    assert len(kept) >= (3 if stage == "Depth" else 1)
    for a, b in zip(open_sequence(whole), open_sequence(tmp_path / "made"), strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_allclose(a.pose.world_from_camera, b.pose.world_from_camera, atol=0.02)


def test_a_killed_command_is_resumed(photos, tmp_path):
    command = [sys.executable, "-m", "mosaicmem", "import", photos, "--output", tmp_path / "made"]
    for name in ("frames", "features.db", "structure.json"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (tmp_path / ".made.importing" / name).exists():
            time.sleep(0.005)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert os.listdir(tmp_path) == [".made.importing"]
    succeed("import", photos, "--output", tmp_path / "made")
    assert os.listdir(tmp_path) == ["made"]
    assert len(open_sequence(tmp_path / "made")) == 20


def test_a_terminated_command_says_how_to_go_on(photos, tmp_path):
    command = [sys.executable, "-m", "mosaicmem", "import", photos, "--output", tmp_path / "made"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / ".made.importing" / "frames.json").exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert f"the same command resumes the work in {tmp_path / '.made.importing'}" in said


def test_a_full_disk(photos, tmp_path):
    """No file may grow beyond a limit: the features of all frames do not fit."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [sys.executable, "-m", "mosaicmem", "import", photos, "--output", tmp_path / "made", "--max-side", "160"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "mosaicmem: error:" in done.stderr
    assert not (tmp_path / "made").exists()
    succeed("import", photos, "--output", tmp_path / "made", "--max-side", "160")


OTHERS = [
    (ImportOptions(intrinsics=CAMERA, every=2), False, ["Reading frames", "Estimating poses", "Depth"]),
    (ImportOptions(intrinsics=CAMERA.scaled(160, 120)), False, ["Estimating poses", "Depth"]),
    (ImportOptions(intrinsics=CAMERA, scale=2.0), False, ["Depth"]),
    (KNOWN, True, ["Reading frames", "Estimating poses", "Depth"]),
]


@pytest.mark.parametrize(("options", "start_over", "expected"), OTHERS)
def test_work_is_kept_as_far_as_it_was_asked_for(photos, tmp_path, options, start_over, expected):
    with pytest.raises(KeyboardInterrupt):
        import_footage(photos, tmp_path / "made", KNOWN, track=at_stage("Depth", 9, KeyboardInterrupt()))
    stages = []

    def track(items, description, length):
        stages.append(description)
        yield from items

    made = import_footage(photos, tmp_path / "made", options, start_over=start_over, track=track)
    assert [stage for stage in stages if stage in ("Reading frames", "Estimating poses", "Depth")] == expected
    assert made.frames == (10 if options.every else 20)
    assert made.unit == ("metres" if options.scale else "scene units")


def test_two_imports_to_one_place(photos, tmp_path):
    inside = []

    def track(items, description, length):
        for item in items:
            if not inside:
                inside.append(run("import", photos, "--output", tmp_path / "made"))
            yield item

    import_footage(photos, tmp_path / "made", KNOWN, track=track)
    assert "another process is importing to" in inside[0].stderr


def test_damaged_work_is_named(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        import_footage(photos, tmp_path / "made", KNOWN, track=at_stage("Depth", 3, KeyboardInterrupt()))
    (tmp_path / ".made.importing" / "structure.json").write_text("{")
    with pytest.raises(FormatError, match=r"structure\.json: damaged: start over"):
        import_footage(photos, tmp_path / "made", KNOWN)


def test_an_output_that_is_there(photos, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="made is there already"):
        import_footage(photos, tmp_path / "made", KNOWN, replace=True)
    assert os.listdir(tmp_path / "made") == ["mine.txt"]


def test_without_the_extra(photos, tmp_path):
    code = "import sys; sys.modules['pycolmap'] = sys.modules['cv2'] = None\nfrom mosaicmem.cli import main\nmain()"
    command = [sys.executable, "-c", code, "import", str(photos), "--output", str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "structure from motion: needs pycolmap: pip install pycolmap (mosaicmem's extra [import])" in done.stderr


def test_reports_are_plain(photos, tmp_path):
    made = import_footage(photos, tmp_path / "made", KNOWN)
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
