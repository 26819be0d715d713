"""SimPOTrainer and DPOTrainer: TRL's signatures on evenhand's engine, so that a script changes its import and no more."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput

from evenhand.data.schema import Refusal
from evenhand.errors import DataError, ModelError, RecipeError
from evenhand.evaluation.interval import Sample, family_codes, share
from evenhand.evaluation.preference import wins
from evenhand.files import canonical_json, held, sha256
from evenhand.lifecycle.trainers.config import DPOConfig, PreferenceConfig, SimPOConfig
from evenhand.lifecycle.trainers.data import Rows, hold
from evenhand.lifecycle.trainers.events import Events
from evenhand.lifecycle.trainers.model import name_of, open_model, tokenizer_of, wrap_model
from evenhand.lifecycle.trainers.settings import passes_of, settings_of
from evenhand.lifecycle.validator import mean_loss, score_over_ranks
from evenhand.model.adapter import is_fresh
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.reference import AdapterOff, Reference, SecondModel
from evenhand.model.reference_cache import keep_scores, read_cache
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs
from evenhand.model.store import tokens_hash
from evenhand.model.workshop import Workshop
from evenhand.objectives.objective import Objective
from evenhand.training.examples import examples_of
from evenhand.training.identity import adapter_identity, start_identity
from evenhand.training.journal import journal_of, read_journal
from evenhand.training.loop import Hooks, Validation
from evenhand.training.ranks import launched_ranks
from evenhand.training.train import Place, make_policy, train_policy


class PreferenceTrainer:
    """What both trainers do. `model` is a model or its name; `train_dataset` and `eval_dataset` are data sets, lists of
    rows, pairs or files, of any kind that `evenhand audit` reads.

    `train()` goes on by itself where `args.output_dir` holds the same run, and refuses by name where it holds another.
    Raises RecipeError for an argument it would not heed, DataError where no row can be used, ModelError for a model
    that cannot be trained.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: PreferenceConfig,
        train_dataset: Rows | None,
        eval_dataset: Rows | None,
        processing_class: PreTrainedTokenizerBase | None,
        callbacks: list[TrainerCallback | type[TrainerCallback]] | None,
        peft_config: PeftConfig | None,
        ref_model: PreTrainedModel | None = None,
        **others: Any,
    ) -> None:
        _refuse_others(others)
        if train_dataset is None:
            raise DataError("`train_dataset` is missing; give a data set, a list of rows, pairs, or a file.")
        if eval_dataset is None and _named(args.eval_strategy) != "no":
            raise RecipeError(f"`eval_strategy` is {_named(args.eval_strategy)} and there is no `eval_dataset`.")
        self.args = args
        self.objective: Objective = args.objective()
        self.processing_class = processing_class or tokenizer_of(model)
        self._workshop = workshop = Workshop(self.processing_class, args.form)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self._train = hold(train_dataset, "train_dataset", workshop)
        self._eval = None if eval_dataset is None else hold(eval_dataset, "eval_dataset", workshop)
        opened = open_model(model, args)
        if ref_model is not None and ref_model is opened:
            raise ModelError("`ref_model` is `model` itself, and a reference must not move; leave it out.")
        start = start_identity(opened)  # before it is given an adapter
        self.model = wrap_model(opened, peft_config, args)
        self._start = start | adapter_identity(self.model)
        self._ref_model = ref_model
        self._ref_start = {} if ref_model is None else {"ref_model": _hash_of(ref_model)}
        self._kept: Reference | None = None
        self._events = Events(args, callbacks, self.model, self.processing_class)

    @property
    def state(self) -> Any:
        """transformers' TrainerState: `global_step`, `log_history`, `best_metric`."""
        return self._events.state

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The rows of both data sets that could not be used, each with its reason."""
        return self._train.refusals + (self._eval.refusals if self._eval else ())

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """One more to tell."""
        self._events.handler.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train to the end of the plan; the model ends with the last weights, or the best with `load_best_model_at_end`.

        `resume_from_checkpoint` may be left out or True: either way the run in `args.output_dir` goes on where it is.
        """
        folder = Path(str(self.args.output_dir))
        if isinstance(resume_from_checkpoint, str) and Path(resume_from_checkpoint).parent != folder / "checkpoints":
            raise RecipeError(
                f"`resume_from_checkpoint` is {resume_from_checkpoint}; a run goes on from the newest good checkpoint of its "
                "own `output_dir`: give True, or leave it out."
            )
        passes = passes_of(self.args, self._train.encoded, launched_ranks().size)
        training = settings_of(self.args, passes, launched_ranks().size)
        policy = make_policy(self.model, None, training)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder) if launched_ranks().first else nullcontext():
                reference = self._reference(policy, folder)
                self._events.begin(training, passes)
                hooks = Hooks(self._validate(reference), self._events.report, self._events.log, self._events.stop)
                name = self.args.run_name or folder.name or "evenhand"
                place = Place(folder, name, self.args.to_dict(), self._identity())
                work = examples_of(self._train.encoded, self.objective.traits.examples), self.objective, training
                outcome = train_policy(policy, work, place, hooks, reference)
        finally:
            policy.release()
        self._events.end()
        records = [record for record in read_journal(journal_of(folder)) if "loss" in record]
        loss = sum(record["loss"] for record in records) / max(1, len(records))
        seconds = records[-1]["seconds"] if records else 0.0
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": records[-1]["pairs_per_second"] if records else 0.0,
            "train_loss": loss,
        }
        return TrainOutput(outcome.model_step, loss, metrics)

    def evaluate(self, eval_dataset: Rows | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss, rewards and accuracies of `eval_dataset`, or of the one given before, under TRL's names; `..._low` and
        `..._high` are the ends of the 95 % interval, `..._pairs` is n."""
        data = self._eval if eval_dataset is None else hold(eval_dataset, "eval_dataset", self._workshop)
        if data is None:
            raise DataError("there is no `eval_dataset`; give one here or to the trainer.")
        policy = Policy(self.model)
        try:
            metrics = self._metrics(policy, data.encoded, self._reference(policy, Path(str(self.args.output_dir))))
        finally:
            policy.release()
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self._events.evaluated(named)
        return named

    def save_model(self, output_dir: str | None = None) -> None:
        """Write model (or adapter) and tokenizer for `from_pretrained`."""
        if launched_ranks().first:
            folder = output_dir or str(self.args.output_dir)
            self.model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def _identity(self) -> dict[str, str]:
        """What the run starts from and compares with, which no other start in `args.output_dir` may differ in."""
        found = self._start | {"disable_dropout": str(self.args.disable_dropout)}
        if self.objective.traits.needs_reference:
            found |= {"ref_model": "none", "precompute_ref_log_probs": str(self._precompute), **self._ref_start}
        return found

    @property
    def _precompute(self) -> bool:
        return bool(getattr(self.args, "precompute_ref_log_probs", False))

    def _validate(self, reference: Reference | None) -> Any:
        if self._eval is None or _named(self.args.eval_strategy) == "no":
            return None
        encoded = self._eval.encoded

        def validate(policy: Policy, _step: int) -> Validation:
            policy.eval()
            metrics = self._metrics(policy, encoded, reference)
            return Validation(metrics["loss"], {"metrics": {f"eval_{name}": value for name, value in metrics.items()}})

        return validate

    def _metrics(self, policy: Policy, encoded: Sequence[EncodedPair], reference: Reference | None) -> dict[str, float]:
        scored = score_over_ranks(policy, encoded, launched_ranks(), lambda *_: None)
        before = reference.scored(encoded, score_pairs) if reference else None
        return _figures(self.objective, scored, before, [pair.group for pair in encoded])

    def _reference(self, policy: Policy, folder: Path) -> Reference | None:
        """What the objective compares with: `ref_model`, a fresh adapter switched off, else the model as it starts."""
        if not self.objective.traits.needs_reference:
            return None
        if self._kept is None:
            self._kept = self._starting(policy, folder)
        return AdapterOff(policy) if isinstance(self._kept, AdapterOff) else self._kept

    def _starting(self, policy: Policy, folder: Path) -> Reference:
        if self._ref_model is not None and not self._precompute:
            return SecondModel(Policy(self._ref_model.to(policy.device)), "ref_model")
        if self._ref_model is None and is_fresh(self.model):
            return AdapterOff(policy)
        if not self._precompute:
            return SecondModel(Policy(copy.deepcopy(self.model)), "a copy of the starting model")
        path, ranks = folder / "reference" / "scores.parquet", launched_ranks()
        pairs = [*self._train.encoded, *(self._eval.encoded if self._eval else ())]
        scorer = policy if self._ref_model is None else Policy(self._ref_model.to(policy.device))
        if ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            precision = str(next(scorer.parameters()).dtype).removeprefix("torch.")
            key = {"tokens": tokens_hash(pairs), "precision": precision, **(self._ref_start or self._start)}
            keep_scores(path, key, pairs, lambda: score_pairs(scorer, pairs))
        return read_cache(path, policy.device)


class SimPOTrainer(PreferenceTrainer):
    """SimPO; takes what TRL's CPOTrainer takes. See `PreferenceTrainer`."""

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SimPOConfig,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback | type[TrainerCallback]] | None = None,
        peft_config: PeftConfig | None = None,
        **others: Any,
    ) -> None:
        super().__init__(
            model, args, train_dataset, eval_dataset, processing_class, callbacks, peft_config, None, **others
        )


