"""The viewer in a headless browser: every control by a real click, and what it does to what is shown."""

import contextlib
import itertools
import math
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import browser as chromium
from browser import Browser, wait_for
from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    MosaicMemoryStore,
    PipelineConfig,
    SyntheticDepthEstimator,
    SyntheticWorld,
)

viser = pytest.importorskip("viser", reason="the extra [view]")
pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium: Debian's package chromium")

from mosaicmem.viewer import MemoryViewer, RunView  # noqa: E402
from mosaicmem.viewer.cloud import MemoryCloud  # noqa: E402

K = CameraIntrinsics.from_fov(160, 96, fov_x=math.radians(75))


def walk():
    """A pipeline that has seen the beginning of a walk, and the walk."""
    world = SyntheticWorld(0)
    path = world.leave_and_return(K, 24, fps=8)
    pipeline = AutoregressivePipeline(PipelineConfig(), depth_estimator=SyntheticDepthEstimator(world))
    for i in range(0, 12, 2):
        seen = world.render(K, path[i])
        pipeline.observe(seen.image, seen.depth, K, path[i])
    return pipeline, path, world


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One browser for all tests."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def shown(page, request):
    """A viewer of a walk, with its page open."""
    pipeline, path, _ = walk()
    viewer = MemoryViewer(pipeline.store, trajectory=path, port=0, **getattr(request, "param", {}))
    page.errors.clear()
    page.open(viewer.url)
    page.wait_for_text("Covered")
    yield viewer
    viewer.close()
    assert page.errors == []


def picture_of(page, number=0):
    """What a picture of the panel shows, as its address: a new one whenever it changes."""
    return page.run(f"[...document.querySelectorAll('img')].filter(e => e.offsetParent)[{number}].src")


def colors_of_scene(page):
    """Pixels of the three-dimensional half, without the notes in its corner."""
    return page.screenshot()[110:, :290].reshape(-1, 3).astype(int)


def test_the_page(page, shown):
    assert "6 keyframes (0 generated), 360 patches" in page.text
    wait_for(lambda: (np.ptp(colors_of_scene(page), axis=1) > 40).mean() > 0.02, 10, "walls, which are not grey")


def test_what_memory_shows_follows_the_camera(page, shown):
    wait_for(lambda: shown._clients, 5, "the browser")
    before = picture_of(page)
    page.drag((300, 500), (420, 500))
    wait_for(lambda: picture_of(page) != before, 10, "another picture")
    time.sleep(0.5)  # the camera glides to rest
    still = picture_of(page)
    time.sleep(0.5)
    assert picture_of(page) == still


@pytest.mark.parametrize("coloring", ["provenance", "age", "confidence", "keyframe"])
def test_colourings(page, shown, coloring):
    before = colors_of_scene(page)
    page.choose("Colours", coloring)
    wait_for(lambda: shown.coloring == coloring, 5, coloring)
    wait_for(lambda: np.abs(colors_of_scene(page) - before).mean() > 2, 10, "other colours")


def test_toggles(page, shown):
    page.tick("Seen")
    page.wait_for_text("Covered 0 %")
    page.tick("Seen")
    wait_for(lambda: "Covered 0 %" not in page.text, 10, "memory again")
    page.tick("Generated")
    wait_for(lambda: not shown.made_up, 5, "the setting")
    page.tick("Cameras")
    wait_for(lambda: not shown.scene._cameras, 5, "no cameras")
    page.type("Point size", "4")
    wait_for(lambda: shown.scene.point_size == 4, 5, "larger points")


def test_a_click_selects_the_keyframe(page, shown):
    click_a_point(page, shown)
    observation, point = shown.selected
    assert point is not None
    keyframe = next(k for k in shown.keyframes if k.observation == observation)
    page.wait_for_text(f"Frame {keyframe.frame_id} at {keyframe.timestamp:.2f} s, observed, 20x12 cells; patch")
    before = client_of(shown).camera[2].position
    page.click("Look from its camera")
    client = client_of(shown)
    wait_for(
        lambda: np.linalg.norm(client.camera[2].position - keyframe.world_from_camera[:3, 3]) < 1e-3, 5, "the move"
    )
    assert np.linalg.norm(client.camera[2].position - before) > 1e-3


