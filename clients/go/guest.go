package guestsessions

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxMergedTokens = 32 // the service refuses more
	maxAsked        = 3  // tokens that the service is asked about: a request with hundreds makes no hundred calls
)

// Guest is the guest of one request; ID is "" where there is none. Like the request's http.ResponseWriter, it is not
// for use by several goroutines at once.
type Guest[P any] struct {
	ID      string // the token's subject
	Version int    // of the payload: 1 at first, one more with each change
	Payload P
	IsNew   bool // made during this request

	sessions *Sessions[P]
	response *response

	token    string  // by which the guest is changed
	issuedAt int64   // Unix seconds, of the token
	others   []token // further tokens of the request, those whose key is not known included
	unread   string  // why it could not be read, as a code; "" where it could

	crossSite  bool   // a request from another site, which comes without Lax cookies
	bearer     bool   // the visitor gets new tokens in a header of the response
	cookieName string // under which the token came
	asked      int    // tokens that the service was asked about
	hasTwin    bool   // the request has several cookies of that name
}

// Option is an option of a change or a hand-over.
type Option func(*options)

type options struct {
	body   map[string]any
	expect string
	tokens []string
}

// With adds any further member to the request to the service, such as With("renew", false) to a merge.
func With(member string, value any) Option {
	return func(o *options) { o.body[member] = value }
}

// Policy names the merge policy, or is one.
func Policy(policy any) Option { return With("policy", policy) }

// IfCurrent makes a change fail with [CodeStaleToken] where another tab has changed the guest in the meantime. Without
// it, the change is merged with the other.
func IfCurrent() Option { return With("if_current", true) }

// Expect is for [HandOver]: the ID of the guest when the login began. Where the request's guest is another one, nothing
// is merged. Of the request's tokens, only that guest's are handed over. "" expects nothing in particular; for a login
// that began without a guest, expect a name that no guest has.
func Expect(id string) Option {
	return func(o *options) { o.expect = id }
}

// Tokens is for [HandOver]: guest tokens to be handed over beside the request's own, as of a login that began on
// another device.
func Tokens(tokens ...string) Option {
	return func(o *options) { o.tokens = append(o.tokens, tokens...) }
}

func applied(list []Option) *options {
	o := &options{body: map[string]any{}}
	for _, each := range list {
		each(o)
	}
	return o
}

// Patch changes the payload by a JSON Merge Patch (RFC 7396). Like Apply and Replace, it makes a guest where there is
// none yet. The error is an [*Error].
//
// A change is never repeated by this package, since it may have been made although its response was lost.
func (g *Guest[P]) Patch(ctx context.Context, mergePatch any, opts ...Option) error {
	return g.change(ctx, "merge_patch", mergePatch, opts)
}

// Apply changes the payload by a JSON Patch (RFC 6902), a list of operations.
func (g *Guest[P]) Apply(ctx context.Context, jsonPatch any, opts ...Option) error {
	return g.change(ctx, "json_patch", jsonPatch, opts)
}

// Replace puts another payload in the place of the guest's.
func (g *Guest[P]) Replace(ctx context.Context, payload P, opts ...Option) error {
	return g.change(ctx, "payload", payload, opts)
}

// Token returns the guest's token, to be kept like a password: for [Tokens] of a login that ends on another device.
func (g *Guest[P]) Token() string { return g.token }

// Forget deletes the visitor's cookie, as at log-out on a shared computer. It does not call the service, and fails only
// with [CodeResponseStarted]. A guest that was sent as a Bearer token is the application's to forget.
func (g *Guest[P]) Forget() error {
	if g.response.sent {
		return &Error{Code: CodeResponseStarted, Message: "forget the guest before the response is written"}
	}
	g.drop()
	g.response.bearer, g.response.cookies = "", nil
	if !g.bearer {
		for _, name := range g.sessions.config.CookieNames {
			g.response.deletions = append(g.response.deletions, g.sessions.deletions(name)...)
		}
	}
	return nil
}

// deletions returns the Set-Cookie lines that delete a cookie: that of the domain, and a host-only one beside it.
func (s *Sessions[P]) deletions(name string) []string {
	cookie := http.Cookie{
		Name: name, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		// Browsers ignore the prefixes' cookies without it.
		Secure:      s.secure || strings.HasPrefix(name, "__Host-") || strings.HasPrefix(name, "__Secure-"),
		Partitioned: s.config.Partitioned,
	}
	if s.config.Partitioned {
		cookie.SameSite = http.SameSiteNoneMode
	}
	lines := []string{cookie.String()}
	if cookie.Domain = s.config.CookieDomain; cookie.Domain != "" && !strings.HasPrefix(name, "__Host-") {
		lines = append(lines, cookie.String())
	}
	return lines
}

