"""A private sshd on loopback: git over SSH for the user of this process, with one key, and nothing but git-shell."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.local.ports import free_port

SSHD = "/usr/sbin/sshd"
PATIENCE_S = 120.0
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin forced-commands-only
AuthenticationMethods publickey
LogLevel VERBOSE
"""
COMMAND = 'env GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git-shell -c \\"$SSH_ORIGINAL_COMMAND\\"'


@dataclass(frozen=True)
class SshHost:
    """`address` is "127.0.0.1:port"; `root` the folder of bare repositories; `known` its line for known hosts.

    `key` logs in, `other_key` does not; both are the text of a private key.
    """

    address: str
    root: Path
    user: str
    known: str
    key: str
    other_key: str
    log: Path

    def url(self, name: str) -> str:
        return f"ssh://{self.user}@{self.address}{self.root}/{name}.git"

    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")


def keygen(path: Path) -> tuple[str, str]:
    """(text of a new private key, line of its public half)."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


@contextmanager
def serving(folder: Path) -> Iterator[SshHost]:
    """The host. Its own folders are those of `folder`, which its user owns."""
    own, root = folder / "sshd", folder / "over-ssh"
    own.mkdir()
    root.mkdir()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what its package leaves to an init system
    _, public = keygen(own / "host")
    key, authorized = keygen(own / "key")
    other_key, _ = keygen(own / "other")
    (own / "authorized").write_text(f'restrict,command="{COMMAND}" {authorized}\n')
    port = free_port()
    config, log = own / "config", own / "log"
    config.write_text(CONFIG.format(port=port, folder=own))
    process = subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(log)], stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_S
        while not (log.exists() and "Server listening" in log.read_text()):
            assert process.poll() is None and time.monotonic() < until, log.read_text() if log.exists() else "no log"
            time.sleep(0.05)
        user = pwd.getpwuid(os.geteuid()).pw_name
        known = f"[127.0.0.1]:{port} {public}\n"
        yield SshHost(f"127.0.0.1:{port}", root, user, known, key, other_key, log)
    finally:
        process.terminate()
        process.wait()
