"""Git sources over SSH before anything is asked: URLs, ssh's command line and words, the agent, keys as secrets."""

from __future__ import annotations

import base64
import shlex
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, utils

from builder import sandbox
from builder.attempt import git, gitrun
from builder.cli.commands import secret
from builder.cli.requests import BuildOptions, git_request
from builder.cli.stop import Stop
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import repository_of
from builder.errors import BuildError
from builder.git import commands, ssh
from builder.git.agent import FAILURE, Agent, Unusable, private_key
from builder.git.source import check_secret, parse_url
from builder.git.submodules import Submodule, url_of
from builder.sandbox import proxy
from builder.services import intake
from builder.services import secrets as service
from builder.settings import Settings
from tests.attempt_fixtures import attempt_at

URLS = [
    ("ssh://git@example.com/a/b.git", "git", "example.com", 22),
    ("ssh://git@Example.com:2222/~ada/b.git", "git", "example.com", 2222),
    ("ssh://APKA_x.y-z@[2001:db8::1]:22/a", "APKA_x.y-z", "[2001:db8::1]", 22),
    ("git@example.com:team/app.git", "git", "example.com", 22),
    ("git@example.com:/srv/app.git", "git", "example.com", 22),
    ("git@[2001:db8::1]:app", "git", "[2001:db8::1]", 22),
    ("git@example.com:2222/app.git", "git", "example.com", 22),
]
HOSTILE = [
    "ssh://", "ssh://example.com/a.git", "ssh://@example.com/a", "ssh://git@/a", "ssh://git@example.com",
    "ssh://git@example.com/", "ssh://-oProxyCommand=id@example.com/a", "ssh://git@-oProxyCommand=id/a",
    "ssh://git@-oProxyCommand=id:22/a", "-oProxyCommand=id@example.com:a", "git@-oProxyCommand=id:a",
    "git@-example.com:a", "git@example.com:-a", "git@example.com:--upload-pack=id", "git@example.com:",
    "git@example.com:/", "ssh://git@example.com:0/a", "ssh://git@example.com:65536/a", "ssh://git@example.com:-1/a",
    "ssh://git@example.com:022/a", "ssh://git@example.com:x/a", "ssh://git@example.com:/a",
    "ssh://git@example.com:team/app.git", "ssh://git:token@example.com/a", "git:token@example.com:a",
    "ssh://git@%h/a", "ssh://git@exam%70le.com/a", "git@%h:a", "ssh://%r@example.com/a", "ssh://git@example.com/%2e%2e/a",
    "ssh://git@example.com/a%00", "git@example.com:a%0a", "ssh://git@example.com/a\n", "git@example.com:a\nb",
    "ssh://git@example.com/a\0", "ssh://git\n@example.com/a", "ssh://git@exam\nple.com/a", "ssh://git@example.com/../a",
    "git@example.com:../a", "git@example.com:a/../../b", "git@example.com:a//b", "git@example.com:./a",
    "ssh://git@example.com/$(id)", "git@example.com:`id`", "git@example.com:a;id", "git@example.com:a|id",
    "git@example.com:a'b", 'git@example.com:a"b', "git@example.com:a b", "git@example.com:a&b", "git@example.com:a\\b",
    "git @example.com:a", "git@example.com :a", "$(id)@example.com:a", "a/b@example.com:c", "git@2130706433:a",
    "git@127.1:a", "git@0x7f.1:a", "git@[::1:a", "git@[fe80::1%eth0]:a", "git@[x]:a", "git@exa_mple.com:a",
    "git@example..com:a", "git@ex\u0430mple.com:a", "[git@example.com:2222]:a", "SSH://git@example.com/a",
    "ssh+git://git@example.com/a", "git+ssh://git@example.com/a", "ssh:git@example.com/a", "example.com:a",
    "git@example.com:\x1b[2J", f"{'u' * 65}@example.com:a", f"git@{'a' * 64}.com:x", f"git@example.com:{'a' * 3000}",
]  # fmt: skip
KNOWN = "example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"
ITS_KEY = KNOWN.partition(" ")[2]
LOCKED = """\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABCSDeWkeC
lQxhSA705P2Tu7AAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAINwVLUQNMwyBG9oP
X3/Vd3FnYYg2Y9J1/A3x+6UUR6OZAAAAkPZLHnEAv4oZetfSKeQHgPnPpJILsl6TJX3Iza
0EDAiYDQVmX68k4vW5Nyvww2oyeZsWx/xOfKof6ADhRofWm6TvUitrotrysqYSwxZhAOb6
yzjrh04pWUMNCac3g1yHG+EPmXghX/sm+Ogd3qrAveXun3YF1JgnjtnRbXmX5AXsB7jQ3S
DoZ4IBTQnkMHnsSQ==
-----END OPENSSH PRIVATE KEY-----
"""
"""A key that `ssh-keygen -N x` made."""
ED25519 = ed25519.Ed25519PrivateKey.generate()
URL = parse_url("ssh://git@example.com:2222/a.git")


