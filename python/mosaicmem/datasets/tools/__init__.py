"""Folders and files as other tools leave them, one module for each tool.

Each module has ``read``, which takes the path and returns `PosedFrames`, and states the conventions of its tool: axes,
pixel frame, units. What a module reads has its frames in order of time.
"""
