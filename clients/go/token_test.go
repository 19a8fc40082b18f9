package guestsessions

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestVerification(t *testing.T) {
	known, stranger := newSigner(t, "known"), newSigner(t, "known")
	v := verifier{map[string]jose.JSONWebKey{"known": known.public()}, []string{issuer, "https://second.example"}}
	now := time.Now().Unix()
	good := known.token(t, nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"known","typ":"guest+jwt"}`))
	for name, test := range map[string]struct {
		raw  string
		good bool
	}{
		"good":                      {good, true},
		"issued in the future":      {known.token(t, map[string]any{"iat": now + 3600}), true},
		"of a second issuer":        {known.token(t, map[string]any{"iss": "https://second.example"}), true},
		"with an audience":          {known.token(t, map[string]any{"aud": "shop"}), true},
		"expired":                   {known.token(t, map[string]any{"exp": now}), false},
		"of another issuer":         {known.token(t, map[string]any{"iss": "https://other.example"}), false},
		"an access token":           {known.typed(t, "at+jwt", nil), false},
		"of a stranger":             {stranger.token(t, nil), false},
		"alg none":                  {none + "." + parts[1] + ".", false},
		"alg none with a signature": {none + "." + parts[1] + "." + parts[2], false},
		"tampered claims":           {parts[0] + "." + "e30" + "." + parts[2], false},
		"without a subject":         {known.token(t, map[string]any{"sub": ""}), false},
		"a payload that is a list":  {known.token(t, map[string]any{"payload": []int{1}}), false},
		"nested lists":              {strings.Repeat("W1tb", 1200) + ".e30.AA", false},
		"too long":                  {known.token(t, map[string]any{"payload": map[string]string{"x": strings.Repeat("x", 16<<10)}}), false},
		"empty":                     {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			read, err := v.read(test.raw, time.Unix(now, 0))
			equal(t, "good", err == nil && read.claims != nil, test.good)
		})
	}
}

func TestAnUnknownKeyIsNotKnownToBeBad(t *testing.T) {
	read, err := verifier{nil, []string{issuer}}.read(newSigner(t, "new").token(t, nil), time.Now())
	equal(t, "error", err, nil)
	equal(t, "claims", read.claims, nil)
}

func TestFurtherClaimsDoNotPassForTheGuests(t *testing.T) {
	known := newSigner(t, "known")
	v := verifier{map[string]jose.JSONWebKey{"known": known.public()}, []string{issuer}}
	read, err := v.read(known.token(t, map[string]any{"sub": "G-1", "Sub": "G-2", "SUB": "G-3", "Ver": 9}), time.Now())
	equal(t, "error", err, nil)
	equal(t, "subject", read.claims.Subject, "G-1")
	equal(t, "version", read.claims.Version, 1)
}

func TestWhichOfSeveralTokensCounts(t *testing.T) {
	const derived = "G-0f0e0d0c-0b0a-8908-8706-050403020100"
	const random = "G-0f0e0d0c-0b0a-4908-8706-050403020100"
	of := func(subject string, first, version, issued int64) token {
		return token{claims: &claims{Subject: subject, FirstIssuedAt: first, Version: int(version), IssuedAt: issued}}
	}
	for name, test := range map[string]struct {
		tokens []token
		want   int
	}{
		"the only one":                     {[]token{of("A", 1, 1, 1)}, 0},
		"a higher version":                 {[]token{of("A", 1, 1, 9), of("A", 1, 2, 1)}, 1},
		"a later one of the same version":  {[]token{of("A", 1, 2, 1), of("A", 1, 2, 2)}, 1},
		"the first of equal ones":          {[]token{of("A", 1, 2, 1), of("A", 1, 2, 1)}, 0},
		"the first guest":                  {[]token{of("A", 1, 1, 1), of("B", 1, 9, 9)}, 0},
		"the first guest, twice":           {[]token{of("A", 1, 1, 1), of("B", 1, 9, 9), of("A", 1, 2, 1)}, 2},
		"another lineage of the subject":   {[]token{of(random, 1, 1, 1), of(random, 2, 9, 9)}, 0},
		"a derived subject is one lineage": {[]token{of(derived, 1, 1, 1), of(derived, 2, 2, 9)}, 1},
	} {
		t.Run(name, func(t *testing.T) { equal(t, "index", newest(test.tokens), test.want) })
	}
}

func TestKeysThatAreUsed(t *testing.T) {
	public := newSigner(t, "a").public()
	nameless := public
	nameless.KeyID = ""
	private := jose.JSONWebKey{Key: newSigner(t, "b").key, KeyID: "b"}
	set := jwksOf(t, map[string]string{"kid": "x"}, "x", map[string]string{"kty": "AKP", "kid": "pq"}, nameless, private, public)
	keys := keysIn(set)
	equal(t, "ids", fmt.Sprint(len(keys), " ", keys["a"].KeyID), "1 a")
}