func (g *Guest[P]) drop() {
	var none P
	g.ID, g.Version, g.Payload, g.IsNew = "", 0, none, false
	g.token, g.issuedAt, g.others, g.unread = "", 0, nil, ""
}

// show makes the token the guest's. A payload that does not fit P stays in the token and is not overwritten.
func (g *Guest[P]) show(raw string, c *claims) {
	var payload P
	g.token, g.issuedAt, g.ID, g.Version = raw, c.IssuedAt, c.Subject, c.Version
	if err := json.Unmarshal(c.Payload, &payload); err != nil {
		var none P
		g.Payload, g.unread = none, CodeInvalidPayload
		g.sessions.config.Logger.Warn("a guest's payload does not fit its type", "error", err)
		return
	}
	g.Payload, g.unread = payload, ""
}

// readTokens makes the guest that of these values, and reports whether there may be a good token among them.
func (g *Guest[P]) readTokens(ctx context.Context, values []string) bool {
	verifier, now := g.sessions.keys.Load(), time.Now()
	var good, unknown []token
	for _, value := range distinct(values) {
		if each, err := verifier.read(value, now); err == nil && each.claims != nil {
			good = append(good, each)
		} else if err == nil {
			unknown = append(unknown, each)
		}
	}
	for len(good) == 0 && len(unknown) > 0 && g.asked < maxAsked {
		g.asked++
		known, err := g.ask(ctx, verifier, unknown[0].raw)
		switch {
		case err == nil:
			good = append(good, known)
		case err.Code != codeInvalidToken:
			g.token, g.unread, g.others = unknown[0].raw, CodeUnreadableGuest, unknown[1:]
			return true
		}
		unknown = unknown[1:]
	}
	if len(good) == 0 {
		return false
	}
	i := newest(good)
	g.show(good[i].raw, good[i].claims)
	g.others = slices.Concat(good[:i], good[i+1:], unknown)
	return true
}

// distinct drops repetitions; the order stays.
func distinct(values []string) []string {
	var kept []string
	for _, value := range values {
		if !slices.Contains(kept, value) {
			kept = append(kept, value)
		}
	}
	return kept
}

const codeInvalidToken = "invalid_token"

// ask asks the service about a token whose key is not known here.
func (g *Guest[P]) ask(ctx context.Context, verifier *verifier, raw string) (token, *Error) {
	var verdict struct{ Active *bool }
	service := g.sessions.service
	_, err := service.post(ctx, verifyPath, map[string]any{"token": raw}, "", &verdict)
	if err == nil && verdict.Active == nil {
		err = service.lost(ctx, errors.New("a response without a verdict"))
	}
	if err != nil {
		return token{}, g.logged(verifyPath, err)
	}
	if *verdict.Active {
		if signed, err := parseToken(raw); err == nil {
			if known, err := verifier.accept(raw, signed.UnsafePayloadWithoutVerification(), time.Now()); err == nil {
				return known, nil
			}
		}
	}
	return token{}, &Error{Code: codeInvalidToken, Message: "the service refuses the token"}
}

// logged is for failures that nobody else handles.
func (g *Guest[P]) logged(path string, err error) *Error {
	problem := asError(err)
	if problem.Code != CodeUnavailable { // that is logged when it begins
		g.sessions.config.Logger.Warn("guest-sessions refuses "+path, "code", problem.Code, "detail", problem.Message)
	}
	return problem
}

func asError(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return &Error{Code: CodeUnavailable, Message: err.Error(), Err: err}
}

// open is called when a page is opened: it makes a guest where there is none, and has an old token signed again.
func (g *Guest[P]) open(ctx context.Context) {
	config := g.sessions.config
	fresh := g.ID != "" && time.Since(time.Unix(g.issuedAt, 0)) < config.RenewAfter
	if g.bearer || g.unread == CodeUnreadableGuest || fresh && g.cookieName == config.CookieNames[0] {
		return
	}
	if err := g.sign(ctx, "", nil, applied(nil)); err != nil {
		g.logged("a visitor's page", err)
	}
}

func (g *Guest[P]) change(ctx context.Context, member string, value any, opts []Option) error {
	switch {
	case g.response.sent:
		return &Error{Code: CodeResponseStarted, Message: "change the guest before the response is written"}
	case g.unread != "":
		return &Error{Code: g.unread, Message: "the request's guest could not be read, and is not overwritten"}
	case g.token == "" && g.crossSite:
		return &Error{
			Code:    CodeUnreadableGuest,
			Message: "another site's request comes without the cookie of a guest that may be there, and does not overwrite it",
		}
	}
	if err := g.sign(ctx, member, value, applied(opts)); err != nil {
		return err
	}
	return nil
}

