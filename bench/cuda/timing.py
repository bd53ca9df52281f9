"""Times on a GPU: CUDA events, medians, inputs that are not in the cache any more."""

import statistics

import torch

REPEATS, WARM = 30, 5
COLD_BYTES = 512 << 20  # of copies of the inputs that a call goes through, several times the cache of any GPU


def copies_of(tensors, most=16):
    """Sets of inputs, as many as are needed to be larger than the cache together."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    count = max(2, min(most, COLD_BYTES // max(size, 1) + 1))
    return [tensors, *([tensor.clone() for tensor in tensors] for _ in range(count - 1))]


def seconds(function, inputs):
    """The median time of ``function(*tensors)`` on the device, over ``inputs`` in turn."""
    for i in range(WARM):
        function(*inputs[i % len(inputs)])
    times = []
    for i in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(
            20_000_000
        )  # so that all launches are queued before it ends, and Python's time is not counted
        begin.record()
        function(*inputs[i % len(inputs)])
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_bandwidth():
    """Bytes read and written a second by a copy of a gigabyte."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda a, b: b.copy_(a), [[source, target]])


def matrix_rate():
    """Operations a second of an 8192 x 8192 x 8192 product in bfloat16, of random numbers."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(torch.matmul, [[a, b]])
