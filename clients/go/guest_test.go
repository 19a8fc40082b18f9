package guestsessions

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type cart struct {
	Cart map[string]int `json:"cart"`
}

func codeOf(err error) string {
	var known *Error
	if errors.As(err, &known) {
		return known.Code
	}
	return ""
}

func TestPayloadHasTheApplicationsType(t *testing.T) {
	d := newDouble(t)
	s := sessions[cart](t, d, Config{})
	d.on(refreshPath, d.signs(t, map[string]any{"ver": 2, "payload": cart{map[string]int{"cup": 2}}}))
	raw := d.token(t, map[string]any{"payload": cart{map[string]int{"cup": 1}}})

	response := visit(s, request("POST", "Cookie", cookie+"="+raw), func(guest *Guest[cart], _ http.ResponseWriter) {
		equal(t, "cups", guest.Payload.Cart["cup"], 1)
		equal(t, "error", guest.Patch(context.Background(), cart{map[string]int{"cup": 2}}), nil)
		equal(t, "cups", guest.Payload.Cart["cup"], 2)
		equal(t, "version", guest.Version, 2)
	})

	equal(t, "cookies", len(response.Cookies()), 1)
	equal(t, "X-Guest-Id", d.asked(refreshPath)[0].Header.Get("X-Guest-Id"), "G-1")
}

func TestAPayloadThatDoesNotFitIsNotOverwritten(t *testing.T) {
	d := newDouble(t)
	s := sessions[cart](t, d, Config{})
	raw := d.token(t, map[string]any{"payload": map[string]any{"cart": []string{"cup"}}})

	visit(s, request("POST", "Cookie", cookie+"="+raw), func(guest *Guest[cart], _ http.ResponseWriter) {
		equal(t, "guest", guest.ID, "G-1")
		equal(t, "code", codeOf(guest.Replace(context.Background(), cart{})), CodeInvalidPayload)
	})

	equal(t, "calls", len(d.asked(refreshPath)), 0)
}

func TestAValueThatIsNoJSONIsNoOutage(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		err := guest.Replace(context.Background(), map[string]any{"seen": math.NaN()})
		equal(t, "code", codeOf(err), CodeInvalidRequest)
	})
	equal(t, "unavailable", s.service.unavailable.Load(), false)
}

func TestACallerWhoDoesNotWaitIsNoOutage(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	d.on(issuePath, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})

	visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		err := guest.Replace(ctx, map[string]any{})
		equal(t, "code", codeOf(err), CodeUnavailable)
		equal(t, "cause", errors.Is(err, context.Canceled), true)
	})

	equal(t, "unavailable", s.service.unavailable.Load(), false)
}

func TestTheAPIKeyFollowsNoRedirect(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{APIKey: " secret\n"})
	d.on("/elsewhere", d.signs(t, nil))
	d.on(issuePath, func(w http.ResponseWriter, r *http.Request) {
		equal(t, "key", r.Header.Get("X-API-Key"), "secret")
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})

	visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		equal(t, "code", codeOf(guest.Replace(context.Background(), nil)), CodeUnavailable)
	})

	equal(t, "calls", len(d.asked("/elsewhere")), 0)
}

func TestARefusedChangeHasTheServicesCodeAndFacts(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	d.on(issuePath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		writeJSON(w, map[string]any{"code": "token_too_large", "detail": "too large", "status": 422, "bytes": 4000, "limit": 3800})
	})

	visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		var refused *Error
		if !errors.As(guest.Replace(context.Background(), nil), &refused) {
			t.Fatal("not refused")
		}
		equal(t, "code", refused.Code, CodeTokenTooLarge)
		equal(t, "status", refused.Status, 422)
		equal(t, "bytes", refused.Bytes, 4000)
		equal(t, "limit", refused.Limit, 3800)
		equal(t, "facts", len(refused.Facts), 2)
		equal(t, "guest", guest.ID, "")
	})

	equal(t, "unavailable", s.service.unavailable.Load(), false)
}

func TestAFirstPatchThatIsRefusedLeavesNoGuest(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	d.on(issuePath, d.signs(t, nil))
	d.on(refreshPath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		writeJSON(w, map[string]any{"code": "patch_conflict"})
	})

	response := visit(s, request("POST"), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		err := guest.Apply(context.Background(), []any{map[string]any{"op": "test", "path": "/a", "value": 1}})
		equal(t, "code", codeOf(err), CodePatchConflict)
		equal(t, "guest", guest.ID, "")
		equal(t, "new", guest.IsNew, false)
	})

	equal(t, "cookies", len(response.Cookies()), 0)
}

