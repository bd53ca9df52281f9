"""VMem's choice of context, called as its pipeline calls it; what is expected is worked out one by one here."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mosaicmem.published._vmem_surfels import octree_order  # noqa: E402
from mosaicmem.published.vmem import SurfelContext  # noqa: E402

WIDTH, HEIGHT, FOCAL = 40, 24, 25.0


class Theirs:
    """The state of VMem's pipeline, and of its methods those that call ours."""

    def __init__(self, frames=0):
        self.device, self.dtype, self.use_non_maximum_suppression = "cpu", torch.float32, True
        self.config = SimpleNamespace(
            model=SimpleNamespace(context_num_frames=4, target_num_frames=4, translation_distance_weight=0.1),
            surfel=SimpleNamespace(width=WIDTH, height=HEIGHT, merge_normal_threshold=0.6),
        )
        self.surfels, self.surfel_to_timestep, self.surfel_Ks = [], {}, []
        self.c2ws, self.Ks, self.latents, self.encoder_embeddings, self.pil_frames = [], [], [], [], []
        for _ in range(frames):
            self.add_frame()

    def get_context_info(self, target_c2ws, use_non_maximum_suppression=None):
        raise AssertionError("ours comes first")

    def add_frame(self):
        i = len(self.c2ws)
        self.c2ws.append(c2w(i))
        self.pil_frames.append(object())
        self.latents.append(np.full((4, 3, 3), i, np.float32))
        self.encoder_embeddings.append(np.full((1, 8), i, np.float32))
        self.Ks.append(np.eye(3, dtype=np.float32) * (i + 1))
        self.surfel_Ks.append(np.array([FOCAL], np.float32))

    def store(self, frame, surfels):
        """As `construct_and_store_scene` goes on once it has surfels."""
        if len(self.surfels) > 0:
            surfels, self.surfel_to_timestep = self.merge_surfels(
                new_surfels=surfels,
                current_timestep=frame,
                existing_surfels=self.surfels,
                existing_surfel_to_timestep=self.surfel_to_timestep,
                normal_threshold=self.config.surfel.merge_normal_threshold,
            )
        for i in range(len(surfels)):
            self.surfel_to_timestep[len(self.surfels) + i] = [frame]
        self.surfels.extend(surfels)


class Pipeline(SurfelContext, Theirs):
    pass


