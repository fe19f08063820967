"""The launcher (`builder/pipelines/launcher.py`) as a Go program, compiled before the source's. Pure."""

from __future__ import annotations

import dataclasses

from builder.pipelines.go.steps import ENV, GO, offline_step
from builder.pipelines.launcher import MADE
from builder.plan import Sees, Step, WriteFile

_FETCH, _FILE = "/work/fetch", "ignite/start.go"
_SOURCE = """\
// Become a command, with the variables that its words name: start [NAME=VALUE...] -- WORD...
package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
)

var variable = regexp.MustCompile(`\\$(?:([A-Za-z_][A-Za-z0-9_]*)|\\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^}]*))?\\})`)

func expanded(word string) string {
	return variable.ReplaceAllStringFunc(word, func(found string) string {
		parts := variable.FindStringSubmatch(found)
		if value := os.Getenv(parts[1] + parts[2]); value != "" {
			return value
		}
		return parts[3]
	})
}

func main() {
	if os.Getenv("PORT") == "" {
		os.Setenv("PORT", "80")
	}
	words := os.Args[1:]
	for len(words) > 0 && words[0] != "--" {
		name, value, _ := strings.Cut(words[0], "=")
		os.Setenv(name, expanded(value))
		words = words[1:]
	}
	if len(words) < 2 {
		fmt.Fprintln(os.Stderr, "start [NAME=VALUE...] -- WORD...")
		os.Exit(2)
	}
	argv := []string{}
	for _, word := range words[1:] {
		argv = append(argv, expanded(word))
	}
	program, err := exec.LookPath(argv[0])
	if err == nil {
		err = syscall.Exec(program, argv, os.Environ())
	}
	fmt.Fprintf(os.Stderr, "ignite: cannot start %s: %v\\n", argv[0], err)
	os.Exit(127)
}
"""


def stubs() -> tuple[WriteFile, ...]:
    """The launcher's source, beside the stubs."""
    return (WriteFile(path=_FILE, content=_SOURCE),)


def step() -> Step:
    """Compile it: code of ours alone, of no module."""
    argv = (GO, "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", f"{MADE}/start", f"{_FETCH}/{_FILE}")
    made = offline_step("compile launcher", argv, (*ENV, ("GO111MODULE", "off")))
    return dataclasses.replace(made, sees=Sees.STUBS, cwd=_FETCH)
