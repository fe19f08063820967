"""What a reader does while it waits: answer each question of a compiled build once, about sources of our own.

A process that was forked copies each page that it writes to first, and Python writes to whatever it reads (reference
counts). These copies are half of what a small source's questions take. A rehearsal makes them while no build waits.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from builder.attempt.desk import Desk, answer
from builder.attempt.plain import to_json
from builder.pipelines.base import Pipeline, PlanRequest, Sampled
from builder.pipelines.catalog import Catalog


def rehearse(known: tuple[Pipeline, ...], catalog: Catalog, folder: Path) -> None:
    """Unpack, detect and plan the sample of each pipeline, each in a folder of its own that is made below `folder`.

    `known`: pipelines that end on their samples. Raises OSError where the disk takes none, and KeyError for a sample
    that its pipeline refuses.
    """
    for module in known:
        if isinstance(module, Sampled):
            source = os.memfd_create("ignite-sample", os.MFD_CLOEXEC)
            try:
                os.write(source, _archive(module.SAMPLE))
                os.lseek(source, 0, os.SEEK_SET)
                below = folder / module.NAME
                below.mkdir()
                desk = Desk(known, catalog, lambda path: None, source, below / "src", below / "fetch")
                _plan(desk, module.NAME)
            finally:
                os.close(source)


def _plan(desk: Desk, runtime: str) -> None:
    """The questions of PLAN, as `reader.py` has them."""
    ask = partial(_ask, desk)
    ask("unpack", single=False, runtime=None, lift=True)
    found = ask("detect", runtime=None, sub_path="")
    ask("plan", detection=found, request=PlanRequest(runtime=runtime))


def _ask(desk: Desk, question: str, **arguments: object) -> Any:
    """The answer, over JSON both ways as over the channel."""
    asked = json.loads(to_json({"question": question, "arguments": arguments}))
    return json.loads(answer(desk, asked))["answer"]


def _archive(files: Mapping[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()
