"""Hostile attempts, one function each: returns what it got, "" when it got nothing. Only the standard library.

Run as: contained.py FILE, a JSON object with what the host side set up (ports, paths, pids, names).
"""

import array
import contextlib
import ctypes
import fcntl
import fnmatch
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable

with open(sys.argv[1], encoding="utf-8") as given:
    FACTS = json.load(given)
LIBC = ctypes.CDLL(None, use_errno=True)
PROBES: dict[str, Callable[[], object]] = {}
TIMEOUT_S = 0.5


def probe(function: Callable[[], object]) -> Callable[[], object]:
    PROBES[function.__name__] = function
    return function


def syscall(number: int, *arguments: object) -> str:
    """What a system call gave; it must be refused, so anything not negative is a catch."""
    result = LIBC.syscall(number, *arguments)
    return f"returned {result}" if result >= 0 else ""


def read(path: str, size: int = 200) -> str:
    with open(path, "rb") as file:
        return repr(file.read(size))


def connected(family: int, address: tuple[str, int] | str) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(TIMEOUT_S)
        one.connect(address)
        return f"connected to {address!r}"


# --- network


@probe
def tcp_to_host_loopback() -> object:
    return connected(socket.AF_INET, ("127.0.0.1", FACTS["tcp_port"]))


@probe
def tcp_to_host_loopback_v6() -> object:
    return connected(socket.AF_INET6, ("::1", FACTS["tcp6_port"]))


@probe
def tcp_to_host_address() -> object:
    return connected(socket.AF_INET, (FACTS["host_address"], FACTS["any_port"]))


@probe
def udp_to_host_loopback() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(FACTS.get("answer_within_s", TIMEOUT_S))
        one.sendto(b"x", ("127.0.0.1", FACTS["udp_port"]))
        return repr(one.recv(10))


@probe
def udp_broadcast() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return one.sendto(b"x", ("255.255.255.255", 9))


@probe
def cloud_metadata() -> object:
    return connected(socket.AF_INET, ("169.254.169.254", 80))


@probe
def public_address() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 443))  # needs only a route, no packet
        return f"route from {one.getsockname()}"


@probe
def redis() -> object:
    return connected(socket.AF_INET, ("127.0.0.1", FACTS["services"]["redis"]))


@probe
def api_of_the_builder() -> object:
    return connected(socket.AF_INET, ("127.0.0.1", FACTS["services"]["api"]))


@probe
def registry() -> object:
    return connected(socket.AF_INET, ("127.0.0.1", FACTS["services"]["registry"]))


@probe
def resolve_a_name() -> object:
    return socket.getaddrinfo("pypi.org", 443)


@probe
def ask_the_hosts_name_server() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((FACTS["name_server"], 53))
        return f"route from {one.getsockname()}"


@probe
def abstract_unix_socket_of_the_host() -> object:
    return connected(socket.AF_UNIX, "\0" + FACTS["abstract"])


@probe
def unix_socket_file_of_the_host() -> object:
    return connected(socket.AF_UNIX, FACTS["unix_path"])


@probe
def docker_socket() -> object:
    return connected(socket.AF_UNIX, "/var/run/docker.sock")


@probe
def raw_socket() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        return str(one)


@probe
def packet_socket() -> object:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        return str(one)


@probe
def vsock_to_the_hypervisor() -> object:
    with socket.socket(40, socket.SOCK_STREAM) as one:
        return str(one)


@probe
def kernel_crypto_socket() -> object:
    with socket.socket(38, socket.SOCK_SEQPACKET) as one:
        return str(one)


@probe
def other_interfaces() -> object:
    return ",".join(name for _, name in socket.if_nameindex() if name != "lo")


@probe
def low_port() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.bind(("127.0.0.1", 80))
        return "bound port 80"


# --- processes


@probe
def see_a_host_process() -> object:
    return "".join(pid for pid in os.listdir("/proc") if pid.isdigit() and FACTS["marker"] in cmdline(pid))


def cmdline(pid: str) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read()
    return ""


@probe
def signal_a_host_process() -> object:
    os.kill(FACTS["pid"], 0)
    return "it can be signalled"


@probe
def handle_on_a_host_process() -> object:
    return os.pidfd_open(FACTS["pid"]) >= 0


