import gc
import weakref

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import K, edited, filled_store, fingerprint, indexed_centre, random_keyframe, reference_patches
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    Frustum,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    Sphere,
    SyntheticVAE,
    SyntheticWorld,
    WarpedLatent,
)
from mosaicmem.memory import Box
from mosaicmem.memory.regions import choose
from reference import retrieval as reference

pytestmark = pytest.mark.kernel

CAMERA = CameraIntrinsics.from_fov(320, 192, fov_x=1.2)
STRIDE = 8
MIRROR = np.diag([-1.0, 1, 1, 1])


def affine(linear=None, translation=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if linear is None else linear
    matrix[:3, 3] = translation
    return matrix


def random_affine(rng):
    return affine(rng.standard_normal((3, 3)) + 2 * np.eye(3), rng.standard_normal(3))


def origin_of(store):
    return np.array(store._core.export_observations()["origin"])


def tensors_of(store):
    """Identities of the arrays that a store refers to."""
    return {id(array) for arrays in store._core.export_observations()["arrays"] for array in arrays}


@pytest.fixture(scope="module")
def room(world):
    """A memory of the first room, with one cell per patch."""
    store = MosaicMemoryStore(1)
    for eye, target in (((-1.4, -1.5, -0.6), (-4, -1.2, -1)), ((-1.2, -1.5, 0.4), (-4, -1.2, 0.8))):
        pose = CameraPose.look_at(eye, target)
        view = world.render(CAMERA, pose)
        depth = world.render(CAMERA.latent_grid(STRIDE), pose).depth  # at the cell centres
        store.insert_keyframe(SyntheticVAE().encode_image(view.image), depth, CAMERA, pose)
    return store


def rendered_depth_at(depth, u, v):
    """Rendered depth, interpolated between pixel centres: 1 / z is linear over a plane. NaN beside an edge."""
    with np.errstate(divide="ignore"):
        inverse = 1 / depth.astype(np.float64)
    bent = np.zeros(depth.shape, dtype=bool)
    bent[:, 1:-1] |= np.abs(inverse[:, :-2] - 2 * inverse[:, 1:-1] + inverse[:, 2:]) > 1e-6
    bent[1:-1] |= np.abs(inverse[:-2] - 2 * inverse[1:-1] + inverse[2:]) > 1e-6
    x, y = u - 0.5, v - 0.5
    j = np.clip(np.floor(x).astype(int), 0, depth.shape[1] - 2)
    i = np.clip(np.floor(y).astype(int), 0, depth.shape[0] - 2)
    corners = ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1))
    fx, fy = x - j, y - i
    weights = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
    interpolated = sum(weight * inverse[corner] for weight, corner in zip(weights, corners, strict=True))
    return np.where(np.any([bent[corner] for corner in corners], axis=0), np.nan, 1 / interpolated)