def client_of(viewer):
    wait_for(lambda: viewer._clients, 5, "a browser")
    return next(iter(viewer._clients.values()))


def test_a_click_on_a_camera_selects_its_keyframe(page, shown):
    """Not the point behind it, which the same click meets."""
    page.tick("Generated")  # the page has settled when this is done
    wait_for(lambda: not shown.made_up, 5, "the setting")
    for keyframe in shown.keyframes:
        # In its picture, which lies beyond the camera's centre by the frustum's length.
        forward, down = keyframe.world_from_camera[:3, 2], keyframe.world_from_camera[:3, 1]
        place = keyframe.world_from_camera[:3, 3] + shown.scene.size * (0.024 * forward - 0.003 * down)
        u, v = on_screen(page, shown, place)
        if not (40 < u < 560 and 150 < v < 600):
            continue
        page.click_at(u, v)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: shown.selected is not None and shown.selected[1] is None, 1.5, "a camera")
            break
    time.sleep(0.5)  # the scene reports the click too
    assert shown.selected is not None
    assert shown.selected[1] is None
    page.wait_for_text("observed, 20x12 cells")
    assert "; patch" not in page.text


def click_a_point(page, viewer):
    """Click where a point is drawn; the page may still be settling."""
    for _ in range(8):
        page.click_at(*where_points_are(page, viewer))
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: viewer.selected is not None, 0.7, "a selection")
            return
    raise TimeoutError("no click selects anything")


def projected(page, viewer, points):
    """Where world points (N, 3) are on the screen, and how deep."""
    fov, _, pose = client_of(viewer).camera
    height, width = page.run("[innerHeight, innerWidth]")
    focal = 0.5 * height / math.tan(0.5 * fov)
    local = (points - pose.position) @ pose.world_from_camera[:3, :3]
    z = local[:, 2]
    return focal * local[:, 0] / z + 0.5 * width, focal * local[:, 1] / z + 0.5 * height, z


def on_screen(page, viewer, point):
    """Where one world point is."""
    u, v, _ = projected(page, viewer, np.asarray(point)[None])
    return float(u[0]), float(v[0])


def where_points_are(page, viewer):
    """Somewhere on the screen, left of the panel, where a point is drawn."""
    points = np.concatenate([part.points for part in viewer.cloud.parts]).astype(float)
    u, v, depth = projected(page, viewer, points)
    height = page.run("innerHeight")
    good = (depth > 0) & (u > 60) & (u < 560) & (v > 220) & (v < height - 80)
    i = np.flatnonzero(good)[np.argmax(depth[good])]  # the furthest one is beyond all cameras
    return float(u[i]), float(v[i])


def test_the_path(page, shown):
    client = client_of(shown)
    page.type("Frame", "10")
    target = shown.path[10].position
    wait_for(lambda: np.linalg.norm(client.camera[2].position - target) < 1e-3, 5, "the path's camera")
    page.click("Play")
    wait_for(lambda: shown.path_panel.frame.value == len(shown.path) - 1, 10, "the end of the path")
    page.wait_for_text("Play")
    page.tick("Look along")
    there = client.camera[2].position
    page.type("Frame", "3")
    time.sleep(0.5)
    np.testing.assert_allclose(client.camera[2].position, there, atol=1e-3)


def test_playing_can_be_stopped(page, shown):
    page.click("Play")
    page.wait_for_text("Stop")
    page.click("Stop")
    page.wait_for_text("Play")
    assert shown.path_panel.frame.value < len(shown.path) - 1


