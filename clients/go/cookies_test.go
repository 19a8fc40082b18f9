package guestsessions

import (
	"net/http"
	"strings"
	"testing"
)

func ids(s *Sessions[map[string]any], r *http.Request) (id string) {
	visit(s, r, func(guest *Guest[map[string]any], _ http.ResponseWriter) { id = guest.ID })
	return id
}

func TestOnlySPAndHTABAreWhiteSpaceInACookieHeader(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	raw := d.token(t, map[string]any{"sub": "G-planted"})
	for name, test := range map[string]struct {
		before string
		want   string
	}{
		"nothing": {"", "G-planted"}, "SP": {" ", "G-planted"}, "HTAB": {"\t", "G-planted"}, "both": {" \t ", "G-planted"},
		"U+00A0": {"\u00a0", ""}, "U+0085": {"\u0085", ""}, "U+2000": {"\u2000", ""}, "U+2003": {"\u2003", ""},
		"U+2028": {"\u2028", ""}, "U+202F": {"\u202f", ""}, "U+205F": {"\u205f", ""}, "U+3000": {"\u3000", ""},
		"U+1680": {"\u1680", ""}, "U+FEFF": {"\ufeff", ""}, "byte A0": {"\xa0", ""}, "byte 85": {"\x85", ""},
		"VT": {"\v", ""}, "FF": {"\f", ""}, "FS": {"\x1c", ""}, "US": {"\x1f", ""}, "NUL": {"\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			pair := test.before + cookie + "=" + raw
			for position, header := range []string{pair, "theme=dark;" + pair, "theme=dark; " + pair, pair + "; theme=dark"} {
				if got := ids(s, request("GET", "Cookie", header)); got != test.want {
					t.Errorf("at position %d: got %q, want %q", position, got, test.want)
				}
			}
		})
	}
}

func TestCookiesThatAreRead(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{CookieNames: []string{cookie, "guest"}})
	mine, other := d.token(t, map[string]any{"sub": "mine"}), d.token(t, map[string]any{"sub": "other"})
	newer := d.token(t, map[string]any{"sub": "mine", "ver": 2})
	for name, test := range map[string]struct {
		headers []string
		want    string
	}{
		"none":                        {nil, ""},
		"quoted":                      {[]string{"Cookie", cookie + `="` + mine + `"`}, "mine"},
		"in several header lines":     {[]string{"Cookie", "theme=dark", "Cookie", cookie + "=" + mine}, "mine"},
		"another name":                {[]string{"Cookie", cookie + "x=" + mine + "; x" + cookie + "=" + mine}, ""},
		"a name with SP after it":     {[]string{"Cookie", cookie + " =" + mine}, ""},
		"a name in another case":      {[]string{"Cookie", strings.ToLower(cookie) + "=" + mine}, ""},
		"after a bad one":             {[]string{"Cookie", cookie + "=bad; " + cookie + "=" + mine}, "mine"},
		"the first guest":             {[]string{"Cookie", cookie + "=" + mine + "; " + cookie + "=" + other}, "mine"},
		"twins":                       {[]string{"Cookie", cookie + "=" + mine + "; " + cookie + "=" + newer}, "mine"},
		"a later name":                {[]string{"Cookie", "guest=" + mine}, "mine"},
		"a later name after the bad":  {[]string{"Cookie", cookie + "=bad; guest=" + mine}, "mine"},
		"a planted later name":        {[]string{"Cookie", "guest=" + other + "; " + cookie + "=" + mine}, "mine"},
		"a Bearer token":              {[]string{"Authorization", "Bearer " + mine}, "mine"},
		"a Bearer token in lowercase": {[]string{"Authorization", "bearer  " + mine}, "mine"},
		"a cookie before a Bearer":    {[]string{"Authorization", "Bearer " + other, "Cookie", cookie + "=" + mine}, "mine"},
		"another scheme":              {[]string{"Authorization", "Basic " + mine}, ""},
	} {
		t.Run(name, func(t *testing.T) { equal(t, "guest", ids(s, request("GET", test.headers...)), test.want) })
	}
}

func TestRequestsThatAreNavigations(t *testing.T) {
	page := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	frame := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}
	for name, test := range map[string]struct {
		method      string
		headers     []string
		partitioned bool
		want        bool
	}{
		"a page":                            {"GET", page, false, true},
		"a page through a service worker":   {"GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty"}, false, true},
		"a form":                            {"POST", page, false, false},
		"a HEAD":                            {"HEAD", page, false, false},
		"a bot":                             {"GET", nil, false, false},
		"a fetch":                           {"GET", []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, false, false},
		"a document that is not navigated":  {"GET", []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "document"}, false, false},
		"an image":                          {"GET", []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, false, false},
		"a frame":                           {"GET", frame, false, false},
		"a frame with partitioned cookies":  {"GET", frame, true, true},
		"a prefetch":                        {"GET", append(page[:4:4], "Sec-Purpose", "prefetch"), false, false},
		"a prerendering":                    {"GET", append(page[:4:4], "Sec-Purpose", "prefetch;prerender"), false, false},
		"a prefetch of an older kind":       {"GET", append(page[:4:4], "Purpose", "prefetch"), false, false},
		"a purpose that is not a prefetch":  {"GET", append(page[:4:4], "Purpose", "other"), false, true},
		"an empty purpose is a purpose yet": {"GET", append(page[:4:4], "Sec-Purpose", ""), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Sessions[any]{config: Config{Partitioned: test.partitioned}}
			equal(t, "navigation", s.isNavigation(request(test.method, test.headers...)), test.want)
		})
	}
}

func TestCookiesThatForgetDeletes(t *testing.T) {
	d := newDouble(t)
	for name, test := range map[string]struct {
		config Config
		want   []string
	}{
		"the default": {Config{}, []string{"__Host-guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"}},
		"a domain": {Config{CookieDomain: "shop.example"}, []string{
			"guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
			"guest=; Path=/; Domain=shop.example; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		}},
		"several names": {Config{CookieNames: []string{"guest", "__Host-guest"}, CookieDomain: "shop.example"}, []string{
			"guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
			"guest=; Path=/; Domain=shop.example; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
			"__Host-guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		}},
		"partitioned": {Config{Partitioned: true}, []string{
			"__Host-guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sessions[map[string]any](t, d, test.config)
			response := visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
				equal(t, "error", guest.Forget(), nil)
			})
			equal(t, "lines", strings.Join(response.Header["Set-Cookie"], "\n"), strings.Join(test.want, "\n"))
			equal(t, "calls", len(d.asked(mergePath))+len(d.asked(refreshPath)), 0)
		})
	}
}