def c2w(i, distance=0.0):
    """World from camera with OpenGL axes; each frame turns further."""
    angle, matrix = 0.09 * i, np.eye(4, dtype=np.float32)
    matrix[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    matrix[:3, 3] = [0.03 * i, 0.01, distance]
    return matrix


def opencv(pose):
    return pose * np.array([1, -1, -1, 1], np.float32)


def surfel(position, normal, radius):
    return SimpleNamespace(
        position=np.array(position, np.float32), normal=np.array(normal, np.float32), radius=np.float32(radius)
    )


def random_surfels(seed, count):
    """In front of the first cameras, most of them turned away from these."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        normal = rng.normal(size=3) * 0.5 + [0, 0, -1.0]
        at = [rng.uniform(-2, 1), rng.uniform(-0.8, 0.8), rng.uniform(-4, -2)]
        made.append(surfel(at, normal / np.linalg.norm(normal), rng.uniform(0.05, 0.3)))
    return made


def filled(frames, surfels=25):
    pipeline = Pipeline(frames)
    for frame in range(frames):
        pipeline.store(frame, random_surfels(frame, surfels))
    return pipeline


def targets(i):
    return torch.from_numpy(np.stack([c2w(i - 3), c2w(i - 2), c2w(i - 1), c2w(i)]))


def in_polygon(x, y, corners):
    inside = False
    for (x1, y1), (x0, y0) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if (y1 > y) != (y0 > y) and x < (x0 - x1) * (y - y1) / (y0 - y1) + x1:
            inside = not inside
    return inside


def drawn(surfels, pose, focal, corners=16):
    """Depth, index and cosine, pixel by pixel."""
    depth, index, cosine = np.full((HEIGHT, WIDTH), np.inf), np.full((HEIGHT, WIDTH), -1), np.zeros((HEIGHT, WIDTH))
    camera = np.linalg.inv(pose.astype(np.float64))
    for i, one in enumerate(surfels):
        ray = one.position - pose[:3, 3]
        towards = ray @ one.normal / np.linalg.norm(ray)
        if towards < 0:
            continue
        up = [0, 1.0, 0] if abs(one.normal[2]) > 0.9 else [0, 0, 1.0]
        x = np.cross(one.normal, up)
        x /= np.linalg.norm(x)
        y = np.cross(one.normal, x)
        angles = 2 * np.pi * np.arange(corners) / corners
        disc = one.position + one.radius * (np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * y)
        disc = disc @ camera[:3, :3].T + camera[:3, 3]
        if camera[2, :3] @ one.position + camera[2, 3] <= 0.1:
            continue
        pixel = focal * disc[:, :2] / disc[:, 2:] + [WIDTH // 2, HEIGHT // 2]
        for row in range(HEIGHT):
            for column in range(WIDTH):
                if in_polygon(column, row, pixel) and disc[:, 2].mean() < depth[row, column] - 1e-6:
                    depth[row, column], index[row, column] = disc[:, 2].mean(), i
                    cosine[row, column] = towards
    return np.where(np.isinf(depth), 0, depth), index, cosine


def shown(pipeline, pose, focal=FOCAL):
    return pipeline.render_surfels_to_image(
        pipeline.surfels,
        pose,
        [np.array([focal], np.float32)] * 2,
        principal_points=(WIDTH // 2, HEIGHT // 2),
        image_width=WIDTH,
        image_height=HEIGHT,
    )


class TestRendering:
    @pytest.mark.parametrize("frame", [0, 2])
    def test_each_pixel_shows_the_nearest_disc(self, frame):
        pipeline = Pipeline()
        pipeline.store(0, random_surfels(7, 30))
        found = shown(pipeline, opencv(c2w(frame)))
        depth, index, cosine = drawn(pipeline.surfels, opencv(c2w(frame)), FOCAL)
        np.testing.assert_array_equal(found["surfel_index_map"], index)
        np.testing.assert_allclose(found["depth"], depth, atol=1e-5)
        np.testing.assert_allclose(found["cos_value_map"], cosine, atol=1e-5)
        assert {name: map.dtype for name, map in found.items()} == {
            "depth": np.float32,
            "surfel_index_map": np.int32,
            "cos_value_map": np.float32,
        }
        assert len(np.unique(index)) > 10

    def test_tensors_are_taken(self):
        pipeline = filled(1)
        wanted = shown(pipeline, opencv(c2w(0)))
        found = pipeline.render_surfels_to_image(
            pipeline.surfels,
            torch.from_numpy(opencv(c2w(0))),
            torch.tensor([FOCAL, FOCAL]),
            torch.tensor([WIDTH // 2, HEIGHT // 2]),
            WIDTH,
            HEIGHT,
        )
        for name, map in wanted.items():
            np.testing.assert_array_equal(found[name], map)

    def test_of_equals_the_first_is_shown(self):
        pipeline = Pipeline()
        pipeline.surfels = [surfel([0, 0, -3], [0, 0, -1], 0.5)] * 2
        assert set(np.unique(shown(pipeline, opencv(np.eye(4)))["surfel_index_map"])) == {-1, 0}

    def test_what_cannot_be_seen(self):
        pipeline = Pipeline()
        pipeline.surfels = [
            surfel([0, 0, -3], [0, 0, 1], 0.5),  # from behind
            surfel([0, 0, 3], [0, 0, 1], 0.5),  # behind the camera
            surfel([0, 0, -3], [0, 0, 0], 0.5),  # without a normal
            surfel([90, 0, -3], [0, 0, -1], 0.5),  # beside the image
        ]
        assert (shown(pipeline, opencv(np.eye(4)))["surfel_index_map"] == -1).all()


class Node:
    """An octree as VMem builds it; `within` lists points in its order."""

    def __init__(self, points, inside, centre, half):
        self.points, self.inside, self.children = points, inside, []
        if len(inside) > 10:
            for dx in (-1, 1):
                for dy in (-1, 1):
                    for dz in (-1, 1):
                        middle = centre + np.array([dx, dy, dz], np.float32) * (half / 2)
                        of_child = [i for i in inside if (abs(points[i] - middle) <= half / 2).all()]
                        if of_child:
                            self.children.append(Node(points, of_child, middle, half / 2))

    def within(self, at, radius):
        if not self.children:
            return [i for i in self.inside if np.linalg.norm(self.points[i] - at) <= radius]
        return [i for child in self.children for i in child.within(at, radius)]


def tree(points):
    low, high = points.min(axis=0), points.max(axis=0)
    return Node(points, range(len(points)), (low + high) / 2, (high - low).max() / 2)


class TestMerging:
    def test_the_first_neighbour_in_the_order_of_the_octree_gets_the_vote(self):
        pipeline, existing, new = Pipeline(), random_surfels(1, 120), random_surfels(2, 60)
        positions = np.array([one.position for one in existing])
        radii = np.array([one.radius for one in existing + new])
        steps, kept = {i: [0] for i in range(len(existing))}, []
        wanted = {i: [0] for i in steps}
        later = 0
        for one in new:
            near = tree(positions).within(one.position, radii.mean() + 0.5 * radii.std())
            same = [i for i in near if existing[i].normal @ one.normal > 0.6]
            if same:
                later += same[0] != min(same)
                wanted[same[0]] = [0, 5]
            else:
                kept.append(one)
        found, returned = pipeline.merge_surfels(
            new_surfels=new,
            current_timestep=5,
            existing_surfels=existing,
            existing_surfel_to_timestep=steps,
            normal_threshold=0.6,
        )
        assert returned is steps
        assert steps == wanted
        assert [id(one) for one in found] == [id(one) for one in kept]
        assert 5 < len(kept) < 55
        assert later > 0

    def test_a_distance_may_be_given(self):
        pipeline, existing = Pipeline(), [surfel([0, 0, 0], [0, 0, 1], 1.0)]
        new = [surfel([0.1, 0, 0], [0, 0, 1], 1.0), surfel([0.3, 0, 0], [0, 0, 1], 1.0)]
        kept, steps = pipeline.merge_surfels(new, 1, existing, {0: [0]}, 0.2)
        assert kept == new[1:]
        assert steps == {0: [0, 1]}

    def test_nothing_to_merge(self):
        new = random_surfels(1, 3)
        assert Pipeline().merge_surfels(new, 1, [], {}) == (new, {})
        assert Pipeline().merge_surfels([], 1, new, {0: [0], 1: [0], 2: [0]})[0] == []

    def test_points_in_one_place_end_the_tree(self):
        assert octree_order(np.zeros((30, 3), np.float32), 10).tolist() == list(range(30))

    def test_the_steps_of_other_surfels_are_refused(self):
        with pytest.raises(ValueError, match="expected the steps of each of the 3 surfels, got 1"):
            Pipeline().merge_surfels([], 1, random_surfels(1, 3), {0: [0]})


class TestVotes:
    def counted(self, pipeline, info):
        totals = {}
        drawn = info["surfel_index_map"] >= 0
        rows = zip(*(info[name][drawn] for name in ("surfel_index_map", "cos_value_map", "depth")), strict=True)
        for i, cosine, depth in rows:
            for step in pipeline.surfel_to_timestep[int(i)]:
                vote = cosine / (1 + depth)
                totals[step] = totals.get(step, vote) + vote
        return {step: total / sum(totals.values()) for step, total in totals.items()}

    @pytest.mark.parametrize(("frames", "candidates"), [(6, 6), (20, 14)])
    def test_pixels_vote_for_the_frames_that_saw_their_surfels(self, frames, candidates):
        pipeline = filled(frames, surfels=60)
        info = shown(pipeline, opencv(c2w(3)))
        weights, counts = pipeline.process_retrieved_spatial_information(info)
        wanted = self.counted(pipeline, info)
        assert [step for step, _ in weights] == [step for step, _ in counts] == sorted(wanted)
        np.testing.assert_allclose([w for _, w in weights], [wanted[step] for step in sorted(wanted)], rtol=1e-5)
        best = sorted(wanted, key=wanted.get, reverse=True)[:14]
        assert sorted(step for step, count in counts if count) == sorted(best)
        assert sum(count for _, count in counts) == min(candidates, len(wanted))


def apart(a, b):
    turn = np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1))
    return 0.1 * np.linalg.norm(a[:3, 3] - b[:3, 3]) + turn


class TestChoice:
    def test_the_first_step_has_one_frame(self):
        found = Pipeline(1).get_context_info(targets(3))
        assert found["context_time_indices"] == [0]
        assert found["context_latents"].shape == (1, 4, 3, 3)

    def test_the_second_step_measures_how_far_frames_are_apart(self):
        pipeline = filled(5)
        found = pipeline.get_context_info(targets(6), None)
        between = sorted(apart(c2w(i), c2w(j)) for i in range(5) for j in range(i + 1, 5))
        assert pipeline.initial_threshold == pytest.approx(between[5], abs=1e-3)
        # 4 is nearest; 0.18 rad and more from the chosen ones are 2 and 0, then, at less, 3
        assert found["context_time_indices"].tolist() == [4, 2, 0, 3]
        assert torch.equal(found["context_c2ws"], torch.from_numpy(np.stack([c2w(i) for i in (4, 2, 0, 3)])))
        assert found["context_latents"][:, 0, 0, 0].tolist() == [4, 2, 0, 3]
        assert found["context_encoder_embeddings"][:, 0, 0].tolist() == [4, 2, 0, 3]
        assert found["context_Ks"][:, 0, 0].tolist() == [5, 3, 1, 4]

    def test_the_threshold_stays(self):
        pipeline = filled(5)
        pipeline.get_context_info(targets(6))
        measured = pipeline.initial_threshold
        for frame in range(5, 9):
            pipeline.add_frame()
            pipeline.store(frame, random_surfels(frame, 25))
        found = pipeline.get_context_info(targets(8))
        assert pipeline.initial_threshold == measured
        assert found["context_time_indices"].tolist()[:2] == [8, 6]

    def test_the_threshold_falls_by_a_sixth_until_there_are_enough(self):
        """Frames 0.09 rad apart: from 0.3, the first threshold below 0.18 rad takes every second frame."""
        pipeline = filled(8)
        pipeline.initial_threshold = 0.3
        found = pipeline.get_context_info(targets(7))["context_time_indices"].tolist()
        threshold, wanted = 0.3, [7]
        while len(wanted) < 4:
            for frame in range(6, -1, -1):
                far = all(apart(c2w(frame), c2w(other)) >= threshold for other in wanted)
                if len(wanted) < 4 and far:
                    wanted.append(frame)
            threshold /= 1.2
        assert found == wanted == [7, 3, 0, 5]
        assert pipeline.initial_threshold == 0.3

    def test_without_suppression_the_newest_frame_is_second(self):
        pipeline = filled(9)
        found = pipeline.get_context_info(targets(2), use_non_maximum_suppression=False)
        assert found["context_time_indices"].tolist()[:3] == [2, 8, 1]
        assert pipeline.initial_threshold == 1e8
        assert filled(9).get_context_info(targets(8), False)["context_time_indices"].tolist()[:2] == [8, 8]

    def test_a_threshold_that_was_never_measured_is_measured(self):
        pipeline = filled(8)
        pipeline.get_context_info(targets(6))
        between = sorted(apart(c2w(i), c2w(j)) for i in range(8) for j in range(i + 1, 8))
        assert pipeline.initial_threshold == pytest.approx(between[14], abs=1e-3)

    def test_a_target_that_sees_nothing_is_named(self):
        away = torch.from_numpy(np.stack([c2w(0, distance=-500.0)] * 4))
        with pytest.raises(IndexError, match="expected a pose that sees some of the"):
            filled(5).get_context_info(away)
