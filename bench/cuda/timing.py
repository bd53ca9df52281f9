"""GPU timing: CUDA events, medians, and inputs that are cold in the cache."""

import statistics

import torch

REPEATS, WARM = 30, 5
COLD_BYTES = 512 << 20  # of input copies that calls cycle through, several times the cache of any GPU


def copies_of(tensors, most=16):
    """Sets of inputs: enough copies to exceed the cache together, at most ``most``."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    count = max(2, min(most, COLD_BYTES // max(size, 1) + 1))
    return [tensors, *([tensor.clone() for tensor in tensors] for _ in range(count - 1))]


def seconds(function, inputs):
    """The median GPU time of ``function(*tensors)``, cycling through ``inputs``."""
    for i in range(WARM):
        function(*inputs[i % len(inputs)])
    times = []
    for i in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(20_000_000)  # queues all launches before the first runs, so that Python's time is not counted
        begin.record()
        function(*inputs[i % len(inputs)])
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_bandwidth():
    """Bytes read and written per second by a copy of a gigabyte."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda a, b: b.copy_(a), [[source, target]])


def matrix_rate():
    """Operations per second of an 8192 x 8192 x 8192 product of random numbers in bfloat16."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(torch.matmul, [[a, b]])
