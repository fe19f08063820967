"""What a material of a build, its config, and what was seen of its start, may look like.

The node writes by it, the control side refuses what does not fit.
"""

import re

MOST = 10_000
"""Materials of one build."""

BUILDPACKS = "buildpacks"
"""The name of the builder image among the materials of an image that buildpacks made, or its lifecycle rebased."""

NAME_CHARACTERS = 2048
"""The most characters of a name, in which nothing is hidden (`builder.text.visible`)."""

DIGEST = re.compile(r"(?:sha256|dirHash):[0-9a-f]{64}|sha512:[0-9a-f]{128}|gitCommit:[0-9a-f]{40}")
"""Digest of a file, a toolchain or an image; of an npm package (SHA-512); of a Go module (`h1:` of go.sum, in hex);
of a commit."""

CONFIG_BYTES = 64 * 1024
"""The most bytes of a config that travels with a finish. One of ours has 1 or 2 KiB."""

START_CHARACTERS = 1024
"""The most characters of the message of a start check, in which nothing is hidden either."""

START_MS = 60_000
START_BYTES = 1 << 40
"""What a start check may have measured at most: its own time limit is far below, and so is any node's memory."""
