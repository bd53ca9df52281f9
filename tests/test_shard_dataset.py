"""Training on the shards of a build: each sample once, in an order that any rank and worker can resume."""

import json
import shutil
from collections import Counter
from contextlib import suppress
from itertools import groupby

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch.multiprocessing as processes  # noqa: E402

from build_helpers import CONFIG, write_scenes  # noqa: E402
from mosaicmem import FormatError  # noqa: E402
from mosaicmem.scale import ShardDataset, ShardLoader, build  # noqa: E402


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    config = CONFIG.model_copy(update={"step": 3, "stores": False, "shard_bytes": 300_000})
    report = build(write_scenes(folder, 3), folder / "out", config)
    assert report.samples == 5 + 5 + 5
    return folder / "out"


def key(sample):
    sequence, start = sample["sequence"], sample["start"]
    return int(sequence), int(start)


def keys(dataset):
    return [key(sample) for sample in dataset]


def of_name(name):
    sequence, window, _ = name.split("-")
    return int(sequence), 3 * int(window)


def batch_keys(batch):
    return list(zip(batch["sequence"].tolist(), batch["start"].tolist(), strict=True))


EVERY = {(sequence, 3 * i) for sequence in range(3) for i in range(5)}


class TestOrder:
    def test_an_epoch_has_each_sample_once(self, built):
        seen = keys(ShardDataset(built))
        assert len(seen) == len(set(seen))
        assert set(seen) == EVERY

    def test_without_shuffling_it_is_that_of_the_build(self, built):
        assert keys(ShardDataset(built, shuffle=False)) == sorted(EVERY)

    def test_it_depends_on_seed_and_epoch_alone(self, built):
        dataset = ShardDataset(built)
        first = keys(dataset)
        assert keys(ShardDataset(built)) == first
        assert keys(ShardDataset(built, seed=1)) != first
        dataset.begin(1)
        assert keys(dataset) != first

    def test_only_samples_of_mixed_shards_are_mixed(self, built):
        shards = [
            shard for path in (built / "shards").glob("*.json") for shard in json.loads(path.read_text())["shards"]
        ]
        shard_of = {of_name(name): shard["name"] for shard in shards for name, _, _ in shard["samples"]}
        seen = [shard_of[each] for each in keys(ShardDataset(built, mixed=1))]
        assert len(shards) > 3
        assert [name for name, _ in groupby(seen)] == list(dict.fromkeys(seen))
        mixed = [shard_of[each] for each in keys(ShardDataset(built))]
        assert len(list(groupby(mixed))) > len(shards)

    @pytest.mark.parametrize("world", [2, 3, 4, 20])
    @pytest.mark.parametrize("mixed", [1, 2, 16])
    def test_ranks_share_the_samples(self, built, world, mixed):
        ranks = [ShardDataset(built, mixed=mixed, rank=rank, world_size=world) for rank in range(world)]
        seen = [keys(rank) for rank in ranks]
        assert [len(each) for each in seen] == [len(rank) for rank in ranks]
        assert Counter(sample for each in seen for sample in each) == Counter(EVERY)
        whole = keys(ShardDataset(built, mixed=mixed))
        assert seen[1] == whole[1::world]

    def test_even_ranks_have_equally_many(self, built):
        ranks = [keys(ShardDataset(built, rank=rank, world_size=4, even=True)) for rank in range(4)]
        assert [len(rank) for rank in ranks] == [3] * 4
        assert len({sample for rank in ranks for sample in rank}) == 12

    @pytest.mark.parametrize("begin", [0, 1, 6, 7])
    def test_it_begins_anywhere(self, built, begin):
        dataset = ShardDataset(built, rank=1, world_size=2, mixed=2)
        whole = keys(dataset)
        dataset.begin(0, begin)
        assert keys(dataset) == whole[begin:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
class TestLoader:
    @pytest.mark.parametrize("workers", [0, 1, 2, 3])
    def test_batches_do_not_depend_on_workers(self, built, workers):
        loader = ShardLoader(ShardDataset(built), batch_size=2, num_workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader) == 8
        assert [each for batch in batches for each in batch_keys(batch)] == keys(ShardDataset(built))
        assert len(batches[0]["memory"]) == 2

    def test_epochs_follow_each_other(self, built):
        loader = ShardLoader(ShardDataset(built), batch_size=4)
        first, second = ([each for batch in loader for each in batch_keys(batch)] for _ in range(2))
        assert set(first) == set(second) == EVERY
        assert first != second

    @pytest.mark.parametrize("workers", [0, 2])
    def test_it_resumes_where_it_was(self, built, workers):
        loader = ShardLoader(ShardDataset(built), batch_size=2, num_workers=workers)
        list(loader)
        expected, state = [], None
        for number, batch in enumerate(loader):
            if number == 3:
                state = loader.state_dict()  # workers are ahead of it
            elif number > 3:
                expected += batch_keys(batch)
        resumed = ShardLoader(ShardDataset(built), batch_size=2, num_workers=3 - workers)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert state == {"epoch": 1, "samples": 8}
        assert [each for batch in resumed for each in batch_keys(batch)] == expected

    def test_two_ranks_of_gloo_see_each_sample_once(self, built, tmp_path):
        processes.spawn(see, args=(str(built), str(tmp_path)), nprocs=2)
        seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        assert sorted(tuple(each) for rank in seen for each in rank) == sorted(EVERY)
        assert len(seen[0]) == 8


def see(rank, built, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    loader = ShardLoader(ShardDataset(built), batch_size=3, num_workers=2)
    seen = [each for batch in loader for each in batch_keys(batch)]
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(seen, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded, and forks
def test_remote_shards_are_read_by_workers(built):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.asyn import AsyncFileSystem
    from fsspec.implementations.local import LocalFileSystem

    class Unforkable(AsyncFileSystem):
        """As the file systems of object stores are."""

        protocol = "unforkable"
        cachable = False

        async def _cat_file(self, path, start=None, end=None, **_):
            return LocalFileSystem().cat_file("/" + path.lstrip("/"), start, end)

    fsspec.register_implementation("unforkable", Unforkable, clobber=True)
    loader = ShardLoader(ShardDataset(f"unforkable://{built}"), batch_size=2, num_workers=1)
    assert {each for batch in loader for each in batch_keys(batch)} == EVERY


class TestDamage:
    @pytest.fixture
    def copy(self, built, tmp_path):
        return shutil.copytree(built, tmp_path / "copy")

    def test_an_unfinished_build(self, copy):
        (copy / "index.json").unlink()
        with pytest.raises(FileNotFoundError, match="is the build finished"):
            ShardDataset(copy)

    def test_an_index_of_something_else(self, copy):
        (copy / "index.json").write_text('{"format": "other"}')
        with pytest.raises(FormatError, match=r"index\.json: damaged, or of another version"):
            ShardDataset(copy)

    def test_a_list_of_samples_that_does_not_fit(self, copy):
        path = copy / "shards" / "000001.json"
        record = json.loads(path.read_text())
        record["shards"][0]["samples"][0][2] = 10**12
        path.write_text(json.dumps(record))
        with pytest.raises(FormatError, match="its list of samples does not fit the index"):
            list(ShardDataset(copy))

    def test_a_shard_that_is_cut_off(self, copy):
        path = copy / "shards" / "000001-000.tar"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(FormatError, match=r"000001-000\.tar: cut off"):
            list(ShardDataset(copy))

    @pytest.mark.parametrize("at", [0, 130, 600, 700, 2000])
    def test_changed_bytes_are_an_error_or_other_numbers(self, copy, at):
        path = copy / "shards" / "000001-000.tar"
        content = bytearray(path.read_bytes())
        content[at : at + 64] = bytes(64)
        path.write_bytes(content)
        with suppress(FormatError):
            assert len(list(ShardDataset(copy))) == 15

    @pytest.mark.parametrize(
        "shard",
        [
            ["shards/../../secret-000.tar", 3, 100],
            ["/etc/000000-000.tar", 3, 100],
            ["shards/000000-000.tar", 10**12, 100],
            ["shards/000000-000.tar", 3.0, 100],
            ["shards/000000-000.tar", -3, 100],
            ["shards/000000-000.tar", 3, 10**30],
            ["shards/000000-000.tar", 3],
            7,
        ],
    )
    def test_an_index_of_impossible_shards(self, copy, shard):
        index = json.loads((copy / "index.json").read_text())
        index["shards"][0] = shard
        (copy / "index.json").write_text(json.dumps(index))
        with pytest.raises(FormatError, match=r"index\.json"):
            ShardDataset(copy)

    @pytest.mark.parametrize("ends", [(0.0, 100.0), (0, 10**14), (-5, 100), (100, 0), ("0", "9")])
    def test_impossible_places_of_samples(self, copy, ends):
        path = copy / "shards" / "000001.json"
        record = json.loads(path.read_text())
        record["shards"][0]["samples"][0][1:] = ends
        path.write_text(json.dumps(record))
        with pytest.raises(FormatError):
            list(ShardDataset(copy))

    def test_a_member_of_negative_size(self, copy):
        path = copy / "shards" / "000001-000.tar"
        content = bytearray(path.read_bytes())
        content[124:136] = (-1024).to_bytes(12, "big", signed=True)
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        path.write_bytes(content)
        with pytest.raises(FormatError, match="expected a regular file"):
            list(ShardDataset(copy))

    def test_a_group_of_many_shards(self, tmp_path):
        config = CONFIG.model_copy(update={"step": 1, "stores": False, "shard_bytes": 1024, "sequences_per_shard": 6})
        build(write_scenes(tmp_path, 6), tmp_path / "out", config)
        assert len(list((tmp_path / "out" / "shards").glob("*.tar"))) > 64
        for shuffle in (False, True):
            assert len(keys(ShardDataset(tmp_path / "out", shuffle=shuffle, mixed=1))) > 64

    @pytest.mark.parametrize(("rank", "world"), [(1, None), (None, 2), (2, 2), (-1, 2)])
    def test_ranks_are_checked(self, built, rank, world):
        with pytest.raises(ValueError, match="rank"):
            ShardDataset(built, rank=rank, world_size=world)
