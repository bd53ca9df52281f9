"""Pipelines and frames for tests of sessions."""

import numpy as np

from mosaicmem import AutoregressivePipeline, CameraIntrinsics, PipelineConfig, SyntheticWorld

CAMERA = CameraIntrinsics.from_fov(96, 64, fov_x=1.2)
WORLD = SyntheticWorld(2)
PATH = WORLD.leave_and_return(CAMERA, 12)
CONFIG = PipelineConfig(top_k=16, max_keyframes=4)
NO_LIMIT = 2**40


def pipeline(**settings):
    return AutoregressivePipeline(CONFIG.model_copy(update=settings))


def observe(session, frames):
    for i in frames:
        view = WORLD.render(CAMERA, PATH[i])
        session.observe(view.image, view.depth, CAMERA, PATH[i])


def expected(frames):
    """What a pipeline shows that has observed some frames."""
    made = pipeline()
    observe(made, frames)
    return made.align(PATH[:3])


def check_shows(session, frames):
    context, theirs = session.context(PATH[:3]), expected(frames)
    np.testing.assert_array_equal(context.canvas, theirs.canvas)
    np.testing.assert_array_equal(context.coverage, theirs.coverage)
    if frames:
        np.testing.assert_array_equal(context.mosaic.patch_scores, theirs.mosaic.patch_scores)