def text_of(key: Any, *, openssh: bool = True, password: bytes = b"") -> str:
    how = serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    made: bytes = key.private_bytes(serialization.Encoding.PEM, how, hidden)
    return made.decode()


@pytest.mark.parametrize(("text", "user", "host", "port"), URLS)
def test_a_url_of_a_host_over_ssh_is_taken(text: str, user: str, host: str, port: int) -> None:
    found = parse_url(text)
    assert (found.user, found.host, found.port, found.is_ssh) == (user, host, port, True)
    assert found.text.lower() == text.lower() and host in found.text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_url_over_ssh_is_refused_before_git_sees_it(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        parse_url(text)
    error = refused.value
    assert error.reason == "GitUrlRefused" and error.next
    assert error.message.isprintable() and len(error.message) < 300 and "token" not in error.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://git@example.com:team/app.git", "may be meant as USER@HOST:PATH"),
        ("ssh://example.com/a.git", "names no user"),
        ("ssh://git:token@example.com/a", "has a password in it"),
        ("git://example.com/a.git", "https and ssh are taken"),
    ],
)
def test_a_common_mistake_is_named(text: str, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("https://example.com/a.git", "https://example.com/a.git"),
        ("ssh://git@example.com:2222/a.git", "ssh://git@example.com:2222/a.git"),
        ("git@example.com:team/app.git", "ssh://git@example.com/team/app.git"),
        ("git@example.com:/srv/a@example.com:b", "ssh://git@example.com/srv/a@example.com:b"),
    ],
)
def test_a_statement_names_a_uri(text: str, uri: str) -> None:
    assert parse_url(text).uri == uri


def test_no_host_is_asked_over_ssh_without_a_secret() -> None:
    check_secret(URL, "ci", "x")
    check_secret(parse_url("https://example.com/a.git"), "", "x")
    request = pb.CreateBuildRequest(name="app", git_source=pb.GitSource(url="git@example.com:a.git"))
    asked = repository_of(request)
    assert asked is not None
    with pytest.raises(BuildError) as refused:
        intake._git(request, asked, "acme", SimpleNamespace())  # type: ignore[arg-type] # the server is not looked at
    assert (refused.value.reason, refused.value.where) == ("GitAuthFailed", "gitSource.secretRef")
    assert "secret set" in refused.value.next


def test_the_command_line_takes_a_url_as_scp_writes_it() -> None:
    options = BuildOptions(path="", git="git@example.com:app.git#v1:sub", secret="key")
    made = git_request(options, (), Settings())
    source = made.git_source
    assert (made.name, source.url, source.reference) == ("app", "git@example.com:app.git", "v1")
    assert (source.context_dir, source.secret_ref) == ("sub", "key")
    with pytest.raises(BuildError) as refused:
        git_request(BuildOptions(path="", git="git@example.com:app.git"), (), Settings())
    assert (refused.value.reason, refused.value.where) == ("GitAuthFailed", "--secret")


# Submodules


