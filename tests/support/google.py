"""Keys of our own that sign identity tokens as Google's do."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.auth import crypt, jwt

AUDIENCE = "https://worker.example.com"
EMAIL = "scheduler@project.iam.gserviceaccount.com"


class Key:
    """A signing key and its certificate, as Google has them."""

    def __init__(self, key_id: str) -> None:
        self.id = key_id
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self._signer: Any = crypt.RSASigner.from_string(pem, key_id)  # type: ignore[no-untyped-call]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federated-signon")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(private, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def token(self, key_id: str | None = None, **changes: Any) -> str:
        """An identity token that is right but for the changes; None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": AUDIENCE,
            "sub": "1",
            "email": EMAIL,
            "email_verified": True,
            "iat": now - 5,
            "exp": now + 3600,
        }
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        signed: bytes = jwt.encode(self._signer, kept, key_id=key_id)  # type: ignore[no-untyped-call]
        return signed.decode()
