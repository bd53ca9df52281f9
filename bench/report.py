"""Writes BENCHMARKS.md from all that is measured.

pytest bench/bench_*.py --benchmark-json=bench.json && python bench/report.py bench.json

The tables of a run, of all benchmarks or of some, replace those of the same machine and title; all else stays, and
figures of other machines are beside them. Without a file, the page is only written anew.
"""

import json
import sys
from pathlib import Path

from machines import fold, machines

sys.path.insert(0, str(Path(__file__).parent / "scale"))

from section import scale_section

HERE = Path(__file__).parent
PAGE = HERE.parent / "BENCHMARKS.md"
MEASURED = HERE / "measured"
CUDA_FIGURES = HERE / "cuda" / "measured.json"
OWN = "mosaicmem"
PEERS = ("numpy", "scipy", "pykdtree", "torch", "open3d", "published")
CURVES = ("retrieval", "insertion", "composing")


def seconds(value):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def own_row(rows):
    """The row that others are compared with: the first of this library."""
    return next((row for row in rows if row["name"].split()[0] == OWN), None)


def head(known):
    lines = [
        "# Benchmarks",
        "",
        "Written by `bench/report.py`; no figure is typed by hand. Each machine has columns of its own, from its own",
        "run. Machines are shared, so look at ratios: times are medians, and a ratio says how many times as long as",
        "mosaicmem the other takes.",
        "",
    ]
    for letter, machine in lettered(known):
        latest = max(group["date"] for group in machine["groups"].values())
        lines.append(f"- **{letter}**: {machine['machine']}; {latest}, {versions_of(machine)}")
    return "\n".join(lines)


def versions_of(machine):
    """Of every library that any of its runs had."""
    told = [each for group in machine["groups"].values() for each in group["versions"].split(", ")]
    found = [each for each in dict.fromkeys(told) if not each.endswith("not installed")]
    return ", ".join(found)


def lettered(known):
    return [(chr(ord("A") + i), machine) for i, machine in enumerate(known)]


def lost_section(known):
    """Where another library is faster, at the top."""
    lines = ["## Where a peer is ahead", ""]
    for letter, machine in lettered(known):
        for title, group in machine["groups"].items():
            own = own_row(group["rows"])
            for row in group["rows"]:
                if own is None or row["name"].split()[0] not in PEERS or row["median"] >= own["median"]:
                    continue
                lines.append(
                    f"- {letter}: {row['name']} takes {row['median'] / own['median']:.2f} of the time of mosaicmem in "
                    f"[{title}](#{anchor(title)}){remarks(row)}"
                )
    if len(lines) == 2:
        lines.append("Nowhere in the tables below.")
    return "\n".join(lines)


def remarks(row):
    return f" ({', '.join(f'{key} {value}' for key, value in row['extra'].items())})" if row["extra"] else ""


def anchor(title):
    """The fragment that renderers of Markdown give a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def group_section(title, known):
    """One table: a line for each contestant, two columns for each machine that has run it."""
    there = [(letter, machine["groups"][title]) for letter, machine in lettered(known) if title in machine["groups"]]
    columns = [f"{letter} | beside mosaicmem" for letter, _ in there]
    lines = [f"## {title}", "", f"| | {' | '.join(columns)} | |", f"| --- |{' ---: | ---: |' * len(there)} --- |"]
    first = sorted(there[0][1]["rows"], key=lambda row: row["median"])
    names = list(dict.fromkeys(key_of(row) for row in [*first, *(r for _, group in there for r in group["rows"])]))
    for name in names:
        cells, extra = [], []
        for letter, group in there:
            own = own_row(group["rows"])
            row = next((row for row in group["rows"] if key_of(row) == name), None)
            if row is None:
                cells += ["-", ""]
                continue
            cells += [seconds(row["median"]), f"{row['median'] / own['median']:.2f} x" if own else ""]
            told = ", ".join(f"{key} {value}" for key, value in row["extra"].items() if not isinstance(value, str))
            extra += [f"{letter}: {told}" if len(there) > 1 else told] if told else []
        lines.append(f"| {name} | {' | '.join(cells)} | {'; '.join(extra)} |")
    return "\n".join(lines)


def key_of(row):
    """A contestant, with what distinguishes it from others of its name."""
    return ", ".join(
        [row["name"], *(f"{key} {value}" for key, value in row["extra"].items() if isinstance(value, str))]
    )


def curves_section():
    """The pictures of bench/curves.py."""
    path = MEASURED / "curves.json"
    if not path.exists():
        return "## Time against size\n\nNot measured yet: `python bench/curves.py` draws what this section shows."
    measured = json.loads(path.read_text())
    pictures = "\n".join(f"![{name}](bench/measured/{name}.svg)" for name in CURVES)
    return f"## Time against size\n\nOf `bench/curves.py`, {measured['date']}, {measured['machine']}.\n\n{pictures}"


def elsewhere_section(known):
    """Figures of a library that is not here, beside those of this one in the same run, and what it takes today."""
    told = json.loads((MEASURED / "elsewhere.json").read_text())
    today = [f"{letter} today" for letter, _ in lettered(known)]
    lines = [
        "## Measured elsewhere: the Rust implementation",
        "",
        *told["note"],
        "",
        f"| | Rust | mosaicmem then | of it | {' | '.join(today)} |",
        f"| --- | ---: | ---: | ---: |{' ---: |' * len(today)}",
    ]
    for row in told["rows"]:
        found = []
        for _, machine in lettered(known):
            rows = machine["groups"].get(row["group"], {"rows": []})["rows"]
            own = own_row(rows)
            found.append(seconds(own["median"]) if own else "-")
        ratio = f"{row['mosaicmem'] / row['rust']:.2f}"
        lines.append(
            f"| {row['group']} | {seconds(row['rust'])} | {seconds(row['mosaicmem'])} | {ratio} | {' | '.join(found)} |"
        )
    return "\n".join(lines)


def fidelity_section():
    """The measurements of bench/fidelity.py."""
    title = "## What memory shows"
    path = MEASURED / "fidelity.json"
    if not path.exists():
        return f"{title}\n\nNot measured yet: `python bench/fidelity.py` writes what this section is made of."
    measured = json.loads(path.read_text())
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


def report(known):
    titles = dict.fromkeys(title for machine in known for title in machine["groups"])
    tables = [group_section(title, known) for title in titles]
    parts = [head(known), lost_section(known), curves_section(), scale_section(), fidelity_section(), *tables]
    return "\n\n".join([*parts, elsewhere_section(known), cuda_section()]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] == ["--help"]:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        fold(json.loads(Path(name).read_text()))
    PAGE.write_text(report(machines()))
