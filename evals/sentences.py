"""What the numbers allow to say, in words that a newcomer understands, and no more.

`opening` is the report's beginning: did RLHF work, what did it cost, and would picking among SFT's
answers have done as well. A difference that chance explains is not called one, and a signed change
is said as "above" or "below", for a minus before a loss reads as a negative loss.
"""

from dataclasses import dataclass
from typing import Any

from evals.records import NO_JUDGE, PROXY_JUDGE, WORLD_JUDGE
from evals.winrate import WinRate, judge_arms
from podium.run.registry import is_stage, label_of, spec_of

NO_POLICIES = ("base", "sft", "best_of_n")
TOO_FEW = "met too few prompts"
OWN_REWARD = "own reward"  # heads the scores where the run's reward is its only judge
# With fewer, prompts of one kind decide: a test may tell models apart on them, and what it tells
# need not hold for others.
ENOUGH_PROMPTS = 30


@dataclass(frozen=True)
class Outcome:
    """An evaluated run, as far as the sentences need it."""

    rows: dict[str, dict[str, Any]]  # results.json
    setup: dict[str, Any]  # results.json
    seconds: dict[str, float]  # wall time by stage
    duel: WinRate | None  # the policy against best-of-n, prompt by prompt

    @property
    def policy(self) -> str | None:
        """The tuned model the report is about: PPO-ptx where there is one."""
        return next((row for row in self.rows if row not in NO_POLICIES), None)

    @property
    def reference(self) -> str:
        """What people call the model that the KL is measured from."""
        name = str(self.setup["reference"])
        return label_of(name) if is_stage(name) else name

    @property
    def algorithm(self) -> str:
        """What made the policy: PPO (with or without ptx), RLOO, DPO, ..."""
        return self.label(self.policy).split("-")[0] if self.policy else ""

    @property
    def pleased_reward(self) -> bool:
        """Whether the policy was trained to please the reward; DPO never saw it."""
        stage = str(self.setup.get("models", {}).get(self.policy, "ppo"))
        return not is_stage(stage) or bool(spec_of(stage).rewards)

    @property
    def score(self) -> str:
        """What the scores that decide wins are called: gold is a world's alone."""
        return score_name(str(self.setup["judge"]))

    def label(self, row: str) -> str:
        """What people call a row."""
        return str(self.setup.get("labels", {}).get(row, row.replace("_", " ")))


def score_name(judge: str) -> str:
    """What to call the scores of a judge of results.json, in a heading."""
    if judge.startswith(WORLD_JUDGE):
        return "gold"
    return OWN_REWARD if judge == PROXY_JUDGE else "judge's score"


def opening(outcome: Outcome) -> list[str]:
    """Did it work, at what cost, and against best-of-n."""
    return [worked(outcome), price(outcome), against_best_of_n(outcome)]


def worked(outcome: Outcome) -> str:
    """Whether the policy's answers are better than SFT's, and who says so."""
    row, judge = outcome.policy, outcome.setup["judge"]
    if row is None:
        return "There is no PPO in this run, so RLHF has not been tried: SFT is its last model."
    name = outcome.label(row)
    if "sft" not in outcome.rows:
        return f"Whether RLHF worked is not known: there is no SFT model to compare {name} with."
    said = judge_arms(outcome.rows).get(row)
    if said is None or judge == NO_JUDGE:
        return (
            "Whether RLHF worked is not known: nobody judged the answers, for the run has no world "
            "and no reward model to score them (evals.judge names one)."
        )
    values = outcome.rows[row]
    wins = f"{name}'s answers beat SFT's in {_wins(values)}, judged by {judge}"
    if said.startswith(TOO_FEW):
        return (
            f"Whether RLHF worked cannot be told from {values['win_rate_prompts']} prompts "
            f"(evals.prompts): {wins}."
        )
    if values["win_rate_prompts"] < ENOUGH_PROMPTS:
        return (
            f"{values['win_rate_prompts']} prompts are too few to say whether RLHF worked "
            f"(evals.prompts; {ENOUGH_PROMPTS} or more): {wins}."
        )
    if judge == PROXY_JUDGE:
        return f"{_proxy(said, outcome)}: {wins}."
    if said == "beats":
        return f"RLHF worked: {wins}."
    if said == "loses to":
        return f"RLHF made the answers worse: {wins}."
    return f"RLHF is not shown to have worked: {wins}; {_why_not(values)}."


