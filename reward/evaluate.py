"""How far a reward model can be trusted: its agreement with people on prompts, and with people, it
has never met.

InstructGPT (sections 3.4 and 4.1) reports accuracy on held-out labelers beside the labelers'
agreement with each other, which no model can pass by much. Around that stand calibration
(`reward.calibration`), length, and the accuracy that a reader of length alone would reach. Every
interval is over prompts.

    python -m reward.evaluate MODEL RANKINGS.jsonl OUT [--taught TRAINING_RANKINGS.jsonl]

writes trust.json, trust.html and trust.png.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.agreement import pairwise_agreement
from data.jsonl import read_jsonl
from data.records import Prompt, Ranking
from data.template import encode_prompt, encode_response
from data.worlds import World
from podium.models import context_of
from podium.rewards.model import RewardEnsemble, load_reward_model
from podium.rewards.score import score_texts
from podium.statistics import SHARE, Estimate, mean_with_interval
from reward import calibration
from reward.distance import FEWEST, distances, region_of, states_of
from reward.report import THIRDS, write_report
from reward.sources import HELDOUT, RankingSplits, check_cohorts, prompt_key

Floats = NDArray[np.float64]
TAUGHT = 400  # training prompts that distances are measured from


class Pairs(NamedTuple):
    """The untied pairs of many rankings; every field (P,), seen from the response that the labeler
    preferred.
    """

    gap: Floats  # its score less the other's
    prompt: NDArray[np.str_]  # the prompt's key: what intervals are over
    k: NDArray[np.int64]  # responses in the ranking
    distance: NDArray[np.int64]  # places between the two, 1 = neighbours; a tie is one place
    length_gap: Floats  # its characters less the other's
    mean_score: Floats  # of the two
    source: NDArray[np.str_]
    preferred: NDArray[np.int64]  # which text it is, the same number wherever the prompt has it
    other: NDArray[np.int64]


def trust_report(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    splits: RankingSplits,
    world: World | None = None,
    max_length: int = 10**9,
) -> dict[str, Any]:
    """All figures of `trust.json`, of a model that learned from `splits.train`. A split without
    untied pairs is left out.
    """
    longer_is_better = bool(_length_pairs(splits.train).mean() >= 0) if splits.train else True
    both = splits.validation + splits.heldout
    far = prompt_distances(model, tokenizer, splits.train, both, max_length)
    report: dict[str, Any] = {}
    for name, rankings in (("validation", splits.validation), ("heldout", splits.heldout)):
        scores = score_rankings(model, tokenizer, rankings, max_length)
        pairs = pairs_of(rankings, scores)
        if len(pairs.gap):
            report[name] = figures(pairs, longer_is_better) | ranking_figures(rankings, scores)
            report[name]["ceiling"] = ceiling(rankings, world)
            report[name]["accuracy_by_prompt_distance"] = by_thirds(pairs, far)
            if world is not None:
                gold = [gold_scores(r, world) for r in rankings]
                on_gold = gold_accuracy(rankings, scores, gold)
                report[name] |= {"accuracy_on_gold": on_gold} if on_gold else {}
    if both:
        across = pairwise_agreement(both, across=("train", "heldout"))
        report["agreement_across_cohorts"] = {
            "value": across.value,
            "low": across.low,
            "high": across.high,
        }
    return report


def score_rankings(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[Ranking],
    max_length: int = 10**9,
) -> list[Floats]:
    """Scores (K,) of every ranking; NaN for a response over `max_length`. A shared text is scored
    once.
    """
    texts = {
        (prompt_key(r.prompt), text): (r.prompt, text) for r in rankings for text in r.responses
    }
    fits = {
        key: pair
        for key, pair in texts.items()
        if len(encode_prompt(tokenizer, pair[0])) + len(encode_response(tokenizer, pair[1]))
        <= max_length
    }
    values = (
        score_texts(model, tokenizer, [p for p, _ in fits.values()], [t for _, t in fits.values()])
        if fits
        else []
    )
    found = dict(zip(fits, values, strict=True))
    return [
        np.array([found.get((prompt_key(r.prompt), text), np.nan) for text in r.responses])
        for r in rankings
    ]


def pairs_of(rankings: Sequence[Ranking], scores: Sequence[Floats]) -> Pairs:
    """Every pair of different texts that a labeler told apart and the model scored."""
    rows: list[tuple] = []
    for ranking, values in zip(rankings, scores, strict=True):
        places = rankdata(ranking.ranks, method="dense")
        lengths = np.array([len(text) for text in ranking.responses])
        key, source = prompt_key(ranking.prompt), ranking.source or ""
        names = [text_number(key, text) for text in ranking.responses]
        for i, j in zip(*np.nonzero(np.less.outer(places, places)), strict=True):
            if ranking.responses[i] != ranking.responses[j] and np.isfinite(values[i] + values[j]):
                rows.append(
                    (
                        values[i] - values[j],
                        key,
                        ranking.k,
                        places[j] - places[i],
                        lengths[i] - lengths[j],
                        (values[i] + values[j]) / 2,
                        source,
                        names[i],
                        names[j],
                    )
                )
    types = (float, str, int, int, float, float, str, int, int)
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return Pairs(
        *(np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True))
    )


def text_number(key: str, text: str) -> int:
    """63 bits that name a response to a prompt."""
    return int(hashlib.sha256(f"{key}\x1e{text}".encode()).hexdigest()[:16], 16) >> 1


def figures(pairs: Pairs, longer_is_better: bool = True) -> dict[str, Any]:
    """What pairs alone tell: accuracy whole and by parts, likelihood, calibration, and the
    length-only reader.
    """
    gaps, right = pairs.gap, calibration.accuracy(pairs.gap)
    nll = calibration.negative_log_likelihood(gaps)
    by_length = calibration.accuracy(pairs.length_gap if longer_is_better else -pairs.length_gap)
    reference, reference_high = calibration.reference_ece(gaps, pairs.preferred, pairs.other)
    table = calibration.reliability(gaps)
    values, by_score, count = calibration.accuracy_by(pairs.mean_score, gaps)
    sizes, by_gap, _ = calibration.accuracy_by(np.abs(gaps), gaps, bins=12)
    return {
        "pairs": len(gaps),
        "prompts": len(set(pairs.prompt)),
        "accuracy": _estimate(mean_with_interval(right, pairs.prompt, SHARE)),
        "nll": _estimate(mean_with_interval(nll, pairs.prompt)),
        "ece": {"value": calibration.expected_calibration_error(gaps)},
        "reference_ece": {"value": reference, "high": reference_high},
        "overconfidence": _estimate(
            mean_with_interval(calibration.overconfidence(gaps), pairs.prompt)
        ),
        "temperature": calibration.fitted_temperature(gaps),
        "accuracy_by_k": _by(pairs.k, right, pairs.prompt),
        "accuracy_by_distance": _by(pairs.distance, right, pairs.prompt),
        "accuracy_by_source": _by(pairs.source, right, pairs.prompt)
        if len(set(pairs.source)) > 1
        else {},
        "length_only": _estimate(mean_with_interval(by_length, pairs.prompt, SHARE))
        | {"longer_is_better": longer_is_better},
        "reliability": {name: column.tolist() for name, column in table._asdict().items()},
        "accuracy_by_score": {
            "score": values.tolist(),
            "accuracy": by_score.tolist(),
            "pairs": count.tolist(),
        },
        "accuracy_by_gap": {"gap": sizes.tolist(), "accuracy": by_gap.tolist()},
    }


def prompt_distances(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    taught: Sequence[Ranking],
    asked: Sequence[Ranking],
    context: int,
) -> dict[str, float]:
    """How far each prompt of `asked` lies from those of `taught`, by its key: Mahalanobis distance
    of the model's hidden states (an ensemble's first member's). Empty with too few taught ones.
    """
    known, new = (
        {prompt_key(r.prompt): r.prompt for r in rankings} for rankings in (taught, asked)
    )
    if len(known) < FEWEST or not new:
        return {}
    one = model.members[0] if isinstance(model, RewardEnsemble) else model
    region = region_of(states_of(one, tokenizer, list(known.values())[:TAUGHT], context))
    found = distances(region, states_of(one, tokenizer, list(new.values()), context))
    return dict(zip(new, found.tolist(), strict=True))


def by_thirds(pairs: Pairs, far: dict[str, float]) -> dict[str, Any]:
    """Accuracy on the third of the prompts that lie nearest to the training prompts, on the middle
    third and on the farthest (Bai et al. 2022), with the distances that each spans. Empty with
    fewer than three prompts or no distances.
    """
    order = sorted(set(pairs.prompt.tolist()) & set(far), key=lambda key: far[key])
    if len(order) < len(THIRDS):
        return {}
    right, found = calibration.accuracy(pairs.gap), {}
    for name, keys in zip(THIRDS, np.array_split(np.array(order), len(THIRDS)), strict=True):
        own = np.isin(pairs.prompt, keys)
        found[name] = _estimate(mean_with_interval(right[own], pairs.prompt[own], SHARE)) | {
            "pairs": int(own.sum()),
            "prompts": len(keys),
            "nearest": far[keys[0]],
            "farthest": far[keys[-1]],
        }
    return found


def ranking_figures(rankings: Sequence[Ranking], scores: Sequence[Floats]) -> dict[str, Any]:
    """What needs whole rankings: Kendall's tau-b, and how scores go with length inside a ranking
    (Spearman).
    """
    keys = [prompt_key(r.prompt) for r in rankings]
    taus = [tau_b(values, -np.array(r.ranks)) for r, values in zip(rankings, scores, strict=True)]
    lengths = [
        _correlation(rankdata(values), rankdata([len(text) for text in r.responses]))
        for r, values in zip(rankings, scores, strict=True)
    ]
    return {"tau_b": _mean(taus, keys), "length_correlation": _mean(lengths, keys)}


def ceiling(rankings: Sequence[Ranking], world: World | None) -> dict[str, Any]:
    """What labels allow: how far labelers agree with each other, and how far the world's gold score
    agrees with them.

    Two labelers who each err agree less often than either agrees with the truth, so a model may
    pass the agreement; no model passes by much what the gold score reaches on the same labels.
    """
    agreement = pairwise_agreement(rankings)
    found: dict[str, Any] = {
        "agreement": {"value": agreement.value, "low": agreement.low, "high": agreement.high}
    }
    if world is not None:
        pairs = pairs_of(rankings, [gold_scores(r, world) for r in rankings])
        right = calibration.accuracy(pairs.gap)
        found["gold"] = _estimate(mean_with_interval(right, pairs.prompt, SHARE))
    return found


def gold_scores(ranking: Ranking, world: World) -> Floats:
    """The world's own score of each response (K,); never trained on."""
    prompt = Prompt(
        messages=ranking.prompt, user=ranking.user, use_case=ranking.use_case, meta=ranking.meta
    )
    return np.array([world.gold(prompt, text) for text in ranking.responses])


