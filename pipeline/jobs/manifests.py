"""The same schedule kept by somebody else: crontab lines, or a systemd service and timer.

They start `recurra retrain` at each slot. What they lack beside `recurra schedule` stands in their comments:
cron and systemd know no catch-up of more than one slot, and none of them pauses after failures.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conf.load import Problem, SettingsError
from pipeline.backends.addresses import redact
from pipeline.jobs.processes import program

SECRETS_IN_HOME, SECRETS_IN_UNIT = "~/.config/recurra.env", "%h/.config/recurra.env"
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def crontab(
    *, name: str, cron: str, zone: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
) -> str:
    """Lines for `crontab -e`.

    Raises:
        SettingsError: cron has no seconds.
    """
    _five_fields(cron, "crontab")
    kept, left_out = _without_secrets(variables)
    storage = Path(variables["RECURRA_STORAGE"])
    lock, log = str(storage / f".{name}.cron.lock"), str(storage / f"{name}.cron.log")
    words = ["flock", "-n", lock, *program(), *command, "--json"]
    secrets = f"set -a; . {SECRETS_IN_HOME}; set +a; " if left_out else ""
    line = f"{secrets}cd {shlex.quote(str(folder))} && {shlex.join(words)} >>{shlex.quote(log)} 2>&1"
    # A percent sign ends the command in a crontab.
    line = line.replace("%", r"\%")
    settings = "\n".join(f"{key}={value}" for key, value in sorted(kept.items()))
    return f"""\
# Recurra: {name}. One run at a time (flock); a slot missed while the machine is off is not caught up with.
# CRON_TZ is known to cronie and systemd-cron; Debian's cron ignores it and takes the zone of the machine.
{_note(left_out, SECRETS_IN_HOME)}CRON_TZ={zone}
{settings}
{cron} {line}
"""


def systemd(
    *, name: str, cron: str, zone: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
) -> str:
    """A service and a timer, for two files.

    Raises:
        SettingsError: the expression has no counterpart among calendar events.
    """
    calendar = calendar_event(cron)
    kept, left_out = _without_secrets(variables)
    words = [*program(), *command, "--json"]
    lines = [f"Environment={_unit_text(f'{key}={value}')}" for key, value in sorted(kept.items())]
    lines += [f"EnvironmentFile={SECRETS_IN_UNIT}"] if left_out else []
    settings = "\n".join(lines)
    return f"""\
# ~/.config/systemd/user/recurra-{name}.service
{_note(left_out, SECRETS_IN_HOME)}[Unit]
Description=Recurra: retrain {name} if there is a reason

[Service]
Type=oneshot
WorkingDirectory={folder}
{settings}
ExecStart={" ".join(_unit_text(word) for word in words)}
# The gate's refusal (4) is an answer, not a failure.
SuccessExitStatus=4
TimeoutStopSec=120

# ~/.config/systemd/user/recurra-{name}.timer, then: systemctl --user enable --now recurra-{name}.timer
[Unit]
Description=Recurra: when {name} is looked at

[Timer]
OnCalendar={calendar} {zone}
Persistent=true

[Install]
WantedBy=timers.target
"""


def _without_secrets(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Those that may be printed, and the names of those that hold a password."""
    kept = {name: value for name, value in variables.items() if redact(value) == value}
    return kept, sorted(variables.keys() - kept.keys())


def _note(left_out: Sequence[str], path: str) -> str:
    if not left_out:
        return ""
    return f"# {', '.join(left_out)} holds a password: write it as NAME=value into {path} (mode 0600).\n"


def _five_fields(cron: str, what: str) -> None:
    if len(cron.split()) != 5:
        hint = "give minute, hour, day, month and weekday"
        raise SettingsError([Problem("--cron", "", f"{what} has no seconds, received {cron!r}", hint)])


def calendar_event(cron: str) -> str:
    """The calendar event of systemd.time(7) that a cron expression of five fields means.

    Raises:
        SettingsError: it has none: with both a day and a weekday cron means either, systemd both.
    """
    _five_fields(cron, "systemd")
    minute, hour, day, month, weekday = cron.split()
    if day != "*" and weekday != "*":
        hint = "give the day of the month or the weekday, not both"
        raise SettingsError([Problem("--cron", "", f"{cron!r} has no calendar event of systemd", hint)])
    days = "" if weekday == "*" else f"{_weekdays(weekday)} "
    return f"{days}*-{_field(month, first=1)}-{_field(day, first=1)} {_field(hour)}:{_field(minute)}:00"


def _field(text: str, *, first: int = 0) -> str:
    """A field of numbers: `*`, `*/5`, `1-5`, `1,2`, `0-30/10`."""
    parts = []
    for part in text.split(","):
        span, slash, step = part.partition("/")
        span = span.replace("-", "..")
        if slash and span == "*":
            span = f"{first}"
        if not all(each.isdigit() for each in span.replace("..", " ").split()) and span != "*":
            raise SettingsError([Problem("--cron", "", f"{text!r} has no calendar event of systemd", "")])
        parts.append(f"{span}/{step}" if slash else span)
    return ",".join(parts)


def _weekdays(text: str) -> str:
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)) or int(max(first, last or "0")) > 7:
            hint = "give weekdays as numbers, 0 to 7"
            raise SettingsError([Problem("--cron", "", f"{text!r} has no calendar event of systemd", hint)])
        found.append(WEEKDAYS[int(first)] + (f"..{WEEKDAYS[int(last)]}" if dash else ""))
    return ",".join(found)


def _unit_text(text: str) -> str:
    """A word of a unit file: quoted, with its percent signs, dollars and backslashes taken literally."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


MANIFESTS: Mapping[str, Callable[..., str]] = {"crontab": crontab, "systemd": systemd}
