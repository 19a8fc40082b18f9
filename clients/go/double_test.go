package guestsessions

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	issuer = "https://shop.example"
	cookie = "__Host-guest"
)

// signer is one key with its id.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigner(t *testing.T, id string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{id, key}
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: &s.key.PublicKey, KeyID: s.id, Algorithm: "ES256", Use: "sig"}
}

// token signs the claims of a good token with these changes.
func (s signer) token(t *testing.T, changes map[string]any) string {
	t.Helper()
	return s.typed(t, tokenType, changes)
}

func (s signer) typed(t *testing.T, typ string, changes map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	members := map[string]any{
		"iss": issuer, "sub": "G-1", "iat": now, "exp": now + 1000, "orig_iat": now, "jti": "j", "ver": 1,
		"payload": map[string]any{},
	}
	maps.Copy(members, changes)
	data, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	options := (&jose.SignerOptions{}).WithHeader("kid", s.id).WithType(jose.ContentType(typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// double stands for the service: it serves its key, and for each path a response. The conformance suite in tests/clients
// runs on the real one.
type double struct {
	signer
	*httptest.Server
	mutex    sync.Mutex
	handlers map[string]http.HandlerFunc
	requests []*http.Request
	log      *bytes.Buffer
}

func newDouble(t *testing.T) *double {
	t.Helper()
	d := &double{signer: newSigner(t, "known"), handlers: map[string]http.HandlerFunc{}, log: &bytes.Buffer{}}
	d.on(jwksPath, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{d.public()}})
	})
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mutex.Lock()
		d.requests = append(d.requests, r)
		handler := d.handlers[r.URL.Path]
		d.mutex.Unlock()
		handler(w, r)
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *double) on(path string, handler http.HandlerFunc) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.handlers[path] = handler
}

// asked returns the requests for the path.
func (d *double) asked(path string) []*http.Request {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	var found []*http.Request
	for _, each := range d.requests {
		if each.URL.Path == path {
			found = append(found, each)
		}
	}
	return found
}

// signs responds with a token of these claims, and its cookie.
func (d *double) signs(t *testing.T, changes map[string]any) http.HandlerFunc {
	t.Helper()
	raw := d.token(t, changes)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", cookie+"="+raw+"; Path=/; Secure")
		writeJSON(w, map[string]any{"token": raw})
	}
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

type synchronized struct {
	mutex  sync.Mutex
	buffer *bytes.Buffer
}

func (s *synchronized) Write(data []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.buffer.Write(data)
}

// sessions has the double's keys.
func sessions[P any](t *testing.T, d *double, config Config) *Sessions[P] {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	config.URL, config.Issuers = d.URL, []string{issuer}
	config.Logger = slog.New(slog.NewTextHandler(&synchronized{buffer: d.log}, nil))
	s, err := New[P](ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.useKeys(jwksOf(t, d.public())); err != nil {
		t.Fatal(err)
	}
	return s
}

func jwksOf(t *testing.T, keys ...any) []json.RawMessage {
	t.Helper()
	var set []json.RawMessage
	for _, key := range keys {
		data, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, data)
	}
	return set
}

// visit has the handler handle the request, and returns the response.
func visit[P any](s *Sessions[P], r *http.Request, handler func(*Guest[P], http.ResponseWriter)) *http.Response {
	recorder := httptest.NewRecorder()
	s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler(s.Guest(r.Context()), w)
	})).ServeHTTP(recorder, r)
	return recorder.Result()
}

func request(method string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