def test_editing(page, shown, tmp_path):
    before = len(shown.store)
    click_a_point(page, shown)
    page.click("Edit")
    page.wait_for_text("Choose a region")
    page.choose("Region", "sphere")
    page.click("Region to the clicked point")
    wait_for(lambda: np.allclose(shown.edit_panel.region.centre, shown.selected[1]), 5, "the region there")
    page.type("Radius, m", "0.9")
    wait_for(lambda: shown.edit_panel.region.radius == 0.9, 5, "the radius")
    page.wait_for_text(" patches in the sphere")
    page.click("Erase")
    page.wait_for_text("in fork 1; the store is unchanged")
    assert shown.versions.source.store is not shown.store
    assert len(shown.store) < before == len(shown.versions.source.store)
    page.click("Undo")
    wait_for(lambda: len(shown.store) == before, 5, "the patches again")
    page.click("Keep only these")
    wait_for(lambda: 0 < len(shown.store) < before / 2, 5, "a few patches")
    kept = len(shown.store)
    page.click("Move")
    page.wait_for_text("Move by how much?")
    set_offset(page, shown, "0.5")
    page.click("Move")
    wait_for(lambda: np.allclose(shown.edit_panel.region.centre - shown.selected[1], (0.5, 0, 0)), 5, "the move")
    page.click("Duplicate")
    wait_for(lambda: len(shown.store) == 2 * kept, 5, "copies")
    page.choose("Axis", "z")
    page.type("Degrees", "45")
    wait_for(lambda: shown.edit_panel._angle.value == 45, 5, "the angle")
    page.click("Rotate")
    page.wait_for_text("patches rotated")
    page.click("Flip")
    page.wait_for_text("patches flipped")
    page.click("Fork")
    wait_for(lambda: shown.versions.current == "fork 2", 5, "a fork")
    page.choose("Region", "box")
    wait_for(lambda: hasattr(shown.edit_panel.region, "low"), 5, "a box")
    page.type("Size, m", "0.4")
    wait_for(lambda: np.isclose(shown.edit_panel.region.high[0] - shown.edit_panel.region.low[0], 0.4), 5, "its size")
    page.choose("Version", "store")
    wait_for(lambda: len(shown.store) == before, 5, "the store itself")
    page.choose("Version", "fork 2")
    wait_for(lambda: shown.versions.current == "fork 2", 5, "the fork again")
    page.click("Save")
    page.wait_for_text("save where?")
    page.type("Folder", str(tmp_path / "edited"))
    page.click("Save")
    page.wait_for_text("fork 2 is in")
    assert len(MosaicMemoryStore.open(tmp_path / "edited")) == 2 * kept
    click_for(page, "Save", "something is there; choose a new folder")
    assert len(shown.versions.source.store) == before
    assert "Change the store to this" not in page.text


def click_for(page, words, text):
    """Click a button until the page answers: under software WebGL it may be too busy to notice a click."""
    for _ in range(4):
        page.click(words)
        with contextlib.suppress(TimeoutError):
            page.wait_for_text(text, 6)
            return
    raise TimeoutError(f"{words} is never answered by {text!r}; the page says\n{page.text}")


def set_offset(page, viewer, text):
    page.type("By, m", text)
    wait_for(lambda: viewer.edit_panel._offset.value[0] == float(text), 5, "the offset")


def test_a_box_is_moved_by_dragging(page, shown):
    page.click("Edit")
    page.choose("Region", "sphere")
    page.type("Radius, m", "50")
    page.tick("Dragging moves the patches")
    wait_for(lambda: shown.edit_panel._drags.value, 5, "the setting")
    before = shown.store.bounds[0].copy()
    centre = np.asarray(shown.edit_panel.region.centre).copy()
    # An arrow of the handle, wherever the view shows one: a drag beside it turns the camera instead.
    for axis, part in itertools.product(np.eye(3)[[1, 0, 2]], (0.07, 0.09, 0.11)):
        start, end = (on_screen(page, shown, centre + p * shown.scene.size * axis) for p in (part, part + 0.07))
        page.drag(start, end)
        time.sleep(0.5)
        if shown.versions.current != "store":
            break
    page.wait_for_text("patches moved in fork 1")
    moved = shown.store.bounds[0] - before
    np.testing.assert_allclose(moved, np.asarray(shown.edit_panel.region.centre) - centre, atol=1e-4)
    assert np.linalg.norm(moved) > 0.05
    assert np.abs(moved).max() > 0.99 * np.linalg.norm(moved)  # along one axis


@pytest.mark.parametrize("shown", [{"may_write": True}], indirect=True)
def test_the_store_itself_changes_only_when_told(page, shown):
    store, before = shown.versions.source.store, len(shown.store)
    page.click("Edit")
    page.choose("Region", "sphere")
    page.type("Radius, m", "50")
    page.wait_for_text(f"{before} patches in the sphere")
    page.click("Erase")
    page.wait_for_text("The store is empty.")
    assert len(store) == before
    page.click("Change the store to this")
    wait_for(lambda: not len(store), 5, "the change")
    assert shown.versions.current == "store"


