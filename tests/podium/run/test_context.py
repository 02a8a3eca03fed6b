"""The stage contract: a folder in, a folder out, skipped when nothing changed, and never
half-written.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from podium.errors import DivergenceError, ParentError, RecipeError, RunFolderError
from podium.metrics import read_metrics
from podium.runtime import peak_memory


def read_record(run_dir: Path, stage: str = "pretrain") -> dict:
    return json.loads((run_dir / stage / "final" / "stage.json").read_text())


def replaced(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.glob("replaced/*"))


def test_a_finished_stage_has_exactly_the_files_of_the_contract(run_demo):
    run_dir = run_demo()
    stage = run_dir / "pretrain"
    assert sorted(p.name for p in stage.iterdir()) == [
        "config.yaml",
        "final",
        "logbook.md",
        "metrics.jsonl",
    ]
    assert sorted(p.name for p in (stage / "final").iterdir()) == [
        "README.md",
        "stage.json",
        "weights.pt",
    ]
    assert [line["step"] for line in read_metrics(stage / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert "finished" in (stage / "logbook.md").read_text()
    card = (stage / "final" / "README.md").read_text()
    assert "# A random walk" in card and "seed 1" in card


def test_stage_json_tells_where_the_output_comes_from(run_demo):
    record = read_record(run_demo())
    wanted = {
        "stage",
        "format",
        "parents",
        "data",
        "config",
        "command",
        "code_revision",
        "libraries",
        "seed",
        "dtype",
        "threads",
        "metrics",
        "tokenizer_sha256",
        "template_sha256",
        "tokens",
        "wall_seconds",
        "cpu_seconds",
        "peak_memory_bytes",
        "energy_watt_hours",
        "energy_assumption",
    }
    assert wanted <= record.keys()
    assert record["stage"] == "pretrain" and record["tokens"] == 6
    assert record["libraries"]["torch"] == torch.__version__
    assert record["wall_seconds"] > 0 and record["peak_memory_bytes"] > 50e6


def test_a_stages_peak_is_not_that_of_the_stages_before(run_demo):
    """Half a GB held and given back before it starts. Seen red: in `podium run` every stage after
    the largest one was said to have taken as much.
    """
    held = np.ones(1 << 26)
    before = peak_memory()
    del held
    assert read_record(run_demo())["peak_memory_bytes"] < before - 400e6


def test_an_unchanged_stage_is_skipped(run_demo):
    first = read_record(run_demo())
    run_dir = run_demo()
    assert run_demo.ran == [] and read_record(run_dir) == first


def test_threads_and_trackers_are_not_part_of_the_result(run_demo):
    run_demo()
    run_demo(sets=["threads=2"])
    assert run_demo.ran == []


def test_a_changed_config_trains_again_and_keeps_the_old_output(run_demo, capsys):
    old = torch.load(run_demo() / "pretrain" / "final" / "weights.pt")
    run_dir = run_demo(sets=["pretrain.learning_rate=0.5"])
    assert run_demo.ran == ["pretrain"]
    assert "learning_rate was 0.1 and is 0.5" in capsys.readouterr().out
    kept = torch.load(run_dir / "replaced" / "pretrain-1" / "final" / "weights.pt")
    assert torch.equal(kept, old) and not torch.equal(
        torch.load(run_dir / "pretrain" / "final" / "weights.pt"), old
    )


def test_a_key_that_came_with_a_newer_podium_makes_nothing_anew(run_demo, capsys):
    """A finished run is opened by the next release, which has a key more, at its default.

    Seen red: the record compared as it was written.
    """
    stage_file = run_demo() / "pretrain" / "final" / "stage.json"
    record = json.loads(stage_file.read_text())
    del record["config"]["learning_rate"]
    stage_file.write_text(json.dumps(record))
    run_demo()
    assert run_demo.ran == []
    run_demo(sets=["pretrain.learning_rate=0.5"])
    assert run_demo.ran == ["pretrain"]
    assert "learning_rate was 0.1 and is 0.5" in capsys.readouterr().out


def test_force_trains_again_although_nothing_changed(run_demo):
    run_demo()
    run_dir = run_demo(force=True)
    assert run_demo.ran == ["pretrain"] and replaced(run_dir) == ["pretrain-1"]


def test_a_parent_made_anew_makes_its_children_anew(run_demo, capsys):
    sections = {"pretrain": {}, "sft": {"model": "pretrain"}}
    both = ("pretrain", "sft")
    run_dir = run_demo(both, **sections)
    assert read_record(run_dir, "sft")["parents"][0]["path"] == "pretrain/final"
    run_demo(both, **sections)
    assert run_demo.ran == []
    run_demo(both, sets=["pretrain.steps=3"], **sections)
    assert run_demo.ran == ["pretrain", "sft"]
    assert "the parent 'pretrain' was made anew" in capsys.readouterr().out


def test_a_changed_data_file_makes_its_reader_anew(run_demo, tmp_path, capsys):
    file = tmp_path / "stories.jsonl"
    file.write_text('{"text": "Ana likes honey."}\n{"text": "An owl sat."}\n')
    sections = {"pretrain": {"reads": True}, "data": {"documents": {"train": str(file)}}}
    record = read_record(run_demo(**sections))
    assert (
        record["data"][0]["records"] == 2
        and record["data"][0]["files"][0]["bytes"] == file.stat().st_size
    )
    run_demo(**sections)
    assert run_demo.ran == []
    file.write_text('{"text": "Ana likes jam."}\n')
    run_demo(**sections)
    assert run_demo.ran == ["pretrain"] and "has other content" in capsys.readouterr().out
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "Ana likes jam."}\n')
    run_demo(sets=[f"data.documents.train={other}"], **sections)
    assert run_demo.ran == ["pretrain"] and "names another source" in capsys.readouterr().out


@pytest.mark.parametrize("same_time", [False, True])
def test_an_edit_of_the_same_size_is_an_edit(run_demo, tmp_path, same_time):
    """With another modification time or with the old one put back. Mutation seen red: files
    compared by size.
    """
    file = tmp_path / "stories.jsonl"
    file.write_text('{"text": "Ana likes honey."}\n')
    before = file.stat()
    sections = {"pretrain": {"reads": True}, "data": {"documents": {"train": str(file)}}}
    run_demo(**sections)
    file.write_text('{"text": "Ana likes bread."}\n')
    if same_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    run_demo(**sections)
    assert run_demo.ran == ["pretrain"]


@pytest.mark.parametrize("kind", ["documents", "demonstrations", "rankings"])
def test_a_source_that_was_not_there_makes_its_seeker_anew(run_demo, tmp_path, capsys, kind):
    """A stage that asked for records, found none, and would read some now. Mutation seen red: only
    sources that were read are recorded.
    """
    run_demo(pretrain={"asks": [kind]})
    run_demo(pretrain={"asks": [kind]})
    assert run_demo.ran == []
    message = '{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."}'
    lines = {
        "documents": '{"text": "Ana likes jam."}',
        "demonstrations": f'{{"messages": [{message}]}}',
        "rankings": '{"prompt": [{"role": "user", "content": "Who?"}], '
        '"responses": ["Ana.", "Bram."], "ranks": [1, 2]}',
    }
    (tmp_path / "own.jsonl").write_text(lines[kind] + "\n")
    sections = {"data": {kind: {"train": str(tmp_path / "own.jsonl")}}}
    run_dir = run_demo(pretrain={"asks": [kind]}, **sections)
    assert run_demo.ran == ["pretrain"]
    assert f"data.{kind}.train had no source and has one" in capsys.readouterr().out
    assert read_record(run_dir)["data"][0]["records"] == 1
    run_demo(pretrain={"asks": [kind]}, **sections)
    assert run_demo.ran == []


def test_a_world_that_comes_or_goes_makes_its_seeker_anew(run_demo):
    """Mutation seen red: `world` notes nothing."""
    from podium.run.registry import STAGES, StageSpec

    STAGES["world"] = StageSpec("data.worlds", "make a world")  # the fixture puts the table back
    sections = {"pretrain": {"asks": ["world"]}}
    sizes = ("documents", "demonstrations", "prompts")
    small = {f"{part}{kind}": 4 for kind in sizes for part in ("", "validation_", "test_")}
    world = {"world": {k: v for k, v in small.items() if k != "test_documents"}}
    run_demo(**sections)
    run_demo(("world", "pretrain"), **sections, data=world)
    assert run_demo.ran == ["world", "pretrain"]
    run_demo(("world", "pretrain"), **sections, data=world)
    assert run_demo.ran == []
    run_demo(**sections)
    assert run_demo.ran == ["pretrain"]


def test_a_file_that_was_not_there_makes_its_seeker_anew(run_demo, tmp_path):
    """Mutation seen red: a missing file is not noted."""
    file = tmp_path / "rankings.validation.jsonl"
    run_demo(pretrain={"asks": [str(file)]})
    run_demo(pretrain={"asks": [str(file)]})
    assert run_demo.ran == []
    file.write_text("{}\n")
    run_demo(pretrain={"asks": [str(file)]})
    assert run_demo.ran == ["pretrain"]


def test_a_file_added_to_a_folder_makes_its_reader_anew(run_demo, tmp_path, capsys):
    """But not one that an editor hides there. Mutation seen red: only the files that were read are
    looked at again.
    """
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("Ana likes honey.")
    train = {"path": str(tmp_path / "texts"), "format": "text"}
    sections = {"pretrain": {"reads": True}, "data": {"documents": {"train": train}}}
    run_demo(**sections)
    (tmp_path / "texts/.b.txt.swp").write_text("half")
    run_demo(**sections)
    assert run_demo.ran == []
    (tmp_path / "texts/b.txt").write_text("An owl sat.")
    run_demo(**sections)
    assert run_demo.ran == ["pretrain"] and "b.txt is new" in capsys.readouterr().out


def test_a_file_in_the_home_folder_is_watched_too(run_demo, tmp_path, monkeypatch):
    """Mutation seen red: `~` left as it is, so that no file was found to hash."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "stories.jsonl").write_text('{"text": "Ana likes honey."}\n')
    sections = {"pretrain": {"reads": True}, "data": {"documents": {"train": "~/stories.jsonl"}}}
    assert len(read_record(run_demo(**sections))["data"][0]["files"]) == 1
    (tmp_path / "stories.jsonl").write_text('{"text": "Ana likes bread."}\n')
    run_demo(**sections)
    assert run_demo.ran == ["pretrain"]


