"""Dockerfiles, read before anybody builds one: syntax, stages, references, sources, each with line and column. Pure.

`read.py` cuts a file into instructions as BuildKit's parser does, `instructions.py` judges each of them, `check.py`
compares stages and sources with the context, and `kaniko.py` reads FROM as Kaniko does. Every step is linear in what it
reads, and bounded.
"""
