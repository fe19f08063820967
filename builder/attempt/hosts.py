"""What a step that asks git hosts gets: the machine's own git, the way to the hosts, the login of private modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder import sandbox
from builder.addresses import listed
from builder.attempt.attempt import Attempt
from builder.errors import BuildError
from builder.git import commands
from builder.pipelines import private
from builder.plan import Step
from builder.settings import Settings

CA_MOUNT = "/etc/ssl/certs/ca-certificates.crt"
Addresses = frozenset[tuple[str, int]]


def machine_git(attempt: Attempt) -> tuple[sandbox.Mount, ...]:
    """The machine's own git below /usr with what trusts hosts, and nothing else of it."""
    require(commands.GIT, "git")
    usr = Path("/usr")
    mounts = [sandbox.Mount(source=usr, dest="/usr")]
    mounts += [
        sandbox.Mount(source=usr / name, dest=f"/{name}") for name in ("bin", "lib", "lib64") if (usr / name).is_dir()
    ]
    bundle = attempt.node.settings.ca_bundle or CA_MOUNT
    if Path(bundle).exists():
        mounts.append(sandbox.Mount(source=Path(bundle).resolve(), dest=CA_MOUNT))
    return tuple(mounts)


def require(program: str, package: str) -> None:
    """Raises `BuildError` ToolchainUnavailable for a program that this node lacks."""
    if not Path(program).exists():
        message, step = f"{package} is not installed on this node", f"apt-get install -y {package}"
        raise BuildError("ToolchainUnavailable", message, next=f"An operator installs it: {step}")


def policy_of(settings: Settings, asked: Addresses, indexes: Addresses = frozenset()) -> sandbox.EgressPolicy:
    """Hosts that a request names: one with an address of a private network is the operator's to allow, `git_hosts`."""
    mine = frozenset(each for each in asked if listed(*each, settings.git_hosts))
    return sandbox.EgressPolicy(hosts=indexes | mine, request_hosts=asked - mine)


def private_hosts(attempt: Attempt, step: Step) -> tuple[str, ...]:
    """The hosts of a step's private modules that the request names, too: a plan is made where the source was read."""
    asked = private.asked(attempt.request.build_args) if step.private else None
    return tuple(host for host in step.private.hosts if host in asked.hosts) if step.private and asked else ()


def private_addresses(attempt: Attempt, step: Step) -> Addresses:
    """The same with their port."""
    return frozenset((host, private.PORT) for host in private_hosts(attempt, step))


def private_environment(attempt: Attempt, step: Step) -> Mapping[str, str]:
    """Variables for git in a step with private modules: our settings and the login; nothing for any other step."""
    if step.private is None:
        return {}
    secrets = attempt.grant.secrets
    hosts = private.opened_by(private_hosts(attempt, step), secrets.get("modules.host", ""))
    found = commands.environment_for(hosts, CA_MOUNT)
    if not secrets.get("modules.token"):
        return found
    return {**found, **commands.login_of(secrets.get("modules.username", ""), secrets["modules.token"])}