@pytest.mark.parametrize(
    ("above", "url", "found"),
    [
        ("git@example.com:group/app.git", "../lib.git", "git@example.com:group/lib.git"),
        ("git@example.com:group/app.git", "../../lib.git", "git@example.com:lib.git"),
        ("git@example.com:/srv/app.git/", "../../opt/lib.git", "git@example.com:/opt/lib.git"),
        ("ssh://git@example.com:2222/group/app.git", "../lib.git", "ssh://git@example.com:2222/group/lib.git"),
        ("ssh://git@example.com/group/app.git", "git@example.com:lib.git", "git@example.com:lib.git"),
        ("git@example.com:app.git", "https://other.example/a.git", "https://other.example/a.git"),
    ],
)
def test_where_a_submodule_of_a_repository_over_ssh_is(above: str, url: str, found: str) -> None:
    assert url_of(parse_url(above), Submodule(name="a", path="a", url=url)).text == found


@pytest.mark.parametrize(
    ("above", "url"),
    [
        ("https://example.com/a.git", "git@example.com:b.git"),
        ("https://example.com:22/a.git", "ssh://git@example.com/b.git"),
        ("git@example.com:a.git", "root@example.com:b.git"),
        ("git@example.com:a.git", "git@other.example:b.git"),
        ("git@example.com:a.git", "ssh://git@example.com:2222/b.git"),
        ("git@example.com:a.git", "../../b.git"),
        ("git@example.com:a/b.git", "../../-oProxyCommand=id"),
        ("git@example.com:a/b.git", "../../"),
        ("git@example.com:a/b.git", "../.."),
        *(("git@example.com:a.git", each) for each in HOSTILE),
    ],
)
def test_a_submodule_gets_the_key_to_no_other_host(above: str, url: str) -> None:
    with pytest.raises(BuildError) as refused:
        url_of(parse_url(above), Submodule(name="a", path="a", url=url))
    assert refused.value.reason == "GitUrlRefused" and refused.value.where == ".gitmodules: submodule.a.url"


# ssh's command line and words


def options_of(env: Any) -> dict[str, str]:
    line = shlex.split(env["GIT_SSH_COMMAND"])
    assert line[:3] == ["/usr/bin/ssh", "-F", "none"] and line[3::2] == ["-o"] * len(line[4::2])
    pairs = [word.split("=", 1) for word in line[4::2]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs)  # of two ssh would read the first
    return {name: value for name, value in pairs}


@pytest.mark.parametrize(
    ("text", "alias"),
    [
        ("ssh://git@example.com:2222/a.git", "[example.com]:2222"),
        ("git@example.com:a.git", "example.com"),
        ("git@[2001:db8::1]:a.git", "2001:db8::1"),
        ("ssh://git@[2001:db8::1]:2222/a", "[2001:db8::1]:2222"),
    ],
)
def test_ssh_gets_its_whole_command_line_from_us(text: str, alias: str) -> None:
    env = ssh.environment(parse_url(text), ssh.FOLDER, 3128)
    assert (env["GIT_ALLOW_PROTOCOL"], env["GIT_SSH_VARIANT"], set(env) - {"GIT_SSH_COMMAND"}) == (
        "ssh", "ssh", {"GIT_ALLOW_PROTOCOL", "GIT_SSH_VARIANT"},
    )  # fmt: skip
    options = options_of(env)
    wanted = {
        "HostName": "127.0.0.1", "Port": "3128", "HostKeyAlias": alias, "IdentityAgent": "/run/ssh/agent",
        "UserKnownHostsFile": "/run/ssh/known_hosts", "GlobalKnownHostsFile": "/dev/null", "BatchMode": "yes",
        "StrictHostKeyChecking": "yes", "IdentityFile": "none", "ForwardAgent": "no", "ProxyCommand": "none",
        "ClearAllForwardings": "yes", "PermitLocalCommand": "no", "PreferredAuthentications": "publickey",
    }  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "/a" not in env["GIT_SSH_COMMAND"].replace("/run/ssh/agent", "")  # the path is git's own word
    without = options_of(ssh.environment(parse_url(text), "", 0))
    assert "HostName" not in without and "Port" not in without and without["IdentityAgent"] == "agent"


