"""Signs an inventory with an Ed25519 key, and says whose signature one carries. Needs the package `cryptography`."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from stores.inventory import Inventory


def sign(inventory: Inventory, key_file: Path) -> Inventory:
    """The inventory with a signature of its summary, and so of all rows.

    Args:
        key_file: an unencrypted Ed25519 private key, PEM (`openssl genpkey -algorithm ed25519 -out key.pem`).

    Raises:
        ValueError: the file holds no such key.
        ImportError: `cryptography` is not installed.
        OSError: it cannot be read.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = key_file.read_bytes()
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected an unencrypted private key (PEM) in {key_file}: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"expected an Ed25519 key in {key_file}: openssl genpkey -algorithm ed25519 -out key.pem")
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    signature = {"key": _text(public), "signature": _text(key.sign(_signed(inventory.summary)))}
    return replace(inventory, summary={**inventory.summary, "signature": signature})


def signer(inventory: Inventory) -> str | None:
    """The public key (base64) that an inventory is signed by; None where it is not signed.

    Raises:
        ValueError: the signature is not that of this inventory.
        ImportError: `cryptography` is not installed.
    """
    raw = inventory.summary.get("signature")
    if raw is None:
        return None
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(raw["key"], validate=True))
        public.verify(base64.b64decode(raw["signature"], validate=True), _signed(inventory.summary))
    except (InvalidSignature, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"its signature is not that of this inventory ({type(error).__name__})") from None
    return str(raw["key"])


def _signed(summary: dict[str, Any]) -> bytes:
    return json.dumps({**summary, "signature": None}, sort_keys=True).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
