"""Memories of many sessions: under one budget, spilled to disk when idle, snapshotted durably."""

from mosaicmem.serving.on_ray import RayMemorySessions, RaySession
from mosaicmem.serving.session import MemorySession
from mosaicmem.serving.sessions import MemorySessions, SessionStatistics

__all__ = ["MemorySession", "MemorySessions", "RayMemorySessions", "RaySession", "SessionStatistics"]
