"""The tokens as Amazon Cognito writes them, and what make.py needs to sign tokens.

Headers and payloads are composed as text, not by a JSON or JWT library, so that spelling, order, escapes, duplicates
and whitespace are exactly what is written here. A value in `machine(exp='"x"')` is therefore JSON text; None drops it.
"""

import base64
import hashlib
import json
import pathlib
import subprocess
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import padding

HERE = pathlib.Path(__file__).resolve().parent

NOW = 1790000000
POOL = "ap-northeast-1_AbCdEfGhI"
CLIENT = "5a1b2c3d4e5f6g7h8i9j0k1l2m"
SUB = "77c4fa18-d0a1-7073-95b4-0b37a2f8c1de"
ISSUER = "https://cognito-idp.ap-northeast-1.amazonaws.com/" + POOL
UPDATED_ISSUER = "https://issuer-cognito-idp.ap-northeast-1.amazonaws.com/" + POOL


class Key:
    def __init__(self, number, kid):
        self.path = HERE / f"throw-away-test-key-{number}.pem"
        self.kid = kid
        self.private = serialization.load_pem_private_key(self.path.read_bytes(), None)
        self.public = self.private.public_key()

    def jwk(self):
        n = self.public.public_numbers().n
        return {"alg": "RS256", "e": "AQAB", "kid": self.kid, "kty": "RSA", "n": b64(n.to_bytes(256, "big")), "use": "sig"}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


KEY1 = Key(1, "knDZqYZmOwQ9EFcDbr4BfeQcDWaes//l5O8nPGgiOss=")
KEY2 = Key(2, "zyuAIaOEEGBl2MDJutnxR+mGv5HsKyCrxPWmc+HAKfc=")


# JSON text. Slashes are plain here; `slashes` of `sign` says where they are escaped.

def quoted(text):
    return f'"{text}"'


def members(base, changes):
    return "{" + ",".join(f'"{name}":{value}' for name, value in {**base, **changes}.items() if value is not None) + "}"


def plus(text, member):
    return text[:-1] + "," + member + "}"


def header(**changes):
    return members({"kid": quoted(KEY1.kid), "alg": '"RS256"'}, changes)


def machine(**changes):
    return members({
        "sub": quoted(CLIENT), "token_use": '"access"', "scope": '"activity/*"', "auth_time": NOW - 60,
        "iss": quoted(ISSUER), "exp": NOW + 3600, "iat": NOW - 60, "version": 2,
        "jti": '"4f0e3c52-6b1d-4f0a-9c57-2d8e1b7a6c90"', "client_id": quoted(CLIENT)}, changes)


def user(**changes):
    return members({
        "sub": quoted(SUB), "cognito:groups": '["ops","audit/readers"]', "iss": quoted(ISSUER), "version": 2,
        "client_id": quoted(CLIENT), "origin_jti": '"0b9a5d0e-3b1f-4d58-8a39-6b8f9f0f3c11"',
        "event_id": '"c8a1c1c4-3a55-4c2e-9c0e-5f0f0a1b2c3d"', "token_use": '"access"',
        "scope": '"openid activity/read activity/write"', "auth_time": NOW - 90, "exp": NOW + 3600, "iat": NOW - 90,
        "jti": '"d2f7b3aa-91c6-4b39-b0a4-7e5d6c4b3a29"', "username": quoted(SUB)}, changes)


# Tokens. `parts` are the texts between the dots.

class Jws(NamedTuple):
    parts: tuple

    def with_signature(self, change):
        return Jws((*self.parts[:2], change(self.parts[2])))


def rs256(key, data, digest=hashes.SHA256()):
    return key.private.sign(data, padding.PKCS1v15(), digest)


def rs512(key, data):
    return rs256(key, data, hashes.SHA512())


def openssl(key, data):
    return subprocess.run(["openssl", "dgst", "-sha256", "-sign", key.path], input=data, capture_output=True, check=True).stdout


