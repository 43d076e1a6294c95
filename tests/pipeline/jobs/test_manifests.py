import shlex

import pytest

from conf.load import SettingsError
from pipeline.jobs.manifests import MANIFESTS, calendar_event

COMMAND = ["retrain", "/a b/c.yaml", "--set", "x=50%"]
VARIABLES = {"RECURRA_STORAGE": "/data/runs", "RECURRA_TRACKING_URI": "sqlite:////data/m.db"}


def rendered(kind, tmp_path, **changes):
    values = {"name": "m", "cron": "0 3 * * *", "zone": "Europe/Berlin", "command": COMMAND}
    return MANIFESTS[kind](**{**values, "variables": VARIABLES, "folder": tmp_path, **changes})


def test_a_crontab_holds_zone_surroundings_and_one_command_line(tmp_path):
    lines = rendered("crontab", tmp_path).splitlines()
    assert "CRON_TZ=Europe/Berlin" in lines and "RECURRA_STORAGE=/data/runs" in lines
    assert lines[-1].startswith("0 3 * * * cd ")
    words = shlex.split(lines[-1].removeprefix("0 3 * * * ").replace(r"\%", "%"))
    assert words[words.index("retrain") : words.index("--json")] == COMMAND
    assert r"50\%" in lines[-1] and "flock -n /data/runs/.m.cron.lock" in lines[-1]


def test_a_unit_file_takes_percent_and_dollar_literally(tmp_path):
    text = rendered("systemd", tmp_path, command=[*COMMAND, "$HOME"])
    assert '"/a b/c.yaml" "--set" "x=50%%" "$$HOME"' in text
    assert "OnCalendar=*-*-* 3:0:00 Europe/Berlin" in text
    assert 'Environment="RECURRA_TRACKING_URI=sqlite:////data/m.db"' in text


@pytest.mark.parametrize("kind", sorted(MANIFESTS))
def test_no_password_is_printed(kind, tmp_path):
    secret = {**VARIABLES, "RECURRA_TRACKING_URI": "postgresql://me:S3CR3T-xyz@db/mlflow"}
    text = rendered(kind, tmp_path, variables=secret)
    assert "S3CR3T" not in text
    assert "RECURRA_TRACKING_URI holds a password" in text and "recurra.env" in text


@pytest.mark.parametrize(
    ("cron", "event"),
    [
        ("0 3 * * *", "*-*-* 3:0:00"),
        ("*/15 * * * *", "*-*-* *:0/15:00"),
        ("30 2 1,15 * *", "*-*-1,15 2:30:00"),
        ("0 9-17/2 * 1-6 *", "*-1..6-* 9..17/2:0:00"),
        ("0 3 * * 1-5", "Mon..Fri *-*-* 3:0:00"),
        ("0 3 * * 0,6", "Sun,Sat *-*-* 3:0:00"),
        ("0 0 */2 * *", "*-*-1/2 0:0:00"),
    ],
)
def test_a_calendar_event_means_what_the_expression_means(cron, event):
    assert calendar_event(cron) == event


@pytest.mark.parametrize("cron", ["0 0 13 * 5", "0 3 * * MON", "0 3 L * *", "0 0 3 * * *"])
def test_what_has_no_calendar_event_is_refused(cron):
    with pytest.raises(SettingsError, match="--cron"):
        calendar_event(cron)


def test_a_crontab_has_no_seconds(tmp_path):
    with pytest.raises(SettingsError, match="no seconds"):
        rendered("crontab", tmp_path, cron="0 0 3 * * *")
