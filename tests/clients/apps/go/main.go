// Command net-http is the conformance application of the Go client, with the routes that tests/clients/README.md lists.
//
//	net-http [chi|echo|gin] PORT
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	guestsessions "github.com/guest-sessions/guest-sessions/clients/go"
)

// payload keeps numbers and texts as they came.
type payload = json.RawMessage

var errStore = errors.New("the database is unavailable")

// shop has one account.
type shop struct {
	guests  *guestsessions.Sessions[payload]
	mutex   sync.Mutex
	account json.RawMessage
}

// handle responds with the returned value as JSON; an error of its own makes it a 500.
type handle func(http.ResponseWriter, *http.Request) (any, error)

func (s *shop) routes() map[string]handle {
	return map[string]handle{
		"GET /":            s.page(""),
		"GET /public":      s.page("public, max-age=60, s-maxage=600"),
		"GET /no-store":    s.page("no-store"),
		"POST /replace":    s.changed(func(r *http.Request, body json.RawMessage) error { return s.guest(r).Replace(r.Context(), body) }),
		"POST /patch":      s.changed(func(r *http.Request, body json.RawMessage) error { return s.guest(r).Patch(r.Context(), body) }),
		"POST /apply":      s.changed(func(r *http.Request, body json.RawMessage) error { return s.guest(r).Apply(r.Context(), body) }),
		"POST /twice":      s.changed(s.twice),
		"POST /change":     s.changed(s.change),
		"POST /login":      s.login(nil),
		"POST /fail-login": s.login(errStore),
		"POST /logout": func(_ http.ResponseWriter, r *http.Request) (any, error) {
			return struct{}{}, s.guest(r).Forget()
		},
		"POST /fail": s.changed(func(r *http.Request, body json.RawMessage) error {
			return cmp.Or(s.guest(r).Replace(r.Context(), body), errStore)
		}),
		"POST /late": s.late,
	}
}

func (s *shop) guest(r *http.Request) *guestsessions.Guest[payload] {
	return s.guests.Guest(r.Context())
}

func (s *shop) shown(r *http.Request) any {
	var shown any
	if guest := s.guest(r); guest.ID != "" {
		shown = map[string]any{"id": guest.ID, "version": guest.Version, "payload": guest.Payload, "is_new": guest.IsNew}
	}
	return map[string]any{"guest": shown}
}

func (s *shop) page(cacheControl string) handle {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		if cacheControl != "" {
			w.Header().Set("Cache-Control", cacheControl)
		}
		return s.shown(r), nil
	}
}

func (s *shop) changed(change func(*http.Request, json.RawMessage) error) handle {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		body, err := read(r)
		if err == nil {
			err = change(r, body)
		}
		return s.shown(r), err
	}
}

func (s *shop) twice(r *http.Request, body json.RawMessage) error {
	var patches []json.RawMessage
	err := json.Unmarshal(body, &patches)
	for _, patch := range patches {
		err = cmp.Or(err, s.guest(r).Patch(r.Context(), patch))
	}
	return err
}

// change takes the options of a change.
func (s *shop) change(r *http.Request, body json.RawMessage) error {
	var asked struct {
		Method  string
		Change  json.RawMessage
		Options struct {
			IfCurrent bool `json:"if_current"`
			Policy    any
		}
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return err
	}
	var opts []guestsessions.Option
	if asked.Options.IfCurrent {
		opts = append(opts, guestsessions.IfCurrent())
	}
	if asked.Options.Policy != nil {
		opts = append(opts, guestsessions.Policy(asked.Options.Policy))
	}
	guest := s.guest(r)
	switch asked.Method {
	case "replace":
		return guest.Replace(r.Context(), asked.Change, opts...)
	case "patch":
		return guest.Patch(r.Context(), asked.Change, opts...)
	default:
		return guest.Apply(r.Context(), asked.Change, opts...)
	}
}

