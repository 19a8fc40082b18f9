// Package guestsessions gives each visitor of a net/http application a guest, whose state lives in a signed token, and
// hands that state over to the user's session at login. It is a client of the guest-sessions service.
//
// [Sessions.Middleware] reads the guest's token of each request, from its cookie or a Bearer token, and checks it
// offline by the service's public keys, which it follows in the background. The service is called for a new guest, a
// renewal, a change and a hand-over only, and about a token whose key is not known here yet. While it is unavailable,
// known guests stay, changes fail with [CodeUnavailable], and logins go through.
package guestsessions

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Config says where the service is and what it was set to.
type Config struct {
	// URL of the service. Required.
	URL string
	// Issuers is the service's GUEST_ISSUER, one or several. Required.
	Issuers []string
	// APIKey is one of the service's GUEST_API_KEYS, if it has any. White space around it is dropped.
	APIKey string
	// CookieNames is the service's GUEST_COOKIE_NAME: the service sets the first, and visitors with a later one are
	// moved over. Default: __Host-guest with an https issuer and no CookieDomain, else guest.
	CookieNames []string
	// CookieDomain is the service's GUEST_COOKIE_DOMAIN, which Forget needs. Default: none.
	CookieDomain string
	// Partitioned is the service's GUEST_COOKIE_PARTITIONED, for sites that are shown in frames of others.
	Partitioned bool
	// RenewAfter is the age from which a token is signed again when a page is opened; negative: always.
	// Default: a day, since Safari forgets some cookies after seven.
	RenewAfter time.Duration
	// Logger gets a warning when the service becomes unavailable, or refuses what nobody is there to handle.
	// Default: slog.Default().
	Logger *slog.Logger
	// Transport sends the requests. Default: a copy of http.DefaultTransport that keeps more connections open.
	Transport http.RoundTripper
}

// Sessions is what all requests share. P is the type of a guest's payload, as encoding/json encodes it: an object.
type Sessions[P any] struct {
	config  Config
	secure  bool // the cookies are
	service *service
	keys    atomic.Pointer[verifier]
}

// New follows the service's keys until ctx ends. It does not wait for the service, and returns an error only where the
// config is wrong.
func New[P any](ctx context.Context, config Config) (*Sessions[P], error) {
	if u, err := url.Parse(config.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("guestsessions: URL must be that of the service, such as http://127.0.0.1:8080")
	}
	if len(config.Issuers) == 0 || slices.Contains(config.Issuers, "") {
		return nil, errors.New("guestsessions: Issuers must name the service's GUEST_ISSUER")
	}
	https := strings.HasPrefix(config.Issuers[0], "https://")
	if len(config.CookieNames) == 0 {
		config.CookieNames = []string{"guest"}
		if https && config.CookieDomain == "" {
			config.CookieNames = []string{"__Host-guest"}
		}
	}
	if config.RenewAfter == 0 {
		config.RenewAfter = 24 * time.Hour
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 64
		config.Transport = transport
	}
	s := &Sessions[P]{
		config: config,
		secure: https || config.Partitioned,
		service: newService(
			strings.TrimRight(config.URL, "/"), strings.TrimSpace(config.APIKey), config.Transport, config.Logger,
		),
	}
	s.keys.Store(&verifier{issuers: config.Issuers})
	go s.service.follow(ctx, s.useKeys)
	return s, nil
}

func (s *Sessions[P]) useKeys(set []json.RawMessage) error {
	keys := keysIn(set)
	if len(keys) == 0 {
		return errors.New("a JWK Set without a key") // the last ones stay in use
	}
	s.keys.Store(&verifier{keys, s.config.Issuers})
	return nil
}

// Middleware gives each request its guest, and a new one to a visitor who opens a page: not to bots, prefetches and
// what scripts fetch.
func (s *Sessions[P]) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guest := s.read(r)
		guest.response = &response{ResponseWriter: w}
		if s.isNavigation(r) {
			guest.open(r.Context())
		}
		next.ServeHTTP(guest.response, r.WithContext(context.WithValue(r.Context(), s, guest)))
		if !guest.response.sent {
			guest.response.addGuest()
		}
	})
}

// Guest returns the guest of the request of ctx. It panics where Middleware does not wrap the handler.
func (s *Sessions[P]) Guest(ctx context.Context) *Guest[P] {
	guest, ok := ctx.Value(s).(*Guest[P])
	if !ok {
		panic("guestsessions: the handler is not wrapped by Sessions.Middleware")
	}
	return guest
}

// read finds the request's guest: that of the first cookie name under which a good token is, else that of the Bearer
// token.
func (s *Sessions[P]) read(r *http.Request) *Guest[P] {
	guest := &Guest[P]{
		sessions:  s,
		crossSite: r.Header.Get("Sec-Fetch-Site") == "cross-site",
	}
	cookies := 0
	for _, name := range s.config.CookieNames {
		values := cookieValues(r.Header["Cookie"], name)
		cookies += len(values)
		if guest.readTokens(r.Context(), values) {
			guest.cookieName, guest.hasTwin = name, len(values) > 1
			return guest
		}
	}
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		found := guest.readTokens(r.Context(), []string{strings.Trim(credentials, " \t")})
		guest.bearer = found || cookies == 0
	}
	return guest
}

// cookieValues returns every value under the name, without quotes. It is stricter than net/http, which passes over white
// space before the "=", and like the service: only SP and HTAB before the name are none of it (RFC 6265, section 4.2.1).
func cookieValues(lines []string, name string) []string {
	var values []string
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			found, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if found != name || value == "" {
				continue
			}
			if quoted := len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"'; quoted {
				value = value[1 : len(value)-1]
			}
			values = append(values, value)
		}
	}
	return values
}

// isNavigation reports whether a person opens a page, as browsers say.
func (s *Sessions[P]) isNavigation(r *http.Request) bool {
	header := r.Header
	switch header.Get("Sec-Fetch-Dest") {
	case "document", "empty": // a service worker that passes a navigation on makes the latter of it
	case "iframe":
		if !s.config.Partitioned {
			return false
		}
	default:
		return false
	}
	return r.Method == http.MethodGet &&
		header.Get("Sec-Fetch-Mode") == "navigate" &&
		len(header.Values("Sec-Purpose")) == 0 &&
		!strings.EqualFold(header.Get("Purpose"), "prefetch")
}
