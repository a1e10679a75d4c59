"""`mlx-server-nano service`: the server as a service of the user, through systemd on Linux and launchd on macOS.

macOS: written after launchctl(1) and launchd.plist(5), and not tried on a Mac.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlx_server_nano.cli.checks import check
from mlx_server_nano.cli.options import setting_options
from mlx_server_nano.cli.units import LABEL, NAME, launchd_agent, systemd_unit
from mlx_server_nano.config import SETTINGS, SettingError, resolve

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one operating system runs a service. Commands that undo may fail: there may be nothing to undo."""

    path: Path
    content: bytes
    start: tuple[Command, ...]
    stop: tuple[Command, ...]
    stopped: tuple[Command, ...]
    status: Command
    hint: str


def plan(command: Sequence[str], *, platform: str, home: Path, user: int) -> Plan:
    """Raises click.ClickException for an operating system with neither systemd nor launchd."""
    if platform == "darwin":
        log = home / "Library/Logs" / f"{NAME}.log"
        path = home / "Library/LaunchAgents" / f"{LABEL}.plist"
        domain = f"gui/{user}"
        return Plan(
            path=path,
            content=launchd_agent(command, str(log)),
            start=(("launchctl", "bootstrap", domain, str(path)),),
            stop=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
            stopped=(),
            status=("launchctl", "print", f"{domain}/{LABEL}"),
            hint=f"It runs while you are logged in, and writes to {log}.",
        )
    if platform != "linux":
        raise click.ClickException(f"there is no service manager that this command knows on {platform}")
    return Plan(
        path=home / ".config/systemd/user" / f"{NAME}.service",
        content=systemd_unit(command).encode(),
        start=(
            ("systemctl", "--user", "daemon-reload"),
            ("systemctl", "--user", "enable", NAME),
            ("systemctl", "--user", "restart", NAME),
        ),
        stop=(("systemctl", "--user", "disable", "--now", NAME),),
        stopped=(("systemctl", "--user", "daemon-reload"),),
        status=("systemctl", "--user", "--no-pager", "status", NAME),
        hint=f"Read its log with: journalctl --user -u {NAME}\n"
        "It runs while you are logged in; `loginctl enable-linger` lets it run always.",
    )


def serving(flags: Mapping[str, Any]) -> list[str]:
    """The command line that serves with these flags.

    Raises click.UsageError for a bad value, and for a key: whoever may list processes would read it.
    """
    for setting in SETTINGS:
        if setting.secret and flags.get(setting.name):
            raise click.UsageError(
                f"{setting.flag} would stand in a file and in the list of processes: use a file or --config"
            )
    try:
        check(resolve(flags))
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    command = [sys.executable, "-m", "mlx_server_nano", "serve"]
    for setting in SETTINGS:
        value = flags.get(setting.name)
        on, _, off = setting.flag.partition("/")
        if value is True or (value is False and off):
            command.append(on if value else off)
        elif value:
            command += [
                on,
                str(Path(value).expanduser().absolute()) if setting.metavar in ("PATH", "FILE") else str(value),
            ]
    return command


def _here(command: Sequence[str] = ()) -> Plan:
    return plan(command, platform=sys.platform, home=Path.home(), user=os.getuid())


def _installed() -> Plan:
    """Raises click.ClickException where no service is."""
    here = _here()
    if not here.path.exists():
        raise click.ClickException(f"no service is installed ({here.path})")
    return here


def _run(commands: Sequence[Command], *, must: bool = True) -> None:
    for command in commands:
        if shutil.which(command[0]) is None:
            raise click.ClickException(f"{command[0]} is not installed: start the server in another way")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if must and done.returncode != 0:
            raise click.ClickException(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")


@click.group("service", context_settings={"help_option_names": ["--help", "-h"]})
def service() -> None:
    """Run the server as a service of yours: systemd on Linux, launchd on macOS."""


def _install(*, dry_run: bool, **flags: Any) -> None:
    """Write the service's file and start it. Takes the settings of `serve`; environment variables are not kept."""
    here = _here(serving(flags))
    if dry_run:
        click.echo(f"# {here.path}\n{here.content.decode()}")
        click.echo("\n".join(f"# {' '.join(command)}" for command in here.start))
        return
    here.path.parent.mkdir(parents=True, exist_ok=True)
    if here.path.exists():
        _run(here.stop, must=False)
    here.path.write_bytes(here.content)
    _run(here.start)
    click.echo(f"The service runs: {here.path}\n{here.hint}")


@service.command()
def uninstall() -> None:
    """Stop the service and remove its file."""
    here = _installed()
    with contextlib.suppress(click.ClickException):  # the file goes even where the service manager is gone
        _run(here.stop, must=False)
    here.path.unlink()
    with contextlib.suppress(click.ClickException):
        _run(here.stopped, must=False)
    click.echo(f"Removed {here.path}.")


@service.command()
def status() -> int:
    """Show whether the service runs. Exit code 0: it does."""
    here = _installed()
    if shutil.which(here.status[0]) is None:
        raise click.ClickException(f"{here.status[0]} is not installed")
    return subprocess.run(here.status, check=False).returncode


service.add_command(
    click.Command(
        "install",
        callback=_install,
        params=[
            click.Option(["--dry-run"], is_flag=True, help="Print the file and the commands; change nothing."),
            *setting_options(),
        ],
        help=_install.__doc__,
    )
)
