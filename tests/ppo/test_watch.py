"""Logging: the profile, gold scores, sample files."""

import json
import time

import pytest
import torch

from data.records import Message, Prompt
from ppo.watch import Profile, gold_metrics, write_samples


def prompt(text: str) -> Prompt:
    return Prompt(messages=[Message(role="user", content=text)])


def test_the_profile_adds_up_and_starts_anew():
    profile = Profile(torch.device("cpu"))
    for _ in range(2):
        with profile.measure("ptx"):
            time.sleep(0.01)
    found = profile.drain()
    assert found["time/ptx"] == pytest.approx(0.02, abs=0.015)
    assert profile.drain() == {}


class Village:
    def gold(self, prompt, response):
        return float(len(response))

    def features(self, prompt, response):
        return {"owl": "owl" in response}


def test_gold_and_its_features_are_means():
    found = gold_metrics(Village(), [prompt("a"), prompt("b")], ["an owl", "four"])
    assert found == {"objective/gold": 5.0, "gold/owl": 0.5}


def test_samples_are_one_json_object_a_line(tmp_path):
    write_samples(tmp_path, 7, [prompt("Tell.")], ["An owl.\nThe end."], [float("nan")])
    line = json.loads((tmp_path / "00007.jsonl").read_text())
    assert line["response"] == "An owl.\nThe end." and line["score"] is None
    assert line["prompt"] == [{"role": "user", "content": "Tell."}]