@probe
def environments_of_processes() -> object:
    texts = [environment(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return ",".join(name for name in FACTS["variables"] if any(name in text for text in texts))


def environment(pid: str) -> str:
    with contextlib.suppress(OSError):
        return read(f"/proc/{pid}/environ", 1 << 20)
    return ""


@probe
def secrets_in_the_environment() -> object:
    given = FACTS["given"]
    return ",".join(name for name in os.environ if not any(fnmatch.fnmatchcase(name, pattern) for pattern in given))


@probe
def command_line_of_process_one() -> object:
    return FACTS["work"] if FACTS["work"] in cmdline("1") else ""


@probe
def root_of_process_one() -> object:
    return ",".join(name for name in os.listdir("/proc/1/root") if name in ("root", "home", "var", "boot"))


@probe
def ptrace_attach() -> object:
    return syscall(101, 0x4206, os.getppid(), 0, 0)  # SEIZE: does not stop it


@probe
def ptrace_own_child() -> object:
    pid = os.fork()
    if pid == 0:  # in a child: who is traced stops at its next signal
        os._exit(0 if syscall(101, 0, 0, 0, 0) else 1)
    return os.waitpid(pid, 0)[1] == 0


@probe
def read_another_process_memory() -> object:
    return syscall(310, os.getppid(), None, 0, None, 0, 0)


@probe
def protect_from_the_oom_killer() -> object:
    with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write("-1000")
        file.flush()
    return "written"


@probe
def raise_own_priority() -> object:
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    return os.getpriority(os.PRIO_PROCESS, 0)


@probe
def raise_a_limit() -> object:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1, hard + 1))
    return f"{soft} is now {hard + 1}"


@probe
def core_files() -> object:
    return resource.getrlimit(resource.RLIMIT_CORE)[1] or ""


@probe
def capabilities() -> object:
    with open("/proc/self/status", encoding="utf-8") as file:
        held = [line.split() for line in file if line.startswith("Cap")]
    return ",".join(name for name, value in held if int(value, 16))


@probe
def become_root() -> object:
    os.setuid(0)
    return os.getuid() == 0


@probe
def gain_by_setuid_program() -> object:
    with open("/proc/self/status", encoding="utf-8") as file:
        return "" if "NoNewPrivs:\t1" in file.read() else "set-uid programs work"


@probe
def supplementary_groups() -> object:
    return ",".join(str(group) for group in os.getgroups() if group != os.getgid())


@probe
def inherited_descriptors() -> object:
    return ",".join(f"{fd}={to}" for fd, to in INHERITED.items())


def open_descriptors() -> dict[int, str]:
    found = {}
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


@probe
def type_into_the_terminal() -> object:
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, 0x5412, b"x")
            return f"descriptor {fd} took it"
    return ""


@probe
def controlling_terminal() -> object:
    with open("/dev/tty", "rb") as file:
        return str(file)


@probe
def terminal_injection_on_an_own_terminal() -> object:
    os.setsid()
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSCTTY, 0)
    fcntl.ioctl(child, 0x5412, b"x")
    return f"{parent} took it"


# --- keys, mounts, namespaces, kernel


@probe
def namespaces_of_the_host() -> object:
    return ",".join(name for name, own in FACTS["namespaces"].items() if os.readlink(f"/proc/self/ns/{name}") == own)


@probe
def shared_memory_of_the_host() -> object:
    return syscall(29, FACTS["shared_memory"], 1, 0)


@probe
def add_a_key() -> object:
    return syscall(248, b"user", b"ignite", b"x", 1, -3)


@probe
def join_a_session_keyring() -> object:
    return syscall(250, 1, None)


@probe
def read_keys() -> object:
    with open("/proc/keys", encoding="utf-8") as file:
        return "".join(line for line in file if line.split()[5] != str(os.getuid()))


@probe
def mount_tmpfs() -> object:
    return syscall(165, b"none", b"/tmp", b"tmpfs", 0, None)


@probe
def remount_writable() -> object:
    return syscall(165, b"none", b"/usr", None, 0x20 | 0x1000, None)


@probe
def unmount() -> object:
    return syscall(166, b"/etc/passwd", 2)


@probe
def new_mount_api() -> object:
    return syscall(430, b"tmpfs", 0) or syscall(428, -100, b"/", 1)


@probe
def pivot_root() -> object:
    return syscall(155, b"/", b"/")


@probe
def change_root() -> object:
    os.chroot("/work")
    return "done"


@probe
def user_namespace() -> object:
    return syscall(272, 0x10000000)


@probe
def mount_namespace() -> object:
    return syscall(272, 0x00020000)


@probe
def user_namespace_by_clone() -> object:
    pid = LIBC.syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"child {pid}" if pid > 0 else ""


@probe
def user_namespace_by_clone3() -> object:
    arguments = array.array("Q", [0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0])
    pid = LIBC.syscall(435, ctypes.c_void_p(arguments.buffer_info()[0]), 64)
    if pid == 0:
        os._exit(0)
    return f"child {pid}" if pid > 0 else ""


