"""Load of many sessions under one budget: milliseconds of context(), throughput, bytes.

    python bench/scale/sessions.py [--sessions 1000] [--keyframes 40] [--budget 2] [--requests 4000]

Memories are larger than the budget together, so that idle ones lie on disk. Few sessions get most requests (Zipf).
"""

import argparse
import tempfile
import threading
import time

import numpy as np
from figures import keep, quantiles  # first: it finds the modules beside this folder

from building import COLUMNS, ROWS, K, depth_of, random_pose
from mosaicmem import AutoregressivePipeline, CameraTrajectory, PipelineConfig
from mosaicmem.serving import MemorySessions

CHANNELS, LATENT_FRAMES = 16, 5
THREADS = 2


def keyframes(rng, count):
    """Poses, latents and depth that the sessions draw from."""
    poses = [random_pose(rng, float(i), rooms=2) for i in range(count)]
    latents = rng.standard_normal((count, ROWS, COLUMNS, CHANNELS), dtype=np.float32)
    return [(latents[i], depth_of(pose), pose) for i, pose in enumerate(poses)]


def insert(session, keyframe):
    latents, depth, pose = keyframe
    session.with_store(lambda store: store.insert_keyframe(latents, depth, K, pose))


def filled(sessions, count, per_session, known, rng):
    begin = time.perf_counter()
    for i in range(count):
        session = sessions.open(f"user-{i}")
        for j in rng.integers(0, len(known), per_session):
            insert(session, known[j])
    return time.perf_counter() - begin


def serve(sessions, ids, known, seed, times):
    """Requests of one thread: nine contexts to one new keyframe."""
    rng = np.random.default_rng(seed)
    for id in ids:
        session, keyframe = sessions.open(f"user-{id}"), known[rng.integers(len(known))]
        was_spilled, is_new = session.is_spilled, rng.random() < 0.1
        begin = time.perf_counter()
        if is_new:
            insert(session, keyframe)
        else:
            session.context(CameraTrajectory([keyframe[2]] * LATENT_FRAMES, K))
        kind = "keyframe" if is_new else "context of a session on disk" if was_spilled else "context"
        times.append((kind, 1e3 * (time.perf_counter() - begin)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--keyframes", type=int, default=40)
    parser.add_argument("--budget", type=float, default=2.0, help="GB")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--folder", help="on the disk to spill to")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    known = keyframes(rng, 200)
    config = PipelineConfig(top_k=256, latent_dtype="float16", num_threads=1, latent_channels=CHANNELS)
    with (
        tempfile.TemporaryDirectory(dir=given.folder) as folder,
        MemorySessions(folder, AutoregressivePipeline(config), max_bytes=int(given.budget * 1e9)) as sessions,
    ):
        filling = filled(sessions, given.sessions, given.keyframes, known, rng)
        each = sessions.open(f"user-{given.sessions - 1}").nbytes
        begun = sessions.statistics()
        ids = (rng.zipf(1.2, given.requests) - 1) % given.sessions
        times = []
        shares = [ids[i::THREADS] for i in range(THREADS)]
        threads = [
            threading.Thread(target=serve, args=(sessions, share, known, i, times)) for i, share in enumerate(shares)
        ]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
        ended = sessions.statistics()
        assert len(times) == given.requests
        figures = {"sessions": given.sessions, "keyframes": given.keyframes, "budget": given.budget * 1e9}
        figures |= {"of all memories": each * given.sessions, "in memory": ended.nbytes, "on disk": ended.spilled}
        figures |= {"filling, sessions a second": round(given.sessions / filling, 2)}
        figures |= {"requests a second": round(given.requests / seconds, 1), "returns": ended.returns - begun.returns}
        kinds = sorted({kind for kind, _ in times})
        figures |= {kind: quantiles([ms for other, ms in times if other == kind]) for kind in kinds}
        keep("sessions", figures)


if __name__ == "__main__":
    main()