def test_a_store_that_grows(page, shown):
    store = shown.versions.source.store
    world, path = SyntheticWorld(0), shown.path
    for i in (13, 15):
        seen = world.render(K, path[i])
        latents = np.zeros((12, 20, 16), np.float32)
        from mosaicmem import depth_to_grid

        store.insert_keyframe(latents, depth_to_grid(seen.depth, 8), K, path[i], image=seen.image)
    page.wait_for_text("8 keyframes")


def test_a_browser_that_leaves_during_an_edit(page, shown):
    page.click("Edit")
    page.choose("Region", "sphere")
    page.type("Radius, m", "50")
    page.wait_for_text("patches in the sphere")
    begun, going = threading.Event(), threading.Event()
    erase = shown.versions.edit

    def slow(change):
        begun.set()
        assert going.wait(10)
        return erase(change)

    shown.versions.edit = slow
    page.click("Erase")
    assert begun.wait(5)
    page.open("about:blank")
    wait_for(lambda: not shown._clients, 10, "the browser to leave")
    going.set()
    wait_for(lambda: not len(shown.store), 5, "the edit")
    page.open(shown.url)
    page.wait_for_text("The store is empty.")
    assert len(shown.versions.source.store)


def test_a_saved_store_without_colours_that_goes_away(page, tmp_path):
    import shutil

    from memory_helpers import filled_store

    store, _ = filled_store(np.random.default_rng(0), 3)
    store.save(tmp_path / "store")
    store.close()
    with MemoryViewer(tmp_path / "store", port=0) as viewer:
        page.open(viewer.url)
        page.wait_for_text("No keyframe has a thumbnail: colours are main components of the latents.")
        shutil.rmtree(tmp_path / "store")
        page.wait_for_text("is gone: this is the last state that was read")
        assert "3 keyframes" in page.text


def test_true_frames(page, tmp_path):
    from mosaicmem.datasets import open_sequence
    from scene_helpers import write_scene

    world = SyntheticWorld(0)
    write_scene(tmp_path / "scene", world, world.leave_and_return(K, 6))
    sequence = open_sequence(tmp_path / "scene")
    pipeline = AutoregressivePipeline(PipelineConfig(vae_stride=8))
    pipeline.observe(sequence[0].image, sequence[0].depth, sequence.intrinsics, sequence[0].pose)
    with MemoryViewer(pipeline.store, sequence=sequence, port=0) as viewer:
        page.open(viewer.url)
        page.wait_for_text(f"True frame {sequence[0].number}")
        page.type("Frame", "3")
        page.wait_for_text(f"True frame {sequence[3].number}")
    with MemoryViewer(pipeline.store, sequence=sequence, trajectory=sequence.trajectory([4, 5]), port=0) as viewer:
        page.open(viewer.url)
        page.wait_for_text(f"True frame {sequence[4].number}, the closest to this camera")


def test_a_token(page, tmp_path):
    from memory_helpers import filled_store

    store, _ = filled_store(np.random.default_rng(0), 1)
    with MemoryViewer(store, host="0.0.0.0", port=0) as viewer:
        base, _, token = viewer.url.partition("?token=")
        port = base.rsplit(":", 1)[1]
        page.open(f"http://127.0.0.1:{port}")
        page.wait_for_text("This viewer needs a token: open the whole address that was printed.")
        page.open(f"http://127.0.0.1:{port}?token={token}")
        page.wait_for_text("1 keyframe (")
    page.call("Network.clearBrowserCookies")


def test_an_empty_store_that_fills(page):
    store = MosaicMemoryStore()
    with MemoryViewer(store, port=0) as viewer:
        page.open(viewer.url)
        page.wait_for_text("The store is empty.")
        pipeline, _, _ = walk()
        from mosaicmem import SpatialManipulation

        SpatialManipulation(store).splice(pipeline.store, np.eye(4))
        page.wait_for_text("6 keyframes")
        page.wait_for_text("Covered")


