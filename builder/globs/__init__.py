"""Patterns of ignore files, by the rules of git and of moby, and those of sources and requests. Pure.

pathspec 1.1 is not used: its verdicts differ from git's for `**` within a name (`a**/b`) and for classes such as
`[[:alpha:]]`, and loading it takes longer than packing a small folder.
"""

from builder.globs.git import GitPattern, git_patterns
from builder.globs.moby import MobyPattern, deciding, moby_pattern, moby_patterns
from builder.globs.shell import name_glob, path_glob

__all__ = [
    "GitPattern",
    "MobyPattern",
    "deciding",
    "git_patterns",
    "moby_pattern",
    "moby_patterns",
    "name_glob",
    "path_glob",
]
