import numpy as np


def attention(q, k, v, scale, mask=None, bias=None, dtype=np.float64):
    """softmax(q k^T scale + bias) v and its log-sum-exp; zeros and -inf for a query that no key answers."""
    q, k, v = q.astype(dtype), k.astype(dtype), v.astype(dtype)
    logits = np.einsum("bhqd,bhkd->bhqk", q, k) * dtype(scale)
    if bias is not None:
        logits = logits + bias.astype(dtype)[:, None, None, :]
    if mask is not None:
        logits = np.where(mask[:, None, None, :], logits, dtype(-np.inf))
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bhqk,bhkd->bhqd", np.divide(weights, total, out=np.zeros_like(weights), where=total > 0), v)
    with np.errstate(divide="ignore"):
        return out, (np.log(total) + np.where(np.isfinite(top), top, 0))[..., 0]


def rope(x, positions, axes_dims, theta, pairing, dtype=np.float64):
    """Each pair (a, b) of head dimensions turned by position * theta^(-2i / d)."""
    angles = np.concatenate(
        [
            positions[:, axis, None].astype(np.float64) / theta ** (np.arange(0, dim, 2) / dim)
            for axis, dim in enumerate(axes_dims)
            if dim
        ],
        axis=1,
    )  # (N, D / 2)
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    x = x.astype(dtype)
    half = x.shape[-1] // 2
    a, b = (x[..., ::2], x[..., 1::2]) if pairing == "interleaved" else (x[..., :half], x[..., half:])
    turned = a * cos - b * sin, a * sin + b * cos
    out = np.empty_like(x)
    if pairing == "interleaved":
        out[..., ::2], out[..., 1::2] = turned
    else:
        out[..., :half], out[..., half:] = turned
    return out


def prope(x, matrices, camera, positions, base=100.0, inverse=False, dtype=np.float64):
    """4x4 blocks on the first half, split-half rotations by x and y on the last two quarters."""
    x = x.astype(dtype)
    dim = x.shape[-1]
    n = dim // 8
    out = np.empty_like(x)
    blocks = x[..., : dim // 2].reshape(*x.shape[:-1], n, 4)
    matrix = matrices.astype(dtype)[camera]  # (N, 4, 4)
    out[..., : dim // 2] = np.einsum("tij,...tbj->...tbi", matrix, blocks).reshape(*x.shape[:-1], dim // 2)
    for axis in (0, 1):
        start = dim // 2 + axis * dim // 4
        angle = positions[:, axis, None] * base ** (-np.arange(n) / n)  # (N, n)
        cos, sin = np.cos(angle).astype(dtype), np.sin(angle).astype(dtype) * (-1 if inverse else 1)
        a, b = x[..., start : start + n], x[..., start + n : start + 2 * n]
        out[..., start : start + n] = a * cos + b * sin
        out[..., start + n : start + 2 * n] = b * cos - a * sin
    return out
