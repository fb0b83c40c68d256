#!/usr/bin/env python3
"""Writes vectors.json, which README.md describes.

    make.py            rewrites vectors.json
    make.py --check    exits 1 if vectors.json is not what this script makes

Verdicts and reasons are stated next to each token, from the rules alone. Headers and payloads are composed as text.
The keys, and the tokens as Cognito writes them, are in cognito.py.
"""

import hashlib
import hmac
import json
import re
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import cognito
from cognito import HERE, NOW, POOL, b64, members, plus, quoted, rs256, unb64

OUT = HERE / "vectors.json"

HOUR = 3600
EXP = NOW + HOUR
ISSUER = "https://a.example/b"
CLIENT = "client"
OTHER_CLIENT = "another"
ORIGINAL = cognito.ISSUER
UPDATED = cognito.UPDATED_ISSUER
SUB = "s"
AUDIENCE = "https://api.example"
FIRST = "https://issuer.example/first"
SECOND = "https://issuer.example/second"

# Short, for a short file. The names of real tokens are in cognito.py.
KEY1 = cognito.Key(1, "k/1")
KEY2 = cognito.Key(2, "k/2")
KEY3 = cognito.Key(3, "bits-3072")
KEY4 = cognito.Key(4, "bits-1024")


# Keys of other algorithms. They are constants, because no one can misuse them.

