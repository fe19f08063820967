"""Patterns of ignore files, by the rules of git and of moby. Pure.

pathspec 1.1 is not used: its verdicts differ from git's for `**` within a name (`a**/b`) and for classes such as
`[[:alpha:]]`, and loading it takes longer than packing a small folder.
"""

from builder.globs.git import GitPattern, git_patterns
from builder.globs.moby import MobyPattern, deciding, moby_pattern, moby_patterns

__all__ = ["GitPattern", "MobyPattern", "deciding", "git_patterns", "moby_pattern", "moby_patterns"]
