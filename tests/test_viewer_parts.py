"""The parts of the viewer that need no browser: its door, where stores come from, edited forks, points, previews."""

import http.client
import http.server
import threading
import time

import numpy as np
import pytest

from memory_helpers import COLUMNS, ROWS, K, filled_store, random_keyframe
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, KeyframeRetrieval, MosaicMemoryStore, Sphere
from mosaicmem.errors import StoreLockedError
from mosaicmem.viewer.cloud import COLORINGS, MemoryCloud
from mosaicmem.viewer.gate import Gate, Request, answer
from mosaicmem.viewer.palettes import hues, ramp
from mosaicmem.viewer.preview import Previewer
from mosaicmem.viewer.sources import LiveStore, SavedStore
from mosaicmem.viewer.versions import MemoryVersions

COOKIE = "mosaicmem-1"


def request(target="/", **headers):
    return Request(target, {name.replace("_", "-"): value for name, value in headers.items()})


class TestGate:
    @pytest.mark.parametrize("host", ["localhost:8060", "127.0.0.1:9", "[::1]:8060", "localhost"])
    def test_browsers_of_this_machine_enter(self, host):
        assert answer(request(host=host), None, COOKIE) is None
        assert answer(request(host=host, origin=f"http://{host}"), None, COOKIE) is None

    @pytest.mark.parametrize("host", ["evil.example:8060", "localhost.evil.example", "10.0.0.7:8060", ""])
    def test_names_that_others_give_this_machine_do_not(self, host):
        assert answer(request(host=host), None, COOKIE).startswith(b"HTTP/1.1 403")

    def test_pages_of_other_sites_do_not(self):
        refused = answer(request(host="localhost:8060", origin="https://evil.example"), None, COOKIE)
        assert refused.startswith(b"HTTP/1.1 403")
        with_token = request("/?token=secret", host="me:1", origin="https://evil.example", cookie=f"{COOKIE}=secret")
        assert answer(with_token, "secret", COOKIE).startswith(b"HTTP/1.1 403")

    def test_nor_are_they_embedded_there(self):
        told = {"sec_fetch_site": "cross-site", "host": "localhost:8060"}
        assert answer(request(**told, sec_fetch_dest="iframe"), None, COOKIE).startswith(b"HTTP/1.1 403")
        assert answer(request(**told, sec_fetch_dest="document"), None, COOKIE) is None

    def test_cookies_of_other_programs(self):
        cookies = f'a/b=1; x={{"a":1}}; ; {COOKIE}=secret'
        assert answer(request(host="me:1", cookie=cookies), "secret", COOKIE) is None

    @pytest.mark.parametrize("token", ["", "short", "with space", "with;semicolon", "ünïcödé-token", "line\r\nbreak"])
    def test_tokens_are_checked(self, token):
        pytest.importorskip("viser")
        from mosaicmem.viewer.server import GuardedServer

        with pytest.raises(ValueError, match="token: expected 8 or more of"):
            GuardedServer("127.0.0.1", 0, token, "label")

    def test_a_token_becomes_a_cookie(self):
        reply = answer(request("/?token=secret&x=1", host="me:1"), "secret", COOKIE).decode()
        assert reply.startswith("HTTP/1.1 302")
        assert "Location: /?x=1\r\n" in reply
        assert f"Set-Cookie: {COOKIE}=secret; HttpOnly; SameSite=Lax" in reply
        assert answer(request(host="me:1", cookie=f"a=b; {COOKIE}=secret"), "secret", COOKIE) is None

    @pytest.mark.parametrize(
        "asked",
        [
            request(host="me:1"),
            request("/?token=", host="me:1"),
            request("/?token=guess", host="me:1"),
            request(host="localhost:1"),
            request(host="me:1", cookie=f"{COOKIE}=guess"),
            request(host="me:1", cookie="mosaicmem-2=secret"),
            request("/?token=%ff", host="me:1", cookie="\x00;;="),
        ],
    )
    def test_others_need_it(self, asked):
        assert answer(asked, "secret", COOKIE).startswith(b"HTTP/1.1 403")

    def test_taken_ports_are_named(self):
        with Served() as served:
            gate = Gate("127.0.0.1", 0, ("127.0.0.1", served.port), None)
            try:
                with pytest.raises(
                    OSError, match=rf"port: {gate.port} is taken on 127.0.0.1; choose another one, or 0"
                ):
                    Gate("127.0.0.1", gate.port, ("127.0.0.1", served.port), None)
            finally:
                gate.close()

    def test_a_host_of_another_machine(self):
        with pytest.raises(OSError, match=r"host: expected an address of this machine, got 192\.0\.2\.1"):
            Gate("192.0.2.1", 0, ("127.0.0.1", 1), None)

    def test_it_passes_on_what_may_enter(self):
        with Served() as served:
            gate = Gate("127.0.0.1", 0, ("127.0.0.1", served.port), "secret")
            try:
                assert fetch(gate.port, "/")[0] == 403
                status, headers, _ = fetch(gate.port, "/?token=secret")
                assert (status, headers["Location"]) == (302, "/")
                cookie = headers["Set-Cookie"].partition(";")[0]
                assert fetch(gate.port, "/", Cookie=cookie)[::2] == (200, b"inside")
                assert fetch(gate.port, "/", Cookie=cookie, Origin="http://other")[0] == 403
            finally:
                gate.close()
            with pytest.raises(OSError, match=r"refused|reset"):
                fetch(gate.port, "/")

    def test_nonsense_is_refused(self):
        import socket

        gate = Gate("127.0.0.1", 0, ("127.0.0.1", 1), None)
        try:
            for sent in (
                b"\x16\x03\x01 TLS\r\n\r\n",
                b"GET /\r\n\r\n",
                b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
                b"x" * 70000,
            ):
                with socket.create_connection(("127.0.0.1", gate.port)) as connection:
                    connection.sendall(sent)
                    assert connection.recv(100).startswith(b"HTTP/1.1 400")
        finally:
            gate.close()


