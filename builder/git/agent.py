"""An SSH agent with one key, as a value: messages in, answers out (draft-ietf-sshm-ssh-agent). Pure.

It signs logins of one user with this key, and nothing else: whoever reaches its socket neither reads the key, nor gets
another text signed, nor adds a key. The key is in memory of this process alone, and needs no program to be started.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

MOST_BYTES = 256 * 1024
"""The most bytes of a message; OpenSSH's own agent takes as much."""
MOST_CHARACTERS = 8 * 1024
"""Characters of a key: RSA of the most bits has 6,400. Every line of a build is searched for each line of it."""
LEAST_RSA_BITS, MOST_RSA_BITS = 2048, 8192
FAILURE, REQUEST_IDENTITIES, IDENTITIES_ANSWER, SIGN_REQUEST, SIGN_RESPONSE = 5, 11, 12, 13, 14
RSA_SHA2_256, RSA_SHA2_512 = 2, 4
USERAUTH_REQUEST = 50
_METHODS = (b"publickey", b"publickey-hostbound-v00@openssh.com")


class Unusable(Exception):
    """Text that is no private key which an agent can use; the words repeat nothing of it."""


@dataclass(frozen=True)
class Agent:
    """One private key, for logins of `user`."""

    key: PrivateKey = field(repr=False)
    user: str

    def answer(self, message: bytes) -> bytes:
        """The answer to a message, both without their length."""
        from cryptography.exceptions import InternalError

        try:
            if message[:1] == bytes((REQUEST_IDENTITIES,)):
                return struct.pack(">BI", IDENTITIES_ANSWER, 1) + _string(self._public()) + _string(b"")
            if message[:1] == bytes((SIGN_REQUEST,)):
                public, data, rest = _strings(message[1:], 2)
                (flags,) = struct.unpack(">I", rest)
                if public == self._public() and self._is_login(data):
                    return bytes((SIGN_RESPONSE,)) + _string(_signature(self.key, data, flags))
        except (struct.error, ValueError, InternalError):
            pass
        return bytes((FAILURE,))

    def _is_login(self, data: bytes) -> bool:
        """Whether it is what a client signs to log in as the user (RFC 4252, 7)."""
        _, rest = _strings(data, 1)
        if rest[:1] != bytes((USERAUTH_REQUEST,)):
            return False
        user, service, method, rest = _strings(rest[1:], 3)
        if rest[:1] != b"\1":
            return False
        _, public, _ = _strings(rest[1:], 2)
        named = (user, service, public) == (self.user.encode(), b"ssh-connection", self._public())
        return named and method in _METHODS

    def _public(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        line = self.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return base64.b64decode(line.split(b" ")[1])


def private_key(text: str) -> PrivateKey:
    """The key of a file as ssh-keygen or openssl writes it. Raises `Unusable`."""
    from cryptography.exceptions import UnsupportedAlgorithm  # 20 ms that most processes never need
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if len(text) > MOST_CHARACTERS:
        raise Unusable(f"it has {len(text)} characters, {MOST_CHARACTERS} are allowed")
    data = text.encode()
    is_openssh = data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        # OpenSSL's own look at RSA stops every thread for as long as it tries primes: a minute for 20,000 bits.
        key = load(data, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise Unusable("it has a passphrase, which nobody is there to type") from None
    except (ValueError, ArithmeticError, NotImplementedError, UnsupportedAlgorithm):
        raise Unusable(_UNREADABLE) from None
    if isinstance(key, RSAPrivateKey) and not LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS:
        raise Unusable(f"it is RSA of {key.key_size} bits; {LEAST_RSA_BITS} to {MOST_RSA_BITS} are allowed")
    if isinstance(key, RSAPrivateKey) and not _fit(key):
        raise Unusable(_UNREADABLE)
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise Unusable(f"it is of the curve {key.curve.name}, which SSH does not have")
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise Unusable("it is of a kind that hosts do not take: ed25519, ECDSA and RSA are")
    return key


_UNREADABLE = "it cannot be read: the text of a file as ssh-keygen writes it"
MOST_EXPONENT_BITS = 64


def _fit(key: RSAPrivateKey) -> bool:
    """Whether the numbers of a key belong together (RFC 8017, 3.2). Two that are not prime make signatures that no host
    takes, and that is all."""
    own = key.private_numbers()
    p, q, d, e, n = own.p, own.q, own.d, own.public_numbers.e, own.public_numbers.n
    return (
        p * q == n and p % 2 == q % 2 == e % 2 == 1 and min(p, q, e) > 1
        and e.bit_length() <= MOST_EXPONENT_BITS and d < n
        and e * d % (p - 1) == 1 and e * d % (q - 1) == 1
        and (own.dmp1, own.dmq1) == (d % (p - 1), d % (q - 1)) and own.iqmp < p and q * own.iqmp % p == 1
    )  # fmt: skip


_CURVES = {"secp256r1": b"nistp256", "secp384r1": b"nistp384", "secp521r1": b"nistp521"}


def _signature(key: PrivateKey, data: bytes, flags: int) -> bytes:
    """A signature as RFC 8709, 5656 and 8332 have it. Raises ValueError for RSA with SHA-1, InternalError for numbers
    that make none."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _string(b"ssh-ed25519") + _string(key.sign(data))
    if isinstance(key, rsa.RSAPrivateKey):
        if flags & RSA_SHA2_512:
            return _string(b"rsa-sha2-512") + _string(key.sign(data, padding.PKCS1v15(), hashes.SHA512()))
        if flags & RSA_SHA2_256:
            return _string(b"rsa-sha2-256") + _string(key.sign(data, padding.PKCS1v15(), hashes.SHA256()))
        raise ValueError("RSA with SHA-1")
    by_size: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(by_size[key.curve.key_size])))
    return _string(b"ecdsa-sha2-" + _CURVES[key.curve.name]) + _string(_number(r) + _number(s))


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _number(value: int) -> bytes:
    """A positive `mpint` (RFC 4251, 5): a zero byte before a first bit that is set."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _strings(data: bytes, count: int) -> tuple[bytes, ...]:
    """So many strings, and what is behind them. Raises `ValueError` where they are cut."""
    found = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            raise ValueError("cut")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return (*found, data)
