"""Models that tests serve from another process, well and badly."""

import os
import signal
import time

import numpy as np

from mosaicmem import HashedTextEncoder, SyntheticBackbone, SyntheticVAE, TemporalLayout
from mosaicmem.diffusion import DDPMScheduler


def make_parts():
    scheduler = DDPMScheduler(prediction_type="sample")
    vae = SyntheticVAE(8, 16, TemporalLayout("uniform", 1))
    return {"backbone": SyntheticBackbone(scheduler), "vae": vae, "text_encoder": HashedTextEncoder()}


class Continuing:
    """Uses everything that a backbone may use, and counts what is made once per window."""

    prediction_type = "sample"
    patch = 2
    uses_anchor = True
    uses_previous = True
    made = 0

    def predict(self, sample, timestep, context):
        def make():
            self.made += 1
            return float(context.canvas.sum())

        shift = context.once("sum", make)
        previous = 0 if context.previous is None else float(context.previous.mean())
        told = (self.made, shift, previous, context.shared, len(context.text), context.window)
        return sample * np.float32(0.5) + np.float32(sum(told) % 1)

    def finish_window(self, latents, context):
        self.finished = getattr(self, "finished", 0) + 1


def continuing():
    return {"backbone": Continuing(), "vae": make_parts()["vae"]}


class Misbehaving:
    prediction_type = "sample"

    def __init__(self, how):
        self.how, self.calls = how, 0

    def predict(self, sample, timestep, context):
        self.calls += 1
        if self.calls < 3:
            return sample
        return self.how(sample)


def bad(how):
    return lambda: {"backbone": Misbehaving(how)}


def raise_error(sample):
    raise RuntimeError("CUDA out of memory, say")


raising = bad(raise_error)
wrong_shape = bad(lambda sample: sample[..., :1])
wrong_type = bad(lambda sample: "a string")
wrong_numbers = bad(lambda sample: np.full_like(sample, np.nan))
unknown_type = bad(lambda sample: {"a": sample})
killed = bad(lambda _: os.kill(os.getpid(), signal.SIGKILL))
exiting = bad(lambda _: os._exit(3))
hung = bad(lambda _: time.sleep(60))


def nonsense():
    """Writes to the socket itself."""

    def write(sample):
        import gc
        import socket

        for each in gc.get_objects():
            if isinstance(each, socket.socket) and each.fileno() >= 0:
                each.sendall(b"\x00" * 4096)

    return {"backbone": Misbehaving(write)}


def failing():
    raise ImportError("no module named torch_of_another_version")


def nothing():
    return {"vae": make_parts()["vae"]}
