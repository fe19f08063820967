"""Run hostile code: one step of a build, or a built app. A `build.rs`, `setup.py` or npm script in here sees the image
or toolchain folders its `Root` names (read-only), `/work` or some folders of it (writable, owned outside by a uid
that is not 0), its `/cache/<name>` folders (writable, or stores, which are not), a bounded `/tmp`, an `/etc/passwd`
of two lines, the environment of its command, and only its own processes. It reaches a loopback of its own; in a
step with `Egress`, also the operator's package indexes through a proxy at 127.0.0.1:3128, and nothing else: no
route, no name server, no host socket. It cannot read the host's `/root`, `/home`, `/etc`, other builds' folders or
processes, nor raise its limits on memory, CPU, processes, disk and time, nor outlive its end.

What it can still learn: the kernel's version, boot command line, partitions and interrupts, CPU and memory size
(`/proc`), and the place of its own folders on the host. `/proc/self/mountinfo` shows of each of them, and of nothing
else, the path within the host's file system (the node's folder, build id, claim and organization:
`.../work/<build>-<claim>`, `.../caches/<organization>/<name>`, the toolchain), and that file system's device, type and
options. A bind mount always shows this, and /proc/self cannot be covered; only a file system for each run would not.
The worker finds by these paths what an earlier one left.

What shields less: without control groups memory is watched, not fenced, and CPU is not limited; the disk is watched,
not fenced, unless `work` lies in a file system of its own (`Blank`): a run with a limit of 256 MiB that writes to
memory at full speed ends at 260 to 400 MiB; a writable cache is shared by all builds that mount it; the kernel itself
is shared. The caller must use a uid for one build at a time.

    run       one command under limits, line by line; `SandboxUnavailable` when it cannot be
    in_sandbox, on_host   launchers of `run`: the sandbox, or nothing of it, for one's own code; the log names it
    serve     an app in an empty network, one outside address relayed to its port
    check     what `doctor` shows
    remove_tree   a folder that a run has left
    Blank     a file system of a fixed size for the folders that runs of one build write
"""

from builder.sandbox.check import check, host_root
from builder.sandbox.disk import Room, room
from builder.sandbox.launch import in_sandbox
from builder.sandbox.loopfs import Blank, enter_namespace, size_for, tried, unmount
from builder.sandbox.overlay import Overlay
from builder.sandbox.overlay import lacks as lacks_overlay
from builder.sandbox.overlay import make as make_overlay
from builder.sandbox.policy import Egress, EgressPolicy, EgressRecord, Verdict
from builder.sandbox.remove import remove_in, remove_tree
from builder.sandbox.run import Launcher, run
from builder.sandbox.serve import Serving, serve
from builder.sandbox.shapes import Command, HostCheck, Limits, Mount, OnLine, Result, Root, Stream
from builder.sandbox.unsandboxed import on_host

__all__ = [
    "Blank",
    "Command",
    "Egress",
    "EgressPolicy",
    "EgressRecord",
    "HostCheck",
    "Launcher",
    "Limits",
    "Mount",
    "OnLine",
    "Overlay",
    "Result",
    "Room",
    "Root",
    "Serving",
    "Stream",
    "Verdict",
    "check",
    "enter_namespace",
    "host_root",
    "in_sandbox",
    "lacks_overlay",
    "make_overlay",
    "on_host",
    "remove_in",
    "remove_tree",
    "room",
    "run",
    "serve",
    "size_for",
    "tried",
    "unmount",
]
