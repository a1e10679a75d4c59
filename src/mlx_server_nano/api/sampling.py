"""The sampling and reasoning parameters that the OpenAI dialects share, with OpenAI's ranges and the vendors' additions."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from mlx_server_nano.chat.request import Thinking
from mlx_server_nano.types import Sampling

MAX_LOGIT_BIAS_ENTRIES: Final = 1024

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
PositiveInt = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
MAX_STOP_LENGTH: Final = 1024  # characters; the search for what may become one is quadratic
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_BIASES: Final = Meta(
    max_length=MAX_LOGIT_BIAS_ENTRIES, extra_json_schema={"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"}}
)
Stop = StopText | Annotated[list[StopText], Meta(min_length=1, max_length=4)]


class SamplingFields(Struct, kw_only=True):
    """Every field may be null, which means its default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[TopK | None, Meta(description="0 and -1 turn it off.")] = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], _BIASES] | None = None
    seed: Int64 | None = None
    stop: Stop | None = None

    def to_sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias or {},
            seed=self.seed,
        )

    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def to_thinking(effort: Effort | None, budget: int | None = None) -> Thinking:
    if effort == "none":
        return Thinking(enabled=False, budget=budget)
    return Thinking(effort=effort, budget=budget)
