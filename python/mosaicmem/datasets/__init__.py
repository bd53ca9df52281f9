"""Readers of posed RGB-D sequences in common data set layouts.

Each reader is a sequence of `RgbdImage` whose files are read on access; `open_sequence` detects the layout of a folder.
"""

from mosaicmem.datasets.layouts import is_sequence, layout_names, open_sequence, register_layout
from mosaicmem.datasets.lens import Lens, Rectifier
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames, PosedSequence
from mosaicmem.datasets.predicted import PredictedSequence
from mosaicmem.datasets.registered import RegisteredSequence
from mosaicmem.datasets.replica import Replica
from mosaicmem.datasets.scannet import ScanNet
from mosaicmem.datasets.sequence import RgbdImage, RgbdSequence
from mosaicmem.datasets.seven_scenes import SevenScenes
from mosaicmem.datasets.synthetic_walk import SyntheticWalk
from mosaicmem.datasets.tum import TumRgbd

__all__ = [
    "DepthCoding",
    "Lens",
    "PosedFrame",
    "PosedFrames",
    "PosedSequence",
    "PredictedSequence",
    "Rectifier",
    "RegisteredSequence",
    "Replica",
    "RgbdImage",
    "RgbdSequence",
    "ScanNet",
    "SevenScenes",
    "SyntheticWalk",
    "TumRgbd",
    "is_sequence",
    "layout_names",
    "open_sequence",
    "register_layout",
]
