"""What the evaluation leaves in its final/: the files' names, the judges' names, and a line of
answers.jsonl. No torch here.
"""

from pydantic import Field

from data.records import Messages, Record

RESULTS_FILE, ANSWERS_FILE = "results.json", "answers.jsonl"
CANDIDATES_FILE = "candidates.jsonl"  # for people to rank
TASKS_FOLDER = "lm_eval"  # a file a model, in lm-eval's shape
# Who decided wins: a world (its name follows), or where it was neither that nor an independent
# reward, the run's own reward or nobody.
WORLD_JUDGE = "the gold score of the world"
PROXY_JUDGE = "the reward model that PPO optimised (not independent)"
NO_JUDGE = "none"


class Answer(Record):
    """One sampled answer, a line of answers.jsonl."""

    row: str = Field(description="row of the table: base, sft, best_of_n, ppo_ptx, ...")
    prompt: Messages
    prompt_index: int
    use_case: str | None = None
    response: str
    tokens: int = Field(description="length in tokens, the end token counted")
    finished: bool = Field(description="ended by itself")
    gold: float | None = Field(None, description="score by the run's judge")
    reward: float | None = Field(None, description="score by the run's reward model")
    log_ratio: float | None = Field(
        None,
        description="log p(answer) - log p_reference(answer), nats; its mean is the KL; null where "
        "the answer was not drawn from the whole distribution",
    )
    features: dict[str, float] = Field(
        default={}, description="what the embedded world's gold score is made of"
    )
