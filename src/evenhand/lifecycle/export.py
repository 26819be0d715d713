"""A trained model as a folder that its neighbours load as it is, proved by loading it again."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from evenhand.errors import ExportError
from evenhand.files import as_disk_error, storage_error, sync_directory
from evenhand.lifecycle.classifier import prove_classifier, save_for_pooling
from evenhand.model.adapter import fuse
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy, causal
from evenhand.model.load import find_source, is_four_bit, load_model
from evenhand.model.score import score_pairs
from evenhand.model.scores import Floats, ScoredPairs
from evenhand.training.shard import gathered_state

PROBES = 8
# Largest change of a mean log-probability that reloading may make, in nats per token.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}


def export_model(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    stop_tokens: frozenset[int],
    probes: Sequence[EncodedPair],
    folder: Path,
) -> float:
    """Write the adapter, or the whole model, with its tokenizer and stop tokens to `folder`, whole or not at all.

    The folder is loaded again with transformers and PEFT and must give the mean log-probabilities of the first few
    `probes` within TOLERANCE; returns the largest difference found. Raises ExportError where it does not, and
    StorageError where the disk is full; then `folder` is left as it was.
    """
    staging = folder.with_name(f".{folder.name}.staging-{os.getpid()}")
    try:
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed process that had the same number
        staging.mkdir(parents=True)
        as_disk_error(lambda: _save(policy, tokenizer, stop_tokens, staging))
        worst = _proved_difference(policy, probes[:PROBES], staging)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        size = sum(weight.nbytes for weight in policy.parameters() if weight.requires_grad)
        raise storage_error(error, folder, size) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return worst


def _save(policy: Policy, tokenizer: PreTrainedTokenizerBase, stop_tokens: frozenset[int], folder: Path) -> None:
    model, state = policy.model, gathered_state(policy)
    if policy.gives_rewards:  # before the configuration is saved, which tells its padding
        save_for_pooling(causal(model), tokenizer, stop_tokens, folder)
    if isinstance(model, PeftModel):
        # "auto" would ask a hub whether the base's vocabulary grew; the output layer is never an adapter's here.
        model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, state_dict=state)
    if policy.gives_rewards:
        return
    tokenizer.save_pretrained(folder)
    generation: GenerationConfig = causal(model).generation_config
    stops = sorted(stop_tokens)
    GenerationConfig(
        bos_token_id=generation.bos_token_id,
        pad_token_id=generation.pad_token_id if generation.pad_token_id is not None else stops[0],
        eos_token_id=stops if len(stops) > 1 else stops[0],
    ).save_pretrained(folder)


def _proved_difference(policy: Policy, probes: Sequence[EncodedPair], folder: Path) -> float:
    dtype = next(policy.model.parameters()).dtype
    before = score_pairs(policy, probes)
    # A base in four bits is rounded again as it was; on the full base the adapter gives other numbers.
    four_bit = is_four_bit(causal(policy.model))
    again = load_model(find_source(str(folder)), dtype, policy.device, four_bit)
    if isinstance(again, PeftModel) and not four_bit:
        # PEFT computes a bf16 adapter in fp32, which alone moves a short answer's mean by 2e-2; the weights are asked here.
        fuse(again.to(dtype))
    worst = largest_difference(before, score_pairs(Policy(again), probes))
    if policy.gives_rewards and not isinstance(again, PeftModel):  # an adapter cannot tell its base what is padding
        prove_classifier(folder, (probes, before), dtype, TOLERANCE[dtype])
    if not worst <= TOLERANCE[dtype]:
        raise ExportError(
            f"the exported model differs by {worst:.2e} nats per token on {len(probes)} probe pairs, more than "
            f"{TOLERANCE[dtype]:.0e}; nothing was published."
        )
    return worst


def largest_difference(before: ScoredPairs, after: ScoredPairs) -> float:
    """The largest change of an answer's mean log-probability, in nats per token; NaN where one that exists is NaN."""
    return float(np.max(differences(before, after)))


def differences(before: ScoredPairs, after: ScoredPairs) -> Floats:
    """The change of each answer's mean log-probability, in nats per token, without a sign."""
    sides = (
        (before.chosen_mean_B, after.chosen_mean_B, before.chosen_tokens_B),
        (before.rejected_mean_B, after.rejected_mean_B, before.rejected_tokens_B),
    )
    return np.concatenate([np.abs(one - other)[tokens > 0] for one, other, tokens in sides])