def ps256(key, data):
    """RFC 8017 section 9.1.1 by hand: a library draws the salt at random, and then no two runs would be alike."""
    salt = bytes(range(32))
    h = hashlib.sha256(bytes(8) + hashlib.sha256(data).digest() + salt).digest()
    db = bytes(256 - 32 - 32 - 2) + b"\x01" + salt
    mask = b"".join(hashlib.sha256(h + i.to_bytes(4, "big")).digest() for i in range(7))
    masked = bytes(a ^ b for a, b in zip(db, mask))
    em = bytes([masked[0] & 0x7F]) + masked[1:] + h + b"\xbc"
    numbers = key.private.private_numbers()
    signature = pow(int.from_bytes(em, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
    key.public.verify(signature, data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    return signature


def hs256(key, data):
    """The mistake: the public key, as everyone has it, for the secret."""
    pem = key.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    mac = hmac.HMAC(pem, hashes.SHA256())
    mac.update(data)
    return mac.finalize()


def loose_end(segment):
    """The same bytes with a bit set that base64 throws away."""
    loose = segment[:-1] + chr(ord(segment[-1]) + 1)
    assert unb64(loose) == unb64(segment)
    return loose


def sign(payload, head=None, key=KEY1, signer=rs256, slashes="hp", spell_payload=lambda segment: segment):
    """`slashes`: where `/` is spelled `\\/`, h(eader) and p(ayload). A byte 0x80 to 0xff is written as U+DC80 to U+DCFF."""
    head = head or header()
    head = head.replace("/", "\\/") if "h" in slashes else head
    payload = payload.replace("/", "\\/") if "p" in slashes else payload
    h, p = (b64(text.encode("utf-8", "surrogateescape")) for text in (head, payload))
    p = spell_payload(p)
    signature = signer(key, f"{h}.{p}".encode())
    return Jws((h, p, b64(signature)))


def sized(total):
    """A valid token of exactly `total` characters."""
    for spaces in range(3):
        head = "{" + " " * spaces + header()[1:]
        room = total - len(b64(head.encode())) - 342 - 2
        if room % 4 != 1:
            fill = room * 3 // 4 - len(machine(fill='""'))
            jws = sign(machine(fill=quoted("x" * fill)), head, slashes="")
            assert len(".".join(jws.parts)) == total
            return jws
    raise AssertionError(total)


def nested(depth):
    """Arrays and objects by turns, `depth` of them (the payload itself is not counted)."""
    return '[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2)


def tokens(vector):
    """Returns the vectors. `vector` makes one of a name, a token, a reason (None if it is accepted) and the claims that
    are read from it."""
    tokens = []

    def accept(name, jws, **reads):
        expected = {"subject": CLIENT, "client_id": CLIENT, "scopes": ["activity/*"], "groups": [],
                    "expires_at": NOW + 3600, **reads}
        tokens.append(vector(name, ".".join(jws.parts), None, expected))

    def accept_user(name, jws, **reads):
        accept(name, jws, **{"subject": SUB, "scopes": ["openid", "activity/read", "activity/write"], "username": SUB,
                             "groups": ["ops", "audit/readers"], **reads})

    def reject(reason, name, jws):
        tokens.append(vector(name, ".".join(jws.parts), reason, None))

    good = sign(machine())
    key2 = quoted(KEY2.kid)

    accept("machine, slashes escaped", good)
    accept("machine, slashes plain", sign(machine(), slashes=""))
    accept("machine, slashes escaped in the header only", sign(machine(), slashes="h"))
    accept("machine, slashes escaped in the payload only", sign(machine(), slashes="p"))
    accept("machine, slashes escaped, by openssl", sign(machine(auth_time=NOW - 61), signer=openssl))
    accept("machine, second key", sign(machine(), header(kid=key2), KEY2))
    accept("machine, second key, slashes plain, by openssl", sign(machine(), header(kid=key2), KEY2, openssl, ""))
    accept("machine, updated issuer, slashes escaped", sign(machine(iss=quoted(UPDATED_ISSUER))))
    accept_user("user, slashes escaped", sign(user()))
    accept_user("user, slashes plain", sign(user(), slashes=""))
    accept_user("user, slashes plain, by openssl", sign(user(auth_time=NOW - 91), signer=openssl, slashes=""))
    accept_user("user, names beyond ASCII, plain and escaped",
                sign(user(username=r'"日\u672c\uD83D\ude00"', **{"cognito:groups": r'["Zürich","\u6771\u4eac"]'})),
                username="日本😀", groups=["Zürich", "東京"])
    accept("claim values with \\u escapes", sign(machine(
        scope=r'"\u0061ctivity\u002F\u002a"', token_use=r'"acces\u0073"', client_id=quoted(r"\u0035" + CLIENT[1:]),
        sub=quoted(CLIENT[:-1] + r"\u006d"), iss=quoted(ISSUER.replace("/", r"\u002f"))), slashes="h"))
    accept("claim names with \\u escapes", sign(machine().replace('"exp"', r'"\u0065xp"').replace('"iss"', r'"is\u0073"')))
    accept("header with \\u escapes", sign(machine(), r'{"\u006bid":%s,"alg":"RS\u003256"}' % quoted(KEY1.kid)))
    accept("unread claims of every JSON type", sign(machine(
        a="null", b="true", c="false", d="-12.5e-3", e='"text"', f="[1,[],{}]", g='{"h":{"i":null}}',
        j="123456789012345678901234567890", k=r'"\ud83d\ude00"', l="1e999", azp="7", email="false", roles='["a",1]')))
    accept("unread claim nested 20 deep", sign(machine(tree=nested(20))))
    accept("typ JWT", sign(machine(), header(typ='"JWT"')))
    accept("typ at+jwt", sign(machine(), header(typ='"at+jwt"')))
    accept("header members that are never read", sign(machine(), header(jku='"https://example.com/keys"', x5t="1")))
    accept("whitespace in the JSON", sign(
        " \r\n\t" + machine().replace(":", " : ").replace("https : ", "https:").replace(",", "\t,\n") + "\n\n",
        " " + header().replace(":", " :\t").replace(",", "\r\n, ") + " "))
    accept("nbf in the past", sign(machine(nbf=NOW - 60)))
    accept("nbf is now", sign(machine(nbf=NOW)))
    accept("iat in the future", sign(machine(iat=NOW + 500)))
    accept("aud a string", sign(machine(aud='"https://api.example.com/"')))
    accept("aud an array", sign(machine(aud='["https://api.example.com/","urn:other"]')))
    accept("exp one second ahead", sign(machine(exp=NOW + 1)), expires_at=NOW + 1)
    accept("exp one and a half seconds ahead", sign(machine(exp=f"{NOW + 1}.5")), expires_at=NOW + 1)
    accept("exp 1.9e9", sign(machine(exp="1.9e9")), expires_at=1900000000)
    accept("exp with a negative exponent", sign(machine(exp=f"{NOW + 1}5E-1")), expires_at=NOW + 1)
    accept("no scope claim", sign(machine(scope=None)), scopes=[])
    accept("runs of spaces in scope", sign(machine(scope='" activity/*  other/read "')), scopes=["activity/*", "other/read"])
    accept("exactly 16384 bytes", sized(16384))

    reject("TooLarge", "16385 bytes", sized(16385))

    reject("Malformed", "alg none, empty signature", sign(machine(), header(alg='"none"')).with_signature(lambda s: ""))
    reject("Malformed", "base64 padding", good.with_signature(lambda s: s + "=="))
    reject("Malformed", "standard base64 alphabet", good.with_signature(lambda s: s.replace("-", "+").replace("_", "/")))
    reject("Malformed", "signature's last symbol not canonical", good.with_signature(loose_end))
    uneven = machine(n=quoted("x" * (-len(machine(n='""').replace("/", "\\/")) % 3 + 1)))
    reject("Malformed", "payload's last symbol not canonical, signed as spelled", sign(uneven, spell_payload=loose_end))
    reject("Malformed", "base64 of an impossible length", good.with_signature(lambda s: s + "AAA"))
    reject("Malformed", "two parts", Jws(good.parts[:2]))
    reject("Malformed", "four parts", Jws((*good.parts, good.parts[2])))
    reject("Malformed", "duplicate name in the header", sign(machine(), plus(header(), '"alg":"RS256"')))
    reject("Malformed", "invalid UTF-8 in the header", sign(machine(), header(x='"\udcff"')))
    reject("Malformed", "duplicate claim", sign(plus(machine(), f'"exp":{NOW + 3600}')))
    reject("Malformed", "duplicate claim by escape", sign(plus(machine(), rf'"\u0065xp":{NOW + 3600}')))
    reject("Malformed", "duplicate claim that is not read, by escape", sign(plus(machine(), r'"v\u0065rsion":2')))
    reject("Malformed", "payload an array", sign("[" + machine() + "]"))
    reject("Malformed", "lone surrogate in an unread claim", sign(machine(note=r'"\ud800"')))
    reject("Malformed", "unread claim nested 40 deep", sign(machine(tree=nested(40))))
    reject("Malformed", "invalid UTF-8 in an unread claim", sign(machine(note='"\udcff"')))
    reject("Malformed", "control character in an unread claim", sign(machine(note='"a\tb"')))

    reject("UnsupportedAlgorithm", "alg none, with a signature", sign(machine(), header(alg='"none"')))
    reject("UnsupportedAlgorithm", "alg absent", sign(machine(), header(alg=None)))
    reject("UnsupportedAlgorithm", "alg an array", sign(machine(), header(alg='["RS256"]')))
    reject("UnsupportedAlgorithm", "HS256 keyed with the public key", sign(machine(), header(alg='"HS256"'), signer=hs256))
    reject("UnsupportedAlgorithm", "RS512, signed so", sign(machine(), header(alg='"RS512"'), signer=rs512))
    reject("UnsupportedAlgorithm", "PS256, signed so", sign(machine(), header(alg='"PS256"'), signer=ps256))

    for name, value, what in [
        ("kid", None, "absent"), ("kid", '""', "empty"), ("kid", "1", "a number"), ("kid", quoted("k" * 257), "of 257 bytes"),
        ("crit", '["exp"]', "present"), ("b64", "false", "false"), ("zip", '"DEF"', "present"), ("enc", '"A256GCM"', "present"),
        ("typ", '"dpop+jwt"', "dpop+jwt"),
    ]:
        reject("InvalidHeader", f"{name} {what}", sign(machine(), header(**{name: value})))

    reject("UnknownIssuer", "issuer of another pool", sign(machine(iss=quoted(ISSUER[:-1] + "J"))))
    reject("UnknownIssuer", "issuer with a trailing slash", sign(machine(iss=quoted(ISSUER + "/"))))
    reject("UnknownIssuer", "issuer with an upper-case host", sign(machine(iss=quoted(ISSUER.replace("cognito-idp", "COGNITO-IDP")))))
    reject("UnknownIssuer", "issuer in an array", sign(machine(iss="[" + quoted(ISSUER) + "]")))
    reject("UnknownIssuer", "issuer absent, by openssl", sign(machine(iss=None), signer=openssl))

    reject("UnknownKey", "kid unknown, alike but for upper and lower case", sign(machine(), header(kid=quoted(KEY1.kid.swapcase()))))
    reject("UnknownKey", "kid of 256 bytes", sign(machine(), header(kid=quoted("k" * 256))))

    other = sign(machine(scope='"activity/read"'))
    reject("BadSignature", "kid of the other key", sign(machine(), header(kid=key2)))
    reject("BadSignature", "key in the header", sign(machine(), header(jwk=json.dumps(KEY2.jwk())), KEY2))
    reject("BadSignature", "signature of another token", good.with_signature(lambda s: other.parts[2]))
    signed, changed = sign(machine(), signer=openssl), sign(machine(sub='"admin"'))
    reject("BadSignature", "payload changed after signing, by openssl",
           Jws((signed.parts[0], changed.parts[1], signed.parts[2])))
    reject("BadSignature", "one bit of the signature flipped",
           good.with_signature(lambda s: b64(bytes(byte ^ (at == 128) for at, byte in enumerate(unb64(s))))))
    reject("BadSignature", "signature with a zero byte before it", good.with_signature(lambda s: b64(b"\0" + unb64(s))))

    reject("WrongTokenUse", "ID token", sign(user(
        token_use='"id"', client_id=None, scope=None, username=None, aud=quoted(CLIENT), email='"user@example.com"',
        at_hash='"GJ8o1hIRVLVQ9qmVqFBzHg"', **{"cognito:username": quoted(SUB)})))
    reject("WrongTokenUse", "token_use absent", sign(machine(token_use=None)))
    reject("WrongClient", "another client", sign(machine(client_id=quoted("9" + CLIENT[1:]), sub=quoted("9" + CLIENT[1:]))))
    reject("WrongClient", "another client, by openssl", sign(user(client_id=quoted(CLIENT + "n")), signer=openssl))

    reject("Expired", "exp is now, by openssl", sign(user(exp=NOW), signer=openssl, slashes=""))
    reject("Expired", "exp one second ago", sign(machine(exp=NOW - 1)))
    reject("Expired", "exp half a second ahead", sign(machine(exp=f"{NOW}.5")))
    reject("Expired", "exp just under one second ahead, beyond the precision of a double", sign(machine(exp=f"{NOW}.{'9' * 20}")))
    reject("NotYetValid", "nbf one second ahead", sign(machine(nbf=NOW + 1)))
    reject("SenderConstrained", "cnf", sign(machine(cnf='{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}')))
    reject("SenderConstrained", "cnf null", sign(machine(cnf="null")))

    for claim, value, what in [
        ("exp", quoted(NOW + 3600), "a string"), ("exp", "null", "null"), ("exp", None, "absent"),
        ("exp", "1e400", "beyond all years"),
        ("nbf", quoted(NOW - 60), "a string"), ("iat", quoted(NOW - 60), "a string"),
        ("client_id", f"[{quoted(CLIENT)}]", "an array"), ("client_id", None, "absent"),
        ("sub", "42", "a number"), ("sub", None, "absent"), ("scope", '["activity/*"]', "an array"),
        ("jti", "7", "a number"), ("username", "7", "a number"),
        ("cognito:groups", '"ops"', "a string"), ("cognito:groups", '["ops",1]', "with a number in it"),
        ("aud", "1", "a number"),
    ]:
        base = user if claim in ("username", "cognito:groups") else machine
        reject("InvalidClaim", f"{claim} {what}", sign(base(**{claim: value})))
    return tokens
