"""What the worker relies on in mlx-lm, MLX and tokenizers. When an update breaks one of these, look at who uses it."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import base, cache
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model, load_tokenizer
from tokenizers import decoders

from mlx_server_nano.worker import attention, joint
from tests.worker.conftest import Tiny


def parameters(function: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_the_version_that_all_this_is_known_of():
    assert importlib.metadata.version("mlx-lm").startswith("0.32.")


def test_loading():
    assert list(parameters(load_model))[:2] == ["model_path", "lazy"]
    assert parameters(load_model)["trust_remote_code"] is False
    assert list(parameters(load_tokenizer))[:3] == ["model_path", "tokenizer_config_extra", "eos_token_ids"]


def test_adapters():
    """It checks names and shapes itself, and leaves the model in training."""
    assert parameters(load_adapters) == {"model": inspect.Parameter.empty, "adapter_path": inspect.Parameter.empty}
    assert "contains incompatible tensors:" in inspect.getsource(load_adapters)
    assert "eval()" not in inspect.getsource(load_adapters)


def test_the_kinds_of_caches():
    """A new kind wants a decision: can its rows go into slots, can it be cut?"""
    kinds = {name for name, value in vars(cache).items() if inspect.isclass(value) and name.endswith("Cache")}
    assert kinds | {"CacheList"} == {
        "ArraysCache",
        "BatchKVCache",
        "BatchRotatingKVCache",
        "CacheList",
        "ChunkedKVCache",
        "ConcatenateKVCache",
        "KVCache",
        "LRUPromptCache",
        "QuantizedKVCache",
        "RotatingKVCache",
        "_BaseCache",
    }


def test_a_models_caches():
    class Plain:
        layers = (1, 2)

    class Own(Plain):
        def make_cache(self) -> list[Any]:
            return [ArraysCache(1)]

    assert [type(c) for c in make_prompt_cache(Plain())] == [KVCache, KVCache]
    assert [type(c) for c in make_prompt_cache(Own())] == [ArraysCache]


def random_array(*shape: int) -> mx.array:
    return mx.random.normal(shape)


def test_plain_caches():
    plain = KVCache()
    assert (plain.keys, plain.values, plain.offset) == (None, None, 0)
    for length in (3, 1, 300):
        keys, values = plain.update_and_fetch(random_array(1, 2, length, 4), random_array(1, 2, length, 5))
    assert plain.offset == keys.shape[2] == values.shape[2] == 304
    assert plain.keys.shape[2] >= 304 and plain.keys.shape[:2] == (1, 2) and plain.values.shape[3] == 5
    plain.trim(4)
    assert plain.keys_and_values()[0].shape == (1, 2, 300, 4)


def test_windows():
    window = RotatingKVCache(max_size=8)
    assert (window.keep, window.max_size, window.offset) == (0, 8, 0)
    for length in (3, 11, 1, 1):
        window.update_and_fetch(random_array(1, 2, length, 4), random_array(1, 2, length, 4))
    assert window.offset == 16
    newest = random_array(1, 2, 1, 4)
    window.update_and_fetch(newest, newest)
    ordered = window._temporal_order(window.keys)
    assert ordered.shape[2] == 8 and mx.array_equal(ordered[:, :, -1:], newest)


def test_states():
    states = ArraysCache(size=2)
    assert states.cache == [None, None] and states.lengths is None and states.left_padding is None
    assert states.make_mask(1) is None
    states[1] = mx.zeros(3)
    assert states.cache[1] is states[1]


def test_lists_of_caches():
    parts = CacheList(KVCache(), ArraysCache(1))
    assert parts[0] is parts.caches[0] and len(parts.caches) == 2


def test_models_ask_their_cache_for_the_mask():
    class Asked:
        def make_mask(self, n: int, **options: Any) -> Any:
            return n, options

    assert base.create_attention_mask(mx.zeros((2, 1, 4)), Asked(), window_size=7) == (
        1,
        {"return_array": False, "window_size": 7},
    )


def test_attention_takes_a_mask_for_each_row():
    q, k, v = random_array(2, 4, 1, 8), random_array(2, 2, 5, 8), random_array(2, 2, 5, 8)
    mask = (mx.arange(5) < mx.array([[3], [5]]))[:, None, None]
    together = base.scaled_dot_product_attention(q, k, v, cache=None, scale=1.0, mask=mask)
    alone = base.scaled_dot_product_attention(q[:1], k[:1, :, :3], v[:1, :, :3], cache=None, scale=1.0, mask=None)
    assert mx.allclose(together[:1], alone, atol=1e-5)


def test_attention_is_called_as_ours_is():
    """`joint.attend` takes its place in the modules of models, which call it by that name and with these arguments."""
    names = ["queries", "keys", "values", "cache", "scale", "mask", "sinks"]
    required = inspect.Parameter.empty
    for function in (base.scaled_dot_product_attention, joint.attend, attention.attention):
        assert parameters(function) == dict(zip(names, [*[required] * 6, None], strict=True))


def test_models_find_attention_under_its_name():
    """`joint.prepare` looks for it there."""
    for name in ("llama", "qwen3", "gemma3_text", "qwen3_next", "gpt_oss"):
        module = importlib.import_module(f"mlx_lm.models.{name}")
        assert module.scaled_dot_product_attention in (base.scaled_dot_product_attention, joint.attend)


@pytest.mark.parametrize("traditional", [False, True])
def test_positions_may_differ_by_row(traditional: bool):
    x = random_array(2, 3, 1, 8)
    rope: dict[str, Any] = {"dims": 8, "traditional": traditional, "base": 10000.0, "scale": 1.0}
    together = mx.fast.rope(x, offset=mx.array([4, 9]), **rope)
    for row, offset in enumerate((4, 9)):
        assert mx.allclose(together[row], mx.fast.rope(x[row : row + 1], offset=offset, **rope)[0], atol=1e-5)


def test_writing_into_an_array_leaves_other_handles_as_they_are():
    origin = mx.zeros(4)
    twin = origin[...]
    twin[1:2] = mx.ones(1)
    lazy = twin + 1
    twin[:] = 7
    assert origin.tolist() == [0, 0, 0, 0] and lazy.tolist() == [1, 2, 1, 1] and twin.tolist() == [7, 7, 7, 7]


def test_rows_are_written_each_at_its_own_position():
    keys = mx.zeros((3, 2, 5, 1))
    keys[mx.arange(2), :, mx.array([4, 1])] = mx.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    expected = np.zeros((3, 2, 5, 1))
    expected[0, :, 4, 0] = 1, 2
    expected[1, :, 1, 0] = 3, 4
    np.testing.assert_array_equal(np.array(keys), expected)


def test_of_the_wrapped_tokenizer(tiny: Tiny):
    wrapper = TokenizerWrapper(tiny("qwen3").tokenizer)
    assert wrapper._tokenizer is tiny("qwen3").tokenizer
    assert wrapper.has_chat_template is True
    assert wrapper._tokenizer.convert_ids_to_tokens(10**6) is None


def test_a_decoders_state_is_its_json():
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    assert json.loads(decoder.__getstate__()) == {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