def test_data_that_moved_with_its_project_is_no_change(run_demo, tmp_path, monkeypatch):
    """A relative path leads to the same content in another place. Mutation seen red: files compared
    by place.
    """
    sections = {"pretrain": {"reads": True}, "data": {"documents": {"train": "stories.jsonl"}}}
    for place, text in (("here", "honey"), ("there", "honey"), ("elsewhere", "bread")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "stories.jsonl").write_text(f'{{"text": "Ana likes {text}."}}\n')
    for place, ran in (("here", ["pretrain"]), ("there", []), ("elsewhere", ["pretrain"])):
        monkeypatch.chdir(tmp_path / place)
        run_demo(**sections)
        assert run_demo.ran == ran, place


def test_a_run_folder_can_be_moved(run_demo, tmp_path):
    """Paths inside the run are relative: the moved run is still up to date."""
    sections = {"pretrain": {}, "sft": {"model": "pretrain"}}
    run_demo(("pretrain", "sft"), **sections).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "runs" / "moved")
    run_demo(("pretrain", "sft"), sets=["name=moved"], **sections)
    assert run_demo.ran == []


def test_evals_run_again_when_the_chain_grows(run_demo):
    run_demo(("pretrain", "evals"), pretrain={}, evals={})
    run_demo(("pretrain", "evals"), pretrain={}, sft={}, evals={})
    assert run_demo.ran == ["evals"]


