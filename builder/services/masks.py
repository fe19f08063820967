"""The secrets of a build, opened at its claim, and what hides them in the lines and the failure of its Job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from builder.contract.request import repository_of
from builder.errors import BuildError, ErrorClass
from builder.git.source import parse_url
from builder.mask import NOTHING, WITHHELD, Mask, mask_of
from builder.services import modules
from builder.services.parts import Parts
from builder.store import builds, logs, record
from builder.text import log_line

MOST_MASKS = 1000
"""Builds in stage JOB whose secrets a control process has at hand."""
UNOPENED_S = 60.0
"""How long a watcher repeats its calls while a secret of a build cannot be opened; then all texts are withheld."""


def secrets_of(row: builds.Row, parts: Parts) -> Mapping[str, str]:
    """The secrets of a build, opened at each claim. Raises `BuildError` for one that is gone or of another type."""
    return {**_of_repository(row, parts), **modules.secrets_of(record.request(row), row["organization"], parts)}


def _of_repository(row: builds.Row, parts: Parts) -> Mapping[str, str]:
    """The login for the host of a repository."""
    asked = repository_of(record.request(row))
    if asked is None or not asked.secret:
        return {}
    where = asked.where("secretRef")
    found = parts.secrets.git(row["organization"], asked.secret, where)
    url = parse_url(asked.url, asked.where("url"))
    if found.host and found.host not in (url.host, f"{url.host}:{url.port}"):
        message = f'the secret "{asked.secret}" is only for {found.host}; the repository is at {url.host}:{url.port}'
        raise BuildError("InvalidRequest", message, where=where)
    if bool(found.private_key) != url.is_ssh:
        has, takes = ("an SSH key", "https takes a token") if found.private_key else ("a token", "SSH takes a key")
        raise BuildError("SecretWrongType", f'the secret "{asked.secret}" is {has}; {takes}', where=where)
    if url.is_ssh:
        return {"git.private_key": found.private_key, "git.known_hosts": found.known_hosts}
    return {"git.username": found.username, "git.token": found.token}


class Masks:
    """The masks of builds in stage JOB, of which a watcher has no secret. `now` is in seconds."""

    def __init__(self, parts: Parts, now: Callable[[], float] = time.monotonic) -> None:
        self._parts, self._now = parts, now
        self._masks: dict[tuple[str, int], Mask] = {}
        self._unopened: dict[tuple[str, int], float] = {}
        """Since when secrets of these builds cannot be opened."""
        self._masking = threading.Lock()

    def of(self, build_id: str, claim: int) -> Mask:
        """What hides the secrets of a build in the lines of its Job, which its source may repeat.

        Raises a platform's `BuildError` while a secret cannot be opened, and the watcher repeats its call. From
        `UNOPENED_S` on, and for one that is deleted, every text is withheld: the build still ends for its own reason,
        not late and as its user's.
        """
        key = (build_id, claim)
        if (known := self._masks.get(key)) is not None:
            return known
        row = builds.by_id(self._parts.store, build_id)
        try:
            mask = mask_of(secrets_of(row, self._parts)) if row is not None else NOTHING
        except BuildError as error:
            # It may be in these lines, which are kept for good. One that is deleted meanwhile does not come back.
            if error.error_class is ErrorClass.PLATFORM and self._now() - self._since(key) < UNOPENED_S:
                raise
            return WITHHELD
        with self._masking:
            self._unopened.pop(key, None)
            while len(self._masks) >= MOST_MASKS:
                del self._masks[next(iter(self._masks))]
            self._masks[key] = mask
        return mask

    def _since(self, key: tuple[str, int]) -> float:
        """When the secrets of a build could not be opened for the first time."""
        with self._masking:
            while len(self._unopened) >= MOST_MASKS and key not in self._unopened:
                del self._unopened[next(iter(self._unopened))]
            return self._unopened.setdefault(key, self._now())


def hidden(lines: Sequence[logs.Line], mask: Mask) -> list[logs.Line]:
    """Lines without the secrets that the mask knows."""
    texts = mask.texts([log_line(str(line["l"])) for line in lines], resumed=True)
    return [{**line, "l": text} for line, text in zip(lines, texts, strict=True)]