func TestASessionThatLosesItsReceiptsIsNotMerged(t *testing.T) {
	type account struct{ Name string }
	type complete struct {
		Name         string
		MergedGuests json.RawMessage `json:"merged_guests,omitempty"`
	}
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	next := d.token(t, map[string]any{"sub": "G-2"})
	d.on(mergePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", cookie+"="+next)
		writeJSON(w, map[string]any{
			"payload": map[string]any{"Name": "Ada", "merged_guests": []any{[]any{"aaaaaaaaaa", 1}}}, "merged": true,
			"next": map[string]any{"token": next},
		})
	})
	login := request("POST", "Cookie", cookie+"="+d.token(t, nil))

	response := visit(s, login, func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		merge := HandOver(context.Background(), guest, account{"Bob"})
		equal(t, "session", merge.Session.Name, "Bob")
		equal(t, "merged", merge.Merged, false)
		equal(t, "code", codeOf(merge.Err), CodeInvalidSession)
		equal(t, "guest", guest.ID, "G-1")
	})
	equal(t, "cookies", len(response.Cookies()), 0)

	response = visit(s, login, func(guest *Guest[map[string]any], _ http.ResponseWriter) {
		merge := HandOver(context.Background(), guest, complete{Name: "Bob"})
		equal(t, "session", merge.Session.Name, "Ada")
		equal(t, "receipts", string(merge.Session.MergedGuests), `[["aaaaaaaaaa",1]]`)
		equal(t, "merged", merge.Merged, true)
		equal(t, "guest", guest.ID, "G-2")
	})
	equal(t, "cookies", len(response.Cookies()), 1)
}

func TestTokensThatAreHandedOver(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{CookieNames: []string{cookie, "guest"}})
	a, b := d.token(t, map[string]any{"sub": "A"}), d.token(t, map[string]any{"sub": "B"})
	both := []string{"Cookie", cookie + "=bad; " + cookie + "=" + a + "; " + cookie + "=" + b + "; " + cookie + "=" + a}
	var sent struct {
		Tokens        []string
		Renew, Cookie bool
	}
	d.on(mergePath, func(w http.ResponseWriter, r *http.Request) {
		sent.Tokens = nil
		_ = json.NewDecoder(r.Body).Decode(&sent)
		writeJSON(w, map[string]any{"payload": map[string]any{}, "next": map[string]any{"token": a}})
	})
	for name, test := range map[string]struct {
		headers []string
		opts    []Option
		want    []string
		renew   bool
	}{
		"all good ones":            {both, nil, []string{a, b}, true},
		"the expected guest's":     {both, []Option{Expect("A")}, []string{a}, true},
		"none of another guest":    {both, []Option{Expect("B"), Tokens("c")}, nil, false},
		"further ones":             {both, []Option{Tokens("c", b)}, []string{a, b, "c"}, true},
		"further ones alone":       {nil, []Option{Tokens("c")}, []string{"c"}, false},
		"none":                     {nil, nil, nil, false},
		"not those of later names": {[]string{"Cookie", "guest=" + b + "; " + cookie + "=" + a}, nil, []string{a}, true},
	} {
		t.Run(name, func(t *testing.T) {
			sent.Tokens, sent.Renew, sent.Cookie = nil, false, false
			visit(s, request("POST", test.headers...), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
				merge := HandOver(context.Background(), guest, map[string]any{}, test.opts...)
				equal(t, "error", merge.Err, nil)
				equal(t, "unexpected", merge.Unexpected, name == "none of another guest")
			})
			equal(t, "tokens", strings.Join(sent.Tokens, " "), strings.Join(test.want, " "))
			equal(t, "renew", sent.Renew, test.renew)
			equal(t, "cookie", sent.Cookie, test.renew)
		})
	}
}