class TestDenseOperatorsStayExact:
    """Edited memory against the synthetic world, rendered with the same edit."""

    @staticmethod
    def compare(store, target, depth, least):
        """Tokens that land in the image lie on the rendered surfaces; more than a fraction `least` must be visible."""
        landed = store.project_tokens(store.patch_ids, CAMERA, target)["projected"].astype(np.float64)
        u, v, z = landed[(landed[:, 0] > 1) & (landed[:, 0] < 319) & (landed[:, 1] > 1) & (landed[:, 1] < 191)].T
        assert len(z) > 50
        surface = rendered_depth_at(depth, u, v)
        visible = np.abs(z - surface) < 1e-3 * surface  # neither occluded nor beside an edge
        assert visible.mean() > least
        np.testing.assert_allclose(z[visible], surface[visible], rtol=2e-5)

    @pytest.mark.parametrize("kind", ["translate", "rotate", "scale", "flip"])
    def test_the_moved_world_from_a_camera_that_moved_along(self, world, room, kind):
        """A camera moved along with the memory sees in it what the original camera sees in the world."""
        store = room.fork()
        edit = SpatialManipulation(store)
        target = CameraPose.look_at([-1.3, -1.4, 0.0], [-4, -1.3, 0.1])
        about = np.array([0.5, -1.0, 0.3])
        if kind == "translate":
            edit.translate([3.0, 0.5, -2.0])
            camera = CameraPose(affine(translation=[3.0, 0.5, -2.0]) @ target.world_from_camera)
            depth = world.render(CAMERA, target).depth
        elif kind == "rotate":
            edit.rotate([0, 1, 0], 0.8, about)
            c, s = np.cos(0.8), np.sin(0.8)
            turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
            camera = CameraPose(affine(turn, about - turn @ about) @ target.world_from_camera)
            depth = world.render(CAMERA, target).depth
        elif kind == "scale":
            edit.scale(2.5, about)
            moved = target.world_from_camera.copy()
            moved[:3, 3] = about + 2.5 * (target.position - about)
            camera = CameraPose(moved)
            depth = 2.5 * world.render(CAMERA, target).depth
        else:  # the camera's image is mirrored, too
            edit.flip([0, 0, 1], about)
            mirror = affine(np.diag([1.0, 1, -1]), [0, 0, 2 * about[2]])
            camera = CameraPose(mirror @ target.world_from_camera @ MIRROR)
            depth = world.render(CAMERA, target).depth[:, ::-1]
        self.compare(store, camera, depth, least=0.8)
        # Dense warps agree with those of the unedited memory to a thousandth of a cell.
        before = room.project_tokens(room.patch_ids, CAMERA, target)
        after = store.project_tokens(store.patch_ids, CAMERA, camera)
        expected = before["projected"].astype(np.float64)
        expected[:, 2] *= 2.5 if kind == "scale" else 1
        if kind == "flip":
            expected[:, 0] = CAMERA.width - expected[:, 0]
        np.testing.assert_allclose(after["projected"][:, :2], expected[:, :2], atol=1e-3 * STRIDE)
        np.testing.assert_allclose(after["projected"][:, 2], expected[:, 2], rtol=1e-5)
        np.testing.assert_array_equal(after["latents"], before["latents"])

    def test_a_moved_object(self, world, room):
        """A table is moved: its tokens lie on the table of a world where it stands in the new place."""
        index = next(i for i, (low, _) in enumerate(world.furniture) if np.allclose(low, [-3.4, -0.75, -1.4]))
        low, high = world.furniture[index]
        offset = np.array([0.4, -0.3, 0.9])
        store = room.fork()
        SpatialManipulation(store).translate(offset, Box(low - 0.01, high + 0.01))
        # Only the patches in the table's new box; it holds others as well, such as the floor below.
        moved = store.fork()
        SpatialManipulation(moved).crop(Box(low + offset - 0.01, high + offset + 0.01))
        assert len(moved) > 50
        target = CameraPose.look_at([-1.4, -1.7, -0.3], [-3, -0.7, 0.0])
        rendered = world.with_furniture_moved(index, offset).render(CAMERA, target)
        self.compare(moved, target, rendered.depth, least=0.5)
        retrieval = MemoryRetrieval(top_k=10**5, min_visibility=0.0)
        mosaic = retrieval.retrieve(moved, CameraTrajectory([target], CAMERA), STRIDE)
        image = SyntheticVAE().decode_image(mosaic.compose(WarpedLatent("bilinear"))[0].latents)
        covered = np.repeat(np.repeat(mosaic.coverage[0], STRIDE, axis=0), STRIDE, axis=1)
        at_home = world.render(CAMERA, target)
        error = np.abs(image - rendered.image)[covered].mean()
        assert error < 0.6 * np.abs(image - at_home.image)[covered].mean()  # it looks like the moved table

    def test_precision_far_away(self, rng):
        """The origin of the index moves along, so that distances keep their precision."""
        store, _ = filled_store(rng, 40)
        queries = rng.standard_normal((20, 3))
        before, ids = store.query_nearest(queries, 3)
        SpatialManipulation(store).translate([2.0**24, 0, -(2.0**24)])
        after, same_ids = store.query_nearest(queries + np.array([2.0**24, 0, -(2.0**24)]), 3)
        np.testing.assert_allclose(after, before, atol=1e-5)
        np.testing.assert_array_equal(same_ids, ids)

    def test_every_operator_of_a_random_edit(self, rng):
        store, keyframes = filled_store(rng, 3)
        matrix = random_affine(rng)
        SpatialManipulation(store).transform(matrix)
        pose = random_pose(rng)
        landed = store.project_tokens(store.patch_ids, K, pose)
        described = store.describe_patches(store.patch_ids)
        camera_from_world = pose.camera_from_world @ matrix
        for token in range(0, len(landed["patch"]), 7):
            patch = landed["patch"][token]
            _, depth, source = keyframes[described["frame_id"][patch]]
            row, column = landed["source_row"][token], landed["source_column"][token]
            u, v = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
            point = depth[row, column] * np.array([(u - K.cx) / K.fx, (v - K.cy) / K.fy, 1.0])
            x, y, z = (camera_from_world @ source.world_from_camera @ [*point, 1.0])[:3]
            expected = [K.fx * x / z + K.cx, K.fy * y / z + K.cy, z]
            np.testing.assert_allclose(landed["projected"][token], expected, rtol=1e-5, atol=1e-3)


