"""Packages of the extras [import], [view] and [ray], which are imported when they are first used."""

from __future__ import annotations

import logging
from typing import Any


def opencv(what: str) -> Any:
    """The module cv2; ``what`` says what needs it.

    Raises
    ------
    ModuleNotFoundError
        It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise _missing(what, "OpenCV", "opencv-python-headless") from None
    return cv2


def pycolmap(what: str) -> Any:
    """The module pycolmap; as `opencv`."""
    try:
        import pycolmap as module
    except ImportError:
        raise _missing(what, "pycolmap", "pycolmap") from None
    return module


def openexr(what: str) -> Any:
    """The module OpenEXR; as `opencv`."""
    try:
        import OpenEXR
    except ImportError:
        raise _missing(what, "OpenEXR", "OpenEXR") from None
    return OpenEXR


def yaml(what: str) -> Any:
    """The module yaml; as `opencv`."""
    try:
        import yaml as module
    except ImportError:
        raise _missing(what, "PyYAML", "pyyaml") from None
    return module


def viser(what: str) -> Any:
    """The module viser; as `opencv`."""
    try:
        import viser as module
    except ImportError:
        raise _missing(what, "viser", "viser", "view") from None
    return module


def rerun(what: str) -> Any:
    """The module rerun; as `opencv`."""
    try:
        import rerun as module
    except ImportError:
        raise _missing(what, "rerun", "rerun-sdk", "view") from None
    return module


def fsspec(what: str) -> Any:
    """The module fsspec; as `opencv`."""
    try:
        import fsspec as module
    except ImportError:
        raise _missing(what, "fsspec", "fsspec", "ray") from None
    return module


def running_ray(what: str) -> Any:
    """The module ray, with ray.data, connected to a cluster or, if it is not yet, to a quiet one of this machine."""
    try:
        import ray as module
        import ray.data
    except ImportError:
        raise _missing(what, "Ray Data", "'ray[data]'", "ray") from None
    if not module.is_initialized():
        module.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        module.data.DataContext.get_current().enable_progress_bars = False
    return module


def _missing(what: str, name: str, package: str, extra: str = "import") -> ModuleNotFoundError:
    return ModuleNotFoundError(f"{what}: needs {name}: pip install {package} (mosaicmem's extra [{extra}])")
