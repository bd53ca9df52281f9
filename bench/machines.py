"""Figures of each machine that has run the benchmarks; a run replaces those of its own machine that it measures."""

import importlib.metadata
import json
import platform
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "measured" / "machines"
LIBRARIES = ("mosaicmem", "numpy", "scipy", "pykdtree", "torch", "open3d")


def describe(machine_info):
    """Add what a reader must know of this machine to the information that pytest-benchmark keeps."""
    from mosaicmem import _core

    machine_info["simd"] = _core.simd_level().name
    machine_info["versions"] = {"Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            machine_info["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            machine_info["versions"][name] = "not installed"


def name_of(machine_info):
    """A processor by name and model, since clouds give many models one name, and by what the kernels use of it."""
    cpu = machine_info.get("cpu", {})
    model = f" (family {cpu['family']}, model {cpu['model']})" if "family" in cpu and "model" in cpu else ""
    brand = cpu.get("brand_raw", machine_info["machine"])
    return f"{brand}{model}, {cpu.get('count', '?')} cores, {machine_info['simd']}, {machine_info['system']}"


def this_machine():
    """The name of the machine that this runs on."""
    import cpuinfo  # which pytest-benchmark brings

    found = {"cpu": cpuinfo.get_cpu_info(), "machine": platform.machine(), "system": platform.system()}
    describe(found)
    return name_of(found)


def fold(document):
    """Keep the benchmarks of a file of pytest-benchmark under its machine. Returns the machine's file."""
    name = name_of(document["machine_info"])
    path = FOLDER / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"machine": name, "groups": {}}
    groups = {}
    for benchmark in document["benchmarks"]:
        row = {
            "name": benchmark["name"].removeprefix("test_").split("[")[0].replace("_", " "),
            "median": benchmark["stats"]["median"],
            "rounds": benchmark["stats"]["rounds"],
            "extra": benchmark["extra_info"],
        }
        groups.setdefault(benchmark["group"] or benchmark["name"], []).append(row)
    versions = ", ".join(f"{library} {version}" for library, version in document["machine_info"]["versions"].items())
    for title, rows in groups.items():
        kept["groups"][title] = {"date": document["datetime"][:10], "versions": versions, "rows": rows}
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path


def machines():
    """What is kept of all machines, by name."""
    return sorted((json.loads(path.read_text()) for path in FOLDER.glob("*.json")), key=lambda each: each["machine"])