def test_any_sequence_of_edits_equals_a_list_of_patches(rng):
    """Every answer of a store, against a plain list edited in the same way."""
    for _ in range(6):
        store, keyframes = filled_store(rng, 20)
        edit = SpatialManipulation(store, undo_levels=100)
        model = {p["id"]: p for p in reference_patches(keyframes)}
        past = []
        for _ in range(12):
            ids = np.array(sorted(model), dtype=np.uint64)
            some = rng.choice(ids, rng.integers(1, len(ids)), replace=False) if len(ids) > 1 else ids
            kind = rng.choice(["move", "move all", "erase", "duplicate", "insert", "undo"])
            before = dict(model)
            if kind == "move":
                matrix = random_affine(rng)
                assert edit.transform(matrix, some) == len(some)
                model.update({i: edited(model[i], matrix) for i in some.tolist()})
            elif kind == "move all":
                matrix = affine(translation=rng.standard_normal(3))
                assert edit.transform(matrix) == len(model)
                model = {i: edited(patch, matrix) for i, patch in model.items()}
            elif kind == "erase":
                assert edit.erase(some[: len(some) // 2]) == len(some) // 2
                for i in some[: len(some) // 2].tolist():
                    del model[i]
            elif kind == "duplicate":
                matrix = random_affine(rng)
                copies = edit.duplicate(matrix, some)
                assert len(copies) == len(some)
                assert not np.isin(copies, ids).any()
                # Match each copy with its source, by keyframe and place in it.
                described = store.describe_patches(copies)
                mine = store.describe_patches(some)
                key = {(f, r, c): [] for f, r, c in zip(mine["frame_id"], mine["row"], mine["column"], strict=True)}
                for i, f, r, c in zip(some.tolist(), mine["frame_id"], mine["row"], mine["column"], strict=True):
                    key[f, r, c].append(i)
                for copy, f, r, c, centre in zip(
                    copies.tolist(), *(described[n] for n in ("frame_id", "row", "column", "centre")), strict=True
                ):
                    sources = [edited(model[i], matrix, id=copy) for i in key[f, r, c]]
                    nearest = min(sources, key=lambda p: np.abs(indexed_centre(p, np.zeros(3)) - centre).max())
                    model[copy] = nearest
            elif kind == "insert":
                latents, depth, pose = random_keyframe(rng, 30.0)
                first = store.insert_keyframe(latents, depth, K, pose, frame_id=1000 + len(past))
                patches = reference_patches([(latents, depth, pose)])
                model.update({first + p["id"]: {**p, "id": first + p["id"]} for p in patches})
                past.clear()  # undoing an earlier edit would also undo the insertion
                edit._history.clear()
                continue
            elif edit.undo():
                model = past.pop()
                continue
            else:
                continue
            past.append(before)
        origin = origin_of(store)
        patches = [{**p, "centre": indexed_centre(p, origin)} for _, p in sorted(model.items())]
        np.testing.assert_array_equal(store.patch_ids, [p["id"] for p in patches])
        if not patches:
            continue
        centres = np.array([p["centre"] for p in patches])
        np.testing.assert_allclose(store.describe_patches(store.patch_ids)["centre"], centres, rtol=1e-5, atol=1e-5)
        queries = rng.standard_normal((20, 3)).astype(np.float32)
        exact = np.sort(np.linalg.norm(queries[:, None] - centres, axis=2), axis=1)[:, :5]
        np.testing.assert_allclose(store.query_nearest(queries, 5)[0], exact, rtol=1e-4)
        pose = random_pose(rng, 0.5, timestamp=30.0)
        options = {"near": 0.3, "far": 30.0, "half_life": 9.0, "min_visibility": 0.01}
        found = reference.score_patches(patches, K, pose.camera_from_world, 30.0, stride=STRIDE, **options)
        expected = reference.select(found, 25, 9.0, 0.5)
        got = store.retrieve(K, pose, top_k=25, diversity_radius=9.0, **options)
        np.testing.assert_array_equal(got.ids, [p[0] for p in expected])
        np.testing.assert_allclose(got.scores, [p[1] for p in expected], rtol=1e-6)


def test_ids_that_are_given_twice_or_do_not_live_count_once_or_not(rng):
    store, _ = filled_store(rng, 3)
    ids = store.patch_ids
    pose = random_pose(rng)
    twin = store.fork()
    SpatialManipulation(twin).translate([1, 0, 0], ids[:5])
    given = np.concatenate([ids[:5], ids[:5], np.array([10**9], np.uint64)])
    assert SpatialManipulation(store).translate([1, 0, 0], given) == 5
    assert len(store) == len(ids)
    assert fingerprint(store, pose) == fingerprint(twin, pose)
    assert len(SpatialManipulation(store).duplicate(np.eye(4), given)) == 5
    assert len(store) == len(ids) + 5


class TestErase:
    @pytest.mark.parametrize(
        "where",
        [
            Sphere([0.3, 0, 1], 1.2),
            Box([-1, -1, -1], [1, 1, 1.5]),
            Box([-1, -0.5, -1], [1, 0.5, 1], CameraPose.look_at([0, 0, 0.5], [1, 1, 2]).world_from_camera),
            Frustum(K, CameraPose.look_at([0.2, 0, -1], [0, 0, 2]), 0.5, 3.0),
            Frustum(K, CameraPose()),
        ],
        ids=["sphere", "box", "turned box", "frustum", "frustum without end"],
    )
    def test_nothing_of_a_region_is_left(self, rng, where):
        store, _ = filled_store(rng, 30)
        ids = store.patch_ids
        centres = store.describe_patches(ids)["centre"]
        if isinstance(where, Sphere):
            inside = np.linalg.norm(centres - where.centre, axis=1) <= where.radius
        elif isinstance(where, Box):
            turn = np.eye(4) if where.world_from_box is None else where.world_from_box
            local = (centres - turn[:3, 3]) @ turn[:3, :3]
            inside = ((local >= where.low) & (local <= where.high)).all(axis=1)
        else:
            x, y, z = (where.pose.camera_from_world @ np.c_[centres, np.ones(len(centres))].T)[:3]
            u, v = K.fx * x / z + K.cx, K.fy * y / z + K.cy
            inside = (z >= where.near) & (z <= where.far) & (u >= 0) & (u <= 80) & (v >= 0) & (v <= 48)
        assert 3 < inside.sum() < len(ids) - 3
        cropped = store.fork()
        assert SpatialManipulation(store).erase(where) == inside.sum()
        np.testing.assert_array_equal(store.patch_ids, ids[~inside])
        gone = ids[inside]
        for _ in range(5):
            pose = random_pose(rng, 1.0)
            assert not np.isin(store.retrieve(K, pose, top_k=10**6, min_visibility=0.0).ids, gone).any()
            mosaic = MemoryRetrieval(top_k=10**5).retrieve(store, CameraTrajectory([pose], K), STRIDE)
            assert not np.isin(mosaic.patch_ids, gone).any()
            assert not np.isin(store.query_nearest(centres[inside], 30)[1], gone).any()
        assert SpatialManipulation(cropped).crop(where) == (~inside).sum()
        np.testing.assert_array_equal(cropped.patch_ids, gone)

    def test_by_mask(self, rng):
        store, _ = filled_store(rng, 3)
        ids = store.patch_ids
        mask = rng.random(len(ids)) < 0.5
        assert SpatialManipulation(store).erase(mask) == mask.sum()
        np.testing.assert_array_equal(store.patch_ids, ids[~mask])
        with pytest.raises(ValueError, match=r"where: expected a mask of shape .* got"):
            SpatialManipulation(store).erase(mask)


class TestUndo:
    def test_gives_back_identical_bytes(self, rng):
        store, _ = filled_store(rng, 40)
        other, _ = filled_store(rng, 5, latent_dtype="float16")
        edit = SpatialManipulation(store)
        pose = random_pose(rng, 0.5)
        edits = [
            lambda: edit.translate([1, 2, 3]),
            lambda: edit.rotate([0, 0, 1], 1.0, where=Sphere([0, 0, 0], 2)),
            lambda: edit.scale(0.5, [1, 0, 0]),
            lambda: edit.flip([1, 0, 0], where=store.patch_ids[::3]),
            lambda: edit.erase(Sphere([0, 0, 1], 1.5)),
            lambda: edit.duplicate(affine(translation=[5, 0, 0]), Sphere([0, 0, 0], 2)),
            lambda: edit.splice(other, layout="horizontal"),
            lambda: edit.crop(store.patch_ids[: len(store) // 2]),
        ]
        states = []
        for change in edits:
            states.append(fingerprint(store, pose))
            change()
            assert fingerprint(store, pose) != states[-1]
        for state in reversed(states):
            assert edit.undo()
            assert fingerprint(store, pose) == state
        assert not edit.undo()

    def test_ids_given_in_the_meantime_are_not_given_again(self, rng):
        store, _ = filled_store(rng, 2)
        edit = SpatialManipulation(store)
        copies = edit.duplicate(affine(translation=[1, 0, 0]))
        edit.undo()
        latents, depth, pose = random_keyframe(rng, 9.0)
        assert store.insert_keyframe(latents, depth, K, pose) > copies.max()

    def test_levels(self, rng):
        store, _ = filled_store(rng, 2)
        edit = SpatialManipulation(store, undo_levels=2)
        for _ in range(5):
            edit.translate([1, 0, 0])
        assert [edit.undo() for _ in range(3)] == [True, True, False]
        assert edit.undo_count == 0

    def test_what_cannot_be_undone_is_let_go(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0)
        alive = weakref.ref(latents)
        store.insert_keyframe(latents, depth, K, pose, copy=False)
        edit = SpatialManipulation(store, undo_levels=1)
        edit.erase(store.patch_ids)
        del latents
        gc.collect()
        assert alive() is not None
        assert edit.erase(store.patch_ids) == 0  # no change, so no undo level is used up
        store.insert_keyframe(*random_keyframe(rng, 1.0)[:2], K, pose)
        edit.erase(store.patch_ids)
        gc.collect()
        assert alive() is None

    def test_a_failed_edit_changes_nothing(self, rng):
        store, _ = filled_store(rng, 5)
        pose = random_pose(rng)
        before = fingerprint(store, pose)
        edit = SpatialManipulation(store)
        with pytest.raises(ValueError, match="further than 1e12"):
            edit.transform(affine(translation=[1e12, 0, 0]) @ affine(1e12 * np.eye(3)), store.patch_ids[:7])
        assert fingerprint(store, pose) == before
        assert edit.undo_count == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.translate([1, 2]), r"offset: expected shape \(3,\), got \(2,\)"),
        (lambda e: e.translate([1, 2, np.nan]), "offset: expected finite values"),
        (lambda e: e.rotate([0, 0, 0], 1.0), "axis: expected a direction"),
        (lambda e: e.scale(0.0), "factor: expected more than 0"),
        (lambda e: e.transform(np.zeros((4, 4))), "matrix: expected a last row"),
        (lambda e: e.transform(np.diag([1.0, 1, 0, 1])), "matrix: expected a map that can be inverted"),
        (lambda e: e.transform(affine(translation=[1, 2, 3]).T), "matrix: expected a last row .* transposed"),
        (lambda e: e.erase(Box([1, 0, 0], [0, 1, 1])), "high: expected at least low .* swapped"),
        (lambda e: e.erase(Sphere([0, 0, 0], -1)), "radius: expected at least 0"),
        (lambda e: e.erase([0.5]), "where: expected"),
        (lambda e: e.splice(np.eye(4)), "other: expected MosaicMemoryStore, got ndarray"),
    ],
)
def test_bad_arguments_are_named(rng, call, message):
    store, _ = filled_store(rng, 1)
    edit = SpatialManipulation(store)
    with pytest.raises((TypeError, ValueError), match=message):
        call(edit)
    assert edit.undo_count == 0


def test_a_moved_box_of_the_synthetic_world_takes_its_texture_along():
    world = SyntheticWorld(3)
    index = next(i for i, (low, high) in enumerate(world.furniture) if np.allclose(high - low, [0.3, 0.3, 0.3]))
    offset = np.array([0.02, -0.35, 0.11])
    low, high = world.furniture[index]
    middle = (low + high) / 2
    close = CameraIntrinsics.from_fov(64, 64, fov_x=0.3)
    aside = np.array([0.9, -0.1, 0.2])
    pose = CameraPose.look_at(middle + aside, middle)
    moved = CameraPose.look_at(middle + offset + aside, middle + offset)
    np.testing.assert_allclose(
        world.with_furniture_moved(index, offset).render(close, moved).image, world.render(close, pose).image, atol=0.02
    )


@pytest.mark.parametrize("every", [2, 3])
def test_ids_ascend_where_patches_of_the_last_keyframe_were_moved_apart(rng, every):
    for count in (1, 2):
        store, _ = filled_store(rng, count)
        ids = store.patch_ids
        SpatialManipulation(store).translate((0.0, 1.0, 0.0), ids[-15::every])
        np.testing.assert_array_equal(store.patch_ids, ids)
        np.testing.assert_array_equal(choose(store, Sphere((0.0, 0.0, 0.0), 1e6)), ids)
