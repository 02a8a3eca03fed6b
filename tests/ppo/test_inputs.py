"""What PPO reads, and that a mixture of prompts is read on and not read again."""

from data.jsonl import write_jsonl
from data.packing import rows_at
from data.records import Message, Prompt
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from ppo.inputs import load_prompts


def test_a_mixture_of_prompts_is_read_on_and_not_read_again(make_recipe, tokenizer, tmp_path):
    """A draw of 100 holds 50 of the 80 prompts of `rare`; 200 episodes ask all of them. Seen red
    when the second hundred repeated the first draw: 50 of 80.
    """
    for name, count in (("rare", 80), ("most", 20)):
        turns = [[Message(role="user", content=f"{name} {i}?")] for i in range(count)]
        write_jsonl(tmp_path / f"{name}.jsonl", [Prompt(messages=turn) for turn in turns])
    parts = ", ".join(f"{{path: {tmp_path}/{name}.jsonl, weight: 1}}" for name in ("rare", "most"))
    recipe = load_recipe(make_recipe(), [f"data.prompts.train=[{parts}]"])
    stage = StageContext("ppo", recipe, tmp_path / "runs" / "run")

    def asked(wanted: int) -> list[str]:
        prompts, ids = load_prompts(stage, tokenizer, None, 12, wanted)
        assert len(prompts) == len(ids)
        order = rows_at(0, wanted, len(prompts), stage.seed)
        return [text for i in order if (text := prompts[i].messages[0].content)[:4] == "rare"]

    assert len(set(asked(100))) == 50
    assert len(set(asked(200))) == 80
    stage.close()
