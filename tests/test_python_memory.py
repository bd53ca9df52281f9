"""Python itself runs out of memory while the core makes its answers: MemoryError is raised, the process survives."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None, reason="this Python has no _testcapi, which lets its memory fail"
)

# NumPy's own functions do not always survive this, so only the core runs while allocations fail. Arguments are passed
# by position, since looking up keywords makes pybind11 dereference null then.
SCRIPT = """
import sys
import _testcapi
import numpy as np
from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import _core

rng = np.random.default_rng(0)
store, _ = filled_store(rng, 4)
latents, depth, pose = random_keyframe(rng, 9.0)
ids, eye, camera = store.patch_ids, np.eye(4), (*K.params, 80.0, 48.0, 0.05, 100.0)
kinds = _core.LatentType.float32, _core.Provenance.observed
keyframe = (latents, kinds[0], depth, None, None, None, 8.0, K.params, eye, 0.0, kinds[1], 100, 1)
half, scales = ids[:20].copy(), _core.ViewWeightScales(1.0, 1.0, 1.0, 1.0)
earlier = store._core.fork()
views, cameras, times, room = eye[None].copy(), np.array([camera]), np.zeros(1), (1, 9)
found = (np.empty(room, np.int64), np.empty(room), np.empty((*room, 2)), np.empty(room), np.empty(1, np.int32))
cells = (*room, 4)
tokens = (
    np.empty(room, np.int32), np.empty(room, np.bool_), np.empty((*cells, latents.shape[2]), np.float32),
    np.empty((*cells, 3)), np.empty((*cells, 2), np.int32), np.empty(cells, np.float32), np.empty(cells, np.float32),
    np.empty(cells, np.bool_), np.empty((1, 6, 10), np.bool_), np.empty((1, 6, 10), np.bool_),
)
ACTIONS = {
    "fork": lambda core: core.fork(),
    "restore": lambda core: core.restore(earlier),
    "insert": lambda core: core.insert(*keyframe),
    "erase": lambda core: core.erase(half),
    "transform": lambda core: core.transform(eye, half),
    "duplicate": lambda core: core.duplicate(eye, half),
    "splice": lambda core: core.splice(earlier, eye),
    "export": lambda core: core.export_observations(),
    "describe": lambda core: core.describe(half),
    "statistics": lambda core: core.statistics(),
    "retrieve": lambda core: core.retrieve_window(cameras, views, times, 9, (0.0, 0.01, 0.0, 1.0, 1.0), found, 0),
    "tokens": lambda core: core.retrieve_tokens(
        cameras, views, times, 9, (0.0, 0.01, 0.0, 1.0, 1.0), 8.0, 0.0, found, tokens, 0
    ),
    "land": lambda core: core.project_tokens(half, camera, eye),
    "bounds": lambda core: core.bounds(),
    "objects": lambda core: (
        _core.MemoryStore(2, None, None, _core.Eviction.oldest),
        _core.VoxelMap(0.1),
        _core.PatchMemory(4, 8, 8),
        _core.KeyframeParams(1, 1, 0.1, scales),
        _core.BlendOptions(_core.Direction.forward, 0.1, scales),
    ),
}
action = ACTIONS[sys.argv[1]]


def state(of):
    return fingerprint(of, pose)


twin = store.fork()
before = state(twin)
action(twin._core)
after = state(twin)
errors = successes = n = 0
while successes < 20:  # one after the other: more allocations than there are
    subject = store.fork()
    _testcapi.set_nomemory(n, n + 1)
    try:
        action(subject._core)
        done = True
    except MemoryError:
        done = False
    finally:
        _testcapi.remove_mem_hooks()
    assert state(subject) in (before, after), n
    assert not done or state(subject) == after, n
    errors, successes, n = errors + (not done), successes + 1 if done else 0, n + 1
print(errors)
"""

ACTIONS = (
    *("fork", "restore", "insert", "erase", "transform", "duplicate", "splice", "export", "describe", "statistics"),
    *("retrieve", "tokens", "land", "bounds", "objects"),
)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_process_goes_on(action):
    command = [sys.executable, "-c", SCRIPT, action]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 0 or action == "restore"
