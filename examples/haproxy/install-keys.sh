#!/bin/sh
# Installs the public keys from standard input (as `guest-sessions keys export --public --pem` writes them) for haproxy.cfg:
#
#   DIR/KID.pem    each key
#   DIR/keys.map   from a token's `kid` to the file of its key
#   DIR/keys.cfg   loads the keys: HAProxy verifies only with keys that a configuration file names
#
#   guest-sessions keys export --public --pem | ./install-keys.sh /etc/haproxy/guest
set -eu
dir=${1:?usage: install-keys.sh DIR < keys.pem}
mkdir -p "$dir"
fresh=$(mktemp -d "$dir/.fresh.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
awk -v dir="$dir" -v fresh="$fresh" '
    function refuse(why) { print why ": NOTHING WAS CHANGED" > "/dev/stderr"; failed = 1; exit 1 }
    /^-----BEGIN PUBLIC KEY-----$/ {
        if (kid !~ /^[A-Za-z0-9_-]+$/) refuse("a key without a usable kid on the line before it")
        pem = fresh "/" kid ".pem"; first = 1
        print > pem
        next
    }
    /^-----END PUBLIC KEY-----$/ { print > pem; close(pem); pem = ""; kid = ""; count++; next }
    pem != "" {
        # How every P-256 key begins (RFC 5480); the others are RSA.
        if (first) {
            algorithm = /^MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD/ ? "ES256" : "RS256"
            print kid, dir "/" kid ".pem" > (fresh "/keys.map")
            config = config "    acl loaded str(),jwt_verify(\"" algorithm "\",\"" dir "/" kid ".pem\") 1\n"
            first = 0
        }
        print > pem
        next
    }
    { kid = $0 }
    END {
        if (failed) exit 1
        if (pem != "" || !count) refuse("no complete public key on standard input")
        printf "# Written by install-keys.sh.\nbackend guest-keys\n    mode http\n%s", config > (fresh "/keys.cfg")
    }'
for old in "$dir"/*.pem; do
    [ -e "$fresh/${old##*/}" ] || rm -f "$old"
done
mv "$fresh"/*.pem "$fresh/keys.map" "$fresh/keys.cfg" "$dir/"