def gold_accuracy(
    rankings: Sequence[Ranking], scores: Sequence[Floats], gold: Sequence[Floats]
) -> dict[str, float | None] | None:
    """How often the model orders two responses as the world's gold score does; None where gold
    tells none apart.
    """
    by_gold = [
        r.model_copy(update={"ranks": rankdata(-g, method="dense").astype(int).tolist()})
        for r, g in zip(rankings, gold, strict=True)
    ]
    pairs = pairs_of(by_gold, scores)
    if not len(pairs.gap):
        return None
    return _estimate(mean_with_interval(calibration.accuracy(pairs.gap), pairs.prompt, SHARE))


def tau_b(scores: Floats, quality: NDArray[Any]) -> float:
    """Kendall's tau-b of scores (K,) and quality (K,), higher is better in both; NaN where either
    is constant.
    """
    held = np.isfinite(scores)
    first, second = (
        np.sign(np.subtract.outer(x[held], x[held])) for x in (scores, np.asarray(quality))
    )
    norm = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / norm) if norm else float("nan")


def _correlation(first: Floats, second: Floats) -> float:
    if np.std(first) == 0 or np.std(second) == 0 or not np.isfinite(first).all():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _length_pairs(rankings: Sequence[Ranking]) -> Floats:
    """Sign of the length difference (better less worse) of every untied pair."""
    return np.sign(pairs_of(rankings, [np.zeros(r.k) for r in rankings]).length_gap)


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return dict(estimate._asdict())


