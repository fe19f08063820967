"""Ignite Builder: turns a `CodeSource` into a pushed, content-addressed, runnable artifact and reports how it went."""

__version__ = "0.1.0"