func (s *shop) login(failure error) handle {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		var asked struct {
			Expect string
			Tokens []string
			Policy any
			Renew  *bool
		}
		body, err := read(r)
		if err = cmp.Or(err, json.Unmarshal(body, &asked)); err != nil {
			return nil, err
		}
		opts := []guestsessions.Option{guestsessions.Expect(asked.Expect), guestsessions.Tokens(asked.Tokens...)}
		if asked.Policy != nil {
			opts = append(opts, guestsessions.Policy(asked.Policy))
		}
		if asked.Renew != nil {
			opts = append(opts, guestsessions.With("renew", *asked.Renew))
		}
		s.mutex.Lock()
		defer s.mutex.Unlock()
		merge := guestsessions.HandOver(r.Context(), s.guest(r), s.account, opts...)
		if failure != nil {
			return nil, failure
		}
		s.account = merge.Session
		return map[string]any{
			"session":    merge.Session,
			"merged":     merge.Merged,
			"guests":     append([]guestsessions.MergedGuest{}, merge.Guests...),
			"skipped":    append([]guestsessions.SkippedToken{}, merge.Skipped...),
			"unexpected": merge.Unexpected,
		}, nil
	}
}

// late changes the guest when its cookie can no longer reach the visitor.
func (s *shop) late(w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read(r)
	if err != nil {
		return nil, err
	}
	_, _ = io.WriteString(w, "started\n")
	var refused *guestsessions.Error
	if errors.As(s.guest(r).Replace(r.Context(), body), &refused) {
		_, _ = io.WriteString(w, refused.Code)
	}
	return nil, nil
}

var errNotJSON = errors.New("the body is not JSON")

func read(r *http.Request) (json.RawMessage, error) {
	body, err := io.ReadAll(r.Body)
	if err == nil && !json.Valid(body) {
		err = errNotJSON
	}
	return bytes.TrimSpace(body), err
}

// respond writes what a handler returned, and returns the errors that are neither the guest's nor the visitor's.
func respond(w http.ResponseWriter, value any, err error) error {
	status := http.StatusOK
	var refused *guestsessions.Error
	switch {
	case errors.As(err, &refused):
		facts := map[string]any{}
		maps.Copy(facts, refused.Facts)
		value = map[string]any{"code": refused.Code, "message": refused.Message, "facts": facts}
		switch refused.Code {
		case guestsessions.CodeUnavailable, guestsessions.CodeUnreadableGuest:
			status = http.StatusServiceUnavailable
		case guestsessions.CodeStaleToken, guestsessions.CodePatchConflict:
			status = http.StatusConflict
		default:
			status = http.StatusUnprocessableEntity
		}
	case errors.Is(err, errNotJSON):
		status, value = http.StatusBadRequest, struct{}{}
	case err != nil:
		return err
	case value == nil: // the handler has responded
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(value)
}

func config() (guestsessions.Config, error) {
	config := guestsessions.Config{
		URL:          os.Getenv("GUEST_URL"),
		Issuers:      strings.Split(os.Getenv("GUEST_ISSUER"), ","),
		APIKey:       os.Getenv("GUEST_API_KEY"),
		CookieDomain: os.Getenv("GUEST_COOKIE_DOMAIN"),
	}
	if names := os.Getenv("GUEST_COOKIE_NAME"); names != "" {
		config.CookieNames = strings.Split(names, ",")
	}
	if seconds := os.Getenv("GUEST_RENEW_AFTER"); seconds != "" {
		number, err := strconv.Atoi(seconds)
		if err != nil {
			return config, err
		}
		config.RenewAfter = cmp.Or(time.Duration(number)*time.Second, -1)
	}
	return config, nil
}

func main() {
	router, port := "net-http", os.Args[len(os.Args)-1]
	if len(os.Args) > 2 {
		router = os.Args[1]
	}
	config, err := config()
	if err != nil {
		log.Fatal(err)
	}
	guests, err := guestsessions.New[payload](context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	shop := &shop{guests: guests, account: json.RawMessage(`{"name": "Ada", "cart": []}`)}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, routers[router](shop.routes(), guests.Middleware)))
}
