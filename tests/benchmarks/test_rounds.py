import copy
import json

import pytest
from benchmarks.command import Result
from benchmarks.figures import TroubleError
from benchmarks.report import Row
from benchmarks.rounds import Records, Round, take_turns

from benchmarks import prompts


class _Round(Round):
    def __init__(self, model, name: str, i: int) -> None:
        super().__init__(model)
        self._name = name
        self._number = i

    def play(self) -> None:
        self.record.figures["speed"] = float(self._number)
        if self._name == "bad":
            raise TroubleError("no answer")
        if self._name == "killed":
            raise SystemExit(1)


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(prompts, "tokens_per_word", lambda model: 2.0)


def test_every_second_round_is_in_the_opposite_order_and_a_failure_ends_one_round_only(tmp_path):
    saved: list[Records] = []
    begun: list[tuple[str, int]] = []

    def begin(name: str, i: int) -> Round:
        begun.append((name, i))
        return _Round(tmp_path, name, i)

    take_turns(["good", "bad"], 2, begin, lambda records: saved.append(copy.deepcopy(records)))
    assert begun == [("good", 0), ("bad", 0), ("bad", 1), ("good", 1)]
    assert [len(saved[i]["good"]) + len(saved[i]["bad"]) for i in range(4)] == [1, 2, 3, 4]
    assert [record.troubles for record in saved[-1]["bad"]] == 2 * [{"gave up": {"no answer": 1}}]
    assert [record.figures["speed"] for record in saved[-1]["good"]] == [0.0, 1.0]


def test_what_there_is_gets_written_when_the_benchmark_is_told_to_end(tmp_path):
    result = Result(
        tmp_path / "new" / "speed", "a title", {"long": 3}, [Row("speed", "speed")], {"killed": "this server"}
    )
    with pytest.raises(SystemExit):
        take_turns(["killed"], 1, lambda name, i: _Round(tmp_path, name, 7), result.save)
    assert "| speed | 7.0 |" in (tmp_path / "new" / "speed.md").read_text()
    assert json.loads((tmp_path / "new" / "speed.json").read_text())["records"]["killed"][0]["figures"] == {
        "speed": 7.0
    }
