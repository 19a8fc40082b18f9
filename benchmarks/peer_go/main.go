// The compiled peer: the same operations as a careful team would write them with net/http and golang-jwt.
//
// Usage: peer_go PORT KEYRING. Keys are parsed once, bodies are decoded strictly.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	issuer    = "http://127.0.0.1"
	tenYearsS = 315_360_000
)

type guestClaims struct {
	jwt.RegisteredClaims
	FirstIssuedAt int64           `json:"orig_iat"`
	Version       int             `json:"ver"`
	Payload       json.RawMessage `json:"payload"`
}

type tokenObject struct {
	Token string `json:"token"`
	guestClaims
}

type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	D   string `json:"d,omitempty"`
	Kid string `json:"kid"`
}

type server struct {
	key    *ecdsa.PrivateKey
	kid    string
	jwks   []byte
	parser *jwt.Parser
}

func number(encoded string) *big.Int {
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		log.Fatal(err)
	}
	return new(big.Int).SetBytes(raw)
}

func newServer(keyring string) *server {
	content, err := os.ReadFile(keyring)
	if err != nil {
		log.Fatal(err)
	}
	var ring struct{ Keys []jwk }
	if err := json.Unmarshal(content, &ring); err != nil {
		log.Fatal(err)
	}
	own := ring.Keys[0]
	public := ecdsa.PublicKey{Curve: elliptic.P256(), X: number(own.X), Y: number(own.Y)}
	key := &ecdsa.PrivateKey{PublicKey: public, D: number(own.D)}
	own.D = ""
	jwks, err := json.Marshal(map[string]any{"keys": []jwk{own}})
	if err != nil {
		log.Fatal(err)
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(issuer), jwt.WithExpirationRequired())
	return &server{key: key, kid: own.Kid, jwks: jwks, parser: parser}
}

func randomHex(size int) string {
	raw := make([]byte, size)
	if _, err := rand.Read(raw); err != nil {
		panic(err)
	}
	return hex.EncodeToString(raw)
}

func uuid4() string {
	digits := randomHex(16)
	return fmt.Sprintf("%s-%s-4%s-a%s-%s", digits[:8], digits[8:12], digits[13:16], digits[17:20], digits[20:])
}

func (s *server) verified(raw string) (guestClaims, error) {
	var claims guestClaims
	_, err := s.parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return &s.key.PublicKey, nil })
	return claims, err
}

func (s *server) respond(w http.ResponseWriter, status int, claims guestClaims) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"], token.Header["typ"] = s.kid, "guest+jwt"
	signed, err := token.SignedString(s.key)
	if err != nil {
		http.Error(w, "cannot sign", http.StatusInternalServerError)
		return
	}
	writeJSON(w, status, tokenObject{signed, claims})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "cannot encode", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 262_144))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		http.Error(w, "malformed", http.StatusBadRequest)
		return false
	}
	return true
}

func (s *server) issue(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Payload json.RawMessage `json:"payload"`
	}{json.RawMessage("{}")}
	if !decode(w, r, &body) {
		return
	}
	now := time.Now()
	s.respond(w, http.StatusCreated, guestClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: "G-" + uuid4(), ID: randomHex(16),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tenYearsS * time.Second)),
		},
		FirstIssuedAt: now.Unix(), Version: 1, Payload: body.Payload,
	})
}

func (s *server) refresh(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token   string          `json:"token"`
		Payload json.RawMessage `json:"payload"`
	}
	if !decode(w, r, &body) {
		return
	}
	claims, err := s.verified(body.Token)
	if err != nil {
		http.Error(w, "invalid token", http.StatusUnprocessableEntity)
		return
	}
	now := time.Now()
	claims.IssuedAt = jwt.NewNumericDate(now)
	claims.ExpiresAt = jwt.NewNumericDate(now.Add(tenYearsS * time.Second))
	claims.ID, claims.Version, claims.Payload = randomHex(16), claims.Version+1, body.Payload
	s.respond(w, http.StatusOK, claims)
}

func (s *server) verify(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if !decode(w, r, &body) {
		return
	}
	claims, err := s.verified(body.Token)
	if err != nil {
		writeJSON(w, http.StatusOK, map[string]bool{"active": false})
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Active bool `json:"active"`
		guestClaims
	}{true, claims})
}

func (s *server) auth(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("guest")
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	claims, err := s.verified(strings.Trim(cookie.Value, `"`))
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("X-Guest-Id", claims.Subject)
	w.Header().Set("X-Guest-Version", fmt.Sprint(claims.Version))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

func main() {
	s := newServer(os.Args[2])
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/issue", s.issue)
	mux.HandleFunc("POST /v1/refresh-payload", s.refresh)
	mux.HandleFunc("POST /v1/verify", s.verify)
	mux.HandleFunc("GET /v1/auth", s.auth)
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.jwks)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], mux))
}
