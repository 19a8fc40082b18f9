package guestsessions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	callTimeout    = 3 * time.Second // for the connection, the request and the whole response
	followEvery    = 5 * time.Second
	lookAgainEvery = time.Second // while the service is unavailable
	maxAnswerBytes = 4 << 20     // a merge's response holds the session and its conflicts

	jwksPath    = "/.well-known/jwks.json"
	issuePath   = "/v1/issue"
	refreshPath = "/v1/refresh-payload"
	verifyPath  = "/v1/verify"
	mergePath   = "/v1/merge"
)

// service calls guest-sessions, and knows whether it responds.
type service struct {
	url         string
	apiKey      string
	http        *http.Client
	log         *slog.Logger
	unavailable atomic.Bool
	look        chan struct{} // has follow look for the service at once
}

func newService(url, apiKey string, transport http.RoundTripper, log *slog.Logger) *service {
	return &service{url: url, apiKey: apiKey, log: log, look: make(chan struct{}, 1), http: &http.Client{
		Transport: transport,
		Timeout:   callTimeout,
		// The API key must not follow a redirect to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// post sends the body for the guest of that subject ("" where it is not known), decodes the response into answer, and
// returns its Set-Cookie lines. It fails at once while the service is known to be unavailable.
func (s *service) post(ctx context.Context, path string, body map[string]any, subject string, answer any) ([]string, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, &Error{Code: CodeInvalidRequest, Message: "this cannot be encoded as JSON", Err: err}
	}
	if s.unavailable.Load() {
		return nil, &Error{Code: CodeUnavailable, Message: "guest-sessions did not respond a moment ago"}
	}
	return s.send(ctx, http.MethodPost, path, encoded, subject, answer)
}

func (s *service) send(ctx context.Context, method, path string, body []byte, subject string, answer any) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Code: CodeUnavailable, Message: "no request can be made of this URL", Err: err}
	}
	request.Header.Set("Content-Type", "application/json")
	if s.apiKey != "" {
		request.Header.Set("X-API-Key", s.apiKey)
	}
	if subject != "" {
		request.Header.Set("X-Guest-Id", subject) // a balancer can route by it
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, s.lost(ctx, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return nil, s.lost(ctx, err)
	}
	if response.StatusCode >= 400 && response.StatusCode < 500 {
		if problem := problemIn(data, response.StatusCode); problem != nil {
			return nil, problem // a service that refuses is there
		}
	}
	if response.StatusCode < 200 || response.StatusCode >= 300 {
		return nil, s.lost(ctx, fmt.Errorf("something that is no response of it, with status %d", response.StatusCode))
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return nil, s.lost(ctx, fmt.Errorf("something that is no response of it: %w", err))
	}
	return response.Header.Values("Set-Cookie"), nil
}

// lost notes that the service is unavailable, unless it was the caller who did not wait.
func (s *service) lost(ctx context.Context, cause error) *Error {
	if ctx.Err() == nil && !s.unavailable.Swap(true) {
		s.log.Warn("guest-sessions is unavailable; cookies stay as they are", "error", cause)
		select {
		case s.look <- struct{}{}: // so that one failed call costs the next visitor nothing
		default:
		}
	}
	return &Error{Code: CodeUnavailable, Message: "guest-sessions is unavailable", Err: cause}
}

// follow passes the keys on every 5 s until ctx ends, and so finds out whether the service is there.
func (s *service) follow(ctx context.Context, use func([]json.RawMessage) error) {
	for {
		if s.unavailable.Load() {
			// The other connections may be as dead, as after a failover. Each would cost a timeout, and one of HTTP/2 would stay
			// in use for a quarter of an hour.
			s.http.CloseIdleConnections()
		}
		var set struct{ Keys []json.RawMessage }
		_, err := s.send(ctx, http.MethodGet, jwksPath, nil, "", &set)
		if err == nil {
			err = use(set.Keys)
		}
		wait, look := time.After(followEvery), s.look
		if err != nil {
			s.lost(ctx, err)
			wait, look = time.After(lookAgainEvery), nil
		} else if s.unavailable.Swap(false) {
			s.log.Info("guest-sessions is available again")
		}
		select {
		case <-ctx.Done():
			return
		case <-look:
		case <-wait:
		}
	}
}
