"""BENCHMARKS.md: made of what is measured, machine by machine, with what others do better at the top."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The two modules, with figures in a folder of their own."""
    monkeypatch.syspath_prepend(str(BENCH))
    for name in ("machines", "report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    machines, report = (importlib.import_module(name) for name in ("machines", "report"))
    monkeypatch.setattr(machines, "FOLDER", tmp_path)
    return machines, report


def run(brand, date, **groups):
    """What pytest-benchmark would write; groups are {name: (median, extra)} by title."""
    return {
        "datetime": f"{date}T00:00:00",
        "machine_info": {
            "machine": "x86_64",
            "system": "Linux",
            "simd": "avx2",
            "versions": {"Python": "3.11", "mosaicmem": "0.1"},
            "cpu": {"brand_raw": brand, "family": 6, "model": 1, "count": 2},
        },
        "benchmarks": [
            {"name": f"test_{name}", "group": title, "stats": {"median": median, "rounds": 3}, "extra_info": extra}
            for title, rows in groups.items()
            for name, (median, extra) in rows.items()
        ],
    }


def test_machines_stand_beside_each_other_and_none_is_lost(page):
    machines, report = page
    machines.fold(run("Intel", "2026-01-01", work={"mosaicmem": (2e-3, {}), "torch": (1e-3, {})}))
    machines.fold(run("AMD", "2026-01-02", work={"mosaicmem": (1e-3, {}), "torch": (3e-3, {})}))
    machines.fold(run("AMD", "2026-01-03", other={"mosaicmem": (5e-3, {})}))
    text = report.report(machines.machines())
    assert "- **A**: AMD (family 6, model 1), 2 cores, avx2, Linux; 2026-01-03" in text
    assert "- **B**: Intel (family 6, model 1), 2 cores, avx2, Linux; 2026-01-01" in text
    assert "| mosaicmem | 1 ms | 1.00 x | 2 ms | 1.00 x |  |" in text
    assert "| torch | 3 ms | 3.00 x | 1 ms | 0.50 x |  |" in text
    assert "## other" in text


def test_a_new_run_replaces_the_same_table_of_the_same_machine(page):
    machines, report = page
    for brand, median in (("AMD", 1e-3), ("Intel", 2e-3), ("AMD", 4e-3)):
        machines.fold(run(brand, "2026-01-01", work={"mosaicmem": (median, {})}))
    text = report.report(machines.machines())
    assert "| mosaicmem | 4 ms | 1.00 x | 2 ms | 1.00 x |  |" in text
    assert "| 1 ms" not in text


def test_a_peer_that_is_ahead_is_named_at_the_top(page):
    machines, report = page
    rows = {"mosaicmem": (2e-3, {}), "torch": (1e-3, {"note": "one"}), "limit": (1e-4, {}), "numpy": (3e-3, {})}
    machines.fold(run("AMD", "2026-01-01", **{"work (2, 3)": rows}))
    lost = report.lost_section(machines.machines())
    assert lost.splitlines()[2:] == [
        "- A: torch takes 0.50 of the time of mosaicmem in [work (2, 3)](#work-2-3) (note one)"
    ]


def test_variants_of_one_contestant_have_lines_of_their_own(page):
    machines, report = page
    rows = {"mosaicmem[a]": (1e-3, {"policy": "a"}), "mosaicmem[b]": (2e-3, {"policy": "b", "part": 0.5})}
    machines.fold(run("AMD", "2026-01-01", work=rows))
    text = report.group_section("work", machines.machines())
    assert "| mosaicmem, policy a | 1 ms | 1.00 x |  |" in text
    assert "| mosaicmem, policy b | 2 ms | 2.00 x | part 0.5 |" in text


def test_the_page_is_that_of_the_figures(page, monkeypatch):
    machines, report = page
    monkeypatch.setattr(machines, "FOLDER", BENCH / "measured" / "machines")
    written = (BENCH.parent / "BENCHMARKS.md").read_text()
    assert written == report.report(machines.machines()), "python bench/report.py writes it anew"
