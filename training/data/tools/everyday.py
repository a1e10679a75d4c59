"""The tools that people try first. Training knows them; the evaluation's tools are all random ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from training.data.checks import Call
from training.data.source import Source
from training.data.tools.kinds import Choice, Flag, Integer, Kind, Listing, Number, Style, Text, Value
from training.data.tools.request import Request, can_be_listed, different
from training.render import Tool as ToolJson


@dataclass(frozen=True, slots=True)
class Parameter:
    """`keys`: names in use for it, the first being the slot in the requests."""

    keys: tuple[str, ...]
    kind: Kind
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Everyday:
    names: tuple[str, ...]
    description: str
    parameters: tuple[Parameter, ...]
    asked: tuple[str, ...]


_PLEASE = "[|||Please |Can you |Could you |Hey, |I want you to |I need you to ]"
_PLACE = Parameter(
    ("city", "location", "place"), Text(Style.PLACE), "[The city|City name|Name of the city|The city to look up]"
)
_UNIT = Parameter(
    ("unit", "units"), Choice(("celsius", "fahrenheit")), "[Temperature unit|The unit to use]", required=False
)
_PATH = Parameter(
    ("path", "file", "filename", "file_path"), Text(Style.PATH), "[Path of the file|The file to use|File path]"
)

TOOLS: Final = (
    Everyday(
        ("get_weather", "get_current_weather", "weather", "current_weather", "getWeather"),
        "[Get|Returns] the [current |]weather [in|for] a [city|place].",
        (_PLACE, _UNIT),
        (
            "[What's|What is|How is|How's] the weather [|like |today |now ]in {city}[| today| now| right now]?",
            "[Weather|Current weather|The weather] [in|for] {city}[|?|, please]",
            _PLEASE
            + "[tell me|check|get|look up|show me] the [weather|current weather] [in|for] {city}[| in {unit}| in degrees {unit}]",
            "Is it [cold|warm|hot|raining|sunny|snowing] in {city}[| today| now]?",
            "[How warm|How cold|How hot] is it in {city}[| now| today| in {unit}]?",
            "What is the temperature in {city}[| in {unit}| today]?",
            "Do I need [a coat|an umbrella] in {city}[| today]?",
        ),
    ),
    Everyday(
        ("get_forecast", "weather_forecast"),
        "[Get|Returns] the weather forecast for the next days.",
        (_PLACE, Parameter(("days", "num_days"), Integer(1, 10), "[Number of days|How many days]")),
        (
            "[What's|What is|Give me] the forecast for {city} for [the next |]{days} days[|?]",
            _PLEASE + "get the {days} day forecast for {city}",
        ),
    ),
    Everyday(
        ("get_time", "get_current_time", "current_time"),
        "[Get|Returns] the [current |local |]time in a [city|place].",
        (_PLACE,),
        (
            "What time is it in {city}[| now| right now]?",
            _PLEASE + "[tell me|get|check] the [time|local time|current time] in {city}",
            "[Time|Local time] in {city}[|?]",
        ),
    ),
    Everyday(
        ("search_web", "web_search", "search", "google"),
        "[Search|Searches] the web.",
        (Parameter(("query", "q"), Text(Style.PHRASE), "[The search query|What to search for|Search terms]"),),
        (
            _PLEASE + "[search|search the web|look|google] for {query}",
            _PLEASE + "[look up|find|find something about|research] {query}[| on the web| online]",
            "What does the web say about {query}?",
        ),
    ),
    Everyday(
        ("send_email", "send_mail", "email"),
        "[Send|Sends] an email.",
        (
            Parameter(("to", "recipient"), Text(Style.EMAIL), "[Recipient|Address of the recipient]"),
            Parameter(("subject",), Text(Style.PHRASE), "[Subject line|The subject]"),
            Parameter(("body", "text", "message"), Text(Style.QUOTE), "[The text|Body of the email]"),
        ),
        (
            _PLEASE + "[send|write] an email to {to} with [the |]subject {subject} and [the |]body {body}",
            _PLEASE + "[email|mail] {to} about {subject}: {body}",
        ),
    ),
    Everyday(
        ("send_message", "send_sms", "text_message"),
        "[Send|Sends] a [text |]message to [someone|a person|a contact].",
        (
            Parameter(("to", "recipient", "contact"), Text(Style.NAME), "[Who gets it|Recipient]"),
            Parameter(("message", "text"), Text(Style.QUOTE), "[The message|Text to send]"),
        ),
        (
            _PLEASE + "[send|text] {to} [the message|a message saying] {message}",
            _PLEASE + "[tell|let] {to} [know |]{message}",
            _PLEASE + "send {message} to {to}",
        ),
    ),
    Everyday(
        ("create_event", "add_event", "schedule_meeting", "create_calendar_event"),
        "[Create|Adds] a calendar event.",
        (
            Parameter(("title", "name"), Text(Style.PHRASE), "[Title|Title of the event]"),
            Parameter(("date", "day"), Text(Style.DATE), "[Date|Date as YYYY-MM-DD]"),
            Parameter(("time", "start_time"), Text(Style.TIME), "[Start time|Time as HH:MM]", required=False),
        ),
        (
            _PLEASE
            + "[create|add|schedule|plan] [an event|a meeting] [called |]{title} on {date}[| at {time}| at {time}]",
            _PLEASE + "put {title} in my calendar for {date}[| at {time}]",
        ),
    ),
    Everyday(
        ("set_timer", "start_timer"),
        "[Start|Sets] a [countdown |]timer.",
        (Parameter(("minutes", "duration"), Integer(1, 180), "[Minutes|Length in minutes]"),),
        (
            _PLEASE + "[set|start] a timer [for|of] {minutes} minutes",
            _PLEASE + "[set|start] a {minutes} minute timer",
            "[Timer|Wake me in], {minutes} minutes[|, please]",
        ),
    ),
    Everyday(
        ("add", "sum_numbers", "add_numbers"),
        "[Add|Adds] two numbers.",
        (
            Parameter(("a", "x"), Integer(), "[First number|The first]"),
            Parameter(("b", "y"), Integer(), "[Second number|The second]"),
        ),
        ("[What is|How much is|What's] {a} [plus|+|and] {b}?", _PLEASE + "add {a} [and|to|plus] {b}"),
    ),
    Everyday(
        ("multiply", "multiply_numbers", "product"),
        "[Multiply|Multiplies] two numbers.",
        (
            Parameter(("a", "x"), Integer(), "[First factor|The first]"),
            Parameter(("b", "y"), Integer(), "[Second factor|The second]"),
        ),
        ("[What is|How much is|What's] {a} [times|*|multiplied by] {b}?", _PLEASE + "multiply {a} [by|with|and] {b}"),
    ),
    Everyday(
        ("convert_currency", "exchange"),
        "[Convert|Converts] money between currencies.",
        (
            Parameter(("amount",), Number(), "[Amount|How much]"),
            Parameter(
                ("from", "from_currency", "source"),
                Choice(("USD", "EUR", "GBP", "JPY", "CHF")),
                "[Currency to convert|From]",
            ),
            Parameter(
                ("to", "to_currency", "target"), Choice(("SEK", "NOK", "CAD", "AUD", "INR")), "[Currency wanted|To]"
            ),
        ),
        (
            _PLEASE + "[convert|change|exchange] {amount} {from} [to|into] {to}",
            "[How much is|What is|What's] {amount} {from} in {to}?",
        ),
    ),
    Everyday(
        ("get_stock_price", "stock_price"),
        "[Get|Returns] the price of a stock.",
        (Parameter(("symbol", "ticker"), Text(Style.CODE), "[Stock symbol|Ticker]"),),
        (
            "[What is|What's|Get] the [stock |share |]price of {symbol}[|?]",
            _PLEASE + "look up the stock {symbol}",
            "How is the {symbol} stock doing[| today]?",
        ),
    ),
    Everyday(
        ("book_flight", "search_flights", "find_flights"),
        "[Search|Books] flights.",
        (
            Parameter(("origin", "from", "departure"), Text(Style.PLACE), "[Departure city|From where]"),
            Parameter(("destination", "to", "arrival"), Text(Style.PLACE), "[Arrival city|Where to]"),
            Parameter(("date", "departure_date"), Text(Style.DATE), "[Date|Day of departure]", required=False),
        ),
        (
            _PLEASE + "[book|find|search] [a flight|flights] from {origin} to {destination}[| on {date}| on {date}]",
            "I [want|need|have] to fly from {origin} to {destination}[| on {date}]",
        ),
    ),
    Everyday(
        ("read_file", "open_file", "cat"),
        "[Read|Reads] a file.",
        (_PATH,),
        (
            _PLEASE + "[read|open|show me] [|the file ]{path}",
            "What [is|does it say|stands] in [|the file ]{path}?",
            "Show me what is in {path}",
        ),
    ),
    Everyday(
        ("write_file", "save_file", "create_file"),
        "[Write|Writes] a file.",
        (_PATH, Parameter(("content", "text"), Text(Style.QUOTE), "[What to write|New content]")),
        (
            _PLEASE + "[write|save] {content} [to|into] [|the file ]{path}",
            _PLEASE + "create [|the file ]{path} with [the content |]{content}",
        ),
    ),
    Everyday(
        ("list_files", "list_directory", "ls"),
        "[List|Lists] the files of a folder.",
        (Parameter(("path", "directory", "folder"), Text(Style.PATH), "[The folder|Folder to list]"),),
        (
            _PLEASE + "list [the |all |]files in {path}",
            "[Which|What] files are in {path}?",
            "Show me the folder {path}",
        ),
    ),
    Everyday(
        ("turn_on_light", "set_light", "control_light"),
        "[Switch|Switches] the light of a room.",
        (
            Parameter(("room",), Choice(("kitchen", "bedroom", "bathroom", "hall", "garage")), "[Which room|The room]"),
            Parameter(("on", "state"), Flag(), "[On or off|Whether it is on]"),
        ),
        (
            _PLEASE + "turn {on} the light in the {room}",
            _PLEASE + "switch the {room} light {on}",
            "Light {on} in the {room}[|, please]",
        ),
    ),
    Everyday(
        ("play_music", "play_song"),
        "[Play|Plays] a song.",
        (
            Parameter(("song", "title"), Text(Style.PHRASE), "[Song title|The song]"),
            Parameter(("artist",), Text(Style.NAME), "[Who plays it|The artist]", required=False),
        ),
        (_PLEASE + "play {song}[| by {artist}| by {artist}]", "I want to hear {song}[| by {artist}]"),
    ),
    Everyday(
        ("get_news", "news"),
        "[Get|Returns] news about a topic.",
        (Parameter(("topic", "subject"), Text(Style.PHRASE), "[The topic|What about]"),),
        (
            "[What's|What is] [the news|new] about {topic}?",
            _PLEASE + "[get|show me|find] [the news|news] about {topic}",
        ),
    ),
    Everyday(
        ("translate", "translate_text"),
        "[Translate|Translates] a text.",
        (
            Parameter(("text",), Text(Style.QUOTE), "[The text|What to translate]"),
            Parameter(
                ("target_language", "language", "to"),
                Choice(("French", "German", "Spanish", "Italian", "Dutch")),
                "[Language wanted|Target language]",
            ),
        ),
        (
            _PLEASE + "translate {text} [to|into] {target_language}",
            "[How do you say|What is] {text} in {target_language}?",
        ),
    ),
    Everyday(
        ("order_pizza", "create_order"),
        "[Order|Orders] a pizza.",
        (
            Parameter(("size",), Choice(("small", "medium", "large")), "[The size|Pizza size]"),
            Parameter(
                ("toppings",),
                Listing(Choice(("cheese", "ham", "olives", "mushrooms", "onions"))),
                "[The toppings|What goes on it]",
            ),
        ),
        (_PLEASE + "order a {size} pizza with {toppings}", "I [want|would like] a {size} pizza with {toppings}"),
    ),
    Everyday(
        ("get_user", "find_user", "lookup_user"),
        "[Look up|Returns] a user.",
        (Parameter(("user_id", "id"), Integer(1, 99999), "[The user's id|Numeric id]"),),
        (_PLEASE + "[get|find|look up|show me] user [number |]{user_id}", "Who is user {user_id}?"),
    ),
    Everyday(
        ("run_command", "bash", "shell"),
        "[Run|Runs] a shell command.",
        (
            Parameter(
                ("command", "cmd"),
                Choice(("ls -la", "git status", "pwd", "df -h", "make test", "git diff")),
                "[The command|Command line]",
            ),
        ),
        (_PLEASE + "run [the command |]{command}", "What does {command} [say|print]?"),
    ),
    Everyday(
        ("remember", "save_note", "add_note"),
        "[Save|Saves] a note.",
        (Parameter(("note", "text", "content"), Text(Style.QUOTE), "[The note|What to save]"),),
        (_PLEASE + "[remember|note|save|write down]: {note}", _PLEASE + "[take|make|save] a note [saying |]{note}"),
    ),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tool with one name, and one of its parameters' names in use for each slot."""

    tool: Everyday
    name: str
    keys: dict[str, str]


