"""Writes BENCHMARKS.md from a pytest-benchmark JSON file.

pytest bench/bench_*.py --benchmark-json=bench.json && python bench/report.py bench.json

With --merge, the tables of a run of some benchmarks replace those of the same title, or join them, each with its date
and machine; the others stay. The sections of fidelity.json and cuda/measured.json are made anew either way.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path

FIDELITY = Path(__file__).parent / "fidelity.json"
CUDA_FIGURES = Path(__file__).parent / "cuda" / "measured.json"
PEERS = ("numpy", "scipy", "pykdtree", "torch", "open3d")


def seconds(value):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def versions():
    found = []
    for name in ("mosaicmem", *PEERS):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join([f"Python {platform.python_version()}", *found])


def table(group, benchmarks):
    own = [b["stats"]["median"] for b in benchmarks if b["name"].startswith("test_mosaicmem")]
    lines = [f"## {group}", "", "| | median | rounds | beside mosaicmem | |", "| --- | ---: | ---: | ---: | --- |"]
    for benchmark in sorted(benchmarks, key=lambda b: b["stats"]["median"]):
        median = benchmark["stats"]["median"]
        name = benchmark["name"].removeprefix("test_").split("[")[0].replace("_", " ")
        ratio = f"{median / own[0]:.2f} x" if own else ""
        extra = ", ".join(f"{key} {value}" for key, value in benchmark["extra_info"].items())
        lines.append(f"| {name} | {seconds(median)} | {benchmark['stats']['rounds']} | {ratio} | {extra} |")
    return "\n".join(lines)


def fidelity_section():
    """The measurements of bench/fidelity.py."""
    title = "## What memory shows"
    if not FIDELITY.exists():
        return f"{title}\n\nNot measured yet: `python bench/fidelity.py` writes what this section is made of."
    measured = json.loads(FIDELITY.read_text())
    sequences = measured["sequences"]
    rows = list(dict.fromkeys(label for figures in sequences.values() for label in figures))
    lines = [
        title,
        "",
        f"Of `bench/fidelity.py`, {measured['date']}: PSNR in dB over all cells of held-out views, uncovered ones in",
        "memory's mean colour (over the covered cells @ coverage in %, contrast of neighbours in % of the truth's).",
        "copy: the nearest frame; warp: pixels of the 5 nearest frames; tsdf: a fused surface; plain: cells moved as",
        "blocks, with equal weights; published near: the published patch memory.",
        "",
        "| | " + " | ".join(sequences) + " |",
        "| --- |" + " --- |" * len(sequences),
    ]
    for label in rows:
        cells = []
        for figures in sequences.values():
            row = figures.get(label)
            best = row and row["all"] >= max(each["all"] for each in figures.values())
            text = row and f"{row['all']:.1f} ({row['covered']:.1f} @ {row['coverage']:.0f}, {row['edges']:.0f})"
            cells.append(f"**{text}**" if best else text or "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cuda_section():
    """The measurements of bench/cuda/run.py, which may come from another machine."""
    if not CUDA_FIGURES.exists():
        return "## On a GPU\n\nNot measured yet: `python bench/cuda/run.py` writes what this section is made of."
    measured = json.loads(CUDA_FIGURES.read_text())
    driver = measured["driver"]
    lines = [
        "## On a GPU",
        "",
        f"- {measured['date']}, {measured['gpu']}, driver for CUDA {driver // 1000}.{driver % 1000 // 10}, "
        f"torch {measured['torch']}, cuda/ {measured['sources'][:12]}",
        f"- a copy moves {measured['bandwidth'] / 1e12:.2f} TB/s, a matrix product does "
        f"{measured['matrix_rate'] / 1e12:.0f} TFLOP/s",
        "",
        "| | median | floor | of the floor's speed | beside |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in measured["rows"]:
        beside = ", ".join(f"{name} {other / row['seconds']:.2f} x" for name, other in row["others"].items())
        part = row["floor"] / row["seconds"]
        lines.append(f"| {row['name']} | {seconds(row['seconds'])} | {seconds(row['floor'])} | {part:.0%} | {beside} |")
    return "\n".join(lines)


def machine_of(document):
    machine = document["machine_info"]
    cpu = machine.get("cpu", {})
    name, cores = cpu.get("brand_raw", machine["machine"]), cpu.get("count", "?")
    return f"{document['datetime'][:10]}, {name}, {cores} cores, {machine['system']}"


def groups_of(document):
    groups = {}
    for benchmark in document["benchmarks"]:
        groups.setdefault(benchmark["group"] or benchmark["name"], []).append(benchmark)
    return groups


def report(document):
    head = [
        "# Benchmarks",
        "",
        "Written by `bench/report.py` from one run; no figure is typed by hand. Each table is one run on one machine,",
        "so look at ratios: times are medians, and the machine is shared.",
        "",
        f"- {machine_of(document)}",
        f"- {versions()}",
    ]
    tables = (table(*group) for group in groups_of(document).items())
    return "\n\n".join(["\n".join(head), fidelity_section(), *tables, cuda_section()]) + "\n"


def merged(page, document):
    """A page with the tables of a document in place of its own."""
    head, *sections = page.rstrip("\n").split("\n\n## ")
    by_title = {section.split("\n", 1)[0]: f"## {section}" for section in sections}
    for title, benchmarks in groups_of(document).items():
        heading, rest = table(title, benchmarks).split("\n", 1)
        by_title[title] = f"{heading}\n\n{machine_of(document)}.\n{rest}"
    for title in ("What memory shows", "On a GPU"):
        by_title.pop(title, None)
    return "\n\n".join([head, fidelity_section(), *by_title.values(), cuda_section()]) + "\n"


if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if each != "--merge"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    page = Path(__file__).parents[1] / "BENCHMARKS.md"
    measured = json.loads(Path(arguments[0]).read_text())
    page.write_text(merged(page.read_text(), measured) if "--merge" in sys.argv else report(measured))