// sign has the service sign the guest's payload with the change (none where member is ""), of a new guest where there is
// none, or where the service refuses its token.
func (g *Guest[P]) sign(ctx context.Context, member string, value any, o *options) error {
	before, wrote := *g, *g.response
	if member != "" {
		o.body[member] = value
	}
	if g.token != "" {
		err := g.refresh(ctx, o.body)
		if err == nil || asError(err).Code != codeInvalidToken {
			return err
		}
	}
	first := map[string]any{}
	if member == "payload" {
		first["payload"] = value
	}
	g.drop()
	err := g.call(ctx, issuePath, first)
	g.IsNew = err == nil
	if err == nil && member != "" && member != "payload" {
		err = g.refresh(ctx, o.body) // an issue takes no patch
	}
	if err != nil {
		*g, *g.response = before, wrote
	}
	return err
}

func (g *Guest[P]) refresh(ctx context.Context, body map[string]any) error {
	body["token"] = g.token
	return g.call(ctx, refreshPath, body)
}

// call has the service sign a token, which is the guest's from then on.
func (g *Guest[P]) call(ctx context.Context, path string, body map[string]any) error {
	var answer struct{ Token string }
	body["cookie"] = !g.bearer
	lines, err := g.sessions.service.post(ctx, path, body, g.ID, &answer)
	if err != nil {
		return err
	}
	return g.take(ctx, answer.Token, lines)
}

// take makes the token that the service gave the guest's, and the visitor's.
func (g *Guest[P]) take(ctx context.Context, raw string, lines []string) error {
	c, err := unverifiedClaims(raw)
	if err != nil {
		return g.sessions.service.lost(ctx, errors.New("a response without a guest token"))
	}
	g.show(raw, c)
	if !slices.Contains(g.sessions.config.Issuers, c.Issuer) {
		g.sessions.config.Logger.Warn(
			"guest-sessions issues tokens of another issuer, and no visitor keeps a guest: set Config.Issuers to it",
			"issuer", c.Issuer,
		)
	}
	if g.bearer {
		g.response.bearer = raw
		return nil
	}
	g.response.cookies = g.sessions.ours(lines)
	if len(g.response.cookies) == 0 {
		g.sessions.config.Logger.Warn(
			"guest-sessions sets another cookie than "+g.sessions.config.CookieNames[0]+
				", and no visitor keeps a guest: set Config.CookieNames to its name",
			"names", namesIn(lines),
		)
	}
	return nil
}

// ours drops the cookies of those who stand before the service.
func (s *Sessions[P]) ours(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		return !strings.HasPrefix(line, s.config.CookieNames[0]+"=")
	})
}

func namesIn(lines []string) []string {
	var names []string
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	return names
}

// Merge is the outcome of [HandOver].
type Merge[S any] struct {
	// Session is the one to store: with the guests merged into it, or as it was.
	Session S
	// Merged reports whether any guest was.
	Merged    bool
	Guests    []MergedGuest
	Skipped   []SkippedToken
	Conflicts []Conflict
	// Unexpected reports that the request's guest is not the one of Expect, and so was not merged.
	Unexpected bool
	// Err is why no guest could be merged, an [*Error]; a login goes on all the same.
	Err error
}

// MergedGuest is one that was merged.
type MergedGuest struct {
	Subject  string `json:"subject"`
	Version  int    `json:"version"`
	Weakened bool   `json:"weakened"` // an earlier version of it had been merged before
}

// SkippedToken is one that contributed nothing.
type SkippedToken struct {
	Index   int    `json:"index"` // the request's own tokens come first
	Reason  string `json:"reason"`
	Subject string `json:"subject,omitempty"`
}

// Conflict is a guest's value that was discarded or altered.
type Conflict struct {
	Path    string          `json:"path"` // a JSON Pointer
	Session json.RawMessage `json:"session"`
	Guest   json.RawMessage `json:"guest"`
	Kept    string          `json:"kept"` // "session", "guest" or "bounded"
	Rule    string          `json:"rule"`
	Subject string          `json:"subject"`
}