def test_git_speaks_ssh_alone_to_a_host_over_ssh() -> None:
    for argv in (commands.list_remote(URL, "v1", "/ca"), commands.fetch(URL, "0" * 40, "/ca")):
        assert argv[argv.index("--") + 1] == URL.text
        allowed = [word for word in argv if ".allow=" in word]
        assert allowed == ["protocol.allow=never", "protocol.ssh.allow=always"]
    assert [word for word in commands.init() if ".allow=" in word] == ["protocol.allow=never"]


def test_lines_of_ssh_name_the_host_and_not_the_loopback() -> None:
    assert ssh.named(URL, "git@127.0.0.1: Permission denied (publickey).", 3128).startswith("git@example.com: Perm")
    assert ssh.named(URL, "Connection closed by 127.0.0.1 port 3128", 3128).endswith("by example.com port 2222")
    assert ssh.named(URL, "to [127.0.0.1]:3128:", 3128) == "to example.com:2222:"
    assert ssh.named(URL, "127.0.0.1 port 31280", 3128) == "127.0.0.1 port 31280"


END = ["fatal: Could not read from remote repository.", "", "Please make sure you have the correct access rights",
       "and the repository exists."]  # fmt: skip
UNKNOWN = "No ED25519 host key is known for [example.com]:2222 and you have requested strict checking."
CHANGED = ["@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @", "Host key verification failed."]


@pytest.mark.parametrize(
    ("lines", "reason", "words"),
    [
        ([UNKNOWN, "Host key verification failed."], "GitAuthFailed", "not among the known hosts"),
        (CHANGED, "GitAuthFailed", "has another key"),
        (["@ WARNING: REVOKED HOST KEY DETECTED! @", "Host key verification failed."], "GitAuthFailed", "revoke"),
        (["git@example.com: Permission denied (publickey)."], "GitAuthFailed", "refused the secret's key"),
        (["Received disconnect: Too many authentication failures"], "GitAuthFailed", "refused the secret's key"),
        (["FATAL: R any app ada DENIED by fallthru"], "GitAuthFailed", "refused the secret's key"),
        (["ERROR: Repository not found."], "GitReferenceNotFound", "no repository"),
        (["fatal: '/a.git' does not appear to be a git repository"], "GitReferenceNotFound", "no repository"),
        (["ERROR: The project you were looking for could not be found or you don't have permission to view it."],
         "GitReferenceNotFound", "no repository"),
        (["Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their offer: ssh-rsa"],
         "GitUrlRefused", "no algorithm in common"),
        (["sign_and_send_pubkey: no mutual signature supported", "git@example.com: Permission denied (publickey)."],
         "GitUrlRefused", "no algorithm in common"),
        (["bash: line 1: git-upload-pack: command not found"], "GitUrlRefused", "runs no git"),
        (["This account is currently not available."], "GitUrlRefused", "runs no git"),
        (["fatal: remote error: upload-pack: not our ref 00"], "GitReferenceNotFound", "commit"),
        (["Connection closed by example.com port 2222"], "GitUnavailable", "could not read"),
        (["\x1b[2Jfatal: \u202e"], "GitUnavailable", "could not read"),
    ],
)  # fmt: skip
def test_what_sshs_words_mean(lines: list[str], reason: str, words: str) -> None:
    error = commands.failed(URL, [*lines, *END], refused=False, unreachable=False, login=False)
    assert error.reason == reason and words in error.message, error.message
    assert error.next and all(line.isprintable() for line in error.said)


def test_a_host_whose_key_is_unknown_is_named_with_the_command_that_asks_for_it() -> None:
    error = commands.failed(URL, [UNKNOWN, "Host key verification failed."], refused=False, unreachable=False,
                            login=False)  # fmt: skip
    assert "ssh-keyscan -p 2222 example.com > known_hosts" in error.next
    assert "ssh-keyscan example.com >" in ssh.no_known_hosts(parse_url("git@example.com:a"), "x").next


