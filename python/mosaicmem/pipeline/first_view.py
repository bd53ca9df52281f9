"""Warns if memory hardly covers the first target of a run, and says why."""

from __future__ import annotations

from mosaicmem._border import to_host
from mosaicmem.diffusion import MemoryContext
from mosaicmem.errors import suspect
from mosaicmem.memory import MosaicMemoryStore, RetrievalOptions
from mosaicmem.memory.absence import explain_absence
from mosaicmem.pipeline.config import PipelineConfig

_LEAST_COVERAGE = 0.01


def suspect_unseen(store: MosaicMemoryStore, context: MemoryContext, config: PipelineConfig) -> None:
    """Warn if memory is not empty, is used, and shows next to nothing to the first target of ``context``."""
    mosaic = context.mosaic
    is_asked = config.use_memory and (config.memory_gate != 0 or config.use_warped_latent)
    if not (is_asked and len(store) and len(context.cameras)):
        return
    covered = float(to_host("coverage", context.coverage)[0].mean())
    found = 1.0 if mosaic is None else float(mosaic.coverage_ratio[0])
    if mosaic is not None and not config.use_warped_latent:
        covered = found
    if min(covered, found) >= _LEAST_COVERAGE:
        return
    first = context.cameras[:1]
    absence = explain_absence(store, first, RetrievalOptions(**config.patch_options()))
    if absence is None or (covered >= _LEAST_COVERAGE and not absence.is_mistake):
        return
    what = f"covers {100 * covered:.1f} % of the first target"
    if covered >= _LEAST_COVERAGE:
        what = "gives attention nothing for the first target"
    suspect(f"trajectory: memory has {len(store)} patches, but {what}; {absence.cause}")
