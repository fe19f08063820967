"""Heads of Go files whose constraints are easily misread: name → text. `go list` judges the same ones, end to end."""

_PACKAGE = "package app\n"


def _constrained(*lines: str) -> str:
    return "\n".join(lines) + "\n\n" + _PACKAGE


_BUILD = (
    "linux", "windows", "ignore", "unix", "gc", "gccgo", "!gccgo", "cgo", "!cgo", "amd64", "arm64", "amd64.v1",
    "amd64.v2", "go1.1", "go1.18", "go1.24", "go1.99", "!go1.99", "go1", "go2.1", "go1.24.1", "1.24", "boringcrypto",
    "goexperiment.regabiargs", "goexperiment.boringcrypto", "android", "linux && amd64", "linux && !amd64",
    "linux || windows", "windows || darwin", "(darwin || unix) && go1.21", "!(linux || darwin)", "!linux || amd64",
    "linux && amd64 || windows && arm64", "windows && (linux || amd64)", "!ignore && !tools", "integration",
    "purego", "netgo", "osusergo", "appengine || windows", "linux&&amd64", "(linux)", "((linux))", "Linux", "größe",
    # what `go` refuses
    "", "linux &&", "&& linux", "linux amd64", "linux,amd64", "!!linux", "(linux", "linux)", "linux & amd64", "a-b",
    "linux || ", "!", "()", "linux // no", '"linux"', "linux && (amd64", "!(!linux)",
)  # fmt: skip
_OPTIONS = (
    "linux", "windows", "ignore", "!ignore", "linux,amd64", "linux,!amd64", "windows linux", "windows darwin",
    "windows,amd64 linux", "go1.99", "!go1.99", "cgo", "!cgo", "", "!!linux", "!", "linux,", ",linux", "a-b", "!a-b",
    "linux,a-b windows", "gc", "gccgo",
)  # fmt: skip

SHAPES = (
    {f"build{at}.go": _constrained(f"//go:build {text}") for at, text in enumerate(_BUILD)}
    | {f"option{at}.go": _constrained(f"// +build {text}") for at, text in enumerate(_OPTIONS)}
    | {
        "two_build_lines.go": _constrained("//go:build linux", "//go:build amd64"),
        "build_wins.go": _constrained("//go:build linux", "// +build ignore"),
        "build_wins_below.go": _constrained("// +build ignore", "//go:build linux"),
        "build_wins_negative.go": _constrained("//go:build ignore", "// +build linux"),
        "two_options.go": _constrained("// +build linux", "// +build amd64"),
        "two_options_one_fails.go": _constrained("// +build linux", "// +build arm64"),
        "option_without_blank.go": "//+build ignore\n\n" + _PACKAGE,
        "option_right_above.go": "// +build ignore\n" + _PACKAGE,
        "option_above_a_comment.go": "// +build ignore\n\n// Package app.\n" + _PACKAGE,
        "option_in_a_comment.go": "// Package\n// +build ignore\n" + _PACKAGE,
        "option_after_a_block.go": "/* license */\n\n// +build ignore\n\n" + _PACKAGE,
        "option_longer_word.go": _constrained("// +builder ignore"),
        "option_of_100_operators.go": _constrained("// +build" + " windows" * 101),
        "option_of_101_operators.go": _constrained("// +build" + " windows" * 102),
        "options_with_commas.go": _constrained("// +build " + ",".join(["windows"] * 102)),
        "option_with_tab.go": _constrained("//\t+build\tignore"),
        "build_right_above.go": "//go:build ignore\n" + _PACKAGE,
        "build_after_a_block.go": "/* license\n\n*/\n\n//go:build ignore\n\n" + _PACKAGE,
        "build_in_a_block.go": "/*\n//go:build ignore\n*/\n\n" + _PACKAGE,
        "build_after_a_block_on_its_line.go": "/* a */ //go:build ignore\n\n" + _PACKAGE,
        "build_indented.go": "\t //go:build ignore\n\n" + _PACKAGE,
        "build_with_a_space.go": "// go:build ignore\n\n" + _PACKAGE,
        "build_longer_word.go": "//go:builder ignore\n\n" + _PACKAGE,
        "build_with_a_tab.go": "//go:build\tignore\n\n" + _PACKAGE,
        "build_windows_newlines.go": "//go:build ignore\r\n\r\npackage app\r\n",
        "build_after_a_mark.go": "\ufeff//go:build ignore\n\n" + _PACKAGE,
        "build_below_the_package.go": _PACKAGE + "\n//go:build ignore\n",
        "build_beside_the_package.go": "/* a */ package app\n//go:build ignore\n",
        "build_below_many_lines.go": "// a\n" * 200 + "\n//go:build ignore\n\n" + _PACKAGE,
        "build_below_blank_lines.go": "\n" * 20 + "//go:build ignore\n\n" + _PACKAGE,
        "build_and_name_windows.go": _constrained("//go:build linux"),
        "build_and_name_linux.go": _constrained("//go:build windows"),
        "documentation.go": "package documentation\n",
        "imports_c.go": 'package app\n\nimport "C"\n',
        "imports_c_in_a_group.go": 'package app\n\nimport (\n\t"fmt"\n\t"C"\n)\n\nvar _ = fmt.Sprint\n',
        "imports_c_elsewhere.go": '//go:build windows\n\npackage app\n\nimport "C"\n',
    }
)
