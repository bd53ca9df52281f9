"""Fixtures that all tests share."""

import copy
import os
import signal
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and the threads of torch and BLAS spin as they wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from cli_helpers import succeed
from device_helpers import EmulatedDevice, TorchDevice, method_on_device, on_device
from mosaicmem import CameraIntrinsics, CameraPose, PRoPE, SyntheticWorld, WarpedLatent, WarpedRoPE, _core
from scene_helpers import write_scene
from wan_helpers import CHANNELS, FRAMES, tiny_pipe

# A shell that runs the tests in the background makes them ignore SIGINT, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A second run, with more packages installed, may leave out what has passed without them: the first names it in a file.
PASSED, DONE = (os.environ.get(f"MOSAICMEM_TESTS_{name}") for name in ("PASSED", "DONE"))


def pytest_runtest_logreport(report):
    if PASSED and report.when == "call" and report.passed and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(PASSED, "a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_collection_modifyitems(config, items):
    if not DONE:
        return
    done = set(Path(DONE).read_text().splitlines())
    again = [item for item in items if item.nodeid not in done]
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = again


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)


@pytest.fixture(autouse=True)
def threads_for_small_inputs(request):
    """Kernel tests use all the threads that they ask for, however small the input, if the core was built with
    MOSAICMEM_FAULTS or MOSAICMEM_SANITIZE."""
    if request.node.get_closest_marker("kernel") is None or not hasattr(_core, "ignore_grain"):
        yield
        return
    _core.ignore_grain(True)
    yield
    _core.ignore_grain(False)


SIMD_LEVELS = ("portable", "avx2", "avx512", "avx512_bf16", "avx512_amx")


@pytest.fixture(params=SIMD_LEVELS)
def simd(request):
    """Runs a test at each SIMD level, up to the best of this machine, or that of a build which emulates AMX."""
    before = _core.simd_level()
    _core.limit_simd_level(_core.SimdLevel.avx512_amx)
    best = _core.simd_level()
    _core.limit_simd_level(before)
    if SIMD_LEVELS.index(request.param) > SIMD_LEVELS.index(best.name):
        pytest.skip(f"this machine has {best.name} at most")
    _core.limit_simd_level(getattr(_core.SimdLevel, request.param))
    yield request.param
    _core.limit_simd_level(before)


@pytest.fixture(params=(EmulatedDevice, TorchDevice), ids=lambda device: device.name)
def device(request):
    """Where the CUDA kernels run: on a GPU, or on the host if they were built for emulation."""
    missing = request.param.missing()
    if missing is not None:
        pytest.skip(missing)
    return request.param


OPERATORS = (
    "depth_to_grid",
    "unproject_depth",
    "unproject_to_image",
    "reproject_depth_grid",
    "bilinear_sample",
    "attention",
)
METHODS = (
    (WarpedLatent, "splat"),
    (WarpedRoPE, "apply"),
    (PRoPE, "apply_to_q"),
    (PRoPE, "apply_to_kv"),
    (PRoPE, "apply_to_o"),
)


@pytest.fixture(params=(None, EmulatedDevice, TorchDevice), ids=lambda device: device.name if device else "cpu")
def anywhere(request, monkeypatch):
    """Runs a test of an operator on the CPU, and then on each available device."""
    device = request.param
    if device is None:
        return
    missing = device.missing()
    if missing is not None:
        pytest.skip(missing)
    if "simd" in request.fixturenames and request.getfixturevalue("simd") != SIMD_LEVELS[0]:
        pytest.skip("the host's vectors make no difference on a device")
    for name in OPERATORS:
        if hasattr(request.module, name):
            monkeypatch.setattr(request.module, name, on_device(device, getattr(request.module, name)))
    for owner, name in METHODS:
        monkeypatch.setattr(owner, name, method_on_device(device, getattr(owner, name)))


@pytest.fixture(scope="session")
def rgbd_scene():
    """Folder of the real RGB-D sequence."""
    root = Path(os.environ.get("MOSAICMEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    scene = root / "rgbd_scene"
    if not scene.is_dir():
        pytest.skip(f"no real RGB-D frames in {scene}; set MOSAICMEM_TEST_DATA")
    return scene


@pytest.fixture(scope="session")
def world():
    return SyntheticWorld(0)


@pytest.fixture(scope="session")
def small_camera():
    """80 x 48 pixels, 70 degrees: small enough for tests, with room for 10 x 6 cells of 8 pixels."""
    return CameraIntrinsics.from_fov(80, 48, fov_x=np.radians(70))


@pytest.fixture(scope="session")
def scene(tmp_path_factory, world, small_camera):
    """Folder of a posed RGB-D sequence of 12 frames."""
    path = world.leave_and_return(small_camera, 12)
    return write_scene(tmp_path_factory.mktemp("cli") / "scene", world, path)


@pytest.fixture(scope="session")
def memory(tmp_path_factory, scene):
    """Folder of a saved store of eight frames of the scene, and of a camera path."""
    folder = tmp_path_factory.mktemp("memory")
    arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "10:12", "-o", folder / "run"]
    succeed(*arguments, "--save-memory", folder / "store")
    (folder / "path.json").write_bytes((folder / "run" / "trajectory.json").read_bytes())
    return folder


def random_pose(rng, spread=1.0, timestamp=0.0):
    quaternion = rng.standard_normal(4)
    return CameraPose.from_quaternion(
        quaternion / np.linalg.norm(quaternion), spread * rng.standard_normal(3), timestamp
    )


def assert_within_twice(actual, single, exact):
    """The error of `actual` is at most twice that of the same formula in float32 (`single`), against float64 (`exact`).

    Errors are maxima over the array; `single` counts as off by at least one float32 epsilon of its largest value.
    """
    floor = np.finfo(np.float32).eps * np.abs(exact).max(initial=0)
    allowed = 2 * max(np.abs(single - exact).max(initial=0), floor)
    error = np.abs(actual - exact).max(initial=0)
    assert error <= allowed, f"error {error:.3g} exceeds {allowed:.3g}"


@pytest.fixture(scope="session")
def untouched():
    """A tiny Wan transformer of diffusers; do not change it."""
    return tiny_pipe(cross_attn_norm=True).transformer


@pytest.fixture
def dit(untouched):
    """A copy of it."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="session")
def inputs():
    """Latents and a prompt of two samples for it."""
    import torch

    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, FRAMES, 8, 16), torch.randn(2, 7, 32)