@pytest.mark.parametrize(
    ("facts", "reason"), [({"refused": True}, "GitUrlRefused"), ({"unreachable": True}, "GitUnavailable")]
)
def test_what_the_policy_or_the_network_stopped_is_no_login(facts: dict[str, bool], reason: str) -> None:
    lines = ["kex_exchange_identification: Connection closed by remote host", *END]
    refused, unreachable = (facts.get(name, False) for name in ("refused", "unreachable"))
    error = commands.failed(URL, lines, refused=refused, unreachable=unreachable, login=True)
    assert error.reason == reason and "redirected" not in error.message


def test_a_tunnel_leads_to_its_one_address_whatever_is_sent() -> None:
    egress = sandbox.Egress(sandbox.EgressPolicy(hosts=frozenset()), tunnel=("git.example", 22))
    asked = proxy._Proxy(None, egress)._asked(None)  # type: ignore[arg-type] # nothing is read
    assert (asked.host, asked.port, asked.tunnel, asked.silent, asked.first) == ("git.example", 22, True, True, b"")


# The agent


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def public_of(key: Any) -> bytes:
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


def login(key: Any, user: bytes = b"git", method: bytes = b"publickey", service: bytes = b"ssh-connection") -> bytes:
    head = string(b"session") + b"\x32" + string(user) + string(service) + string(method) + b"\1"
    return head + string(b"algorithm") + string(public_of(key))


def ask(agent: Agent, key: Any, data: bytes, flags: int = 0) -> bytes:
    return agent.answer(b"\x0d" + string(public_of(key)) + string(data) + struct.pack(">I", flags))


KEYS = {
    "ed25519": ED25519,
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp384": ec.generate_private_key(ec.SECP384R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("openssh", [True, False])
def test_an_agent_signs_logins_of_its_user_and_nothing_else(name: str, openssh: bool) -> None:
    key: Any = private_key(text_of(KEYS[name], openssh=openssh))
    agent, other = Agent(key, "git"), ed25519.Ed25519PrivateKey.generate()
    listed = agent.answer(b"\x0b")
    assert listed[:5] == b"\x0c\0\0\0\1" and strings(listed[5:])[0] == public_of(key)
    data = login(key)
    signed = ask(agent, key, data, flags=4)
    assert signed[:1] == b"\x0e"
    algorithm, signature = strings(strings(signed[1:])[0])
    if name == "ed25519":
        assert algorithm == b"ssh-ed25519"
        key.public_key().verify(signature, data)
    elif name == "rsa":
        assert algorithm == b"rsa-sha2-512"
        key.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA512())
        algorithm, signature = strings(strings(ask(agent, key, data, flags=2)[1:])[0])
        assert algorithm == b"rsa-sha2-256"
        key.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        assert ask(agent, key, data) == bytes((FAILURE,))  # SHA-1
    else:
        assert algorithm == b"ecdsa-sha2-" + name.encode()
        r, s = (int.from_bytes(each, "big") for each in strings(signature))
        size: hashes.HashAlgorithm = {"256": hashes.SHA256(), "384": hashes.SHA384(), "521": hashes.SHA512()}[name[5:]]
        key.public_key().verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(size))
    assert ask(agent, key, login(key, method=b"publickey-hostbound-v00@openssh.com"), 4)[:1] == b"\x0e"
    for wrong in (
        b"", b"any text", login(key, user=b"root"), login(other), login(key, method=b"password"),
        login(key, service=b"other"), data[:-1], data.replace(b"\x32", b"\x33"), string(b"x" * 99),
    ):  # fmt: skip
        assert ask(agent, key, wrong, 4) == bytes((FAILURE,)), wrong
    assert ask(agent, other, data, 4) == bytes((FAILURE,))
    for message in (b"", b"\x0d", b"\x0d\xff\xff\xff\xff", b"\x11" + string(b"add"), b"\x1b" + string(b"x"), b"\x12"):
        assert agent.answer(message) == bytes((FAILURE,))
    assert "PRIVATE" not in repr(agent) and "key=" not in repr(agent)


E = 65537
P, Q = 2**1279 - 1, 2**2203 - 1
"""Primes."""


