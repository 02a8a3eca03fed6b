"""What PPO reads: its models, the prompts it answers, and the pretraining documents as windows for
ptx. Which prompts and windows an iteration reads follows from the seed and its number.
"""

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import batches, packs
from data.records import Prompt
from data.special_tokens import choose, document_separator_id
from data.template import encode_prompt, naming_record, turn_end_id
from data.windows import Windows
from podium.errors import DataError, ParentError
from podium.models import (
    absent_in_words,
    absent_token_ids,
    check_rows,
    context_of,
    load_causal_lm,
    load_tokenizer,
)
from podium.rewards.folders import brings_head, is_reward_model
from podium.rewards.foreign import is_foreign
from podium.rewards.kinds import make_reward, parents
from podium.rewards.model import (
    RewardEnsemble,
    load_reward_model,
    new_reward_model,
    started_reward_model,
)
from podium.run.context import StageContext
from podium.sampling.uncached import reads_from_cache
from ppo.config import Config
from ppo.learner import Models


def load_models(config: Config, stage: StageContext) -> tuple[PreTrainedTokenizerBase, Models]:
    """Policy, reward and value models of the recipe, each its own copy, and the policy's tokenizer.

    Raises:
        ParentError: pad and end are one token, or a model cannot read every id of its tokenizer.
    """
    policy_dir = stage.parent(config.model)
    tokenizer = load_tokenizer(policy_dir)
    choose(tokenizer, stage.special_tokens())
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == turn_end_id(tokenizer):
        raise ParentError(
            f"{policy_dir}: the tokenizer's pad token is its end token or missing, so endings "
            f"cannot be learned",
            "fine-tune the model with `podium sft` first: it prepares tokenizer and model",
        )
    reward = make_reward(config.reward, stage)
    value = None
    if config.has_critic:
        value, start = load_value_model(config, stage), value_start(config, stage)
        if start == config.model and not brings_head(stage.parent(start)):
            stage.logbook(f"the value model starts from '{start}' with a new head: no reward model")
    policy = load_causal_lm(policy_dir)
    check_rows(tokenizer, policy, policy_dir)
    if absent := absent_token_ids(tokenizer, policy.config):
        stage.logbook(absent_in_words(absent))
    family = type(policy).__name__
    if not reads_from_cache(policy):
        stage.logbook(
            f"{family} cannot decode from a shared cache: every new token reads its whole row "
            "again, which takes longer"
        )
    if config.windows_per_step and not packs(policy, document_separator_id(tokenizer)):
        stage.logbook(
            f"{family} cannot read packed documents: each has a row of its own, which takes "
            "longer and learns the same"
        )
    return tokenizer, Models(policy, reward, value)


def value_start(config: Config, stage: StageContext) -> str:
    """Where the value model starts: what the recipe names, the (first) reward model that Podium
    trained, which alone is sure to read the policy's ids, or the policy's start.
    """
    own = (
        ref
        for ref in parents(config.reward)
        if not is_foreign(stage.parent(ref, same_tokenizer=False))
    )
    return config.value_model or next(own, config.model)


def load_value_model(config: Config, stage: StageContext) -> PreTrainedModel:
    """A copy of the model that the value function starts from; of an ensemble its first member, of
    a stranger's reward model with the head it has. A language model is given a new scalar head,
    drawn by the run's seed.
    """
    folder = stage.parent(value_start(config, stage))
    if not is_reward_model(folder):
        if brings_head(folder):
            return started_reward_model(folder, load_tokenizer(folder)).eval()
        return new_reward_model(folder, load_tokenizer(folder), stage.seed)
    value = load_reward_model(folder)[0]
    return value.members[0] if isinstance(value, RewardEnsemble) else value


def prompt_limit(models: Models, max_prompt_tokens: int | None, response_length: int) -> int | None:
    """Most tokens of a prompt: what the recipe allows, and what leaves room for a whole response
    and its end in the contexts of policy and reward. None: no limit.
    """
    contexts = [context_of(models.policy.config), models.reward.context]
    room = min((context for context in contexts if context is not None), default=None)
    limits = (max_prompt_tokens, room and room - response_length - 1)
    return min((tokens for tokens in limits if tokens is not None), default=None)


def load_prompts(
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    response_length: int,
    wanted: int,
) -> tuple[list[Prompt], list[list[int]]]:
    """The training prompts of at most `limit` tokens, and their ids. Longer ones are dropped and
    counted (the paper: over 1k tokens). The run will ask `wanted` of them, so a mixture by weight
    is drawn as often as that takes.

    Raises:
        DataError: none fits.
    """

    def read(draws: int) -> tuple[list[Prompt], list[tuple[Prompt, list[int]]]]:
        prompts, kept = stage.records("prompts", "train", draws), []
        for number, prompt in enumerate(prompts, 1):
            with naming_record("prompts (train)", number, prompt.id, prompt.messages):
                ids = encode_prompt(tokenizer, prompt.messages)
            if limit is None or len(ids) <= limit:
                kept.append((prompt, ids))
        return prompts, kept

    prompts, kept = read(1)
    draws = stage.draws("prompts", wanted / max(len(kept), 1))
    if kept and draws > 1:
        prompts, kept = read(draws)
    if not kept:
        raise DataError(
            "prompts (train)",
            problem=f"none of {len(prompts)} is as short as {limit} tokens",
            fix=f"lower ppo.response_length (now {response_length}) or take models with "
            f"a longer context",
        )
    if len(kept) < len(prompts):
        stage.logbook(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts are longer than {limit} "
            f"tokens: dropped"
        )
    return [prompt for prompt, _ in kept], [ids for _, ids in kept]


def load_windows(
    config: Config, stage: StageContext, tokenizer: PreTrainedTokenizerBase
) -> Windows | None:
    """The pretraining documents as full windows; None for plain PPO."""
    if not config.windows_per_step:
        return None

    def cut(passes: int) -> Windows:
        documents = stage.document_tokens(tokenizer, "train", passes)
        return Windows(documents, config.ptx_context, split="train", field="ppo.ptx_context")

    windows = cut(1)
    wanted = config.iterations * config.steps_per_iteration * config.windows_per_step
    draws = stage.draws("documents", wanted / len(windows))
    return cut(draws) if draws > 1 else windows


def documents_of(
    windows: Windows | None, steps: int, windows_per_step: int, seed: int, iteration: int
) -> Iterator[Tensor] | None:
    """The ptx windows (D, T) of each of the optimizer `steps` of an iteration."""
    if windows is None:
        return None
    start = (iteration - 1) * steps
    return (windows[rows] for rows in batches(len(windows), windows_per_step, seed, start))


def fixed_prompts(
    count: int, stage: StageContext, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Prompt, list[int]]]:
    """The `count` prompts whose answers are written every few iterations: the shortest of the first
    of the validation set, so that prompt and answer are read at a glance.
    """
    split = "validation" if stage.has_records("prompts", "validation") else "train"
    found = stage.records("prompts", split)[: 4 * count]
    encoded = sorted(
        ((prompt, encode_prompt(tokenizer, prompt.messages)) for prompt in found),
        key=lambda p: len(p[1]),
    )
    return encoded[:count]
