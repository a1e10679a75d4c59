"""A draft model's folder to a `DraftModel`, if it fits the model that it is to draft for."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from mlx_lm.models.cache import make_prompt_cache
from msgspec.structs import replace

from mlx_server_nano.errors import ModelLoadError
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.worker import loader, memory
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.drafts import Verifying
from mlx_server_nano.worker.loader import LoadedModel

_LOG = logging.getLogger(__name__)
_CACHE_SHARE = 8  # of the large model's budget for caches of earlier prompts


def load(large: LoadedModel, options: LoadOptions) -> DraftModel | None:
    """None where no draft model is wanted, and where one does not fit that is not required. Raises ModelLoadError where it
    is, and what `loader.load` raises."""
    if options.draft_folder is None or not options.speculation:
        return None
    folder = Path(options.draft_folder)
    trusted = options.draft_trust_remote_code
    own = replace(options, adapter=None, kv_bits=None, trust_remote_code=trusted)
    small = loader.load(folder, own, lambda fraction: None)
    if problem := _problem(large, small):
        message = f"{folder.name} can't draft for {options.log_name}: {problem}"
        if options.draft_required:
            raise ModelLoadError(message)
        _LOG.warning("%s", message)
        return None
    return DraftModel(
        small.model,
        partial(make_prompt_cache, small.model),  # and nothing more of what was loaded
        vocab_size=min(large.info.vocab_size, small.info.vocab_size),
        context_length=small.info.context_length,
        share=small.info.weights_bytes / large.info.weights_bytes,
        row_cost=small.row_cost,
        budget=memory.prefix_budget(options.prefix_cache_bytes) // _CACHE_SHARE,
    )


def _problem(large: LoadedModel, small: LoadedModel) -> str | None:
    if large.verifies is Verifying.NOBODY:
        return "what the larger model has computed for wrong guesses can't be taken back"
    if large.tokenizer.get_vocab() != small.tokenizer.get_vocab():
        return "their vocabularies differ"
    if not (small.info.batchable and small.verifies is Verifying.ALL):
        return "what the smaller model has computed for wrong guesses can't be taken back"
    return None
