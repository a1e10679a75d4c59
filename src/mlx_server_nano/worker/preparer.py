"""The thread that prepares prompts: a long conversation takes long enough to render and tokenize for running streams to
notice. Imports nothing heavy, so that requests can wait here from the process's first moment on."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_server_nano.errors import Failure, ServerError, log_fault
from mlx_server_nano.protocol import Generate

if TYPE_CHECKING:
    from mlx_server_nano.worker.questions import Outcome, Questions

_LOG = logging.getLogger(__name__)


class Preparer:
    """Prepares requests in the order they come, and hands on what becomes of them. Those that come before `start` wait."""

    def __init__(self, deliver: Callable[[Outcome], None]) -> None:
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Generate] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._preparing: set[int] = set()
        self._lock = threading.Lock()

    def start(self, questions: Questions) -> None:
        threading.Thread(target=self._run, args=(questions,), name="preparer", daemon=True).start()

    def submit(self, generate: Generate) -> None:
        with self._lock:
            self._preparing.add(generate.request_id)
        self._inbox.put(generate)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            if request_id in self._preparing:
                self._cancelled.add(request_id)

    def _run(self, questions: Questions) -> None:
        while True:
            generate = self._inbox.get()
            request_id = generate.request_id
            result: Outcome | None = None
            if request_id not in self._cancelled:
                result = _prepare(questions, generate)
            # Under the lock, so that a cancel is either seen here or reaches the engine after the request does.
            with self._lock:
                self._preparing.discard(request_id)
                if request_id in self._cancelled:
                    self._cancelled.discard(request_id)
                elif result is not None:
                    self._deliver(result)


def _prepare(questions: Questions, generate: Generate) -> Outcome:
    try:
        return questions.prepare(generate.request_id, generate.request)
    except ServerError as error:
        return generate.request_id, error.to_failure()
    except Exception as error:
        log_fault(_LOG, "Preparing a prompt failed", error)
        return generate.request_id, Failure("GenerationError", f"The prompt could not be prepared: {error}")