def _mean(values: Sequence[float], keys: Sequence[str]) -> dict[str, float | None] | None:
    """Mean of the correlations that exist, with an interval over prompts."""
    held = [i for i, value in enumerate(values) if np.isfinite(value)]
    if not held:
        return None
    return _estimate(
        mean_with_interval([values[i] for i in held], [keys[i] for i in held], (-1.0, 1.0))
    )


def _by(groups: NDArray[Any], right: Floats, prompt: NDArray[np.str_]) -> dict[str, Any]:
    """Accuracy of each group of pairs."""
    return {
        str(group): _estimate(
            mean_with_interval(right[groups == group], prompt[groups == group], SHARE)
        )
        | {"pairs": int((groups == group).sum())}
        for group in np.unique(groups)
    }


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers for stage.json."""
    found: dict[str, float] = {}
    for split, prefix in (("validation", ""), ("heldout", "heldout_")):
        section = report.get(split)
        if section is None:
            continue
        found[f"{prefix}accuracy"] = section["accuracy"]["value"]
        found[f"{prefix}ece"] = section["ece"]["value"]
        found[f"{prefix}nll"] = section["nll"]["value"]
        if section["ceiling"]["agreement"]["value"] is not None:  # None: no prompt has two labelers
            found[f"{prefix}labeler_agreement"] = section["ceiling"]["agreement"]["value"]
        if "gold" in section["ceiling"]:
            found[f"{prefix}ceiling_accuracy"] = section["ceiling"]["gold"]["value"]
        if "accuracy_on_gold" in section:
            found[f"{prefix}gold_accuracy"] = section["accuracy_on_gold"]["value"]
    return found


def evaluate_file(
    model: str | Path, file: str | Path, out: str | Path, taught: str | Path | None = None
) -> dict[str, Any]:
    """The trust report of a model on a file of rankings that it has not seen; held-out labelers in
    their own part. `taught`: the rankings that it learned from, for accuracy by distance from them.
    """
    reward_model, tokenizer = load_reward_model(model)
    rankings = read_jsonl(file, Ranking)
    check_cohorts(rankings, str(file))
    heldout = [r for r in rankings if r.cohort == HELDOUT]
    learned = [] if taught is None else read_jsonl(taught, Ranking)
    others = [r for r in rankings if r.cohort != HELDOUT]
    parts = RankingSplits(learned, others, heldout, Counter())
    context = context_of(reward_model.config) or 10**9
    report = trust_report(reward_model, tokenizer, parts, max_length=context)
    write_report(report, Path(out))
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="The trust report of a reward model on rankings it has not seen."
    )
    parser.add_argument("model", help="a reward model's folder")
    parser.add_argument("rankings", help="a JSONL file of rankings")
    parser.add_argument("out", help="folder for trust.json, trust.html and trust.png")
    parser.add_argument("--taught", help="the rankings it learned from: accuracy by distance")
    options = parser.parse_args()
    evaluate_file(options.model, options.rankings, options.out, options.taught)
