"""The OpenAPI document as a page for people: static HTML, which asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from mlx_server_nano.api.fields import NO_EFFECT, NOT_SUPPORTED

Schema = Mapping[str, Any]

_HUGE: Final = 2**31 - 1  # bounds from here on are those of the numbers' encoding
_STYLE: Final = """
:root{color-scheme:light dark;--line:light-dark(#d8dce2,#363b43);--soft:light-dark(#f5f6f8,#1d2025);
--dim:light-dark(#5c6470,#9aa3b0);--link:light-dark(#0b57d0,#8ab4f8);--page:light-dark(#fff,#15171a)}
*{box-sizing:border-box}html{scroll-padding-top:1rem}
body{margin:0;font:16px/1.55 system-ui,sans-serif;background:var(--page);display:grid;
grid-template-columns:19rem minmax(0,1fr)}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.5rem 1.25rem;background:var(--soft);
border-right:1px solid var(--line);font-size:.875rem}
nav h2{font-size:.8rem;color:var(--dim);margin:1.2rem 0 .3rem}nav ul{list-style:none;margin:0;padding:0}
nav a{display:block;padding:.15rem 0;overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:.8rem}
main{padding:2rem 2.5rem 6rem;max-width:66rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .25rem}h2{font-size:1.35rem;margin:3.2rem 0 0}
section{border-top:1px solid var(--line);margin-top:1.5rem;padding-top:1.25rem}
h3{font:600 1.05rem/1.4 ui-monospace,monospace;margin:0;overflow-wrap:anywhere}h4{font-size:.95rem;margin:1.3rem 0 .4rem}
p{margin:.5rem 0}.dim{color:var(--dim)}
code{font:.86em/1.5 ui-monospace,monospace;background:var(--soft);border-radius:.25rem;padding:.08em .3em;overflow-wrap:anywhere}
b.method{display:inline-block;min-width:4.2rem;color:var(--dim)}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin:.3rem 0}
td,th{text-align:left;vertical-align:top;padding:.32rem .75rem .32rem 0;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:500}td:first-child{width:30%}td p{margin:0}
.must::after{content:" required";color:var(--dim);font-size:.8rem}
@media(max-width:52rem){body{display:block}nav{position:static;height:auto;max-height:40vh;border:0;
border-bottom:1px solid var(--line)}main{padding:1.25rem}td,th{display:block;width:auto!important;border:0;padding:.1rem 0}
tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}tr:has(th){display:none}}
"""


def build_page(document: Mapping[str, Any]) -> str:
    info, components = document["info"], document["components"]
    operations = [
        (tag["name"], method.upper(), path, told)
        for tag in document["tags"]
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if told["tags"] == [tag["name"]]
    ]
    menu, sections, group = [], [], ""
    for name, method, path, told in operations:
        if name != group:
            menu.append(f"{'</ul>' if group else ''}<h2>{escape(name)}</h2><ul>")
            sections.append(f"<h2>{escape(name)}</h2>")
            group = name
        menu.append(f'<li><a href="#{told["operationId"]}">{method} {escape(path)}</a></li>')
        sections.append(_operation(method, path, told, components))
    bodies = {_body(told) for *_, told in operations if "requestBody" in told}
    types = [_type(name, schema) for name, schema in sorted(components["schemas"].items()) if name not in bodies]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])} {escape(info['version'])}</title><style>{_STYLE}</style></head><body>"
        f'<nav aria-label="Endpoints">{"".join(menu)}</ul><h2>More</h2><ul><li><a href="#types">Types</a></li>'
        '<li><a href="openapi.json">openapi.json</a></li></ul></nav>'
        f"<main><h1>{escape(info['title'])}</h1><p class=dim>Version {escape(info['version'])}</p>"
        f"<p>{_text(info['description'])}</p>{''.join(sections)}"
        f'<h2 id="types">Types</h2>{"".join(types)}</main></body></html>'
    )


def _operation(method: str, path: str, told: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    parts = [
        f'<section id="{told["operationId"]}"><h3><b class=method>{method}</b>{escape(path)}</h3>',
        f"<p>{_text(told['summary'])}.</p>",
    ]
    if "parameters" in told:
        rows = [
            _row(given["name"], given["schema"], given.get("required", False), given["description"])
            for given in told["parameters"]
        ]
        parts.append(f"<h4>Parameters</h4><table>{''.join(rows)}</table>")
    if "requestBody" in told:
        parts.append(f"<h4>Body</h4>{_fields(components['schemas'][_body(told)])}")
    parts.append("<h4>Answers</h4><table>")
    for status, answer in told["responses"].items():
        shown = components["responses"][_named(answer)] if "$ref" in answer else answer
        kinds = [
            f"<p>{_text(content['schema'].get('description', ''))}</p>"
            if kind == "text/event-stream"
            else f"{escape(kind)} {_kind(content['schema'])}"
            for kind, content in shown["content"].items()
        ]
        parts.append(f"<tr><td><code>{status}</code> {_text(shown['description'])}</td><td>{''.join(kinds)}</td></tr>")
    return "".join([*parts, "</table></section>"])


def _body(told: Mapping[str, Any]) -> str:
    return _named(told["requestBody"]["content"]["application/json"]["schema"])


def _named(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _type(name: str, schema: Schema) -> str:
    body = _fields(schema) if "properties" in schema else f"<p>{_kind(schema)}</p>"
    return f'<section id="type-{escape(name)}"><h3>{escape(name)}</h3>{body}</section>'


def _fields(schema: Schema) -> str:
    """A struct's fields: first those that are acted on, the required ones in front."""
    required = schema.get("required", ())
    acted: list[tuple[str, Schema]] = []
    ignored: list[str] = []
    refused: list[str] = []
    for name, field in schema["properties"].items():
        if field.get("description") == NO_EFFECT.description:
            ignored.append(f"<code>{escape(name)}</code>")
        elif field.get("description") == NOT_SUPPORTED:
            allowed = [value for value in field["enum"] if value is not None]
            refused.append(f"<code>{escape(name)}</code>{f' (but for {_values(allowed)})' if allowed else ''}")
        else:
            acted.append((name, field))
    acted.sort(key=lambda item: item[0] not in required)
    rows = [_row(name, field, name in required, field.get("description", "")) for name, field in acted]
    parts = [f"<p>{_text(schema['description'])}</p>"] if "description" in schema else []
    parts.append(f"<table><tr><th>Field</th><th>Value</th></tr>{''.join(rows)}</table>")
    if ignored:
        parts.append(f"<p>Accepted, without effect: {', '.join(ignored)}.</p>")
    if refused:
        parts.append(f"<p>Refused with a 400 that names them: {', '.join(refused)}.</p>")
    return "".join(parts)