def price(outcome: Outcome) -> str:
    """What the policy lost and took: pretraining loss, length, ended answers, time."""
    row, total = outcome.policy, duration(sum(outcome.seconds.values()))
    if row is None:
        return f"So there is no price of it to tell; the run took {total}."
    values, sft = outcome.rows[row], outcome.rows.get("sft", {})
    tax, loss = values.get("pretrain_loss_increase"), values["pretrain_loss"]
    if tax and sft:
        lost = f"the pretraining loss (lower is better) of {outcome.label(row)} is {change(tax)}"
    elif loss is not None:
        lost = f"the pretraining loss of {outcome.label(row)} is {loss:.3f} nats a token"
    else:
        lost = "the pretraining loss was not measured, for want of held-out documents"
    length = f"answers have {values['length']:.1f} tokens"
    ended = f"{percent(values['eos_rate'])} of them ended by themselves"
    if sft:
        length += f" (SFT's {sft['length']:.1f})"
        ended += f" (SFT's {percent(sft['eos_rate'])})"
    own = outcome.seconds.get(outcome.setup["models"].get(row, ""))
    took = (
        f"{outcome.algorithm} took {duration(own)} of the run's {total}"
        if own
        else f"the run took {total}"
    )
    return f"The price: {lost}; {length}, {ended}; {took}."


def against_best_of_n(outcome: Outcome) -> str:
    """Whether the reward model's pick among n answers of SFT would have done as well."""
    row, picked = outcome.policy, outcome.rows.get("best_of_n")
    if picked is None:
        return (
            "Best of n was not measured (evals.best_of is 0 or there is no reward model), so "
            "whether picking among SFT's answers does as well is not known."
        )
    best, how = outcome.label("best_of_n"), "the reward model's pick among as many answers of SFT"
    start = best[:1].upper() + best[1:]
    if outcome.setup["judge"] == PROXY_JUDGE:
        how += " and judged by that very model"
    if picked["win_rate"] is None:
        return f"{start}, {how}, cannot be compared, for nobody judged the answers."
    if row is None:
        return (
            f"{start}, {how}, beats SFT in {_wins(picked)}: what PPO on this reward model has to "
            "reach."
        )
    values, name = outcome.rows[row], outcome.label(row)
    there = "" if values["win_rate"] is None else f"; {name}: {percent(values['win_rate'])}"
    if picked["kl"] is not None and values["kl"] is not None:
        smaller = "smaller" if picked["kl"] < values["kl"] else "larger"
        there = f" at a {smaller} KL (at most {picked['kl']:.2f} nats{there} at {values['kl']:.2f})"
    return (
        f"{start}, {how}, beats SFT in {_wins(picked)}{there}{_head_to_head(outcome, name, best)}."
    )


def verdicts(outcome: Outcome) -> list[str]:
    """A sentence for each further policy against SFT."""
    judged = judge_arms(outcome.rows)
    found = []
    for row, values in outcome.rows.items():
        if row in NO_POLICIES or row == outcome.policy or row not in judged:
            continue
        tax = values.get("pretrain_loss_increase")
        loss = f"; its pretraining loss is {change(tax)}" if tax else ""
        rate = interval(
            values["win_rate"], values["win_rate_low"], values["win_rate_high"], as_percent=True
        )
        found.append(f"{outcome.label(row)} {judged[row]} SFT: win rate {rate}{loss}.")
    return found


def change(estimate: dict[str, Any], unit: str = " %") -> str:
    """A relative change against SFT's value without a sign: "14.2 % below SFT's (13.9 to 14.5)"."""
    value, low, high = (
        None if end is None else 100 * end
        for end in (estimate["value"], estimate["low"], estimate["high"])
    )
    assert value is not None
    if low is None or high is None:
        return f"{_sided(value, unit)} SFT's (measured once, so without an interval)"
    if low <= 0 <= high:
        return f"not shown to differ from SFT's ({_sided(low, unit)} to {_sided(high, unit)} it)"
    ends = sorted((abs(low), abs(high)))
    return f"{_sided(value, unit)} SFT's ({ends[0]:.1f} to {ends[1]:.1f})"