def test_a_missing_parent_names_the_command_that_makes_it(run_demo):
    with pytest.raises(
        ParentError, match=r"make it first: podium pretrain .*demo/recipe.yaml --runs-dir"
    ):
        run_demo(("sft",), pretrain={}, sft={"model": "pretrain"})
    with pytest.raises(ParentError, match="no stage of the recipe"):
        run_demo(("sft",), sft={"model": "pretrain"})
    with pytest.raises(ParentError, match=r"there is no parent './nowhere'"):
        run_demo(("sft",), sft={"model": "./nowhere"})


def test_a_stage_the_recipe_lacks_is_refused(run_demo):
    with pytest.raises(RecipeError, match="no section 'sft'"):
        run_demo(("sft",))


def test_nan_stops_with_its_own_error_and_writes_no_output(run_demo, tmp_path):
    with pytest.raises(DivergenceError, match="loss is nan at step 3") as caught:
        run_demo(sets=["pretrain.nan_at=3"])
    assert caught.value.exit_code == 3
    stage = tmp_path / "runs" / "demo" / "pretrain"
    assert not (stage / "final").exists()
    assert [line["step"] for line in read_metrics(stage / "metrics.jsonl")] == [1, 2]
    assert "diverged" in (stage / "logbook.md").read_text()


