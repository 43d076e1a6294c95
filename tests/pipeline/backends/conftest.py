"""A PostgreSQL of the tests' own, where its programs are installed."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; Debian keeps them off PATH."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(f"{place[1:]}/{name}"))]
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def make_postgres_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes a new, empty database at each call and gives its URI."""
    programs = [program(name) for name in ("initdb", "pg_ctl", "createdb")]
    if None in programs:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    initdb, pg_ctl, createdb = map(str, programs)
    folder = tmp_path_factory.mktemp("postgres")
    prefix: list[str] = []
    if os.geteuid() == 0:  # as which PostgreSQL refuses to run
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        # Up to pytest-of-root; between it and this each of several test processes has one more.
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o011)
        prefix = ["runuser", "-u", "postgres", "--"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run(initdb, "-D", data, "-U", "me", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    numbers = count(1)

    def make() -> str:
        name = f"test{next(numbers)}"
        run(createdb, "-h", "127.0.0.1", "-p", str(port), "-U", "me", name)
        return f"postgresql+psycopg://me@127.0.0.1:{port}/{name}"

    try:
        yield make
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
