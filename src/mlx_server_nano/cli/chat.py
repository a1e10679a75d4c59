"""`mlx-server-nano chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from mlx_server_nano.cli.client import Client
from mlx_server_nano.cli.conversation import Conversation, Part, Reply, read_tools
from mlx_server_nano.cli.names import MODEL
from mlx_server_nano.cli.options import server_options
from mlx_server_nano.cli.private import any_server
from mlx_server_nano.cli.running import load

_DEMO: Final = "demo"
_FENCE: Final = '"""'
_HELP: Final = f"""\
/model [NAME]      talk to another model; without a name, show which there are
/system [TEXT]     set the system prompt; without a text, remove it
/think on|off      let the model think, or not, if it can choose
/set [NAME VALUE]  set an option, as /set temperature 0.2; VALUE default leaves it to the model
/tools [FILE]      give the model tools, a JSON list; you answer for them. Without a file, none
/clear             forget what was said
/save FILE         write the conversation as the body of a request
/help              show this
/exit              leave (or Ctrl-D)

{_FENCE} begins and ends a message of several lines, or end a line with a backslash. Ctrl-C stops an answer."""


class Chat:
    def __init__(self, client: Client, conversation: Conversation) -> None:
        self._client = client
        self._conversation = conversation
        self._terminal = sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: click.echo(_HELP),
            "model": self._model,
            "system": self._system,
            "think": conversation.think,
            "set": self._set,
            "tools": self._tools,
            "clear": lambda _: conversation.messages.clear(),
            "save": self._save,
        }

    def run(self) -> None:
        """Until the end of the input."""
        if self._terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  from now on `input` edits lines and knows the last ones
            click.echo(f"{self._conversation.model} at {self._client.url}. /help shows the commands, Ctrl-D leaves.")
        while True:
            try:
                message = self._read()
            except EOFError:
                break
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D leaves)")
                continue
            if message.strip() in ("/exit", "/quit", "/bye"):
                return
            if message.startswith("/"):
                self._command(message)
            elif message.strip():
                self._say(message)
        if self._terminal:
            click.echo()

    def _read(self) -> str:
        """A message. Raises EOFError, KeyboardInterrupt."""
        line = self._line(">>> ")
        if line.strip().startswith(_FENCE):
            lines = [line.strip().removeprefix(_FENCE)]
            while not lines[-1].rstrip().endswith(_FENCE):
                lines.append(self._line("... "))
            lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
            return "\n".join(lines).strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._line("... ")
        return line

    def _line(self, prompt: str) -> str:
        return input(prompt if self._terminal else "")

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        command = self._commands.get(name)
        try:
            if command is None:
                raise ValueError(f"there is no /{name}: /help shows the commands")
            command(rest.strip())
        except (OSError, ValueError) as error:
            _complain(str(error))
        except click.ClickException as error:
            _complain(error.message)

    def _model(self, name: str) -> None:
        if name:
            load(self._client, name)
            self._conversation.model = name
            return
        for model in self._client.get("/v1/models")["data"]:
            click.echo(f"{'*' if model['id'] == self._conversation.model else ' '} {model['id']}")

    def _system(self, text: str) -> None:
        self._conversation.system = text

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if value:
            self._conversation.set(name, value.strip())
        elif name:
            raise ValueError("say /set NAME VALUE")
        else:
            for key, setting in self._conversation.options.items():
                click.echo(f"{key} {setting}")

    def _tools(self, file: str) -> None:
        self._conversation.tools = read_tools(Path(file).expanduser().read_text("utf-8")) if file else []

    def _save(self, file: str) -> None:
        if not file:
            raise ValueError("say /save FILE")
        Path(file).expanduser().write_text(self._conversation.to_json() + "\n", "utf-8")

    def _say(self, message: str) -> None:
        """Send a message, show the answer, and go on while the model calls tools."""
        messages = self._conversation.messages
        before = len(messages)
        messages.append({"role": "user", "content": message})
        try:
            while calls := self._answer():
                for call in calls:
                    result = self._line(f"result of {call.name}> ")
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        except click.ClickException as error:
            del messages[before:]
            _complain(error.message)
        except (EOFError, KeyboardInterrupt):
            del messages[before:]
            click.echo("\n(forgotten)")

    def _answer(self) -> list[Any]:
        """One answer of the model's, up to its end or Ctrl-C. The calls that it wants answered."""
        reply = Reply()
        began, stopped = time.monotonic(), False
        pen = _Pen()
        events = self._client.stream("/v1/chat/completions", self._conversation.body())
        try:
            with contextlib.closing(events):  # type: ignore[type-var]
                for part, text in reply.read(events):
                    pen.write(part, text)
        except KeyboardInterrupt:
            stopped = True
            reply.calls.clear()  # they may be half of what was meant
        finally:
            pen.end()
        self._conversation.messages.append(reply.to_wire())
        if self._terminal:
            self._note("stopped" if stopped else _rate(reply.tokens, time.monotonic() - began))
        return list(reply.calls.values())

    def _note(self, text: str) -> None:
        click.secho(f"({text})", dim=True)


class _Pen:
    """Writes the parts of an answer: thinking dim, calls in colour, each part on lines of its own."""

    def __init__(self) -> None:
        self._last: Part | None = None

    def write(self, part: Part, text: str) -> None:
        if part is not Part.ARGUMENTS and self._last is not None and (part is not self._last or part is Part.CALL):
            click.echo()
        self._last = part
        if part is Part.THINKING:
            click.secho(text, dim=True, nl=False)
        elif part is Part.TEXT:
            click.echo(text, nl=False)
        else:
            click.secho(f"→ {text} " if part is Part.CALL else text, fg="cyan", nl=False)

    def end(self) -> None:
        if self._last is not None:
            click.echo()


def _rate(tokens: int | None, seconds: float) -> str:
    return f"{seconds:.1f} s" if tokens is None else f"{tokens} tokens in {seconds:.1f} s"


def _complain(text: str) -> None:
    click.secho(text, fg="red", err=True)


def pick_model(client: Client) -> str:
    """The model that is ready, else the one that comes with the server."""
    ready = [model["id"] for model in client.get("/admin/status")["models"] if model["state"] == "ready"]
    return ready[0] if ready else _DEMO


def _chat(*, model: str | None, system: str, tools: str | None, **flags: Any) -> None:
    """Talk to a model in the terminal, through the server that runs, or one that runs as long as the chat.

    MODEL: by any name; without one, the model that is loaded, or else the demo.
    """
    try:
        given = read_tools(Path(tools).expanduser().read_text("utf-8")) if tools else []
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--tools: {error}") from None
    with any_server(flags) as client:
        model = model or pick_model(client)
        load(client, model)
        Chat(client, Conversation(model, system, tools=given)).run()


chat = click.Command(
    "chat",
    callback=_chat,
    params=[
        click.Argument(["model"], type=MODEL, required=False),
        click.Option(["--system"], metavar="TEXT", default="", help="A system prompt."),
        click.Option(
            ["--tools"], metavar="FILE", help="A JSON list of tools that the model may call; you answer for them."
        ),
        *server_options(),
    ],
    help=_chat.__doc__,
)
