"""Embeddings against the models' own hidden states, whatever shares a pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.protocol import Embedded, Failed
from mlx_server_nano.worker.embedder import Embedder, EmbeddingTask
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.pooling import EmbeddingPlan, Pooling, read_plan
from tests.tiny_models import ARCHITECTURES
from tests.worker import harness

TEXTS = [[5], [7, 8, 9, 10, 11, 12, 13], list(range(20, 120)), [3, 1, 4, 1, 5]]


def vectors(event: Embedded | Failed) -> np.ndarray:
    assert isinstance(event, Embedded)
    return np.stack([np.frombuffer(vector, "<f4") for vector in event.vectors])


def run(embedder: Embedder, budget: int) -> list[Any]:
    events: list[Any] = []
    for _ in range(1000):
        events += embedder.step(budget)
        if embedder.idle:
            return events
    raise AssertionError("the embedder does not come to rest")


def expected(loaded: LoadedModel, texts: list[list[int]], pooling: Pooling) -> np.ndarray:
    """From each text by itself, in one pass: the states that the head gets."""
    inner = getattr(loaded.model, "model", None) or loaded.model.backbone
    found = []
    for ids in texts:
        hidden = np.array(inner(mx.array([ids]))[0].astype(mx.float32))
        found.append({Pooling.LAST: hidden[-1], Pooling.MEAN: hidden.mean(axis=0), Pooling.CLS: hidden[0]}[pooling])
    return np.stack(found)


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
@pytest.mark.parametrize("budget", [2048, 16], ids=["together", "in portions"])
def test_vectors_are_the_hidden_states(tiny: Callable[..., LoadedModel], arch: str, budget: int) -> None:
    loaded = tiny(arch)
    for pooling in Pooling:
        embedder = Embedder(loaded.model, loaded.new_caches, EmbeddingPlan(pooling, normalize=False))
        embedder.add(EmbeddingTask(1, TEXTS, None))
        (event,) = run(embedder, budget)
        assert event.tokens == sum(map(len, TEXTS))
        np.testing.assert_allclose(vectors(event), expected(loaded, TEXTS, pooling), rtol=2e-3, atol=2e-4)


def test_the_states_are_those_that_the_head_gets(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny("qwen3")
    embedder = Embedder(loaded.model, loaded.new_caches, EmbeddingPlan(Pooling.LAST, normalize=False))
    embedder.add(EmbeddingTask(1, TEXTS, None))
    (event,) = run(embedder, 2048)
    for ids, vector in zip(TEXTS, vectors(event), strict=True):
        logits = loaded.model.model.embed_tokens.as_linear(mx.array(vector))
        np.testing.assert_allclose(
            np.array(logits), np.array(loaded.model(mx.array([ids]))[0, -1]), rtol=1e-3, atol=1e-3
        )


def test_requests_share_passes_and_get_their_own(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny("qwen3")
    embedder = Embedder(loaded.model, loaded.new_caches, EmbeddingPlan(Pooling.MEAN, normalize=True))
    for request_id, text in enumerate(TEXTS):
        embedder.add(EmbeddingTask(request_id, [text], 8 if request_id % 2 else None))
    embedder.add(EmbeddingTask(9, [[1]], 65))
    embedder.cancel(2)
    *events, failed = run(embedder, 2048)
    assert [event.request_id for event in events] == [0, 1, 3]
    assert isinstance(failed, Failed) and failed.failure.param == "dimensions"
    for event in events:
        (vector,) = vectors(event)
        whole = expected(loaded, [TEXTS[event.request_id]], Pooling.MEAN)[0][: len(vector)]
        assert len(vector) == (8 if event.request_id % 2 else 64)
        np.testing.assert_allclose(vector, whole / np.linalg.norm(whole), rtol=1e-3, atol=1e-5)


def test_a_failing_pass_ends_its_requests_only(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny("qwen3")
    embedder = Embedder(loaded.model, loaded.new_caches, EmbeddingPlan())
    embedder.add(EmbeddingTask(1, [[1] * 40, "bad"], None))  # type: ignore[list-item]
    embedder.add(EmbeddingTask(2, [[1, 2]], None))
    embedder.step(40)
    (failed,) = embedder.step(4)
    assert isinstance(failed, Failed) and failed.request_id == 1
    (event,) = run(embedder, 40)
    assert event.request_id == 2


@pytest.mark.parametrize("failures", [1, 2])
def test_a_pass_without_memory_is_retried_once(tiny: Callable[..., LoadedModel], failures: int) -> None:
    loaded = tiny("qwen3")
    calls, freed = [0], [0]

    class Body:
        def __call__(self, *args: Any, **options: Any) -> mx.array:
            calls[0] += 1
            if 1 < calls[0] <= 1 + failures:
                raise RuntimeError("[malloc] Unable to allocate 9 bytes.")
            result: mx.array = loaded.model.model(*args, **options)
            return result

    class Model:
        model = Body()

    def free() -> None:
        freed[0] += 1

    plan = EmbeddingPlan(Pooling.LAST, normalize=False)
    embedder = Embedder(Model(), loaded.new_caches, plan, free_memory=free)
    embedder.add(EmbeddingTask(1, [TEXTS[0], TEXTS[1]], None))
    first, *rest = run(embedder, 1)
    assert not rest and first.request_id == 1 and freed[0] == 1
    if failures == 1:
        np.testing.assert_allclose(vectors(first), expected(loaded, TEXTS[:2], Pooling.LAST), rtol=2e-3, atol=2e-4)
    else:
        assert isinstance(first, Failed) and "Unable to allocate" in first.failure.message


def test_the_engine_embeds_while_it_generates(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny("qwen3")
    driver = harness.Driver(loaded, busy_prefill_chunk=16)
    request = driver.tokens([1, 2, 3], max_tokens=40)
    driver.turn(3)
    driver.inbox.put(EmbeddingTask(77, TEXTS, None))
    driver.inbox.put(EmbeddingTask(78, [[1] * 500], None))
    driver.turn(2)
    driver.cancel(78)
    driver.run()
    answers = [event for event in driver.recorder.events if isinstance(event, Embedded)]
    assert [event.request_id for event in answers] == [77]
    np.testing.assert_allclose(np.linalg.norm(vectors(answers[0]), axis=1), 1, rtol=1e-5)
    assert driver.answers()[request, 0].finish is not None


def files(folder: Path, modules: list[str], pooling: dict[str, Any]) -> Path:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    listed = [{"idx": i, "path": paths[m], "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 64, **pooling}))
    return folder


USUAL = ["Transformer", "Pooling", "Normalize"]
OLD = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}


@pytest.mark.parametrize(
    ("modules", "pooling", "plan"),
    [
        (USUAL, {**OLD, "pooling_mode_lasttoken": True}, EmbeddingPlan(Pooling.LAST)),
        (USUAL[:2], {**OLD, "pooling_mode_mean_tokens": True}, EmbeddingPlan(Pooling.MEAN, normalize=False)),
        (USUAL, {**OLD, "pooling_mode_cls_token": True}, EmbeddingPlan(Pooling.CLS)),
        (USUAL, {"pooling_mode": "lasttoken"}, EmbeddingPlan(Pooling.LAST)),
    ],
)
def test_plans(tmp_path: Path, modules: list[str], pooling: dict[str, Any], plan: EmbeddingPlan) -> None:
    assert read_plan(files(tmp_path, modules, pooling), {}) == plan


@pytest.mark.parametrize(
    ("modules", "pooling", "reason"),
    [
        (USUAL, {**OLD, "pooling_mode_max_tokens": True}, "none of"),
        (USUAL, {**OLD, "pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, "none of"),
        (USUAL, {"pooling_mode": "max"}, "none of"),
        ([*USUAL[:2], "Dense"], {**OLD, "pooling_mode_mean_tokens": True}, "Dense"),
    ],
)
def test_plans_that_cannot_be_followed(
    tmp_path: Path, modules: list[str], pooling: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read_plan(files(tmp_path, modules, pooling), {}).check()


def test_damaged_files_and_models_that_look_ahead(tmp_path: Path) -> None:
    assert read_plan(tmp_path, {}) == EmbeddingPlan(Pooling.MEAN, normalize=True)
    assert read_plan(tmp_path, {"use_bidirectional_attention": True}).refusal is not None
    for text in ("{", "[1]", '{"a": 1}', '[{"type": "x.Pooling", "path": "1_Pooling"}]'):
        (tmp_path / "modules.json").write_text(text)
        assert "damaged" in (read_plan(tmp_path, {}).refusal or "")
