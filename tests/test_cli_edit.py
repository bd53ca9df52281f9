"""``mosaicmem edit``: what it moves, copies and erases, and what it refuses."""

import json

import numpy as np
import pytest

from cli_helpers import run, succeed
from memory_helpers import filled_store
from mosaicmem import MosaicMemoryStore


@pytest.fixture
def saved(tmp_path, rng):
    """A folder with a store, and the store."""
    store, _ = filled_store(rng, 4)
    store.save(tmp_path / "memory")
    store.close()
    return tmp_path, store


def edited(folder, *arguments):
    """The store that a command writes, and its figures."""
    done = succeed("edit", "memory", *arguments, "--output", "edited", "--force", "--json", cwd=folder)
    return MosaicMemoryStore.open(folder / "edited"), json.loads(done.stdout)


def centres(store):
    return store.describe_patches(store.patch_ids)["centre"]


def half(store):
    """A box around the patches to the left of the middle, as text, and which those are."""
    low, high = store.bounds
    middle = float(np.median(centres(store)[:, 0]))
    box = ",".join(map(repr, [*(low - 1).tolist(), middle, *(high[1:] + 1).tolist()]))
    return box, centres(store)[:, 0] <= middle


class TestOperations:
    def test_translate(self, saved):
        folder, store = saved
        moved, figures = edited(folder, "translate", "--by", "-1,0.5,2")
        np.testing.assert_allclose(centres(moved), centres(store) + np.array([-1, 0.5, 2]), atol=1e-5)
        assert figures == {"patches": len(store), "before": len(store), "after": len(store), "store": "edited"}

    def test_in_a_box(self, saved):
        folder, store = saved
        box, inside = half(store)
        moved, figures = edited(folder, "translate", "--by", "0,0,9", "--box", box)
        assert figures["patches"] == inside.sum() < len(store)
        np.testing.assert_allclose(centres(moved) - centres(store), np.outer(inside, (0, 0, 9)), atol=1e-5)

    def test_erase_and_crop_are_opposites(self, saved):
        folder, store = saved
        box, inside = half(store)
        assert len(edited(folder, "erase", "--box", box)[0]) == (~inside).sum()
        assert len(edited(folder, "crop", "--box", box)[0]) == inside.sum()

    def test_sphere(self, saved):
        folder, store = saved
        centre = centres(store)[0]
        left, _ = edited(folder, "erase", "--sphere", ",".join(map(repr, [*centre.tolist(), 0.5])))
        distances = np.linalg.norm(centres(store) - centre, axis=1)
        assert len(left) == (distances > 0.5).sum() < len(store)

    def test_duplicate(self, saved):
        folder, store = saved
        double, figures = edited(folder, "duplicate", "--by", "5,0,0")
        assert figures["after"] == len(double) == 2 * len(store)

    def test_rotate_about_the_middle(self, saved):
        folder, store = saved
        turned, _ = edited(folder, "rotate", "--axis", "y", "--degrees", "180")
        middle = store.bounds.mean(axis=0)
        expected = middle + (centres(store) - middle) * (-1, 1, -1)
        np.testing.assert_allclose(centres(turned), expected, atol=1e-4)

    def test_flip_and_scale_about_a_point(self, saved):
        folder, store = saved
        flipped, _ = edited(folder, "flip", "--axis", "0,0,2", "--about", "0,0,1")
        np.testing.assert_allclose(centres(flipped), centres(store) * (1, 1, -1) + (0, 0, 2), atol=1e-4)
        larger, _ = edited(folder, "scale", "--factor", "2", "--about", "0,0,0")
        np.testing.assert_allclose(centres(larger), 2 * centres(store), atol=1e-4)


class TestPlaces:
    def test_the_store_itself_changes_only_with_force(self, saved):
        folder, store = saved
        refused = run("edit", "memory", "translate", "--by", "1,0,0", "-o", "memory", cwd=folder)
        assert (refused.returncode, "is the store itself; --force changes it in place" in refused.stderr) == (1, True)
        succeed("edit", "memory", "translate", "--by", "1,0,0", "-o", "memory", "--force", cwd=folder)
        moved = MosaicMemoryStore.open(folder / "memory")
        np.testing.assert_allclose(centres(moved), centres(store) + np.array([1, 0, 0]), atol=1e-5)

    def test_a_dry_run_writes_nothing(self, saved):
        folder, store = saved
        before = sorted(path.name for path in folder.rglob("*"))
        done = succeed("edit", "memory", "translate", "--by", "1,0,0", "--dry-run", cwd=folder)
        assert (
            f"Moved {len(store)} patches: {len(store)} before, {len(store)} after; nothing was written" in done.stdout
        )
        assert sorted(path.name for path in folder.rglob("*")) == before

    def test_a_preview(self, saved):
        pytest.importorskip("matplotlib")
        folder, _ = saved
        command = ["edit", "memory", "translate", "--by", "1,0,0", "--dry-run", "--preview", "both.png"]
        succeed(*command, cwd=folder)
        assert (folder / "both.png").stat().st_size > 10_000
        assert "both.png is there already" in run(*command, cwd=folder).stderr

    @pytest.mark.parametrize("operation", ["erase", "crop"])
    def test_a_region_without_patches(self, saved, operation):
        folder, _ = saved
        done = run("edit", "memory", operation, "--sphere", "99,99,99,1", "-o", "edited", cwd=folder)
        assert done.returncode == 1
        assert "--sphere: no patch is in it; those of memory are within (" in done.stderr
        assert not (folder / "edited").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["melt", "-o", "x"],
            "OPERATION: expected translate, rotate, scale, flip, erase, crop or duplicate",
        ),
        (["erase", "-o", "x"], "--sphere, --box: expected one of the two for erase"),
        (["translate", "-o", "x"], "--by: expected one for translate"),
        (["rotate", "--axis", "x", "-o", "x"], "--degrees: expected one for rotate"),
        (["erase", "--by", "1,0,0", "--sphere", "0,0,0,1", "-o", "x"], "--by: expected translate or duplicate"),
        (["translate", "--by", "1,0", "-o", "x"], "--by: expected 3 numbers with commas between them, got '1,0'"),
        (["translate", "--by", "1,0,nan", "-o", "x"], "--by: expected 3 numbers"),
        (["flip", "--axis", "0,0,0", "-o", "x"], "--axis: expected a direction, got '0,0,0'"),
        (["erase", "--sphere", "0,0,0,-1", "-o", "x"], "--sphere: radius: expected"),
        (["erase", "--box", "1,1,1,0,0,0", "-o", "x"], "--box: high: expected at least low"),
        (["erase", "--box", "0,0,0,1,1,1", "--sphere", "0,0,0,1", "-o", "x"], "expected at most one of the two"),
        (["translate", "--by", "1,0,0"], "--output, --dry-run: expected exactly one of the two"),
        (["translate", "--by", "1,0,0", "-o", "x", "--dry-run"], "--output, --dry-run: expected exactly one"),
        (["scale", "--factor", "nan", "-o", "x"], "--factor: expected a finite number"),
    ],
)
def test_misuse(saved, arguments, message):
    done = run("edit", "memory", *arguments, cwd=saved[0])
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
