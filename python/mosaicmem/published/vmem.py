"""VMem's choice of context frames by surfels, for its pipeline. Needs torch.

Its pipeline keeps the state; `SurfelContext` brings the methods that choose, render and merge, which its own code calls
as before::

    from modeling.pipeline import VMemPipeline
    from mosaicmem.published.vmem import SurfelContext

    class Pipeline(SurfelContext, VMemPipeline):
        pass

Conventions are VMem's: c2w is world_from_camera with OpenGL axes in the pipeline, with OpenCV axes where surfels are
rendered; positions, normals and radii are in the scene's units; time steps are the numbers of frames.

Kept, because it decides which frames are chosen: of several target poses only the last quarter of the context's number
counts; a surfel that merges gives its vote to the first neighbour in the order of an octree; the first pixel of a frame
counts twice; the threshold of non-maximum suppression is measured at five frames and used ever after; without
suppression the newest frame is chosen second, even if it is the nearest too. Mended: a threshold that
was never measured is measured when it is needed, and a target that sees nothing is named in the error. The rendered
depth is not written to a file on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicmem.camera import CameraPose
from mosaicmem.camera.pose import quaternion_from_rotation
from mosaicmem.published._vmem_surfels import Surfels, first_neighbours, render

_WIDER = 0.65  # focal length of the surfels' view in those of the reconstruction
_MORE_CANDIDATES = 10  # than frames of the context
_SECOND_STEP = 5  # frames, when the threshold is measured
_NO_THRESHOLD = 1e8
_LEAST_THRESHOLD, _RELAXATION = 1e-5, 1.2


class SurfelContext:
    """What `VMemPipeline` asks of its surfels. Put it before that class among the bases of your own."""

    # State of the pipeline.
    surfels: list[Any]
    surfel_to_timestep: dict[int, list[int]]
    surfel_Ks: list[Any]
    c2ws: list[Any]
    Ks: list[Any]
    latents: list[Any]
    encoder_embeddings: list[Any]
    pil_frames: list[Any]
    config: Any
    device: Any
    dtype: torch.dtype
    use_non_maximum_suppression: bool
    initial_threshold: float

    def get_context_info(
        self, target_c2ws: Tensor, use_non_maximum_suppression: bool | None = None
    ) -> dict[str, Tensor | list[int]]:
        """Choose the context of new views.

        Parameters
        ----------
        target_c2ws : (n, 4, 4) tensor
            The new views, world_from_camera with OpenGL axes.
        use_non_maximum_suppression : bool, optional
            Leave out frames whose poses are near one that is chosen already; None: as the pipeline is set.

        Returns
        -------
        dict
            ``context_c2ws`` (K, 4, 4), ``context_latents``, ``context_encoder_embeddings`` and ``context_Ks``
            (K, 3, 3), and ``context_time_indices``, the nearest frame first.
        """
        chosen: Tensor | list[int] = [0]
        if len(self.pil_frames) != 1:
            chosen = torch.tensor(self._chosen(target_c2ws, use_non_maximum_suppression))
        frames = [int(i) for i in chosen]
        latents, embeddings = (
            torch.stack([torch.from_numpy(kept[i]).to(self.device, self.dtype) for i in frames])
            for kept in (self.latents, self.encoder_embeddings)
        )
        return {
            "context_c2ws": self._tensor(np.array([self.c2ws[i] for i in frames])),
            "context_latents": latents,
            "context_encoder_embeddings": embeddings,
            "context_Ks": self._tensor(np.array([self.Ks[i] for i in frames])),
            "context_time_indices": chosen,
        }

    def render_surfels_to_image(
        self,
        surfels: Sequence[Any],
        poses: Any,
        focal_lengths: Any,
        principal_points: Any,
        image_width: int,
        image_height: int,
        disk_resolution: int = 16,
    ) -> dict[str, np.ndarray]:
        """Draw surfels as discs, the nearest in front; those seen from behind are not drawn.

        Parameters
        ----------
        surfels : sequence
            Objects with ``position`` (3,), ``normal`` (3,) away from the camera, and ``radius``.
        poses : (4, 4) array or tensor
            world_from_camera with OpenCV axes.
        focal_lengths, principal_points : two numbers each
            Pixels.
        image_width, image_height : int
        disk_resolution : int
            Corners of a disc.

        Returns
        -------
        dict
            ``depth`` float32, 0 where nothing is drawn, ``surfel_index_map`` int32, -1 there, and ``cos_value_map``
            float32, of the angle between ray and normal: (image_height, image_width) each.
        """
        pose, focal, centre = (
            each.detach().cpu().numpy() if isinstance(each, Tensor) else each
            for each in (poses, focal_lengths, principal_points)
        )
        camera = [float(np.asarray(part).reshape(-1)[0]) for part in (*focal[:2], *centre[:2])]
        size = (int(image_height), int(image_width))
        depth, index, cosine = render(Surfels.of(surfels), np.asarray(pose), camera, size, int(disk_resolution))
        return {"depth": depth, "surfel_index_map": index, "cos_value_map": cosine}

    def process_retrieved_spatial_information(
        self, retrieved_spatial_information: dict[str, np.ndarray]
    ) -> tuple[list[tuple[int, np.floating[Any]]], list[tuple[int, int]]]:
        """How much each frame has seen of what is rendered.

        Parameters
        ----------
        retrieved_spatial_information : dict
            As `render_surfels_to_image` returns.

        Returns
        -------
        list of (time step, weight)
            Weights that sum to 1.
        list of (time step, 0 or 1)
            Whether it is a candidate. Both are in the order of time.
        """
        index = retrieved_spatial_information["surfel_index_map"]
        drawn = index >= 0
        votes = retrieved_spatial_information["cos_value_map"][drawn] / (
            1 + retrieved_spatial_information["depth"][drawn]
        )
        seers = [self.surfel_to_timestep[i] for i in index[drawn].tolist()]
        voter = np.repeat(np.arange(len(votes)), [len(each) for each in seers])
        steps, first, place = np.unique(
            np.array([step for each in seers for step in each], dtype=np.int64), return_index=True, return_inverse=True
        )
        totals = votes[voter[first]]  # the first pixel counts twice
        np.add.at(totals, place, votes[voter])
        by_appearance = np.argsort(first)
        weights = totals / np.sum(totals[by_appearance])
        most = min(self.config.model.context_num_frames + _MORE_CANDIDATES, len(steps))
        counts = np.ones(len(steps), dtype=int)
        if most < len(steps):
            counts[:] = 0
            counts[by_appearance[np.argsort(weights[by_appearance], kind="stable")[::-1][:most]]] = 1
        return (
            list(zip(steps.tolist(), weights, strict=True)),
            list(zip(steps.tolist(), counts.tolist(), strict=True)),
        )

    def merge_surfels(
        self,
        new_surfels: list[Any],
        current_timestep: int,
        existing_surfels: list[Any],
        existing_surfel_to_timestep: dict[int, list[int]],
        position_threshold: float | None = None,
        normal_threshold: float = 0.7,
        max_points_per_node: int = 10,
    ) -> tuple[list[Any], dict[int, list[int]]]:
        """Which new surfels are new; the others vote, by their time step, for one that exists.

        Parameters
        ----------
        new_surfels, existing_surfels : list
            As `render_surfels_to_image` takes.
        current_timestep : int
        existing_surfel_to_timestep : dict
            Of each existing surfel, by its index, the time steps that have seen it; changed in place.
        position_threshold : float, optional
            Distance of surfels that are the same; by default the mean of all radii and half their deviation.
        normal_threshold : float
            Cosine between normals above which they are the same.
        max_points_per_node : int
            Of the octree by whose order the first neighbour is meant.

        Returns
        -------
        list
            The surfels that are kept.
        dict
            ``existing_surfel_to_timestep``.
        """
        if len(existing_surfels) != len(existing_surfel_to_timestep):
            raise ValueError(
                f"existing_surfel_to_timestep: expected the steps of each of the {len(existing_surfels)} surfels, got "
                f"{len(existing_surfel_to_timestep)}"
            )
        if not new_surfels or not existing_surfels:
            return list(new_surfels), existing_surfel_to_timestep
        if position_threshold is None:
            radii = np.array([surfel.radius for surfel in [*existing_surfels, *new_surfels]])
            position_threshold = np.mean(radii) + 0.5 * np.std(radii)
        neighbours = first_neighbours(
            Surfels.of(new_surfels),
            Surfels.of(existing_surfels),
            position_threshold,
            normal_threshold,
            max_points_per_node,
        )
        kept = []
        for surfel, neighbour in zip(new_surfels, neighbours.tolist(), strict=True):
            if neighbour < 0:
                kept.append(surfel)
            elif current_timestep not in existing_surfel_to_timestep[neighbour]:
                existing_surfel_to_timestep[neighbour].append(current_timestep)
        return kept, existing_surfel_to_timestep

    def _chosen(self, target_c2ws: Tensor, suppress: bool | None) -> list[int]:
        target = _average_pose(target_c2ws[-self.config.model.context_num_frames // 4 :])
        frames = self._candidates(target)
        near = self._tensor(target)
        distances = torch.tensor([self._distance(near, self._pose(frame)) for frame in frames])
        ordered = [frames[i] for i in torch.argsort(distances, stable=True).tolist()]
        most = min(self.config.model.context_num_frames, len(frames), len(self.latents))
        suppress = self.use_non_maximum_suppression if suppress is None else suppress
        self._measure_threshold(suppress=suppress)
        chosen = ordered[:1]
        if suppress:
            self._add_apart(chosen, ordered[1:], most)
        else:
            chosen.append(len(self.c2ws) - 1)
        chosen += [frame for frame in ordered if frame not in chosen][: max(0, most - len(chosen))]
        return chosen

    def _candidates(self, target: np.ndarray) -> list[int]:
        """The frames that have seen most of what the target sees."""
        opencv = target * np.array([1.0, -1.0, -1.0, 1.0])
        focal = np.mean(self.surfel_Ks, axis=0) * _WIDER
        width, height = int(self.config.surfel.width), int(self.config.surfel.height)
        centre = (int(self.config.surfel.width / 2), int(self.config.surfel.height / 2))
        info = self.render_surfels_to_image(
            self.surfels, opencv, [focal] * 2, principal_points=centre, image_width=width, image_height=height
        )
        if not (info["surfel_index_map"] >= 0).any():
            raise IndexError(
                f"target_c2ws: expected a pose that sees some of the {len(self.surfels)} surfels, got one at "
                f"{target[:3, 3].tolist()} that sees none"
            )
        _, counts = self.process_retrieved_spatial_information(info)
        return [frame for frame, count in counts if count]

    def _measure_threshold(self, *, suppress: bool) -> None:
        if not suppress:
            self.initial_threshold = _NO_THRESHOLD
        elif len(self.pil_frames) == _SECOND_STEP or not hasattr(self, "initial_threshold"):
            poses = [self._pose(i) for i in range(len(self.c2ws))]
            between = sorted(self._distance(a, b) for i, a in enumerate(poses) for b in poses[i + 1 :])
            self.initial_threshold = between[len(between) // 2] if between else 1.0

    def _add_apart(self, chosen: list[int], ordered: list[int], most: int) -> None:
        """Frames that are apart from all chosen ones, by a threshold that falls until there are enough."""
        threshold = self.initial_threshold
        while len(chosen) < most and threshold >= _LEAST_THRESHOLD:
            for frame in ordered:
                if len(chosen) == most:
                    break
                if all(self._distance(self._pose(frame), self._pose(other)) >= threshold for other in chosen):
                    chosen.append(frame)
            threshold /= _RELAXATION

    def _distance(self, a: Tensor, b: Tensor) -> float:
        """Radians between two poses, and a tenth (as configured) of the distance in the scene's units."""
        cosine = (torch.trace(a[:3, :3].T @ b[:3, :3]).clamp(-1.0, 3.0) - 1) / 2
        apart = torch.linalg.vector_norm(a[:3, 3] - b[:3, 3]) * self.config.model.translation_distance_weight
        return float(apart + torch.acos(cosine))

    def _pose(self, frame: int) -> Tensor:
        return self._tensor(np.asarray(self.c2ws[frame]))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)


def _average_pose(poses: Tensor) -> np.ndarray:
    """The mean place, and the normalised mean of the quaternions."""
    array = poses.detach().cpu().numpy()
    turns = np.array([quaternion_from_rotation(_orthonormal(pose[:3, :3])) for pose in array])
    turns[turns @ turns[0] < 0] *= -1
    mean = turns.mean(axis=0)
    mean /= np.linalg.norm(mean)
    return np.array(CameraPose.from_quaternion(mean, array[:, :3, 3].mean(axis=0)).world_from_camera)


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(rotation.astype(np.float64))
    return np.asarray(u @ v)
