"""Markdown in, HTML out, by the project beside this file; its own pyproject.toml says what it needs."""

from markdown_it import MarkdownIt

MARKDOWN = MarkdownIt("commonmark").enable("table")


def handler(payload: bytes, ctx: dict) -> str:
    return MARKDOWN.render(payload.decode())
