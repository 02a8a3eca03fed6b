"""Faults put in by hand, and the test that must notice each: a measure of what the tests see.
Those that a tool makes are in `tests/mutation.py`.

    make mutants-by-hand FOLDER=ppo     applies each mutant of a folder to a copy of the tree, runs
                                        its test there, and prints what survived

Add a mutant wherever a test exists for it: the file, an exact text that occurs once in it, what
replaces that text, and one fast test (seconds) that must fail. `test_mutants.py` holds the list to
the code: a text that is gone or a test that is gone fails at once; that mutants are killed is a slow
test, on a sample of the day.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from podium.run.registry import packages

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("podium", *packages(), "app", "recipes", "tests")
SECONDS = 300  # for one test, imports on a busy machine included


class Mutant(NamedTuple):
    """One fault. `file` and `test` (a pytest node, without parameters: all of them run) are
    relative to the tree.
    """

    file: str
    text: str
    replacement: str
    test: str


TARGETS = "tests/ppo/test_wiring.py::test_targets_and_their_metrics_against_the_definitions"
UPDATE = "tests/ppo/test_wiring.py::test_an_update_s_metrics_against_the_definitions"
VALUE = (
    "tests/ppo/test_wiring.py::"
    "test_the_value_model_s_gradient_is_that_of_the_clipped_loss_times_its_coefficient"
)
KEY = "tests/ppo/test_wiring.py::test_every_key_does_something"
GRADIENT = "tests/ppo/test_update.py::test_the_gradient_is_g_ppo_plus_coefficient_times_g_ptx"
RECORD = "tests/ppo/test_rollback.py::test_the_record_counts_what_was_learned_from"
SAMPLER = "tests/ppo/test_rollback.py::test_a_sampler_that_rounds_otherwise_is_noticed_and_mended"
ADAPTIVE = "tests/ppo/test_update.py::test_the_kl_controller_learns_from_every_episode"
SHARED = "tests/ppo/test_update.py::test_ptx_windows_are_shared_out_over_any_number_of_processes"
AGREEMENT = "tests/data/test_agreement.py::"
CONTEXT = "tests/podium/run/test_context.py::"
SOURCES = "tests/reward/test_sources.py::"
REWARD_KEY = "tests/reward/test_keys.py::test_every_key_does_something"
EXPORT = "tests/app/labeling/test_export_oracle.py::"
ROW = "tests/evals/test_measure.py::test_a_policys_row_is_its_own_against_sft"
VERDICT = "tests/evals/test_winrate.py::test_a_verdict_needs_prompts_and_counts_the_arms"
HELD_OUT = "tests/evals/test_evaluate.py::test_what_is_asked_and_read_was_held_out"
MEANS = "tests/sft/test_validation.py::test_the_metrics_are_means_over_response_tokens"
PLAIN = "tests/pretrain/test_train.py::test_it_is_the_same_as_a_plain_loop"
BLANKS = "tests/pretrain/test_blanks.py::"
INFILLING = "tests/pretrain/test_infilling.py::"
SEPARATORS = "tests/test_document_separators.py::"
ALONE = "tests/data/test_packing.py::test_a_document_is_read_as_if_it_were_alone_in_its_window"
SITE = "tests/app/labeling/test_import_export.py::"

MUTANTS = [
    # What is looked for and not found; one split over all sets.
    Mutant(
        "podium/run/inputs.py",
        "            self._note(kind, split, None)\n",
        "            pass\n",
        CONTEXT + "test_a_source_that_was_not_there_makes_its_seeker_anew",
    ),
    Mutant(
        "podium/run/inputs.py",
        "            self._note(None, None, str(path), files=[missing])\n",
        "            pass\n",
        CONTEXT + "test_a_file_that_was_not_there_makes_its_seeker_anew",
    ),
    Mutant(
        "podium/run/inputs.py",
        '        self._note("world", None, source)\n',
        "",
        CONTEXT + "test_a_world_that_comes_or_goes_makes_its_seeker_anew",
    ),
    Mutant(
        "podium/storage.py",
        'return hashlib.file_digest(file, "sha256").hexdigest()',
        "return str(path.stat().st_size)",
        CONTEXT + "test_an_edit_of_the_same_size_is_an_edit",
    ),
    Mutant(
        "podium/run/lineage.py",
        "str(Path(os.path.expandvars(source)).expanduser())",
        "os.path.expandvars(source)",
        CONTEXT + "test_a_file_in_the_home_folder_is_watched_too",
    ),
    Mutant(
        "podium/run/lineage.py",
        "if p in recorded or sha256 not in known",
        "if True",
        CONTEXT + "test_data_that_moved_with_its_project_is_no_change",
    ),
    Mutant(
        "reward/sources.py",
        "if prompt_key(r.prompt) not in held_back]",
        "]",
        SOURCES + "test_what_a_stage_holds_back_an_export_does_not_teach",
    ),
    Mutant(
        "reward/sources.py",
        "    check_cohorts([r for splits in sets for part in splits[:3] for r in part], source)\n",
        "",
        SOURCES + "test_a_labeler_held_out_in_one_set_teaches_in_none",
    ),
    # Keys of the reward stage that nobody reads.
    Mutant("reward/planning.py", "for i in range(config.members)", "for i in range(1)", REWARD_KEY),
    Mutant("reward/planning.py", '    if config.half == "split":', "    if False:", REWARD_KEY),
    Mutant("reward/planning.py", "            margin=config.margin,\n", "", REWARD_KEY),
    Mutant(
        "reward/planning.py", "margin_scale=config.margin_scale", "margin_scale=1.0", REWARD_KEY
    ),
    Mutant("reward/train.py", "config.warmup_steps, config.min_lr_rate", "0, 0.1", REWARD_KEY),
    # Rows shared out over processes.
    Mutant(
        "podium/batching.py",
        "    size = -(-count // processes)\n",
        "    size = count // processes\n",
        "tests/podium/test_batching.py",
    ),
    Mutant(
        "ppo/update.py",
        "        share = windows[indices].to(",
        "        share = windows.chunk(self.world_size)[self.rank].to(",
        SHARED,
    ),
    Mutant(
        "ppo/update.py",
        "            part.targets[part.window >= counting - number * rows] = False\n",
        "",
        SHARED,
    ),
    # Scores to advantages.
    Mutant(
        "ppo/learner.py",
        'self.kl.update(metrics["objective/kl"], len(batch.scores))',
        "pass",
        ADAPTIVE,
    ),
    Mutant("ppo/learner.py", 'if config.kl_controller == "adaptive"', "if False", ADAPTIVE),
    Mutant("ppo/learner.py", "(~batch.finished)", "batch.finished", TARGETS),
    Mutant("ppo/learner.py", "config.missing_eos_penalty * (", "1.0 * (", TARGETS),
    Mutant("ppo/learner.py", "scores / self.score_scale.std", "scores", TARGETS),
    Mutant("ppo/learner.py", "rewards = whiten(rewards,", "whiten(rewards,", TARGETS),
    Mutant("ppo/learner.py", "config.gamma, config.gae_lambda", "1.0, config.gae_lambda", TARGETS),
    Mutant("ppo/learner.py", "config.gamma, config.gae_lambda", "config.gamma, 0.95", TARGETS),
    Mutant(
        "ppo/learner.py",
        "Targets(whiten(advantages, mask), returns)",
        "Targets(advantages, returns)",
        TARGETS,
    ),
    Mutant(
        "ppo/learner.py",
        "Targets(whiten(advantages, mask), returns)",
        "Targets(whiten(advantages, batch.attention_mask), returns)",
        TARGETS,
    ),
    Mutant(
        "ppo/advantages.py",
        "last_action(action_mask)] += scores",
        "last_action(action_mask) - 1] += scores",
        TARGETS,
    ),
    Mutant(
        "ppo/advantages.py",
        "rewards[:, t] + gamma * next_value",
        "rewards[:, t] + next_value",
        TARGETS,
    ),
    Mutant(
        "ppo/advantages.py",
        "groups - others, action_mask",
        "others - groups, action_mask",
        "tests/ppo/test_advantages.py::test_rloo_is_the_reward_less_the_mean_of_the_others",
    ),
    Mutant(
        "ppo/advantages.py",
        "/ (num_generations - 1)",
        "/ num_generations",
        "tests/ppo/test_advantages.py::test_rloo_is_the_reward_less_the_mean_of_the_others",
    ),
    Mutant(
        "ppo/advantages.py",
        "groups.std(dim=1, keepdim=True)",
        "groups.std()",
        "tests/ppo/test_advantages.py::test_grpo_is_the_reward_in_its_group_s_standard_deviations",
    ),
    Mutant(
        "ppo/advantages.py",
        "rewards.flip(1).cumsum(1).flip(1)",
        "rewards.cumsum(1)",
        "tests/ppo/test_advantages.py::test_reinforce_plus_plus_is_the_whitened_reward_to_go",
    ),
    Mutant(
        "ppo/learner.py",
        'config.advantage == "rloo"',
        'config.advantage == "grpo"',
        "tests/ppo/test_groups.py::test_targets_hold_score_penalty_and_kl",
    ),
    Mutant(
        "ppo/watch.py",
        "responses[::num_generations]",
        "responses",
        "tests/ppo/test_groups.py::test_answers_alike_to_one_prompt_are_no_sign_of_hacking",
    ),
    Mutant(
        "dpo/loss.py",
        "beta * ((chosen - ref_chosen) - (rejected - ref_rejected))",
        "beta * ((ref_chosen - chosen) - (ref_rejected - rejected))",
        "tests/dpo/test_loss.py::test_the_loss_is_equation_7",
    ),
    Mutant(
        "dpo/loss.py",
        "beta * ((chosen - ref_chosen) - (rejected - ref_rejected))",
        "beta * ((chosen - ref_rejected) - (rejected - ref_chosen))",
        "tests/dpo/test_loss.py::test_the_loss_is_equation_7",
    ),
    # What is logged.
    Mutant(
        "ppo/watch.py",
        '"objective/kl": kl.mean()',
        '"objective/kl": kl.sum() / lengths.sum()',
        TARGETS,
    ),
    Mutant(
        "ppo/watch.py", '"objective/kl_k3": kl3.mean()', '"objective/kl_k3": kl.mean()', TARGETS
    ),
    Mutant(
        "ppo/watch.py",
        '"objective/rlhf_reward": shaped_scores.mean() - kl_coef',
        '"objective/rlhf_reward": shaped_scores.mean() + kl_coef',
        TARGETS,
    ),
    Mutant(
        "ppo/watch.py",
        '"objective/scores": batch.scores.mean()',
        '"objective/scores": shaped_scores.mean()',
        TARGETS,
    ),
    Mutant(
        "ppo/watch.py",
        "explained_variance(batch.values[mask], returns[mask])",
        "explained_variance(returns[mask], batch.values[mask])",
        TARGETS,
    ),
    Mutant("ppo/update.py", "0.5 * difference**2", "difference**2", UPDATE),
    Mutant("ppo/update.py", "clip_fraction(ratio - 1,", "clip_fraction(ratio,", UPDATE),
    Mutant(
        "ppo/update.py",
        'means.pop("ratio_squared") - means["val/ratio"] ** 2',
        'means.pop("ratio_squared") - means["val/ratio"]',
        UPDATE,
    ),
    Mutant("ppo/update.py", "(ratio - 1).abs().max()", "(ratio - 1).max()", UPDATE),
    Mutant(
        "ppo/update.py",
        "all_reduce_max(self.first_error)",
        "self.first_error",
        "tests/ppo/test_distributed.py::test_the_first_error_is_the_largest_of_all_processes",
    ),
    # The update.
    Mutant("ppo/update.py", " * scale * settings.vf_coef", " * scale", VALUE),
    Mutant(
        "ppo/update.py",
        "values, old_values, returns, settings.clip_range_value",
        "values, old_values, returns, 100.0",
        VALUE,
    ),
    Mutant(
        "ppo/update.py",
        "values, old_values, returns, settings.clip_range_value",
        "values, values.detach(), returns, settings.clip_range_value",
        VALUE,
    ),
    Mutant(
        "ppo/losses.py",
        "torch.maximum((values - returns) ** 2, (held - returns) ** 2)",
        "(values - returns) ** 2",
        VALUE,
    ),
    Mutant(
        "ppo/update.py",
        "logprobs, old_logprobs, advantages, settings.clip_range",
        "logprobs, old_logprobs, advantages, 0.2",
        UPDATE,
    ),
    Mutant(
        "ppo/update.py",
        "logprobs, old_logprobs, advantages, settings.clip_range",
        "logprobs, logprobs.detach(), advantages, settings.clip_range",
        UPDATE,
    ),
    Mutant(
        "ppo/update.py",
        "windows.shape[0] * (windows.shape[1] - 1)",
        "windows.shape[0] * windows.shape[1]",
        GRADIENT,
    ),
    Mutant(
        "ppo/update.py", "self.settings.ptx_coef * self.world_size", "self.world_size", GRADIENT
    ),
    Mutant(
        "ppo/update.py",
        "scale = self.world_size / minibatch.action_tokens",
        "scale = 1 / len(rows)",
        GRADIENT,
    ),
    Mutant(
        "data/packing.py",
        "        targets[:, 0] = False\n",
        "        targets[:, :2] = False\n",
        GRADIENT,
    ),
    Mutant("ppo/update.py", "range(self.settings.num_ppo_epochs)", "range(1)", KEY),
    Mutant(
        "ppo/learner.py",
        "self.config.value_learning_rate * warm",
        "self.config.learning_rate * warm",
        KEY,
    ),
    Mutant("ppo/learner.py", "            self.ema.update()\n", "            pass\n", KEY),
    Mutant("ppo/learner.py", '"weight_decay": config.weight_decay', '"weight_decay": 0.0', KEY),
    Mutant("ppo/learner.py", "config.kl_target, config.kl_horizon", "6.0, config.kl_horizon", KEY),
    Mutant(
        "ppo/learner.py", "config.kl_target, config.kl_horizon", "config.kl_target, 10_000.0", KEY
    ),
    # The rollout and the models.
    Mutant(
        "podium/rewards/sampled.py",
        "        ends = attention_mask.sum(1)\n",
        "        ends = attention_mask.sum(1) - 1\n",
        "tests/ppo/test_rollout.py::test_a_cut_off_answer_is_scored_as_if_it_ended",
    ),
    Mutant(
        "ppo/models.py",
        "[:, :-1][\n            target_mask[:, 1:]",
        "[:, 1:][\n            target_mask[:, 1:]",
        "tests/ppo/test_rollout.py::test_the_value_is_that_of_the_state_before_the_token",
    ),
    Mutant(
        "ppo/models.py",
        "self.engine.module.model.disable_adapter()",
        "nullcontext()",
        "tests/ppo/test_train.py::"
        "test_lora_trains_adapters_and_its_reference_is_the_adapter_switched_off",
    ),
    Mutant(
        "ppo/learner.py",
        'config.old_logprobs == "auto" and unlike',
        "False",
        "tests/ppo/test_update.py::test_in_bf16_the_ratio_is_1_and_the_kl_0_before_the_first_step",
    ),
    # The stage.
    Mutant(
        "ppo/inputs.py",
        "start = (iteration - 1) * steps",
        "start = 0",
        "tests/ppo/test_wiring.py::test_every_iteration_reads_windows_of_its_own",
    ),
    Mutant(
        "ppo/train.py",
        "stage.seed, start=iteration - 1)",
        "stage.seed, start=0)",
        "tests/ppo/test_train.py::test_every_window_is_as_long_as_the_key_says",
    ),
    Mutant(
        "ppo/inputs.py",
        "return config.value_model or next",
        "return next",
        "tests/ppo/test_train.py::test_value_model_is_read_where_it_is_named",
    ),
    Mutant(
        "ppo/train.py",
        "    with learner.ema.swapped_in():\n",
        "    if True:\n",
        "tests/ppo/test_train.py::test_final_holds_the_average_or_the_last_weights",
    ),
    Mutant(
        "ppo/train.py",
        "            watch_sampler(learner,",
        "            (lambda *_: 0)(learner,",
        SAMPLER,
    ),
    Mutant(
        "ppo/learner.py",
        'self.recompute, self.metrics = state["recompute"], state["metrics"]',
        'self.metrics = state["metrics"]',
        SAMPLER,
    ),
    Mutant(
        "ppo/learner.py",
        '        self.episodes, self.tokens = state["episodes"], state["tokens"]\n',
        "",
        RECORD,
    ),
    Mutant(
        "ppo/train.py",
        "                learner.metrics = metrics\n",
        "                pass\n            learner.metrics = metrics\n",
        RECORD,
    ),
    Mutant(
        "ppo/trl_inputs.py",
        '    "lam": "gae_lambda",\n',
        "",
        "tests/ppo/test_trl_inputs.py::test_names_are_translated",
    ),
    Mutant(
        "ppo/guard.py",
        "iteration <= config.grace",
        "iteration < config.grace",
        "tests/ppo/test_guard.py::test_a_raw_value_model_gets_its_grace",
    ),
    # How far labelers agree.
    Mutant(
        "data/agreement.py",
        "    found = mean_with_interval(shares, prompt, SHARE)\n",
        "    found = mean_with_interval(shares, prompt)\n",
        AGREEMENT + "test_unanimous_labelers_have_an_interval_all_the_same",
    ),
    Mutant(
        "data/agreement.py",
        "np.repeat(np.arange(len(sums)), rows)",
        "np.arange(rows.sum())",
        AGREEMENT + "test_the_interval_is_over_prompts_not_pairs",
    ),
    Mutant(
        "data/agreement.py",
        "    half = 0.5 if tie_rule",
        "    half = 1.0 if tie_rule",
        AGREEMENT + "test_across_cohorts_tie_kinds",
    ),
    Mutant(
        "data/agreement.py",
        "        group[labeler] = ranking\n",
        "        group.setdefault(labeler, ranking)\n",
        "tests/data/test_agreement.py",
    ),
    Mutant(
        "data/agreement.py",
        "ordered[a] * ordered[b]) ** 0.5",
        "ordered[a] * ordered[b])",
        AGREEMENT + "test_tau_equals_scipy_with_and_without_ties",
    ),
    Mutant(
        "data/agreement.py",
        "    units = units[units.sum(axis=1) > 1]",
        "    units = units[units.sum(axis=1) > 2]",
        AGREEMENT + "test_rank_alpha_is_one_for_perfect_agreement_and_does_not_depend_on_listing",
    ),
    # What a labeler said, and what is made of it.
    Mutant(
        "app/labeling/collecting.py",
        "func.max(Submission.revision)",
        "func.min(Submission.revision)",
        EXPORT + "test_an_export_gives_the_last_revision_of_everything_that_was_not_skipped",
    ),
    Mutant(
        "app/labeling/collecting.py",
        "parts.ratings[submission.id][c.shown_as] for c in candidates",
        "parts.ratings[min(parts.ratings)][c.shown_as] for c in candidates",
        EXPORT + "test_an_export_gives_the_last_revision_of_everything_that_was_not_skipped",
    ),
    Mutant(
        "app/labeling/collecting.py",
        "flags=[[name for name, ticked in rating.flags.items() if ticked]",
        "flags=[[name for name, ticked in rating.flags.items()]",
        EXPORT + "test_flags_are_those_that_were_ticked_last_and_of_their_response",
    ),
    Mutant(
        "app/labeling/collecting.py",
        '"comment": submission.comment',
        '"comment": None',
        EXPORT + "test_an_export_gives_the_last_revision_of_everything_that_was_not_skipped",
    ),
    Mutant(
        "app/labeling/exporting.py",
        '"content": pair.chosen',
        '"content": pair.rejected',
        EXPORT + "test_pairs_are_those_of_the_last_revisions_and_ties_say_nothing",
    ),
    Mutant(
        "app/labeling/collecting.py",
        "parts.ratings[submission.id][c.shown_as]",
        "parts.ratings[submission.id].get(c.position, parts.ratings[submission.id][0])",
        EXPORT + "test_a_copy_has_the_rank_of_the_answer_that_was_shown_in_its_place",
    ),
    Mutant(
        "app/labeling/exporting.py",
        'if vote.choice == "left" else',
        'if vote.choice == "right" else',
        SITE + "test_votes_and_questions_of_the_chat",
    ),
    Mutant(
        "app/labeling/exporting.py",
        'vote.choice not in ("left", "right")',
        'vote.choice not in ("left", "right", "tie")',
        SITE + "test_votes_and_questions_of_the_chat",
    ),
    Mutant(
        "app/labeling/collecting.py",
        "    if not chosen.gold:\n",
        "    if chosen.gold:\n",
        SITE + "test_filters_choose_batches_cohorts_gold_and_extras",
    ),
    Mutant(
        "app/labeling/collecting.py",
        "names[handle] = pseudonym(session, handle)",
        "names[handle] = handle",
        SITE + "test_an_export_is_what_the_reward_stage_reads",
    ),
    Mutant(
        "app/labeling/progress.py",
        'task_agreement(task, "half")',
        'task_agreement(task, "drop")',
        EXPORT + "test_agreement_is_that_of_the_last_revisions",
    ),
    Mutant(
        "app/labeling/progress.py",
        "        .join(newest, newest.c.id == Submission.id)\n",
        "",
        EXPORT + "test_the_admin_sees_answers_once_and_skips_apart",
    ),
    Mutant(
        "app/labeling/datacard.py",
        "(pairs - ordered) / pairs",
        "ordered / pairs",
        EXPORT + "test_agreement_is_that_of_the_last_revisions",
    ),
    # Agreement of labelers.
    Mutant(
        "data/agreement.py",
        "int(choose_two[0] + choose_two[2]),",
        "int(choose_two.sum()),",
        "tests/data/test_agreement.py::"
        "test_shared_ties_agree_under_half_and_match_and_are_no_evidence_under_drop",
    ),
    Mutant(
        "data/agreement.py",
        'half = 0.5 if tie_rule == "half" else 0.0',
        "half = 0.5",
        EXPORT + "test_agreement_is_that_of_the_last_revisions",
    ),
    Mutant(
        "data/agreement.py",
        "by_rank * by_rating == -1",
        "by_rank * by_rating == 1",
        EXPORT + "test_agreement_is_that_of_the_last_revisions",
    ),
    # What an evaluation claims.
    Mutant(
        "evals/measure.py",
        "return win_rate(mine, theirs), length",
        "return win_rate(theirs, mine), length",
        ROW,
    ),
    Mutant(
        "evals/measure.py",
        "else end + picked for end",
        "else end - picked for end",
        "tests/evals/test_measure.py::test_best_of_ns_kl_is_the_picks_bound_plus_sfts_own",
    ),
    Mutant(
        "evals/tax.py",
        "paired_difference(losses, reference_losses,",
        "paired_difference(reference_losses, losses,",
        "tests/evals/test_winrate.py::test_the_tax_is_relative_in_loss_and_positive_when_paid",
    ),
    Mutant(
        "evals/winrate.py",
        "<= TIE, 0.5, gap",
        "<= TIE, 0.0, gap",
        "tests/evals/test_winrate.py::test_ties_count_half_and_their_share_is_told",
    ),
    Mutant(
        "evals/winrate.py",
        '"beats" if values["win_rate"] > 0.5',
        '"beats" if values["win_rate"] < 0.5',
        VERDICT,
    ),
    Mutant("evals/winrate.py", "holm([values", "list([values", VERDICT),
    Mutant(
        "evals/evaluate.py",
        'stage.records("prompts", "test")',
        'stage.records("prompts", "train")',
        HELD_OUT,
    ),
    Mutant(
        "evals/evaluate.py",
        '        stage.records("documents", "validation")\n',
        '        stage.records("documents", "train")\n',
        HELD_OUT,
    ),
    Mutant(
        "evals/evaluate.py",
        'getattr(tuned, "model", config.sft)',
        "config.sft",
        "tests/evals/test_evaluate.py::test_kl_is_measured_from_where_ppo_started",
    ),
    # What SFT learns from, and by what it chooses.
    Mutant(
        "sft/batches.py",
        "token if counts else IGNORED for",
        "token for",
        "tests/sft/test_batches.py::test_labels_cover_the_answers_and_their_end_tokens_only",
    ),
    Mutant(
        "sft/batches.py",
        "rng.permutation(len(lengths)) for _ in",
        "np.arange(len(lengths)) for _ in",
        "tests/sft/test_batches.py::test_every_epoch_has_an_order_of_its_own_which_the_seed_fixes",
    ),
    Mutant(
        "sft/batches.py",
        "list(documents[number][position : position + window])",
        "list(documents[number][:window])",
        "tests/sft/test_batches.py::"
        "test_documents_fill_batches_one_to_a_row_and_no_wider_than_the_demonstrations",
    ),
    Mutant("sft/validation.py", "targets = labels[:, 1:]", "targets = labels[:, :-1]", MEANS),
    Mutant("sft/validation.py", "nll_sum / tokens,", "nll_sum / len(rows),", MEANS),
    Mutant(
        "podium/run/trainer.py",
        '"warmup_steps": config.warmup_ratio,',
        '"warmup_steps": 0,',
        "tests/sft/test_keys.py::test_every_key_does_something",
    ),
    # What stands before documents, where bos begins chat turns.
    Mutant(
        "data/tokens.py",
        "separator = document_separator_id(tokenizer)",
        "separator = tokenizer.bos_token_id",
        f"{SEPARATORS}test_the_store_of_tokens",
    ),
    Mutant(
        "sft/train.py",
        "separator_id = document_separator_id(tokenizer)",
        "separator_id = tokenizer.bos_token_id",
        f"{SEPARATORS}test_the_documents_in_sft",
    ),
    Mutant(
        "ppo/train.py",
        "separator_id=document_separator_id(tokenizer)",
        "separator_id=tokenizer.bos_token_id",
        f"{SEPARATORS}test_ptx",
    ),
    Mutant(
        "evals/measure.py",
        "context, document_separator_id(bench.tokenizer))",
        "context, bench.tokenizer.bos_token_id)",
        f"{SEPARATORS}test_the_loss_on_held_out_text",
    ),
    # Pretraining, against a loop of plain torch.
    Mutant(
        "pretrain/updates.py",
        "hidden[:, :-1][targets[:, 1:]]",
        "hidden[:, 1:][targets[:, 1:]]",
        PLAIN,
    ),
    Mutant(
        "pretrain/updates.py",
        "    return engine(inputs, targets)\n",
        "    return engine(inputs, targets & (inputs['input_ids'] != separator_id))\n",
        PLAIN,
    ),
    Mutant(
        "pretrain/train.py",
        "                config.warmup_tokens,\n",
        "                0,\n",
        PLAIN,
    ),
    Mutant("pretrain/train.py", "rows_at(first, sizes", "rows_at(0, sizes", PLAIN),
    Mutant(
        "pretrain/updates.py",
        "return batch.shape[0] * (batch.shape[1] - 1)",
        "return batch.shape[1] * (batch.shape[1] - 1)",
        PLAIN,
    ),
    Mutant(
        "pretrain/train.py",
        'tokenizer, context, "validation")',
        'tokenizer, context, "train")',
        PLAIN,
    ),
    # Blanks, as GLM has them.
    Mutant(
        "pretrain/infilling.py",
        "order[:, None, :] <= order[:, :, None]",
        "(order[:, None, :] <= order[:, :, None]) | (order[:, :, None] == 0)",
        INFILLING + "test_a_token_sees_what_it_may_and_nothing_else",
    ),
    Mutant(
        "pretrain/blanks.py",
        "targets += [0] + [1] * len(span)",
        "targets += [1] + [1] * len(span)",
        BLANKS + "test_a_document_s_row_by_hand",
    ),
    Mutant(
        "pretrain/blanks.py",
        "return config.mean_span / -math.expm1(-config.mean_span)",
        "return config.mean_span",
        BLANKS + "test_short_spans_have_poisson_s_lengths_and_cover_their_share",
    ),
    Mutant(
        "pretrain/infilling.py",
        "self._row(window, first + i)",
        "self._row(window, i)",
        INFILLING + "test_blanks_follow_from_a_window_s_place_and_the_seed_alone",
    ),
    Mutant(
        "pretrain/updates.py",
        "return gradients[0] * ctx.factor, None",
        "return gradients[0] * ctx.factor**2, None",
        INFILLING + "test_the_embedding_s_gradient_is_the_factor_times_what_it_was",
    ),
    Mutant(
        "podium/schedule.py",
        "        return step / warmup\n",
        "        return 1.0\n",
        "tests/podium/test_schedule.py::test_cosine_warms_up_peaks_and_ends_at_the_floor",
    ),
    # Documents, mixtures and conversations as tokens.
    Mutant(
        "data/mixture.py",
        "total * weights[name] / whole",
        "total / len(sizes)",
        "tests/data/test_mixture.py::test_shares_follow_weights_and_passes_are_whole",
    ),
    Mutant(
        "data/mixture.py",
        "np.random.default_rng([seed, place])",
        "np.random.default_rng(None)",
        "tests/data/test_mixture.py::test_a_second_pass_reads_on_into_what_was_not_read",
    ),
    Mutant(
        "data/packing.py",
        "(starts[:, :, None] == starts[:, None, :]) & (index",
        "(index",
        ALONE,
    ),
    Mutant("data/packing.py", '"position_ids": index - starts', '"position_ids": index', ALONE),
    Mutant(
        "data/template.py",
        "[False] * (1 + hidden) + [learned] * (len(turn) - hidden)",
        "[False] * (1 + hidden) + [learned] * (len(turn) - hidden - 1) + [False]",
        "tests/data/test_template.py::test_the_mask_covers_every_answer_and_its_end_token",
    ),
    Mutant(
        "data/template.py",
        "ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]",
        "ids[:]",
        "tests/data/test_template.py::test_decoding_stops_at_the_first_end_token",
    ),
]


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of everything that tests need, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        yield tree


def killed(mutant: Mutant, tree: Path) -> bool:
    """Whether the mutant's test fails on the mutant in `tree`, which is whole again afterwards.

    Raises:
        RuntimeError: the test did not run, so its failure would say nothing.
    """
    file = tree / mutant.file
    before = file.read_text()
    file.write_text(before.replace(mutant.text, mutant.replacement))
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-n", "0", mutant.test]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider"],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    finally:
        file.write_text(before)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.test} did not run: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return done.returncode == 1


def main(folder: str) -> int:
    """Print how many of a folder's mutants are killed, and those that survive; 1 if any does."""
    chosen = [mutant for mutant in MUTANTS if mutant.file.startswith(folder)]
    survivors = []
    with copied_tree() as tree:
        for number, mutant in enumerate(chosen, start=1):
            began = time.monotonic()
            dead = killed(mutant, tree)
            survivors += [] if dead else [mutant]
            word = "killed  " if dead else "SURVIVED"
            seconds = time.monotonic() - began
            line = mutant.replacement.strip().split("\n")[-1] or "(left out)"
            print(
                f"[{number}/{len(chosen)}] {word} {seconds:4.0f} s  {mutant.file}: {line[:70]}",
                flush=True,
            )
    print(f"\n{folder or 'everything'}: {len(chosen) - len(survivors)} of {len(chosen)} killed")
    for mutant in survivors:
        print(
            f"  survived: {mutant.file}: {mutant.text.strip()!r} -> {mutant.replacement.strip()!r}"
        )
        print(f"            {mutant.test}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
