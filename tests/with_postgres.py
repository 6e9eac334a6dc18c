"""Runs the database tests against a PostgreSQL server of their own: unprivileged, on a free loopback port, gone afterwards.

`python tests/with_postgres.py [pytest's words]`; finds a server's programs, or installs Debian's where that is allowed.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys_lab.serving.lean import free_port


def programs() -> Path | None:
    """The folder that holds `initdb` and `pg_ctl`, or None."""
    places = [Path(p).resolve().parent for p in [shutil.which("initdb")] if p]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "initdb").exists() and (p / "pg_ctl").exists()), None)


def installed() -> Path:
    """`programs`, after an installation if need be."""
    found = programs()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"]
        subprocess.run(words, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=sys.stderr)
        found = programs()
    if found is None:
        sys.exit("there is no PostgreSQL server here: install one, so that initdb and pg_ctl are found")
    return found


def unprivileged() -> dict[str, Any]:
    """Words for `subprocess` that leave root: the server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def main(words: Sequence[str]) -> int:
    where, who, port = installed(), unprivileged(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        if who:
            for place in (folder, data):
                os.chown(place, who["user"], who["group"])
        told: dict[str, Any] = {**who, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([where / "initdb", "-D", data, "-U", "lab", "-A", "trust", "-E", "UTF8", "--no-sync"], **told)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = [where / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], **told)
        try:
            asked = ["-q", "tests/test_products.py", *words]
            env = {**os.environ, "RECSYS_LAB_POSTGRES": f"postgresql://lab@127.0.0.1:{port}/postgres"}
            return subprocess.run([sys.executable, "-m", "pytest", *asked], env=env, check=False).returncode
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
