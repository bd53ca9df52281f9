"""A small posed RGB-D sequence on disk, in the 7-Scenes layout."""

import numpy as np
from PIL import Image


def write_scene(folder, world, path):
    folder.mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", path.intrinsics.matrix)
    for i, pose in enumerate(path):
        view = world.render(path.intrinsics, pose)
        name = f"frame-{4 * i:06d}"
        Image.fromarray(view.image_uint8).save(folder / f"{name}.color.png")
        Image.fromarray(np.rint(view.depth * 1000).astype(np.uint16)).save(folder / f"{name}.depth.png")
        np.savetxt(folder / f"{name}.pose.txt", pose.world_from_camera)
    return folder
