"""Prints the table of families for the documentation: `python -m tests.chat.table`."""

from __future__ import annotations

import sys
from collections import defaultdict

from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Format, JsonArguments, JsonCall, LiteralArguments, Route
from mlx_server_nano.chat.grammar import call_grammar
from mlx_server_nano.types import Tool
from tests.chat.golden import assemble, differences, format_of, load, machine_for, run

_EXAMPLE = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})


def call_form(form: Format) -> str:
    """How the format writes a call, in short."""
    header = next((header.writes[Route.CALL] for header in form.headers if header.writes), "")
    if not form.blocks:
        return header.replace("{name}", "f") + "{json}" if header else "none"
    block, syntax = form.blocks[0], form.blocks[0].calls[0]
    opening = header.replace("{name}", "f") + ("" if block.bare else block.open[0])
    close = block.close[0] if block.close and not block.bare else ""
    if isinstance(syntax, JsonCall):
        body = (
            '{"f": {json}}' if syntax.name_is_key else f'{{"{syntax.name[0]}": "f", "{syntax.arguments[0]}": {{json}}}}'
        )
    else:
        ending = syntax.head_end or (syntax.name_end[0] if syntax.name_end else "")
        head = (
            (syntax.open[0] if syntax.open else "")
            + syntax.written.format(name="f", index="0", id="123456789")
            + ending
        )
        arguments = syntax.arguments
        if isinstance(arguments, JsonArguments):
            body = head + "{json}" + arguments.suffix
        elif isinstance(arguments, LiteralArguments):
            quote = arguments.raw or '"'
            body = f"{head}a{arguments.assign}{quote}x{quote}"
        else:
            attributes = arguments.attributes.format(type="string", is_string="true")
            key = "a" + ('"' if arguments.quoted else "") + attributes + arguments.key_end
            body = f"{head}{arguments.open[0]}{key}{arguments.value_open}x{arguments.close.format(key='a')}"
        body += syntax.close[0] if syntax.close else ""
    return (opening + (f"[{body}]" if block.listed else body) + close).replace("\n", "\\n")


def rows() -> list[tuple[str, ...]]:
    passed: dict[str, list[bool]] = defaultdict(list)
    for case in load("cases.jsonl"):
        answer = assemble(run(machine_for(case), [case["text"]]))
        passed[format_of(case).name].append(not differences(case, answer))
    found: list[tuple[str, ...]] = []
    for form in FORMATS.values():
        writes = bool(form.blocks) or any(header.writes for header in form.headers)
        if writes:
            call_grammar(form, [_EXAMPLE], special_tokens={}, required=True, parallel=True)
        thinks = any(header.writes.get(Route.REASONING) for header in form.headers)
        reasoning = form.reasoning.open[0].strip() if form.reasoning else "analysis messages" if thinks else "no"
        signs = " or ".join(" + ".join(f"`{sign.strip()}`" for sign in signs) for signs in form.signs)
        cases = passed[form.name]
        found.append(
            (
                form.name,
                signs or "its name",
                f"`{call_form(form)}`",
                "yes" if writes else "",
                "yes" if writes else "",
                f"`{reasoning}`" if reasoning.startswith(("<", "[")) else reasoning,
                f"{sum(cases)} of {len(cases)}" if cases else "none in the collection",
            )
        )
    return found


def main() -> None:
    head = ("Format", "Detected by, in the template", "Call", "Streamed", "Strict", "Reasoning", "Golden cases passed")
    for row in (head, tuple("---" for _ in head), *rows()):
        sys.stdout.write("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")


if __name__ == "__main__":
    main()
