"""Camera paths in third-party file formats.

Every reader documents the convention of its format, checks what it can, and returns a `CameraTrajectory` in this
library's one convention. The caller supplies what a format lacks.

===============  ==================================  ==========================  ================
format           pose                                intrinsics                  time
===============  ==================================  ==========================  ================
``mosaicmem``    world_from_camera                   yes                         yes
``tum``          world_from_camera, quaternion       no                          yes
``kitti``        world_from_camera, 3x4              no                          no
``colmap``       camera_from_world, quaternion       yes                         no: ordered by name
``re10k``        camera_from_world, 3x4              yes, normalised             microseconds
``nerfstudio``   world_from_camera, OpenGL axes      yes                         if frames have "time"
``matrixgame``   world_from_camera                   yes, without image size     no
``worldplay``    world_from_camera                   yes, image is 2 cx x 2 cy   no
``3dgs``         world_from_camera                   yes, without centre         no
``bundler``      camera_from_world, OpenGL axes      focal length                no
``camera-path``  world_from_camera, OpenGL axes      field of view               by frames a second
``euroc``        of the body, and a camera's in it   no                          nanoseconds
``llff``         world_from_camera, own axes         focal length and size       no: ordered by name
``lyra``         camera_from_world, 4x4              yes                         no
``matrices``     world_from_camera, 4x4              no                          no, or numbers of frames
``motionctrl``   camera_from_world, 3x4              no                          no
``neus``         projection K camera_from_world      yes, without image size     no
``numpy``        world_from_camera, 4x4              yes, without image size     no
``open3d``       either, in .log or .json            in .json                    no
``openmvg``      rotation and centre                 yes                         no: ordered by name
``opensfm``      camera_from_world, rotation vector  yes                         no: ordered by name
``recammaster``  axes and position, Unreal Engine    no                          no
``rust``         camera_from_world, quaternion       no                          yes
``tartanair``    world_from_camera, quaternion, NED  constant                    no
``viewcrafter``  angles and distance on a sphere     no                          no
===============  ==================================  ==========================  ================

The formats from ``3dgs`` on are only read. Axes are OpenCV's (+x right, +y down, +z forward) unless the table says
otherwise. ``nerfstudio`` is also what instant-ngp, Blender and Neuralangelo write. Times are in seconds, except in
``re10k``, unless ``time_unit`` says otherwise. A file without a principal point has it in the middle of the image.

Distortion and skew are refused, other unknown fields are named in a `SuspiciousInput`, and every K passes the same
check, `params_of_matrix` in `mosaicmem.camera.intrinsics`.
"""

from mosaicmem.camera.formats.registry import (
    FORMATS,
    detect_format,
    format_names,
    load_trajectory,
    register_format,
    save_trajectory,
)

__all__ = ["FORMATS", "detect_format", "format_names", "load_trajectory", "register_format", "save_trajectory"]