def name(source: Source, tool: Everyday) -> Chosen:
    """One of the tool's names, and one for each of its parameters."""
    return Chosen(tool, source.choice(tool.names), {p.keys[0]: source.choice(p.keys) for p in tool.parameters})


def as_json(source: Source, chosen: Chosen) -> ToolJson:
    described = source.chance(0.75)
    properties: dict[str, Any] = {}
    for each in chosen.tool.parameters:
        extra = {"description": source.expand(each.description)} if described else {}
        properties[chosen.keys[each.keys[0]]] = {**each.kind.schema, **extra}
    required = [chosen.keys[each.keys[0]] for each in chosen.tool.parameters if each.required]
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if source.chance(0.15):
        parameters["additionalProperties"] = False
    description = source.expand(chosen.tool.description).rstrip("." if source.chance(0.5) else "")
    function = {"name": chosen.name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def request(source: Source, chosen: Chosen) -> Request:
    pattern = source.until(lambda: source.expand(source.choice(chosen.tool.asked)), source.ours)
    given = _slots(pattern)
    values = {p.keys[0]: p.kind.draw(source) for p in chosen.tool.parameters if p.keys[0] in given}
    if "on" in values:  # a light goes "on" or "off", not "yes"
        values["on"] = Value(values["on"].json, "on" if values["on"].json else "off")
    last = given[-1]
    bare = pattern.endswith(f"{{{last}}}") and values[last].spoken[0] in "\"'" and source.chance(0.4)
    if bare:  # all that follows is the value
        values[last] = Value(values[last].json, values[last].json)
    text = pattern.format(**{slot: value.spoken for slot, value in values.items()})
    text += source.choice(("", "", ".", "!")) if text[-1] not in "?.!" and not bare else ""
    arguments = {chosen.keys[slot]: values[slot].json for slot in chosen.keys if slot in values}
    return Request(text[0].upper() + text[1:] if source.chance(0.85) else text, Call(chosen.name, arguments))


def repeatable(tool: Everyday) -> bool:
    """Whether one sentence can ask for it several times."""
    required = [parameter.kind for parameter in tool.parameters if parameter.required]
    return len(required) == 1 and can_be_listed(required[0])


def repeated(source: Source, chosen: Chosen, count: int) -> tuple[str, list[Call]]:
    """One sentence that asks for a `repeatable` tool several times: the weather in Paris and in Rome."""
    pattern = source.until(
        lambda: source.expand(source.choice(chosen.tool.asked)), lambda p: source.ours(p) and len(_slots(p)) == 1
    )
    (slot,) = _slots(pattern)
    kind = next(p.kind for p in chosen.tool.parameters if p.keys[0] == slot)
    values = different(source, kind, count)
    spoken = [value.spoken for value in values]
    pointer = re.search(r"\b(in|for|of|at) {", pattern)
    word = f"{pointer[1]} " if pointer and source.chance(0.6) else ""
    if source.chance(0.2):
        text = pattern.format(**{slot: spoken[0]}).rstrip(".!?")
        text += (
            "".join(source.choice(("? And {w}{v}", ". And {w}{v}", "? {w}{v}")).format(w=word, v=v) for v in spoken[1:])
            + "?"
        )
    else:
        told = spoken[0] + "".join(f", {word}{v}" for v in spoken[1:-1])
        told += source.choice((f" and {word}", f" and {word}", f" and also {word}", f", and {word}")) + spoken[-1]
        text = pattern.format(**{slot: told})
    text = text[0].upper() + text[1:] if source.chance(0.85) else text
    return text, [Call(chosen.name, {chosen.keys[slot]: value.json}) for value in values]


def _slots(pattern: str) -> list[str]:
    """In the order of their mention."""
    return re.findall(r"{(\w+)}", pattern)