def rsa_of(p: int, q: int, **other: int) -> str:
    """The text of an RSA key of these numbers (RFC 8017, A.1.2), which nobody has looked at."""
    d = other.get("d") or pow(E, -1, (p - 1) * (q - 1))
    numbers = (0, other.get("n") or p * q, E, d, p, q, d % (p - 1), d % (q - 1), other.get("iqmp") or pow(q, -1, p))
    data = b"".join(der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers)
    lines = base64.encodebytes(der(0x30, data)).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}-----END RSA PRIVATE KEY-----\n"


def der(tag: int, data: bytes) -> bytes:
    size = len(data)
    length = bytes((size,)) if size < 128 else bytes((0x81, size)) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + data


POINT = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
)  # fmt: skip


def of_compressed_point() -> str:
    """A key of a curve whose point is written in a way that SSH does not have."""
    named = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(POINT)
    private = b"\0" * 8 + named + string(b"\1" * 32) + string(b"")
    private += bytes(range(1, 9 - len(private) % 8))
    body = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + b"\0\0\0\1" + string(named) + string(private)
    lines = base64.encodebytes(body).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n"


def test_no_prime_of_a_key_is_looked_for_and_a_signature_that_cannot_be_is_none() -> None:
    """To try them stops every thread, of a long key for minutes."""
    key: Any = private_key(rsa_of(P, Q))
    assert ask(Agent(key, "git"), key, login(key), 4)[:1] == b"\x0e"
    composite: Any = private_key(rsa_of(P, Q * (2**127 - 1)))
    answer = ask(Agent(composite, "git"), composite, login(composite), 4)
    assert answer[:1] in (b"\x0e", bytes((FAILURE,)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        (rsa_of(2**4253 - 1, 2**4423 - 1), "RSA of 8676 bits; 2048 to 8192 are allowed"),
        ("-----BEGIN PRIVATE KEY-----\n" + "A" * 8192, "characters, 8192 are allowed"),
        (rsa_of(P, Q, n=P * Q + 2), "cannot be read"),
        (rsa_of(P, Q, d=pow(E, -1, (P - 1) * (Q - 1)) + 2), "cannot be read"),
        (rsa_of(P, Q, d=pow(E, -1, (P - 1) * (Q - 1)) + (P - 1) * (Q - 1) * 4), "cannot be read"),
        (rsa_of(P, Q, iqmp=3), "cannot be read"),
        (rsa_of(P + 1, Q, d=3, iqmp=3), "cannot be read"),
        (of_compressed_point(), "cannot be read"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "cannot be read"),
        (LOCKED, "passphrase"),
        (text_of(ED25519, openssh=False, password=b"x"), "passphrase"),
        (text_of(rsa.generate_private_key(65537, 1024)), "RSA of 1024 bits"),
        (text_of(ec.generate_private_key(ec.SECP256K1()), openssh=False), "curve secp256k1"),
        (text_of(ed448.Ed448PrivateKey.generate(), openssh=False), "do not take"),
    ],
)
def test_a_key_that_no_agent_can_use_is_named_without_its_text(text: str, words: str) -> None:
    with pytest.raises(Unusable, match=words) as unusable:
        private_key(text)
    assert "AAAA" not in str(unusable.value)


# Secrets


@pytest.mark.parametrize(
    "known", ["", KNOWN, f"# example.com\n{KNOWN}", f"@cert-authority *.x {ITS_KEY}", f"|1|AAAA=|BBBB= {ITS_KEY}"]
)
def test_a_private_key_is_a_git_secret(known: str) -> None:
    key = pb.GitSshKey(private_key=text_of(ED25519), known_hosts=known)
    assert service._checked(pb.NamedSecret(name="a", git_ssh_key=key)) == (
        "GIT", {"private_key": key.private_key, "known_hosts": known},
    )  # fmt: skip
    of_windows = pb.GitSshKey(private_key=key.private_key.replace("\n", "\r\n"))
    assert service._checked(pb.NamedSecret(name="a", git_ssh_key=of_windows))[1]["private_key"] == key.private_key


