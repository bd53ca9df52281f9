"""Options of patch retrieval for a view."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mosaicmem._arrays import check_integer, check_number


@dataclass(frozen=True)
class RetrievalOptions:
    """Options of strategy ``top_k``: score = centrality * proximity * footprint * recency * weight.

    Only patches whose centre (u, v, z) is inside the image with near <= z <= far are scored:

    - centrality = max(0, 1 - sqrt(((u - cx) / W)^2 + ((v - cy) / H)^2))
    - proximity = 1 / (1 + 0.1 z)
    - footprint = max(0.25, visible tokens / tokens)
    - recency = 0.5^(age / half_life), 1 with half_life = 0; age is the pose's timestamp minus the keyframe's, 0 for
      keyframes from the pose's future
    - weight = ``generated_weight`` for patches of generated keyframes, 1 for those of observed ones

    Parameters
    ----------
    top_k : int
        At most this many patches.
    near, far : float
        In the unit of the scene; the defaults, 0.05 and infinity, assume metres. In a scene of another unit or size,
        set ``near`` to a few hundredths of its typical depth. Retrieval warns if it finds nothing because of them.
    half_life : float
        Seconds.
    min_visibility : float
        Patches with a lower score are dropped. Proximity assumes depth in metres, so with the default nothing is found
        beyond a depth of 990: for a scene in millimetres, for example, lower it in proportion, or set it to 0.
        Retrieval warns if it finds nothing because of it.
    diversity_radius : float
        Pixels. Patches are taken greedily; each patch taken multiplies the scores of patches within this radius by
        ``diversity_penalty``. 0 turns it off.
    diversity_penalty : float
        In [0, 1].
    generated_weight : float
        In [0, 1]. 0 excludes generated keyframes.

    Raises
    ------
    TypeError, ValueError
        A value is not a number or is out of range; the message names it.
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
        """The core's arguments besides cameras and ``top_k``."""
        return (
            self.half_life,
            self.min_visibility,
            self.diversity_radius,
            self.diversity_penalty,
            self.generated_weight,
        )
