"""GPU benchmarks: each case with the bytes it must move or the operations it must do, and an equivalent in torch.

A case that has one checks that both results agree before they are timed.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from timing import copies_of, seconds

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    PatchMemory,
    PRoPE,
    WarpedRoPE,
    unproject_to_image,
)
from mosaicmem._border.stores import place_of
from mosaicmem.attention import attention, bilinear_sample


@dataclass
class Measured:
    """A time in seconds, and its lower bounds."""

    name: str
    seconds: float
    floor_bytes: float = 0
    floor_operations: float = 0
    others: dict = field(default_factory=dict)  # name -> seconds


def agree(actual, expected, tolerance):
    error = (actual.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), 1e-30)
    assert error <= tolerance * scale, f"results differ by {error / scale:.3g} of the largest value"


def unproject():
    count, height, width = 16, 720, 1280
    k = CameraIntrinsics.from_fov(width, height, fov_x=1.2)
    poses = [CameraPose.look_at([0.1 * i, 0, 0], [0, 0, 1]) for i in range(count)]
    depth = torch.rand(count, height, width, device="cuda") + 0.5
    matrices = torch.stack([torch.tensor(p.world_from_camera) for p in poses]).float().cuda()
    v, u = torch.meshgrid(torch.arange(height, device="cuda"), torch.arange(width, device="cuda"), indexing="ij")
    rays = torch.stack([(u + 0.5 - k.cx) / k.fx, (v + 0.5 - k.cy) / k.fy, torch.ones_like(u)], -1)

    def by_torch(z):
        camera = rays * z[..., None]
        return torch.einsum("bij,bhwj->bhwi", matrices[:, :3, :3], camera) + matrices[:, None, None, :3, 3], z > 0

    agree(unproject_to_image(depth, k, poses)[0], by_torch(depth)[0], 1e-5)
    inputs = copies_of([depth])
    own = seconds(lambda z: unproject_to_image(z, k, poses), inputs)
    return Measured("unproject 16 x 1280x720", own, 17 * depth.numel(), others={"torch": seconds(by_torch, inputs)})


def heads(tokens):
    return torch.randn(1, 24, tokens, 128, device="cuda", dtype=torch.bfloat16)


def turned_by_torch(x, cos, sin):
    pairs = x.float().unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def warped_rope():
    x = heads(18480)
    rope = WarpedRoPE(128)
    table = rope.table(torch.rand(18480, 3, device="cuda", dtype=torch.float64) * 40)
    agree(rope.apply(x, table), turned_by_torch(x, table.cos, table.sin), 2e-2)
    inputs = copies_of([x])
    own = seconds(lambda x: rope.apply(x, table), inputs)
    torch_way = seconds(lambda x: turned_by_torch(x, table.cos, table.sin), inputs)
    return Measured("Warped RoPE (1, 24, 18480, 128) bfloat16", own, 4 * x.numel(), others={"torch": torch_way})


def prope():
    x = heads(18480)
    views = torch.eye(4, dtype=torch.float64).repeat(21, 1, 1)
    views[:, 0, 3] = torch.arange(21)
    encoding = PRoPE(128, views.numpy(), patches_x=40, patches_y=22)
    transposed = views.transpose(1, 2).cuda().float()
    encoding.apply_to_q(x)

    def by_torch(x):  # PRoPE's camera half only
        vectors = x[..., :64].float().unflatten(2, (21, 880)).unflatten(-1, (16, 4))
        return torch.einsum("vij,bhvtpj->bhvtpi", transposed, vectors).flatten(-2).flatten(2, 3).to(x.dtype)

    agree(encoding.apply_to_q(x)[..., :64], by_torch(x), 2e-2)
    inputs = copies_of([x])
    others = {"torch, the camera half only": seconds(by_torch, inputs)}
    own = seconds(encoding.apply_to_q, inputs)
    return Measured("PRoPE (1, 24, 18480, 128) bfloat16", own, 4 * x.numel(), others=others)


def sampling():
    rows, columns, channels, count = 44, 80, 48, 21
    grid = torch.randn(count * rows, columns, channels, device="cuda")
    limits = torch.tensor([count * rows - 1.0, columns - 1.0], device="cuda")
    places = torch.rand(count * rows * columns, 2, device="cuda") * limits

    def by_torch(grid, places):
        normal = (places / limits * 2 - 1).flip(-1)[None, :, None]
        return F.grid_sample(grid.permute(2, 0, 1)[None], normal, align_corners=True)[0, :, :, 0].T

    agree(bilinear_sample(grid, places)[0], by_torch(grid, places), 1e-3)
    inputs = copies_of([grid, places])
    moved = 4 * (grid.numel() + places.numel() + places.shape[0] * channels) + places.shape[0]
    own = seconds(bilinear_sample, inputs)
    others = {"torch.grid_sample": seconds(by_torch, inputs)}
    return Measured("bilinear sampling 21 x 48 x 44 x 80", own, moved, others=others)


def patch_memory():
    frames, groups, rows, columns, channels = 2880, 21, 44, 80, 48
    k = CameraIntrinsics.from_fov(columns * 16, rows * 16, fov_x=1.0).matrix
    memory = PatchMemory("distilled")
    poses = torch.eye(4).repeat(frames, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, 20, frames)
    latents = torch.randn(channels, frames, rows, columns, device="cuda")
    depth = torch.rand(frames, rows * 2, columns * 2, device="cuda") + 2
    ks = torch.from_numpy(k).float().repeat(frames, 1, 1)
    memory.append(latents, poses.numpy(), ks.numpy(), depth)
    query = poses[:: frames // (4 * groups)][: 4 * groups].numpy()

    def choose_and_compose():
        return memory.fuse_candidates(query, memory.select_candidate_frame_ids(query))

    own = seconds(choose_and_compose, [[]])
    moved = 4 * groups * rows * columns * channels * 2
    return Measured("choose by coverage of 2880 frames and compose 21 latents of 44x80x48", own, moved)


def memory_attention():
    queries, keys = 3520, 18480
    q, k, v = heads(queries), heads(keys), heads(keys)
    rope = WarpedRoPE(128)
    tables = [rope.table(torch.rand(n, 3, device="cuda", dtype=torch.float64) * 40) for n in (queries, keys)]

    def fused(q, k, v):
        return attention(q, k, v, query_table=tables[0], key_table=tables[1])

    def after_a_pass(q, k, v):
        return attention(rope.apply(q, tables[0]), rope.apply(k, tables[1]), v)

    def by_torch(q, k, v):
        turned = (turned_by_torch(x, t.cos, t.sin) for x, t in ((q, tables[0]), (k, tables[1])))
        return F.scaled_dot_product_attention(*turned, v)

    agree(fused(q, k, v), by_torch(q, k, v), 2e-2)
    inputs = copies_of([q, k, v], most=4)
    others = {
        "torch's rotation and scaled_dot_product_attention": seconds(by_torch, inputs),
        "scaled_dot_product_attention alone": seconds(F.scaled_dot_product_attention, inputs),
        "mosaicmem, rotation in a pass of its own": seconds(after_a_pass, inputs),
        "mosaicmem, without rotation": seconds(attention, inputs),
    }
    operations = 4 * 24 * queries * keys * 128
    own = seconds(fused, inputs)
    return Measured(
        "memory attention, 24 heads, 3520 x 18480, d 128, bfloat16, Warped RoPE included",
        own,
        floor_operations=operations,
        others=others,
    )


def walk(count):
    """Cameras along a street, each looking slightly sideways."""
    poses = []
    for i in range(count):
        at = np.array([0.0, 0.0, 0.02 * i])
        away = np.array([np.sin(0.4 * np.sin(0.3 * i)), 0.0, np.cos(0.4 * np.sin(0.3 * i))])
        poses.append(CameraPose.look_at(at, at + away, timestamp=float(i)))
    return poses


def mirrored_store(keyframes, channels):
    """A store on the GPU whose keyframes of 44x80 cells show walls a few metres away."""
    store, rng = MosaicMemoryStore(device="cuda"), np.random.default_rng(0)
    camera = CameraIntrinsics.from_fov(1280, 704, fov_x=1.2)
    for pose in walk(keyframes):
        depth = (2 + 3 * rng.random((44, 80))).astype(np.float32)
        store.insert_keyframe(rng.standard_normal((44, 80, channels), np.float32), depth, camera, pose)
    return store, camera


def top_k():
    """Two cases on one store: one camera, and a window of 21 cameras."""
    store, camera = mirrored_store(11_364, channels=1)  # 10 million patches
    path = walk(11_364)
    one, window = CameraTrajectory([path[5000]], camera), CameraTrajectory(path[5000:5210:10], camera)
    options = {"top_k": 64}
    host = store.fork()
    host._place = place_of(None, None)
    found = host.retrieve(camera, one[0], **options)
    ids = store.retrieve_window(one, **options).ids[0].cpu().numpy()
    assert (ids[: len(found)] == found.ids).all(), "the device chose other patches than the host"
    centres = torch.from_numpy(store.describe_patches(store.patch_ids)["centre"]).float().cuda()
    view = torch.from_numpy(one.camera_from_world[0]).float().cuda()

    def by_torch(centres):
        x, y, z = (centres @ view[:3, :3].T + view[:3, 3]).unbind(-1)
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        inside = (z > 0.05) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        aside = torch.sqrt(((u - camera.cx) / camera.width) ** 2 + ((v - camera.cy) / camera.height) ** 2)
        return torch.topk(torch.where(inside, (1 - aside) / (1 + 0.1 * z), -1.0), 64)

    moved = 12 * len(store)
    cases = []
    for name, targets, others in (
        ("top-64 of 10 million patches", one, {"torch, without footprints": seconds(by_torch, [[centres]])}),
        ("top-64 of 10 million patches for 21 cameras", window, {}),
    ):
        own = seconds(lambda targets: store.retrieve_window(targets, **options), [[targets]])
        cases.append(Measured(name, own, moved, others=others))
    return cases


def keyframes():
    store, camera = mirrored_store(500, channels=48)
    targets = CameraTrajectory(walk(500)[200:242:2], camera)
    retrieval = KeyframeRetrieval()
    chosen = retrieval.select(store, targets, 16)
    retrieval.compose(store, targets, 16, chosen)
    cells = len(targets) * 44 * 80
    picks = chosen.picks.shape[1]
    read = cells * picks * 4 + cells * 48 * 4 * 2  # each source's depth for each target cell, latents in and out
    name = "compose 21 latents of 44x80x48 by blend, from up to 16 keyframes each"
    own = seconds(lambda: retrieval.compose(store, targets, 16, chosen), [[]])
    both = seconds(lambda: retrieval.retrieve(store, targets, 16), [[]])
    return Measured(name, own, read, others={"chosen by visible_coverage before, candidates on the host": both})


CASES = (unproject, warped_rope, prope, sampling, patch_memory, top_k, keyframes, memory_attention)
