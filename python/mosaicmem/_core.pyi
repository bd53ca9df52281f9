"""Types of the compiled core. Arrays are C-contiguous and of exactly the dtype given; callers have validated shapes."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy
_RetrievalWeights = tuple[float, float, float, float, float]  # half_life, min_visibility, radius, penalty, generated
_Camera = tuple[float, float, float, float, float, float, float, float]  # intrinsics, width, height, near, far

class Splat:
    nearest: ClassVar[Splat]
    block: ClassVar[Splat]
    bilinear: ClassVar[Splat]

class PatchMemory:
    def __init__(self, channels: int, rows: int, columns: int) -> None: ...
    def fork(self) -> PatchMemory: ...  # host only
    def append(
        self,
        latents: _View,
        camera_from_world: _F32,
        k_inverse: _F32,
        k_inverse_double: _F64,
        depth: _View,
        handle: _Handle,
    ) -> None: ...
    def select_pose_nearest(self, camera_from_world: _F64, picks: _View, handle: _Handle) -> None: ...
    def select_coverage(self, camera_from_world: _F64, k: _F64, picks: _View, handle: _Handle) -> None: ...
    def fuse(
        self,
        camera_from_world: _F32,
        k: _F32,
        candidates: Any,
        keep_nearest: bool,
        latents: _View,
        valid: _View,
        handle: _Handle,
    ) -> None: ...
    def __len__(self) -> int: ...

class SimdLevel:
    portable: ClassVar[SimdLevel]
    avx2: ClassVar[SimdLevel]
    avx512: ClassVar[SimdLevel]
    avx512_bf16: ClassVar[SimdLevel]
    avx512_amx: ClassVar[SimdLevel]
    name: str

class LatentType:
    float32: ClassVar[LatentType]
    float16: ClassVar[LatentType]
    bfloat16: ClassVar[LatentType]

class Provenance:
    observed: ClassVar[Provenance]
    generated: ClassVar[Provenance]

class Eviction:
    oldest: ClassVar[Eviction]
    redundant: ClassVar[Eviction]

class ExportedVoxels(TypedDict):
    points: _F32
    colors: NDArray[np.uint8]
    normals: _F32
    counts: NDArray[np.int64]
    times: _F64

class ProjectedArrays(TypedDict):
    latents: _F32
    projected: _F32
    confidence: _F32
    patch: NDArray[np.int32]
    source_row: NDArray[np.int32]
    source_column: NDArray[np.int32]

class PatchArrays(TypedDict):
    observation: NDArray[np.uint64]
    frame_id: NDArray[np.int64]
    timestamp: _F64
    generated: NDArray[np.bool_]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    centre: _F64
    world_from_camera: _F64
    intrinsics: _F64

class KeyframeArrays(TypedDict):
    observation: NDArray[np.uint64]
    frame_id: NDArray[np.int64]
    timestamp: _F64
    world_from_camera: _F64
    intrinsics: _F64
    generated: NDArray[np.bool_]

class Direction:
    forward: ClassVar[Direction]
    backward: ClassVar[Direction]

class ViewWeightScales:
    def __init__(self, viewing_angle: float, field_angle: float, half_life: float, generated_weight: float) -> None: ...

class KeyframeParams:
    def __init__(
        self,
        per_view: int,
        per_window: int,
        depth_tolerance: float,
        scales: ViewWeightScales,
        only_images: bool = False,
    ) -> None: ...

class BlendOptions:
    def __init__(self, direction: Direction, depth_tolerance: float, scales: ViewWeightScales) -> None: ...

most_picks: int

class TargetGrids:
    def __init__(
        self, cameras: _F64, camera_from_world: _F64, times: _F64, rows: int, columns: int, stride: float
    ) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...

def color_canvases(
    targets: TargetGrids,
    depth: _F32,
    source: NDArray[np.int32],
    others: _F32,
    images: Sequence[tuple[NDArray[np.uint8] | None, float, tuple[float, float, float, float]]],
    camera_from_world: _F64,
    scale: int,
    out: _F32,
    num_threads: int = 0,
) -> None: ...

class StoreCounts(TypedDict):
    patches: int
    keyframes: int
    generated_patches: int
    generated_keyframes: int
    latent_bytes: int
    depth_bytes: int
    confidence_bytes: int
    image_bytes: int
    index_bytes: int
    bookkeeping_bytes: int
    first_time: float | None
    last_time: float | None

class VoxelMap:
    def __init__(self, voxel_size: float) -> None: ...
    def fork(self) -> VoxelMap: ...  # host only
    def add_points(  # host only
        self,
        points: _F32,
        color: NDArray[np.uint8] | None,
        normals: _F32 | None,
        timestamp: float,
        counts: NDArray[np.int64],
        num_threads: int,
    ) -> None: ...
    def add(
        self,
        depth: _View,
        color: _Maybe,
        intrinsics: _Intrinsics,
        world_from_camera: _F64,
        timestamp: float,
        counts: _View,
        handle: _Handle,
    ) -> None: ...
    def export(self, min_count: int, handle: _Handle) -> ExportedVoxels: ...
    def size(self, handle: _Handle) -> int: ...
    @property
    def nbytes(self) -> int: ...

class MemoryStore:
    # Pass arguments by position: if Python is out of memory, pybind11 looks up keywords through a null pointer.
    def __init__(self, patch_size: int, max_patches: int | None, max_bytes: int | None, policy: Eviction) -> None: ...
    def insert(
        self,
        latents: _F32 | NDArray[np.float16] | NDArray[np.uint16],
        latent_type: LatentType,
        depth: _F32,
        confidence: _F32 | None,
        image: NDArray[np.uint8] | None,
        subcell_depth: _F32 | None,
        stride: float,
        intrinsics: _Intrinsics,
        world_from_camera: _F64,
        timestamp: float,
        provenance: Provenance,
        frame_id: int,
        num_threads: int = 0,
    ) -> int: ...
    # Results are written into padded arrays that the caller provides; see cpp/memory/answers.hpp.
    def select_keyframes(
        self, targets: TargetGrids, params: KeyframeParams, picks: NDArray[np.int32], num_threads: int
    ) -> NDArray[np.uint64]: ...
    def compose(
        self,
        targets: TargetGrids,
        picks: NDArray[np.int32],
        observations: NDArray[np.uint64],
        options: BlendOptions,
        canvases: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> KeyframeArrays: ...
    def compose_images(
        self,
        targets: TargetGrids,
        picks: NDArray[np.int32],
        observations: NDArray[np.uint64],
        options: BlendOptions,
        canvases: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> KeyframeArrays: ...
    def compose_patches(
        self,
        targets: TargetGrids,
        ids: NDArray[np.int64],
        options: BlendOptions,
        canvases: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> KeyframeArrays: ...
    def select_and_compose(
        self,
        targets: TargetGrids,
        params: KeyframeParams,
        options: BlendOptions,
        picks: NDArray[np.int32],
        canvases: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> tuple[NDArray[np.uint64], KeyframeArrays]: ...
    def retrieve_window(
        self,
        cameras: _F64,
        camera_from_world: _F64,
        times: _F64,
        top_k: int,
        options: _RetrievalWeights,
        found: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> bool: ...
    def retrieve_tokens(
        self,
        cameras: _F64,
        camera_from_world: _F64,
        times: _F64,
        top_k: int,
        options: _RetrievalWeights,
        stride: float,
        seconds_per_latent: float,
        found: tuple[NDArray[Any], ...],
        tokens: tuple[NDArray[Any], ...],
        num_threads: int,
    ) -> KeyframeArrays | None: ...
    @property
    def revision(self) -> int: ...
    def erase(self, ids: NDArray[np.uint64]) -> int: ...
    def erase_frame(self, frame_id: int) -> int: ...
    def transform(self, matrix: _F64, ids: NDArray[np.uint64] | None, num_threads: int = 0) -> int: ...
    def duplicate(self, matrix: _F64, ids: NDArray[np.uint64] | None, num_threads: int = 0) -> NDArray[np.uint64]: ...
    def splice(self, other: MemoryStore, matrix: _F64, num_threads: int = 0) -> int: ...
    def inside(self, half_spaces: _F64, num_threads: int = 0) -> NDArray[np.uint64]: ...
    def inside_sphere(
        self, centre: tuple[float, float, float], radius: float, num_threads: int = 0
    ) -> NDArray[np.uint64]: ...
    def export_observations(self) -> dict[str, Any]: ...
    @property
    def next_id(self) -> int: ...
    @property
    def origin(self) -> tuple[float, float, float]: ...
    def least_taken(
        self,
        cameras: NDArray[np.float64],
        camera_from_world: NDArray[np.float64],
        times: NDArray[np.float64],
        top_k: int,
        options: tuple[float, float, float, float, float],
        num_threads: int,
    ) -> NDArray[np.float64]: ...
    def remap(self, serials: NDArray[np.uint64], buffers: list[Any]) -> None: ...
    def bounds(self, num_threads: int = 0) -> _F64 | None: ...
    def fork(self) -> MemoryStore: ...
    def restore(self, earlier: MemoryStore) -> None: ...
    def within(
        self, queries: _F64, radius: float, num_threads: int = 0
    ) -> tuple[NDArray[np.int64], _F32, NDArray[np.uint64]]: ...
    def project_tokens(self, ids: NDArray[np.uint64], camera: _Camera, camera_from_world: _F64) -> ProjectedArrays: ...
    def nearest(self, queries: _F64, k: int, num_threads: int = 0) -> tuple[_F32, NDArray[np.uint64]]: ...
    def describe(self, ids: NDArray[np.uint64]) -> PatchArrays: ...
    def alive_ids(self) -> NDArray[np.uint64]: ...
    def statistics(self) -> StoreCounts: ...
    def images(self, slots: NDArray[np.uint64]) -> list[tuple[NDArray[np.uint8] | None, float] | None]: ...
    @property
    def alive_count(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class PointIndex:
    def __init__(self, points: _F32, num_threads: int = 0) -> None: ...
    def nearest(self, queries: _F32, k: int) -> tuple[_F32, NDArray[np.uint64]]: ...
    def within(self, queries: _F32, radius: float) -> tuple[NDArray[np.int64], _F32, NDArray[np.uint64]]: ...
    @property
    def nbytes(self) -> int: ...

def score_bounds(
    boxes: NDArray[np.float64],
    newest_times: NDArray[np.float64],
    cameras: NDArray[np.float64],
    camera_from_world: NDArray[np.float64],
    times: NDArray[np.float64],
    options: tuple[float, float, float, float, float],
) -> NDArray[np.float64]: ...
def open_store(
    patch_size: int,
    max_patches: int | None,
    max_bytes: int | None,
    policy: Eviction,
    channels: int,
    origin: tuple[float, float, float],
    next_id: int,
    next_slot: int,
    keyframes: list[Any],
    slots: NDArray[np.uint64],
    first_ids: NDArray[np.uint64],
    keyframe: NDArray[np.int64],
    world_from_camera: _F64,
    alive: NDArray[np.uint64],
    evict: bool,
    num_threads: int = 0,
) -> tuple[MemoryStore, NDArray[np.uint64]]: ...

# The kernels below exist twice: here for the host, with NumPy arrays and a number of threads, and in `cuda`, with GPU
# arrays and a stream. The caller provides the output arrays, after all inputs. Features are float32 or float64; head
# features may also be uint16 that holds bfloat16 (on the GPU: bfloat16, float16), with any strides but the last. Tables
# are float64 for float64 features, else float32.

_View = Any  # NDArray or _DeviceArray
_Maybe = _View | None
_Handle = Any  # int, or (device, stream handle, allocate)

def unproject_dense(
    depth: _View,
    size: tuple[int, int],
    intrinsics: _Intrinsics,
    world_from_camera: _F64,
    points: _View,
    valid: _View,
    handle: _Handle,
) -> None: ...
def count_valid(depth: _View, offsets: _View, handle: _Handle) -> int: ...
def unproject_valid(
    depth: _View,
    intrinsics: _Intrinsics,
    world_from_camera: _F64,
    offsets: _View,
    points: _View,
    pixels: _View,
    handle: _Handle,
) -> None: ...
def extend_depth(depth: _F32, reach: int, out: _F32, num_threads: int) -> None: ...
def median_depth_grid(depth: _View, stride: int, min_valid: int, grid: _View, handle: _Handle) -> None: ...
def reproject_grid(
    depth: _View,
    stride: float,
    source_intrinsics: _Intrinsics,
    world_from_source: _F64,
    camera: _Camera,
    camera_from_world: _F64,
    projected: _View,
    valid: _View,
    handle: _Handle,
) -> None: ...
def splat(
    latents: _View,
    position: _View,
    depth: _View,
    weight: _Maybe,
    mode: Splat,
    depth_tolerance: float,
    canvas: _View,
    coverage: _View,
    surface: _View,
    source: _View,
    handle: _Handle,
) -> None: ...
def splat_adjoint(
    canvas: _View,
    position: _View,
    depth: _View,
    weight: _Maybe,
    surface: _View,
    source: _View,
    mode: Splat,
    depth_tolerance: float,
    latents: _View,
    handle: _Handle,
) -> None: ...
def bilinear_sample(grid: _View, position: _View, values: _View, inside: _View, handle: _Handle) -> None: ...
def bilinear_sample_adjoint(values: _View, position: _View, grid: _View, handle: _Handle) -> None: ...
def rope_table(
    positions: _View, axis_dims: Sequence[int], theta: float, cos: _View, sin: _View, handle: _Handle
) -> None: ...
def rope_apply(
    x: _View, cos: _View, sin: _View, interleaved: bool, inverse: bool, out: _View, handle: _Handle
) -> None: ...
def prope_apply(
    x: _View,
    runs: Sequence[tuple[int, int, int]],
    spread: int,
    coefficient: _View,
    camera: _View,
    cos: _Maybe,
    sin: _Maybe,
    inverse: bool,
    out: _View,
    handle: _Handle,
) -> None: ...
def attention(
    q: _View,
    k: _View,
    v: _View,
    mask: _Maybe,
    bias: _Maybe,
    query_time: _Maybe,
    key_time: _Maybe,
    half_life: float,
    scale: float,
    rotations: tuple[_Maybe, _Maybe, _Maybe, _Maybe],  # cos and sin of the queries, cos and sin of the keys
    interleaved: bool,
    out: _View,
    lse: _View,
    handle: _Handle,
) -> None: ...
def merge_attention(
    out_a: _View, lse_a: _View, out_b: _View, lse_b: _View, out: _View, lse: _View, handle: _Handle
) -> None: ...

most_head_dim: int

def linear(x: _F32, weight: _F32, num_threads: int = 0) -> _F32: ...
def simd_level() -> SimdLevel: ...
def limit_simd_level(most: SimdLevel) -> None: ...
def ignore_grain(on: bool) -> None: ...

# Only in builds with MOSAICMEM_FAULTS or MOSAICMEM_SANITIZE: makes the n-th allocation from now on fail, and with
# `lasting` all after it; 0 makes none fail. Returns how many have failed since the last call.
def fail_allocation_after(n: int, lasting: bool, /) -> int: ...

_Shape = tuple[int, ...]
_Stream = tuple[int, int]  # device and handle

class _DeviceArray:
    def __init__(self, address: int, shape: Sequence[int], strides: Sequence[int], dtype: str) -> None: ...
    address: int
    shape: list[int]
    strides: list[int]
    dtype: str

class _Cuda:
    """All operations run in stream order."""

    def __getattr__(self, name: str) -> Any:
        """The kernels of the host, with the same parameters."""

    CudaError: type[RuntimeError]
    DeviceArray: type[_DeviceArray]
    is_emulated: bool
    compiler: str
    architectures: str
    def device_count(self) -> int: ...
    def driver_version(self) -> int: ...
    retrieval_room: tuple[int, int, int]
    most_top_k: int
    DeviceStore: type[_DeviceStore]
    Event: type[Any]
    def pinned_copy(self, array: NDArray[Any]) -> NDArray[Any]: ...
    def synchronize(self, stream: _Stream) -> None: ...
    def order_streams(self, earlier: _Stream, later: _Stream) -> None: ...
    def store_bytes(self, source: NDArray[Any], target: _DeviceArray, stream: _Stream) -> None: ...

class _DeviceStore:
    """GPU tables that mirror a store; they answer the queries of `MemoryStore`, with the same parameters."""

    def __init__(self, budget: int | None, room: tuple[int, int, int]) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
    def follow(self, store: MemoryStore, num_threads: int, execution: _Handle) -> None: ...
    def prefetch(self, observations: NDArray[np.uint64], execution: _Handle) -> None: ...
    def is_resident(self, observation: int) -> bool: ...
    channels: int
    version: int
    latent_bytes: int
    used_chunks: int

cuda: _Cuda  # missing if the library was built without CUDA
