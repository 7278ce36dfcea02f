"""What all nouns share."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A noun: frozen, typo-proof, documented field by field, comparable by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def digest(*parts: str) -> str:
    """Short content hash of some texts: 16 hexadecimal digits of SHA-256 over length-prefixed parts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode()
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:16]