@pytest.mark.parametrize(
    ("key", "known", "words"),
    [
        ("key", KNOWN, "cannot be used"),
        (LOCKED, KNOWN, "passphrase"),
        (text_of(ED25519) + "more", KNOWN, "more than a private key"),
        (text_of(ED25519), " ", "no known hosts"),
        (text_of(ED25519), "# nothing\n", "no known hosts"),
        (text_of(ED25519), "example.com", "no known hosts"),
        (text_of(ED25519), KNOWN + "\0", "no known hosts"),
        (text_of(ED25519), KNOWN + text_of(ED25519), "no known hosts"),
    ],
)
def test_what_can_be_no_ssh_key_is_refused_without_its_text(key: str, known: str, words: str) -> None:
    with pytest.raises(BuildError, match=words) as refused:
        service._checked(pb.NamedSecret(name="a", git_ssh_key=pb.GitSshKey(private_key=key, known_hosts=known)))
    assert refused.value.reason == "InvalidRequest" and "AAAA" not in refused.value.message


def test_a_key_from_stdin_is_stored_with_the_keys_of_its_hosts_or_without(tmp_path: Path) -> None:
    key, file = text_of(ED25519), tmp_path / "known_hosts"
    file.write_text(KNOWN)
    for named, known in ((str(file), KNOWN), ("", "")):
        made = secret._secret("deploy", "git", "", "example.com:2222", named, key.removesuffix("\n"))
        assert made.git_ssh_key == pb.GitSshKey(private_key=key, known_hosts=known)
        assert (made.name, made.host) == ("deploy", "example.com:2222")
    with pytest.raises(Stop, match="is for an SSH key"):
        secret._secret("deploy", "git", "", "", str(file), "ghp_0123456789")


# The steps


A, B = "a" * 40, "b" * 40


class Steps:
    """Git's answers in the place of a sandbox, and what each step that asks a host could see."""

    def __init__(self) -> None:
        self.online, self.seen = list[tuple[str, str]](), list[tuple[Any, Any]]()
        self.by_name_alone = False
        self.agents = list[tuple[Path, Agent]]()

    def run(
        self,
        command: sandbox.Command,
        root: sandbox.Root,
        *_: object,
        on_line: sandbox.OnLine,
        egress: Any,
        **__: object,
    ) -> sandbox.Result:
        words, out, code = list(command.argv), list[str](), 0
        mounts = {mount.dest: mount.source for mount in root.mounts}
        if "ls-remote" in words or "fetch" in words:
            at = words.index("--")
            self.online.append((words[at + 1], words[-1]))
            self.seen.append((command, mounts))
            known = mounts.get("/run/ssh/known_hosts")
            assert known is None or known.read_text() == KNOWN
            assert egress.tunnel == (("example.com", 22) if known else None)
            assert egress.policy.request_hosts == {egress.tunnel or ("other.example", 443)}
        else:
            assert egress is None and "GIT_SSH_COMMAND" not in command.env and "/run/ssh/agent" not in mounts
            assert not list(command.work.glob("agent*")) + list(command.work.glob("known_hosts"))
        if "ls-remote" in words:
            out = [f"{B}\trefs/tags/v1", f"{A}\trefs/tags/v1^{{}}"]
        elif "fetch" in words and self.by_name_alone and len(words[-1]) == 40:
            on_line(
                sandbox.Stream.STDERR, b"error: Server does not allow request for unadvertised object " + A.encode()
            )
            code = 128
        elif "--get-regexp" in words:
            pairs = {A: "submodule.l.path\nl\0submodule.l.url\n../l.git\0submodule.o.path\no\0submodule.o.url\n"
                        "https://other.example/o.git\0"}  # fmt: skip
            out = pairs.get(next(word for word in words if word.startswith("--blob="))[7:47], "").split("\n")
        elif "ls-tree" in words:
            out = [f"160000 commit {B}\t{path}" for path in words[words.index("--") + 1 :]]
        elif "log" in words:
            out = [A, "1767323045", "Ada <a@b>"]
        elif "write-tree" in words:
            out = [B]
        elif "archive" in words:
            (command.work / "git/source.tar").write_bytes(b"tar")
        elif "init" in words:
            (command.work / "git/repository").mkdir()
        for line in out:
            on_line(sandbox.Stream.STDOUT, line.encode())
        return sandbox.Result(exit_code=code, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0,
                              duration_ms=0)  # fmt: skip

    @contextmanager
    def serving(self, path: Path, agent: Agent, owner: object) -> Iterator[None]:
        """No socket: what it would answer is looked at elsewhere."""
        self.agents.append((path, agent))
        yield


def fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Steps, secrets: dict[str, str], **settings: object
) -> commands.Commit:
    monkeypatch.setattr(sandbox, "run", steps.run)
    monkeypatch.setattr(gitrun, "serving", steps.serving)
    monkeypatch.setattr(gitrun, "require", lambda program, package: None)
    attempt = attempt_at(tmp_path, settings=settings)
    attempt.grant.secrets.update(secrets)
    source = pb.GitSource(url="git@example.com:g/a.git", reference="v1", submodules=True)
    asked = repository_of(pb.CreateBuildRequest(git_source=source))
    assert asked is not None
    return git.fetch_commit(attempt, asked)


SECRETS = {"git.private_key": text_of(ED25519), "git.known_hosts": KNOWN}


def test_a_step_over_ssh_has_a_socket_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    assert fetched(tmp_path, monkeypatch, steps, SECRETS).sha == A
    own, lib, other = "git@example.com:g/a.git", "git@example.com:g/l.git", "https://other.example/o.git"
    assert [url for url, _ in steps.online] == [own, own, lib, other]
    body = SECRETS["git.private_key"].splitlines()[1]
    for command, mounts in steps.seen[:3]:
        assert command.env["GIT_SSH_COMMAND"].startswith("/usr/bin/ssh -F none ")
        assert mounts["/run/ssh/agent"] == tmp_path / "work/agent" and command.folders == ("git",)
        assert body not in str(command) and "IGNITE_GIT_TOKEN" not in command.env
    command, mounts = steps.seen[3]
    assert "GIT_SSH_COMMAND" not in command.env and "/run/ssh/agent" not in mounts
    assert [agent.user for _, agent in steps.agents] == ["git"] * 3


def test_a_server_of_gits_first_protocol_is_asked_for_a_tag_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    steps.by_name_alone = True
    with pytest.raises(BuildError, match="does not have this commit"):  # a submodule has no name to ask for
        fetched(tmp_path, monkeypatch, steps, SECRETS)
    assert [wanted for _, wanted in steps.online[1:3]] == [A, "refs/tags/v1"]


def test_the_operators_known_hosts_count_where_the_secret_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "known"
    file.write_text(KNOWN)
    secrets = {**SECRETS, "git.known_hosts": ""}
    (tmp_path / "with").mkdir()
    assert fetched(tmp_path / "with", monkeypatch, Steps(), secrets, git_known_hosts=str(file)).sha == A
    for number, (settings, reason) in enumerate(
        (({}, "GitAuthFailed"), ({"git_known_hosts": str(tmp_path / "none")}, "GitUnavailable"))
    ):
        (tmp_path / str(number)).mkdir()
        steps = Steps()
        with pytest.raises(BuildError) as refused:
            fetched(tmp_path / str(number), monkeypatch, steps, secrets, **settings)
        assert refused.value.reason == reason and not steps.online and refused.value.next
        assert not list((tmp_path / str(number) / "work").glob("known*"))


@pytest.mark.parametrize(
    "secrets", [{}, {"git.token": "ghp_0123456789"}, {"git.private_key": "x", "git.known_hosts": KNOWN}]
)
def test_without_a_key_no_host_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets: dict[str, str]
) -> None:
    steps = Steps()
    with pytest.raises(BuildError) as refused:
        fetched(tmp_path, monkeypatch, steps, secrets)
    assert refused.value.reason == "GitAuthFailed" and not steps.online