@probe
def user_namespace_by_program() -> object:
    done = subprocess.run(["/usr/bin/unshare", "-Ur", "id", "-u"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@probe
def enter_a_namespace() -> object:
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    return syscall(308, fd, 0)


@probe
def make_a_device() -> object:
    os.mknod("/work/disk", 0o60666, os.makedev(254, 0))
    return read("/work/disk")


@probe
def open_by_handle() -> object:
    handle = (ctypes.c_char * 64)()
    return syscall(304, 0, handle, 0)


@probe
def bpf() -> object:
    return syscall(321, 0, (ctypes.c_char * 128)(), 128)


@probe
def perf_events() -> object:
    attributes = (ctypes.c_char * 128)()
    ctypes.memmove(attributes, array.array("I", [1, 128]).tobytes(), 8)
    return syscall(298, attributes, 0, -1, -1, 0)


@probe
def userfaultfd() -> object:
    return syscall(323, 1)


@probe
def io_uring() -> object:
    return syscall(425, 4, (ctypes.c_char * 256)())


@probe
def load_a_module() -> object:
    return syscall(175, None, 0, b"")


@probe
def kernel_log() -> object:
    return syscall(103, 3, (ctypes.c_char * 512)(), 512)


@probe
def x32_numbers() -> object:
    return syscall(0x40000000 | 39)


@probe
def host_name_change() -> object:
    socket.sethostname("x")
    return "changed"


@probe
def kernel_settings() -> object:
    with open("/proc/sys/kernel/core_pattern", "w", encoding="utf-8") as file:
        file.write("|/work/x")
    return "written"


@probe
def magic_system_request() -> object:
    with open("/proc/sysrq-trigger", "w", encoding="utf-8") as file:
        file.write("?")
    return "written"


@probe
def kernel_memory() -> object:
    return read("/proc/kcore", 16)


# --- files


@probe
def home_of_root() -> object:
    return ",".join(os.listdir("/root"))


@probe
def homes() -> object:
    return os.path.exists("/home") and str(os.listdir("/home"))


@probe
def shadow() -> object:
    return read("/etc/shadow")


@probe
def real_users() -> object:
    with open("/etc/passwd", encoding="utf-8") as file:
        return ",".join(line for line in file if not line.startswith(("root:x:0:0::/:", "build:")))


@probe
def host_configuration() -> object:
    known = {"passwd", "group", "hosts", "resolv.conf", "alternatives", "ssl"}
    return ",".join(set(os.listdir("/etc")) - known)


@probe
def work_of_another_build() -> object:
    return read(FACTS["other_file"])


@probe
def above_the_work_folder() -> object:
    return "".join(name for name in os.listdir("/work/..") if name in FACTS["work"].split("/")[-2:-1])


@probe
def link_out_of_the_work_folder() -> object:
    os.symlink(FACTS["other_file"], "/work/link")
    return read("/work/link")


@probe
def system_state() -> object:
    return ",".join(
        name for name in ("/sys", "/var", "/run", "/boot", "/mnt") if os.path.isdir(name) and os.listdir(name)
    )


@probe
def control_groups() -> object:
    return ",".join(os.listdir("/sys/fs/cgroup"))


@probe
def write_into_the_toolchain() -> object:
    with open("/usr/bin/ignite-probe", "w", encoding="utf-8"):
        return "written"


@probe
def write_into_the_root() -> object:
    with open("/ignite-probe", "w", encoding="utf-8"):
        return "written"


@probe
def write_the_users() -> object:
    with open("/etc/passwd", "a", encoding="utf-8") as file:
        file.write("x")
    return "written"


@probe
def give_a_file_to_root() -> object:
    with open("/work/owned", "w", encoding="utf-8"):
        pass
    os.chown("/work/owned", 0, 0)
    return "given"


@probe
def fill_memory_through_dev() -> object:
    with open("/dev/ignite-probe", "w", encoding="utf-8"):
        return "written"


def attempt(function: Callable[[], object]) -> str:
    """In a process of its own: what one probe changes about itself must not shield the next."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            got = function()
        except (OSError, ValueError):  # how the kernel, and Python's limits, say no
            got = ""
        except BaseException as error:
            got = f"broken: {type(error).__name__}: {error}"
        os.write(write_end, str(got).encode() if got else b"")
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as file:
        got = file.read()
    status = os.waitpid(pid, 0)[1]
    return got if status == 0 else f"broken: ended with status {status} {got}"


INHERITED = open_descriptors()


def main() -> None:
    for name, function in PROBES.items():
        print(json.dumps({"probe": name, "got": attempt(function)}), flush=True)


main()