def glossary(outcome: Outcome) -> list[tuple[str, str]]:
    """The words of the table, each with what it means in this run."""
    setup = outcome.setup
    terms = [
        (outcome.score, _gold(setup["judge"])),
        (
            "win rate",
            "the share of comparisons with SFT's answers to the same prompt that the model wins by "
            f"{outcome.score}, ties counted half; 50 % is a draw.",
        ),
        (
            "KL",
            f"how far a model has moved from {outcome.reference}, in nats an answer: 0 is the same "
            "model, and the further, the more room for answers that please the reward model alone.",
        ),
        ("length", f"tokens an answer; {setup['max_new_tokens']} are allowed."),
        (
            "ended",
            "the share of answers that the model ended by itself, with its end-of-sequence token "
            "(EOS); the others were cut off.",
        ),
        (
            "pretraining loss",
            "nats a token on held-out documents like those of pretraining; lower is better, and "
            "what it rises by was forgotten.",
        ),
        (
            "facts",
            f"the share of {setup['questions']:,} multiple-choice questions whose right choice the "
            "model finds the most likely.",
        ),
    ]
    if "base" in outcome.rows and setup["judge"] != NO_JUDGE:
        terms.append((outcome.label("base"), _gibberish(setup["judge"])))
    if "best_of_n" in outcome.rows:
        text = "SFT answers so many times and the reward model picks one: no training, but more "
        terms.append((outcome.label("best_of_n"), text + "work at each answer."))
    return terms


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def number(value: float | None, digits: int = 2, as_percent: bool = False) -> str:
    """A cell; "-" is what was not measured."""
    if value is None:
        return "-"
    text = percent(value) if as_percent else f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0. %") else text  # no minus before a zero


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage with one digit."""
    return f"{100 * share:.1f} %"


def interval(
    value: float | None, low: float | None, high: float | None, as_percent: bool = False
) -> str:
    """A value with its 95 % interval in brackets."""
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{number(value, as_percent=as_percent)} (one prompt)"
    if as_percent:
        return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _wins(values: dict[str, Any]) -> str:
    """ "70.2 % of comparisons (95 % interval: 66.4 to 73.9)"."""
    low, high = values["win_rate_low"], values["win_rate_high"]
    ends = "" if low is None else f" (95 % interval: {100 * low:.1f} to {100 * high:.1f})"
    return f"{percent(values['win_rate'])} of comparisons{ends}"


def _why_not(values: dict[str, Any]) -> str:
    low, high = values["win_rate_low"], values["win_rate_high"]
    if low is None or low <= 0.5 <= high:
        return "the interval includes 50 %, a draw"
    return "among as many models as were compared, chance gives such a win rate too often"


def _proxy(said: str, outcome: Outcome) -> str:
    """The judge is what PPO was trained to please: it cannot show that answers are better."""
    name = outcome.algorithm
    reward = "the reward it was trained on" if outcome.pleased_reward else "the run's own reward"
    if said == "beats":
        return f"{name} raised {reward}, which does not show better answers"
    if said == "loses to":
        return f"{name} lowered even {reward}"
    return "RLHF is not shown to have worked, not even by the reward it was trained on"


def _head_to_head(outcome: Outcome, name: str, best: str) -> str:
    duel = outcome.duel
    if duel is None:
        return ""
    against = f"; against each other {name} wins {percent(duel.rate)}"
    if duel.low is not None and duel.high is not None:
        against += f" ({100 * duel.low:.1f} to {100 * duel.high:.1f})"
    if duel.prompts < ENOUGH_PROMPTS:
        return against + f", on too few prompts ({duel.prompts}) to say which is better"
    if duel.p >= 0.05:
        return against + ", so neither is shown to be better"
    return against + f", so {name if duel.rate > 0.5 else best} is better"


def _sided(value: float, unit: str) -> str:
    """ "14.2 % below"."""
    size = f"{abs(value):.1f}{unit}" if abs(value) >= 0.05 else f"less than 0.1{unit}"
    return f"{size} {'below' if value < 0 else 'above'}"


def _gold(judge: str) -> str:
    if judge == NO_JUDGE:
        return "the score of a judge; this run had none."
    if judge == PROXY_JUDGE:
        return (
            "the score of the very reward model that PPO was trained to please: a high one says "
            "that PPO reached its aim, not that people would agree."
        )
    return f"how good an answer is, by {judge}, on which no model was trained."


def _gibberish(judge: str) -> str:
    """Why the base's text, which answers nothing, can score high."""
    why = (
        "gold adds up what it can count in a text (grammar, detail, length and words asked for, "
        "see the features under More numbers), and long, varied text gathers some of each"
        if judge.startswith(WORLD_JUDGE)
        else "a reward model was taught on answers, and its score of other text means little"
    )
    return (
        "was never taught to answer and only writes on, often without sense. It can score high "
        f"all the same: {why}. So compare the others with SFT, not with it."
    )
