import json
import math
import os
import signal
import subprocess
import sys

import pytest

from components.errors import StorageError
from pipeline.backends import journals


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tune" / "ledger.jsonl"


def test_what_was_written_is_read_back_in_order(path):
    entries = [
        {"n": 1},
        {"text": "line\nbreak, é, \u2028 and \x85"},
        {"nested": {"list": [1, None, True, 0.1]}},
    ]
    for entry in entries:
        journals.append(path, entry)
    assert journals.read(path) == entries


def test_numbers_that_json_does_not_know_come_back(path):
    journals.append(path, {"loss": math.nan, "best": math.inf})
    (found,) = journals.read(path)
    assert math.isnan(found["loss"])
    assert found["best"] == math.inf


def test_every_line_is_json_on_its_own(path):
    journals.append(path, {"why": "line\r\nbreak"})
    (line,) = path.read_bytes().splitlines()
    assert json.loads(line) == {"why": "line\r\nbreak"}


def test_the_name_of_a_file_that_is_no_utf8_comes_back(path):
    name = os.fsdecode(b"rows-\xff.parquet")
    journals.append(path, {"error": f"{name} is empty"})
    assert journals.read(path) == [{"error": f"{name} is empty"}]
    assert path.read_bytes().decode()


def test_lines_are_only_added(path):
    journals.append(path, {"n": 1})
    before = path.read_bytes()
    journals.append(path, {"n": 2})
    assert path.read_bytes().startswith(before)


def test_where_there_is_no_file_nothing_was_written(path):
    assert journals.read(path) == []
    assert not path.parent.exists()


def test_a_line_torn_at_any_byte_costs_only_itself(path):
    journals.append(path, {"n": 1})
    whole = path.read_bytes()
    line = '{"n": 2, "text": "é"}'.encode()
    for length in range(len(line) + 1):
        path.write_bytes(whole + line[:length])
        seen = [entry["n"] for entry in journals.read(path)]
        assert seen == ([1, 2] if length == len(line) else [1])
        journals.append(path, {"n": 3})
        assert [entry["n"] for entry in journals.read(path)] == [*seen, 3]


def test_a_kill_right_after_a_write_loses_nothing(path, root):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.backends import journals\n"
        "for n in range(3):\n"
        "    journals.append(Path(sys.argv[1]), {'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert journals.read(path) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_place_that_cannot_be_written_or_read_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder cannot be written: Is a directory\."):
        journals.append(tmp_path / "folder", {"n": 1})
    with pytest.raises(StorageError, match=r"folder cannot be read: Is a directory\."):
        journals.read(tmp_path / "folder")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_full_disk_is_an_error_of_ours(tmp_path):
    (tmp_path / "ledger.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"ledger\.jsonl cannot be written: No space left on device"):
        journals.append(tmp_path / "ledger.jsonl", {"n": 1})
