import numpy as np


def plain_sum(products, axis):
    """Add one term after the other in the precision of `products`, without NumPy's more exact pairwise sum."""
    if products.shape[axis] == 0:
        return products.sum(axis=axis)
    return np.add.accumulate(products, axis=axis).take(-1, axis=axis)


def attention(q, k, v, scale, mask=None, bias=None, decay=None, dtype=np.float64, weights_dtype=None):
    """softmax(q k^T scale + bias) v and its log-sum-exp; zeros and -inf for a query whose keys are all masked.

    Groups of heads of q share a head of k and v. decay: (query_time, key_time, half_life). weights_dtype: the dtype to
    which weights are rounded before they multiply v.
    """
    q, k, v = q.astype(dtype), k.astype(dtype), v.astype(dtype)
    if k.shape[1]:
        k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    logits = plain_sum(q[..., :, None, :] * k[..., None, :, :], -1) * dtype(scale)
    if bias is not None:
        logits = logits + bias.astype(dtype)[:, None, None, :]
    if decay is not None:
        query_time, key_time, half_life = decay
        logits = logits + (np.log(0.5) * np.abs(query_time[:, None] - key_time) / half_life).astype(dtype)
    if mask is not None:
        logits = np.where(mask[:, None, None, :], logits, dtype(-np.inf))
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
    total = plain_sum(weights, -1)[..., None]
    if weights_dtype is not None:
        weights = weights.astype(weights_dtype).astype(dtype)
    out = plain_sum(weights[..., None] * v[..., None, :, :], -2)
    out = np.divide(out, total, out=np.zeros_like(out), where=total > 0)
    with np.errstate(divide="ignore"):
        return out, (np.log(total) + np.where(np.isfinite(top), top, 0))[..., 0]


def rope(x, positions, axes_dims, theta, pairing, dtype=np.float64):
    """Each pair (a, b) of head dimensions rotated by position * theta^(-2i / d)."""
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


def full_prope(x, matrices, camera, dtype=np.float64):
    """The whole head in 4x4 blocks: feature ((p*4 + c)*4 + j)*R + r is component j of a vector of sub-frame c."""
    x = x.astype(dtype)
    spread = x.shape[-1] // 64
    blocks = x.reshape(*x.shape[:-1], 4, 4, 4, spread)  # p, c, j, r
    return np.einsum("tcij,...tpcjr->...tpcir", matrices.astype(dtype)[camera], blocks).reshape(x.shape)


def contiguous_prope(x, matrices, camera, subframes, dims, dtype=np.float64):
    """4x4 blocks on runs of `dims` features from the front, one run per sub-frame; the rest is unchanged."""
    out = x.astype(dtype)
    for i, subframe in enumerate(subframes):
        run = slice(i * dims, (i + 1) * dims)
        blocks = out[..., run].reshape(*x.shape[:-1], dims // 4, 4)
        matrix = matrices.astype(dtype)[camera, subframe]
        out[..., run] = np.einsum("tij,...tbj->...tbi", matrix, blocks).reshape(*x.shape[:-1], dims)
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
