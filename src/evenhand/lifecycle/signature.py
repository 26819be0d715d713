"""A signature over a whole folder with the sender's private key, and the check with the public one (model-signing)."""

import tempfile
from pathlib import Path
from typing import Any

from evenhand.errors import UserError
from evenhand.lifecycle.manifest import SIGNATURE, Problem, read_manifest

_INSTALL = "signing needs the extra: pip install 'evenhand[sign]'"


def public_key_of(private_key: Path) -> str:
    """The public half of an elliptic-curve private key in PEM; raises UserError where the file is no such key."""
    serialization, elliptic = _cryptography()
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise UserError(f"{private_key} does not exist; give a private key in PEM.") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{private_key} is no private key in PEM without a password ({_line(error)}).") from error
    if not isinstance(key, elliptic.EllipticCurvePrivateKey):
        raise UserError(
            f"{private_key} is no elliptic-curve key; make one with `openssl ecparam -genkey -name prime256v1`."
        )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def sign(folder: Path, private_key: Path) -> None:
    """Sign every file of `folder`, its manifest included, into its signature file."""
    signing, _, hashing = _model_signing()
    config = signing.Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(hashing)
    config.sign(folder, folder / SIGNATURE)


def signature_problems(folder: Path, public_key: Path | None) -> list[Problem]:
    """What is wrong with the signature of `folder`; with `public_key` it must have been made with that key's half.

    Without it, the signature is checked against the key that the manifest names, which shows damage but not who
    signed. Raises UserError where the extra is missing or the key cannot be read.
    """
    named = (read_manifest(folder).get("signature") or {}).get("public_key")
    if named is None:
        return [Problem(SIGNATURE, "is missing: this folder was not signed, and a key was given")] if public_key else []
    if not (folder / SIGNATURE).is_file() or (folder / SIGNATURE).is_symlink():
        return [Problem(SIGNATURE, "is missing")]
    if public_key is not None and _normal(public_key) != named:
        return [Problem(SIGNATURE, f"was made with another key than {public_key}")]
    return _verified(folder, named)


def _verified(folder: Path, public_key: str) -> list[Problem]:

    _, verifying, hashing = _model_signing()
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(public_key)
        file.flush()
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=Path(file.name))
            config.set_hashing_config(hashing).verify(folder, folder / SIGNATURE)
        except Exception as error:  # the library has no tree of errors, and every failure means the same
            return [Problem(SIGNATURE, f"does not fit the files: {_line(error)}")]
    return []


def _normal(public_key: Path) -> str:
    serialization, _ = _cryptography()
    try:
        key = serialization.load_pem_public_key(public_key.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{public_key} does not exist; give the public key in PEM.") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{public_key} is no public key in PEM ({_line(error)}).") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_bytes(serialization.Encoding.PEM, form).decode())


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"{_INSTALL}.") from error
    return serialization, ec


def _model_signing() -> tuple[Any, Any, Any]:
    """The library's two halves, and what both hash: every file but the signature itself."""
    try:
        from model_signing import hashing, signing, verifying  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"{_INSTALL}.") from error
    return signing, verifying, hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
