"""A set of tools offered together, with the requests that each of them answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.data.checks import Call
from training.data.source import Source, Split
from training.data.tools import everyday, request, schema
from training.data.tools.request import Request
from training.data.tools.schema import Structure, ToolSpec
from training.render import Tool as ToolJson


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as the client sends it, and how to ask for it. `spec` is there for random tools."""

    name: str
    json: ToolJson
    ask: Callable[[], Request]
    spec: ToolSpec | None = None


def random_offer(source: Source, spec: ToolSpec) -> Offer:
    return Offer(spec.name, schema.as_json(source, spec), lambda: request.request(source, spec), spec)


def everyday_offer(source: Source, tool: everyday.Everyday | None = None) -> Offer:
    return _offer(source, everyday.name(source, tool or source.choice(everyday.TOOLS)))


def _offer(source: Source, chosen: everyday.Chosen) -> Offer:
    return Offer(chosen.name, everyday.as_json(source, chosen), lambda: everyday.request(source, chosen))


def everyday_toolbox(source: Source, count: int) -> list[Offer]:
    """Different everyday tools and no others: what people try first."""
    return [everyday_offer(source, tool) for tool in source.sample(everyday.TOOLS, count)]


def rival(source: Source, spec: ToolSpec) -> ToolSpec:
    """Another tool for the same thing: only the verb tells them apart."""
    other = source.until(lambda: schema.tool(source), lambda o: o.verb is not spec.verb)
    spoken = source.until(lambda: f"{source.choice(other.verb.code)} {spec.thing}", source.ours)
    described = f"{other.verb.described} a {spec.thing}" if spec.description else None
    return ToolSpec(schema.case(source, spoken), other.verb, spec.thing, described, other.fields)


def toolbox(source: Source, count: int, structure: Structure = Structure.FLAT) -> list[Offer]:
    """Tools of different names. The first is meant to be asked for: it has the structure, and at times a rival."""
    if structure is Structure.FLAT and source.split is Split.TRAIN and source.chance(0.15):
        return everyday_toolbox(source, count)
    if structure is Structure.FLAT and source.split is Split.TRAIN and source.chance(0.15):
        first = everyday_offer(source)
    else:
        first = random_offer(source, schema.tool(source, structure))
    offers = {first.name: first}
    while len(offers) < count:
        if first.spec and source.chance(0.2) and (spec := _rival(source, first.spec)):
            other = random_offer(source, spec)
        elif source.split is Split.TRAIN and source.chance(0.12):
            other = everyday_offer(source)
        else:
            other = random_offer(
                source, schema.tool(source, Structure.NESTED if source.chance(0.08) else Structure.FLAT)
            )
        offers.setdefault(other.name, other)
    return list(offers.values())


def _rival(source: Source, spec: ToolSpec) -> ToolSpec | None:
    """None where all names that come up belong to the other side."""
    try:
        return rival(source, spec)
    except LookupError:
        return None


def repeated(source: Source, count: int) -> tuple[Offer, str, list[Call]]:
    """A tool, one sentence that asks for it several times, and the calls."""
    if source.split is Split.TRAIN and source.chance(0.5):
        tool = source.until(lambda: source.choice(everyday.TOOLS), everyday.repeatable)
        chosen = everyday.name(source, tool)
        return _offer(source, chosen), *everyday.repeated(source, chosen, count)
    spec = source.until(lambda: schema.tool(source, count=1), lambda t: request.can_be_listed(t.fields[0].kind))
    return random_offer(source, spec), *request.repeated(source, spec, count)
