"""X25519 (RFC 7748, sec. 5): two who each know the other's public key find the same secret, and nobody else does.

In plain Python, made for teaching: how long it takes tells of the secret key. Use the package ``cryptography`` where
anybody is to be protected.
"""

from __future__ import annotations

P = 2**255 - 19
BASE = (9).to_bytes(32, "little")


def public(secret: bytes) -> bytes:
    """The public key, 32 bytes, of a secret one of 32 bytes."""
    return agree(secret, BASE)


def agree(secret: bytes, other: bytes) -> bytes:
    """What both find, 32 bytes: agree(a, public(b)) == agree(b, public(a))."""
    k = int.from_bytes(secret, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(other, "little") & (2**255 - 1)
    x2, z2, x3, z3, swapped = 1, 0, x1, 1, 0
    for bit in reversed(range(255)):  # the Montgomery ladder
        now = k >> bit & 1
        if now != swapped:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = now
        plus, minus = (x2 + z2) % P, (x2 - z2) % P
        aa, bb = plus * plus % P, minus * minus % P
        one, two = (x3 - z3) * plus % P, (x3 + z3) * minus % P
        x3, z3 = (one + two) ** 2 % P, x1 * (one - two) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")
