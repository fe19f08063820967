"""With a lock: uv.lock decides what is installed. Markdown in, HTML out."""

import markdown_it


def handler(payload: bytes, ctx: dict) -> str:
    return markdown_it.MarkdownIt().render(payload.decode())
