"""What an error must be like that a parser raises on purpose."""

from __future__ import annotations


def check_sentence(error: Exception, *, longest: int = 300) -> None:
    """Fail unless the error says in a sentence of limited length what is wrong."""
    text = str(error)
    assert text.endswith("."), text
    assert len(text) <= longest, len(text)
    assert text.isprintable(), text
