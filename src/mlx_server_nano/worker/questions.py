"""What requests become on the preparer's thread: prompts, texts to embed, or, where the tokenizer or the template is all that is
needed, answers."""

from __future__ import annotations

from typing import Any

from mlx_server_nano.errors import Failure
from mlx_server_nano.protocol import Answer, Measured, Rendered, Tokenized
from mlx_server_nano.types import Detokenize, Embed, GenerationRequest, Measure, RenderChat, Tokenize, Work
from mlx_server_nano.worker.embedder import EmbeddingTask
from mlx_server_nano.worker.pooling import EmbeddingPlan
from mlx_server_nano.worker.prompts import Tokenizing
from mlx_server_nano.worker.scheduler import Prepared
from mlx_server_nano.worker.vocabulary import Vocabulary

Outcome = Prepared | EmbeddingTask | Answer | tuple[int, Failure]


class Questions:
    """For one thread at a time, the preparer's."""

    def __init__(self, tokenizing: Tokenizing, tokenizer: Any, vocabulary: Vocabulary, plan: EmbeddingPlan) -> None:
        self._tokenizing = tokenizing
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._plan = plan

    def prepare(self, request_id: int, question: Work) -> Prepared | EmbeddingTask | Answer:
        """Raises InvalidRequestError: what `Tokenizing.prepare` does, and for ids that the model does not have, messages that
        its template refuses, texts that can't be embedded."""
        if isinstance(question, GenerationRequest):
            return self._tokenizing.prepare(request_id, question)
        if isinstance(question, Measure):
            return Measured(request_id, len(self._tokenizing.prepare(request_id, question.request).ids))
        if isinstance(question, Embed):
            self._plan.check()
            one = len(question.inputs) == 1
            texts = [
                self._tokenizing.embeddable(text, "input" if one else f"input.{i}")
                for i, text in enumerate(question.inputs)
            ]
            return EmbeddingTask(request_id, texts, question.dimensions)
        if isinstance(question, RenderChat):
            return Rendered(request_id, self._tokenizing.render(question.prompt))
        if isinstance(question, Detokenize):
            self._tokenizing.check_ids(question.ids, "tokens")
            return Rendered(request_id, self._vocabulary.text_of(question.ids))
        ids = tuple(self._tokenize(question))
        return Tokenized(request_id, ids, tuple(map(self._vocabulary.bytes_of, ids)))

    def _tokenize(self, question: Tokenize) -> list[int]:
        options = {} if question.parse_special else {"split_special_tokens": True}
        return list(self._tokenizer.encode(question.text, add_special_tokens=question.add_special, **options))
