#!/bin/sh
# Puts the public keys from standard input (PEM, as `guest-sessions keys export --public --pem` writes them) into the four
# places that haproxy.cfg reads: DIR/key-1.pem to DIR/key-4.pem. Places that are left over repeat the first key.
#
#   guest-sessions keys export --public --pem | ./install-keys.sh /etc/haproxy/guest
set -eu
dir=${1:?usage: install-keys.sh DIR < keys.pem}
places=4
mkdir -p "$dir"
fresh=$(mktemp -d "$dir/.fresh.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
count=$(awk -v dir="$fresh" '
    /^-----BEGIN PUBLIC KEY-----/ { n++; inside = 1 }
    inside { print > (dir "/key-" n ".pem") }
    /^-----END PUBLIC KEY-----/ { inside = 0 }
    END { print n + 0 }')
[ "$count" -ge 1 ] || { echo "no public key on standard input: nothing was changed" >&2; exit 1; }
[ "$count" -le "$places" ] || { echo "$count keys, but haproxy.cfg has $places places: add lines there and here. NOTHING WAS CHANGED" >&2; exit 1; }
i=$count
while [ "$i" -lt "$places" ]; do
    i=$((i + 1))
    cp "$fresh/key-1.pem" "$fresh/key-$i.pem"
done
mv "$fresh"/key-*.pem "$dir/"