class Served:
    """An HTTP server for the gate to pass on to."""

    def __enter__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "6")
                self.end_headers()
                self.wfile.write(b"inside")

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def fetch(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


@pytest.fixture
def saved(rng, tmp_path):
    """A store, and the folder that it is saved in."""
    store, _ = filled_store(rng, 3)
    store.save(tmp_path / "store")
    store.close()
    return store, tmp_path / "store"


def add_frame(store, rng):
    latents, depth, pose = random_keyframe(rng, 9.0)
    store.insert_keyframe(latents, depth, K, pose)


class TestSources:
    def test_a_folder_is_read_again_when_it_is_saved_to(self, saved, rng):
        store, folder = saved
        source = SavedStore(folder)
        first = source.store
        assert source.poll() is None
        assert source.store is first
        add_frame(store, rng)
        store.save(folder)
        assert source.poll() is None
        assert len(source.store) == len(store) > len(first)

    def test_a_folder_that_is_gone_keeps_its_last_state(self, saved):
        import shutil

        store, folder = saved
        source = SavedStore(folder)
        shutil.rmtree(folder)
        assert "is gone: this is the last state that was read" in source.poll()
        assert "is gone" in source.poll()
        assert len(source.store) == len(store)
        other, _ = filled_store(np.random.default_rng(5), 1)
        other.save(folder)
        assert source.poll() is None
        assert len(source.store) == len(other)

    def test_damage_is_said(self, saved):
        store, folder = saved
        source = SavedStore(folder)
        whole = (folder / "manifest.json").read_bytes()
        (folder / "manifest.json").write_text("{")
        assert "cannot be read now, so this is an earlier state: " in source.poll()
        assert len(source.store) == len(store)
        (folder / "manifest.json").write_bytes(whole)
        assert source.poll() is None

    def test_no_store(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder of a store"):
            SavedStore(tmp_path / "nothing")

    def test_a_store_of_this_process_may_be_replaced(self, rng):
        stores = [filled_store(rng, 1)[0], filled_store(rng, 2)[0]]
        source = LiveStore(lambda: stores[0])
        assert source.store is stores[0]
        stores.reverse()
        assert source.store is stores[0]
        assert source.poll() is None


class TestVersions:
    def everywhere(self):
        return Sphere((0, 0, 0), 1e6)

    def test_edits_go_to_a_fork(self, rng):
        store, _ = filled_store(rng, 2)
        before, versions = len(store), MemoryVersions(LiveStore(store))
        some = store.patch_ids[:5]
        assert versions.edit(lambda edit: edit.erase(some)) == 5
        assert (versions.current, versions.names) == ("fork 1", ["store", "fork 1"])
        assert (len(store), len(versions.store)) == (before, before - 5)
        versions.edit(lambda edit: edit.erase(versions.store.patch_ids[:5]))
        assert versions.names == ["store", "fork 1"]
        assert versions.undo()
        assert versions.undo()
        assert len(versions.store) == before
        assert not versions.undo()

    def test_edits_of_nothing_and_failures_leave_no_fork(self, rng):
        versions = MemoryVersions(LiveStore(filled_store(rng, 1)[0]))
        assert versions.edit(lambda edit: edit.erase(Sphere((1e9, 0, 0), 1))) == 0
        with pytest.raises(ValueError, match="factor"):
            versions.edit(lambda edit: edit.scale(-1.0))
        assert (versions.current, versions.names) == ("store", ["store"])

    def test_forks_of_forks(self, rng):
        versions = MemoryVersions(LiveStore(filled_store(rng, 1)[0]))
        assert [versions.fork(), versions.fork()] == ["fork 1", "fork 2"]
        versions.edit(lambda edit: edit.erase(self.everywhere()))
        versions.switch("fork 1")
        assert len(versions.store)
        versions.switch("fork 2")
        assert not len(versions.store)
        with pytest.raises(ValueError, match="expected one of store, fork 1, fork 2, got 'fork 3'"):
            versions.switch("fork 3")

    def test_saving(self, saved, tmp_path):
        _, folder = saved
        versions = MemoryVersions(SavedStore(folder))
        versions.edit(lambda edit: edit.erase(edit.store.patch_ids[:7]))
        with pytest.raises(FileExistsError, match="choose a new folder"):
            versions.save(folder)
        versions.save(tmp_path / "edited")
        assert len(MosaicMemoryStore.open(tmp_path / "edited")) == len(versions.store)
        with pytest.raises(PermissionError, match="opened for viewing"):
            versions.write_back()

    def test_writing_back(self, saved):
        store, folder = saved
        versions = MemoryVersions(SavedStore(folder), may_write=True)
        versions.edit(lambda edit: edit.erase(edit.store.patch_ids[:7]))
        versions.write_back()
        assert versions.current == "store"
        assert len(MosaicMemoryStore.open(folder)) == len(store) - 7 == len(versions.store)

    def test_what_the_store_gained_meanwhile_is_not_lost(self, saved, rng):
        store, folder = saved
        versions = MemoryVersions(SavedStore(folder), may_write=True)
        versions.edit(lambda edit: edit.erase(edit.store.patch_ids[:7]))
        versions.fork()
        add_frame(store, rng)
        store.save(folder)
        store.close()
        assert versions.source.poll() is None
        with pytest.raises(ValueError, match="the store has changed since fork 2 was forked, and would lose that"):
            versions.write_back()
        assert len(MosaicMemoryStore.open(folder)) == len(store)

    def test_writing_back_to_a_folder_that_another_has_saved_to(self, saved, rng):
        store, folder = saved
        versions = MemoryVersions(SavedStore(folder), may_write=True)
        versions.edit(lambda edit: edit.erase(edit.store.patch_ids[:7]))
        add_frame(store, rng)
        store.save(folder)
        store.close()
        before = len(versions.source.store)
        with pytest.raises(StoreLockedError, match="another process has saved here"):
            versions.write_back()
        assert len(versions.source.store) == before
        assert versions.current == "fork 1"
        assert len(MosaicMemoryStore.open(folder)) == len(store)

    def test_writing_back_to_a_store_of_this_process(self, rng):
        store, _ = filled_store(rng, 2)
        before, versions = len(store), MemoryVersions(LiveStore(store), may_write=True)
        versions.edit(lambda edit: edit.erase(edit.store.patch_ids[:7]))
        versions.write_back()
        assert len(store) == before - 7


class TestCloud:
    def updated(self, store):
        cloud = MemoryCloud()
        assert list(cloud.update(store))[-1] == 1.0
        return cloud

    def test_every_cell_with_depth_is_a_point(self, rng):
        store, keyframes = filled_store(rng, 3)
        cloud = self.updated(store)
        assert len(cloud) == sum(int((depth > 0).sum()) for _, depth, _ in keyframes)
        points, colors = cloud.drawn("keyframe")
        assert points.shape == colors.shape == (len(cloud), 3)
        low, high = store.bounds
        assert (points.min(axis=0) < high).all()
        assert (points.max(axis=0) > low).all()

    def test_only_changes_are_read(self, rng):
        store, _ = filled_store(rng, 3)
        cloud = self.updated(store)
        before = {id(part) for part in cloud.parts}
        add_frame(store, rng)
        store.delete_patches(store.patch_ids[:2])
        list(cloud.update(store))
        assert len(before & {id(part) for part in cloud.parts}) == 2
        store.delete_frame(1)
        list(cloud.update(store))
        assert len(cloud.parts) == 3

    def test_a_part_of_each_keyframe_is_drawn_if_there_are_too_many(self, rng):
        store, _ = filled_store(rng, 4)
        cloud = self.updated(store)
        points, _ = cloud.drawn("scene", most=len(cloud) // 4)
        assert len(cloud) // 4 <= len(points) <= len(cloud) // 4 + 4
        kept = {tuple(p) for p in points.tolist()}
        for part in cloud.parts:
            mine = sum(tuple(p) in kept for p in part.points.tolist())
            assert abs(mine - len(part.points) / 4) <= 1

    def test_colours(self, rng):
        store = MosaicMemoryStore()
        for time_, provenance in ((0.0, "observed"), (1.0, "generated")):
            latents, depth, pose = random_keyframe(rng, time_)
            image = np.full((K.height, K.width, 3), 100 + int(50 * time_), np.uint8)
            sure = np.full((ROWS, COLUMNS), 0.5, np.float32) if time_ else None
            told = {"provenance": provenance, "image": image, "confidence": sure}
            store.insert_keyframe(latents, depth, K, pose, **told)
        cloud = self.updated(store)
        shown = {}
        for coloring in COLORINGS:
            seen, made_up = (cloud.drawn(coloring, observed=not g, generated=g)[1] for g in (False, True))
            assert len(np.unique(seen, axis=0)) == len(np.unique(made_up, axis=0)) == 1
            shown[coloring] = seen[0].tolist(), made_up[0].tolist()
        assert shown["scene"] == ([100] * 3, [150] * 3)
        assert shown["age"] == (ramp(np.zeros(1))[0].tolist(), ramp(np.ones(1))[0].tolist())
        assert shown["confidence"][0] == ramp(np.ones(1))[0].tolist() != shown["confidence"][1]
        assert shown["provenance"][0] != shown["provenance"][1]
        assert shown["keyframe"][0] != shown["keyframe"][1]

    def test_clicks_hit_the_nearest_point(self):
        store = MosaicMemoryStore()
        for z in (4.0, 2.0, 3.0):
            pose = CameraPose(np.eye(4), z)
            store.insert_keyframe(np.zeros((ROWS, COLUMNS, 4)), np.full((ROWS, COLUMNS), z), K, pose)
        cloud = self.updated(store)
        direction = np.array([0.0, 0.0, 1.0])
        part, point = cloud.nearest_to_ray(np.zeros(3), direction, 0.1)
        assert (part.timestamp, point[2]) == (2.0, 2.0)
        part, _ = cloud.nearest_to_ray(np.array([0, 0, 2.5]), direction, 0.5)
        assert part.timestamp == 3.0
        assert cloud.nearest_to_ray(np.array([0, 0, 5.0]), direction, 0.1) is None
        assert cloud.nearest_to_ray(np.zeros(3), -direction, 0.1) is None

    def test_more_detail_where_the_camera_looks(self):
        store = MosaicMemoryStore()
        for side in (1.0, -1.0):
            matrix = np.diag([side, 1, side, 1])
            store.insert_keyframe(np.zeros((ROWS, COLUMNS, 4)), np.full((ROWS, COLUMNS), 2.0), K, CameraPose(matrix))
        cloud = self.updated(store)
        points, _ = cloud.seen_from(np.zeros(3), np.array([0.0, 0, 1]), "scene", most=50)
        assert len(points) == 50
        assert (points[:, 2] > 0).all()

    def test_two_million_points(self):
        """A large store is read in steps, and never drawn whole."""
        store, side = MosaicMemoryStore(latent_patch_size=8), 512
        camera = CameraIntrinsics(500, 500, 256, 256, side, side)
        for i in range(8):
            pose = CameraPose(np.eye(4), float(i))
            store.insert_keyframe(np.zeros((side, side, 1), np.float32), np.full((side, side), 1.0 + i), camera, pose)
        cloud, begun = MemoryCloud(), time.perf_counter()
        list(cloud.update(store))
        assert len(cloud) == 8 * side * side
        assert time.perf_counter() - begun < 20
        begun = time.perf_counter()
        points, _ = cloud.drawn("scene")
        assert 400_000 <= len(points) <= 400_008
        assert time.perf_counter() - begun < 2

    def test_an_empty_store(self):
        cloud = self.updated(MosaicMemoryStore())
        points, colors = cloud.drawn("age")
        assert points.shape == colors.shape == (0, 3)
        assert cloud.nearest_to_ray(np.zeros(3), np.array([0, 0, 1.0]), 0.1) is None

    def test_a_store_rebuilt_along_the_same_path(self):
        """Equal places, times and ids: what differs is depth, colours or provenance."""
        cloud, shown = MemoryCloud(), []
        for depth, shade, provenance in (
            (2.0, 0, "observed"),
            (3.0, 0, "observed"),
            (3.0, 9, "observed"),
            (3.0, 9, "generated"),
        ):
            store = MosaicMemoryStore()
            image = np.full((K.height, K.width, 3), shade, np.uint8)
            told = {"image": image, "provenance": provenance}
            store.insert_keyframe(
                np.zeros((ROWS, COLUMNS, 4)), np.full((ROWS, COLUMNS), depth), K, CameraPose(np.eye(4)), **told
            )
            list(cloud.update(store))
            (part,) = cloud.parts
            shown.append((float(part.points[0, 2]), int(part.colors[0, 0]), part.generated))
        assert shown == [(2.0, 0, False), (3.0, 0, False), (3.0, 9, False), (3.0, 9, True)]


class TestPreview:
    def test_it_is_what_memory_shows(self, rng):
        store, keyframes = filled_store(rng, 4)
        previewer = Previewer()
        camera, stride = previewer.camera(store, 2 * np.arctan(24 / 72), 80 / 48)
        assert (camera.width, camera.height, stride) == (80, 48, 8)
        np.testing.assert_allclose(camera.fy, 72)
        preview = previewer.compose(store, camera, stride, keyframes[1][2])
        canvas = KeyframeRetrieval().retrieve(store, CameraTrajectory([keyframes[1][2]], camera), stride)
        assert preview.covered == preview.observed == canvas.coverage.mean()
        assert preview.keyframes == len(np.unique(canvas.source[canvas.coverage]))
        assert preview.color.dtype == np.uint8
        assert preview.maps.shape[1] == preview.coverage.shape[1] + preview.depth.shape[1] + preview.source.shape[1] + 4

    def test_parts_can_be_hidden(self):
        store = MosaicMemoryStore()
        for z, provenance in ((2.0, "generated"), (3.0, "observed")):
            depth = np.full((ROWS, COLUMNS), z)
            pose = CameraPose(np.eye(4), z)
            store.insert_keyframe(np.zeros((ROWS, COLUMNS, 4)), depth, K, pose, provenance=provenance)

        def covered(**shown):
            preview = Previewer().compose(store, K, 8, CameraPose(np.eye(4)), **shown)
            return preview.covered, preview.observed

        assert covered() == (1.0, 0.0)
        assert covered(generated=False) == (1.0, 1.0)
        assert covered(observed=False) == (1.0, 0.0)
        store.delete_frame(0)
        assert covered(observed=False) == (0.0, 0.0)

    def test_shapes_of_windows(self, rng):
        store, _ = filled_store(rng, 1)
        for aspect in (0.25, 1.0, 3.7):
            camera, stride = Previewer().camera(store, 1.0, aspect)
            assert camera.width % stride == camera.height % stride == 0
            assert abs(camera.width / camera.height - aspect) < 0.35 * aspect
            assert 40 <= camera.width * camera.height / stride**2 <= 80


def test_neighbouring_numbers_have_different_hues():
    colors = hues(np.arange(50)).astype(int)
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 100
