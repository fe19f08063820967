"""An sdist with Rust code on a node that has no Rust itself: it is built by the programs of a toolchain image.

The image is of another Debian than the root in which sdists of this Python are built: its C library is newer.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from builder.bases.make import build_base
from builder.data import runtimes_dir
from builder.images.store import images_of
from tests.e2e.test_python_sdists import Index
from tests.program_fixtures import over

pytestmark = pytest.mark.e2e
PYTHON, RUST = "3.13", "1.97"
BACKEND = r"""
import os, subprocess, zipfile

INIT = '''
import ctypes, os
library = ctypes.CDLL(os.path.join(os.path.dirname(__file__), "libadds.so"))
library.compiler.restype = ctypes.c_char_p
'''

def build_wheel(out, settings=None, metadata=None):
    subprocess.run(["cargo", "build", "--release"], check=True)
    name = "adds-1.0-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(os.path.join(out, name), "w") as wheel:
        wheel.write("target/release/libadds.so", "adds/libadds.so")
        wheel.writestr("adds/__init__.py", INIT)
        wheel.writestr("adds-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: adds\nVersion: 1.0\n")
        wheel.writestr("adds-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-linux_x86_64\n")
        wheel.writestr("adds-1.0.dist-info/RECORD", "adds/__init__.py,,\n")
    return name

prepare_metadata_for_build_wheel = None
"""
SDIST = {
    "PKG-INFO": "Metadata-Version: 2.4\nName: adds\nVersion: 1.0\n",
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n',
    "back.py": BACKEND,
    "Cargo.toml": """\
[package]
name = "adds"
version = "1.0.0"
edition = "2021"
[lib]
crate-type = ["cdylib"]
[dependencies]
said = { path = "said" }
""",
    # A build script and a macro run the compiler, and code that it linked in this root, at build time.
    "build.rs": """\
fn main() {
    let done = std::process::Command::new(std::env::var("RUSTC").unwrap()).arg("--version").output().unwrap();
    println!("cargo:rustc-env=COMPILER={}", String::from_utf8(done.stdout).unwrap().trim());
}
""",
    "src/lib.rs": """\
#[no_mangle]
pub extern "C" fn compiler() -> *const std::ffi::c_char {
    concat!(env!("COMPILER"), said::said!(), "\\0").as_ptr().cast()
}
""",
    "said/Cargo.toml": '[package]\nname = "said"\nversion = "1.0.0"\nedition = "2021"\n[lib]\nproc-macro = true\n',
    "said/src/lib.rs": """\
#[proc_macro]
pub fn said(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    "\\" by a macro\\"".parse().unwrap()
}
""",
}
HANDLER = "import adds\n\ndef handler(payload, ctx):\n    return adds.library.compiler()\n"


def test_an_image_lends_its_rust_to_the_build_of_an_sdist(kept: Path, tmp_path: Path) -> None:
    build_base(images_of(str(kept)), f"python-{PYTHON}-build", runtimes_dir() / "python")
    (tmp_path / "handler.py").write_text(HANDLER)
    (tmp_path / "requirements.txt").write_text("adds==1.0\n")
    with over(kept) as program:
        for name in (f"python-{PYTHON}", f"rust-{RUST}"):
            fetched = program.run("runtimes", "fetch", name, "--json")
            assert fetched.code == 0, fetched.err
        with Index("adds").serving() as index:
            index.pack(SDIST)
            argv = ("build", str(tmp_path), "--runtime-version", PYTHON, "--json")
            built = program.run(*argv, UV_DEFAULT_INDEX=index.url)
        assert built.code == 0, built.err
        with program.started("run", built.record.build_id) as process:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            answer = httpx.post(url, content=b"", timeout=120, trust_env=False).text
            process.terminate()
            process.wait()
    assert answer.startswith(f"rustc {RUST}.") and answer.endswith(" by a macro")