class EcKey:
    def __init__(self, kid, alg, curve, digest):
        self.kid, self.alg, self.curve, self.digest = kid, alg, curve, digest
        self.size = (curve.key_size + 7) // 8
        self.secret = 0x1234567890ABCDEF1234567890ABCDEF
        self.order = {
            "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
            "ES256K": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
            "ES384": int("F" * 48 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
            "ES512": int("01" + "F" * 64 + "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16),
        }[alg]

    def point(self, scalar):
        return ec.derive_private_key(scalar, self.curve).public_key().public_numbers()

    def sign(self, data):
        """FIPS 186-5 section 6.4.1 by hand: a library draws `k` at random, and then no two runs would be alike."""
        digest = int.from_bytes(self.digest(data).digest(), "big")
        digest >>= max(0, self.digest().digest_size * 8 - self.order.bit_length())
        k = 0x0F1E2D3C4B5A69788796A5B4C3D2E1F0
        r = self.point(k).x % self.order
        s = pow(k, -1, self.order) * (digest + r * self.secret) % self.order
        return r.to_bytes(self.size, "big") + s.to_bytes(self.size, "big")

    def jwk(self):
        numbers = self.point(self.secret)
        names = {"ES256": "P-256", "ES256K": "secp256k1", "ES384": "P-384", "ES512": "P-521"}
        x, y = (b64(number.to_bytes(self.size, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": names[self.alg], "kid": self.kid, "alg": self.alg, "x": x, "y": y}


class EdKey:
    kid, alg = "ed25519", "EdDSA"
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

    def sign(self, data):
        return self.private.sign(data)

    def jwk(self):
        raw = self.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "alg": self.alg, "x": b64(raw)}


class OctKey:
    def __init__(self, kid, alg, digest):
        self.kid, self.alg, self.digest = kid, alg, digest
        self.secret = bytes(range(64))

    def sign(self, data):
        return hmac.new(self.secret, data, self.digest).digest()

    def jwk(self):
        return {"kty": "oct", "kid": self.kid, "alg": self.alg, "k": b64(self.secret)}


OTHER_KEYS = [
    EcKey("p-256", "ES256", ec.SECP256R1(), hashlib.sha256),
    EcKey("secp256k1", "ES256K", ec.SECP256K1(), hashlib.sha256),
    EcKey("p-384", "ES384", ec.SECP384R1(), hashlib.sha384),
    EcKey("p-521", "ES512", ec.SECP521R1(), hashlib.sha512),
    EdKey(),
    OctKey("oct-256", "HS256", "sha256"),
    OctKey("oct-384", "HS384", "sha384"),
    OctKey("oct-512", "HS512", "sha512"),
]


# RSA by hand, for what no library would sign.

SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def raw_rsa(key, em, exponent=65537):
    numbers = key.private.private_numbers()
    n = numbers.public_numbers.n
    d = pow(exponent, -1, (numbers.p - 1) * (numbers.q - 1))
    return pow(int.from_bytes(em, "big"), d, n).to_bytes(key.private.key_size // 8, "big")


def encoded_message(data, size=256, info=SHA256_INFO, digest=hashlib.sha256, filler=b"\xff", kind=b"\x01"):
    """RFC 8017 section 9.2."""
    tail = info + digest(data).digest()
    return b"\x00" + kind + filler * (size - 3 - len(tail)) + b"\x00" + tail


def pss(digest):
    """RFC 8017 section 9.1.1 with a fixed salt as long as the digest."""
    def sign(key, data):
        size = digest().digest_size
        salt = bytes(range(size))
        h = digest(bytes(8) + digest(data).digest() + salt).digest()
        db = bytes(256 - 2 * size - 2) + b"\x01" + salt
        mask = b"".join(digest(h + i.to_bytes(4, "big")).digest() for i in range(256 // size + 1))
        masked = bytes(a ^ b for a, b in zip(db, mask))
        return raw_rsa(key, bytes([masked[0] & 0x7F]) + masked[1:] + h + b"\xbc")
    return sign


def pkcs1(info, digest):
    return lambda key, data: raw_rsa(key, encoded_message(data, info=bytes.fromhex(info), digest=digest))


rs384 = pkcs1("3041300d060960864801650304020205000430", hashlib.sha384)
rs512 = pkcs1("3051300d060960864801650304020305000440", hashlib.sha512)


# JSON text. A byte 0x80 to 0xff is written as U+DC80 to U+DCFF.

def header(**changes):
    return members({"kid": quoted(KEY1.kid), "alg": '"RS256"'}, changes)


def machine(**changes):
    return members({
        "sub": quoted(SUB), "token_use": '"access"', "iss": quoted(ISSUER), "exp": EXP, "client_id": quoted(CLIENT)},
        changes)


def escaped(text):
    return text.replace("/", "\\/")


def encode(text):
    return b64(text.encode("utf-8", "surrogateescape"))


def join(head, payload, key=KEY1, sign=rs256):
    """Signs two parts as they are spelled."""
    return f"{head}.{payload}.{b64(sign(key, f'{head}.{payload}'.encode()))}"


def jws(payload=None, head=None, key=KEY1, sign=rs256):
    return join(encode(head or header()), encode(payload or machine()), key, sign)


def with_claims(**changes):
    return jws(machine(**changes))


def with_header(**changes):
    return jws(None, header(**changes))


def with_member(member):
    """One more claim, written as text."""
    return jws(plus(machine(), member))


def with_signature(token, signature):
    return token.rsplit(".", 1)[0] + "." + b64(signature)


def signature_of(token):
    return unb64(token.rsplit(".", 1)[1])


def arrays(depth):
    return "[" * depth + "]" * depth


def objects(depth):
    return '{"":' * depth + "1" + "}" * depth


def of_length(length):
    """A valid token of exactly this many characters."""
    for spaces in range(4):
        head = header() + " " * spaces
        for fill in range(length * 3 // 4 - 900, length * 3 // 4):
            payload = machine(fill=quoted("x" * fill))
            if len(encode(head)) + len(encode(payload)) + 342 + 2 == length:
                return jws(payload, head)
    raise AssertionError(length)


# What is looked for in the vectors by name.

def jwk(key, **changes):
    """The public key; None drops a member."""
    return {name: value for name, value in {**key.jwk(), **changes}.items() if value is not None}


def rsa_jwk(key, kid, n=None, e=65537):
    number = n or key.public.public_numbers().n
    return {"kty": "RSA", "kid": kid, "n": b64(number.to_bytes((number.bit_length() + 7) // 8, "big")),
            "e": b64(e.to_bytes((e.bit_length() + 7) // 8, "big"))}


def key_set(*keys):
    """A set in which KEY2 can always be used."""
    return [[KEY2.jwk(), *keys]]


MODULUS = KEY1.public.public_numbers().n
LONG_KID = "k" * 256
WIDE_KID = "\u00e9" * 128

# Each is a list, with one key set for each pool of the rules.
KEY_SETS = {
    "usual": [[KEY1.jwk(), KEY2.jwk()]],
    "cognito": [[cognito.KEY1.jwk(), cognito.KEY2.jwk()]],
    "two issuers": [[jwk(KEY1, kid="same"), KEY1.jwk()], [jwk(KEY2, kid="same"), KEY2.jwk()]],
    "every algorithm": key_set(KEY1.jwk(), *(key.jwk() for key in OTHER_KEYS)),
    "without alg": key_set(jwk(KEY1, alg=None)),
    "without use": key_set(jwk(KEY1, use=None)),
    "for RS384": key_set(jwk(KEY1, alg="RS384")),
    "for RS512": key_set(jwk(KEY1, alg="RS512")),
    "for PS256": key_set(jwk(KEY1, alg="PS256")),
    "for encryption": key_set(jwk(KEY1, use="enc")),
    "to verify": key_set(jwk(KEY1, key_ops=["verify"])),
    "only to sign": key_set(jwk(KEY1, key_ops=["sign"])),
    "with a private part": key_set(jwk(KEY1, d="AQAB")),
    "one key twice": key_set(KEY1.jwk(), KEY1.jwk()),
    "one kid for two keys": key_set(KEY1.jwk(), rsa_jwk(KEY3, KEY1.kid)),
    "one kid for RSA and oct": key_set(KEY1.jwk(), {**OTHER_KEYS[5].jwk(), "kid": KEY1.kid}),
    "one kid for RSA and EC": key_set(KEY1.jwk(), {**OTHER_KEYS[0].jwk(), "kid": KEY1.kid}),
    "a key of a new kind": key_set(KEY1.jwk(), {"kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AAAA"}),
    "without the first key": key_set(),
    "kid a number": key_set(jwk(KEY1, kid=1)),
    "kid absent": key_set(jwk(KEY1, kid=None)),
    "kid empty": key_set(jwk(KEY1, kid="")),
    "long kids": key_set(jwk(KEY1, kid=LONG_KID), rsa_jwk(KEY3, WIDE_KID), jwk(KEY1, kid=LONG_KID + "k")),
    "odd kids": key_set(*(jwk(KEY1, kid=kid) for kid in ("own", "a/b", "../../dev/null", "' OR 1=1 --", "\U0001f600",
                                                        "1"))),
    "3072 bits": key_set(rsa_jwk(KEY3, KEY3.kid)),
    "1024 bits": key_set({**rsa_jwk(KEY4, KEY4.kid), "alg": "RS256"}),
    "exponent 1": key_set(rsa_jwk(KEY1, KEY1.kid, e=1)),
    "exponent 3": key_set(rsa_jwk(KEY1, KEY1.kid, e=3)),
    "even exponent": key_set(rsa_jwk(KEY1, KEY1.kid, e=65536)),
    "zeros before the modulus": key_set(jwk(KEY1, n=b64(b"\0" + MODULUS.to_bytes(256, "big")))),
}


def pool(**changes):
    return {"issuer": ISSUER, "clients": [CLIENT], **changes}


# Each is a list of pools. `clients: null` is any client.
RULES = {
    "usual": [pool()],
    "cognito": [{"pool": POOL, "clients": [cognito.CLIENT]}],
    "any client": [pool(clients=None)],
    "several clients": [pool(clients=["another", CLIENT, "one more"])],
    "audience": [pool(audience=AUDIENCE)],
    "groups": [pool(groups=["ops", "audit/readers"])],
    "leeway 300": [pool(leeway=300)],
    "everything": [pool(audience=AUDIENCE, groups=["ops"], leeway=1)],
    "a pool of Cognito": [{"pool": POOL, "clients": [CLIENT]}],
    "an issuer of Cognito": [{"issuer": ORIGINAL, "clients": [CLIENT]}],
    "two issuers": [{"issuer": FIRST, "clients": ["first"]}, {"issuer": SECOND, "clients": ["second"]}],
}


# Vectors. What a request with the token in its header is answered with follows from the verdict, unless HTTP or the
# Authorization header have the first word.

def vector(name, token, verdict, keys="usual", rules="usual", time=NOW, status=None, **more):
    usual = 200 if verdict["verdict"] == "accept" else 403 if verdict["reason"] == "Forbidden" else 401
    status = status or status_of_header(token) or usual
    fields = {"keys": (keys, "usual"), "rules": (rules, "usual"), "time": (time, NOW),
              "status": (str(status), str(usual))}
    unusual = {field: value for field, (value, default) in fields.items() if value != default}
    return {"name": name, "token": token, **unusual, **more, **verdict}


def status_of_header(token):
    if any(ord(c) < 0x20 and c != "\t" or ord(c) == 0x7F for c in token):
        return "no HTTP"
    if not token.strip(" ") or "\t" in token or not token.isascii():
        return 400
    return None


def accept(name, token, keys="usual", **more):
    return vector(name, token, {"verdict": "accept"}, keys, **more)


def reject(reason, name, token, keys="usual", **more):
    return vector(name, token, {"verdict": "refuse", "reason": reason}, keys, **more)


def cognito_shapes():
    def vector(name, token, reason, reads):
        settings = {"keys": "cognito", "rules": "cognito"}
        if reason is None:
            return accept(name, token, **settings, reads=reads)
        return reject(reason, name, token, **settings)

    yield from cognito.tokens(vector)


def compact_form():
    good = jws()
    head, payload, signature = good.split(".")
    yield accept("three parts", good)
    for name, token in [
        ("nothing", ""), ("one part", head), ("two parts", f"{head}.{payload}"),
        ("signature empty", f"{head}.{payload}."),
        ("payload empty", f"{head}..{signature}"), ("header empty", f".{payload}.{signature}"),
        ("header and payload empty", f"..{signature}"), ("dots alone", ".."), ("one dot", "."),
        ("four parts", f"{good}.{signature}"), ("five parts, as a JWE", f"{good}.{payload}.{signature}"),
        ("a dot before", f".{good}"), ("a dot after", f"{good}."), ("a dot doubled", f"{head}..{payload}.{signature}"),
        ("twice", good + good), ("the parts reversed", f"{signature}.{payload}.{head}"),
        ("four parts, signed so", join(head, f"{payload}.{encode('{}')}")),
        ("five parts, signed so", join(head, f"{payload}.{encode('{}')}.{encode('{}')}")),
        ("an empty part before, signed so", join(f".{head}", payload)),
        ("an empty part between, signed so", join(f"{head}.", payload)),
        ("flattened JSON", f'{{"payload":"{payload}","protected":"{head}","signature":"{signature}"}}'),
        ("general JSON", f'{{"payload":"{payload}","signatures":[{{"protected":"{head}","signature":"{signature}"}}]}}'),
        ("JSON whose name is the token", f'{{"{good}":1}}'),
        ("JSON whose last member is a token's end", f'{{"protected":"x.{payload}.{signature}"}}'),
        ("the scheme once more", f"Bearer {good}"), ("two tokens", f"{good} {good}"),
        ("two tokens with a comma", f"{good},{good}"),
        ("in quotes", f'"{good}"'), ("percent-encoded dots", good.replace(".", "%2E")),
        ("a semicolon and a parameter", f"{good};a=b"), ("colons for dots", good.replace(".", ":")),
        ("a full stop of another script", good.replace(".", "\uff0e")), ("a space after", f"{good} "),
        ("a tab after", f"{good}\t"), ("a line feed after", f"{good}\n"),
        ("CR LF and a header", f"{good}\r\nX-Admin: 1"),
        ("a NUL after", f"{good}\0"), ("a NUL inside", f"{head}.{payload}\0.{signature}"),
        ("a DEL after", f"{good}\x7f"),
        ("a letter beyond ASCII", f"{good}\u00e9"), ("a byte order mark before", f"\ufeff{good}"),
    ]:
        yield reject("Malformed", name, token)
    # RFC 6750 section 2.1 asks for one space or more after the scheme, so in a header these belong to it.
    yield reject("Malformed", "a space before", f" {good}", status=200)
    yield reject("Malformed", "spaces alone", "   ")


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def loose_ends(segment):
    """Each other spelling of the last symbol: the same bytes to a lenient reader."""
    spare = {0: 1, 2: 16, 3: 4}[len(segment) % 4]
    last = ALPHABET.index(segment[-1])
    for bits in range(1, spare):
        loose = segment[:-1] + ALPHABET[last + bits]
        assert unb64(loose) == unb64(segment)
        yield loose


def base64():
    def part(text, length):
        """With spaces at its end, so that its encoding leaves `length` symbols over."""
        return next(text + " " * n for n in range(3) if len(encode(text + " " * n)) % 4 == length)

    head, payload = encode(header()), encode(machine())
    signature = join(head, payload).split(".")[2]
    for length in (0, 2, 3):
        h, p = encode(part(header(), length)), encode(part(machine(), length))
        yield accept(f"{length} symbols over in header and payload", join(h, p))
        for at, loose in list(enumerate(loose_ends(h)))[::7]:
            yield reject("Malformed", f"header's last symbol of {length} not canonical, {at}", join(loose, p))
        for at, loose in list(enumerate(loose_ends(p)))[::7]:
            yield reject("Malformed", f"payload's last symbol of {length} not canonical, {at}", join(h, loose))
        if length:
            padding = "=" * (4 - length)
            yield reject("Malformed", f"header padded with {padding}", join(h + padding, p))
            yield reject("Malformed", f"payload padded with {padding}", join(h, p + padding))
    for at, loose in list(enumerate(loose_ends(signature)))[::3]:
        yield reject("Malformed", f"signature's last symbol not canonical, {at}", f"{head}.{payload}.{loose}")
    for name, token in [
        ("header of an impossible length", join(encode(part(header(), 0)) + "A", payload)),
        ("payload of an impossible length", join(head, encode(part(machine(), 0)) + "A")),
        ("signature of an impossible length", f"{head}.{payload}.{signature}AAA"),
        ("header one symbol long", join("A", payload)), ("payload one symbol long", join(head, "A")),
        ("signature one symbol long", f"{head}.{payload}.A"),
        ("signature padded", f"{head}.{payload}.{signature}=="), ("signature padded too much",
            f"{head}.{payload}.{signature}===="),
        ("signature padded with dots", f"{head}.{payload}.{signature}.."),
        ("signature in the standard alphabet", f"{head}.{payload}.{signature.replace('-', '+').replace('_', '/')}"),
        ("a line feed every 64 symbols", f"{head}.{payload}." + "\n".join(re.findall(".{1,64}", signature))),
        ("a space in the signature", f"{head}.{payload}.{signature[:9]} {signature[9:]}"),
        ("a tab in the payload", f"{head}.{payload[:9]}\t{payload[9:]}.{signature}"),
        ("a hyphen in the header", f"{head[:9]}-{head[9:]}.{payload}.{signature}"),
        ("URL-encoded padding", f"{head}.{payload}.{signature}%3D%3D"),
        ("a soft hyphen", f"{head}.{payload}.{signature}\u00ad"),
        ("padding alone for a signature", f"{head}.{payload}.=="), ("not base64 at all", "%%%.%%%.%%%"),
    ]:
        yield reject("Malformed", name, token)
    # What spells these bytes in two ways, in the alphabet that is not the one of RFC 7515.
    odd = machine(note='"~~~???>>>\u00ff\u00ff"')
    yield accept("a payload that spells - and _", join(head, encode(odd)))
    standard = encode(odd).replace("-", "+").replace("_", "/")
    assert standard != encode(odd)
    yield reject("Malformed", "payload in the standard alphabet, signed so", join(head, standard))


def size():
    yield accept("8192 characters", of_length(8192))
    yield accept("8193 characters", of_length(8193))
    yield accept("16383 characters", of_length(16383))
    yield accept("16384 characters", of_length(16384))
    yield reject("TooLarge", "16385 characters", of_length(16385))
    yield reject("TooLarge", "65536 characters", of_length(65536))
    yield reject("TooLarge", "400000 dots", "." * 400000)
    yield reject("TooLarge", "a million letters", "A" * 1000000)
    yield reject("TooLarge", "16385 spaces", " " * 16385)
    yield reject("Malformed", "16384 dots", "." * 16384)
    yield reject("Malformed", "16384 letters", "A" * 16384)
    yield reject("BadSignature", "a signature of 8192 zeros", with_signature(jws(), bytes(8192)))


def alg():
    yield accept("RS256", jws())
    yield accept("RS256 with an escape", with_header(alg=r'"RS\u003256"'))
    for value in (
        '"none"', '"None"', '"nOnE"', '"NONE"', '""', '"rs256"', '"RS256 "', r'"RS256\u0000"',
        '"RS25"', '"ＲＳ256"', '"HS256"', 
        '"PBES2-HS256+A128KW"', 
        "null", "256", "true", "[]", '["RS256"]', r'"\ud800"',
    ):
        yield reject("UnsupportedAlgorithm", f"{value}, signed with RS256", with_header(alg=value))
    yield reject("UnsupportedAlgorithm", "absent", with_header(alg=None))
    unsigned = with_header(alg='"none"')
    yield reject("UnsupportedAlgorithm", "none with one byte", with_signature(unsigned, b"\0"))
    yield reject("Malformed", "none without a signature", unsigned.rsplit(".", 1)[0] + ".")
    yield reject("Malformed", "none with two parts", unsigned.rsplit(".", 1)[0])
    yield reject("Malformed", "RS256 without a signature", jws().rsplit(".", 1)[0] + ".")
    for name, sign in [("RS384", rs384), ("RS512", rs512), ("PS256", pss(hashlib.sha256)),
                       ("PS384", pss(hashlib.sha384)),
                       ("PS512", pss(hashlib.sha512))]:
        yield reject("UnsupportedAlgorithm", f"{name}, signed so", jws(None, header(alg=quoted(name)), KEY1, sign))
        yield reject("BadSignature", f"RS256, signed with {name}", jws(None, None, KEY1, sign))
    for key in OTHER_KEYS:
        by = {"key": key, "sign": lambda key, data: key.sign(data)}
        honest = jws(None, header(kid=quoted(key.kid), alg=quoted(key.alg)), **by)
        yield reject("UnsupportedAlgorithm", f"{key.alg} with a key of the set", honest, "every algorithm")
        posing = jws(None, header(kid=quoted(key.kid)), **by)
        yield reject("UnknownKey", f"{key.alg} with a key of the set, called RS256", posing, "every algorithm")
        crossed = jws(None, header(), **by)
        yield reject("BadSignature", f"{key.alg} under the kid of an RSA key, called RS256", crossed,
                     "every algorithm")
    yield accept("RS256 beside keys of every algorithm", jws(), "every algorithm")


def key_confusion():
    public = KEY1.public.public_bytes
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    spki, rsa = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1
    compact = json.dumps(KEY1.jwk(), separators=(",", ":"))
    modulus = MODULUS.to_bytes(256, "big")
    secrets = [
        ("PEM", public(pem, spki)), ("PEM without its last line feed", public(pem, spki).strip()),
        ("PEM in one line", public(pem, spki).replace(b"\n", b"")),
        ("PEM of PKCS #1", public(pem, rsa)), 
        ("DER", public(der, spki)), ("DER of PKCS #1", public(der, rsa)), ("JWK text", compact.encode()),
        ("JWK Set text", f'{{"keys":[{compact}]}}'.encode()),
        ("n", modulus), ("n in base64url", b64(modulus).encode()), 
        ("kid", KEY1.kid.encode()), ("nothing", b""),
    ]
    for name, secret in secrets:
        sign = lambda key, data, secret=secret: hmac.new(secret, data, "sha256").digest()
        yield reject("UnsupportedAlgorithm", f"HS256 keyed with {name}", jws(None, header(alg='"HS256"'), KEY1, sign))
        yield reject("BadSignature", f"HS256 keyed with {name}, called RS256", jws(None, None, KEY1, sign))
    for bits in ("384", "512"):
        sign = lambda key, data, bits=bits: hmac.new(secrets[0][1], data, "sha" + bits).digest()
        yield reject("UnsupportedAlgorithm", f"HS{bits} keyed with PEM",
                     jws(None, header(alg=quoted("HS" + bits)), KEY1, sign))
    attacker = json.dumps(rsa_jwk(KEY3, KEY3.kid))
    own = quoted(KEY3.kid)
    x5c = json.dumps([cognito.base64.b64encode(KEY3.public.public_bytes(der, spki)).decode()])
    for name, value in [("jwk", attacker), ("x5c", x5c), ("jku", '"https://evil.example/jwks.json"'),
                        ("x5u", '"https://evil.example/key.pem"')]:
        brought = lambda kid: jws(None, header(kid=kid, **{name: value}), KEY3)
        yield reject("UnknownKey", f"{name} of the signer and its own kid", brought(own))
        yield reject("BadSignature", f"{name} of the signer and a kid of the issuer", brought(quoted(KEY1.kid)))
        yield accept(f"{name} in a good token", with_header(**{name: value}))
    yield reject("InvalidHeader", "jwk of the signer and no kid", jws(None, header(kid=None, jwk=attacker), KEY3))
    yield reject("BadSignature", "signed with a key of nobody", jws(key=KEY3))
    yield reject("BadSignature", "signed with the other key of the set", jws(key=KEY2))
    yield reject("BadSignature", "the kid of the other key of the set", with_header(kid=quoted(KEY2.kid)))
    yield accept("signed with the other key under its own kid", jws(None, header(kid=quoted(KEY2.kid)), KEY2))


def key_sets():
    good = jws()
    for name in ("without alg", "without use", "to verify", "one key twice", "a key of a new kind"):
        yield accept(name, good, name)
    for name in ("for RS384", "for RS512", "for PS256", "for encryption", "only to sign", "with a private part",
                 "one kid for two keys", "one kid for RSA and oct", "one kid for RSA and EC", "without the first key",
                 "kid a number", "kid absent", "zeros before the modulus", "even exponent"):
        yield reject("UnknownKey", name, good, name)
    yield reject("UnknownKey", "the second of two keys under one kid", jws(key=KEY3), "one kid for two keys")
    yield reject("InvalidHeader", "kid empty", with_header(kid='""'), "kid empty")
    yield reject("UnknownKey", "kid a number, asked for as text", with_header(kid='"1"'), "kid a number")
    yield reject("InvalidHeader", "kid absent in set and token", with_header(kid=None), "kid absent")
    yield accept("the key beside one that can not be used", jws(None, header(kid=quoted(KEY2.kid)), KEY2), "for RS384")
    rs384_token = jws(None, header(alg='"RS384"'), KEY1, rs384)
    yield reject("UnsupportedAlgorithm", "RS384 with a key for RS384", rs384_token, "for RS384")
    yield reject("UnsupportedAlgorithm", "RS384 with a key without alg", rs384_token, "without alg")
    yield accept("3072 bits", jws(None, header(kid=quoted(KEY3.kid)), KEY3), "3072 bits")
    long = jws(None, header(kid=quoted(KEY3.kid)), KEY3)
    yield reject("BadSignature", "3072 bits, cut to 256 bytes", with_signature(long, signature_of(long)[:256]),
                 "3072 bits")
    yield reject("UnknownKey", "1024 bits", jws(None, header(kid=quoted(KEY4.kid)), KEY4), "1024 bits")
    # Under the exponent 1 a signature is the message itself.
    yield reject("UnknownKey", "exponent 1", jws(sign=lambda key, data: encoded_message(data)), "exponent 1")
    cubed = jws(sign=lambda key, data: raw_rsa(key, encoded_message(data), 3))
    yield accept("exponent 3", cubed, "exponent 3")
    yield reject("BadSignature", "exponent 3, signed with 65537", good, "exponent 3")
    # Whoever looks at the end of the cube alone: garbage behind the hash, and a root that needs no key.
    yield reject("BadSignature", "exponent 3, a root that needs no key", jws(sign=cube_root), "exponent 3")

    def of(issuer, client, key, kid):
        return jws(machine(iss=quoted(issuer), client_id=quoted(client)), header(kid=quoted(kid)), key)

    both = {"keys": "two issuers", "rules": "two issuers"}
    for number, (issuer, client, key) in enumerate([(FIRST, "first", KEY1), (SECOND, "second", KEY2)]):
        other_key, other_client = [(KEY2, "second"), (KEY1, "first")][number]
        who = ["first", "second"][number]
        yield accept(f"the {who} issuer, a kid that both have", of(issuer, client, key, "same"), **both)
        yield accept(f"the {who} issuer, its own kid", of(issuer, client, key, key.kid), **both)
        yield reject("BadSignature", f"the {who} issuer, the other's key under the same kid",
                     of(issuer, client, other_key, "same"), **both)
        yield reject("UnknownKey", f"the {who} issuer, the other's key and kid",
                     of(issuer, client, other_key, other_key.kid), **both)
        yield reject("WrongClient", f"the {who} issuer, the other's client", of(issuer, other_client, key, "same"),
                     **both)
    yield reject("UnknownIssuer", "a third issuer, a kid that both have", of(FIRST + "x", "first", KEY1, "same"),
                 **both)


def cube_root(key, data):
    """The root of a number that begins as the encoded message does, with the hash far too early."""
    tail = SHA256_INFO + hashlib.sha256(data).digest()
    start = b"\x00\x01" + b"\xff" * 8 + b"\x00" + tail
    wanted = int.from_bytes(start + b"\xff" * (256 - len(start)), "big")
    low, high = 0, 1 << 700
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle ** 3 <= wanted else (low, middle - 1)
    assert (low ** 3).to_bytes(256, "big").startswith(start)
    return low.to_bytes(256, "big")


def kid():
    for name, value in [
        ("absent", None), ("empty", '""'), ("null", "null"), ("a number", "1"), ("true", "true"),
        ("an object", '{"kid":1}'),
        ("an array", f"[{quoted(KEY1.kid)}]"), ("a lone surrogate", r'"\ud800"'), ("of 257 bytes", quoted("k" * 257)),
        ("of 129 letters of two bytes", quoted("\u00e9" * 129)), ("of 10000 bytes", quoted("k" * 10000)),
    ]:
        yield reject("InvalidHeader", name, with_header(kid=value), "long kids" if "letters" in name else "usual")
    yield reject("UnknownKey", "of 256 bytes, unknown", with_header(kid=quoted("x" * 256)), "long kids")
    yield accept("of 256 bytes", with_header(kid=quoted(LONG_KID)), "long kids")
    yield accept("of 128 letters of two bytes", jws(None, header(kid=quoted(WIDE_KID)), KEY3), "long kids")
    yield reject("InvalidHeader", "of 257 bytes, in the set", with_header(kid=quoted(LONG_KID + "k")), "long kids")
    for name, value in [
        ("in other case", KEY1.kid.swapcase()), ("with a space after", KEY1.kid + " "),
        ("with a space before", " " + KEY1.kid),
        ("without its last letter", KEY1.kid[:-1]), ("with one letter more", KEY1.kid + "x"),
        ("with a NUL", KEY1.kid + r"\u0000"),
        ("with a line feed", KEY1.kid + r"\n"), ("in the other alphabet", KEY1.kid.replace("/", "_")),
        ("percent-encoded", KEY1.kid.replace("/", "%2F")), ("with escaped backslashes", KEY1.kid.replace("/", r"\\/")),
        ("a path", "../../dev/null"), ("a query", "' OR 1=1 --"), ("a URL", "https://evil.example/key"),
        ("a star", "*"),
        ("a look-alike", KEY1.kid.replace("k", "\u043a")), ("an index", "0"),
        ("in full width", KEY1.kid.replace("k", "\uff4b", 1)),
    ]:
        yield reject("UnknownKey", name, with_header(kid=quoted(value)))
    yield accept("with escaped slashes", with_header(kid=quoted(escaped(KEY1.kid))))
    yield accept("with \\u escapes", with_header(kid=quoted(KEY1.kid.replace("/", r"\u002f").replace("k", r"\u006B"))))
    for value in ("own", "a/b", "../../dev/null", "' OR 1=1 --", "\U0001f600", "1"):
        yield accept(f"of a key that is called {value}", with_header(kid=quoted(value)), "odd kids")
    yield accept("beyond ASCII, escaped", with_header(kid=r'"\ud83d\ude00"'), "odd kids")
    yield reject("InvalidHeader", "a number where a key is called so", with_header(kid="1"), "odd kids")
    yield reject("UnknownKey", "a path that leads to a known one", with_header(kid='"a/../own"'), "odd kids")


def head():
    for value in ("JWT", "jwt", "Jwt", "at+jwt", "AT+JWT", "application/jwt", "application/at+jwt",
                  "APPLICATION/AT+JWT",
                  r"application\/at+jwt", r"J\u0057T"):
        yield accept(f"typ {value}", with_header(typ=quoted(value)))
    for value in ('"dpop+jwt"', '"evil"', '""', '"JWT "', '" JWT"', 
                  '"JW"', '"at+jwt; charset=utf-8"', '"application/application/jwt"', 
                  '"jwt/application"', r'"JWT\u0000"', '"\uff2aWT"', "null", "1", "false", '["JWT"]', r'"\ud800"'):
        yield reject("InvalidHeader", f"typ {value}", with_header(typ=value))
    for value in ('["exp"]', '["b64"]', '["alg"]', '["unknown"]', "[]", '"exp"', '""', "null", "false", "0", "{}"):
        yield reject("InvalidHeader", f"crit {value}", with_header(crit=value))
    yield reject("InvalidHeader", "crit that names a header", with_header(exp=EXP, crit='["exp"]'))
    yield reject("InvalidHeader", "crit with an escape in its name", jws(None, plus(header(), r'"cri\u0074":["exp"]')))
    yield reject("InvalidHeader", "b64 false under crit", with_header(b64="false", crit='["b64"]'))
    for name, value in [("b64", "false"), ("b64", "true"), ("b64", "null"), ("zip", '"DEF"'), ("zip", '"GZ"'),
                        ("zip", "null"),
                        ("enc", '"A256GCM"'), ("enc", '""'), ("enc", "null")]:
        yield reject("InvalidHeader", f"{name} {value}", with_header(**{name: value}))
    yield reject("InvalidHeader", "b64 false, payload as text, signed so", unencoded())
    for name, value in [("cty", '"JWT"'), ("p2c", "2147483647"), ("iss", '"https://evil.example"'), ("exp", "0"), 
                        ("Crit", '["exp"]'), ("ALG", '"none"'), ("x", "[[[]]]"), ("", '""'),
                        ("typ ", '"evil"'), ("alg\\u0000", '"none"')]:
        yield accept(f"unread member {name!r}", with_header(**{name: value}))
    yield accept("members in another order", jws(None, f'{{"alg":"RS256","kid":{quoted(KEY1.kid)}}}'))
    yield accept("white space", jws(None, " \t\r\n" + header().replace(":", " :\n").replace(",", "\t, ") + "\r\n"))
    yield accept("50 unread members", with_header(**{f"x{n}": n for n in range(50)}))
    text = header()
    for name, faulty in [
        ("an array", f"[{text}]"), ("an array of names and values", f'["alg","RS256","kid",{quoted(KEY1.kid)}]'),
        ("a string", json.dumps(text)),
        ("null", "null"), ("white space alone", "  "), 
        ("bytes after", text + "x"), ("two objects", text + text), ("a NUL after", text + "\0"),
        ("a byte order mark", "\ufeff" + text), ("cut off", text[:-1]), ("a comma too many", text[:-1] + ",}"),
        ("a comment inside", "{/**/" + text[1:]),
        ("single quotes", text.replace('"', "'")), 
        ("a space that is none in JSON", "{\u00a0" + text[1:]),
        ("missing colon", text.replace('"alg":', '"alg" ')), ("200 arrays", arrays(200)),
        ("a value missing", text[:-1] + ',"x":}'), ("a bare word", text[:-1] + ',"x":none}'), 
        ("UTF-16", "".join(c + "\0" for c in text)), ("invalid UTF-8", text[:-1] + ',"x":"\udcff"}'),
        ("a surrogate in UTF-8", text[:-1] + ',"x":"\udced\udca0\udc80"}'),
        ("UTF-8 too long", text[:-1] + ',"x":"\udcc0\udcaf"}'),
        ("invalid UTF-8 in a name", text[:-1] + ',"\udcff":1}'),
        ("a NUL in a text", text[:-1] + ',"x":"\0"}'),
    ]:
        yield reject("Malformed", name, jws(None, faulty))


def unencoded():
    """RFC 7797: the payload is signed as it is."""
    head, payload = header(b64="false"), machine()
    signature = rs256(KEY1, f"{encode(head)}.{payload}".encode())
    return f"{encode(head)}.{encode(payload)}.{b64(signature)}"


def signature():
    good = jws()
    bytes_ = signature_of(good)
    other = jws(machine(scope='"activity/read"'))
    numbers = KEY1.private.private_numbers()

    def flipped(at, bit=1):
        return bytes(byte ^ (bit if index == at else 0) for index, byte in enumerate(bytes_))

    for name, faulty in [
        ("a zero before", b"\0" + bytes_), ("a zero after", bytes_ + b"\0"), ("twice", bytes_ * 2),
        ("reversed", bytes_[::-1]),
        ("without the first byte", bytes_[1:]), ("without the last byte", bytes_[:-1]), ("one zero byte", b"\0"),
        ("256 zeros", bytes(256)), ("256 times 0xff", b"\xff" * 256), ("one", bytes(255) + b"\1"),
        ("n", MODULUS.to_bytes(256, "big")),
        ("n - 1", (MODULUS - 1).to_bytes(256, "big")), ("n + 1", (MODULUS + 1).to_bytes(256, "big")),
        ("n - s", (MODULUS - int.from_bytes(bytes_, "big")).to_bytes(256, "big")),
        ("first bit flipped", flipped(0, 128)),
        ("last bit flipped", flipped(255)), ("a bit in the middle flipped", flipped(128, 16)),
        ("of another token", signature_of(other)),
        ("the hash alone", hashlib.sha256(good.rsplit(".", 1)[0].encode()).digest()), ("64 bytes", bytes_[:64]),
        ("384 bytes", bytes_ + bytes_[:128]),
        ("p", numbers.p.to_bytes(256, "big")),
        ("the encoded message, not signed", encoded_message(good.rsplit(".", 1)[0].encode())),
    ]:
        yield reject("BadSignature", name, with_signature(good, faulty))
    h, p, s = good.split(".")
    oh, op, os = other.split(".")
    yield reject("BadSignature", "payload of another token", f"{h}.{op}.{s}")
    yield reject("BadSignature", "header with one more space", f"{encode(header() + ' ')}.{p}.{s}")
    yield reject("BadSignature", "payload with one more space", f"{h}.{encode(machine() + ' ')}.{s}")
    yield reject("BadSignature", "scope changed after signing", f"{h}.{encode(machine(scope=quoted('admin/*')))}.{s}")
    yield reject("BadSignature", "exp changed after signing", f"{h}.{encode(machine(exp=EXP + 1))}.{s}")
    yield reject("BadSignature", "slashes escaped after signing", f"{h}.{encode(escaped(machine()))}.{s}")
    for name, sign in [
        ("over the payload alone", lambda key, data: rs256(key, data.split(b".")[1])),
        ("over the parts without a dot", lambda key, data: rs256(key, data.replace(b".", b""))),
        ("over the decoded parts", lambda key, data: rs256(key, (header() + "." + machine()).encode())),
        ("over the hash", lambda key, data: rs256(key, hashlib.sha256(data).digest())),
        ("over the hash in hexadecimal", lambda key, data: rs256(key, hashlib.sha256(data).hexdigest().encode())),
        ("over the input and a line feed", lambda key, data: rs256(key, data + b"\n")),
        ("SHA-1 called SHA-256", pkcs1("3021300906052b0e03021a05000414", hashlib.sha1)),
        ("SHA-1 with the name of SHA-256", lambda key, data: raw_rsa(key, encoded_message(data, digest=hashlib.sha1))),
        ("MD5", pkcs1("3020300c06082a864886f70d020505000410", hashlib.md5)),
        ("SHA-224", pkcs1("302d300d06096086480165030402040500041c", hashlib.sha224)),
        ("SHA-512/256", lambda key, data: raw_rsa(key, encoded_message(
            data, info=bytes.fromhex("3031300d060960864801650304020605000420"), digest=hashlib.sha256))),
        ("SHA3-256", pkcs1("3031300d060960864801650304020805000420", hashlib.sha3_256)),
        ("no DigestInfo", lambda key, data: raw_rsa(key, encoded_message(data, info=b""))),
        ("DigestInfo without NULL", lambda key, data: raw_rsa(key, encoded_message(
            data, info=bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20"))),
        ("DigestInfo with a long length", lambda key, data: raw_rsa(key, encoded_message(
            data, info=bytes.fromhex("308131300d060960864801650304020105000420")))),
        ("DigestInfo with parameters", lambda key, data: raw_rsa(key, encoded_message(
            data, info=bytes.fromhex("3033300f06096086480165030402010402ffff0420")))),
        ("block type 0", lambda key, data: raw_rsa(key, encoded_message(data, filler=b"\0", kind=b"\0"))),
        ("block type 2", lambda key, data: raw_rsa(key, encoded_message(data, kind=b"\2"))),
        ("padded with zeros", lambda key, data: raw_rsa(key, encoded_message(data, filler=b"\0"))),
        ("padded with 0xfe", lambda key, data: raw_rsa(key, encoded_message(data, filler=b"\xfe"))),
        ("a hole in the padding", lambda key, data: raw_rsa(key, holed(encoded_message(data)))),
        ("garbage after the hash", lambda key, data: raw_rsa(key, garbage_after(data))),
        ("garbage before the DigestInfo", lambda key, data: raw_rsa(key, garbage_before(data))),
    ]:
        yield reject("BadSignature", name, jws(sign=sign))
    beyond, token = beyond_modulus()
    yield accept("smaller than n", token)
    yield reject("BadSignature", "the same plus n", with_signature(token, beyond))
    zero = starts_with_zero()
    yield accept("begins with a zero byte", zero)
    yield reject("BadSignature", "begins with a zero byte that is left out",
                 with_signature(zero, signature_of(zero)[1:]))
    for name, changes in [("another token_use", {"token_use": '"id"'}), ("exp in the past", {"exp": 0}),
                          ("exp null", {"exp": "null"}),
                          ("another client", {"client_id": '"x"'}), ("cnf", {"cnf": "{}"}),
                          ("nbf in the future", {"nbf": EXP})]:
        honest = with_claims(**changes)
        faulty = bytes([signature_of(honest)[0] ^ 1]) + signature_of(honest)[1:]
        yield reject("BadSignature", f"bad, and {name}", with_signature(honest, faulty))


def holed(em):
    return em[:100] + b"\x00" + em[101:]


def garbage_after(data):
    tail = SHA256_INFO + hashlib.sha256(data).digest()
    start = b"\x00\x01" + b"\xff" * 8 + b"\x00" + tail
    return start + b"\xaa" * (256 - len(start))


def garbage_before(data):
    tail = SHA256_INFO + hashlib.sha256(data).digest()
    return b"\x00\x01" + b"\xff" * 8 + b"\x00" + b"\xaa" * (256 - 11 - len(tail)) + tail


def beyond_modulus():
    """A signature to which the modulus can be added without a byte more, and the sum."""
    for number in range(10000):
        token = with_claims(jti=quoted(number))
        total = int.from_bytes(signature_of(token), "big") + MODULUS
        if total < 1 << 2048:
            return total.to_bytes(256, "big"), token
    raise AssertionError


def starts_with_zero():
    for number in range(10000):
        token = with_claims(jti=quoted(number))
        if signature_of(token)[0] == 0:
            return token
    raise AssertionError


def payload():
    text = machine()
    fields = f'[{quoted(ISSUER)},"access",{quoted(CLIENT)},{quoted(CLIENT)},{EXP}]'
    for name, faulty in [
        ("an array", f"[{text}]"), ("an array of the claims in order", fields), ("a string", json.dumps(text)),
        ("null", "null"), ("white space alone", " \n"), 
        ("bytes after", text + "x"), ("two objects", text + text), 
        ("a NUL after", text + "\0"), ("a NUL before", "\0" + text), ("a byte order mark", "\ufeff" + text),
        ("cut off", text[:-1]),
        ("a comma too many", text[:-1] + ",}"), ("a comment", "/**/" + text), 
        ("single quotes", text.replace('"', "'")), ("names without quotes", text.replace('"sub"', "sub")),
        ("names that are numbers", plus(text, "1:1")), 
        ("a space that is none in JSON", "{\u2003" + text[1:]),
        ("UTF-16", "".join(c + "\0" for c in text)), 
        ("invalid UTF-8", plus(text, '"x":"\udcff"')), ("invalid UTF-8 in a claim that is read",
                                                        machine(sub='"\udcff"')),
        ("invalid UTF-8 in a name", plus(text, '"\udcff":1')), ("a surrogate in UTF-8",
            plus(text, '"x":"\udced\udca0\udc80"')),
        ("a pair of surrogates in UTF-8", plus(text, '"x":"\udced\udca0\udcbd\udced\udcb8\udc80"')),
        ("UTF-8 too long", plus(text, '"x":"\udcc0\udcaf"')),
        ("UTF-8 beyond Unicode", plus(text, '"x":"\udcf4\udc90\udc80\udc80"')),
        ("a UTF-8 letter cut off", plus(text, '"x":"\udce2\udc82"')),
        ("a line feed in a text", plus(text, '"x":"\n"')),
        ("a line feed in a claim that is read", machine(scope='"activity/*\nadmin/*"')),
        ("a tab in a claim that is read", machine(scope='"activity/*\tadmin/*"')),
        ("a NUL in a text", plus(text, '"x":"\0"')), ("a control character in a name", plus(text, '"x\x01":1')),
        ("a bad escape", plus(text, r'"x":"\x41"')),
        ("a short \\u escape", plus(text, r'"x":"\u00e"')), ("a \\u escape that is no number",
            plus(text, r'"x":"\u00zz"')),
        ("an escape cut off", text[:-2] + "\\"), ("a value missing", plus(text, '"x":')),
        ("NaN", plus(text, '"x":NaN')), 
        ("an array not closed", plus(text, '"x":[1')), ("brackets crossed", plus(text, '"x":[{]}')),
        ("a comma at the end of an array", plus(text, '"x":[1,]')),
        ("a token inside", jws()), 
    ]:
        yield reject("Malformed", name, jws(faulty))
    yield reject("UnknownIssuer", "no member", jws("{}"))
    yield reject("UnknownIssuer", "no member but white space", jws("{ \n\t\r }"))
    yield accept("white space", jws("\n\t " + text.replace(":", ": ").replace("https: ", "https:").replace(",",
        "\r\n,") + "\r\n "))
    yield accept("members in another order", jws("{" + ",".join(reversed(text[1:-1].split(","))) + "}"))
    yield accept("one claim more than is read", with_member('"x":1'))
    yield accept("200 claims that are not read", jws(plus(text, ",".join(f'"x{n}":{n}' for n in range(200)))))
    yield accept("names that differ in case alone", with_claims(EXP="0", Iss='"x"', SUB="1", Token_Use='"id"',
        Client_Id='"x"', CNF="{}", Scope="1"))
    yield accept("names that look alike", with_claims(**{"exp ": "0", " iss": '"x"', "e\u0445p": "0",
                                                         "exp\\u0000": "0", "": "1", "ｓub": "1"}))
    yield accept("claims of the same names further down",
                 with_claims(x='{"exp":0,"iss":"x","sub":1,"cnf":{},"x":{"x":[]}}'))
    for name, value in [("null", "null"), ("true", "true"), ("false", "false"), ("a number", "-12.5e-3"),
                        ("a text", '"a"'), ("an array", '[1,[],"a"]'),
                        ("an object", '{"a":{"b":null}}')]:
        yield accept(f"unread claims, each {name}", with_claims(**{claim: value for claim in (
            "auth_time", "version", "event_id", "origin_jti", "email", "azp", "scp", "roles", "device_key",
            "may_act", "nonce", "at_hash")}))


def duplicates():
    full = {"sub": quoted(SUB), "token_use": '"access"', "iss": quoted(ISSUER), "exp": EXP,
            "client_id": quoted(CLIENT),
            "nbf": NOW, "iat": NOW, "aud": '"a"', "cnf": "{}", "scope": '"a/b"', "username": '"u"',
            "cognito:groups": '["g"]', "jti": '"j"', "x": "1"}
    for claim, value in full.items():
        once = machine(**{claim: value})
        yield reject("Malformed", f"{claim} twice", jws(plus(once, f'"{claim}":{value}')))
        if claim not in ("exp", "iss", "scope"):
            name = rf"\u{ord(claim[0]):04x}{claim[1:]}"
            yield reject("Malformed", f"{claim} twice, once with an escape", jws(plus(once, f'"{name}":{value}')))
    yield reject("Malformed", "a bad claim before the good one", jws('{"token_use":"id",' + machine()[1:]))
    yield reject("Malformed", "a bad claim after the good one", with_member('"token_use":"id"'))
    yield reject("Malformed", "null before the good one", jws('{"exp":null,' + machine()[1:]))
    yield reject("Malformed", "an unread name twice with escapes in both", with_member(r'"\u0078":1,"\u0078":2'))
    yield reject("Malformed", "the ninth unread name twice", with_member(",".join(f'"x{n}":1' for n in [*range(9),
        8])))
    yield reject("Malformed", "the first unread name after twenty",
                 with_member(",".join(f'"x{n}":1' for n in [*range(20), 0])))
    yield reject("Malformed", "an escaped name and then its plain form after twenty", with_member(
        r'"\u00780":1,' + ",".join(f'"x{n}":1' for n in [*range(1, 20), 0])))
    yield reject("Malformed", "an empty name twice", with_member('"":1,"":1'))
    yield reject("Malformed", "a name with a slash, escaped and plain", with_member(r'"a\/b":1,"a/b":1'))
    yield reject("Malformed", "a name beyond ASCII, escaped and plain", with_member(r'"\u00e9":1,"' + '\u00e9":1'))
    yield accept("a name in two forms of Unicode", with_member(r'"\u00e9":1,"e\u0301":1'))
    yield accept("names with a slash and with a backslash", with_member(r'"a/b":1,"a\\/b":1'))
    yield accept("claims with an escape in each name", jws(re.sub(
        r'"(\w)(\w*)":', lambda match: rf'"\u{ord(match[1]):04x}{match[2]}":', machine())))
    for name, member in [("alg", '"alg":"RS256"'), ("alg none", '"alg":"none"'),
                         ("alg with an escape", r'"\u0061lg":"RS256"'),
                         ("kid", quoted("kid") + ":" + quoted(KEY1.kid)),
                         ("another kid", '"kid":"x"'), ("kid with an escape", r'"k\u0069d":"x"'),
                         ("typ", '"typ":"JWT","typ":"JWT"'), ("jku", '"jku":"a","jku":"a"'),
                         ("an unread name", '"x":1,"x":1'), ("an unread name with an escape", r'"x":1,"\u0078":1')]:
        yield reject("Malformed", f"header: {name} twice", jws(None, plus(header(), member)))
    yield reject("Malformed", "header: alg none first", jws(None, '{"alg":"none",' + header()[1:]))
    yield reject("Malformed", "header: crit twice", jws(None, plus(header(), '"crit":[],"crit":[]')))


def escapes():
    with_scope = machine(scope='"activity/*"')
    yield accept("slashes escaped as Cognito did", jws(escaped(with_scope), escaped(header())),
                 reads={"scopes": ["activity/*"]})
    yield accept("slashes escaped in the header alone", jws(machine(), escaped(header())))
    yield accept("slashes escaped in the payload alone", jws(escaped(machine()), header()))
    yield accept("some slashes escaped", jws(machine().replace("/", "\\/", 1)))
    yield accept("slashes as \\u002f and \\u002F", jws(machine().replace("//", r"\u002f\u002F"), header()))
    yield accept("every letter of the claims escaped",
                 with_claims(**{claim: quoted("".join(rf"\u{ord(c):04x}" for c in value)) for claim, value in [
        ("iss", ISSUER), ("token_use", "access"), ("client_id", CLIENT), ("sub", CLIENT), ("scope", "activity/*")]}),
        reads={
            "subject": CLIENT, "client_id": CLIENT, "scopes": ["activity/*"]})
    yield accept("a user's names beyond ASCII", with_claims(username=r'"\u65e5本\uD83D\ude00"',
                                                            **{"cognito:groups": r'["Z\u00fcrich","東京"]'}),
                 reads={"username": "日本😀", "groups": ["Zürich", "東京"]})
    yield accept("short escapes in a claim that is read", with_claims(sub=r'"\"\\\/\b\f\n\r\t"'),
                 reads={"subject": "\"\\/\b\f\n\r\t"})
    yield accept("a NUL in a claim that is read", with_claims(sub=r'"a\u0000b"'), reads={"subject": "a\0b"})
    yield accept("noncharacters", with_claims(x=r'"\uffff\ufffe\ufdd0"', sub='"\uffff"'))
    for name, value in [("a pair", r"\ud83d\ude00"), ("a pair in capitals", r"\uD83D\uDE00"),
                        ("two pairs", r"\ud83d\ude00\ud83d\ude01"), ("a backslash before", r"\\ud800"),
                        ("neighbours of surrogates", r"\ud7ff\ue000"), ("a pair after a backslash", r"\\\ud83d\ude00"),
                        ("the last pair", r"\udbff\udfff")]:
        yield accept(f"unread: {name}", with_claims(x=quoted(value)))
    for name, value in [("a high one", r"\ud800"), ("the last high one", r"\udbff"), ("a low one", r"\udc00"),
                        ("the last low one", r"\uDFFF"), ("two high ones", r"\ud83d\ud83d"),
                        ("a pair the wrong way round", r"\ude00\ud83d"), ("a high one and a letter", r"\ud800a"),
                        ("a high one and an escape", r"\ud800\n"),
                        ("a high one and \\u0041", r"\ud800\u0041"), ("after a backslash", r"\\\ud800"),
                        ("after a pair", r"\ud83d\ude00\ude00"),
                        ("before a backslash", r"\ud800\\ude00"), ("before a slash", r"\ud800\/udc00")]:
        yield reject("Malformed", f"a lone surrogate, unread: {name}", with_claims(x=quoted(value)))
    yield reject("Malformed", "a lone surrogate in an array", with_claims(x=r'["a",["\udc00"]]'))
    yield reject("Malformed", "a lone surrogate in an object", with_claims(x=r'{"a":{"b":"\ud800"}}'))
    yield reject("Malformed", "a lone surrogate in a name further down", with_claims(x=r'{"\ud800":1}'))
    yield reject("Malformed", "a lone surrogate in a name", with_member(r'"\ud800":1'))
    yield reject("Malformed", "header: a lone surrogate", with_header(x=r'"\ud800"'))
    yield reject("Malformed", "header: a lone surrogate in a name", jws(None, plus(header(), r'"\udfff":1')))
    for claim in ("sub", "client_id", "scope", "username", "jti", "aud", "exp"):
        yield reject("InvalidClaim", f"a lone surrogate in {claim}", with_claims(**{claim: r'"\ud800"'}))
    yield reject("InvalidClaim", "a lone surrogate in a group", with_claims(**{"cognito:groups": r'["a","\udc00"]'}))
    yield reject("InvalidClaim", "a lone surrogate in an audience", with_claims(aud=r'["a","\udc00"]'))
    for name, changes, reason in [
        ("issuer with escaped backslashes", {"iss": quoted(ISSUER.replace("/", r"\\/"))}, "UnknownIssuer"),
        ("issuer with \\\\u002f", {"iss": quoted(ISSUER.replace("/", r"\\u002f"))}, "UnknownIssuer"),
        ("client with an escaped backslash", {"client_id": quoted("\\\\" + CLIENT)}, "WrongClient"),
        ("token_use with a NUL", {"token_use": r'"access\u0000"'}, "WrongTokenUse"),
        ("token_use with an escape twice over", {"token_use": r'"\\u0061ccess"'}, "WrongTokenUse"),
    ]:
        yield reject(reason, name, with_claims(**changes))


def depth():
    for name, value in [("arrays", arrays), ("objects", objects)]:
        yield accept(f"{name} 32 deep", with_claims(x=value(32)))
        for levels in (33, 128, 1000):
            yield reject("Malformed", f"{name} {levels} deep", with_claims(x=value(levels)))
        yield accept(f"header: {name} 32 deep", with_header(x=value(32)))
        yield reject("Malformed", f"header: {name} 33 deep", with_header(x=value(33)))
    yield reject("Malformed", "arrays 5000 deep", with_claims(x=arrays(5000)))
    yield reject("Malformed", "arrays 5000 deep, not closed", with_claims(x="[" * 5000))
    yield reject("Malformed", "16 arrays around 17 objects", with_claims(x="[" * 16 + objects(17) + "]" * 16))
    yield accept("16 arrays around 16 objects", with_claims(x="[" * 16 + objects(16) + "]" * 16))
    yield accept("100 arrays beside each other", with_claims(x="[" + ",".join(["[]"] * 100) + "]"))
    yield accept("100 brackets in a text", with_claims(x=quoted("[" * 100)))
    yield accept("a quote and 100 brackets in a text", with_claims(x='"\\"' + "[" * 100 + '"'))
    yield accept("32 deep in two claims", with_claims(x=arrays(32), y=objects(32)))
    for claim, reason in [("sub", "InvalidClaim"), ("exp", "InvalidClaim"), ("aud", "InvalidClaim"),
                          ("cognito:groups", "InvalidClaim"), ("iss", "UnknownIssuer"),
                          ("token_use", "WrongTokenUse"), ("cnf", "SenderConstrained")]:
        yield reject(reason, f"{claim} 200 deep", with_claims(**{claim: arrays(200)}))
    yield accept("act 32 deep", with_claims(act=objects(32)))
    yield reject("InvalidClaim", "act 33 deep", with_claims(act=objects(33)))
    yield reject("InvalidHeader", "header: kid 200 deep", with_header(kid=arrays(200)))


def numbers():
    for value in ("0", "-0", "1e999999", "-1E-999999", "1E+5", "18446744073709551616", "1e309", 
                  "0." + "0" * 400 + "1", "9" * 5000):
        yield accept(f"unread: {value[:40]}", with_claims(x=value))
    for value in ("+1", "01", ".5", "5.", "-", "1e", "1_000", "0x1F", "-Infinity"):
        yield reject("Malformed", f"unread: {value}", with_claims(x=value))


def issuer():
    cognito = {"rules": "a pool of Cognito"}
    yield accept("the original issuer", with_claims(iss=quoted(ORIGINAL)), **cognito)
    yield accept("the updated issuer", with_claims(iss=quoted(UPDATED)), **cognito)
    yield accept("the one issuer", with_claims(iss=quoted(ORIGINAL)), rules="an issuer of Cognito")
    yield reject("UnknownIssuer", "the updated issuer where one is trusted", with_claims(iss=quoted(UPDATED)),
                 rules="an issuer of Cognito")
    yield reject("UnknownIssuer", "an issuer that is trusted elsewhere", jws(), **cognito)
    host = "cognito-idp.ap-northeast-1.amazonaws.com"
    for name, value in [
        ("another pool", ORIGINAL[:-1] + "J"), ("another Region", ORIGINAL.replace("northeast-1.", "northeast-2.")),
        ("a slash after", ORIGINAL + "/"),
        ("a letter after", ORIGINAL + "x"), ("without its last letter", ORIGINAL[:-1]),
        ("a space after", ORIGINAL + " "),
        ("a space before", " " + ORIGINAL), ("a NUL after", ORIGINAL + r"\u0000"),
        ("an upper-case host", ORIGINAL.replace(host, host.upper())),
        ("an upper-case scheme", ORIGINAL.replace("https", "HTTPS")), ("plain http",
            ORIGINAL.replace("https", "http")), ("no scheme", ORIGINAL[8:]),
        ("the port", ORIGINAL.replace(".com", ".com:443")), ("a dot after the host",
            ORIGINAL.replace(".com", ".com.")), ("userinfo", ORIGINAL.replace("//", "//evil@")),
        ("the host in userinfo", ORIGINAL.replace(".com/", ".com@evil.example/")),
        ("a host that begins so", ORIGINAL.replace(".com/", ".com.evil.example/")),
        ("a query", ORIGINAL + "?a=b"), ("a fragment", ORIGINAL + "#a"),
        ("a path before", ORIGINAL.replace(".com/", ".com/x/")), ("a path to climb",
            ORIGINAL.replace(".com/", ".com/x/../")),
        ("percent-encoded", ORIGINAL.replace("ap-", "%61p-")), ("backslashes", ORIGINAL.replace("/", r"\\")),
        ("a pool in lower case", ORIGINAL[: -len("AbCdEfGhI")] + "abcdefghi"),
        ("a look-alike", ORIGINAL.replace("amazonaws", "am\u0430zonaws")), ("the pool's ID alone", POOL),
        ("empty", ""), ("the URL of the keys", ORIGINAL + "/.well-known/jwks.json"), 
        ("the China suffix", ORIGINAL.replace(".com", ".com.cn")), ("two issuers in one", f"{ORIGINAL},{UPDATED}"),
        ("a star", "*"),
        ("the updated issuer of another pool", UPDATED[:-1] + "J"),
    ]:
        yield reject("UnknownIssuer", name, with_claims(iss=quoted(value)), **cognito)
    for name, value in [("absent", None), ("null", "null"), ("true", "true"), ("a number", "1"),
                        ("an empty array", "[]"), ("an array", f"[{quoted(ORIGINAL)}]"),
                        ("an object", f'{{"iss":{quoted(ORIGINAL)}}}'), ("a lone surrogate", r'"\ud800"'),
                        ("an issuer and a lone surrogate", quoted(ORIGINAL + r"\ud800"))]:
        yield reject("UnknownIssuer", name, with_claims(iss=value), **cognito)


def token_use():
    yield accept("access", jws())
    for value in ('"id"', '"ID"', '"refresh"', '"Access"', '"ACCESS"', '"access "', '" access"', '"acces"',
                  '"accesss"', '"access id"', '"\uff41ccess"', '""', '"*"',
                  "null", "true", "1", "[]", '["access"]', '["id","access"]', '{"access":true}', r'"\ud800"'):
        yield reject("WrongTokenUse", value, with_claims(token_use=value))
    yield reject("WrongTokenUse", "absent", with_claims(token_use=None))
    id_token = {"token_use": '"id"', "aud": quoted(CLIENT), "cognito:username": quoted(SUB),
                "email": '"a@example.com"'}
    yield reject("WrongTokenUse", "an ID token", with_claims(client_id=None, scope=None, **id_token))
    yield reject("WrongTokenUse", "an ID token under any client", with_claims(client_id=None, scope=None, **id_token),
                 rules="any client")
    yield reject("WrongTokenUse", "an ID token with the claims of an access token", with_claims(**id_token))
    yield reject("WrongTokenUse", "an ID token, its client the audience",
                 with_claims(**{**id_token, "aud": quoted(AUDIENCE)}), rules="audience")


def client():
    yield accept("the client", jws())
    yield accept("the one in the middle", jws(), rules="several clients")
    yield accept("another of several", with_claims(client_id='"one more"'), rules="several clients")
    yield reject("WrongClient", "none of several", with_claims(client_id='"two more"'), rules="several clients")
    yield accept("any client", with_claims(client_id='"never heard of"'), rules="any client")
    yield accept("any client, empty", with_claims(client_id='""'), rules="any client")
    for name, value in [("another", OTHER_CLIENT), ("in capitals", CLIENT.upper()), ("a space after", CLIENT + " "),
                        ("a space before", " " + CLIENT), ("a letter more", CLIENT + "n"),
                        ("a letter less", CLIENT[:-1]), ("the first letter missing", CLIENT[1:]), ("empty", ""),
                        ("a star", "*"), ("two clients", f"{CLIENT} {OTHER_CLIENT}"),
                        ("two clients and a comma", f"{CLIENT},{OTHER_CLIENT}"), ("a NUL after", CLIENT + r"\u0000"),
                        ("a look-alike", CLIENT.replace("c", "\u0441"))]:
        yield reject("WrongClient", name, with_claims(client_id=quoted(value)))
    for rules in ("usual", "any client"):
        for name, value in [("absent", None), ("null", "null"), ("a number", "5"),
                            ("an array", f"[{quoted(CLIENT)}]")]:
            yield reject("InvalidClaim", f"{name}, {rules}", with_claims(client_id=value), rules=rules)
    yield reject("WrongClient", "the client in aud and azp", with_claims(client_id=quoted(OTHER_CLIENT),
        aud=quoted(CLIENT), azp=quoted(CLIENT), cid=quoted(CLIENT)))
    yield reject("InvalidClaim", "the client in aud and azp alone", with_claims(client_id=None, aud=quoted(CLIENT),
        azp=quoted(CLIENT)), rules="any client")
    yield reject("WrongClient", "the client in sub alone", with_claims(client_id=quoted(OTHER_CLIENT),
        sub=quoted(CLIENT)))


TEXT_TRAPS = ("null", "0", "true", "[]", '["a"]', "{}")
DATE_TRAPS = ("null", "true", quoted(EXP), '""', f"[{EXP}]", "{}")
# RFC 8693 section 4.1.
ACTORS = ("{}", '{"sub":"s"}', '{"iss":"x","sub":"s"}', '{"sub":"s","act":{"sub":1}}', '{"client_id":1}')
ACTOR_TRAPS = ("null", "1", "true", '"s"', "[]", '[{"sub":"s"}]', '{"sub":1}', '{"sub":null}', '{"sub":""}',
               '{"sub":["s"]}', '{"sub":"s","sub":"s"}', '{"sub":"s","\\u0073ub":"t"}', '{"x":1,"x":1}',
               '{"x":"\\ud800"}')
LIST_TRAPS = ("null", "1", "true", '{"0":"a"}', "[1]", '["a",null]', '["a",["b"]]', "[{}]")


def claim_types():
    for claim, traps in [("sub", TEXT_TRAPS), ("scope", (*TEXT_TRAPS, '["activity/*"]')), ("username", TEXT_TRAPS),
                         ("jti", TEXT_TRAPS), ("exp", DATE_TRAPS), ("nbf", DATE_TRAPS),
                         ("iat", DATE_TRAPS), ("aud", LIST_TRAPS), ("cognito:groups", (*LIST_TRAPS, '"ops"', '""')),
                         ("act", ACTOR_TRAPS)]:
        for value in traps:
            yield reject("InvalidClaim", f"{claim} {value}", with_claims(**{claim: value}))
    yield reject("InvalidClaim", 'sub ""', with_claims(sub='""'))
    for value in ACTORS:
        yield accept(f"act {value}", with_claims(act=value))
    for claim in ("sub", "exp"):
        yield reject("InvalidClaim", f"{claim} absent", with_claims(**{claim: None}))
        yield reject("InvalidClaim", f"{claim} absent under any client", with_claims(**{claim: None}),
                     rules="any client")
    for claim in ("iat", "scope"):
        yield accept(f"{claim} absent", with_claims(**{claim: None}))
    for claim, value in [("username", '""'), ("jti", '""'), ("scope", '""'), ("cognito:groups", "[]"),
                         ("cognito:groups", '[""]'), ("aud", "[]"), ("aud", '""'),
                         ("iat", "0"), ("iat", str(EXP + HOUR)), ("nbf", "0"), ("nbf", "-1")]:
        yield accept(f"{claim} {value}", with_claims(**{claim: value}))


def dates():
    for value in (f"{EXP}", f"{EXP}.0", f"{EXP}.000000000000000000000", "1.7900036e9", "1.7900036E9", "17900036e2",
                  "179000360000e-2",
                  "1790003600000000000000e-12", "0.17900036e10", "0.0000017900036e15", f"{EXP}e0", f"{EXP}.5",
                  f"{EXP}.999999999999999999999999", "1790003600999e-3",
                  "0.0000000000000000000017900036e30", "17900036" + "0" * 60 + "e-58"):
        yield accept(f"exp {value}", with_claims(exp=value), reads={"expires_at": EXP})
    for value, reads in [("253402300799", 253402300799), ("253402300799.9", 253402300799),
                         ("2.53402300799e11", 253402300799), (f"{NOW + 1}", NOW + 1), (f"{NOW + 1}.9", NOW + 1),
                         ("9007199254740993e-6", 9007199254)]:
        yield accept(f"exp {value}", with_claims(exp=value), reads={"expires_at": reads})
    for value in ("0", "-0", "-0.0e9", "-1", "1e-999", "0e999999999999999999999", "-377705116800", f"{NOW}",
                  f"{NOW}.5", f"{NOW}.99999999999999999999", "1.7900000009999e9",
                  f"{NOW - 1}.999", "1e9", "-1e9"):
        yield reject("Expired", f"exp {value}", with_claims(exp=value))
    for claim in ("exp", "nbf", "iat"):
        for value in ("253402300800", "18446744073709551616", "1e309", "1e999999999999999999999", "-377705116801",
                      "-377705116800.1", "-1e300", "9" * 4000):
            yield reject("InvalidClaim", f"{claim} {value[:40]}", with_claims(**{claim: value}))
    for value in ("NaN", "Infinity", f"+{EXP}", f"0{EXP}", f"{EXP}.", "1e", "0x6ab13b80", f"{EXP}L", "1_790_003_600",
                  "-"):
        yield reject("Malformed", f"exp {value}", with_claims(exp=value))
    for claim in ("nbf", "iat"):
        yield reject("Malformed", f"{claim} NaN", with_claims(**{claim: "NaN"}))
    for value in (f"{NOW}", f"{NOW}.0", "1.79e9", f"{NOW}.999999999", "0", "-377705116800", "1e-999", "-0.1"):
        yield accept(f"nbf {value}", with_claims(nbf=value))
    for value in (f"{NOW + 1}", f"{NOW + 1}.0", "1.790000001e9", f"{NOW + 1}.5", "253402300799", "1790000001000e-3"):
        yield reject("NotYetValid", f"nbf {value}", with_claims(nbf=value))
    for value in ("1.79e9", f"{NOW + 500}.75", "253402300799", "-377705116800"):
        yield accept(f"iat {value}", with_claims(iat=value))


def time():
    for rules, leeway in [("usual", 0), ("leeway 300", 300)]:
        token = with_claims(exp=NOW, iat=NOW - HOUR)
        end = NOW + leeway
        yield accept(f"exp, leeway {leeway}, a second before the end", token, rules=rules, time=end - 1)
        yield accept(f"exp, leeway {leeway}, a nanosecond before the end", token, rules=rules,
                     time=f"{end - 1}.999999999")
        yield reject("Expired", f"exp, leeway {leeway}, at the end", token, rules=rules, time=end)
        yield reject("Expired", f"exp, leeway {leeway}, a nanosecond after the end", token, rules=rules,
                     time=f"{end}.000000001")
        yield reject("Expired", f"exp, leeway {leeway}, an hour after the end", token, rules=rules, time=end + HOUR)
        token = with_claims(nbf=NOW)
        start = NOW - leeway
        yield accept(f"nbf, leeway {leeway}, at the start", token, rules=rules, time=start)
        yield accept(f"nbf, leeway {leeway}, a second after the start", token, rules=rules, time=start + 1)
        yield reject("NotYetValid", f"nbf, leeway {leeway}, a nanosecond before the start", token, rules=rules,
                     time=f"{start - 1}.999999999")
        yield reject("NotYetValid", f"nbf, leeway {leeway}, a second before the start", token, rules=rules,
                     time=start - 1)
        yield reject("NotYetValid", f"nbf, leeway {leeway}, in 1970", token, rules=rules, time=0)
    yield accept("in 1970, without nbf", jws(), time=0)
    yield reject("Expired", "in the year 9999", jws(), time=253402300799)
    latest = with_claims(exp="253402300799")
    yield accept("exp in the year 9999", latest)
    yield accept("exp in the year 9999, a second before", latest, time=253402300798)
    yield reject("Expired", "exp in the year 9999, then", latest, time=253402300799)
    yield reject("Expired", "exp in the year 9999, ten thousand years later", latest, time=600000000000)
    yield accept("iat in the future", with_claims(iat=NOW + 500))
    yield accept("iat after exp", with_claims(iat=EXP + 1))
    yield accept("auth_time in the future", with_claims(auth_time=EXP))
    yield reject("NotYetValid", "nbf after exp", with_claims(nbf=EXP + 1))


def audience():
    for value in (quoted(AUDIENCE), f"[{quoted(AUDIENCE)}]", f'["a",{quoted(AUDIENCE)}]', f'[{quoted(AUDIENCE)},"a"]',
                  quoted(escaped(AUDIENCE)), f"[{quoted(AUDIENCE)},{quoted(AUDIENCE)}]", quoted(AUDIENCE + "/")):
        yield accept(f"{value}", with_claims(aud=value), rules="audience")
    for value in ('"a"', "[]", '["a"]', '""', '[""]', quoted(AUDIENCE + "//"), quoted(AUDIENCE[:-1]),
                  quoted(AUDIENCE.upper()), quoted(AUDIENCE + " "), quoted(AUDIENCE + " a"),
                  quoted("a," + AUDIENCE), quoted(CLIENT), '"*"', f"[{quoted(AUDIENCE + 'x')}]",
                  quoted(AUDIENCE + r"\u0000")):
        yield reject("WrongAudience", f"{value}", with_claims(aud=value), rules="audience")
    yield reject("WrongAudience", "absent", jws(), rules="audience")
    for value in ("null", "1", f'{{"aud":{quoted(AUDIENCE)}}}', f"[{quoted(AUDIENCE)},1]", f"[[{quoted(AUDIENCE)}]]",
                  f"[{quoted(AUDIENCE)},null]"):
        yield reject("InvalidClaim", f"{value}", with_claims(aud=value), rules="audience")


def binding():
    for value in ('{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}', '{"x5t#S256":"AAAA"}', '{"jwk":{}}', "{}",
                  "null", "false", "0", '""', "[]", r'"\ud800"'):
        yield reject("SenderConstrained", f"cnf {value}", with_claims(cnf=value))
    yield reject("SenderConstrained", "cnf with an escape in its name", with_member(r'"\u0063nf":{}'))
    yield accept("cnf further down", with_claims(x='{"cnf":{}}'))
    yield accept("Cnf", with_claims(Cnf="{}"))


def groups():
    for value in ('["ops"]', '["audit/readers"]', r'["audit\/readers"]', '["x","ops"]', '["ops","ops"]',
                  r'["\u006fps"]', '["","ops"]'):
        yield accept(value, with_claims(**{"cognito:groups": value}), rules="groups")
    for value in ("[]", '[""]', '["Ops"]', '["ops "]', '["op"]', '["opsx"]', '["ops,x"]', '["ops audit/readers"]',
                  '["audit"]', '["*"]', r'["ops\u0000"]'):
        yield reject("Forbidden", value, with_claims(**{"cognito:groups": value}), rules="groups")
    yield reject("Forbidden", "absent", jws(), rules="groups")
    yield reject("Forbidden", "in a claim of another name", with_claims(groups='["ops"]',
        **{"Cognito:Groups": '["ops"]'}), rules="groups")
    for value in ('"ops"', "null", '{"ops":true}', '["ops",1]', '[["ops"]]', '["ops",null]'):
        yield reject("InvalidClaim", value, with_claims(**{"cognito:groups": value}), rules="groups")
    yield accept("1000 groups", with_claims(**{"cognito:groups": "[" + '"",' * 999 + '"ops"]'}), rules="groups")


def order():
    """Of two faults, the one that is looked for first."""
    everything = {"aud": quoted(AUDIENCE), "cognito:groups": '["ops"]'}
    good = with_claims(**everything)
    yield accept("no fault", good, rules="everything")
    yield reject("UnsupportedAlgorithm", "alg, issuer", jws(machine(iss='"x"'), header(alg='"HS256"')))
    yield reject("InvalidHeader", "crit, issuer", jws(machine(iss='"x"'), header(crit="[]")))
    yield reject("InvalidHeader", "kid absent, issuer", jws(machine(iss='"x"'), header(kid=None)))
    yield reject("UnknownIssuer", "issuer, kid", jws(machine(iss='"x"'), header(kid='"x"')))
    yield reject("UnknownIssuer", "issuer, signature", with_signature(with_claims(iss='"x"'), bytes(256)))
    yield reject("UnknownIssuer", "issuer, token_use", with_claims(iss='"x"', token_use='"id"'))
    yield reject("UnknownKey", "kid, signature", with_signature(with_header(kid='"x"'), bytes(256)))
    yield reject("UnknownKey", "kid, exp", jws(machine(exp=0), header(kid='"x"')))
    yield reject("BadSignature", "signature, exp", with_signature(with_claims(exp=0), bytes(256)))
    rest = [("WrongTokenUse", {"token_use": '"id"'}), ("WrongClient", {"client_id": '"x"'}), ("Expired", {"exp": 0}),
            ("WrongAudience", {"aud": '"x"'}),
            ("SenderConstrained", {"cnf": "{}"}), ("Forbidden", {"cognito:groups": '["x"]'})]
    for (reason, first), (second_reason, second) in zip(rest, rest[1:]):
        yield reject(reason, f"{reason}, {second_reason}", with_claims(**{**everything, **first, **second}),
                     rules="everything")
    for reason, change in rest:
        yield reject(reason, f"only {reason}", with_claims(**{**everything, **change}), rules="everything")
    yield reject("NotYetValid", "NotYetValid, WrongAudience", with_claims(nbf=EXP, aud='"x"'), rules="everything")


def scope():
    def met(name, requires, value, reads):
        return accept(f"{requires}: {name}", with_claims(scope=value), requires=requires, reads={"scopes": reads})

    def unmet(name, requires, value):
        return accept(f"{requires}: {name}", with_claims(scope=value), requires=requires, status=403)

    literal, read = "new activity/*", "new activity/read"
    yield met("that scope", literal, '"activity/*"', ["activity/*"])
    yield met("among others", literal, '"a/b activity/* c/d"', ["a/b", "activity/*", "c/d"])
    yield met("runs of spaces", literal, '"  a/b   activity/*  "', ["a/b", "activity/*"])
    yield met("an escaped slash", literal, r'"activity\/*"', ["activity/*"])
    yield met("every letter escaped", literal, quoted("".join(rf"\u{ord(c):04x}" for c in "activity/*")),
              ["activity/*"])
    yield met("an escaped space", literal, r'"a/b\u0020activity/*"', ["a/b", "activity/*"])
    yield met("twice", literal, '"activity/* activity/*"', ["activity/*", "activity/*"])
    yield met("scopes that no server has", literal, '"aws.cognito.signin.user.admin openid activity/*"',
              ["aws.cognito.signin.user.admin", "openid", "activity/*"])
    for name, value in [
        ("absent", None), ("empty", '""'), ("spaces alone", '"   "'), ("a lesser scope", '"activity/read"'),
        ("all lesser scopes", '"activity/read activity/write"'),
        ("the server alone", '"activity"'), ("the server and a slash", '"activity/"'), ("the name alone", '"*"'),
        ("a star for all", '"*/*"'),
        ("a slash after", '"activity/*/"'), ("upper case", '"Activity/*"'), ("a letter before", '"xactivity/*"'),
        ("a letter after", '"activity/*x"'), ("a comma", '"activity/*,a/b"'), ("a tab between", r'"a/b\tactivity/*"'),
        ("a line feed between", r'"a/b\nactivity/*"'), ("a no-break space between", '"a/b\u00a0activity/*"'),
        ("a NUL after", r'"activity/*\u0000"'), ("a tab before", r'"\tactivity/*"'),
        ("a zero-width space", '"activity/*\u200b"'), ("percent-encoded", '"activity%2F*"'),
        ("a plus between", '"a/b+activity/*"'),
        ("escaped backslash and slash", r'"activity\\/*"'), ("quotes", r'"\"activity/*\""'),
        ("an array in a text", r'"[\"activity/*\"]"'),
        ("a look-alike", '"\u0430ctivity/*"'), ("split by a space", '"activity /*"'),
        ("two servers", '"activity/activity/*"'),
        
    ]:
        yield unmet(name, literal, value)
    yield unmet("scp and scopes do not stand in", literal, None) | {"token": with_claims(scope=None,
        scp='"activity/*"', scopes='["activity/*"]', Scope='"activity/*"')}
    yield met("that scope", read, '"activity/read"', ["activity/read"])
    for name, value in [("a star is no wildcard", '"activity/*"'), ("a longer name", '"activity/readwrite"'),
                        ("a shorter name", '"activity/rea"'), ("a name that ends so", '"activity/xread"'),
                        ("a longer server", '"my-activity/read"'), ("upper case", '"activity/Read"'),
                        ("another server", '"other/read"'), ("a name inside", '"x/activity/read"')]:
        yield unmet(name, read, value)
    some, every, within = "any_of a/x a/y", "all_of a/x a/y", "any_of_resource_server activity"
    yield met("the first", some, '"a/x"', ["a/x"])
    yield met("the last", some, '"b/z a/y"', ["b/z", "a/y"])
    yield met("both", some, '"a/y a/x"', ["a/y", "a/x"])
    yield unmet("neither", some, '"a/z a a/ x"')
    yield unmet("both as one", some, '"a/x,a/y"')
    yield met("both", every, '"a/x a/y"', ["a/x", "a/y"])
    yield met("both, the other way round", every, '"a/y b/z a/x"', ["a/y", "b/z", "a/x"])
    yield unmet("one", every, '"a/x"')
    yield unmet("one twice", every, '"a/x a/x"')
    yield unmet("none", every, '"b/z"')
    yield unmet("absent", every, None)
    yield met("a scope of it", within, '"activity/read"', ["activity/read"])
    yield met("the star", within, '"activity/*"', ["activity/*"])
    for name, value in [("a server whose name begins so", '"activity/admin/read"'),
                        ("a server that begins so", '"activity2/read"'),
                        ("a server that ends so", '"my/activity/read"'),
                        ("no name", '"activity/"'), ("no slash", '"activity"'), ("upper case", '"Activity/read"'),
                        ("absent", None), ("a slash alone", '"/"'), ("two slashes", '"activity//read"')]:
        yield unmet(name, within, value)
    yield met("a server that is a URL", "any_of_resource_server https://api.example.com", '"https://api.example.com/read"',
              ["https://api.example.com/read"])
    yield unmet("a path below a URL", "any_of_resource_server https://api.example.com", '"https://api.example.com/v1/read"')
    yield reject("InvalidClaim", f"{literal}: an array", with_claims(scope='["activity/*"]'), requires=literal)
    yield reject("InvalidClaim", f"{literal}: null", with_claims(scope="null"), requires=literal)
    yield reject("InvalidClaim", f"{literal}: an object", with_claims(scope='{"activity/*":true}'), requires=literal)
    yield reject("Expired", f"{literal}: expired comes before", with_claims(exp=0, scope='"a/b"'), requires=literal)
    yield reject("WrongClient", f"{literal}: client comes before", with_claims(client_id='"x"', scope='"a/b"'),
                 requires=literal)
    yield accept(f"{literal}: absent, and none asked for", with_claims(scope=None), reads={"scopes": []})


CATEGORIES = {
    "cognito shapes": cognito_shapes, "compact form": compact_form, "base64": base64, "size": size, "alg": alg, "key confusion": key_confusion,
    "key sets": key_sets, "kid": kid, "header": head,
    "signature": signature, "payload": payload, "duplicates": duplicates, "escapes": escapes, "depth": depth,
    "numbers": numbers, "issuer": issuer, "token_use": token_use,
    "client_id": client, "claim types": claim_types, "dates": dates, "time": time, "audience": audience,
    "binding": binding, "groups": groups, "order": order, "scope": scope,
}


def packed(token, texts):
    """In pieces, so that the file stays short: a number is one of the shared texts, [text, times] is a run."""
    pieces = []
    for piece in re.split("(" + "|".join(map(re.escape, texts)) + ")", token):
        if piece in texts:
            pieces.append(texts.index(piece))
            continue
        end = 0
        for run in re.finditer(r"(.{1,16}?)\1{20,}", piece, re.DOTALL):
            pieces += [piece[end:run.start()], [run[1], len(run[0]) // len(run[1])]]
            end = run.end()
        pieces.append(piece[end:])
    return [piece for piece in pieces if piece != ""]


def unpacked(pieces, texts):
    return "".join(texts[piece] if isinstance(piece, int) else piece if isinstance(piece,
        str) else piece[0] * piece[1] for piece in pieces)


def document():
    def line(value):
        return json.dumps(value, separators=(",", ":"))

    def table(entries):
        return "{\n" + ",\n".join(f"{line(name)}:{line(value)}" for name, value in entries.items()) + "\n}"

    texts = jws().split(".")

    def row(entry):
        pieces = packed(entry["token"], texts)
        assert unpacked(pieces, texts) == entry["token"]
        return line({**entry, "token": pieces})

    def category(name, entries):
        names = [entry["name"] for entry in entries]
        assert len(set(names)) == len(names), f"{name}: two have one name: {names}"
        rows = ",\n".join(map(row, entries))
        return f"{line(name)}:[\n{rows}\n]"

    categories = ",\n".join(category(name, list(entries())) for name, entries in CATEGORIES.items())
    return (f'{{\n"made_by":"tests/vectors/make.py",\n"now":{NOW},\n"texts":{line(texts)},\n"key_sets":{table(KEY_SETS)},\n'
            f'"rules":{table(RULES)},\n"categories":{{\n{categories}\n}}\n}}\n')


def main():
    text = document().encode()
    if sys.argv[1:] == ["--check"]:
        if not OUT.exists() or OUT.read_bytes() != text:
            sys.exit("vectors.json is not what make.py makes")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        OUT.write_bytes(text)


if __name__ == "__main__":
    main()