def _row(name: str, schema: Schema, required: bool, text: str) -> str:
    told = f". <span class=dim>{_text(text)}</span>" if text else ""
    must = " class=must" if required else ""
    return f"<tr><td><span{must}><code>{escape(name)}</code></span></td><td>{_kind(schema)}{told}</td></tr>"


def _kind(schema: Schema) -> str:
    """A schema in words. Null is left out where it stands for the default."""
    if "$ref" in schema:
        name = escape(_named(schema))
        return f'<a href="#type-{name}">{name}</a>'
    if "enum" in schema:
        return _values(schema["enum"])
    if "anyOf" in schema and "type" not in schema:
        silent = "default" in schema and schema["default"] is None
        kinds = [_kind(option) for option in schema["anyOf"] if not (silent and option == {"type": "null"})]
        return " or ".join(dict.fromkeys(kinds))
    kind = schema.get("type", "")
    if kind == "array":
        inner = _kind(schema["items"]) if "items" in schema else "anything"
        return f"list{_bounds(schema, 'Items', 'entries')}, each: {inner}"
    if kind == "object":
        values = schema.get("additionalProperties")
        inner = f", each: {_kind(values)}" if isinstance(values, Mapping) else ""
        return f"object{_bounds(schema, 'Properties', 'entries')}{inner}"
    if kind == "string":
        pattern = f", as <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else ""
        return f"string{_bounds(schema, 'Length', 'characters')}{pattern}"
    return f"{kind or 'anything'}{_range(schema)}"


def _values(values: Iterable[object]) -> str:
    shown = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return ", ".join(f"<code>{escape(value)}</code>" for value in shown)


def _bounds(schema: Schema, name: str, unit: str) -> str:
    least, most = schema.get(f"min{name}", 0), schema.get(f"max{name}")
    if most is not None:
        return f" of {least} to {most:,} {unit}" if least else f" of up to {most:,} {unit}"
    return ", not empty" if least == 1 else f" of {least} or more {unit}" if least else ""


def _range(schema: Schema) -> str:
    above, least, most = (schema.get(name, _HUGE) for name in ("exclusiveMinimum", "minimum", "maximum"))
    start = f"above {above}" if above != _HUGE else f"{least:,}" if abs(least) < _HUGE else ""
    if most < _HUGE:
        return f", {start} to {most:,}" if start else f", up to {most:,}"
    return f", {start} or more" if start else ""


def _text(text: str) -> str:
    """Plain text with `code` in it."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