class DPOTrainer(PreferenceTrainer):
    """DPO and relatives; takes what TRL's DPOTrainer takes. See `PreferenceTrainer`."""

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: PreTrainedModel | None = None,
        args: DPOConfig | None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback | type[TrainerCallback]] | None = None,
        peft_config: PeftConfig | None = None,
        **others: Any,
    ) -> None:
        given = args or DPOConfig(output_dir=f"{name_of(model)}-DPO")
        super().__init__(
            model, given, train_dataset, eval_dataset, processing_class, callbacks, peft_config, ref_model, **others
        )


def _figures(
    objective: Objective, scored: ScoredPairs, before: ScoredPairs | None, groups: list[str]
) -> dict[str, float]:
    """TRL's names; accuracy by the objective's rewards, and by mean log-probability where these are not the same."""
    reference = None if before is None else before.tensors()
    chosen_B, rejected_B = (part.numpy() for part in objective.rewards(scored.tensors(), reference))
    families = family_codes(groups, len(scored))
    by_reward = share(Sample(wins(chosen_B - rejected_B), families))
    per_token = objective.traits.length_normalised  # as trackers are told of a step
    by_mean = share(Sample(wins(scored.gap_B(per_token=True)), families))
    found = {
        "loss": mean_loss(objective, scored, before),
        "rewards/chosen": chosen_B.mean(),
        "rewards/rejected": rejected_B.mean(),
        "rewards/margins": (chosen_B - rejected_B).mean(),
        "rewards/accuracies": by_reward.value,
        "rewards/accuracies_low": by_reward.low,
        "rewards/accuracies_high": by_reward.high,
        "logps/chosen": (scored.chosen_mean_B if per_token else scored.chosen_sum_B).mean(),
        "logps/rejected": (scored.rejected_mean_B if per_token else scored.rejected_sum_B).mean(),
        "pairs": len(scored),
    }
    if before is not None:
        found |= {
            "mean_logps/accuracies": by_mean.value,
            "mean_logps/accuracies_low": by_mean.low,
            "mean_logps/accuracies_high": by_mean.high,
        }
    return {name: float(value) for name, value in found.items() if value is not None}


def _hash_of(model: PreTrainedModel | PeftModel) -> str:
    return sha256(canonical_json(start_identity(model) | adapter_identity(model)))


def _named(strategy: Any) -> str:
    return str(getattr(strategy, "value", strategy))


def _refuse_others(others: Mapping[str, Any]) -> None:
    """Raise RecipeError for an argument of TRL's trainers that is set and not heeded."""
    for name, value in others.items():
        if value is not None and value != (None, None):
            raise RecipeError(f"`{name}` is given, which evenhand's trainers would not heed; leave it out.")
