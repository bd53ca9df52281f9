"""Settings of commands: what show-config prints, given back to --config, changes nothing."""

import json

import pytest

from cli_helpers import run
from mosaicmem import PipelineConfig
from mosaicmem.cli._errors import UsageError
from mosaicmem.cli._settings import COMMANDS, read_settings

LEFT_OPEN = {"prompt", "num_threads", "half_life"}


def shown(*options):
    return json.loads(run("show-config", *options).stdout)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(run("show-config").stdout)
    return path


class TestShowConfig:
    def test_all_settings_are_there(self):
        assert set(shown()) == set(PipelineConfig.model_fields)
        assert PipelineConfig(**shown()) == PipelineConfig()

    def test_what_a_command_decides_is_null(self):
        assert {name for name in LEFT_OPEN if shown()[name] is None} == LEFT_OPEN
        assert {name for own in COMMANDS.values() for name in own} == LEFT_OPEN

    def test_for_a_command(self):
        assert shown("--for", "generate")["half_life"] == 2
        assert shown("--for", "evaluate")["half_life"] == 0
        assert "pictures" in shown("--for", "demo")["prompt"]
        assert shown("--for", "bench")["num_threads"] == 1

    def test_what_was_given_is_shown(self, tmp_path):
        (tmp_path / "c.json").write_text('{"half_life": 0, "num_threads": null, "seed": 7}')
        got = shown("--config", tmp_path / "c.json", "--set", "prompt=null")
        assert (got["half_life"], got["num_threads"], got["seed"], got["prompt"]) == (0, None, 7, "null")

    def test_the_schema_allows_null_where_it_is_printed(self):
        properties = shown("--schema")["properties"]
        assert {name for name in properties if "null" in properties[name].get("type", [])} == LEFT_OPEN


class TestRoundTrip:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_settings_of_each_command(self, config, tmp_path, command):
        plain = read_settings(None, command=command)
        assert read_settings(config, command=command) == plain
        (tmp_path / "own.json").write_text(run("show-config", "--for", command).stdout)
        assert read_settings(tmp_path / "own.json", command=command) == plain

    def test_zero_in_a_file_is_zero(self, tmp_path):
        (tmp_path / "c.json").write_text('{"half_life": 0.0}')
        assert read_settings(tmp_path / "c.json", command="generate").half_life == 0
        assert read_settings(tmp_path / "c.json", ["half_life=null"], command="generate").half_life == 2

    def test_in_python_null_is_the_default(self, config):
        assert PipelineConfig.load(config) == PipelineConfig()
        with pytest.raises(ValueError, match="window_size"):
            PipelineConfig(window_size=None)

    @pytest.mark.filterwarnings("ignore:trajectory. memory has:mosaicmem.SuspiciousInput")  # it looks away from memory
    def test_generate(self, tmp_path, scene, config):
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:4", "--frames", "6:8"]
        for name, more in (("plain", []), ("file", ["--config", config])):
            assert run(*arguments, "-o", tmp_path / name, *more).returncode == 0
        written = [(tmp_path / name / "config.json").read_text() for name in ("plain", "file")]
        assert written[0] == written[1]
        assert json.loads(written[0])["half_life"] == 2
        frames = [(tmp_path / name / "frames" / "frame-000001.png").read_bytes() for name in ("plain", "file")]
        assert frames[0] == frames[1]

    def test_evaluate(self, scene, config):
        arguments = [
            "evaluate",
            "--scene",
            scene,
            "--memory-frames",
            "0:4",
            "--frames",
            "8:10",
            "--stride",
            "8",
            "--json",
        ]
        plain, given = (json.loads(run(*arguments, *more).stdout) for more in ([], ["--config", config]))
        assert plain["options"] == given["options"]
        assert plain["runs"][0]["targets"] == given["runs"][0]["targets"]

    def test_inspect(self, memory, config):
        arguments = ["inspect", memory / "store", "--trajectory", memory / "path.json", "--coverage", "--json"]
        assert run(*arguments).stdout == run(*arguments, "--config", config).stdout
        path = ["inspect", memory / "path.json", "--json"]
        assert run(*path).stdout == run(*path, "--config", config).stdout

    def test_visualize(self, tmp_path, memory, config):
        pytest.importorskip("matplotlib")
        arguments = ["visualize", memory / "store", "--trajectory", memory / "path.json", "--frames", "0"]
        for name, more in (("plain", []), ("file", ["--config", config])):
            assert run(*arguments, "-o", tmp_path / name, *more).returncode == 0
        for file in ("coverage.png", "view-000000.png"):
            assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "file" / file).read_bytes()

    def test_bench(self, config):
        arguments = ["bench", "--case", "16x16,2,1", "--repeats", 1, "--memory-size", "64x64", "--json"]
        plain, given = (json.loads(run(*arguments, *more).stdout) for more in ([], ["--config", config]))
        assert plain["threads"] == given["threads"] == 1
        assert plain["memory"]["parts"].keys() == given["memory"]["parts"].keys()


class TestNames:
    """Errors name what a person typed."""

    @pytest.mark.parametrize(
        ("changes", "given", "message"),
        [
            (["seed=-1"], {}, "--set: seed: "),
            ([], {"seed": -1}, "--seed: "),
            ([], {"num_threads": -1}, "--threads: "),
            (["window_size=2"], {}, "--set: window_overlap: "),
        ],
    )
    def test_options(self, changes, given, message):
        with pytest.raises(UsageError, match=message):
            read_settings(None, changes, given, command="generate")

    def test_a_setting_without_effect_is_refused(self, memory):
        done = run("inspect", memory / "path.json", "--set", "top_k=5")
        assert "--set: top_k has no effect here; the settings that count are keyframe_angle" in done.stderr
        assert done.returncode == 2
