"""Web addresses without the passwords and tokens in them, for everything that is shown or kept."""

from __future__ import annotations

import re

USER = re.compile(r"((?:https?|ftp|s3|webdavs?)://)[^/\s@'\"]+@", re.IGNORECASE)
QUERY = re.compile(r"((?:https?|ftp)://|\burl: )([^\s?'\"]*\?)[^\s'\")]*[^\s'\"):;,]", re.IGNORECASE)


def masked(text: object) -> str:
    """Text whose web addresses have lost user, password and query.

    >>> masked("GET https://ann:pw@host/x?token=1: no")
    'GET https://***@host/x?***: no'
    >>> masked("Max retries exceeded with url: /x?token=1 (..)")
    'Max retries exceeded with url: /x?*** (..)'
    """
    return QUERY.sub(r"\1\2***", USER.sub(r"\1***@", str(text)))
