"""A PostgreSQL server of one's own on 127.0.0.1, for as long as a test needs it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.processes import free_port

# A test's data need not outlive the machine.
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


def binaries() -> Path | None:
    """Folder of initdb and pg_ctl: the newest that is installed, where Debian puts them or on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres(scheme: str = "postgresql", database: str = "prefect") -> Iterator[str]:
    """URL of a database on a new server; skips where PostgreSQL is not installed."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    root = Path(tempfile.mkdtemp(prefix="pg-"))
    port = free_port()
    options = " ".join(f"-c {one}" for one in (*QUICK, "listen_addresses=127.0.0.1", f"port={port}"))
    try:
        root.chmod(0o755)
        if os.getuid() == 0:
            shutil.chown(root, "postgres")
        _run(root, folder / "initdb", "-D", str(root / "data"), "-A", "trust", "-U", "postgres", "-E", "UTF8")
        _run(root, folder / "pg_ctl", "-D", str(root / "data"), "-w", "-t", "120", "-l", str(root / "log"),
             "-o", f"{options} -k {root}", "start")  # fmt: skip
        _run(root, folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", database)
        yield f"{scheme}://postgres@127.0.0.1:{port}/{database}"
    finally:
        _run(root, folder / "pg_ctl", "-D", str(root / "data"), "-m", "immediate", "stop", check=False)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def database() -> Iterator[str]:
    """URL of a database for Prefect: PostgreSQL's, or "" (SQLite) where that is not installed.

    While runs go on, SQLite refuses buttons that are pressed, with 503: see docs/operations.md.
    """
    if binaries() is None:
        yield ""
        return
    with postgres("postgresql+asyncpg") as url:
        yield url


def _run(root: Path, program: Path, *arguments: str, check: bool = True) -> None:
    """Run a program, as the user that a server may run as: never root."""
    user = ["runuser", "-u", "postgres", "--"] if getpass.getuser() == "root" else []
    done = subprocess.run([*user, str(program), *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{program.name}: {done.stdout[-500:]}{done.stderr[-500:]}"
