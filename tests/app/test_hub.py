"""`podium push` to a stand-in for the hub, and what somebody else then fetches from it."""

import json
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from app.hub import push_folder, push_stage
from evals.evaluate import Config
from podium.errors import ParentError, PlatformError, PodiumError
from podium.models import load_causal_lm, load_tokenizer
from tests.evals.miniature import make_run
from tests.hub_stand_in import TOKEN, hub


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), tokenizer, Config())[1]


@pytest.fixture
def there(monkeypatch, tmp_path):
    """A stand-in, and a client that knows the token and no cache of this machine."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with hub() as running:
        yield running


def fetched(there, name: str, folder: Path) -> Path:
    return Path(
        snapshot_download(name, endpoint=there.address, token=TOKEN, local_dir=folder / "fetched")
    )


def test_what_was_pushed_is_what_somebody_fetches(run, there, tmp_path):
    """Weights, tokenizer and template to the byte, and they load. Mutation seen red: the card left
    out.
    """
    url = push_stage(run, "ppo", "org/tiny", endpoint=there.address)
    assert url == f"{there.address}/org/tiny"
    repo = there.repos["models/org/tiny"]
    assert repo["private"] and repo["commits"] == ["Stage ppo of mini"]
    folder = fetched(there, "org/tiny", tmp_path)
    names = {
        str(p.relative_to(run / "ppo/final")) for p in (run / "ppo/final").rglob("*") if p.is_file()
    }
    assert set(repo["files"]) == names and "README.md" in names
    for name in names - {"README.md", "stage.json", "config.json"}:
        assert (folder / name).read_bytes() == (run / "ppo/final" / name).read_bytes(), name
    ours, theirs = load_causal_lm(run / "ppo/final"), load_causal_lm(folder)
    assert all(
        bool((a == b).all()) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    assert load_tokenizer(folder).get_chat_template()
    assert repo["files"]["README.md"].startswith(b"---\nlibrary_name: transformers")


def test_a_second_push_sends_what_changed_alone(run, there):
    push_stage(run, "sft", "org/tiny", endpoint=there.address)
    before = len(there.seen)
    push_stage(run, "sft", "org/tiny", endpoint=there.address)
    again = there.seen[before:]
    assert not [line for line in again if line.startswith("PUT")]
    assert len(there.repos["models/org/tiny"]["commits"]) == 1
    push_stage(run, "ppo", "org/tiny", public=True, endpoint=there.address)
    assert len(there.repos["models/org/tiny"]["commits"]) == 2
    assert there.repos["models/org/tiny"]["private"]  # as it was made


def test_neither_token_nor_places_of_this_machine_go_along(run, there, tmp_path):
    """Mutation seen red: the texts sent as they lie here."""
    record = run / "sft/final/stage.json"
    told = json.loads(record.read_text()) | {"command": "podium run /home/ana/secret/mine.yaml"}
    folder = tmp_path / "final"
    folder.mkdir()
    (folder / "stage.json").write_text(json.dumps(told))
    (folder / "README.md").write_text(
        "Made by `/home/ana/secret/mine.yaml` of https://a.org/b/c.\n"
    )
    (folder / "vocab.json").write_text('{"/usr/lib/x": 1}')
    push_folder(folder, "org/texts", "dataset", "m", public=True, endpoint=there.address)
    sent = there.files("org/texts", "datasets")
    assert sent["README.md"] == b"Made by `mine.yaml` of https://a.org/b/c.\n"
    assert json.loads(sent["stage.json"])["command"] == "podium run mine.yaml"
    assert sent["vocab.json"] == b'{"/usr/lib/x": 1}'
    assert "secret" in (folder / "README.md").read_text()  # ours stays as it is
    assert not there.repos["datasets/org/texts"]["private"]
    for path in [*run.rglob("*"), *tmp_path.rglob("*")]:
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_what_the_hub_refuses_is_said_without_the_token(run, there, monkeypatch):
    """Mutations seen red: an error passed on as the library raised it; no look for a token."""
    with pytest.raises(
        PodiumError, match=r"refused other/tiny \(403\): You don't have the rights"
    ) as e:
        push_stage(run, "sft", "other/tiny", endpoint=there.address)
    assert TOKEN not in str(e.value)
    with pytest.raises(ParentError, match="no finished stage 'rankings' with a model") as e:
        push_stage(run, "rankings", "org/tiny", endpoint=there.address)
    assert "pretrain, sft, reward, ppo, ppo_plain" in str(e.value)
    for name in ("tiny", "org/", "a/b/c", "org/..", "https://x/y"):
        with pytest.raises(PodiumError, match="names no repository"):
            push_stage(run, "sft", name, endpoint=there.address)
    with pytest.raises(PlatformError, match="could not be reached"):
        push_stage(run, "sft", "org/tiny", endpoint="http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PodiumError, match=r"refused org/new \(401\)") as e:
        push_stage(run, "sft", "org/new", endpoint=there.address)
    assert "hf_wrong" not in str(e.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PlatformError, match="there is no token"):
        push_stage(run, "sft", "org/new", endpoint=there.address)
    assert list(there.repos) == []


def test_a_machine_that_is_offline_says_so(run, there, monkeypatch):
    # put back before the stand-in puts back what it found, or the tests that follow look online
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(PlatformError, match="HF_HUB_OFFLINE is set"):
            push_stage(run, "sft", "org/new", endpoint=there.address)


def test_the_command_pushes(run, there, podium, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", there.address)
    result = podium("push", run, "reward", "--to", "org/judge", "--public")
    assert result.exit_code == 0 and f"pushed to {there.address}/org/judge" in result.stdout
    assert "held_out/config.json" not in there.files("org/judge")
    assert b"LlamaForSequenceClassification" in there.files("org/judge")["config.json"]
