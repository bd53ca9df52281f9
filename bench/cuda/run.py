"""Measures the CUDA kernels on this machine's GPU against their floors and torch; writes bench/cuda/measured.json.

python bench/cuda/run.py && python bench/report.py bench.json
"""

import datetime
import importlib.metadata
import json
import sys
from pathlib import Path

from source_hash import source_hash

HERE = Path(__file__).parent


def measure():
    import torch
    from cases import CASES
    from timing import copy_bandwidth, matrix_rate

    import mosaicmem

    if not (torch.cuda.is_available() and mosaicmem.has_cuda()):
        sys.exit("bench/cuda: expected a GPU that torch sees, and mosaicmem built with CUDA; see mosaicmem --version")
    bandwidth, rate = copy_bandwidth(), matrix_rate()
    rows = []
    for case in CASES:
        torch.cuda.empty_cache()
        results = case()
        for measured in results if isinstance(results, list) else [results]:
            floor = max(measured.floor_bytes / bandwidth, measured.floor_operations / rate)
            rows.append({"name": measured.name, "seconds": measured.seconds, "floor": floor, "others": measured.others})
            print(
                f"{measured.name}: {measured.seconds * 1e6:.1f} us, {floor / measured.seconds:.0%} of the floor's speed"
            )
            for name, other in measured.others.items():
                print(f"    {name}: {other * 1e6:.1f} us, {other / measured.seconds:.2f} x")
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": mosaicmem._core.cuda.driver_version(),
        "date": datetime.date.today().isoformat(),
        "torch": importlib.metadata.version("torch"),
        "sources": source_hash(),
        "bandwidth": bandwidth,
        "matrix_rate": rate,
        "rows": rows,
    }


if __name__ == "__main__":
    (HERE / "measured.json").write_text(json.dumps(measure(), indent=2) + "\n")
