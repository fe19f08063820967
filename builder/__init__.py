"""Ignite Builder: turns a `CodeSource` into a pushed, content-addressed, runnable artifact and reports how it went."""
