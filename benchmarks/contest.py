"""One round of one contestant: what is asked of it and what its figures are."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks import figures, jobs, load, prompts
from benchmarks.figures import Answer
from benchmarks.jobs import BareJob, BareReport, LoadJob, LoadReport, Scenario
from benchmarks.rounds import Round
from benchmarks.servers import Contestant, Server, environment, help_seconds, running
from mlx_server_nano.config import Settings

_WARM_UP_TOKENS: Final = 24
_CONNECTION_TOKENS: Final = 8
_CONNECTION_SECONDS: Final = 60.0
_SECONDS: Final = 240.0


class Sizes(Struct, frozen=True, kw_only=True):
    """How much is asked. Lengths are in tokens. streams: how many run beside the probes, which are `probes` short requests and
    the long prompt; stream_output: their length at most, as they are cut when the probes are through. batch: how many
    requests each server decodes together; None: its default, which is 32 for both."""

    clients: tuple[int, ...]
    prompt: int
    output: int
    stream_output: int
    long_prompt: int
    streams: int
    probes: int
    connections: int
    rounds: int
    batch: int | None = None


class _SizedRound(Round):
    def __init__(self, model: Path, sizes: Sizes) -> None:
        super().__init__(model)
        self._sizes = sizes

    def requests_of(self, clients: int) -> int:
        """A single client's figure needs more than one request's worth of time."""
        return 4 if clients == 1 else 2

    def note_rates(self, clients: int, answers: list[Answer]) -> None:
        if not answers:
            return
        self.record.figures[f"tokens_per_second.{clients}"] = figures.throughput(answers)
        self.record.figures[f"full_batch.{clients}"] = figures.full_batch_rate(answers, clients)
        self.note_requests(f"saturate.{clients}", answers)


class BareRound(_SizedRound):
    def play(self) -> None:
        sizes = self._sizes
        job = BareJob(
            model=str(self._model),
            rows=sizes.clients,
            prompt_words=self.words(sizes.prompt),
            long_words=self.words(sizes.long_prompt),
            output_tokens=sizes.output,
            repeats=self.requests_of(1),
        )
        reported = jobs.run("benchmarks.bare", job, BareReport, environment(self._model))
        noted = self.record.figures
        for rows, answers in reported.answers.items():
            self.note_rates(rows, answers)
            noted[f"cpu.{rows}"] = reported.cpu_seconds[rows] / sum(answer.tokens for answer in answers)
        if 1 in reported.answers:
            noted["first_token_idle"] = figures.middle(answer.first for answer in reported.answers[1])
        noted["long_first_token"] = reported.long.first
        noted["mlx_bytes"] = reported.memory_bytes


class ServerRound(_SizedRound):
    def __init__(self, contestant: Contestant, model: Path, sizes: Sizes, *, footprint: bool) -> None:
        """footprint: also start the server just to see what it takes without a model."""
        super().__init__(model, sizes)
        self._contestant = contestant
        self._with_footprint = footprint
        self._seed = 0

    def play(self) -> None:
        noted = self.record.figures
        noted["help"] = help_seconds(self._contestant)
        if self._with_footprint:
            self._footprint()
        with running(self._contestant, self._model, *self._contestant.batch(self._sizes.batch)) as server:
            noted["listening"] = server.wait_listening()
            noted["cold_first_token"] = self._cold(server)
            server.wait_idle()
            self._warm_up(server)
            # This server starts its next spare worker meanwhile, which must not take part in what follows.
            noted["loaded_bytes"] = server.settled_memory().resident
            self._rates(server)
            self._first_tokens(server)
            self._stall(server)
            self._connections(server)
            memory = server.memory()
            noted["busy_bytes"], noted["device_bytes"] = memory.resident, memory.device

    def _footprint(self) -> None:
        alone = ["--no-spare-worker"] if self._contestant is Contestant.NANO else []
        with running(self._contestant, None, *alone) as server:
            server.wait_listening()
            self.record.figures["idle_bytes"] = server.settled_memory().resident
        if self._contestant is Contestant.NANO:
            with running(self._contestant, None) as server:
                server.wait_listening()
                self.record.figures["spare_bytes"] = server.settled_memory().resident

    def _cold(self, server: Server) -> float:
        """From this process: starting another would be part of the figure."""
        self._say("cold start")
        prompt = prompts.text(-1, self.words(self._sizes.prompt))
        answer = asyncio.run(load.ask(server.port, str(self._model), [load.user(prompt)], _WARM_UP_TOKENS))
        return answer.arrivals[0] - server.started

    def _warm_up(self, server: Server) -> None:
        for clients in self._sizes.clients:
            self._load("warm-up", server, Scenario.SATURATE, clients=clients, output_tokens=_WARM_UP_TOKENS)
        self._load("warm-up, long", server, Scenario.STALL, clients=0, long_words=self.words(self._sizes.long_prompt))

    def _rates(self, server: Server) -> None:
        noted = self.record.figures
        for clients in self._sizes.clients:
            before = server.cpu_seconds()
            report = self._load(
                f"saturate.{clients}",
                server,
                Scenario.SATURATE,
                clients=clients,
                requests=self.requests_of(clients),
                output_tokens=self._sizes.output,
            )
            first, together = (now - then for now, then in zip(server.cpu_seconds(), before, strict=True))
            self.note_rates(clients, report.answers)
            if tokens := sum(answer.tokens for answer in report.answers):
                noted[f"cpu.{clients}"] = together / tokens
                noted["gateway_cpu"] = first / tokens if self._contestant is Contestant.NANO else None
        noted["generator_share"] = report.cpu_seconds / report.wall_seconds

    def _first_tokens(self, server: Server) -> None:
        for name, streams in (("idle", 0), ("loaded", self._sizes.streams)):
            report = self._load(
                f"probe.{name}",
                server,
                Scenario.PROBE,
                clients=streams,
                requests=self._sizes.probes,
                output_tokens=self._sizes.stream_output,
            )
            self.record.figures[f"first_token_{name}"] = figures.middle(a.first for a in report.answers)
            self.note_requests(f"probe.{name}", report.answers)

    def _stall(self, server: Server) -> None:
        sizes, noted = self._sizes, self.record.figures
        words = self.words(sizes.long_prompt)
        alone = self._load("long, idle", server, Scenario.STALL, clients=0, long_words=words)
        busy = self._load(
            "long, loaded",
            server,
            Scenario.STALL,
            clients=sizes.streams,
            output_tokens=sizes.stream_output,
            long_words=words,
        )
        if not alone.answers or not busy.answers:
            return
        (idle,), (long,) = alone.answers, busy.answers
        self.note_requests("stall.long", [idle, long])
        quiet = figures.gaps_within(busy.background, 0.0, long.sent)
        disturbed = figures.gaps_within(busy.background, long.sent, long.arrivals[-1])
        usual = figures.middle(quiet)
        noted["long_first_token"], noted["long_first_token_loaded"] = idle.first, long.first
        if usual is None or not disturbed:
            return
        chunk = idle.first * min(1.0, Settings().busy_prefill_chunk / idle.prompt_tokens)
        noted["gap_median"], noted["gap_largest"] = usual, max(disturbed)
        noted["gap_largest_in_medians"] = max(disturbed) / usual
        noted["gap_allowed"] = 2 * usual + chunk if self._contestant is Contestant.NANO else None

    def _connections(self, server: Server) -> None:
        if self._sizes.connections:
            report = self._load(
                "connections",
                server,
                Scenario.SATURATE,
                clients=self._sizes.connections,
                output_tokens=_CONNECTION_TOKENS,
                retry=False,
                seconds=_CONNECTION_SECONDS,
            )
            self.record.figures["connections_answered"] = len(report.answers)

    def _load(
        self,
        name: str,
        server: Server,
        scenario: Scenario,
        *,
        clients: int,
        requests: int = 1,
        output_tokens: int = _WARM_UP_TOKENS,
        long_words: int = 0,
        retry: bool = True,
        seconds: float = _SECONDS,
    ) -> LoadReport:
        started = time.monotonic()
        self._seed += 1
        job = LoadJob(
            port=server.port,
            model=str(self._model),
            scenario=scenario,
            clients=clients,
            requests=requests,
            prompt_words=self.words(self._sizes.prompt),
            output_tokens=output_tokens,
            long_words=long_words,
            seed=self._seed,
            retry=retry,
            seconds=seconds,
        )
        report = jobs.run("benchmarks.load", job, LoadReport, environment(self._model))
        if report.troubles:
            self.record.troubles[name] = report.troubles
        self._say(f"{name} ({time.monotonic() - started:.1f} s){_troubles(report.troubles)}")
        return report

    def _say(self, what: str) -> None:
        print(f"  {self._contestant}: {what}", file=sys.stderr, flush=True)


def _troubles(troubles: dict[str, int]) -> str:
    return "".join(f"; {times} × {trouble}" for trouble, times in troubles.items())
