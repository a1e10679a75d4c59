"""A model folder in the Hub's layout to a model, its tokenizer and what is to be known about both."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model, load_tokenizer

from mlx_server_nano.errors import ModelLoadError, OutOfMemoryError, ServerError, UnsupportedModelError
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.template import TemplateError, compile_template, render
from mlx_server_nano.types import ModelInfo, Sampling
from mlx_server_nano.worker import adapter, slots
from mlx_server_nano.worker.direct import direct
from mlx_server_nano.worker.drafts import Verifying
from mlx_server_nano.worker.grammar import GrammarCompiler
from mlx_server_nano.worker.pooling import EmbeddingPlan, read_plan
from mlx_server_nano.worker.quantized import quantized
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.rope import share_tables
from mlx_server_nano.worker.row_cost import RowCost
from mlx_server_nano.worker.sequence import RowSampling
from mlx_server_nano.worker.tryout import first_line, try_out
from mlx_server_nano.worker.unpack import unpacked
from mlx_server_nano.worker.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)
_FALLBACK_TEMPERATURE = 0.7
_FALLBACK_CONTEXT = 32768
# afm7 takes the position of its later layers from the length of the padded keys, which is wrong for all but the longest row.
_ALONE = frozenset({"afm7"})
_EVAL_BYTES = 256 << 20
_PADDING_BYTES = 256 << 20
_ANOTHER_PART = 16  # of these cost the host as much time as reading the weights takes the device, about


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to run, from `folder`. `apply_template` is None for a model without a chat template. adapter: the folder
    of the LoRA adapter on it.

    kv_bytes_per_token: what a token takes in the KV caches of all layers together, state arrays not counted. verifies:
    several tokens of a row can go through it at once while it decodes, and be taken back. joins: groups of rows can share a
    forward pass (`joint`). row_cost: what a row takes, by its length. kv_bits: of the keys and values in the caches of plain
    attention; None: the model's own precision.
    """

    folder: Path
    adapter: Path | None
    model: Any
    tokenizer: Any
    apply_template: Callable[..., str] | None
    vocabulary: Vocabulary
    grammars: GrammarCompiler
    eos_ids: frozenset[int]
    defaults: Sampling
    embedding: EmbeddingPlan
    info: ModelInfo
    kv_bytes_per_token: int
    verifies: Verifying
    joins: bool
    row_cost: RowCost
    kv_bits: int | None = None

    def new_caches(self) -> list[Any]:
        """Empty caches for a row."""
        return quantized(self.full_caches(), self.kv_bits)

    def full_caches(self) -> list[Any]:
        """The same in the model's own precision."""
        return list(make_prompt_cache(self.model))

    @property
    def padding_limit(self) -> int:
        """Key positions of padding that rows in one group may have: reading them in vain costs as much as another group. That is
        another pass, which reads the weights, or, where groups share one, another piece of attention in each layer."""
        weights = self.info.weights_bytes // (_ANOTHER_PART if self.joins else 1)
        return max(weights, _PADDING_BYTES) // (self.kv_bytes_per_token or 1)

    @property
    def cuttable(self) -> bool:
        """Whether the caches can be cut back to any earlier token."""
        return all(slots.cuttable(cache) for cache in self.new_caches())

    def row_sampling(self, asked: Sampling) -> RowSampling:
        """The request's values over the model's over the usual; the gateway has filled in the operator's."""

        def first(name: str, fallback: float) -> Any:
            value = getattr(asked, name)
            value = getattr(self.defaults, name) if value is None else value
            return fallback if value is None else value

        return RowSampling(
            temperature=first("temperature", _FALLBACK_TEMPERATURE),
            top_p=first("top_p", 1.0),
            top_k=int(first("top_k", 0)),
            min_p=first("min_p", 0.0),
            repetition_penalty=first("repetition_penalty", 1.0),
            presence_penalty=first("presence_penalty", 0.0),
            frequency_penalty=first("frequency_penalty", 0.0),
            logit_bias=asked.logit_bias,
            seed=asked.seed,
        )


