"""A signature is that of one inventory and one key, and of no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from store_factory import SPLIT, make_store

from stores.__main__ import main
from stores.inventory import read_inventory, take_inventory, write_inventory
from stores.signature import sign, signer


def write_key(path: Path, key: object, password: bytes | None = None) -> Path:
    form = serialization.PrivateFormat.PKCS8
    cover = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, cover))  # type: ignore[attr-defined]
    return path


def test_signed_written_and_read_again(tmp_path: Path) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    assert signer(inventory) is None
    key = write_key(tmp_path / "key.pem", Ed25519PrivateKey.generate())
    write_inventory(sign(inventory, key), tmp_path / "list")
    found = read_inventory(tmp_path / "list")
    assert signer(found) == signer(sign(inventory, key)) is not None
    other = write_key(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    assert signer(sign(found, other)) != signer(found)

    for changes in (
        {"rows_sha256": "0" * 64},
        {"splits": {}},
        {"signature": {"key": found.summary["signature"]["key"], "signature": "AAAA"}},
        {"signature": {**found.summary["signature"], "key": sign(found, other).summary["signature"]["key"]}},
        {"signature": {}},
        {"signature": "mine"},
    ):
        with pytest.raises(ValueError, match="not that of this inventory"):
            signer(replace(found, summary={**found.summary, **changes}))


def test_keys_that_will_not_do(tmp_path: Path) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    (tmp_path / "text").write_text("hello")
    write_key(tmp_path / "locked", Ed25519PrivateKey.generate(), b"secret")
    write_key(tmp_path / "curve", generate_private_key(SECP256R1()))
    for name, words in (("text", "unencrypted"), ("locked", "unencrypted"), ("curve", "Ed25519 key")):
        with pytest.raises(ValueError, match=words):
            sign(inventory, tmp_path / name)
    with pytest.raises(OSError):
        sign(inventory, tmp_path / "none")


def test_lists_that_have_to_be_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    signed = sign(inventory, write_key(tmp_path / "key.pem", Ed25519PrivateKey.generate()))
    write_inventory(signed, tmp_path / "a")
    write_inventory(inventory, tmp_path / "b")
    ours = str(signer(signed))
    both = ["inventory", "--compare", str(tmp_path / "a"), str(tmp_path / "a"), "--split", SPLIT]
    assert main([*both, "--signed-by", "another", "--signed-by", ours]) == 0
    assert main([*both, "--signed-by", "another"]) == 2
    assert f"it is by {ours}" in capsys.readouterr().err
    assert main([*both[:3], str(tmp_path / "b"), "--split", SPLIT, "--signed-by", ours]) == 2
    assert "it is not signed" in capsys.readouterr().err
    assert main(["inventory", str(tmp_path / "store"), "--to", str(tmp_path / "c"), "--signed-by", ours]) == 2
