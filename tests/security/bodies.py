"""Bodies that are not the JSON that the service takes; `REFUSED` are those of the JSON door, with its answer."""

PAYLOAD = b'{"payload": %s}'


def payload(value: bytes) -> bytes:
    return PAYLOAD % value


MALFORMED: dict[str, bytes] = {
    "an open brace": b"{",
    "nothing but white space": b" \r\n\t",
    "two documents": b"{} {}",
    "a comment": b"{/* */}",
    "a trailing comma": b'{"payload": {},}',
    "single quotes": b"{'payload': {}}",
    "an unquoted name": b"{payload: {}}",
    "a member twice": b'{"payload": {}, "payload": {"a": 1}}',
    "a member twice, once escaped": b'{"payload": {}, "p\\u0061yload": {"a": 1}}',
    "a member twice, deep inside": payload(b'{"a": [{"b": 1, "b": 1}]}'),
    "NaN": payload(b'{"a": NaN}'),
    "Infinity": payload(b'{"a": Infinity}'),
    "-Infinity": payload(b'{"a": -Infinity}'),
    "a double past its range": payload(b'{"a": 1e309}'),
    "a negative double past its range": payload(b'{"a": -1e309}'),
    "an exponent of 5,000 digits": payload(b'{"a": 1e' + b"9" * 5_000 + b"}"),
    "2^64": payload(b'{"a": 18446744073709551616}'),
    "-2^63 - 1": payload(b'{"a": -9223372036854775809}'),
    "a number of 5,000 digits": payload(b'{"a": ' + b"9" * 5_000 + b"}"),
    "a number of 200,000 digits": payload(b'{"a": ' + b"1" * 200_000 + b"}"),
    "a leading zero": payload(b'{"a": 01}'),
    "a plus sign": payload(b'{"a": +1}'),
    "a hexadecimal number": payload(b'{"a": 0x10}'),
    "a lone high surrogate": payload(b'{"a": "\\ud800"}'),
    "a lone low surrogate": payload(b'{"a": "\\udc00"}'),
    "surrogates in the wrong order": payload(b'{"a": "\\udc00\\ud800"}'),
    "a lone surrogate as a name": payload(b'{"\\ud800": 1}'),
    "not UTF-8": payload(b'{"a": "\xff"}'),
    "an overlong encoding": payload(b'{"a": "\xc0\xaf"}'),
    "a surrogate in UTF-8": payload(b'{"a": "\xed\xa0\x80"}'),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"payload": {}}'.encode("utf-16"),
    "a raw line break in a string": payload(b'{"a": "\n"}'),
    "a raw NUL in a string": payload(b'{"a": "\x00"}'),
    "a bad escape": payload(b'{"a": "\\x41"}'),
    "33 levels of objects": payload(b'{"a":' * 32 + b"1" + b"}" * 32),
    "33 levels of lists": payload(b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"),
    "100,000 open lists": b"[" * 100_000,
    "100,000 lists": b"[" * 100_000 + b"]" * 100_000,
    "20,000 open objects": b'{"a":' * 20_000,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "a form": b"payload=%7B%7D",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
    "a pickle": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94",
}
"""Answered 400 `malformed_request`."""

INVALID: dict[str, bytes] = {
    "null": b"null",
    "a list": b"[]",
    "a string": b'"payload"',
    "a number": b"0",
    "true": b"true",
    "an unknown member": b'{"colour": "red"}',
    "a member in capitals": b'{"Payload": {}}',
    "__proto__": b'{"__proto__": {"cookie": true}}',
    "constructor": b'{"constructor": {"prototype": {"cookie": true}}}',
    "a payload that is no object": b'{"payload": [1]}',
    "a subject with a line break": b'{"subject": "a\\r\\nSet-Cookie: x=1"}',
    "a subject with NUL": b'{"subject": "a\\u0000"}',
    "a lifetime as text": b'{"ttl": "60"}',
    "a lifetime with a fraction": b'{"ttl": 1.5}',
    "an endless lifetime": b'{"ttl": 18446744073709551615}',
}
"""JSON, but no request: 422 `invalid_request`."""

BAD_BODIES: dict[str, bytes] = {**MALFORMED, **INVALID}