def test_what_a_kill_left_half_written_is_removed(run_demo, tmp_path):
    stage = tmp_path / "runs" / "demo" / "pretrain"
    for leftover in ("final.partial", "checkpoints/4.partial"):
        (stage / leftover).mkdir(parents=True)
        (stage / leftover / "weights.pt").write_text("half")
    (stage / "final").mkdir()  # no stage.json: no output
    (stage / "metrics.jsonl").write_text('{"step": 1, "lo')
    run_demo()
    assert not list(stage.rglob("*.partial")) and (stage / "final" / "stage.json").is_file()
    assert len(read_metrics(stage / "metrics.jsonl")) == 6


def test_a_checkpoint_of_another_config_is_not_resumed(run_demo):
    """It would give a model that no recipe describes."""
    with pytest.raises(DivergenceError):
        run_demo(sets=["pretrain.nan_at=5"])
    run_dir = run_demo()
    assert replaced(run_dir) == ["pretrain-1"]
    assert [line["step"] for line in read_metrics(run_dir / "pretrain" / "metrics.jsonl")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_only_the_two_newest_checkpoints_are_kept(run_demo, tmp_path):
    with pytest.raises(DivergenceError):
        run_demo(sets=["pretrain.nan_at=12", "pretrain.steps=20"])
    assert sorted(p.name for p in (tmp_path / "runs/demo/pretrain/checkpoints").iterdir()) == [
        "10",
        "8",
    ]


def test_a_newer_format_is_refused(run_demo):
    path = run_demo() / "pretrain" / "final" / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(RunFolderError, match="newer than this Podium"):
        run_demo()


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux"
)
def test_a_full_disk_while_saving_is_a_clear_error_and_the_run_goes_on_later(run_demo, tmp_path):
    """A real tmpfs of 2 MiB: the second checkpoint does not fit, the first survives, with more room
    the run ends.
    """
    import subprocess

    runs = tmp_path / "runs"
    runs.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(runs)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sets = ["pretrain.size=100000", "pretrain.save_steps=3"]  # 0.4 MB a save
        filler = runs / "filler"
        filler.write_bytes(b"0" * 1_300_000)
        with pytest.raises(RunFolderError, match="the disk is full") as caught:
            run_demo(sets=sets)
        assert caught.value.exit_code == 4
        stage = runs / "demo" / "pretrain"
        assert not list(stage.rglob("*.partial")) and not (stage / "final").exists()
        assert [p.name for p in (stage / "checkpoints").iterdir()] == ["3"]
        filler.unlink()
        run_dir = run_demo(sets=sets)
        assert (
            run_demo.ran == ["pretrain"]
            and (run_dir / "pretrain" / "final" / "stage.json").is_file()
        )
        assert [line["step"] for line in read_metrics(stage / "metrics.jsonl")] == [
            1,
            2,
            3,
            4,
            5,
            6,
        ]
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)