func TestAHandOverEndsTheCookiesThatWouldBringTheGuestBack(t *testing.T) {
	for name, test := range map[string]struct {
		config  Config
		cookies string
		want    []string
	}{
		"one cookie": {Config{}, cookie + "=%", nil},
		"a later name": {Config{CookieNames: []string{cookie, "old"}}, "old=%", []string{
			"old=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		}},
		"a host-only twin": {Config{CookieNames: []string{"guest"}, CookieDomain: "shop.example"}, "guest=%; guest=%2", []string{
			"guest=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			s := sessions[map[string]any](t, d, test.config)
			next := s.config.CookieNames[0] + "=" + d.token(t, map[string]any{"sub": "G-2"})
			d.on(mergePath, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("Set-Cookie", next)
				_, raw, _ := strings.Cut(next, "=")
				writeJSON(w, map[string]any{"payload": map[string]any{}, "next": map[string]any{"token": raw}})
			})
			cookies := strings.ReplaceAll(test.cookies, "%2", d.token(t, map[string]any{"ver": 2}))
			cookies = strings.ReplaceAll(cookies, "%", d.token(t, nil))
			response := visit(s, request("POST", "Cookie", cookies), func(guest *Guest[map[string]any], _ http.ResponseWriter) {
				HandOver(context.Background(), guest, map[string]any{})
			})
			equal(t, "lines", strings.Join(response.Header["Set-Cookie"], "\n"), strings.Join(append(test.want, next), "\n"))
		})
	}
}

func TestCacheControlOfAResponseWithAGuest(t *testing.T) {
	for given, want := range map[string]string{
		"":                           "private",
		"public, max-age=60":         "private, max-age=60",
		"max-age=60, S-MaxAge=600":   "private, max-age=60",
		"no-store":                   "private, no-store",
		"Public":                     "private",
		`private="X-Name", no-store`: "private, no-store",
	} {
		t.Run(given, func(t *testing.T) { equal(t, "directives", privately([]string{given}), want) })
	}
}

func TestCookiesAreKeptForAnErrorHandlerOutside(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	d.on(issuePath, d.signs(t, nil))
	for status, cookies := range map[int]int{200: 1, 404: 1, 500: 0, 503: 0} {
		var inner http.ResponseWriter
		recorder := httptest.NewRecorder()
		recorder.Header().Add("Set-Cookie", "theme=dark")
		s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner = w // as echo's, which responds to an error after its middleware
			equal(t, "error", s.Guest(r.Context()).Replace(r.Context(), nil), nil)
		})).ServeHTTP(recorder, request("POST"))
		inner.WriteHeader(status)
		equal(t, "cookies", len(recorder.Result().Cookies()), 1+cookies)
	}
}

func TestAResponseThatIsWrittenInOtherWays(t *testing.T) {
	d := newDouble(t)
	s := sessions[map[string]any](t, d, Config{})
	d.on(issuePath, d.signs(t, nil))
	change := func(w http.ResponseWriter, r *http.Request) error {
		return s.Guest(r.Context()).Replace(r.Context(), nil)
	}
	for name, test := range map[string]struct {
		write   func(http.ResponseWriter)
		cookies int
	}{
		"nothing":     {func(http.ResponseWriter) {}, 1},
		"early hints": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints); w.WriteHeader(204) }, 1},
		"a flush":     {func(w http.ResponseWriter) { w.(http.Flusher).Flush(); w.WriteHeader(500) }, 1},
		"a controller's flush": {func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).Flush()
			w.WriteHeader(500)
		}, 1},
		"a copy": {func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("file")) }, 1},
		"a hijack": {func(w http.ResponseWriter) {
			var connection net.Conn
			var buffer *bufio.ReadWriter
			connection, buffer, _ = w.(http.Hijacker).Hijack()
			_, _ = buffer.WriteString("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			_ = buffer.Flush()
			_ = connection.Close()
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := change(w, r); err != nil {
					t.Error(err)
				}
				test.write(w)
			})))
			defer server.Close()
			response, err := server.Client().Post(server.URL, "application/json", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			equal(t, "cookies", len(response.Cookies()), test.cookies)
		})
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	for name, config := range map[string]Config{
		"no URL":               {Issuers: []string{issuer}},
		"a URL without a host": {URL: "localhost:8080", Issuers: []string{issuer}},
		"no issuer":            {URL: "http://127.0.0.1"},
		"an empty issuer":      {URL: "http://127.0.0.1", Issuers: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New[map[string]any](context.Background(), config); err == nil {
				t.Error("accepted")
			}
		})
	}
}
