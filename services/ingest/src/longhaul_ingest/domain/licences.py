"""The licence that a source file states in its first lines."""

from __future__ import annotations

import re
from typing import Final

HEAD_CHARACTERS: Final = 4000
SPDX: Final = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+()\- ]{2,80})")
PHRASES: Final = (
    ("Apache-2.0", "Licensed under the Apache License, Version 2.0"),
    ("MIT", "Permission is hereby granted, free of charge"),
    ("BSD", "Redistribution and use in source and binary forms"),
    ("MPL-2.0", "Mozilla Public License, v. 2.0"),
    ("AGPL", "GNU Affero General Public License"),
    ("LGPL", "GNU Lesser General Public License"),
    ("GPL", "GNU General Public License"),
    ("PSF-2.0", "Python Software Foundation"),
)
"""Names of licences by a phrase of their usual headers; the more special ones first."""
SPACE: Final = re.compile(r"[\s*#/;%!-]+")


def licence_of(text: str) -> str:
    """SPDX identifier, or family, of the licence in a file's header; empty where there is none."""
    head = text[:HEAD_CHARACTERS]
    if found := SPDX.search(head):
        return found.group(1).strip().rstrip("*-/ ")
    flat = SPACE.sub(" ", head).lower()
    return next((name for name, phrase in PHRASES if SPACE.sub(" ", phrase).lower() in flat), "")
