"""Packages of the extra [import], which are imported when they are first used."""

from __future__ import annotations

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


def _missing(what: str, name: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"{what}: needs {name}: pip install {package} (mosaicmem's extra [import])")