def test_what_cannot_be_shown_is_said_and_tried_again(page, monkeypatch):
    pipeline, _, _ = walk()
    broken = threading.Event()
    broken.set()
    real = MemoryCloud.update

    def update(self, store):
        if broken.is_set():
            raise MemoryError("no room for points")
        yield from real(self, store)

    monkeypatch.setattr(MemoryCloud, "update", update)
    with MemoryViewer(pipeline.store, port=0) as viewer:
        page.open(viewer.url)
        page.wait_for_text("this cannot be shown: MemoryError: no room for points")
        broken.clear()
        wait_for(lambda: len(viewer.cloud), 5, "the points")
        wait_for(lambda: "cannot be shown" not in page.text, 5, "a page without trouble")


def test_in_a_notebook():
    from memory_helpers import filled_store

    store, _ = filled_store(np.random.default_rng(0), 1)
    with MemoryViewer(store, port=0) as viewer:
        assert f'src="{viewer.url}"' in viewer._repr_html_()


def test_copies_say_what_to_do():
    import copy
    import pickle

    from memory_helpers import filled_store

    store, _ = filled_store(np.random.default_rng(0), 1)
    with MemoryViewer(store, port=0) as viewer:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="make another one of the same store"):
                attempt(viewer)


class TestRuns:
    def test_a_run_is_shown_as_it_goes_on(self, page):
        pipeline, path, _ = walk()
        told = []
        with RunView(pipeline, path, port=0) as view:
            page.open(view.viewer.url)
            page.wait_for_text("Waiting for the first of")
            before = len(view.viewer.cloud)

            def on_step(*step):
                view.on_step(*step)
                if not told:
                    page.wait_for_text("Window 1 of 2, frames 0 to 15: step 1 of")
                told.append(step)

            result = pipeline.generate(path, on_step=on_step, on_window=view.on_window)
            page.wait_for_text("Done: 2 windows in")
            page.wait_for_text(f"window 2: memory covered {100 * result.windows[1].coverage:.0f} %")
            page.wait_for_text("remember")
            page.wait_for_text(f"{pipeline.store.statistics().keyframes} keyframes (")
            wait_for(lambda: len(view.viewer.cloud) > before, 5, "the new points")
            pipeline.generate(path, on_step=view.on_step, on_window=view.on_window)  # a second run is not shown
            assert "Done: 2 windows in" in page.text

    def test_from_the_command_line(self, page, tmp_path):
        import json

        _, path, _ = walk()
        path.save(tmp_path / "path.json")
        command = [sys.executable, "-m", "mosaicmem", "generate", "--trajectory", "path.json", "-o", "out", "--json"]
        more = ["--view", "--view-port", "0", "--rerun", "run.rrd"]
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "the run is shown at http://localhost:" in done.stderr
        assert json.loads(done.stdout)["windows"]
        assert (tmp_path / "run.rrd").stat().st_size > 10_000
        assert not list(tmp_path.glob(".*"))
        again = subprocess.run([*command, "--force", *more], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert again.returncode == 0, again.stderr  # --force replaces the recording too


def test_view_from_the_command_line(page, tmp_path):
    import re
    import signal

    pipeline, path, _ = walk()
    pipeline.store.save(tmp_path / "memory")
    path.save(tmp_path / "path.json")
    command = [sys.executable, "-m", "mosaicmem", "view", "memory", "--trajectory", "path.json", "--no-open"]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        page.open(re.search(r"http://localhost:\d+/", line)[0])
        page.wait_for_text("6 keyframes")
        port = re.search(r":(\d+)/", line)[1]
        taken = subprocess.run([*command, "--port", port], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert taken.returncode == 1
        assert f"port: {port} is taken on 127.0.0.1; choose another one" in taken.stderr
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert errors == "mosaicmem: interrupted\n"


def test_a_recording_for_rerun(tmp_path):
    pytest.importorskip("rerun", reason="the extra [view]")
    from mosaicmem.viewer import RerunLog

    pipeline, path, _ = walk()
    with RerunLog(tmp_path / "run.rrd", pipeline, path) as log:
        pipeline.generate(path, on_window=log.on_window)
    for command in ("verify", "print"):
        asked = [sys.executable, "-m", "rerun", "rrd", command, str(tmp_path / "run.rrd")]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    for name in ("world/memory", "world/camera", "world/path", "memory_showed", "figures/coverage", "seconds/denoise"):
        assert f"/{name}" in done.stdout, name
