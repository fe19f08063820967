"""What a material of a build may look like: the node writes by it, the control side refuses what does not fit."""

import re

MOST = 10_000
"""Materials of one build."""

NAME_CHARACTERS = 2048
"""Of a name, in which nothing is hidden (`builder.text.visible`)."""

DIGEST = re.compile(r"(?:sha256|dirHash):[0-9a-f]{64}|gitCommit:[0-9a-f]{40}")
"""Of a file, a toolchain or an image; of a Go module (`h1:` of go.sum, in hex); of a commit."""
