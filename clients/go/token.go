package guestsessions

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
)

const (
	tokenType     = "guest+jwt"
	maxTokenBytes = 16 << 10 // the service refuses longer ones, too
)

var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.RS256}

// The subject of a guest that was issued under an Idempotency-Key has a UUID of version 8 and names the guest by itself.
var derivedSubject = regexp.MustCompile(`^G-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

type claims struct {
	Issuer        string          `json:"iss"`
	Subject       string          `json:"sub"`
	IssuedAt      int64           `json:"iat"`
	ExpiresAt     int64           `json:"exp"`
	FirstIssuedAt int64           `json:"orig_iat"`
	Version       int             `json:"ver"`
	Payload       json.RawMessage `json:"payload"`
}

// decodeClaims reads the claims by go-jose's JSON package, since the standard one does not distinguish "Sub" from "sub": the
// caller's further claims must not pass for the guest's.
func decodeClaims(data []byte) (*claims, error) {
	c := &claims{}
	if err := josejson.Unmarshal(data, c); err != nil {
		return nil, err
	}
	if c.Subject == "" || c.Version < 1 || len(c.Payload) == 0 || c.Payload[0] != '{' {
		return nil, errors.New("not the claims of a guest token")
	}
	return c, nil
}

// token is one that is not known to be bad. Its claims are nil where it is signed by a key that is not known here.
type token struct {
	raw    string
	claims *claims
}

// verifier decides offline about tokens.
type verifier struct {
	keys    map[string]jose.JSONWebKey
	issuers []string
}

// read returns an error for a bad token. The audience is the service's to check.
func (v verifier) read(raw string, now time.Time) (token, error) {
	signed, err := parseToken(raw)
	if err != nil {
		return token{}, err
	}
	key, known := v.keys[signed.Signatures[0].Protected.KeyID]
	if !known {
		return token{raw: raw}, nil
	}
	data, err := signed.Verify(key)
	if err != nil {
		return token{}, err
	}
	return v.accept(raw, data, now)
}

// accept returns the token whose signature is good, and an error where its claims are not.
func (v verifier) accept(raw string, data []byte, now time.Time) (token, error) {
	c, err := decodeClaims(data)
	if err != nil {
		return token{}, err
	}
	// The time of issue is not compared with now: the signature vouches for it, and clocks differ.
	if !slices.Contains(v.issuers, c.Issuer) || c.ExpiresAt <= now.Unix() {
		return token{}, errors.New("another issuer's token, or an expired one")
	}
	return token{raw, c}, nil
}

func parseToken(raw string) (*jose.JSONWebSignature, error) {
	if len(raw) > maxTokenBytes {
		return nil, errors.New("too long for a token")
	}
	signed, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		return nil, err
	}
	if signed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != tokenType {
		return nil, errors.New("not a guest token")
	}
	return signed, nil
}

// unverifiedClaims is for tokens that the service itself vouches for.
func unverifiedClaims(raw string) (*claims, error) {
	signed, err := parseToken(raw)
	if err != nil {
		return nil, err
	}
	return decodeClaims(signed.UnsafePayloadWithoutVerification())
}

// newest returns the index of the token that counts: the first one says which guest, and of that guest's tokens the one
// with the highest version does, then the latest.
func newest(tokens []token) int {
	found := 0
	for i, each := range tokens {
		a, b := tokens[found].claims, each.claims
		if sameGuest(a, b) && (b.Version > a.Version || b.Version == a.Version && b.IssuedAt > a.IssuedAt) {
			found = i
		}
	}
	return found
}

func sameGuest(a, b *claims) bool {
	return a.Subject == b.Subject && (a.FirstIssuedAt == b.FirstIssuedAt || derivedSubject.MatchString(a.Subject))
}

// keysIn returns the keys of a JWK Set by their id. Keys of other kinds are passed over, so that new ones may appear.
func keysIn(set []json.RawMessage) map[string]jose.JSONWebKey {
	keys := map[string]jose.JSONWebKey{}
	for _, each := range set {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(each) == nil && key.IsPublic() && key.KeyID != "" {
			keys[key.KeyID] = key
		}
	}
	return keys
}
