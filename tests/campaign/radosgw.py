"""Ceph's S3 server on 127.0.0.1, from Debian's packages: a production server with habits of its own.

    python -m tests.campaign.radosgw                                            # prints its endpoint; ends at Ctrl-C
    python -m tests.campaign.radosgw pytest tests/test_store.py -k own_server   # runs a command beside it

It honours If-None-Match on single PUTs, ignores it when an upload in parts is completed, and answers 412 without the
XML field that s3fs looks for.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSTALL = "apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_SECONDS, STOP_SECONDS = 120, 10
_CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
mon initial members = a
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
public addr = 127.0.0.1
auth allow insecure global id reclaim = false
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/$name.log
keyring = {folder}/keyring
setuser match path =
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd.0
osd objectstore = memstore
memstore device bytes = 4294967296
osd fast shutdown = true
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw enable usage log = false
rgw thread pool size = 64
rgw dns name = 127.0.0.1
"""


def what_is_missing() -> str:
    """Which of its programs are not installed here, and how to install them; "" where all are."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}; {INSTALL}" if missing else ""


@contextmanager
def radosgw() -> Iterator[str]:
    """URL of a fresh server with its data in memory; it knows the key "testing" with the secret "testing".

    Raises:
        FileNotFoundError: its programs are not installed.
        RuntimeError: it did not start.
    """
    if missing := what_is_missing():
        raise FileNotFoundError(missing)
    folder = Path(tempfile.mkdtemp(prefix="radosgw-"))
    cluster = _Cluster(folder)
    try:
        cluster.start()
        yield f"http://127.0.0.1:{cluster.port}"
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Cluster:
    """One monitor, one disk in memory, one gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        mon_v2, mon_v1, self.port = _free_ports(3)
        self._fsid = str(uuid.uuid4())
        self._mons = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
        for name in ("mon", "osd.0", "rgw", "run"):
            (folder / name).mkdir()
        conf = _CONF.format(fsid=self._fsid, mon_v2=mon_v2, mon_v1=mon_v1, folder=folder, port=self.port)
        (folder / "ceph.conf").write_text(conf, encoding="utf-8")

    def start(self) -> None:
        """Start all three, and make the user."""
        self._make_keys()
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._mons, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._serve("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk)
        caps = ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *")
        with (self.folder / "keyring").open("a", encoding="utf-8") as keyring:
            keyring.write(self._run("ceph", "auth", "get-or-create", "osd.0", *caps))
        self._run("ceph", "osd", "crush", "add", "0", "1.0", "host=h1", "root=default")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._serve("ceph-osd", "-i", "0")
        self._serve("radosgw", "-n", "client.rgw")
        self._wait_for_answers()
        key = ("--access-key=testing", "--secret=testing")
        self._run("radosgw-admin", "user", "create", "--uid=testing", "--display-name=testing", *key)

    def stop(self) -> None:
        """End what this started, the gateway first."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _make_keys(self) -> None:
        everything = "allow *"
        self._run("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", everything)
        for name, caps in (
            ("client.admin", {"mon": everything, "osd": everything, "mgr": everything}),
            ("client.rgw", {"mon": "allow rwx", "osd": "allow rwx"}),
        ):
            given = [part for who, what in caps.items() for part in ("--cap", who, what)]
            self._run("ceph-authtool", "keyring", "--gen-key", "-n", name, *given)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self.folder / "ceph.conf")}

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _serve(self, *command: str) -> None:
        """Start a server that ends with this process, however this process ends."""
        tied = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            self.running.append(
                subprocess.Popen(
                    (*tied, *command, "-f"),
                    cwd=self.folder,
                    env=self._environment(),
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def _wait_for_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            dead = [process.args for process in self.running if process.poll() is not None]
            if dead:
                raise RuntimeError(f"ended while starting: {dead}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5):
                    return
            except urllib.error.HTTPError as answer:
                answer.close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"radosgw gave no answer within {START_SECONDS} s")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> int:
    """Run beside a command, or until Ctrl-C."""
    if missing := what_is_missing():
        print(missing, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with radosgw() as endpoint:
        print(endpoint, flush=True)
        try:
            if command := sys.argv[1:]:
                return subprocess.run(command, env={**os.environ, "STACCHIP_TEST_S3": endpoint}, check=False).returncode
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
