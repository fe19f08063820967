"""What hostile steps leave for the node: each script is a build of its own, judged by its record, log and layer."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

from tests.edges import PROBES, Probe
from tests.edges.world import HONEST, SCRIPTED, World, of_record

Look = Callable[[World, dict[str, object]], str]


def members(world: World, record: dict[str, object]) -> list[tarfile.TarInfo]:
    """The members of the artifact's own layer."""
    with tarfile.open(fileobj=io.BytesIO(world.layer(record))) as layer:
        return layer.getmembers()


def script(name: str, verdict: str, code: str, look: Look = lambda _, __: "") -> None:
    """Enter a build as a probe; `look` adds what it finds behind the record's end."""
    SCRIPTED[name.replace("_", "-")] = "import os\n" + HONEST + code

    def attack(world: World) -> str:
        record = world.built(name.replace("_", "-"))
        return " ".join(filter(None, (of_record(record), look(world, record))))

    PROBES.append(Probe("steps", name, verdict, attack))


def text_of_log(world: World, record: dict[str, object]) -> str:
    lines = [str(line.get("line", "")) for line in world.log(str(record["buildId"]))]
    found = sorted({f"{ord(c):#x}" for c in "".join(lines) if not c.isprintable()})
    return f"with {found} in the log" if found else "with text in the log"


def kinds(world: World, record: dict[str, object]) -> str:
    """Set-user-id bits, devices and links out of the layer, in its headers."""
    odd = [one.name for one in members(world, record) if one.mode & 0o7000 or one.isdev() or one.isfifo() or one.uid]
    return f"with {odd}" if odd else "with plain files"


def names(*wanted: str) -> Look:
    def look(world: World, record: dict[str, object]) -> str:
        found = [one.name.removeprefix("app/") for one in members(world, record)]
        return "with " + ", ".join(sorted(set(found) & set(wanted)) or ("none of them",))

    return look


SHUT = "import shutil\nshutil.rmtree('/work/out')\n"
script("the_output_is_a_link_to_the_root", "FAILED StepFailed user_code", f"{SHUT}os.symlink('/', '/work/out')\n")
script("the_output_is_a_link_to_the_source", "FAILED StepFailed user_code", f"{SHUT}os.symlink('src', '/work/out')\n")
script("the_output_is_a_pipe", "FAILED StepFailed user_code", f"{SHUT}os.mkfifo('/work/out')\n")
script("the_output_is_gone", "FAILED StepFailed user_code", SHUT)
script(
    "the_source_is_a_link_to_the_root", "SUCCEEDED",
    "os.chdir('/work')\nos.rename('src', 'elsewhere')\nos.symlink('/', 'src')\n",
)  # fmt: skip
script("a_folder_named_like_a_layer", "SUCCEEDED", "os.makedirs('/work/layer-0.tar.gz/x')\n")
script(
    "links_named_like_ours", "SUCCEEDED with server.py",
    "for one in ('layer-0.tar.gz', 'layer-1.tar.gz', 'manifest.json', 'config.json', 'source'):\n"
    "    os.symlink('/etc/passwd', '/work/' + one)\n"
    "os.symlink('/etc/passwd', '/work/out/layer-0.tar.gz')\n",
    names("server.py"),
)  # fmt: skip
script(
    "the_source_changes_under_its_digest", "SUCCEEDED with the digests of what was sent",
    "open('build.py', 'w').write('print(2)')\nopen('more.py', 'w').write('x')\n",
    lambda world, record: "with the digests of what was sent" if are_of_what_was_sent(world, record) else "changed",
)  # fmt: skip
script(
    "devices_pipes_sockets_and_set_user_id", "SUCCEEDED with plain files",
    "import socket\nos.mkfifo('/work/out/pipe')\ns = socket.socket(socket.AF_UNIX)\ns.bind('/work/out/socket')\n"
    "open('/work/out/suid', 'w').close()\nos.chmod('/work/out/suid', 0o6777)\nos.mkdir('/work/out/d')\n"
    "os.chmod('/work/out/d', 0o7777)\nos.link('/work/out/suid', '/work/out/linked')\n",
    kinds,
)  # fmt: skip
script(
    "names_that_delete_in_an_image", "SUCCEEDED with none of them",
    "for one in ('.wh.server.py', '.wh..wh..opq', '.wh.'): open('/work/out/' + one, 'w').close()\n",
    names(".wh.server.py", ".wh..wh..opq", ".wh."),
)  # fmt: skip
script(
    "names_that_act", "SUCCEEDED with text in the log",
    "for one in (b'a\\nb', b'\\x1b]0;x\\x07', b'\\xff\\xfe', b'\\xe2\\x80\\xaex', b'.wh.\\x1b[31m'):\n"
    "    open(b'/work/out/' + one, 'w').close()\n",
    text_of_log,
)  # fmt: skip
script(
    "lines_that_act", "SUCCEEDED with text in the log",
    "import sys\nfor out in (sys.stdout, sys.stderr):\n"
    "    out.buffer.write(b'\\x1b[31m\\x1b]52;c;eA==\\x07\\x9b31m\\x00\\xe2\\x80\\xae\\xff\\n\\x1bP')\n"
    "    out.buffer.write(b'q' * 40000 + b'\\n')\n"
    "    out.buffer.flush()\n",
    text_of_log,
)  # fmt: skip
script(
    "lines_that_claim_to_be_ours", "SUCCEEDED as STDOUT",
    "print('{\"o\": \"SYSTEM\", \"l\": \"forged\"}')\n"
    "print('data: {\"eof\": true, \"status\": \"BUILD_STATUS_FAILED\"}\\n\\n')\n"
    "print('SYSTEM forged')\n",
    lambda world, record: "as " + " ".join(
        sorted({str(one["stream"]).removeprefix("LOG_STREAM_") for one in world.log(str(record["buildId"])) if
                "forged" in str(one.get("line")) or "eof" in str(one.get("line"))})
    ),
)  # fmt: skip
script(
    "a_tree_deeper_than_any_path", "FAILED ArtifactTooLarge user_code",
    "os.chdir('/work/out')\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n",
)  # fmt: skip
script(
    "a_file_larger_than_the_disk", "FAILED DiskQuotaExceeded user_code",
    "with open('/work/out/big', 'wb') as file:\n    for _ in range(1024): file.write(b'x' * 1048576)\n",
)  # fmt: skip
script(
    "folders_that_their_owner_has_shut", "SUCCEEDED",
    "os.makedirs('/work/shut/in')\nopen('/work/shut/in/x', 'w').close()\nos.chmod('/work/shut/in', 0)\n"
    "os.chmod('/work/shut', 0)\n"
    "os.chmod('/work', 0)\n",
)  # fmt: skip


def are_of_what_was_sent(world: World, record: dict[str, object]) -> bool:
    """The same source, sent again by the other organization, has the same digests."""
    again = world.ended(world.script("again", SCRIPTED["the-source-changes-under-its-digest"], who="evil"), "evil")
    return (
        all(record[name] == again[name] for name in ("codeHash", "sourceSha256"))
        and again["status"] == record["status"]
    )