// HandOver merges the guests of the request into the session of the user who logs in; a new, empty guest takes their
// place. It never stops a login: in any case, store [Merge.Session] before responding.
//
// Read the session, hand over and store in one transaction, else two logins at once lose what one of them merged. S
// must keep the member "merged_guests", by which merging again changes nothing; a struct has a field for it:
//
//	MergedGuests json.RawMessage `json:"merged_guests,omitempty"`
func HandOver[S, P any](ctx context.Context, guest *Guest[P], session S, opts ...Option) Merge[S] {
	g, o, before := guest, applied(opts), session
	if o.expect != "" && g.ID != "" && g.ID != o.expect {
		return Merge[S]{Session: session, Unexpected: true}
	}
	if g.response.sent {
		return Merge[S]{Session: session, Err: &Error{Code: CodeResponseStarted, Message: "hand over before the response is written"}}
	}
	tokens := g.ownTokens(o.expect)
	own := len(tokens) > 0
	tokens = distinct(append(tokens, o.tokens...))
	if len(tokens) == 0 {
		return Merge[S]{Session: session}
	}
	body := map[string]any{"renew": own}
	maps.Copy(body, o.body)
	body["tokens"] = tokens[:min(len(tokens), maxMergedTokens)]
	body["session"] = session
	body["strict"] = false
	// A login from another site does not show the cookie of a guest that may be there, and must not replace it.
	body["cookie"] = own && !g.bearer

	answer, lines, err := g.merge(ctx, body)
	if err == nil {
		session, err = merged[S](answer)
	}
	if err == nil && own && body["dry_run"] != true {
		err = g.next(ctx, answer, lines)
	}
	if err != nil {
		return Merge[S]{Session: before, Err: g.logged(mergePath, err)}
	}
	return Merge[S]{
		Session: session, Merged: answer.Merged, Guests: answer.Guests, Skipped: answer.Skipped, Conflicts: answer.Conflicts,
	}
}

type mergeAnswer struct {
	Payload   json.RawMessage
	Merged    bool
	Guests    []MergedGuest
	Skipped   []SkippedToken
	Conflicts []Conflict
	Next      *struct{ Token string }
}

func (g *Guest[P]) merge(ctx context.Context, body map[string]any) (*mergeAnswer, []string, error) {
	answer := &mergeAnswer{}
	lines, err := g.sessions.service.post(ctx, mergePath, body, g.ID, answer)
	if err == nil && (len(answer.Payload) == 0 || answer.Payload[0] != '{') {
		err = g.sessions.service.lost(ctx, errors.New("a merge without a payload"))
	}
	return answer, lines, err
}

// merged returns the payload of the answer as an S, unless that loses what it was merged from.
func merged[S any](answer *mergeAnswer) (session S, err error) {
	type receipts struct {
		MergedGuests [][]any `json:"merged_guests"`
	}
	var given, kept receipts
	if err = json.Unmarshal(answer.Payload, &session); err == nil {
		var again []byte
		if again, err = json.Marshal(session); err == nil {
			err = errors.Join(json.Unmarshal(answer.Payload, &given), json.Unmarshal(again, &kept))
		}
	}
	if err == nil && len(given.MergedGuests) != len(kept.MergedGuests) {
		err = errors.New(`its type has no member "merged_guests"`)
	}
	if err != nil {
		err = &Error{Code: CodeInvalidSession, Message: "the merged session does not fit its type", Err: err}
	}
	return session, err
}

// ownTokens returns the good tokens of the request, of the expected guest alone where there is one. Those whose key is
// not known here are among them: the service decides.
func (g *Guest[P]) ownTokens(expected string) []string {
	var tokens []string
	if g.token != "" && (expected == "" || g.ID == expected) {
		tokens = append(tokens, g.token)
	}
	for _, each := range g.others {
		if expected == "" || each.claims != nil && each.claims.Subject == expected {
			tokens = append(tokens, each.raw)
		}
	}
	return tokens
}

// next ends the guests that were handed over: with a new one, or with none where the caller asked for no renewal.
func (g *Guest[P]) next(ctx context.Context, answer *mergeAnswer, lines []string) error {
	if answer.Next == nil {
		g.drop()
		g.response.bearer, g.response.cookies = "", g.sessions.ours(lines)
	} else if err := g.take(ctx, answer.Next.Token, lines); err != nil {
		return err
	}
	g.IsNew, g.others = answer.Next != nil, nil
	g.response.deletions = append(g.response.deletions, g.shadows()...)
	return nil
}

// shadows returns the Set-Cookie lines that delete what the service's own cookie does not replace, and what would bring
// the guest back: its cookie under a later name, and a host-only one beside that of a domain, which browsers send first.
func (g *Guest[P]) shadows() []string {
	switch config := g.sessions.config; {
	case g.cookieName == "":
		return nil
	case g.cookieName != config.CookieNames[0]:
		return g.sessions.deletions(g.cookieName)
	case g.hasTwin && config.CookieDomain != "":
		return g.sessions.deletions(g.cookieName)[:1]
	}
	return nil
}
