"""How patches are chosen for a view."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mosaicmem._arrays import check_integer, check_number


@dataclass(frozen=True)
class RetrievalOptions:
    """Options of strategy ``top_k``: score = centrality * proximity * footprint * recency * weight.

    Of patches whose centre (u, v, z) is inside the image with near <= z <= far:

    - centrality = max(0, 1 - sqrt(((u - cx) / W)^2 + ((v - cy) / H)^2))
    - proximity = 1 / (1 + 0.1 z)
    - footprint = max(0.25, visible tokens / tokens)
    - recency = 0.5^(age / half_life), 1 with half_life = 0; age runs from the keyframe's timestamp to the pose's, 0 for
      keyframes from its future
    - weight = ``generated_weight`` for patches of generated keyframes, 1 for those of observed ones

    Parameters
    ----------
    top_k : int
        At most this many patches.
    near, far : float
        In the unit of the scene, and 0.05 and infinite for metres: in a scene of another unit or size, give ``near``
        as a few hundredths of its typical depth. Retrieval that finds nothing because of them says so.
    half_life : float
        Seconds.
    min_visibility : float
        Patches with a lower score are dropped. Proximity takes depth for metres, so at this limit nothing is found
        beyond a depth of 990: where the scene is in millimetres, say, lower it in proportion, or give 0. Retrieval that
        finds nothing because of it says so.
    diversity_radius : float
        Pixels. Patches are taken greedily; each one taken within this radius multiplies a score by
        ``diversity_penalty``. 0 turns it off.
    diversity_penalty : float
        In [0, 1].
    generated_weight : float
        In [0, 1]. 0 leaves out what a model generated, and keeps to what cameras observed.

    Raises
    ------
    TypeError, ValueError
        A value is not a number or out of its range; the message names it.
    """

    top_k: int = 1024
    near: float = 0.05
    far: float = math.inf
    half_life: float = 0.0
    min_visibility: float = 0.01
    diversity_radius: float = 0.0
    diversity_penalty: float = 0.5
    generated_weight: float = 1.0

    def __post_init__(self) -> None:
        check_integer("top_k", self.top_k, minimum=1, maximum=2**31 - 1)
        near = check_number("near", self.near, above=0.0)
        if self.far != math.inf:
            check_number("far", self.far)
        if not self.far > near:
            raise ValueError(f"far: expected more than near = {near}, got {self.far}")
        check_number("half_life", self.half_life, minimum=0.0)
        check_number("min_visibility", self.min_visibility, minimum=0.0)
        check_number("diversity_radius", self.diversity_radius, minimum=0.0)
        check_number("diversity_penalty", self.diversity_penalty, minimum=0.0, maximum=1.0)
        check_number("generated_weight", self.generated_weight, minimum=0.0, maximum=1.0)

    def weights(self) -> tuple[float, float, float, float, float]:
        """What the core takes beside cameras and ``top_k``."""
        return (
            self.half_life,
            self.min_visibility,
            self.diversity_radius,
            self.diversity_penalty,
            self.generated_weight,
        )