def load(
    path: Path,
    options: LoadOptions,
    on_progress: Callable[[float], None],
    ranks: Ranks = ALONE,
) -> LoadedModel:
    """Load a folder; `on_progress` gets the fraction of the weights' bytes that are in memory.

    Raises UnsupportedModelError for an architecture that mlx-lm does not know, OutOfMemoryError, and ModelLoadError for
    damaged or missing files."""
    adapter_folder = None if options.adapter is None else Path(options.adapter)
    config = _read_config(path)
    generation = _read_json(path / "generation_config.json")
    wrapper = _load_tokenizer(path, config, options)
    tokenizer = wrapper._tokenizer
    vocabulary = Vocabulary(tokenizer)
    text_config = config.get("text_config") or config
    entries = max(len(tokenizer), text_config.get("vocab_size") or 0)
    eos_ids = frozenset(i for i in _eos_ids(config, generation, tokenizer) if 0 <= i < entries)
    grammars = GrammarCompiler(tokenizer, vocabulary, vocab_size=entries, eos_ids=eos_ids)
    try:
        model, _ = load_model(path, lazy=True, trust_remote_code=options.trust_remote_code)
        if mx.default_device() == mx.cpu:
            model = unpacked(model)
            share_tables(model)
        if adapter_folder is not None:
            adapter.apply(model, adapter_folder)
        ranks.split(model, config)
        direct(model)
        _evaluate(model, on_progress)
    except (ServerError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _explained(error, path) from error
    abilities = try_out(model, path, options.kv_bits, ranks)
    apply_template = _template(wrapper, tokenizer)
    info = ModelInfo(
        model_type=config["model_type"],
        context_length=min(_context_length(config, tokenizer), options.context_length or sys.maxsize),
        vocab_size=abilities.vocab_size,
        weights_bytes=sum(array.nbytes for _, array in tree_flatten(model.parameters())),
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        chats=apply_template is not None,
        special_tokens=vocabulary.special,
        batchable=ranks.everywhere(abilities.batchable and config["model_type"] not in _ALONE),
    )
    return LoadedModel(
        folder=path,
        adapter=adapter_folder,
        model=model,
        tokenizer=tokenizer,
        apply_template=apply_template,
        vocabulary=vocabulary,
        grammars=grammars,
        eos_ids=eos_ids,
        defaults=_sampling_defaults(generation),
        embedding=read_plan(path, config),
        info=info,
        kv_bytes_per_token=abilities.kv_bytes,
        verifies=abilities.verifies,
        joins=abilities.joins,
        row_cost=abilities.row_cost,
        kv_bits=options.kv_bits,
    )


def _load_tokenizer(path: Path, config: dict[str, Any], options: LoadOptions) -> Any:
    try:
        wrapper = load_tokenizer(path, {"trust_remote_code": options.trust_remote_code}, config.get("eos_token_id"))
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _own_code(path) from error
        raise ModelLoadError(f"The tokenizer in {path.name} can't be loaded: {first_line(error, path)}") from error
    # transformers makes an empty tokenizer of some classes when their files are missing.
    if not wrapper.encode("a", add_special_tokens=False):
        raise ModelLoadError(f"The tokenizer in {path.name} has no vocabulary, its files may be missing.")
    return wrapper


def _read_json(path: Path) -> dict[str, Any]:
    """An absent or damaged optional file counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("%s is unreadable and ignored: %s", path.name, error)
        return {}
    return content if isinstance(content, dict) else {}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnsupportedModelError(f"{path.name} has no config.json: not a model in the Hub's layout.") from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"config.json of {path.name} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsupportedModelError(f"config.json of {path.name} names no model_type.")
    return config


def _evaluate(model: Any, on_progress: Callable[[float], None]) -> None:
    """Read the lazy weights in portions: for progress, and so that their pages come in one after the other."""
    parameters = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in parameters) or 1
    done = 0
    portion: list[mx.array] = []
    waiting = 0
    for array in parameters:
        portion.append(array)
        waiting += array.nbytes
        if waiting >= _EVAL_BYTES:
            mx.eval(portion)
            done += waiting
            on_progress(done / total)
            portion, waiting = [], 0
    mx.eval(portion)
    on_progress(1.0)


def _explained(error: Exception, path: Path) -> ServerError:
    text = first_line(error, path)
    lowered = text.lower()
    if isinstance(error, ValueError) and "not supported" in lowered and "model type" in lowered:
        return UnsupportedModelError(f"{path.name}: {text} It is not an architecture that mlx-lm knows.")
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return _own_code(path)
    if isinstance(error, FileNotFoundError) and "safetensors" in lowered:
        return UnsupportedModelError(f"{path.name} holds no safetensors weights.")
    if isinstance(error, MemoryError) or "out of memory" in lowered or "allocate" in lowered:
        return OutOfMemoryError(f"There is not enough memory to load {path.name}: {text}")
    return ModelLoadError(f"{path.name} can't be loaded, its files may be damaged or incomplete: {text}")


def _own_code(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path.name} brings Python code of its own, which only runs for models that --trust-remote-code names."
    )


def _context_length(config: dict[str, Any], tokenizer: Any) -> int:
    """The most positions that the model was made for. YaRN and linear scaling stretch the original length where the
    config gives it."""
    text = config.get("text_config") or config
    keys = ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length", "max_sequence_length")
    given = [place[key] for place in (text, config) for key in keys if isinstance(place.get(key), int)]
    length: int = next((value for value in given if value > 0), 0)
    if not length:
        limit = getattr(tokenizer, "model_max_length", None)
        return limit if isinstance(limit, int) and 0 < limit < 1 << 30 else _FALLBACK_CONTEXT
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if kind in ("yarn", "linear") and isinstance(original, int) and isinstance(factor, int | float):
        length = max(length, int(original * factor))
    return length


def _as_ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int) and not isinstance(v, bool)}


def _eos_ids(config: dict[str, Any], generation: dict[str, Any], tokenizer: Any) -> set[int]:
    """From all three places: each of them is incomplete in some well-known model."""
    text = config.get("text_config") or {}
    ids = _as_ids(generation.get("eos_token_id")) | _as_ids(config.get("eos_token_id"))
    return ids | _as_ids(text.get("eos_token_id")) | _as_ids(tokenizer.eos_token_id)


def _sampling_defaults(generation: dict[str, Any]) -> Sampling:
    def number(name: str) -> float | None:
        value = generation.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None

    temperature = 0.0 if generation.get("do_sample") is False else number("temperature")
    top_k = number("top_k")
    return Sampling(
        temperature=temperature,
        top_p=number("top_p"),
        top_k=None if top_k is None else int(top_k),
        min_p=number("min_p"),
        repetition_penalty=number("repetition_penalty") or None,
    )


def _template(wrapper: Any, tokenizer: Any) -> Callable[..., str] | None:
    """Raises ModelLoadError for a chat template that is no Jinja."""
    source = tokenizer.chat_template
    if isinstance(source, str):
        try:
            template = compile_template(source)
        except TemplateError as error:
            raise ModelLoadError(f"The model's chat template is damaged: {error}") from error
        tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}

        def apply(messages: Any, tools: Any, **kwargs: Any) -> str:
            return render(template, messages, tools, **{**tokens, **kwargs})

        return apply
    if not wrapper.has_chat_template:
        return None

    # mlx-lm renders a few models, whose repositories have no Jinja template, in Python.
    def apply_python(messages: Any, tools: Any, **kwargs: Any) -> str:
        return str(
            wrapper.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=True, **kwargs
            )
        )

    return apply_python
