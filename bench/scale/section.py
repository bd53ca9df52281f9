"""The section of BENCHMARKS.md that shows what the scripts of this folder have measured."""

import json
from pathlib import Path

FILE = Path(__file__).parent.parent / "measured" / "scale.json"
PARTS = ("build", "sessions", "world", "tiles", "saving")


def scale_section():
    """Of all parts that are measured."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    parts = [DRAWN[part](kept[part]) for part in PARTS if part in kept]
    missing = [f"`python bench/scale/{part}.py`" for part in PARTS if part not in kept]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.")
    return "\n\n".join(["## Scale", *parts])


def title(part, told, what):
    return f"### {what}\n\nOf `bench/scale/{part}.py`, {told['date']}, {told['machine']}."


def table(rows, columns):
    """Rows of dicts, with a column for each (heading, function of a row)."""
    lines = [f"| {' | '.join(columns)} |", f"|{' ---: |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(show(row) for show in columns.values())} |" for row in rows)])


def size(nbytes):
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def spread(times):
    return f"{times['p50']:.2f}, {times['p99']:.2f}"


def build(told):
    one, two = (told[f"sequences an hour, {n} processes"] for n in (1, 2))
    each, (width, height) = told["nbytes"] / told["sequences"], told["size"]
    return title("build", told, "Building data sets") + (
        f"\n\n{told['sequences']} sequences of {told['frames']} frames of {width}x{height} pixels, from PNG files to "
        f"{told['samples']} samples ({size(told['nbytes'])} with stores), encoded by the synthetic VAE: {one} "
        f"sequences an hour by one process, {two} by two ({told['two processes to one']:.2f} x). So 10^5 of them take "
        f"{1e5 / one:.0f} core hours and {size(each * 1e5)}, besides the VAE."
    )


def sessions(told):
    kinds = {"context": "context()", "context of a session on disk": "context() of a session on disk"}
    kinds |= {"keyframe": "a new keyframe"}
    lines = [f"| {shown} | {spread(told[kind])} | {told[kind]['most']:.0f} |" for kind, shown in kinds.items()]
    return title("sessions", told, "Serving sessions") + (
        f"\n\n{told['sessions']} sessions of {told['keyframes']} keyframes of 44x80x16, "
        f"{size(told['of all memories'])} together, under {size(told['budget'])}. Two threads ask for contexts of 5 "
        f"latent frames and 256 patches, of sessions by Zipf's law: {told['requests a second']:.0f} requests a second, "
        f"with {told['returns']} returns from disk; at the end {told['on disk']} sessions are on disk, and "
        f"{size(told['in memory'])} in memory.\n\n"
        "| | median, p99, ms | longest |\n| --- | ---: | ---: |\n" + "\n".join(lines)
    )


def world(told):
    columns = {
        "patches": lambda row: f"{row['patches']:,}",
        "insert, median and p99, ms": lambda row: spread(row["insert, ms"]),
        "built in, s": lambda row: f"{row['inserting, s'] + row['saving, s']:.1f}",
        "memory while building": lambda row: size(row["own memory while building"]),
        "on disk": lambda row: size(row["on disk"]),
        "open, s": lambda row: f"{row['open, s']:.2f}",
        "memory": lambda row: size(row["own memory"]),
        "top-64, median and p99, ms": lambda row: spread(row["top-64, ms"]),
        "insert into it": lambda row: spread(row["insert into it, ms"]),
    }
    return title("world", told, "One large world") + (
        f"\n\nKeyframes of 44x80x{told['channels']} in float16, one by one, on one thread; latents and depth lie on "
        "disk. Memory is that of the process without mapped files.\n\n" + table(told["rows"], columns) + "\n\n"
        "![Time and bytes against the number of patches](bench/measured/world.svg)"
    )


def tiles(told):
    asked, alone = told["top-64, ms"], told["of one store, ms"]
    return title("tiles", told, "A world in tiles") + (
        f"\n\n{told['patches']:,} patches in {told['tiles']} tiles, {told['most open patches']:,} open at most. "
        f"On a walk of {told['steps']} steps tiles are opened "
        f"{told['opened']} times. Top-64 takes {asked['p50']:.2f} ms in the median and {asked['p99']:.0f} where tiles "
        f"are opened (p99), {alone['p50']:.2f} ms of one store with everything. The answers are equal."
    )


def saving(told):
    columns = {
        "patches": lambda row: f"{row['patches']:,}",
        "channels": lambda row: f"{row['channels']}",
        "bytes": lambda row: size(row["nbytes"]),
        "saved, MB/s": lambda row: f"{row['saved, bytes a second'] / 1e6:.0f}",
        "the disk, MB/s": lambda row: f"{row['written, bytes a second'] / 1e6:.0f}",
        "of it": lambda row: f"{row['saved, bytes a second'] / row['written, bytes a second']:.2f}",
    }
    return title("saving", told, "Saving") + (
        "\n\nWith checksums, durably; the disk: as many bytes in files of 64 MB, written and synced one after the "
        "other, in the same run.\n\n" + table(told["rows"], columns)
    )


DRAWN = {"build": build, "sessions": sessions, "world": world, "tiles": tiles, "saving": saving}
